package dirstore_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/dirstore"
	"github.com/hikae/hikae/repo/store/dirstore/vfs"
	"github.com/hikae/hikae/repo/store/dirstore/vfs/vfstest"
	"github.com/hikae/hikae/repo/store/storetest"
)

func TestMain(m *testing.M) {
	if role := os.Getenv("DIRSTORE_TEST_ROLE"); role != "" {
		os.Exit(play(role))
	}
	goleak.VerifyTestMain(m)
}

func TestStore(t *testing.T) {
	t.Run("directory", func(t *testing.T) {
		storetest.TestStore(t, func(t testing.TB) store.Store {
			st, err := dirstore.Init(t.TempDir() + "/a/b")
			require.NoError(t, err)
			return st
		})
	})
	t.Run("memory", func(t *testing.T) {
		storetest.TestStore(t, func(t testing.TB) store.Store { return dirstore.OpenFS(vfstest.NewMem(), nil) })
	})
	t.Run("no exclusive operation", func(t *testing.T) {
		storetest.TestStore(t, func(t testing.TB) store.Store { return dirstore.OpenFS(weak{vfstest.NewMem()}, nil) })
	})
}

// weak is a file system like FAT on an old kernel: it can neither publish exclusively nor sync a folder.
type weak struct{ vfs.FS }

func (weak) Publish(string, string) error { return errors.ErrUnsupported }
func (weak) SyncDir(string) error         { return errors.ErrUnsupported }
func (weak) Place() vfs.Place             { return vfs.Place{} }

// open makes a store in a new directory and closes it at the end.
func open(t testing.TB) (*dirstore.Store, string) {
	t.Helper()
	dir := t.TempDir()
	st, err := dirstore.Open(dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.Close()) })
	return st, dir
}

// everything is what lies in a directory, hidden or not.
func everything(t testing.TB, dir string) (names []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if rel, _ := filepath.Rel(dir, path); rel != "." {
			names = append(names, filepath.ToSlash(rel))
		}
		return err
	}))
	return names
}

func TestInitAndOpen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "repo")
	_, err := dirstore.Open(dir)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoDirExists(t, filepath.Dir(dir), "open makes nothing")

	for range 2 { // Init of what is there opens it
		st, err := dirstore.Init(dir)
		require.NoError(t, err)
		require.NoError(t, st.Close())
	}
	require.Empty(t, everything(t, dir))
	st, err := dirstore.Open(dir)
	require.NoError(t, err)
	_, err = storetest.Collect(st.List(t.Context(), ""))
	require.NoError(t, err)
	require.NoError(t, st.Close())
	require.Empty(t, everything(t, dir), "neither looking nor closing makes anything")

	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = dirstore.Open(file)
	require.Error(t, err)
	_, err = dirstore.Init(file)
	require.Error(t, err)
}

func TestPermissions(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no such modes")
	}
	dir := filepath.Join(t.TempDir(), "repo")
	st, err := dirstore.Init(dir)
	require.NoError(t, err)
	require.NoError(t, st.Create(t.Context(), "pack/1", []byte("x")))
	for name, mode := range map[string]fs.FileMode{"": 0o700, "pack": 0o700, "pack/1": 0o600, ".tmp": 0o700} {
		fi, err := os.Stat(filepath.Join(dir, name))
		require.NoError(t, err)
		assert.Equal(t, mode, fi.Mode().Perm(), name)
	}
	require.NoError(t, st.Close())
	require.NoDirExists(t, filepath.Join(dir, ".tmp"), "the last one out takes it along")
}

func TestProbe(t *testing.T) {
	st, dir := open(t)
	found, err := st.Probe(t.Context())
	require.NoError(t, err)
	assert.True(t, found.ExclusiveCreate)
	assert.Empty(t, everything(t, dir), "a probe leaves nothing")
	if runtime.GOOS == "linux" {
		assert.True(t, found.DurableNames)
		t.Logf("found %+v", found)
	}

	mem := vfstest.NewMem()
	found, err = dirstore.OpenFS(weak{mem}, nil).Probe(t.Context())
	require.NoError(t, err)
	assert.Equal(t, store.Abilities{}, found)
	assert.Empty(t, tree(t, mem))

	found, err = dirstore.OpenFS(replacing{mem}, nil).Probe(t.Context())
	require.NoError(t, err)
	assert.False(t, found.ExclusiveCreate, "a file system that replaces is found out")
	assert.Empty(t, tree(t, mem))
}

// replacing says that it publishes exclusively, and replaces.
type replacing struct{ vfs.FS }

func (r replacing) Publish(oldname, newname string) error { return r.Rename(oldname, newname) }

// RELIABILITY §1.3: foreign files are ignored by List, refused by everything else, and never replaced.
func TestForeignFiles(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows makes links and pipes differently")
	}
	st, dir := open(t)
	ctx := t.Context()
	require.NoError(t, st.Create(ctx, "pack/one", []byte("one")))
	outside := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(outside, []byte("secret"), 0o600))
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{".DS_Store", "foo~", "pack/.tmp-1", "pack/one~", "pack/TWIN", "pack/one.", "pack/nul", "pack/a b", "Thumbs.db"} {
		require.NoError(t, os.WriteFile(in(name), []byte("x"), 0o600))
	}
	require.NoError(t, os.MkdirAll(in("PACK2/x"), 0o700))
	require.NoError(t, st.Create(ctx, "pack/twin2", []byte("lower")))
	if _, err := os.Lstat(in("pack/TWIN2")); err != nil { // where case tells names apart
		require.NoError(t, os.WriteFile(in("pack/TWIN2"), []byte("upper case"), 0o600))
	}
	require.NoError(t, os.MkdirAll(in("lost+found"), 0o700))
	require.NoError(t, os.WriteFile(in("lost+found/1"), nil, 0o600))
	require.NoError(t, os.MkdirAll(in("pack/folder"), 0o700))
	require.NoError(t, os.Symlink(outside, in("pack/out")))
	require.NoError(t, os.Symlink("one", in("pack/inside")))
	require.NoError(t, os.Symlink("nowhere", in("pack/dangling")))
	require.NoError(t, os.Symlink("pack", in("linked")))
	require.NoError(t, os.Symlink(filepath.Dir(outside), in("escape")))
	makePipe(t, in("pack/pipe"))
	makePipe(t, in("pipe"))

	found, err := storetest.Collect(st.List(ctx, ""))
	require.NoError(t, err)
	assert.Equal(t, map[string]int64{"pack/one": 3, "pack/twin2": 5}, found)

	p := make([]byte, 10)
	for _, name := range []string{"pack/out", "pack/inside", "pack/dangling", "pack/folder", "pack/pipe", "linked/one", "escape/secret", "pipe/below"} {
		_, statErr := st.Stat(ctx, name)
		require.ErrorIs(t, statErr, store.ErrForeign, name)
		_, readErr := st.ReadAt(ctx, name, p, 0)
		require.ErrorIs(t, readErr, store.ErrForeign, name)
		require.ErrorIs(t, st.Remove(ctx, name), store.ErrForeign, name)
		err := st.Create(ctx, name, []byte("x"))
		require.ErrorIs(t, err, store.ErrForeign, name)
		require.NotErrorIs(t, err, fs.ErrExist, name)
	}
	for _, prefix := range []string{"linked/", "escape/", "pipe/"} {
		_, err := storetest.Collect(st.List(ctx, prefix))
		require.ErrorIs(t, err, store.ErrForeign, prefix)
		require.ErrorIs(t, st.Settle(ctx, prefix), store.ErrForeign, prefix)
	}
	secret, err := os.ReadFile(outside)
	require.NoError(t, err)
	assert.Equal(t, "secret", string(secret))
	require.NoError(t, st.Settle(ctx, ""))
}

// A race is decided by the file system, and what sits at the name may be no object at all.
func TestForeignFileAppearsDuringCreate(t *testing.T) {
	mem := vfstest.NewMem()
	faulty := vfstest.NewFaulty(mem)
	faulty.Before = func(op, name string) {
		if op == "publish" {
			_ = mem.Mkdir(name)
		}
	}
	err := dirstore.OpenFS(faulty, nil).Create(t.Context(), "pack", []byte("x"))
	require.ErrorIs(t, err, store.ErrForeign)
	require.NotErrorIs(t, err, fs.ErrExist)
	require.Empty(t, temps(t, mem))
}

// Reading many ranges of an object opens it once; removing it ends that, here and in another process.
func TestHandles(t *testing.T) {
	ctx := t.Context()
	fsys, err := vfs.Open(t.TempDir())
	require.NoError(t, err)
	faulty := vfstest.NewFaulty(fsys)
	st := dirstore.OpenFS(faulty, &dirstore.Options{OpenFiles: 2})
	defer st.Close()
	other := dirstore.OpenFS(fsys, nil)
	read := func(name string) (byte, error) {
		p := make([]byte, 1)
		_, err := st.ReadAt(ctx, name, p, 0)
		return p[0], err
	}
	for i := range 4 {
		require.NoError(t, st.Create(ctx, fmt.Sprint("p/", i), []byte{byte(i)}))
	}
	faulty.Set(vfstest.Fault{})
	for range 10 {
		got, err := read("p/1")
		require.NoError(t, err)
		require.EqualValues(t, 1, got)
	}
	assert.Equal(t, 1, faulty.Calls("open"))
	for range 2 {
		for i := range 4 {
			_, err := read(fmt.Sprint("p/", i))
			require.NoError(t, err)
		}
	}
	assert.Equal(t, 8, faulty.Calls("open"), "two stay open: 0, 2, 3 and then all four anew")

	require.NoError(t, st.Remove(ctx, "p/3"))
	_, err = read("p/3")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, st.Create(ctx, "p/3", []byte{33}))
	got, err := read("p/3")
	require.NoError(t, err)
	require.EqualValues(t, 33, got)

	if runtime.GOOS == "windows" {
		return // what is open cannot be removed by others there
	}
	require.NoError(t, other.Remove(ctx, "p/3"))
	_, err = read("p/3")
	require.ErrorIs(t, err, fs.ErrNotExist, "removed by another process")
	require.NoError(t, other.Create(ctx, "p/3", []byte{34}))
	got, err = read("p/3")
	require.NoError(t, err)
	require.EqualValues(t, 34, got)
}

func TestHandlesUnderPressure(t *testing.T) {
	ctx := t.Context()
	st := dirstore.OpenFS(vfstest.NewMem(), &dirstore.Options{OpenFiles: 3})
	for i := range 10 {
		require.NoError(t, st.Create(ctx, fmt.Sprint("p/", i), []byte{byte(i)}))
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 300 {
				p, n := make([]byte, 1), (i*7+g)%10
				_, err := st.ReadAt(ctx, fmt.Sprint("p/", n), p, 0)
				if n == 9 && errors.Is(err, fs.ErrNotExist) {
					continue
				}
				if !assert.NoError(t, err) || !assert.EqualValues(t, n, p[0]) {
					return
				}
			}
		})
	}
	wg.Go(func() {
		for range 50 {
			if !assert.NoError(t, st.Remove(ctx, "p/9")) || !assert.NoError(t, st.Create(ctx, "p/9", []byte{9})) {
				return
			}
		}
	})
	wg.Wait()
	require.NoError(t, st.Close())
}

// Too many open files: those that are open only to be read again are closed, and the call goes on.
func TestCrowded(t *testing.T) {
	ctx := t.Context()
	for _, op := range []string{"create", "open", "publish", "syncdir"} {
		faulty := vfstest.NewFaulty(vfstest.NewMem())
		st := dirstore.OpenFS(faulty, nil)
		require.NoError(t, st.Create(ctx, "p/1", []byte{1}))
		require.NoError(t, st.Create(ctx, "p/2", []byte{2}))
		_, err := st.ReadAt(ctx, "p/1", make([]byte, 1), 0)
		require.NoError(t, err)
		faulty.Set(vfstest.Fault{Op: op, N: 1, Err: errCrowded})
		require.NoError(t, st.Create(ctx, "p/3", []byte{3}), op)
		_, err = st.ReadAt(ctx, "p/2", make([]byte, 1), 0)
		require.NoError(t, err, op)
		require.Equal(t, 1, faulty.Fired(), op)
	}
}

// A directory that was removed while it was open is not an empty store.
func TestDirectoryIsGone(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows keeps an open directory")
	}
	dir := filepath.Join(t.TempDir(), "repo")
	st, err := dirstore.Init(dir)
	require.NoError(t, err)
	ctx := t.Context()
	require.NoError(t, os.Remove(dir))
	_, err = st.Stat(ctx, "a")
	require.ErrorIs(t, err, vfs.ErrGone)
	_, err = st.ReadAt(ctx, "a", make([]byte, 1), 0)
	require.ErrorIs(t, err, vfs.ErrGone)
	_, err = storetest.Collect(st.List(ctx, "pack/"))
	require.ErrorIs(t, err, vfs.ErrGone)
	_, err = storetest.Collect(st.List(ctx, ""))
	require.ErrorIs(t, err, vfs.ErrGone)
	require.Error(t, st.Create(ctx, "a", nil))
	require.NoError(t, st.Close())
}

// Somebody removes folders, or moves the whole directory away, while a store is open on it.
func TestFoldersVanish(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows keeps open folders")
	}
	st, dir := open(t)
	ctx := t.Context()
	require.NoError(t, st.Create(ctx, "pack/a/1", []byte("x")))
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "pack")))
	require.NoError(t, os.RemoveAll(filepath.Join(dir, ".tmp")))
	require.NoError(t, st.Create(ctx, "pack/a/2", []byte("x")))
	found, err := storetest.Collect(st.List(ctx, ""))
	require.NoError(t, err)
	require.Equal(t, map[string]int64{"pack/a/2": 1}, found)

	require.NoError(t, os.Rename(dir, dir+".moved"))
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, st.Create(ctx, "pack/a/3", []byte("x")))
	require.FileExists(t, dir+".moved/pack/a/3")
	require.Empty(t, everything(t, dir))
}

// An unreadable folder voids the listing: it is not an empty one (H07).
func TestUnreadableFolderVoidsAListing(t *testing.T) {
	mem := vfstest.NewMem()
	faulty := vfstest.NewFaulty(mem)
	st := dirstore.OpenFS(faulty, nil)
	ctx := t.Context()
	for _, name := range []string{"a/1", "b/1", "c/1"} {
		require.NoError(t, st.Create(ctx, name, nil))
	}
	for i := range 4 {
		faulty.Set(vfstest.Fault{Op: "readdir", N: i + 1, Err: fs.ErrPermission})
		_, err := storetest.Collect(st.List(ctx, ""))
		require.ErrorIs(t, err, fs.ErrPermission)
	}
}

func TestCancelDuringCreate(t *testing.T) {
	mem := vfstest.NewMem()
	faulty := vfstest.NewFaulty(mem)
	st := dirstore.OpenFS(faulty, nil)
	for _, op := range []string{"write", "fsync", "close"} {
		ctx, cancel := context.WithCancel(t.Context())
		faulty.Before = func(o, _ string) {
			if o == op {
				cancel()
			}
		}
		require.ErrorIs(t, st.Create(ctx, "p/"+op, make([]byte, 10<<20)), context.Canceled, op)
		require.Empty(t, temps(t, mem), op)
		_, err := st.Stat(t.Context(), "p/"+op)
		require.ErrorIs(t, err, fs.ErrNotExist)
	}
	ctx, cancel := context.WithCancel(t.Context())
	faulty.Before = func(o, _ string) {
		if o == "publish" {
			cancel()
		}
	}
	require.NoError(t, st.Create(ctx, "p/late", nil), "what has its name is finished")
}

func TestCloseWaitsForWriters(t *testing.T) {
	dir := t.TempDir()
	st, err := dirstore.Open(dir)
	require.NoError(t, err)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			err := st.Create(t.Context(), fmt.Sprint("p/", i), make([]byte, 1<<20))
			if err != nil {
				assert.ErrorIs(t, err, fs.ErrClosed)
			}
		})
	}
	require.NoError(t, st.Close())
	wg.Wait()
	for _, name := range everything(t, dir) {
		require.True(t, name == "p" || strings.HasPrefix(name, "p/"), "%s stays", name)
	}
}
