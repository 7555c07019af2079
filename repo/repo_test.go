package repo_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
)

// testKey opens test repositories at once; a passphrase would cost a quarter of a second each time.
var testKey = repo.KeyFile([32]byte{1, 2, 3})

func newRepository(t testing.TB, st store.Store, opts *repo.InitOptions) *repo.Repository {
	t.Helper()
	secret := testKey
	if opts != nil && opts.NoEncryption {
		secret = nil
	}
	r, err := repo.Init(t.Context(), st, secret, opts, openOptions(t))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

func openOptions(t testing.TB) *repo.OpenOptions {
	return &repo.OpenOptions{CacheDir: t.TempDir(), Warn: func(s string) { t.Log("warning:", s) }}
}

// R023, R174, R182: what any backend must do.
func TestBackend(t *testing.T) {
	for name, opts := range map[string]*repo.InitOptions{
		"encrypted": {BlockSize: 64 << 10},
		"clear":     {BlockSize: 64 << 10, NoEncryption: true, Compression: pipe.Fast},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pipetest.TestBackend(t, func(t testing.TB) pipe.Backend { return newRepository(t, memstore.New(nil), opts) })
		})
	}
}
