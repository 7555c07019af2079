package smbstore_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/storetest"
)

// R175, R177: the whole suite for stores, on a real Samba.
func TestStore(t *testing.T) {
	server := startSamba(t)
	var n atomic.Int64
	storetest.TestStore(t, func(t testing.TB) store.Store {
		return server.open(t, fmt.Sprintf("a/repo%d", n.Add(1)), nil)
	})
}

// The suite that checks a live store, on the share itself, leaves nothing behind.
func TestCheck(t *testing.T) {
	if !long() {
		t.Skip("the suite once more is for HIKAE_TEST_TIER=long")
	}
	server := startSamba(t)
	st := server.open(t, "", nil) // the share itself
	require.NoError(t, storetest.Check(t.Context(), st, nil))
	found, err := st.Probe(t.Context())
	require.NoError(t, err)
	require.True(t, found.Shared(), "%+v", found)
}
