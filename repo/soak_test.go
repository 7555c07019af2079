package repo

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/dirstore"
)

// held is what a process has of the system.
type held struct {
	heap       uint64 // bytes that are in use after a collection
	goroutines int
	files      int // open; 0: not known here
}

func holds() held {
	runtime.GC()
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	files, _ := os.ReadDir("/proc/self/fd")
	return held{m.HeapInuse, runtime.NumGoroutine(), len(files)}
}

// soak is a repository that lives long: points come and go, and it is pruned, each time by another client.
type soak struct {
	t      *testing.T
	rng    *rand.Rand
	dir    string
	state  string
	now    []uint64 // the disk as it is
	points told
	order  []string
}

// with opens the repository as a process of its own would, and lets go of everything.
func (s *soak) with(do func(ctx context.Context, r *Repository) error) {
	s.t.Helper()
	ctx := s.t.Context()
	st, err := dirstore.Open(s.dir)
	require.NoError(s.t, err)
	r, err := Open(ctx, st, innerKey, &OpenOptions{StateDir: s.state, CacheDir: s.state})
	require.NoError(s.t, err)
	require.NoError(s.t, do(ctx, r))
	require.NoError(s.t, r.Close())
	require.NoError(s.t, st.Close())
}

// cycle is a day: some blocks change, a point is made, the oldest is forgotten, and what it took is freed.
func (s *soak) cycle() {
	s.t.Helper()
	for range 4 {
		s.now[s.rng.IntN(len(s.now))] = s.rng.Uint64()
	}
	blocks := slices.Clone(s.now)
	s.with(func(ctx context.Context, r *Repository) error {
		base := ""
		if len(s.order) > 0 {
			base = s.order[len(s.order)-1]
		}
		id, err := keepPoint(ctx, r, "vm", noiseDisk(blocks...), base)
		s.points[id], s.order = blocks, append(s.order, id)
		return err
	})
	if len(s.order) <= soakKept {
		return
	}
	s.with(func(ctx context.Context, r *Repository) error {
		gone := s.order[0]
		s.order = s.order[1:]
		delete(s.points, gone)
		if err := r.Forget(ctx, []string{gone}, ""); err != nil {
			return err
		}
		_, err := r.Prune(ctx, &PruneOptions{Wait: -1, MaxUnused: 1e-9})
		return err
	})
}

const soakKept = 6

// size is what the objects of some kinds take.
func size(t testing.TB, dir string, prefixes ...string) (total int64) {
	t.Helper()
	st, err := dirstore.Open(dir)
	require.NoError(t, err)
	defer st.Close()
	for _, prefix := range prefixes {
		for info, err := range st.List(t.Context(), prefix) {
			require.NoError(t, err)
			total += info.Size
		}
	}
	return total
}

// model is the size of a repository that was made of nothing but what is there.
func (s *soak) model() int64 {
	s.t.Helper()
	fresh := s.t.TempDir()
	st, err := dirstore.Open(fresh)
	require.NoError(s.t, err)
	defer st.Close()
	soakInit(s.t, st)
	r, err := Open(s.t.Context(), st, innerKey, nil)
	require.NoError(s.t, err)
	for _, id := range s.order {
		_, err := keepPoint(s.t.Context(), r, "vm", noiseDisk(s.points[id]...), "")
		require.NoError(s.t, err)
	}
	require.NoError(s.t, r.Close())
	return size(s.t, fresh, "data/")
}

func soakInit(t testing.TB, st store.Store) {
	t.Helper()
	h, slot, err := newRepository(innerKey, &InitOptions{BlockSize: minBlockSize})
	require.NoError(t, err)
	h.PackSize = 40 * minBlockSize
	require.NoError(t, create(t.Context(), st, innerKey, h, slot))
}

// RELIABILITY bar 27: hundreds of cycles of backup, forgetting and prune leave memory, goroutines, open files and unfinished files as they
// were, and the repository is no larger than one that was made anew of the same points.
func TestSoak(t *testing.T) {
	cycles, seed := figureOf(9, 100, 500), rand.Uint64()
	if n, err := strconv.Atoi(os.Getenv("HIKAE_SOAK_CYCLES")); err == nil {
		cycles = n
	}
	s := &soak{t: t, rng: rand.New(rand.NewPCG(seed, 5)), dir: t.TempDir(), state: t.TempDir(), points: told{}, now: seq(1, 41)}
	st, err := dirstore.Open(s.dir)
	require.NoError(t, err)
	soakInit(t, st)
	require.NoError(t, st.Close())
	warm := soakKept + 1
	for range warm {
		s.cycle()
	}
	before, began := holds(), time.Now()
	for n := range cycles - warm {
		s.cycle()
		if n%50 == 49 {
			t.Logf("seed %d: %d cycles after %v; heap %+d KiB", seed, warm+n+1, time.Since(began).Round(time.Second), (int64(holds().heap)-int64(before.heap))>>10)
		}
	}
	after, took := holds(), time.Since(began)
	s.with(func(ctx context.Context, r *Repository) error {
		for id, blocks := range s.points {
			if err := sameDisk(ctx, r, id, noiseDisk(blocks...)); err != nil {
				return err
			}
		}
		rep := requireSound(t, r)
		require.Zero(t, rep.Reclaimable)
		return nil
	})
	is, should := size(t, s.dir, "data/"), s.model()
	t.Logf("seed %d: %d cycles in %v; heap %+d KiB, goroutines %+d, files %+d; blocks take %d bytes where %d are due", seed, cycles, took.Round(time.Second),
		(int64(after.heap)-int64(before.heap))>>10, after.goroutines-before.goroutines, after.files-before.files, is, should)
	require.LessOrEqual(t, after.goroutines, before.goroutines)
	require.LessOrEqual(t, after.files, before.files)
	require.Less(t, after.heap, before.heap+1<<20)
	require.InEpsilon(t, should, is, 0.01)
	for _, name := range []string{".tmp", "beat"} {
		left, err := filepath.Glob(filepath.Join(s.dir, name, "*", "*"))
		require.NoError(t, err)
		require.Empty(t, left)
	}
	scratch, err := os.ReadDir(s.state)
	require.NoError(t, err)
	require.LessOrEqual(t, len(scratch), 2, "%v", scratch)
	require.False(t, slices.ContainsFunc(scratch, func(e os.DirEntry) bool { return strings.HasSuffix(e.Name(), ".tmp") }))
}
