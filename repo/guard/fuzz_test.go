package guard_test

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/internal/object"
	"github.com/hikae/hikae/repo/store"
)

// FuzzAppend gives the guard any bytes under the names that an append peer may use: it refuses them or, where they are
// what a good client would have brought, stores them unchanged; it never panics, and never stores anything else.
func FuzzAppend(f *testing.F) {
	s := newSite(f)
	a := takeOver(s, "web-host", s.enrol("web"))
	lease := a.lease()
	n, _ := a.head()
	id := fmt.Sprintf("%032x", 7)
	names := []string{
		fmt.Sprintf("log/%016x", n+1), fmt.Sprintf("copy1/log/%016x", n), fmt.Sprintf("data/%016x/%s", lease, id),
		fmt.Sprintf("meta/%016x/%s", lease, id), fmt.Sprintf("index/%016x/%s", lease, id), fmt.Sprintf("manifest/%016x-%s", lease, id),
		fmt.Sprintf("beat/%016x/%016x", lease, 0), fmt.Sprintf("anchor/%016x/%s", lease, id),
	}
	_, record := a.record(a.seed, map[string]any{"access": "write"})
	f.Add(uint8(0), record)
	_, commit := a.record(a.seed, map[string]any{"kind": "commit", "lease": lease, "vm": a.tags["web"]})
	f.Add(uint8(0), commit)
	f.Add(uint8(0), a.signed(a.seed, []byte("{}")))
	f.Add(uint8(0), a.signed(a.seed, []byte(`{"n":1e99}`)))
	last, err := store.ReadAll(f.Context(), a.st, fmt.Sprintf("log/%016x", n), 1<<20)
	require.NoError(f, err)
	f.Add(uint8(1), last)
	for i, kind := range []uint8{object.KindData, object.KindMeta, object.KindIndex, object.KindManifest} {
		_, file := a.sealed(kind, "x", lease, 100)
		f.Add(uint8(i+2), file)
	}
	_, beat := a.object(object.KindBeat, object.SuiteClear, []object.Wrapper{object.Clear{}}, []byte("{}"))
	f.Add(uint8(6), beat)
	f.Add(uint8(7), []byte(nil))
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		name := names[int(which)%len(names)]
		err := a.st.Create(t.Context(), name, data)
		if err == nil {
			got, err := store.ReadAll(t.Context(), s.st, name, 1<<30)
			require.NoError(t, err)
			require.Equal(t, data, got)
			s.st.Set(name, nil)
			return
		}
		require.True(t, errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrExist), "%v", err)
	})
}

// FuzzNames: no name that the guard takes for one of its own is one that a store or another part of it takes for
// something else.
func FuzzNames(f *testing.F) {
	for _, name := range []string{
		"log/0000000000000001", "data/0000000000000001/00000000000000000000000000000001", "beat/0000000000000001/0000000000000001",
		"manifest/0000000000000001-00000000000000000000000000000001", "log/000000000000000A", "data/+000000000000001/0", "log/",
	} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		_, object := repo.LeaseOf(name)
		_, record := repo.RecordOf(name)
		require.False(t, object && record)
		if object || record {
			require.True(t, store.ValidName(name), "%q", name)
		}
	})
}
