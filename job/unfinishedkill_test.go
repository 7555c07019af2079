package job

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/dirstore"
)

// trackedFile is a host whose one disk is a file, and whose tracker is the list of all that was ever written to it: a change id
// is how long that list was. Both outlive the process. Nobody writes while there is a snapshot.
type trackedFile struct{ dir string }

func (f trackedFile) disk() string { return filepath.Join(f.dir, "disk.raw") }

func (f trackedFile) writes() (list [][2]int64, err error) {
	text, err := os.ReadFile(filepath.Join(f.dir, "writes.json"))
	if err != nil {
		return nil, err
	}
	return list, json.Unmarshal(text, &list)
}

func (f trackedFile) write(t *testing.T, p []byte, off int64) {
	t.Helper()
	list, err := f.writes()
	require.NoError(t, err)
	file, err := os.OpenFile(f.disk(), os.O_WRONLY, 0)
	require.NoError(t, err)
	defer file.Close()
	_, err = file.WriteAt(p, off)
	require.NoError(t, err)
	text, err := json.Marshal(append(list, [2]int64{off, int64(len(p))}))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(f.dir, "writes.json"), text, 0o600))
}

func (f trackedFile) vm() (hikae.VM, error) {
	info, err := os.Stat(f.disk())
	if err != nil {
		return hikae.VM{}, err
	}
	return hikae.VM{ID: "vm-1", Name: "web1", Disks: []hikae.Disk{{Key: "d0", Size: info.Size()}}}, nil
}

func (f trackedFile) VMs(context.Context) iter.Seq2[hikae.VM, error] {
	return func(yield func(hikae.VM, error) bool) { yield(f.vm()) }
}

func (f trackedFile) Snapshot(context.Context, string, *hikae.SnapshotOptions) (hikae.Snapshot, error) {
	vm, err := f.vm()
	if err != nil {
		return nil, err
	}
	list, err := f.writes()
	return &fileSnapshot{trackedFile: f, vm: vm, writes: list}, err
}

type fileSnapshot struct {
	trackedFile
	vm     hikae.VM
	writes [][2]int64
}

func (s *fileSnapshot) VM() hikae.VM                   { return s.vm }
func (s *fileSnapshot) Consistency() hikae.Consistency { return hikae.Crash }
func (s *fileSnapshot) KeepEarly()                     {}
func (s *fileSnapshot) Commit(context.Context) error   { return nil }
func (s *fileSnapshot) Release(context.Context) error  { return nil }

func (s *fileSnapshot) OpenDisk(ctx context.Context, _ string) (pipe.Image, error) {
	return diskfile.Open(s.disk(), nil)
}

func (s *fileSnapshot) Changed(_ context.Context, _ string, since hikae.ChangeID) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		from, err := strconv.Atoi(strings.TrimPrefix(string(since), "after-"))
		if err != nil || from > len(s.writes) {
			yield(pipe.Extent{}, hikae.ErrTrackingLost)
			return
		}
		const cell = 64 << 10
		dirty := map[int64]bool{}
		for _, w := range s.writes[from:] {
			for c := w[0] / cell; c*cell < w[0]+w[1]; c++ {
				dirty[c] = true
			}
		}
		size := s.vm.Disks[0].Size
		for off := int64(0); off < size; off += cell {
			e := pipe.Extent{Off: off, Len: min(cell, size-off), Kind: pipe.Unchanged}
			if dirty[off/cell] {
				e.Kind = pipe.Data
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (s *fileSnapshot) Prepare(context.Context) (map[string]hikae.ChangeID, error) {
	return map[string]hikae.ChangeID{"d0": hikae.ChangeID(fmt.Sprintf("after-%d", len(s.writes)))}, nil
}

func (s *fileSnapshot) Early(ctx context.Context) (map[string]hikae.ChangeID, error) {
	return s.Prepare(ctx)
}

const (
	killedDir   = "HIKAE_TEST_KILLED_DIR"
	killedBytes = "HIKAE_TEST_KILLED_BYTES"
)

func openKilled(t *testing.T, dir string) *repo.Repository {
	t.Helper()
	st, err := dirstore.Open(filepath.Join(dir, "repo"))
	require.NoError(t, err)
	t.Cleanup(func() { st.Close() })
	r, err := repo.Open(t.Context(), st, nil, &repo.OpenOptions{StateDir: filepath.Join(dir, "state")})
	require.NoError(t, err)
	t.Cleanup(func() { r.Close() })
	return r
}

// TestKilledChild is what is killed: a session that says on its output what is durable.
func TestKilledChild(t *testing.T) {
	dir := os.Getenv(killedDir)
	if dir == "" {
		t.Skip("it is a part of TestKilledInTheMiddle, in a process of its own")
	}
	every, err := strconv.ParseInt(os.Getenv(killedBytes), 10, 64)
	require.NoError(t, err)
	p := newPace(every)
	_, err = Backup(t.Context(), trackedFile{dir}, "", openKilled(t, dir), &BackupOptions{
		CheckpointBytes: every, Wrap: p.wrap,
		Events: func(e Event) {
			p.note(e)
			if u, ok := e.(Unfinished); ok {
				fmt.Println("unfinished", u.Point)
			}
		},
	})
	require.NoError(t, err)
	fmt.Println("done")
}

// kill runs a session in a process of its own and kills it when it has said so often that something is durable.
func kill(t *testing.T, dir string, every int64, after int) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, self, "-test.run=^TestKilledChild$")
	cmd.Env = append(os.Environ(), killedDir+"="+dir, fmt.Sprintf("%s=%d", killedBytes, every))
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	seen, said := 0, ""
	for lines := bufio.NewScanner(out); lines.Scan(); {
		said += lines.Text() + "\n"
		if strings.HasPrefix(lines.Text(), "unfinished ") {
			if seen++; seen == after {
				require.NoError(t, cmd.Process.Kill())
			}
		}
	}
	require.Error(t, cmd.Wait())
	require.GreaterOrEqual(t, seen, after, said)
	require.NotContains(t, said, "done")
}

// A process is killed in the middle of a copy: the next run reads at most a hundredth of what was durable again.
func TestKilledInTheMiddle(t *testing.T) {
	size, data, every := int64(256<<20), int64(256<<20), int64(16<<20)
	if tier := os.Getenv("HIKAE_TEST_TIER"); tier == "long" || tier == "release" {
		size, data, every = 10<<30, 3<<30, 256<<20
	}
	dir := t.TempDir()
	f := trackedFile{dir}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "writes.json"), []byte("[]"), 0o600))
	fillFile(t, f.disk(), size, data)
	st, err := dirstore.Init(filepath.Join(dir, "repo"))
	require.NoError(t, err)
	r, err := repo.Init(t.Context(), st, nil, &repo.InitOptions{NoEncryption: true}, &repo.OpenOptions{StateDir: filepath.Join(dir, "state")})
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.NoError(t, st.Close())

	const blockSize = 256 << 10
	kill(t, dir, every, 4)
	r = openKilled(t, dir)
	left := (&mortal{t: t, r: r}).left()
	require.Len(t, left, 1)
	first := size - pendingOf(left[0])
	require.GreaterOrEqual(t, first, 3*every, "of four times what a checkpoint comes after")
	f.write(t, []byte("between the first and the second"), 5)
	kill(t, dir, every, 2)

	r = openKilled(t, dir)
	left = (&mortal{t: t, r: r}).left()
	require.Len(t, left, 1)
	pending := pendingOf(left[0])
	durable := size - pending
	require.Greater(t, durable, first)
	f.write(t, []byte("between the second and the third"), durable/2)
	f.write(t, []byte("at the end"), size-10)
	res, err := Backup(t.Context(), f, "", r, nil)
	require.NoError(t, err)
	require.Equal(t, left[0].ID, res.Resumed)
	require.Empty(t, res.Fallbacks)
	again := max(0, res.Disks[0].Read-pending) + res.Disks[0].Sampled
	t.Logf("%d MiB of %d were durable; %d KiB of them were read again, %d of these as a sample", durable>>20, size>>20, again>>10, res.Disks[0].Sampled>>10)
	require.LessOrEqual(t, again, durable/100+2*blockSize)
	requireSameFile(t, r, res.Point, f.disk())
	report, err := r.Verify(t.Context(), &repo.VerifyOptions{DataPercent: 5})
	require.NoError(t, err)
	require.True(t, report.OK, report)
}

// fillFile makes a file with data in its first half and in pieces of the second.
func fillFile(t *testing.T, path string, size, data int64) {
	t.Helper()
	file, err := os.Create(path)
	require.NoError(t, err)
	defer file.Close()
	require.NoError(t, file.Truncate(size))
	src := rand.NewChaCha8([32]byte{7})
	p := make([]byte, 1<<20)
	for n := int64(0); n < data; n += int64(len(p)) {
		_, _ = src.Read(p[:len(p)/4]) // what follows compresses
		_, err := file.WriteAt(p, n/int64(len(p))*(size/(data/int64(len(p)))))
		require.NoError(t, err)
	}
}

func requireSameFile(t *testing.T, r *repo.Repository, point, path string) {
	t.Helper()
	img, err := r.Open(t.Context(), point, "d0")
	require.NoError(t, err)
	defer img.Close()
	want, err := diskfile.Open(path, nil)
	require.NoError(t, err)
	defer want.Close()
	diff, err := pipe.Compare(t.Context(), img, want, nil)
	require.NoError(t, err)
	require.Empty(t, diff)
}
