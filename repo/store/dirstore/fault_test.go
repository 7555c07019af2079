package dirstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
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

// tree is every path of a file system, with sizes.
func tree(t testing.TB, fsys vfs.FS) map[string]int64 {
	t.Helper()
	found := map[string]int64{}
	var walk func(dir string)
	walk = func(dir string) {
		for fi, err := range fsys.ReadDir(dir) {
			require.NoError(t, err)
			name := strings.TrimPrefix(dir+"/"+fi.Name(), "./")
			if fi.IsDir() {
				found[name+"/"] = 0
				walk(name)
				continue
			}
			found[name] = fi.Size()
		}
	}
	walk(".")
	return found
}

func temps(t testing.TB, fsys vfs.FS) (files []string) {
	for name := range tree(t, fsys) {
		if strings.HasPrefix(name, ".tmp/") && !strings.HasSuffix(name, "/") {
			files = append(files, name)
		}
	}
	return files
}

// onBoth runs a test on the file systems that a store may stand on.
func onBoth(t *testing.T, run func(t *testing.T, fresh func() vfs.FS)) {
	t.Run("memory", func(t *testing.T) { run(t, func() vfs.FS { return vfstest.NewMem() }) })
	t.Run("directory", func(t *testing.T) {
		run(t, func() vfs.FS {
			fsys, err := vfs.Open(t.TempDir())
			require.NoError(t, err)
			return fsys
		})
	})
}

// H38, H39, RELIABILITY §1.3: whichever call of a Create fails, once or for good, before or after it was carried out:
// the object is whole or absent, nil means that it is there, no unfinished file stays that a sweep would not know, the
// error is typed, and the next Create works.
func TestEveryFailingCallOfCreate(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 600)
	faults := []error{syscall.EIO, syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EMFILE}
	onBoth(t, func(t *testing.T, fresh func() vfs.FS) {
		for _, sticky := range []bool{false, true} {
			for _, after := range []bool{false, true} {
				for i := 1; ; i++ {
					cause := faults[i%len(faults)]
					fault := vfstest.Fault{N: i, Sticky: sticky, After: after, Err: cause}
					if !failCreate(t, fresh(), fault, data) {
						require.Greater(t, i, 10, "a Create of so few calls is not believed")
						break
					}
				}
			}
		}
	})
}

func failCreate(t *testing.T, fsys vfs.FS, fault vfstest.Fault, data []byte) (fired bool) {
	ctx := t.Context()
	what := fmt.Sprintf("%+v", fault)
	faulty := vfstest.NewFaulty(fsys)
	st := dirstore.OpenFS(faulty, nil)
	faulty.Set(fault)
	err := st.Create(ctx, "pack/7f/one", data)
	fired = faulty.Fired() > 0
	faulty.Set(vfstest.Fault{})
	if fired && err != nil {
		require.ErrorIs(t, err, fault.Err, what)
		var pe *fs.PathError
		require.ErrorAs(t, err, &pe, what)
		require.Equal(t, "pack/7f/one", pe.Path, what)
		require.False(t, errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist), "%s: %v", what, err)
	}
	got, readErr := store.ReadAll(ctx, st, "pack/7f/one", 1<<20)
	switch {
	case readErr == nil:
		require.Equal(t, data, got, what)
	default:
		require.ErrorIs(t, readErr, fs.ErrNotExist, what)
		require.Error(t, err, "%s: reported and not there", what)
	}
	// A folder whose sync failed is given up by this store, and not by the next.
	next := st.Create(ctx, "pack/7f/two", data)
	if next != nil {
		require.ErrorIs(t, next, store.ErrNotDurable, what)
		require.ErrorIs(t, st.Settle(ctx, ""), store.ErrNotDurable, what)
	}
	left := temps(t, fsys)
	if len(left) > 0 {
		require.True(t, fault.Sticky || faultOnRemove(err), "%s: %v stays after %v", what, left, err)
	}
	sweepAndTryAgain(t, st, fsys, data, what)
	return fired
}

// faultOnRemove reports whether the error tells that the unfinished file could not be removed.
func faultOnRemove(err error) bool {
	return err == nil || strings.Contains(err.Error(), "stays for a sweep")
}

// sweepAndTryAgain plays the next process.
func sweepAndTryAgain(t *testing.T, st *dirstore.Store, fsys vfs.FS, data []byte, what string) {
	ctx := t.Context()
	var again *dirstore.Store
	if mem, ok := fsys.(*vfstest.Mem); ok {
		require.NoError(t, st.Close(), what)
		again = dirstore.OpenFS(mem.Reopen(), nil)
	} else {
		again = dirstore.OpenFS(fsys, nil)
		defer st.Close()
	}
	_, err := again.Sweep(ctx, true)
	require.NoError(t, err, what)
	require.NoError(t, again.Create(ctx, "pack/7f/three", data), what)
	require.NoError(t, again.Settle(ctx, ""), what)
	found, err := storetest.Collect(again.List(ctx, ""))
	require.NoError(t, err, what)
	for name, size := range found {
		require.EqualValues(t, len(data), size, "%s: %s", what, name)
	}
	require.Contains(t, found, "pack/7f/three", what)
	if _, ok := fsys.(*vfstest.Mem); ok {
		require.Empty(t, temps(t, fsys), what)
	}
}

// The same for the other calls: an error, or the whole truth. H07: a listing that fails says so.
func TestEveryFailingCallOfTheRest(t *testing.T) {
	mem := vfstest.NewMem()
	faulty := vfstest.NewFaulty(mem)
	ctx := t.Context()
	setup := dirstore.OpenFS(mem, nil)
	wanted := map[string]int64{}
	for i := range 9 {
		name := fmt.Sprintf("a/%d/%d", i%3, i)
		wanted[name] = int64(i)
		require.NoError(t, setup.Create(ctx, name, make([]byte, i)))
	}
	calls := map[string]func(st *dirstore.Store) error{
		"list": func(st *dirstore.Store) error {
			got, err := storetest.Collect(st.List(ctx, ""))
			if err == nil {
				require.Equal(t, wanted, got)
			}
			return err
		},
		"read": func(st *dirstore.Store) error {
			got, err := store.ReadAll(ctx, st, "a/2/8", 100)
			if err == nil {
				require.Equal(t, make([]byte, 8), got)
			}
			return err
		},
		"settle": func(st *dirstore.Store) error { return st.Settle(ctx, "a/") },
		"free": func(st *dirstore.Store) error {
			_, err := st.Free(ctx)
			return err
		},
		"probe": func(st *dirstore.Store) error {
			found, err := st.Probe(ctx)
			if err == nil && faulty.Fired() == 0 {
				require.True(t, found.Shared())
			}
			return err
		},
		"sweep": func(st *dirstore.Store) error {
			_, err := st.Sweep(ctx, false)
			return err
		},
	}
	for name, call := range calls {
		for i := 1; ; i++ {
			st := dirstore.OpenFS(faulty, nil)
			faulty.Set(vfstest.Fault{N: i})
			err := call(st)
			fired := faulty.Fired() > 0
			faulty.Set(vfstest.Fault{})
			if !fired {
				require.NoError(t, err, name)
				break
			}
			if err != nil {
				require.ErrorIs(t, err, vfstest.ErrInjected, "%s %d", name, i)
				require.False(t, errors.Is(err, fs.ErrNotExist), "%s %d", name, i)
			} else {
				require.Contains(t, []string{"probe", "read", "sweep"}, name, "%d: an error was swallowed", i)
			}
			_, err = st.Sweep(ctx, true)
			require.NoError(t, err)
		}
	}
}

// A folder that once failed to sync is not believed again: the system forgets a failed write once it has told of it.
func TestFolderIsGivenUpAfterAFailedSync(t *testing.T) {
	ctx := t.Context()
	mem := vfstest.NewMem()
	faulty := vfstest.NewFaulty(mem)
	st := dirstore.OpenFS(faulty, nil)
	require.NoError(t, st.Create(ctx, "log/1", nil))
	faulty.Set(vfstest.Fault{Op: "syncdir", N: 1, Err: syscall.EIO})
	err := st.Create(ctx, "log/2", nil)
	require.ErrorIs(t, err, store.ErrNotDurable)
	require.ErrorIs(t, err, syscall.EIO)
	faulty.Set(vfstest.Fault{})
	require.ErrorIs(t, st.Settle(ctx, "log/"), store.ErrNotDurable)
	require.ErrorIs(t, st.Create(ctx, "log/3", nil), store.ErrNotDurable)
	require.ErrorIs(t, st.Create(ctx, "log/2", nil), fs.ErrExist, "it is there, and said to be")
	require.NoError(t, st.Create(ctx, "pack/1", nil), "other folders are as good as before")
	_, err = st.Stat(ctx, "log/3")
	require.ErrorIs(t, err, fs.ErrNotExist, "nothing was tried")
}

// A file that failed to sync is not tried again: a new one is made.
func TestFileIsGivenUpAfterAFailedSync(t *testing.T) {
	ctx := t.Context()
	mem := vfstest.NewMem()
	faulty := vfstest.NewFaulty(mem)
	var synced []string
	faulty.Before = func(op, name string) {
		if op == "fsync" {
			synced = append(synced, name)
		}
	}
	st := dirstore.OpenFS(faulty, nil)
	faulty.Set(vfstest.Fault{Op: "fsync", N: 1, Err: syscall.EIO})
	require.ErrorIs(t, st.Create(ctx, "pack/1", []byte("x")), store.ErrNotDurable)
	require.Empty(t, temps(t, mem))
	require.NoError(t, st.Create(ctx, "pack/1", []byte("x")))
	require.Len(t, synced, 2)
	assert.NotEqual(t, synced[0], synced[1])
}

// New folders are synced once each, on the way up, and never again.
func TestFoldersAreSyncedOnce(t *testing.T) {
	ctx := t.Context()
	faulty := vfstest.NewFaulty(vfstest.NewMem())
	var synced []string
	faulty.Before = func(op, name string) {
		if op == "syncdir" {
			synced = append(synced, name)
		}
	}
	st := dirstore.OpenFS(faulty, nil)
	require.NoError(t, st.Create(ctx, "a/b/1", nil))
	assert.Equal(t, []string{".", "a", "a/b"}, synced)
	synced = nil
	require.NoError(t, st.Create(ctx, "a/b/2", nil))
	assert.Equal(t, []string{"a/b"}, synced)
	synced = nil
	require.NoError(t, st.Create(ctx, "a/c/1", nil))
	assert.Equal(t, []string{"a", "a/c"}, synced)
	synced = nil
	require.NoError(t, st.Remove(ctx, "a/c/1"))
	assert.Equal(t, []string{"a/c"}, synced)
	synced = nil
	require.NoError(t, st.Settle(ctx, "a/"))
	slices.Sort(synced)
	assert.Equal(t, []string{".", "a", "a/b", "a/c"}, synced)
}

// H39: cut the power before every call and look at what is left. What was reported is there, what is there is whole,
// and what was removed and reported stays away.
func TestPowerCutAtEveryCall(t *testing.T) {
	crashes, lost := cutEverywhere(t, func(fsys vfs.FS) vfs.FS { return fsys })
	require.Zero(t, lost)
	require.Greater(t, crashes, 300)
}

// The same on file systems that lie shows that the test above can fail.
func TestPowerCutOnALiar(t *testing.T) {
	_, lost := cutEverywhere(t, func(fsys vfs.FS) vfs.FS { return unsynced{fsys} })
	require.NotZero(t, lost)
	_, lost = cutEverywhere(t, func(fsys vfs.FS) vfs.FS { return namesUnsynced{fsys} })
	require.NotZero(t, lost)
}

type namesUnsynced struct{ vfs.FS }

func (namesUnsynced) SyncDir(string) error { return nil }

func cutEverywhere(t *testing.T, lie func(vfs.FS) vfs.FS) (crashes, lost int) {
	ctx := t.Context()
	mem := vfstest.NewMem()
	acked := map[string][]byte{} // nil: reported as removed
	tried := map[string][]byte{}
	rng := rand.New(rand.NewPCG(7, 7))
	look := func() {
		for _, keep := range []float64{0, 0.3, 0.7, 1} {
			crashes++
			lost += lookAfterCrash(t, mem.Crash(rng, keep), acked, tried)
		}
	}
	faulty := vfstest.NewFaulty(lie(mem))
	faulty.Before = func(string, string) { look() }
	st := dirstore.OpenFS(faulty, nil)
	for i := range 9 {
		name := fmt.Sprintf("pack/%d/%d", i%2, i)
		data := bytes.Repeat([]byte{byte(i + 1)}, 10_000+i)
		tried[name] = data
		require.NoError(t, st.Create(ctx, name, data))
		acked[name] = data
		if i%3 == 2 {
			delete(acked, name) // from here on it may be there or not
			require.NoError(t, st.Remove(ctx, name))
			acked[name] = nil
		}
	}
	look()
	return crashes, lost
}

func lookAfterCrash(t *testing.T, mem *vfstest.Mem, acked, tried map[string][]byte) (lost int) {
	ctx := context.Background()
	st := dirstore.OpenFS(mem, nil)
	defer st.Close()
	found, err := storetest.Collect(st.List(ctx, ""))
	require.NoError(t, err)
	for name := range found {
		got, err := store.ReadAll(ctx, st, name, 1<<20)
		require.NoError(t, err)
		if gone, ok := acked[name]; !bytes.Equal(got, tried[name]) || ok && gone == nil {
			lost++
		}
	}
	for name, data := range acked {
		if _, ok := found[name]; data != nil && !ok {
			lost++
		}
	}
	_, err = st.Sweep(ctx, false)
	require.NoError(t, err)
	require.Empty(t, temps(t, mem), "what a dead writer left is known as such")
	require.NoError(t, st.Create(ctx, "pack/0/next", []byte("x")))
	return lost
}
