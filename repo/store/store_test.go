package store_test

import (
	"context"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/storetest"
)

func TestValidName(t *testing.T) {
	good := []string{
		"a", "0", "a/b", "pack/7f/3a-b.c", "log/000001", "1/2/3/4/5/6/7/8", "a..b", "-", "com", "com10", "com/lpt",
		"console", "nul0", strings.Repeat("a", store.MaxName),
	}
	for _, name := range good {
		assert.True(t, store.ValidName(name), name)
		assert.True(t, store.ValidPrefix(name+"/"), name)
		assert.False(t, store.ValidPrefix(name), name)
	}
	bad := []string{
		"", "/", "a/", "/a", "a//b", ".", "..", "a/..", "../a", "...", ".a", "a.", "a/b.", "A", "a_b", "a b", `a\b`, "a:b",
		"a\x00b", "é", "con", "nul.txt", "x/prn", "aux.", "com1", "lpt0.a.b", "1/2/3/4/5/6/7/8/9",
		strings.Repeat("a", store.MaxName+1),
	}
	for _, name := range bad {
		assert.False(t, store.ValidName(name), name)
		assert.False(t, store.ValidPrefix(name+"/"), name)
	}
	assert.True(t, store.ValidPrefix(""))
}

// FuzzValidName: no name that passes leads anywhere but below the directory, on this system or another.
func FuzzValidName(f *testing.F) {
	for _, s := range []string{"a/b", "..", "a/../../b", "/etc/passwd", `..\x`, "c:", "nul", "a.", ".tmp/1", "//h/s", "a\x00"} {
		f.Add(s)
	}
	root := f.TempDir()
	f.Fuzz(func(t *testing.T, name string) {
		if !store.ValidName(name) {
			return
		}
		require.True(t, fs.ValidPath(name))
		require.True(t, filepath.IsLocal(filepath.FromSlash(name)))
		require.Equal(t, name, path.Clean(name))
		require.LessOrEqual(t, len(name), store.MaxName)
		require.Equal(t, name, strings.ToLower(name))
		require.NotContains(t, name, "..\\")
		rel, err := filepath.Rel(root, filepath.Join(root, name))
		require.NoError(t, err)
		require.Equal(t, name, filepath.ToSlash(rel))
		for part := range strings.SplitSeq(name, "/") {
			require.NotEqual(t, byte('.'), part[0])
			require.NotEqual(t, byte('.'), part[len(part)-1])
			require.False(t, reserved(part), "%q is a device on Windows", part)
		}
	})
}

// reserved is the rule as Windows documents it, written down a second time.
func reserved(part string) bool {
	stem := strings.ToUpper(strings.SplitN(part, ".", 2)[0])
	for _, d := range strings.Fields("CON PRN AUX NUL COM0 COM1 COM2 COM3 COM4 COM5 COM6 COM7 COM8 COM9 LPT0 LPT1 LPT2 LPT3 LPT4 LPT5 LPT6 LPT7 LPT8 LPT9") {
		if stem == d {
			return true
		}
	}
	return false
}

func TestReadAllHasABound(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	require.NoError(t, st.Create(ctx, "a", make([]byte, 11)))
	_, err := store.ReadAll(ctx, st, "a", 10)
	require.ErrorContains(t, err, "larger")
	p, err := store.ReadAll(ctx, st, "a", 11)
	require.NoError(t, err)
	assert.Len(t, p, 11)
}

// An object that is shorter than Stat said is an error, never a short answer.
func TestReadAllOfAShrunkObject(t *testing.T) {
	ctx := t.Context()
	mem := memstore.New(nil)
	require.NoError(t, mem.Create(ctx, "a", make([]byte, 100)))
	st := storetest.NewFaulty(mem, storetest.Fault{Op: storetest.Read, Mode: storetest.Truncated})
	_, err := store.ReadAll(ctx, st, "a", 1000)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	var pe *os.PathError
	require.ErrorAs(t, err, &pe)
	assert.Equal(t, "a", pe.Path)
}

func TestAsLooksBehindWrappers(t *testing.T) {
	st := storetest.NewCounting(storetest.NewRecording(memstore.New(nil)))
	p, ok := store.As[store.Prober](st)
	require.True(t, ok)
	found, err := p.Probe(context.Background())
	require.NoError(t, err)
	assert.True(t, found.Shared())

	_, ok = store.As[interface{ Nothing() }](st)
	assert.False(t, ok)
}
