package queue_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/job/queue"
	"github.com/hikae/hikae/job/queue/queuetest"
)

func TestMemory(t *testing.T) {
	q := queue.NewMemory(&queue.MemoryOptions{Lease: 400 * time.Millisecond})
	t.Cleanup(func() { require.NoError(t, q.Close()) })
	for _, c := range queuetest.Checks {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			require.NoError(t, c.Run(t.Context(), q))
		})
	}
}
