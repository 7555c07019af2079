package dirstore_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/dirstore"
	"github.com/hikae/hikae/repo/store/dirstore/vfs"
	"github.com/hikae/hikae/repo/store/dirstore/vfs/vfstest"
)

// elsewhere is a file system as seen from another place.
type elsewhere struct {
	vfs.FS
	place vfs.Place
}

func (e elsewhere) Place() vfs.Place { return e.place }

// unfinished lets a store die with one unfinished file, and frees its lock where dead.
func unfinished(t *testing.T, mem *vfstest.Mem, place vfs.Place, dead bool) {
	t.Helper()
	faulty := vfstest.NewFaulty(elsewhere{mem, place})
	st := dirstore.OpenFS(faulty, nil)
	faulty.Set(vfstest.Fault{Op: "write", N: 1})
	faulty.Before = func(op, name string) {
		if op == "write" { // the writer never gets to remove the file
			faulty.Set(vfstest.Fault{N: 1, Sticky: true})
		}
	}
	require.Error(t, st.Create(t.Context(), "p/1", make([]byte, 100)))
	if dead {
		mem.ReleaseAll()
	}
}

// Only what a lock can prove is removed; a person or a lease can vouch for the rest.
func TestSweepRemovesOnlyTheProvablyDead(t *testing.T) {
	here := vfs.Place{Kernel: "1", Local: true}
	cases := map[string]struct {
		writer, sweeper vfs.Place
		dead            bool
		swept, alone    int
	}{
		"alive":                             {here, here, false, 0, 0},
		"dead":                              {here, here, true, 1, 0},
		"dead since an earlier start":       {vfs.Place{Kernel: "2", Local: true}, here, true, 1, 0},
		"on a share, same kernel":           {vfs.Place{Kernel: "1"}, vfs.Place{Kernel: "1"}, true, 1, 0},
		"on a share, another kernel":        {vfs.Place{Kernel: "2"}, vfs.Place{Kernel: "1"}, true, 0, 1},
		"from a share, seen by its server":  {vfs.Place{Kernel: "2"}, here, true, 0, 1},
		"on the server, seen from a client": {here, vfs.Place{Kernel: "2"}, true, 0, 1},
		"kernels unknown":                   {vfs.Place{}, vfs.Place{}, true, 0, 1},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			mem := vfstest.NewMem()
			unfinished(t, mem, c.writer, c.dead)
			require.Len(t, temps(t, mem), 1)
			st := dirstore.OpenFS(elsewhere{mem, c.sweeper}, nil)
			swept, err := st.Sweep(t.Context(), false)
			require.NoError(t, err)
			assert.Equal(t, c.swept, swept.Removed)
			assert.Equal(t, 1-c.swept, swept.Kept)
			swept, err = st.Sweep(t.Context(), true)
			require.NoError(t, err)
			assert.Equal(t, c.alone, swept.Removed)
			if c.dead {
				assert.Empty(t, tree(t, mem)[".tmp/"], "nothing is left")
				assert.Empty(t, temps(t, mem))
			} else {
				assert.Len(t, temps(t, mem), 1)
			}
		})
	}
}

// A file system without locks proves nothing.
func TestSweepWithoutLocks(t *testing.T) {
	mem := vfstest.NewMem()
	noLocks := vfstest.NewFaulty(mem)
	noLocks.Set(vfstest.Fault{Op: "hold", N: 1, Sticky: true, Err: errUnsupported})
	st := dirstore.OpenFS(noLocks, nil)
	require.NoError(t, st.Create(t.Context(), "p/1", nil))
	f, err := mem.Create(firstWriter(t, mem) + "/99")
	require.NoError(t, err)
	_, err = f.Write(make([]byte, 7))
	require.NoError(t, err)

	other := dirstore.OpenFS(mem, nil)
	swept, err := other.Sweep(t.Context(), false)
	require.NoError(t, err)
	assert.Equal(t, store.Swept{Kept: 1}, swept)
	swept, err = st.Sweep(t.Context(), true)
	require.NoError(t, err)
	assert.Equal(t, store.Swept{}, swept, "a store does not sweep itself")
	swept, err = other.Sweep(t.Context(), true)
	require.NoError(t, err)
	assert.Equal(t, store.Swept{Removed: 1, Bytes: 7}, swept)
	require.NoError(t, st.Create(t.Context(), "p/2", nil), "the swept store goes on in a new folder")
}

func firstWriter(t *testing.T, mem *vfstest.Mem) string {
	for fi, err := range mem.ReadDir(".tmp") {
		require.NoError(t, err)
		return ".tmp/" + fi.Name()
	}
	t.Fatal("no writer")
	return ""
}

// What no store made is left alone.
func TestSweepLeavesForeignFiles(t *testing.T) {
	mem := vfstest.NewMem()
	require.NoError(t, mem.Mkdir(".tmp"))
	for _, name := range []string{".tmp/mine", ".tmp/local-1-short", ".tmp/other-1-0123456789abcdef"} {
		require.NoError(t, mem.Mkdir(name))
	}
	before := tree(t, mem)
	swept, err := dirstore.OpenFS(mem, nil).Sweep(t.Context(), true)
	require.NoError(t, err)
	assert.Equal(t, store.Swept{}, swept)
	assert.Equal(t, before, tree(t, mem))
}
