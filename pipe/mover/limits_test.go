package mover

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// One peer's points do not fill the queue.
func TestWaitingPointsOfOnePeer(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		a := newAdmission(1, 4*maxWaitingOf)
		require.NoError(t, a.enter(t.Context(), "db"))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 2*maxWaitingOf)
		for range maxWaitingOf {
			go func() { done <- a.enter(ctx, "web") }()
		}
		synctest.Wait()
		require.EqualValues(t, maxWaitingOf, a.waiting.Load())
		require.Equal(t, wire.CodeBusy, toFail(a.enter(ctx, "web")).Code)
		go func() { done <- a.enter(ctx, "other") }()
		synctest.Wait()
		require.EqualValues(t, maxWaitingOf+1, a.waiting.Load())
		cancel()
		for range maxWaitingOf + 1 {
			require.ErrorIs(t, <-done, context.Canceled)
		}
		require.Zero(t, a.waiting.Load())
		require.Empty(t, a.of)
	})
}

// A standstill of the machine is not time in which somebody could have come.
func TestClockStandsStill(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		c := clock{start: time.Now()}
		at := c.now()
		for range 4 {
			time.Sleep(15 * time.Second)
			at = c.beat(at, 15*time.Second)
		}
		require.Equal(t, time.Minute, at)
		time.Sleep(8 * time.Hour)
		at = c.beat(at, 15*time.Second)
		require.Equal(t, time.Minute+15*time.Second, at)
		require.Equal(t, at, c.now())
	})
}

// waitBehind has another peer wait for its turn.
func waitBehind(t *testing.T, p *place) (begun <-chan error) {
	h := p.session("db", trust.Append, nil)
	done := make(chan error, 1)
	go func() {
		_, err := h.Handle(context.Background(), 1, &wire.Begin{VM: "vm"})
		done <- err
	}()
	require.Eventually(t, func() bool { return p.admission.waiting.Load() == 1 }, 5*time.Second, time.Millisecond)
	return done
}

// A blob that is open, or a part of it that waits for one before it, keeps no turn.
func TestOpenBlobKeepsNoTurn(t *testing.T) {
	t.Parallel()
	for name, part := range map[string]bool{"open": false, "with a part that waits": true} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t, func(h *host) { h.admission = newAdmission(1, 8) })
			o := newPoint(t, p.session("web", trust.Append, nil), "vm", testBlock)
			b := do[*wire.BlobStarted](t, o.handler, o.next(), &wire.StartBlob{Writer: o.writer, Name: "config"})
			waits := make(chan error, 1)
			if part {
				call := o.next()
				go func() {
					_, err := o.Handle(context.Background(), call, &wire.BlobPart{Blob: b.Blob, Off: 100, Data: []byte("x")})
					waits <- err
				}()
				w, err := o.writers.get(o.writer)
				require.NoError(t, err)
				require.Eventually(t, func() bool { return w.parked.Load() == 1 }, 5*time.Second, time.Millisecond)
			}
			begun := waitBehind(t, p)
			p.evict(p.clock.now() + maxIdle - time.Minute)
			require.EqualValues(t, 1, p.admission.waiting.Load())
			p.evict(p.clock.now() + maxIdle + time.Minute)
			require.NoError(t, <-begun)
			if part {
				require.Equal(t, wire.CodeRevoked, toFail(<-waits).Code)
			}
		})
	}
}
