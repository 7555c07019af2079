package diskfile_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
	"github.com/hikae/hikae/pipe/pipetest"
)

// TestCreateRandom: whatever is written and marked over each other, the file holds it.
func TestCreateRandom(t *testing.T) {
	count := 30
	if longTier() {
		count = 2000
	}
	for seed := range count {
		rng := rand.New(rand.NewPCG(uint64(seed), 3))
		path := filepath.Join(t.TempDir(), "disk.raw")
		want := make([]byte, rng.Int64N(1<<(1+rng.IntN(22))))
		target, err := diskfile.Create(path, int64(len(want)), nil)
		require.NoError(t, err)
		defer target.Close()
		writeRandom(t, rng, target, want)
		require.NoError(t, target.Commit(t.Context()))
		got, err := os.ReadFile(path)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got), "seed %d", seed)
	}
}

// TestTarget is the suite for all targets.
func TestTarget(t *testing.T) {
	pipetest.TestTarget(t, func(t testing.TB, size int64) (pipe.Target, func() pipe.Image) {
		path := filepath.Join(t.TempDir(), "disk.raw")
		target, err := diskfile.Create(path, size, nil)
		require.NoError(t, err)
		return target, func() pipe.Image {
			img, err := diskfile.Open(path, nil)
			require.NoError(t, err)
			return img
		}
	})
}

// TestCreateHoles: zero pages within data take no space, also when they were something else before (R016).
func TestCreateHoles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.raw")
	want := make([]byte, 4<<20)
	target, err := diskfile.Create(path, int64(len(want)), nil)
	require.NoError(t, err)
	defer target.Close()
	for page := 0; page < len(want); page += 4096 {
		want[page+page>>12%4096] = byte(page >> 12 * 37 >> 3 & 1)
	}
	_, err = target.WriteAt(t.Context(), bytes.Repeat([]byte("x"), 1<<20), 1<<20) // to be written over
	require.NoError(t, err)
	for off := 0; off < len(want); off += 1 << 18 {
		_, err = target.WriteAt(t.Context(), want[off:off+1<<18], int64(off))
		require.NoError(t, err)
	}
	require.NoError(t, target.Commit(t.Context()))
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
	checkHoles(t, path, want)
}

func writeRandom(t *testing.T, rng *rand.Rand, target pipe.ExtentTarget, want []byte) {
	for range rng.IntN(50) {
		if len(want) == 0 {
			return
		}
		off := rng.Int64N(int64(len(want)))
		n := min(rng.Int64N(1<<rng.IntN(20)), int64(len(want))-off)
		switch rng.IntN(4) {
		case 0:
			require.NoError(t, target.Mark(t.Context(), pipe.Extent{Off: off, Len: n, Kind: pipe.Free}))
			clear(want[off : off+n])
			continue
		case 1:
			clear(want[off : off+n])
		case 2:
			for i := range n {
				want[off+i] = byte((off+i)>>13&1) * byte(i|1)
			}
		default:
			for i := range n {
				want[off+i] = byte(rng.Uint32())
			}
		}
		done, err := target.WriteAt(t.Context(), want[off:off+n], off)
		require.NoError(t, err)
		require.Equal(t, int(n), done)
	}
}

// checkHoles: every page that is zero takes no space, on file systems whose holes are pages.
func checkHoles(t *testing.T, path string, want []byte) {
	if runtime.GOOS != "linux" {
		return
	}
	img, err := diskfile.Open(path, nil)
	require.NoError(t, err)
	defer img.Close()
	for _, e := range extents(t, img, 0, img.Size()) {
		for off := (e.Off + 4095) &^ 4095; e.Kind == pipe.Data && off+4096 <= e.End(); off += 4096 {
			require.False(t, diskfile.IsZero(want[off:off+4096]), "zeros at %d take space", off)
		}
	}
}

// TestCreateWhole: the file appears at Commit or not at all.
func TestCreateWhole(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "disk.raw")
	target, err := diskfile.Create(path, 1<<20, nil)
	require.NoError(t, err)
	_, err = target.WriteAt(t.Context(), []byte("hello"), 100)
	require.NoError(t, err)
	require.NoFileExists(t, path)
	require.NoError(t, target.Close())
	require.NoError(t, target.Close())
	require.ErrorIs(t, target.Commit(t.Context()), fs.ErrClosed)
	requireFolder(t, dir)

	target, err = diskfile.Create(path, 1<<20, nil)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, target.Commit(ctx), context.Canceled)
	requireFolder(t, dir)
}

func requireFolder(t *testing.T, dir string, names ...string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	var got []string
	for _, e := range list {
		got = append(got, e.Name())
	}
	require.Equal(t, names, got)
}

// TestCreateReplacesNothing: neither at the start, nor when somebody takes the name meanwhile.
func TestCreateReplacesNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "disk.raw")
	target, err := diskfile.Create(path, 1<<20, nil)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, []byte("mine"), 0o600))
	require.ErrorIs(t, target.Commit(t.Context()), fs.ErrExist)
	requireFolder(t, dir, "disk.raw")
	_, err = diskfile.Create(path, 1<<20, nil)
	require.ErrorIs(t, err, fs.ErrExist)
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "mine", string(got))
}

// TestCreateSweeps: what a killed writer left goes when the same file is made again; what a living one writes stays.
func TestCreateSweeps(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has locks that end with their process")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "disk.raw")
	foreign := []string{".disk.raw.SHORT.tmp", ".disk.raw.tmp", ".other.raw.ABCDEFGHIJ.tmp"}
	for _, name := range append(foreign, ".disk.raw.ABCDEFGHIJ.tmp") {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	alive, err := diskfile.Create(path, 100, nil)
	require.NoError(t, err)
	defer alive.Close()
	require.NoFileExists(t, filepath.Join(dir, ".disk.raw.ABCDEFGHIJ.tmp"))
	second, err := diskfile.Create(path, 100, nil)
	require.NoError(t, err)
	require.NoError(t, second.Close())
	require.NoError(t, alive.Commit(t.Context()))
	requireFolder(t, dir, append(foreign, "disk.raw")...)
}

// TestCreateLongName: a name as long as the system allows still has a temporary one.
func TestCreateLongName(t *testing.T) {
	path := filepath.Join(t.TempDir(), strings.Repeat("n", 251)+".raw")
	target, err := diskfile.Create(path, 100, nil)
	require.NoError(t, err)
	require.NoError(t, target.Commit(t.Context()))
	require.FileExists(t, path)
}

func TestCreateOverwrites(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "disk.raw")
	require.NoError(t, os.WriteFile(path, []byte("old"), 0o600))
	target, err := diskfile.Create(path, 3, &diskfile.CreateOptions{Overwrite: true})
	require.NoError(t, err)
	_, err = target.WriteAt(t.Context(), []byte("new"), 0)
	require.NoError(t, err)
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "old", string(got), "replaced before Commit")
	require.NoError(t, target.Commit(t.Context()))
	got, err = os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "new", string(got))
	requireFolder(t, dir, "disk.raw")
}

// TestCreateFollowsNoLink: a symbolic link at the name, or one that is put there meanwhile, leads nowhere.
func TestCreateFollowsNoLink(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("symbolic links need a privilege there")
	}
	for _, overwrite := range []bool{false, true} {
		dir := t.TempDir()
		path, victim := filepath.Join(dir, "disk.raw"), filepath.Join(t.TempDir(), "victim")
		require.NoError(t, os.WriteFile(victim, []byte("precious"), 0o600))
		target, err := diskfile.Create(path, 1<<20, &diskfile.CreateOptions{Overwrite: overwrite})
		require.NoError(t, err)
		require.NoError(t, os.Symlink(victim, path))
		want := fs.ErrExist
		if overwrite {
			want = diskfile.ErrNotDisk
		}
		require.ErrorIs(t, target.Commit(t.Context()), want)
		_, err = diskfile.Create(path, 1<<20, &diskfile.CreateOptions{Overwrite: overwrite})
		require.ErrorIs(t, err, want)
		got, err := os.ReadFile(victim)
		require.NoError(t, err)
		require.Equal(t, "precious", string(got))
		requireFolder(t, dir, "disk.raw")
	}
}

func TestCreateRefuses(t *testing.T) {
	dir := t.TempDir()
	_, err := diskfile.Create(dir, 1, &diskfile.CreateOptions{Overwrite: true})
	require.Error(t, err)
	for _, bad := range []string{"", dir + "/new/"} {
		_, err = diskfile.Create(bad, 1, nil)
		require.ErrorIs(t, err, diskfile.ErrNotDisk)
	}
	_, err = diskfile.Create(filepath.Join(dir, "no", "disk.raw"), 1, nil)
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = diskfile.Create(filepath.Join(dir, "disk.raw"), -1, nil)
	require.ErrorIs(t, err, fs.ErrInvalid)
	requireFolder(t, dir)

	target, err := diskfile.Create(filepath.Join(dir, "disk.raw"), 100, nil)
	require.NoError(t, err)
	defer target.Close()
	for _, off := range []int64{-1, 91, 1 << 62} {
		_, err = target.WriteAt(t.Context(), make([]byte, 10), off)
		require.ErrorIs(t, err, fs.ErrInvalid, "%d", off)
		require.ErrorIs(t, target.Mark(t.Context(), pipe.Extent{Off: off, Len: 10}), fs.ErrInvalid)
	}
	for kind, want := range map[pipe.Kind]error{pipe.Data: fs.ErrInvalid, pipe.Unchanged: diskfile.ErrNoBase, 99: fs.ErrInvalid} {
		require.ErrorIs(t, target.Mark(t.Context(), pipe.Extent{Len: 1, Kind: kind}), want, "%v", kind)
	}
}

// TestOpenTarget: what is not written stays, a mark really makes zeros.
func TestOpenTarget(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.raw")
	old := bytes.Repeat([]byte("old!"), 64<<10)
	require.NoError(t, os.WriteFile(path, old, 0o600))
	for seed := range 10 {
		want := bytes.Clone(old)
		require.NoError(t, os.WriteFile(path, old, 0o600))
		target, err := diskfile.OpenTarget(path, nil)
		require.NoError(t, err)
		require.Equal(t, int64(len(old)), target.Size())
		require.NoError(t, target.Mark(t.Context(), pipe.Extent{Len: target.Size(), Kind: pipe.Unchanged}))
		writeRandom(t, rand.New(rand.NewPCG(uint64(seed), 5)), target, want)
		require.NoError(t, target.Commit(t.Context()))
		require.NoError(t, target.Close())
		got, err := os.ReadFile(path)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got), "seed %d", seed)
	}
	_, err := diskfile.OpenTarget(path+".no", nil)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func ExampleCreate() {
	dir, _ := os.MkdirTemp("", "example")
	defer os.RemoveAll(dir)
	ctx := context.Background()

	target, err := diskfile.Create(filepath.Join(dir, "disk.raw"), 1<<30, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer target.Close() // abandons, unless Commit came first
	if _, err := target.WriteAt(ctx, []byte("boot sector"), 0); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(target.Commit(ctx))
	// Output: <nil>
}
