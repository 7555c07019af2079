package repo_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/memstore"
)

// FuzzWriterKey: what is read as a writer's key writes back as the same key.
func FuzzWriterKey(f *testing.F) {
	full, err := repo.Init(f.Context(), memstore.New(nil), testKey, nil, openOptions(f))
	require.NoError(f, err)
	f.Cleanup(func() { require.NoError(f, full.Close()) })
	text, err := enrol(f, full, "web", "db").MarshalText()
	require.NoError(f, err)
	f.Add(text)
	f.Add([]byte(`{"format":1,"vms":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		key, err := repo.ParseWriterKey(b)
		if err != nil {
			return
		}
		again, err := key.MarshalText()
		require.NoError(t, err)
		same, err := repo.ParseWriterKey(again)
		require.NoError(t, err)
		require.Equal(t, key, same)
		require.NotEmpty(t, key.VMs())
	})
}
