package queuetest_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/job/queue"
	"github.com/hikae/hikae/job/queue/queuetest"
)

// broken breaks one promise.
type broken struct {
	queue.Queue
	putTwice, earlyAgain, noConflict bool
}

func (b *broken) Put(ctx context.Context, m queue.Message) (bool, error) {
	added, err := b.Queue.Put(ctx, m)
	return added || b.putTwice && err == nil, err
}

func (b *broken) Take(ctx context.Context, labels []string) (queue.Delivery, error) {
	d, err := b.Queue.Take(ctx, labels)
	if err == nil && b.earlyAgain {
		d = hasty{d}
	}
	return d, err
}

func (b *broken) Table(ctx context.Context, name string) (queue.Table, error) {
	t, err := b.Queue.Table(ctx, name)
	if b.noConflict {
		t = overwriting{t}
	}
	return t, err
}

type hasty struct{ queue.Delivery }

func (h hasty) Fail(ctx context.Context, _ time.Duration) error { return h.Delivery.Fail(ctx, 0) }

// overwriting changes an entry whatever revision it has.
type overwriting struct{ queue.Table }

func (o overwriting) Update(ctx context.Context, key string, value []byte, _ uint64) (uint64, error) {
	e, err := o.Get(ctx, key)
	if err != nil {
		return 0, err
	}
	return o.Table.Update(ctx, key, value, e.Revision)
}

// Each broken promise is found by its check, and by no other that has nothing to do with it.
func TestSuiteFindsBrokenQueues(t *testing.T) {
	for name, c := range map[string]struct {
		queue broken
		found string
	}{
		"a message is added twice":     {broken{putTwice: true}, "PutIsIdempotent"},
		"a delay is not kept":          {broken{earlyAgain: true}, "FailWaits"},
		"an old revision may change":   {broken{noConflict: true}, "CompareAndSet"},
		"nothing is wrong with itself": {broken{}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q := c.queue
			q.Queue = queue.NewMemory(&queue.MemoryOptions{Lease: 200 * time.Millisecond})
			for _, check := range queuetest.Checks {
				if check.Name != "PutIsIdempotent" && check.Name != "FailWaits" && check.Name != "CompareAndSet" {
					continue
				}
				err := check.Run(t.Context(), &q)
				if check.Name == c.found {
					require.Error(t, err, check.Name)
				} else {
					require.NoError(t, err)
				}
			}
		})
	}
}
