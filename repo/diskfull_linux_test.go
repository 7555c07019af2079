package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/dirstore"
)

// tightDisk is a file system in memory that can be made as small as what is on it.
type tightDisk struct {
	t      *testing.T
	dir    string
	inodes bool // it is inodes that run out, not bytes
}

func newTightDisk(t *testing.T, inodes bool) *tightDisk {
	d := &tightDisk{t: t, dir: t.TempDir(), inodes: inodes}
	if os.Getuid() != 0 {
		t.Skip("mounting a file system needs root")
	}
	if err := syscall.Mount("hikae", d.dir, "tmpfs", 0, d.size(64<<20, 1<<16)); err != nil {
		t.Skipf("tmpfs cannot be mounted here: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(d.dir, syscall.MNT_DETACH)) })
	return d
}

func (d *tightDisk) size(bytes, inodes uint64) string {
	return fmt.Sprintf("size=%d,nr_inodes=%d", bytes, inodes)
}

func (d *tightDisk) resize(bytes, inodes uint64) error {
	return syscall.Mount("hikae", d.dir, "tmpfs", syscall.MS_REMOUNT, d.size(bytes, inodes))
}

// roomy makes room.
func (d *tightDisk) roomy() { require.NoError(d.t, d.resize(64<<20, 1<<16)) }

// tighten takes all room away that is left. What is being written meanwhile may take some more.
func (d *tightDisk) tighten() error {
	var err error
	for range 100 {
		var st syscall.Statfs_t
		if err = syscall.Statfs(d.dir, &st); err != nil {
			return err
		}
		bytes, inodes := uint64(64<<20), uint64(1<<16)
		if d.inodes {
			inodes = st.Files - st.Ffree
		} else {
			bytes = (st.Blocks - st.Bfree) * uint64(st.Bsize)
		}
		if err = d.resize(bytes, inodes); err == nil {
			return nil
		}
	}
	return err
}

// fullFrom is a store on whose disk no room is left from its n-th Create on.
type fullFrom struct {
	store.Store
	disk *tightDisk

	mu sync.Mutex
	n  int
}

func (f *fullFrom) Unwrap() store.Store { return f.Store }

func (f *fullFrom) Create(ctx context.Context, name string, data []byte) error {
	if err := f.count(); err != nil {
		return err
	}
	return f.Store.Create(ctx, name, data)
}

func (f *fullFrom) count() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n--; f.n == 0 {
		return f.disk.tighten()
	}
	return nil
}

// fullDisk is one stage: a repository on a disk that is full from a certain moment on.
type fullDisk struct {
	t      *testing.T
	disk   *tightDisk
	state  string // the client's: it need not enrol a key each time
	points told
	order  []string
	origin string
	stage  int
}

func (f *fullDisk) open(from int, readOnly bool) (*Repository, *fullFrom, error) {
	st, err := dirstore.Open(f.disk.dir)
	if err != nil {
		return nil, nil, err
	}
	full := &fullFrom{Store: st, disk: f.disk, n: from}
	r, err := Open(f.t.Context(), full, innerKey, &OpenOptions{StateDir: f.state, ReadOnly: readOnly})
	if err != nil {
		return nil, full, errors.Join(err, st.Close())
	}
	return r, full, nil
}

// on runs something on the repository as one process would.
func (f *fullDisk) on(from int, do func(r *Repository) error) (left int, err error) {
	return f.as(from, false, do)
}

func (f *fullDisk) as(from int, readOnly bool, do func(r *Repository) error) (left int, err error) {
	r, full, err := f.open(from, readOnly)
	if err == nil {
		err = errors.Join(do(r), r.Close(), full.Close())
	}
	if full == nil {
		return from, err
	}
	full.mu.Lock()
	defer full.mu.Unlock()
	return full.n, err
}

func (f *fullDisk) must(do func(r *Repository) error) {
	f.t.Helper()
	_, err := f.on(0, do)
	require.NoError(f.t, err, "stage %d", f.stage)
}

// whole checks that what was reported is there, and all else as it should be. While the disk is full a copy may be missing of a
// record that nobody was told of.
func (f *fullDisk) whole(full bool) {
	f.t.Helper()
	_, err := f.as(0, full, func(r *Repository) error { // whoever reads would use up what little room there is for records
		for id, blocks := range f.points {
			if len(blocks) == 1 { // one of many that only have caches: the check reads it
				continue
			}
			if err := sameDisk(f.t.Context(), r, id, noiseDisk(blocks...)); err != nil {
				return err
			}
		}
		rep, err := r.Verify(f.t.Context(), &VerifyOptions{DataPercent: 100})
		for _, d := range rep.Damaged {
			if !full || !d.Mendable || d.Reason != "missing" {
				err = errors.Join(err, fmt.Errorf("%+v", d))
			}
		}
		if len(rep.Affected) > 0 {
			err = errors.Join(err, fmt.Errorf("%+v", rep.Affected))
		}
		return err
	})
	require.NoError(f.t, err, "stage %d", f.stage)
}

func (f *fullDisk) shrink(r *Repository) error {
	gone := f.order[0]
	delete(f.points, gone)
	err := r.Forget(f.t.Context(), []string{gone}, "")
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		_, err = r.Prune(f.t.Context(), &PruneOptions{Wait: -1, MaxUnused: 1})
	}
	return err
}

// unfinished are the files that have no name of an object.
func (f *fullDisk) unfinished() (names []string) {
	err := filepath.WalkDir(filepath.Join(f.disk.dir, ".tmp"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			names = append(names, path)
		}
		return err
	})
	if !errors.Is(err, fs.ErrNotExist) {
		require.NoError(f.t, err)
	}
	return names
}

// fullPoints are points more: what makes room on a full disk are their caches. Without them there is none to be made: each record
// takes three files of 12 KiB, and the first things that go come after four records.
func fullPoints() uint64 { return figureOf[uint64](20, 40, 40) }

// begin makes points on a disk, of which the oldest one shares half with the next, and keeps a copy of it all.
func beginFullDisk(t *testing.T, disk *tightDisk) *fullDisk {
	f := &fullDisk{t: t, disk: disk, state: t.TempDir(), points: told{}}
	st, err := dirstore.Open(disk.dir)
	require.NoError(t, err)
	h, slot, err := newRepository(innerKey, &InitOptions{BlockSize: minBlockSize})
	require.NoError(t, err)
	h.PackSize = 4 * minBlockSize
	require.NoError(t, create(t.Context(), st, innerKey, h, slot))
	require.NoError(t, st.Close())
	story := newPruneStory()
	f.must(func(r *Repository) error {
		contents := [][]uint64{story.first[:12], story.second[:12]}
		for n := range fullPoints() {
			contents = append(contents, []uint64{300 + n})
		}
		for _, blocks := range contents {
			id, err := keepPoint(t.Context(), r, "vm", noiseDisk(blocks...), "")
			if err != nil {
				return err
			}
			f.points[id], f.order = blocks, append(f.order, id)
		}
		return nil
	})
	f.origin = t.TempDir()
	require.NoError(t, os.CopyFS(f.origin, os.DirFS(disk.dir)))
	return f
}

// at is the same for a stage: the disk as it was at the beginning.
func (f *fullDisk) at(stage int) *fullDisk {
	out := *f
	out.stage, out.points = stage, maps.Clone(f.points)
	f.disk.roomy()
	old, err := os.ReadDir(f.disk.dir)
	require.NoError(f.t, err)
	for _, e := range old {
		require.NoError(f.t, os.RemoveAll(filepath.Join(f.disk.dir, e.Name())))
	}
	require.NoError(f.t, os.CopyFS(f.disk.dir, os.DirFS(f.origin)))
	state := f.t.TempDir()
	require.NoError(f.t, os.CopyFS(state, os.DirFS(f.state)))
	out.state = state
	return &out
}

// RELIABILITY bar 6: the disk is full, of bytes or of inodes, from each Create on of a backup, or of a forgetting and a prune. A backup
// stops with a typed error and leaves no unfinished file, what was there is whole, a prune works with nothing free, and makes room
// for the next backup.
func TestFullDiskAtEveryStage(t *testing.T) {
	for _, kind := range []string{"bytes", "inodes"} {
		t.Run(kind, func(t *testing.T) {
			if tierOf() == "" && kind == "inodes" {
				t.Skip("in the long tiers")
			}
			disk := newTightDisk(t, kind == "inodes")
			began, stages := time.Now(), 0
			f := beginFullDisk(t, disk)
			step := figureOf(40, 2, 1)
			for stage := 1 + rand.IntN(step); ; stage += step {
				stages++
				if !f.at(stage).backup() {
					break
				}
			}
			for stage := 1 + rand.IntN(step); ; stage += step {
				stages++
				if !f.at(stage).prune() {
					break
				}
			}
			t.Logf("%d stages in %v", stages, time.Since(began).Round(time.Second))
			require.Greater(t, (stages+2)*step, 50)
		})
	}
}

// backup meets the full disk at the stage, and reports whether it did.
func (f *fullDisk) backup() (hit bool) {
	blocks, id := seq(1000, 1024), ""
	left, err := f.on(f.stage, func(r *Repository) (err error) {
		id, err = keepPoint(f.t.Context(), r, "vm", noiseDisk(blocks...), "")
		return err
	})
	if err != nil {
		require.ErrorIs(f.t, err, syscall.ENOSPC, "stage %d", f.stage)
	} else {
		f.points[id] = blocks
	}
	require.Empty(f.t, f.unfinished(), "stage %d", f.stage)
	f.whole(true)
	if left > 0 {
		require.NoError(f.t, err)
		return false
	}
	require.NoError(f.t, f.disk.tighten())
	f.must(f.shrink)
	f.whole(true)
	f.disk.roomy()
	f.next()
	return true
}

// prune forgets and prunes on a disk that is full from the stage on, and reports whether it was.
func (f *fullDisk) prune() (hit bool) {
	left, err := f.on(f.stage, f.shrink)
	require.NoError(f.t, err, "stage %d: a prune works with nothing free", f.stage)
	require.Empty(f.t, f.unfinished(), "stage %d", f.stage)
	f.whole(true)
	f.disk.roomy()
	f.next()
	return left <= 0
}

// next is the backup after it.
func (f *fullDisk) next() {
	f.t.Helper()
	f.must(func(r *Repository) error {
		blocks := seq(2000, 2010)
		id, err := keepPoint(f.t.Context(), r, "vm", noiseDisk(blocks...), f.order[1])
		f.points[id] = blocks
		return err
	})
	f.whole(false)
}
