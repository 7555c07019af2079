package mover

import (
	"context"
	"io/fs"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// hooked runs a hook behind the answer of a call.
type hooked struct {
	line
	after func(req wire.Message)
}

func (h *hooked) CallNumbered(ctx context.Context, req wire.Message) (uint64, wire.Message, error) {
	n, a, err := h.line.CallNumbered(ctx, req)
	h.after(req)
	return n, a, err
}

// twoWriters are of one client whose target dies behind the commit of the first.
type twoWriters struct {
	client        *Client
	first, second *remoteWriter
	disk          pipe.Target // of the first
	stop          context.CancelFunc
	err           error // of the first's commit
}

// commitAndLose has the target die behind the first writer's commit. While that is looked for in session 2, the second
// writer is put back there, and has the number that the first had in session 1.
func commitAndLose(t *testing.T, meanwhile func(*twoWriters)) *twoWriters {
	m := newMortal(t)
	m.kind = wire.KindCommit
	m.when = func(n int) (uint64, bool) { return uint64(1 - min(n, 1)), true }
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	two := &twoWriters{stop: cancel}
	var once sync.Once
	two.client = testClient(t, func(n int, push func(wire.Message)) (line, error) {
		l, err := m.begin(n, push)
		if err != nil || n == 1 {
			return l, err
		}
		return &hooked{l, func(req wire.Message) {
			if p, ok := req.(*wire.Points); ok && p.VM == "vm1" {
				once.Do(func() {
					_, err := two.second.Disk(t.Context(), "late", testBlock)
					require.NoError(t, err)
					meanwhile(two)
				})
			}
		}}, nil
	}, nil)
	t.Cleanup(func() { require.NoError(t, two.client.Close()); m.last.end() })
	begin := func(vm string) *remoteWriter {
		w, err := two.client.Begin(t.Context(), vm, nil)
		require.NoError(t, err)
		return w.(*remoteWriter)
	}
	two.first, two.second = begin("vm1"), begin("vm2")
	ref := two.first.ref
	var err error
	two.disk, err = two.first.Disk(t.Context(), "d", testBlock)
	require.NoError(t, err)
	require.NoError(t, two.disk.(pipe.ExtentTarget).Mark(t.Context(), pipe.Extent{Len: testBlock, Kind: pipe.Zero}))
	require.NoError(t, two.disk.Commit(t.Context()))
	_, two.err = two.first.Commit(ctx, nil)
	require.Equal(t, ref, two.second.ref, "the same number in two sessions")
	return two
}

// A number of a lost session means something else in the next: what a writer found committed there is not asked about, told
// to be gone, or dropped by it.
func TestNumberOfALostSessionIsNotUsed(t *testing.T) {
	two := commitAndLose(t, func(*twoWriters) {})
	require.NoError(t, two.err)
	e := two.client.current.Load()
	e.mu.Lock()
	require.Same(t, two.second, e.writers[two.second.ref], "it is told what is durable")
	e.mu.Unlock()
	require.Nil(t, two.first.askUsage())
	require.NoError(t, two.first.Close())
	_, err := two.second.Disk(t.Context(), "another", testBlock)
	require.NoError(t, err)
}

// The same for a caller that leaves just then.
func TestNumberOfALostSessionIsNotDropped(t *testing.T) {
	two := commitAndLose(t, func(two *twoWriters) { two.stop() })
	require.ErrorIs(t, two.err, context.Canceled)
	_, err := two.second.Disk(t.Context(), "another", testBlock)
	require.NoError(t, err, "the second point has nothing to do with the first")
}

// And for disks, whose numbers are as old: nothing is written to one by a point that was found committed.
func TestDiskOfALostSessionIsNotUsed(t *testing.T) {
	c := forgetful(t, wire.KindCommit, func(call uint64, req wire.Message) (wire.Message, error) {
		switch req.Kind() {
		case wire.KindBegin:
			return nil, &wire.Fail{Code: wire.CodeExists, Object: "p9", Text: "this attempt was committed"}
		case wire.KindStartDisk, wire.KindMark, wire.KindDropDisk, wire.KindDropPoint, wire.KindUsage:
			t.Errorf("%v about a point that is not open", req.Kind())
		}
		return honest(call, req)
	})
	w, err := c.Begin(t.Context(), "vm", nil)
	require.NoError(t, err)
	d, err := w.Disk(t.Context(), "d", testBlock)
	require.NoError(t, err)
	rw := w.(*remoteWriter)
	rw.committing = true // as behind a Commit whose answer has not come
	c.lost(rw.in)
	err = d.(pipe.ExtentTarget).Mark(t.Context(), pipe.Extent{Len: testBlock, Kind: pipe.Zero})
	require.ErrorIs(t, err, fs.ErrClosed)
	require.NoError(t, d.Close())
	_, err = w.Disk(t.Context(), "e", testBlock)
	require.ErrorIs(t, err, fs.ErrClosed)
	id, err := w.Commit(t.Context(), nil)
	require.NoError(t, err)
	require.Equal(t, "p9", id)
}
