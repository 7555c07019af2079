package smbstore

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Leave leaves an unfinished file and a claim of a store's, open, as a writer does that is stopped between two calls.
func Leave(t testing.TB, st *Store, name string) (unfinished, claim string) {
	t.Helper()
	s := st.share
	require.NoError(t, s.retry(func(l *link) error {
		k, err := s.lock(l, claimOf(name))
		if err == nil {
			claim = k.name
			t.Cleanup(func() { require.NotNil(t, k.f) }) // the library closes what is forgotten
		}
		return err
	}))
	s.mu.Lock()
	defer s.mu.Unlock()
	for dir := range s.holds {
		unfinished = dir + "/99"
	}
	require.NotEmpty(t, unfinished)
	require.NoError(t, s.retry(func(l *link) error {
		f, err := s.makeNew(l, unfinished)
		t.Cleanup(func() { require.NotNil(t, f) })
		return err
	}))
	return unfinished, claim
}

// Cut breaks every connection of a store.
func Cut(st *Store) {
	p := st.share.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.links {
		l.kill()
	}
}
