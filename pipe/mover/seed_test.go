package mover

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
)

// What was seeded for a peer is known to it and to nobody else, once its point is committed and not before; what is torn
// or somebody else's is left out.
func TestSeeded(t *testing.T) {
	dir := t.TempDir()
	ts, err := openTenants(dir)
	require.NoError(t, err)
	s, err := NewSeeding(dir, "site-a", nil)
	require.NoError(t, err)
	vm, err := s.VM("web1")
	require.NoError(t, err)
	require.Equal(t, "site-a/web1", vm)
	_, err = s.VM("../b")
	require.Error(t, err)

	content := []byte("some block")
	seed := func(backend byte, commit bool) {
		w := newSeedWriter(t, s)
		w.note(s.tenant.fingerprint(append(content, backend)), pipe.ID{backend})
		if commit {
			_, err := w.Commit(t.Context(), nil)
			require.NoError(t, err)
		}
		require.NoError(t, w.Close())
	}
	seed(1, true)
	seed(2, false)
	files, err := filepath.Glob(filepath.Join(dir, "known", "*"+seedName+"*"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	data, err := os.ReadFile(files[0])
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(files[0]+"x", append(make([]byte, knownRecord), data[:40]...), 0o600)) // unsound, and torn

	a, err := ts.open("site-a")
	require.NoError(t, err)
	require.NoFileExists(t, files[0])
	id, ok := a.known.lookup(a.fingerprint(append(content, 1)))
	require.True(t, ok)
	require.Equal(t, pipe.ID{1}, id)
	_, ok = a.known.lookup(a.fingerprint(append(content, 2)))
	require.False(t, ok)
	b, err := ts.open("site-b")
	require.NoError(t, err)
	_, ok = b.known.lookup(a.fingerprint(append(content, 1)))
	require.False(t, ok)
	left, err := filepath.Glob(filepath.Join(dir, "known", "*s*eed*"))
	require.NoError(t, err)
	require.Empty(t, left)

	seed(3, true) // while the table is open
	again, err := ts.open("site-a")
	require.NoError(t, err)
	_, ok = again.known.lookup(a.fingerprint(append(content, 3)))
	require.True(t, ok)
	require.NoError(t, ts.close())
}

func newSeedWriter(t *testing.T, s *Seeding) *seedWriter {
	s.Backend = nothing{}
	w, err := s.Begin(t.Context(), "site-a/web1", nil)
	require.NoError(t, err)
	return w.(*seedWriter)
}

// nothing is a backend whose points are empty.
type nothing struct{ pipe.Backend }

type emptyPoint struct{ pipe.PointWriter }

func (nothing) Begin(context.Context, string, *pipe.PointOptions) (pipe.PointWriter, error) {
	return emptyPoint{}, nil
}
func (emptyPoint) Commit(context.Context, map[string]string) (string, error) { return "p", nil }
func (emptyPoint) Close() error                                              { return nil }

// What cannot be taken over costs sending blocks again; it shuts nobody out, and is tried again.
func TestSeedThatCannotBeTakenOver(t *testing.T) {
	dir := t.TempDir()
	ts, err := openTenants(dir)
	require.NoError(t, err)
	warned := 0
	ts.warn = func(string, ...any) { warned++ }
	seed := ts.knownPath("site-a") + seedName + "x"
	require.NoError(t, os.MkdirAll(seed, 0o700)) // a folder cannot be read as a file, by root neither
	for range 2 {
		_, err = ts.open("site-a")
		require.NoError(t, err)
	}
	require.Equal(t, 2, warned)
	require.NoError(t, ts.close())
}

// The blocks are handed over before the point is committed: a kill between the two costs nothing.
func TestSeedBeforeCommit(t *testing.T) {
	dir := t.TempDir()
	s, err := NewSeeding(dir, "site-a", nil)
	require.NoError(t, err)
	w := newSeedWriter(t, s)
	w.note(pipe.ID{1}, pipe.ID{2})
	w.PointWriter = lookedAt{func() {
		handed, err := filepath.Glob(s.path + seedName + "*")
		require.NoError(t, err)
		require.Len(t, handed, 1)
	}}
	_, err = w.Commit(t.Context(), nil)
	require.NoError(t, err)
	require.NoError(t, w.Close())
}

type lookedAt struct{ look func() }

func (w lookedAt) Commit(context.Context, map[string]string) (string, error) {
	w.look()
	return "p", nil
}
func (lookedAt) Close() error                                             { return nil }
func (lookedAt) Disk(context.Context, string, int64) (pipe.Target, error) { return nil, nil }
func (lookedAt) Blob(context.Context, string, io.Reader) error            { return nil }
