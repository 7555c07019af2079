package natsqueue_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/job/queue"
)

// A message of the greatest size goes through a server, is buried with a reason of the greatest size, and comes back.
func TestLargestMessage(t *testing.T) {
	q := open(t, startServer(t).URL(), 10*time.Second)
	m := queue.Message{ID: strings.Repeat(`"`, queue.MaxID), Label: "site/a", Body: []byte(`"` + strings.Repeat("<", queue.MaxBody-2) + `"`)}
	added, err := q.Put(t.Context(), m)
	require.NoError(t, err)
	require.True(t, added)
	d, err := q.Take(t.Context(), []string{"site/a"})
	require.NoError(t, err)
	require.Equal(t, m, d.Message())
	require.NoError(t, d.Bury(t.Context(), strings.Repeat("\x01\"", queue.MaxReason)))
	dead := 0
	for letter, err := range q.Dead(t.Context()) {
		require.NoError(t, err)
		require.Equal(t, m, letter.Message)
		dead++
	}
	require.Equal(t, 1, dead)
	require.NoError(t, q.Revive(t.Context(), m.ID))
}
