package dirstore_test

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/dirstore"
	"github.com/hikae/hikae/repo/store/storetest"
)

// poorShare is a folder of another machine as a kernel mounts it, at its worst: it remembers names for a minute, also
// that they are not there; it can have neither hard links nor renames that do not replace; and it tells of a lost
// write only at close.
type poorShare struct {
	links, exclusive bool         // what it can do all the same
	failClose        atomic.Int64 // so many closes of written files fail
	staleReads       atomic.Int64 // so many reads find that the server forgot the handle
	closes           atomic.Int64
}

type poorNode struct {
	fusefs.LoopbackNode
	share *poorShare
}

// WrapChild makes everything below as poor.
func (n *poorNode) WrapChild(_ context.Context, child fusefs.InodeEmbedder) fusefs.InodeEmbedder {
	return &poorNode{LoopbackNode: fusefs.LoopbackNode{RootData: child.(*fusefs.LoopbackNode).RootData}, share: n.share}
}

func (n *poorNode) Rename(ctx context.Context, name string, to fusefs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	if flags != 0 && !n.share.exclusive {
		return syscall.EINVAL
	}
	return n.LoopbackNode.Rename(ctx, name, to, newName, flags)
}

func (n *poorNode) Link(ctx context.Context, target fusefs.InodeEmbedder, name string, out *fuse.EntryOut) (*fusefs.Inode, syscall.Errno) {
	if !n.share.links {
		return nil, syscall.EPERM
	}
	return n.LoopbackNode.Link(ctx, target, name, out)
}

func (n *poorNode) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fusefs.Inode, fusefs.FileHandle, uint32, syscall.Errno) {
	node, f, fuseFlags, errno := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	if errno != 0 {
		return node, f, fuseFlags, errno
	}
	return node, newPoorFile(f, n.share, true), fuseFlags, 0
}

func (n *poorNode) Open(ctx context.Context, flags uint32) (fusefs.FileHandle, uint32, syscall.Errno) {
	f, fuseFlags, errno := n.LoopbackNode.Open(ctx, flags)
	if errno != 0 {
		return f, fuseFlags, errno
	}
	return newPoorFile(f, n.share, false), fuseFlags | fuse.FOPEN_DIRECT_IO, 0
}

type poorFile struct {
	fusefs.FileReader
	fusefs.FileWriter
	fusefs.FileFsyncer
	fusefs.FileGetattrer
	fusefs.FileReleaser
	share *poorShare
	made  bool
}

func newPoorFile(f fusefs.FileHandle, share *poorShare, made bool) *poorFile {
	return &poorFile{f.(fusefs.FileReader), f.(fusefs.FileWriter), f.(fusefs.FileFsyncer), f.(fusefs.FileGetattrer), f.(fusefs.FileReleaser), share, made}
}

func (f *poorFile) Flush(context.Context) syscall.Errno {
	f.share.closes.Add(1)
	if f.made && f.share.failClose.Add(-1) >= 0 {
		return syscall.EIO
	}
	return 0
}

func (f *poorFile) Read(ctx context.Context, p []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if f.share.staleReads.Add(-1) >= 0 {
		return nil, syscall.ESTALE
	}
	return f.FileReader.Read(ctx, p, off)
}

// mount mounts the share, and gives the folder and what is behind it.
func (s *poorShare) mount(t *testing.T) (front, back string) {
	t.Helper()
	front, back = t.TempDir(), t.TempDir()
	var st syscall.Stat_t
	require.NoError(t, syscall.Stat(back, &st))
	root := &fusefs.LoopbackRoot{Path: back, Dev: uint64(st.Dev)}
	node := &poorNode{LoopbackNode: fusefs.LoopbackNode{RootData: root}, share: s}
	root.RootNode = node
	long := time.Minute
	server, err := fusefs.Mount(front, node, &fusefs.Options{
		EntryTimeout: &long, AttrTimeout: &long, NegativeTimeout: &long,
		MountOptions: fuse.MountOptions{Name: "poorshare", DirectMount: true},
	})
	if err != nil {
		t.Skipf("FUSE cannot be mounted here: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, server.Unmount()) })
	return front, back
}

// openMounted opens a store that is closed before its folder is unmounted.
func openMounted(t *testing.T, dir string) *dirstore.Store {
	t.Helper()
	st, err := dirstore.Open(dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.Close()) })
	return st
}

// R175: a mounted folder is known as one, keeps the store's contract for one writer, and does not claim to do more.
func TestMountedFolder(t *testing.T) {
	for name, share := range map[string]*poorShare{"nothing": {}, "links": {links: true}, "renames": {exclusive: true}} {
		t.Run(name, func(t *testing.T) {
			front, back := share.mount(t)
			t.Run("suite", func(t *testing.T) {
				if tier := os.Getenv("HIKAE_TEST_TIER"); name != "nothing" && tier != "long" && tier != "release" {
					t.Skip("the whole suite on each kind of share is for HIKAE_TEST_TIER=long")
				}
				storetest.TestStore(t, func(t testing.TB) store.Store {
					dir := filepath.Join(front, filepath.Base(t.TempDir())+time.Now().Format("150405.000000000"))
					st, err := dirstore.Init(dir)
					require.NoError(t, err)
					return st
				})
			})
			st := openMounted(t, front)
			require.Equal(t, "fuse", st.Mounted())
			found, err := st.Probe(t.Context())
			require.NoError(t, err)
			require.Equal(t, share.links || share.exclusive, found.ExclusiveCreate)
			require.False(t, found.FreshReads, "another machine's names are seen late")
			require.False(t, found.Shared())

			_, err = st.Stat(t.Context(), "late")
			require.ErrorIs(t, err, fs.ErrNotExist)
			require.NoError(t, os.WriteFile(filepath.Join(back, "late"), nil, 0o600))
			_, err = st.Stat(t.Context(), "late")
			require.ErrorIs(t, err, fs.ErrNotExist, "so it is here: which is why there is one writer")
		})
	}
}

// A close that tells of a lost write, seen through a real kernel.
func TestMountedFolderFailsAtClose(t *testing.T) {
	share := &poorShare{exclusive: true}
	front, back := share.mount(t)
	st := openMounted(t, front)
	data := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	share.failClose.Store(1)
	require.NoError(t, st.Create(t.Context(), "pack/1", data))
	require.Negative(t, share.failClose.Load(), "a second file was written")
	got, err := os.ReadFile(filepath.Join(back, "pack", "1"))
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, got))

	share.failClose.Store(1000)
	err = st.Create(t.Context(), "pack/2", data)
	require.ErrorIs(t, err, store.ErrNotDurable)
	require.ErrorIs(t, err, syscall.EIO)
	share.failClose.Store(0)
	require.NoFileExists(t, filepath.Join(back, "pack", "2"))
	left, err := filepath.Glob(filepath.Join(back, ".tmp", "*", "*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

// A handle that the server forgot is opened again by name.
func TestMountedFolderForgetsHandles(t *testing.T) {
	share := &poorShare{exclusive: true}
	front, _ := share.mount(t)
	st := openMounted(t, front)
	require.NoError(t, st.Create(t.Context(), "pack/1", []byte("content")))
	for range 3 {
		share.staleReads.Store(1)
		got, err := store.ReadAll(t.Context(), st, "pack/1", 100)
		require.NoError(t, err)
		require.Equal(t, "content", string(got))
		require.Negative(t, share.staleReads.Load())
	}
	share.staleReads.Store(1000)
	_, err := store.ReadAll(t.Context(), st, "pack/1", 100)
	require.ErrorIs(t, err, syscall.ESTALE)
}
