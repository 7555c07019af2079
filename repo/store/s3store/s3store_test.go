package s3store_test

import (
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/s3store"
	"github.com/hikae/hikae/repo/store/s3store/s3test"
	"github.com/hikae/hikae/repo/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// place is a folder of a new bucket.
func place(t testing.TB, srv *s3test.Server, kind s3test.Kind) s3store.Address {
	return s3store.Address{Host: srv.Host, Bucket: srv.Bucket(t, kind), Prefix: "some/where", Plain: true}
}

func keys(srv *s3test.Server) s3store.CredentialsFunc {
	return s3store.Static(s3store.Credentials{AccessKey: srv.AccessKey, SecretKey: srv.SecretKey})
}

func open(t testing.TB, srv *s3test.Server, at s3store.Address, opts *s3store.Options) *s3store.Store {
	t.Helper()
	st, err := s3store.Open(t.Context(), at, keys(srv), opts)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, st.Close()) })
	return st
}

// quick waits for nobody for long.
var quick = &s3store.Options{GiveUp: 5 * time.Second, Timeout: 5 * time.Second}

// long reports whether more than the fast tier runs.
func long() bool {
	tier := os.Getenv("HIKAE_TEST_TIER")
	return tier == "long" || tier == "release"
}

func TestStore(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	for kind, name := range map[s3test.Kind]string{s3test.Plain: "plain", s3test.Versioned: "versioned", s3test.Locked: "locked"} {
		t.Run(name, func(t *testing.T) {
			if kind == s3test.Locked && !long() {
				t.Skip("long tier: where nothing is locked it is the same as versioned")
			}
			storetest.TestStore(t, func(t testing.TB) store.Store { return open(t, srv, place(t, srv, kind), quick) })
		})
	}
}

func TestProbe(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	for _, kind := range []s3test.Kind{s3test.Plain, s3test.Versioned, s3test.Locked} {
		st := open(t, srv, place(t, srv, kind), quick)
		found, err := st.Probe(t.Context())
		require.NoError(t, err)
		assert.True(t, found.Shared(), "%+v", found)
	}
}

// Several clients, as on several machines, create the same names.
func TestRaceOfClients(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	at := place(t, srv, s3test.Plain)
	var names []string
	for i := range 20 {
		names = append(names, "race/"+strings.Repeat("x", i+1))
	}
	var mu sync.Mutex
	owner := map[string]string{}
	var wg sync.WaitGroup
	for _, writer := range []string{"a", "b", "c", "d"} {
		st := open(t, srv, at, quick)
		wg.Go(func() {
			won, err := storetest.Race(context.WithoutCancel(t.Context()), st, writer, names)
			assert.NoError(t, err)
			mu.Lock()
			defer mu.Unlock()
			for _, name := range won {
				assert.Empty(t, owner[name], "won twice")
				owner[name] = writer
			}
		})
	}
	wg.Wait()
	st := open(t, srv, at, quick)
	for _, name := range names {
		got, err := storetest.Winner(t.Context(), st, name)
		require.NoError(t, err)
		assert.Equal(t, owner[name], got)
	}
}
