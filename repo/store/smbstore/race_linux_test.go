package smbstore_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store/smbstore"
	"github.com/hikae/hikae/repo/store/storetest"
)

// Many writers, each with connections of its own, want the same names in the same order, so that claims are made, left
// and removed all the time. Samba makes a file on its disk before it knows who has it open, and a claim may be removed
// in between: its maker has to see that.
func TestManyWritersWantTheSameNames(t *testing.T) {
	server := startSamba(t)
	writers, count := 6, 40
	if long() {
		count = 1000
	}
	names := make([]string, count)
	for i := range names {
		names[i] = fmt.Sprintf("log/%d", i)
	}
	won := make([][]string, writers)
	stores := make([]*smbstore.Store, writers)
	for w := range writers {
		opts := quick()
		opts.Connections = 2
		stores[w] = server.open(t, "repo", opts)
	}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			var err error
			won[w], err = storetest.Race(t.Context(), stores[w], fmt.Sprint("writer ", w), names)
			assert.NoError(t, err)
		})
	}
	wg.Wait()
	owner := map[string]string{}
	for w := range writers {
		for _, name := range won[w] {
			require.Empty(t, owner[name], "%s was won twice, by writer %d too", name, w)
			owner[name] = fmt.Sprint("writer ", w)
		}
	}
	require.Len(t, owner, count)
	for _, name := range names {
		got, err := storetest.Winner(t.Context(), stores[0], name)
		require.NoError(t, err)
		require.Equal(t, owner[name], got, name)
	}
}
