package mover

import (
	"context"
	"errors"
	"iter"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/session"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
	"github.com/hikae/hikae/pipe/pipetest"
)

// frail is a backend whose listings can fail.
type frail struct {
	pipe.Backend
	fail   atomic.Bool // the next listing
	begins atomic.Int64
}

func (b *frail) Points(ctx context.Context, vm string) iter.Seq2[pipe.PointInfo, error] {
	if b.fail.Swap(false) {
		return func(yield func(pipe.PointInfo, error) bool) {
			yield(pipe.PointInfo{}, errors.New("read log: i/o timeout"))
		}
	}
	return b.Backend.Points(ctx, vm)
}

func (b *frail) Begin(ctx context.Context, vm string, o *pipe.PointOptions) (pipe.PointWriter, error) {
	b.begins.Add(1)
	return b.Backend.Begin(ctx, vm, o)
}

func (b *frail) ids(t testing.TB) (ids []string) {
	t.Helper()
	for p, err := range b.Backend.Points(t.Context(), "") {
		require.NoError(t, err)
		ids = append(ids, p.ID)
	}
	return ids
}

// lives is a target that is started anew for each session: it remembers what its backend has, and no attempt.
func (b *frail) lives(t testing.TB, wrap func(n int, d *direct) line) *Client {
	return testClient(t, func(n int, push func(wire.Message)) (line, error) {
		host := newHostFor(t, b, nil)
		host.tenants.secret = [32]byte{1} // of one StateDir
		h, err := newHandler(t.Context(), host, trust.Peer{Name: "web", Role: trust.Append}, push)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, h.Close()) })
		return wrap(n, newDirect(h)), nil
	}, nil)
}

// dying is lost at a kind of call, which it may have carried out.
type dying struct {
	*direct
	at         wire.Kind
	carriedOut bool
}

func (d *dying) CallNumbered(ctx context.Context, req wire.Message) (uint64, wire.Message, error) {
	if req.Kind() != d.at {
		return d.direct.CallNumbered(ctx, req)
	}
	if d.carriedOut {
		_, _, _ = d.direct.CallNumbered(ctx, req)
	}
	return 0, nil, errors.Join(session.ErrLost, d.h.Close())
}

// markedPoint is a point of one disk, all of it marked, up to its commit.
func markedPoint(t testing.TB, c *Client, opts *pipe.PointOptions) (pipe.PointWriter, pipe.Target) {
	t.Helper()
	w, err := c.Begin(t.Context(), "vm", opts)
	require.NoError(t, err)
	d, err := w.Disk(t.Context(), "d", testBlock)
	require.NoError(t, err)
	require.NoError(t, d.(pipe.ExtentTarget).Mark(t.Context(), pipe.Extent{Len: testBlock, Kind: pipe.Zero}))
	return w, d
}

// PROTOCOL.md 7.8, RELIABILITY 1.2: a mover that was frozen until its session had ended, and another had committed a point of
// its VM, commits nothing, and begins nothing: not even where the target was started anew and remembers nothing of both.
func TestThawedMoverDoesNotCommitBehindItsSuccessor(t *testing.T) {
	b := &frail{Backend: pipetest.NewBackend(testBlock)}
	plain := func(_ int, d *direct) line { return d }
	before := b.lives(t, plain)
	early, d := markedPoint(t, before, nil)
	require.NoError(t, d.Commit(t.Context()))
	_, err := early.Commit(t.Context(), nil)
	require.NoError(t, err)

	frozen := b.lives(t, func(n int, d *direct) line {
		if n == 1 {
			return &dying{direct: d, at: wire.KindSealDisk}
		}
		return d
	})
	old, oldDisk := markedPoint(t, frozen, &pipe.PointOptions{Time: time.Now().Add(-5 * time.Hour)})

	next, d := markedPoint(t, b.lives(t, plain), nil)
	require.NoError(t, d.Commit(t.Context()))
	_, err = next.Commit(t.Context(), nil)
	require.NoError(t, err)
	stood, begins := b.ids(t), b.begins.Load()
	require.Len(t, stood, 2)

	require.ErrorIs(t, oldDisk.Commit(t.Context()), ErrFenced)
	_, err = old.Commit(t.Context(), nil)
	require.ErrorIs(t, err, ErrFenced, "and it stays so")
	require.NoError(t, old.Close())
	require.Equal(t, stood, b.ids(t))
	require.Equal(t, begins, b.begins.Load(), "a Begin would have put a running successor aside")
}

// A successor that commits between the look and the Begin is seen behind it.
func TestThawedMoverMeetsACommitThatWasUnderWay(t *testing.T) {
	b := &frail{Backend: pipetest.NewBackend(testBlock)}
	other, err := b.Backend.Begin(t.Context(), "web/vm", nil)
	require.NoError(t, err)
	frozen := b.lives(t, func(n int, d *direct) line {
		if n == 1 {
			return &dying{direct: d, at: wire.KindSealDisk}
		}
		return &hooked{d, func(req wire.Message) {
			if req.Kind() == wire.KindBegin {
				_, err := other.Commit(t.Context(), nil)
				require.NoError(t, err)
			}
		}}
	})
	_, d := markedPoint(t, frozen, nil)
	require.ErrorIs(t, d.Commit(t.Context()), ErrFenced)
	require.Len(t, b.ids(t), 1)
}

// A listing that fails is not "no such point": a commit is not made again where it cannot be told whether it was made.
func TestCommitIsNotRepeatedOverADamagedListing(t *testing.T) {
	for name, before := range map[string]bool{"it was sound before": false, "it was damaged before": true} {
		t.Run(name, func(t *testing.T) {
			b := &frail{Backend: pipetest.NewBackend(testBlock)}
			b.fail.Store(before)
			c := b.lives(t, func(n int, d *direct) line {
				if n == 1 {
					return &dying{direct: d, at: wire.KindCommit, carriedOut: true}
				}
				b.fail.Store(true)
				return d
			})
			w, d := markedPoint(t, c, nil)
			require.NoError(t, d.Commit(t.Context()))
			_, err := w.Commit(t.Context(), nil)
			require.ErrorIs(t, err, ErrCorrupt)
			require.ErrorContains(t, err, "i/o timeout")
			require.Len(t, b.ids(t), 1)
			require.EqualValues(t, 1, b.begins.Load())
		})
	}
}

// What could not be listed when the point was begun does not stop it, and is not held against points that are there later.
func TestStandingThatCouldNotBeRead(t *testing.T) {
	b := &frail{Backend: pipetest.NewBackend(testBlock)}
	plain := func(_ int, d *direct) line { return d }
	mustBackup(t, b.lives(t, plain), "vm", pipetest.NewPattern(1, testBlock), nil)

	b.fail.Store(true)
	w, d := markedPoint(t, b.lives(t, plain), nil)
	require.NoError(t, d.Commit(t.Context()))
	_, err := w.Commit(t.Context(), nil)
	require.NoError(t, err)

	c := b.lives(t, func(n int, d *direct) line {
		if n == 1 {
			b.fail.Store(true)
			return &dying{direct: d, at: wire.KindSealDisk}
		}
		return d
	})
	_, d = markedPoint(t, c, nil)
	err = d.Commit(t.Context())
	require.ErrorIs(t, err, ErrLostContent, "nobody can tell")
	require.NotErrorIs(t, err, ErrFenced)
	require.Len(t, b.ids(t), 2)

	// Damage that is new may hide a successor. It may pass, too.
	c = b.lives(t, plain)
	w, d = markedPoint(t, c, nil)
	zero := pipe.Extent{Len: testBlock, Kind: pipe.Zero}
	c.lost(c.current.Load())
	b.fail.Store(true)
	require.ErrorIs(t, d.(pipe.ExtentTarget).Mark(t.Context(), zero), ErrCorrupt)
	require.NoError(t, d.(pipe.ExtentTarget).Mark(t.Context(), zero))
	require.NoError(t, d.Commit(t.Context()))
	_, err = w.Commit(t.Context(), nil)
	require.NoError(t, err)
	require.Len(t, b.ids(t), 3)
}
