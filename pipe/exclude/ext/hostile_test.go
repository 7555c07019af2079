package ext_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/ext"
	"github.com/hikae/hikae/pipe/exclude/fsys"
	"github.com/hikae/hikae/pipe/exclude/fsys/fsystest"
)

// golden reads one of the volumes in testdata.
func golden(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", "volumes", name+".img.gz"))
	require.NoError(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	p, err := io.ReadAll(z)
	require.NoError(t, err)
	return p
}

var goldens = []string{"ext2", "plain", "sums", "clusters", "log", "logsums"}

func inMemory(p []byte) pipe.Image { return pipe.FromReaderAt(bytes.NewReader(p), int64(len(p))) }

// maxSteps bounds a walk over a hostile volume: a directory may be its own parent, and any block a directory's.
const maxSteps = 20000

// walkAll opens a volume and touches all that it shows. It returns the file system, or nil where there is none.
func walkAll(ctx context.Context, vol pipe.Image) (fsys.FileSystem, error) {
	f, err := ext.Open(ctx, vol)
	if err != nil {
		return nil, err
	}
	var all error
	note := func(err error) {
		if all == nil && !errors.Is(err, io.EOF) && !errors.Is(err, fs.ErrNotExist) {
			all = err
		}
	}
	if _, err := fsystest.FreeOf(ctx, f, vol.Size()); err != nil {
		note(err)
	}
	todo, seen, buf := []fsys.Node{f.Root()}, map[fsys.Node]bool{}, make([]byte, 64<<10)
	for steps := 0; len(todo) > 0 && steps < maxSteps; {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if steps++; seen[n] {
			continue
		}
		seen[n] = true
		attr, err := f.Stat(ctx, n)
		note(err)
		for e, err := range f.ReadDir(ctx, n) {
			if steps++; err != nil || steps > maxSteps {
				note(ignoreKind(err))
				break
			}
			todo = append(todo, e.Node)
		}
		for _, err := range f.Runs(ctx, n) {
			if steps++; err != nil || steps > maxSteps {
				note(ignoreKind(err))
				break
			}
		}
		for _, off := range []int64{0, 12 << 10, attr.Size - 1, attr.Size / 2} {
			_, err := f.ReadAt(ctx, n, buf, max(0, off))
			note(ignoreKind(err))
		}
		_, err = f.Readlink(ctx, n)
		note(ignoreKind(err))
	}
	return f, all
}

// ignoreKind: not every node is a directory, a file and a link at once.
func ignoreKind(err error) error {
	if errors.Is(err, fs.ErrInvalid) || errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}

func TestGoldens(t *testing.T) {
	t.Parallel()
	for _, name := range goldens {
		f, err := walkAll(t.Context(), inMemory(golden(t, name)))
		require.NoError(t, err, name)
		require.Empty(t, f.Info().Doubt, name)
		require.Equal(t, strings.HasPrefix(name, "log"), f.Info().Replayed > 0, name)
		require.NotEmpty(t, freeOf(t, f), name)
		require.NoError(t, fsystest.CheckFree(t.Context(), f, f.Info().Size))
	}
}

// All of it may be asked at the same time, and left in the middle.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	f, err := ext.Open(t.Context(), inMemory(golden(t, "logsums")))
	require.NoError(t, err)
	want := freeOf(t, f)
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			for r, err := range f.Free(t.Context()) {
				assert.NoError(t, err)
				assert.Equal(t, want[0], r)
				break
			}
			assert.NoError(t, fsystest.CheckFree(t.Context(), f, f.Info().Size))
		})
	}
	wait.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = fsystest.FreeOf(ctx, f, f.Info().Size)
	require.ErrorIs(t, err, context.Canceled)
	_, err = ext.Open(ctx, inMemory(golden(t, "logsums")))
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, want, freeOf(t, f), "a cancelled call is no damage")
}

// find looks up a name in a directory.
func find(t testing.TB, f fsys.FileSystem, dir fsys.Node, name string) fsys.Node {
	t.Helper()
	for e, err := range f.ReadDir(t.Context(), dir) {
		require.NoError(t, err)
		if e.Name == name {
			return e.Node
		}
	}
	t.Fatalf("there is no %q", name)
	return 0
}

// Where there are checksums, one wrong bit in any structure is seen, and nothing is called free from then on.
func TestOneBitIsADoubt(t *testing.T) {
	t.Parallel()
	whole := golden(t, "sums")
	f, err := ext.Open(t.Context(), inMemory(whole))
	require.NoError(t, err)
	root := f.Root()
	places := ext.Places(t.Context(), f, find(t, f, root, "sparse"), find(t, f, root, "wide"), find(t, f, root, "link"))
	require.Len(t, places, 10)
	for name, at := range places {
		p := slices.Clone(whole)
		p[at] ^= 4
		f, err := walkAll(t.Context(), inMemory(p))
		if f == nil {
			require.Error(t, err, name)
			continue
		}
		doubt := f.Info().Doubt
		require.Contains(t, doubt, "checksum", name)
		require.Empty(t, freeOf(t, f), name)
	}
}

// Superblocks that no mke2fs writes.
func TestSuperblocks(t *testing.T) {
	t.Parallel()
	whole := golden(t, "plain")
	put := func(at int, v uint32) []byte {
		p := slices.Clone(whole)
		binary.LittleEndian.PutUint32(p[1024+at:], v)
		return p
	}
	var corrupt *fsys.CorruptError
	for name, p := range map[string][]byte{
		"no blocks": put(0x4, 0), "more blocks than the volume": put(0x4, 1025), "first block": put(0x14, 7),
		"block size": put(0x18, 7), "largest block size": put(0x18, 1<<31), "blocks a group": put(0x20, 0),
		"too many blocks a group": put(0x20, 8193), "inodes a group": put(0x28, 0), "inodes": put(0, 1<<31),
		"inode size": put(0x58, 100), "large inodes": put(0x58, 4096),
	} {
		_, err := ext.Open(t.Context(), inMemory(p))
		require.ErrorAs(t, err, &corrupt, name)
		require.EqualValues(t, 1024, corrupt.Off, name)
	}
	_, err := ext.Open(t.Context(), inMemory(put(0x60, 1<<30)))
	require.ErrorIs(t, err, errors.ErrUnsupported)
	_, err = ext.Open(t.Context(), inMemory(put(0x38, 0)))
	require.ErrorIs(t, err, fsys.ErrOther)
	_, err = ext.Open(t.Context(), inMemory(put(0x60, 8)))
	require.ErrorIs(t, err, fsys.ErrOther, "a log without its file system")
	for _, size := range []int{0, 1, 1024, 2047} {
		_, err = ext.Open(t.Context(), inMemory(whole[:size]))
		require.ErrorIs(t, err, fsys.ErrOther)
	}
	_, err = ext.Open(t.Context(), inMemory(whole[:2048]))
	require.ErrorAs(t, err, &corrupt)

	for name, c := range map[string]struct {
		at   int
		v    uint32
		want string
	}{
		"unknown for writers": {0x64, 1 << 29, "0x20000000"}, "snapshots": {0x64, 0x80, "0x80"}, "lazy_bg": {0x5c, 0x40, "lazy_bg"},
		"errors": {0x3a, 3, "errors"}, "unclean": {0x3a, 0, "unmounted"}, "log elsewhere": {0x5c, 4, "another volume"},
		"a log that is not there": {0x60, 0x46, "that it does not have"},
	} {
		f, err := ext.Open(t.Context(), inMemory(put(c.at, c.v)))
		require.NoError(t, err, name)
		require.Contains(t, f.Info().Doubt, c.want, name)
		require.Empty(t, freeOf(t, f), name)
	}
}

// A group count that only a huge volume has room for costs neither time nor memory before it is refused.
func TestManyGroups(t *testing.T) {
	t.Parallel()
	p := golden(t, "plain")
	super := p[1024:]
	binary.LittleEndian.PutUint32(super[0x4:], 1<<32-1) // 512 Ki groups of 8 MiB
	binary.LittleEndian.PutUint32(super[0x20:], 8192)
	binary.LittleEndian.PutUint32(super[0x28:], 8)
	binary.LittleEndian.PutUint32(super, 8<<19)
	start := time.Now()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f, err := ext.Open(t.Context(), pipe.FromReaderAt(padded(p), 1<<42))
	runtime.ReadMemStats(&after)
	require.NoError(t, err)
	require.Contains(t, f.Info().Doubt, "group descriptor")
	require.Less(t, time.Since(start), 5*time.Second)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(fsys.MaxMemory*3))
}

// padded reads as zero behind its end.
type padded []byte

func (p padded) ReadAt(b []byte, off int64) (int, error) {
	n := 0
	if off < int64(len(p)) {
		n = copy(b, p[off:])
	}
	clear(b[n:])
	return len(b), nil
}

// An extent tree, a block map and a directory that lead back to themselves.
func TestCircles(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"plain", "ext2"} {
		p := golden(t, name)
		f, err := ext.Open(t.Context(), inMemory(p))
		require.NoError(t, err)
		sparse := find(t, f, f.Root(), "sparse")
		at, ok := ext.Places(t.Context(), f, sparse, f.Root(), f.Root())["map of a file"]
		require.True(t, ok)
		block := uint32(at / 1024)
		node := p[block*1024:][:1024]
		if name == "plain" {
			binary.LittleEndian.PutUint16(node[6:], 1) // the leaf says that it is a branch, of itself
			for k := range 30 {
				binary.LittleEndian.PutUint32(node[12+12*k+4:], block)
				binary.LittleEndian.PutUint16(node[12+12*k+8:], 0)
			}
		} else {
			for k := range 256 {
				binary.LittleEndian.PutUint32(node[4*k:], block)
			}
		}
		g, err := walkAll(t.Context(), inMemory(p))
		require.NotNil(t, g, name)
		if name == "plain" {
			require.Error(t, err)
		}
	}
}

// mutate applies changes to one of the volumes: byte 0 says which, then come six bytes each: where (scaled to the parts
// that hold metadata, or anywhere), and what.
func mutate(volumes [][]byte, data []byte) []byte {
	if len(data) == 0 {
		return volumes[0]
	}
	p := slices.Clone(volumes[int(data[0])%len(volumes)])
	for data = data[1:]; len(data) >= 6; data = data[6:] {
		at := int(binary.LittleEndian.Uint32(data))
		if at&1 == 0 {
			at = at / 2 % (128 << 10) // where mke2fs puts nearly all metadata
		} else {
			at = at / 2 % len(p)
		}
		p[at] = data[4]
		if at+1 < len(p) && data[5] != 0xa5 {
			p[at+1] = data[5]
		}
	}
	return p
}

// survive walks a changed volume within bounds of work that do not depend on how busy the machine is.
func survive(t testing.TB, p []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	vol := &fsystest.Counted{Image: inMemory(p)}
	_, err := walkAll(ctx, vol)
	require.NoError(t, ctx.Err())
	_ = err // any error is welcome
	require.Less(t, vol.Bytes.Load(), int64(512<<20))
}

func TestMutations(t *testing.T) {
	t.Parallel()
	var volumes [][]byte
	for _, name := range goldens {
		volumes = append(volumes, golden(t, name))
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range seeds(150, 20000) {
		data := make([]byte, 1+6*(1+rng.IntN(12)))
		for i := range data {
			data[i] = byte(rng.Uint32())
		}
		survive(t, mutate(volumes, data))
	}
}

func FuzzOpen(f *testing.F) {
	var volumes [][]byte
	for _, name := range goldens {
		volumes = append(volumes, golden(f, name))
	}
	for i := range goldens {
		f.Add([]byte{byte(i)})
		f.Add([]byte{byte(i), 0, 16, 0, 0, 255, 255, 0, 9, 0, 0, 7, 7})
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 400 {
			t.Skip()
		}
		survive(t, mutate(volumes, data))
	})
}
