package dirstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/dirstore"
	"github.com/hikae/hikae/repo/store/dirstore/vfs"
	"github.com/hikae/hikae/repo/store/dirstore/vfs/vfstest"
	"github.com/hikae/hikae/repo/store/storetest"
)

// stored opens a store on a file system that fails as told, with every call written down.
func stored(t *testing.T) (*dirstore.Store, *vfstest.Faulty, *vfstest.Mem, func(op string) []string) {
	t.Helper()
	mem := vfstest.NewMem()
	faulty := vfstest.NewFaulty(mem)
	seen := map[string][]string{}
	faulty.Before = func(op, name string) { seen[op] = append(seen[op], name) }
	st := dirstore.OpenFS(faulty, nil)
	t.Cleanup(func() { require.NoError(t, st.Close()) })
	return st, faulty, mem, func(op string) []string { return seen[op] }
}

// R175, RELIABILITY §1.3: a share that tells of a lost write only at close gets the data once more under another name,
// and what then stands there is read back before it is an object.
func TestFailedCloseWritesAnotherFile(t *testing.T) {
	st, faulty, mem, seen := stored(t)
	data := bytes.Repeat([]byte("x"), 5<<20)
	faulty.Set(vfstest.Fault{Op: "close", N: 1, Err: syscall.EIO})
	require.NoError(t, st.Create(t.Context(), "pack/1", data))
	files := seen("create")
	require.Len(t, files, 2)
	assert.NotEqual(t, files[0], files[1], "the file that failed is not used again")
	assert.Equal(t, []string{files[1]}, seen("open"), "read back by name")
	assert.Equal(t, []string{files[0]}, seen("remove"))
	require.Empty(t, temps(t, mem))

	faulty.Set(vfstest.Fault{Op: "close", N: 1, Sticky: true, Err: syscall.EIO})
	err := st.Create(t.Context(), "pack/2", data)
	require.ErrorIs(t, err, store.ErrNotDurable)
	require.ErrorIs(t, err, syscall.EIO)
	faulty.Set(vfstest.Fault{})
	_, err = st.Stat(t.Context(), "pack/2")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// What is read back after a failed close and differs is no object.
func TestReadBackDiffers(t *testing.T) {
	mem := vfstest.NewMem()
	faulty := vfstest.NewFaulty(forgetful{mem})
	st := dirstore.OpenFS(faulty, nil)
	faulty.Set(vfstest.Fault{Op: "close", N: 1, Err: syscall.EIO})
	err := st.Create(t.Context(), "pack/1", bytes.Repeat([]byte("x"), 10_000))
	require.ErrorIs(t, err, store.ErrNotDurable)
	require.ErrorContains(t, err, "does not hold what was written")
	require.Empty(t, temps(t, mem))
	_, err = st.Stat(t.Context(), "pack/1")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// forgetful takes what it is given, and gives zeros.
type forgetful struct{ vfs.FS }

func (f forgetful) Open(name string) (vfs.File, error) {
	file, err := f.FS.Open(name)
	return forgetfulFile{file}, err
}

type forgetfulFile struct{ vfs.File }

func (f forgetfulFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	clear(p[:n])
	return n, err
}

// A handle that the server does not know any more is opened again, once, at every kind of call that looks by name.
func TestStaleHandles(t *testing.T) {
	for _, cause := range []error{syscall.ESTALE, vfs.ErrLost} {
		t.Run(cause.Error(), func(t *testing.T) {
			ctx := t.Context()
			st, faulty, _, _ := stored(t)
			require.NoError(t, st.Create(ctx, "pack/1", []byte("content")))
			calls := map[string]func() error{
				"readat": func() error {
					p := make([]byte, 7)
					_, err := st.ReadAt(ctx, "pack/1", p, 0)
					if err == nil {
						require.Equal(t, "content", string(p))
					}
					return err
				},
				"lstat": func() error { _, err := st.Stat(ctx, "pack/1"); return err },
			}
			for op, call := range calls {
				faulty.Set(vfstest.Fault{Op: op, N: 1, Err: cause})
				require.NoError(t, call(), op)
				require.Equal(t, 1, faulty.Fired(), op)
				faulty.Set(vfstest.Fault{Op: op, N: 1, Sticky: true, Err: cause})
				err := call()
				require.ErrorIs(t, err, cause, op)
				require.NotErrorIs(t, err, fs.ErrNotExist, op)
				require.Equal(t, 2, faulty.Fired(), "%s: tried again once", op)
				faulty.Set(vfstest.Fault{})
			}
		})
	}
}

// Whichever call of a Create loses the connection, before or after it was carried out: it succeeds, exactly once, with
// nothing left over.
func TestConnectionLostAtEveryCallOfCreate(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 600)
	for _, op := range []string{"create", "write", "fsync", "size", "close", "publish"} {
		for _, after := range []bool{false, true} {
			what := fmt.Sprint(op, " ", after)
			mem := vfstest.NewMem()
			faulty := vfstest.NewFaulty(mem)
			st := dirstore.OpenFS(faulty, nil)
			faulty.Set(vfstest.Fault{Op: op, N: 1, After: after, Err: vfs.ErrLost})
			require.NoError(t, st.Create(t.Context(), "pack/1", data), what)
			require.Equal(t, 1, faulty.Fired(), what)
			faulty.Set(vfstest.Fault{})
			got, err := store.ReadAll(t.Context(), st, "pack/1", 1<<20)
			require.NoError(t, err, what)
			require.Equal(t, data, got, what)
			require.Empty(t, temps(t, mem), what)
			require.ErrorIs(t, st.Create(t.Context(), "pack/1", data), fs.ErrExist, what)
		}
	}
}

// A lost answer to a publish is settled by looking: the name may be ours, another's, or nobody's.
func TestLostAnswerOfPublish(t *testing.T) {
	ctx := t.Context()
	cases := map[string]struct {
		meanwhile func(t *testing.T, mem vfs.FS, temp string)
		want      error
		holds     string
	}{
		"another's": {func(t *testing.T, mem vfs.FS, temp string) {
			f, err := mem.Create("other")
			require.NoError(t, err)
			_, err = f.Write([]byte("others"))
			require.NoError(t, errors.Join(err, f.Close(), mem.Publish("other", "log/1")))
		}, fs.ErrExist, "others"},
		"a sweep took the file": {func(t *testing.T, mem vfs.FS, temp string) {
			require.NoError(t, mem.Remove(temp))
		}, nil, "ours--"},
		"another's, and a sweep": {func(t *testing.T, mem vfs.FS, temp string) {
			require.NoError(t, mem.Rename(temp, "log/1"))
			require.NoError(t, mem.Remove("log/1"))
			f, err := mem.Create("log/1")
			require.NoError(t, err)
			_, err = f.Write([]byte("others"))
			require.NoError(t, errors.Join(err, f.Close()))
		}, fs.ErrExist, "others"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			mem := vfstest.NewMem()
			st := dirstore.OpenFS(&losing{FS: mem, meanwhile: func(temp string) { c.meanwhile(t, mem, temp) }}, nil)
			err := st.Create(ctx, "log/1", []byte("ours--"))
			if c.want == nil {
				require.NoError(t, err)
			}
			require.ErrorIs(t, err, c.want)
			got, err := store.ReadAll(ctx, st, "log/1", 100)
			require.NoError(t, err)
			require.Equal(t, c.holds, string(got))
			require.Empty(t, temps(t, mem))
		})
	}
}

// losing loses the first publish.
type losing struct {
	vfs.FS
	meanwhile func(temp string)
	lost      bool
}

func (l *losing) Publish(oldname, newname string) error {
	if l.lost {
		return l.FS.Publish(oldname, newname)
	}
	l.lost = true
	l.meanwhile(oldname)
	return vfs.ErrLost
}

// A server may carry out a lost request late, after it was asked for again: the name is taken then, by us.
func TestLostPublishIsCarriedOutLate(t *testing.T) {
	ctx := t.Context()
	mem := vfstest.NewMem()
	st := dirstore.OpenFS(&late{FS: mem}, nil)
	require.NoError(t, st.Create(ctx, "log/1", []byte("ours")))
	require.ErrorIs(t, st.Create(ctx, "log/1", []byte("ours")), fs.ErrExist)
	require.Empty(t, temps(t, mem))
}

// late loses the first publish, and carries it out when the second comes.
type late struct {
	vfs.FS
	calls int
}

func (l *late) Publish(oldname, newname string) error {
	l.calls++
	switch l.calls {
	case 1:
		return vfs.ErrLost
	case 2:
		if err := l.FS.Publish(oldname, newname); err != nil {
			return err
		}
		return fs.ErrExist
	}
	return l.FS.Publish(oldname, newname)
}

// A connection that never comes back ends in its own error, and no name is made.
func TestConnectionLostForGood(t *testing.T) {
	for _, op := range []string{"create", "publish"} {
		mem := vfstest.NewMem()
		faulty := vfstest.NewFaulty(mem)
		st := dirstore.OpenFS(faulty, nil)
		faulty.Set(vfstest.Fault{Op: op, N: 1, Sticky: true, Err: vfs.ErrLost})
		err := st.Create(t.Context(), "pack/1", []byte("x"))
		require.Error(t, err, op)
		require.False(t, errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist), "%s: %v", op, err)
		require.LessOrEqual(t, faulty.Fired(), 64, op)
		faulty.Set(vfstest.Fault{})
		require.Empty(t, temps(t, mem), op)
	}
}

// NFS without links and without such a rename: one process is exclusive by itself, and Probe says so. A name that is
// there is not replaced.
func TestFolderWithoutExclusiveNames(t *testing.T) {
	ctx := t.Context()
	faulty := vfstest.NewFaulty(vfstest.NewMem())
	st := dirstore.OpenFS(faulty, nil)
	faulty.Set(vfstest.Fault{Op: "publish", N: 1, Sticky: true, Err: errors.ErrUnsupported})
	found, err := st.Probe(ctx)
	require.NoError(t, err)
	require.Equal(t, store.Abilities{DurableNames: true}, found)
	require.False(t, found.Shared())
	require.NoError(t, st.Create(ctx, "log/1", []byte("one")))
	require.ErrorIs(t, st.Create(ctx, "log/1", []byte("two")), fs.ErrExist)
	faulty.Set(vfstest.Fault{Op: "publish", N: 1, Sticky: true, Err: errors.ErrUnsupported})
	won := make(chan []string, 4)
	for w := range 4 {
		go func() {
			names, err := storetest.Race(ctx, st, fmt.Sprint(w), []string{"r/1", "r/2", "r/3", "r/4"})
			assert.NoError(t, err)
			won <- names
		}()
	}
	total := 0
	for range 4 {
		total += len(<-won)
	}
	require.Equal(t, 4, total)
}

// A file that is removed while it is open stays under a made-up name for as long: no object, and no reason for a sweep
// to fail.
func TestSillyNames(t *testing.T) {
	ctx := t.Context()
	mem := vfstest.NewMem()
	dead := dirstore.OpenFS(mem, nil)
	temp, f, err := dead.Unfinished()
	require.NoError(t, err)
	require.NoError(t, f.Close())
	dir := temp[:strings.LastIndex(temp, "/")]
	require.NoError(t, mem.Rename(temp, dir+"/.nfs0000000000042"))
	mem.ReleaseAll()
	busy := &busySilly{FS: mem, busy: true}
	st := dirstore.OpenFS(busy, nil)
	require.NoError(t, st.Create(ctx, "pack/1", []byte("x")))
	require.NoError(t, busy.FS.Rename("pack/1", "pack/.nfs0000000000043"))
	found, err := storetest.Collect(st.List(ctx, ""))
	require.NoError(t, err)
	require.Empty(t, found)
	swept, err := st.Sweep(ctx, true)
	require.NoError(t, err)
	require.Equal(t, store.Swept{Kept: 1}, swept)
	busy.busy = false
	swept, err = st.Sweep(ctx, true)
	require.NoError(t, err)
	require.Equal(t, store.Swept{Removed: 1}, swept)
}

type busySilly struct {
	vfs.FS
	busy bool
}

func (b *busySilly) Remove(name string) error {
	if b.busy && strings.Contains(name, ".nfs") {
		return &fs.PathError{Op: "remove", Path: name, Err: syscall.EBUSY}
	}
	return b.FS.Remove(name)
}
