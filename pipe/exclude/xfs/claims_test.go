package xfs_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/fsys"
	"github.com/hikae/hikae/pipe/exclude/fsys/fsystest"
	"github.com/hikae/hikae/pipe/exclude/xfs"
)

// requireClaimed opens a volume whose trees give away the block at byte off, which inode ino has: nothing is free, and the
// doubt names both.
func requireClaimed(t *testing.T, img []byte, ino uint64, off int64) {
	t.Helper()
	for _, small := range []bool{false, true} {
		f, err := xfs.Open(t.Context(), volume(img))
		require.NoError(t, err)
		require.Empty(t, f.Info().Doubt, "nothing but the file can tell")
		if small {
			xfs.SmallWindows(f)
		}
		require.ErrorAs(t, onlyError(t, f.Free(t.Context())), new(*fsys.CorruptError))
		doubt := f.Info().Doubt
		assert.Contains(t, doubt, fmt.Sprintf("inode %d at byte", ino))
		assert.Contains(t, doubt, fmt.Sprintf("(byte %d)", off))
		for r, err := range f.Free(t.Context()) {
			t.Fatal("a doubtful volume has something free", r, err)
		}
	}
}

// onlyError is the error of a sequence that has nothing else.
func onlyError(t *testing.T, free iter.Seq2[fsys.Range, error]) (err error) {
	t.Helper()
	var r fsys.Range
	for r, err = range free {
		require.Error(t, err, "%+v is called free", r)
	}
	return err
}

// TestClaimed gives away the first and the last block of a file in many pieces (R016: what is in use is never dropped).
func TestClaimed(t *testing.T) {
	for _, name := range []string{"clean", "v4"} {
		t.Run(name, func(t *testing.T) {
			f, err := xfs.Open(t.Context(), volume(load(t, name)))
			require.NoError(t, err)
			file := map[string]string{"clean": "pieces", "v4": "file39"}[name]
			node := find(t, f, file)
			var runs []fsys.Run
			for r, err := range f.Runs(t.Context(), node) {
				require.NoError(t, err)
				if r.Vol >= 0 {
					runs = append(runs, r)
				}
			}
			last := runs[len(runs)-1]
			for _, off := range []int64{runs[0].Vol, last.Vol + last.Len - f.Info().BlockSize} {
				img := slices.Clone(load(t, name))
				require.NoError(t, xfs.CallFree(t.Context(), img, off))
				requireClaimed(t, img, uint64(node), off)
			}
		})
	}
}

// TestClaimedFreeInode: an inode with a file in it that its tree calls free is what xfs_repair would bring back.
func TestClaimedFreeInode(t *testing.T) {
	img := slices.Clone(load(t, "clean"))
	ino, err := xfs.WakeInode(t.Context(), img)
	require.NoError(t, err)
	require.NotZero(t, ino)
	f, err := xfs.Open(t.Context(), volume(img))
	require.NoError(t, err)
	require.Empty(t, f.Info().Doubt)
	require.ErrorAs(t, onlyError(t, f.Free(t.Context())), new(*fsys.CorruptError))
	assert.Contains(t, f.Info().Doubt, fmt.Sprintf("inode %d at byte", ino))
}

// TestClaimedKinds gives away a block of each kind that an inode can have; xfs_db says which there are and whose.
func TestClaimedKinds(t *testing.T) {
	for _, args := range [][]string{
		{"-d", "size=80m", "-d", "agcount=2", "-m", "reflink=0,rmapbt=0"},
		{"-d", "size=80m", "-b", "size=1k", "-i", "nrext64=1", "-m", "reflink=1,rmapbt=0"},
	} {
		path := mkfs(t, args...)
		m := fsystest.Mount(t, "xfs", path)
		require.NoError(t, extremes(m.Dir))
		require.NoError(t, attributes(filepath.Join(m.Dir, "pieces")))
		require.NoError(t, m.Unmount())
		sound, err := os.ReadFile(path)
		require.NoError(t, err)
		f, err := xfs.Open(t.Context(), volume(sound))
		require.NoError(t, err)
		xfs.SmallWindows(f)
		list, err := fsystest.FreeOf(t.Context(), f, int64(len(sound)))
		require.NoError(t, err)
		require.Equal(t, toolFree(t, path, f), list)

		kinds := blockKinds(t, path, f.Info())
		pieces := uint64(find(t, f, "pieces"))
		kinds["tree"] = claimed{treeBlock(t, path, pieces), pieces}
		for _, kind := range []string{"data", "dir", "attr", "tree", "symlink"} {
			require.Contains(t, kinds, kind)
		}
		for kind, at := range kinds {
			t.Run(kind, func(t *testing.T) {
				img := slices.Clone(sound)
				require.NoError(t, xfs.CallFree(t.Context(), img, at.off))
				requireClaimed(t, img, at.ino, at.off)
			})
		}
	}
}

// attributes gives a file more than its inode holds.
func attributes(path string) (err error) {
	for i := range 40 {
		err = errors.Join(err, setAttribute(path, fmt.Sprint("user.long", i), []byte(strings.Repeat("value", 500))))
	}
	return err
}

type claimed struct {
	off int64
	ino uint64
}

// blockKinds is the last block of each kind that belongs to an inode, as xfs_db finds them.
func blockKinds(t *testing.T, path string, i fsys.Info) map[string]claimed {
	var perGroup int64
	out := fsystest.Tool(t, nil, "xfs_db", "-r", "-c", "sb 0", "-c", "p agblocks", path)
	_, err := fmt.Sscanf(out, "agblocks = %d", &perGroup)
	require.NoError(t, err)
	args := []string{"-r", "-c", "blockget"}
	for first := int64(0); first < i.Size/i.BlockSize; first += perGroup {
		args = append(args, "-c", fmt.Sprint("daddr ", first*i.BlockSize/512), "-c",
			fmt.Sprint("blockuse -c ", min(perGroup, i.Size/i.BlockSize-first)))
	}
	out = fsystest.Tool(t, nil, "xfs_db", append(args, path)...)
	kinds := map[string]claimed{}
	for _, line := range strings.Split(out, "\n") {
		var fs, ag, block int64
		var kind string
		var ino uint64
		if n, _ := fmt.Sscanf(line, "block %d (%d/%d) type %s inode %d", &fs, &ag, &block, &kind, &ino); n == 5 {
			kinds[kind] = claimed{(ag*perGroup + block) * i.BlockSize, ino}
		}
	}
	return kinds
}

// treeBlock is the byte of the first block of a file's tree of extents.
func treeBlock(t *testing.T, path string, ino uint64) int64 {
	out := fsystest.Tool(t, nil, "xfs_db", "-r", "-c", fmt.Sprint("inode ", ino), "-c", "addr u3.bmbt.ptrs[1]", "-c", "daddr", path)
	var sector int64
	_, err := fmt.Sscanf(out, "current daddr is %d", &sector)
	require.NoError(t, err, out)
	return sector * 512
}

// TestClaimedWithoutName gives away a block of a file that was unlinked while open: no directory leads to it.
func TestClaimedWithoutName(t *testing.T) {
	l := newLab(t)
	path := l.path()
	mkfsAt(t, path, "-d", "size=40m", "-m", "reflink=0,rmapbt=0")
	m := fsystest.Mount(t, "xfs", path, "nouuid")
	file, err := os.Create(filepath.Join(m.Dir, "gone"))
	require.NoError(t, err)
	defer file.Close()
	_, err = file.Write(make([]byte, 64<<10))
	require.NoError(t, errors.Join(err, file.Sync()))
	fi, err := file.Stat()
	require.NoError(t, err)
	ino := fileNumber(fi)
	require.NoError(t, os.Remove(file.Name()))
	require.NoError(t, m.Freeze())
	snapshot := l.clone(t, path)
	require.NoError(t, errors.Join(m.Thaw(), file.Close(), m.Unmount()))

	img, err := os.ReadFile(snapshot)
	require.NoError(t, err)
	f, _ := free(t, snapshot)
	for r, err := range f.Runs(t.Context(), fsys.Node(ino)) {
		require.NoError(t, err)
		require.Equal(t, fsys.Written, r.Kind)
		require.NoError(t, xfs.CallFree(t.Context(), img, r.Vol))
		requireClaimed(t, img, ino, r.Vol)
		break
	}
}

// TestClaimsAgain: a check that a context ended is made anew, and says nothing about the volume.
func TestClaimsAgain(t *testing.T) {
	f, err := xfs.Open(t.Context(), volume(load(t, "busy")))
	require.NoError(t, err)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, onlyError(t, f.Free(ended)), context.Canceled)
	require.Empty(t, f.Info().Doubt)
	list, err := fsystest.FreeOf(t.Context(), f, f.Info().Size)
	require.NoError(t, err)
	require.NotEmpty(t, list)
}

// fragile panics on every read once it is told to.
type fragile struct {
	pipe.Image
	broken atomic.Bool
}

func (f *fragile) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if f.broken.Load() && len(p) > 4<<10 { // a batch of inodes
		panic("broken")
	}
	return f.Image.ReadAt(ctx, p, off)
}

// TestClaimsPanic: what panics while inodes are read is an error to whoever asked, who could not recover it.
func TestClaimsPanic(t *testing.T) {
	vol := &fragile{Image: volume(load(t, "clean"))}
	f, err := xfs.Open(t.Context(), vol)
	require.NoError(t, err)
	vol.broken.Store(true)
	require.ErrorContains(t, onlyError(t, f.Free(t.Context())), "broken")
}

// TestClaimsShared: a tree that many inodes share would be read for each of them. No sound volume has more blocks of trees
// than blocks.
func TestClaimsShared(t *testing.T) {
	f, err := xfs.Open(t.Context(), volume(load(t, "clean")))
	require.NoError(t, err)
	require.NoError(t, xfs.CheckTrees(t.Context(), f, 100))
	require.ErrorContains(t, xfs.CheckTrees(t.Context(), f, 0), "more blocks of such trees")
}
