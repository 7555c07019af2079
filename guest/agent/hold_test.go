package agent

import (
	"context"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest/agent/wire"
)

// holding are applications that tell when their commits stood still.
type holding struct {
	*parts
	held, resumed time.Time
}

func (h *holding) Prepare(context.Context, wire.PrepareArgs) (Prepared, []wire.Outcome, error) {
	return h, outcome, nil
}
func (h *holding) Hold(context.Context) []wire.Outcome                    { h.held = time.Now(); return outcome }
func (h *holding) Resume(context.Context) []wire.Outcome                  { h.resumed = time.Now(); return outcome }
func (h *holding) Finish(context.Context) ([]wire.Record, []wire.Outcome) { return nil, nil }
func (h *holding) Settle(context.Context, wire.SettleArgs) []wire.Outcome { return nil }
func (h *holding) Close() error                                           { return nil }

// R144: what takes long of the file systems comes before commits stand still, and the hold is for both.
func TestApplicationsHoldNoLongerThanTheHold(t *testing.T) {
	t.Parallel()
	p := &parts{opening: 1500 * time.Millisecond}
	h := &holding{parts: p}
	s := New(&Options{Freezer: p, Applications: h}).Open()
	defer s.Close()
	s.prepared = h
	_, err := s.doFreeze(t.Context(), wire.FreezeArgs{HoldMillis: minHold})
	require.NoError(t, err)
	_, err = s.doThaw(t.Context(), wire.ThawArgs{})
	require.NoError(t, err)
	require.Less(t, h.resumed.Sub(h.held), p.opening/2)
	require.EqualValues(t, 1, p.givenUp.Load(), "it is closed on every path")
}

// promised are scripts that tell how long they may take.
type promised struct {
	*parts
	left map[string]time.Duration
}

func (s *promised) Run(ctx context.Context, phase string, _ int64) ([]wire.ScriptResult, error) {
	end, _ := ctx.Deadline()
	s.left[phase] = time.Until(end)
	return nil, nil
}

// A script after the thaw has what it was promised, whatever the thaw itself may take.
func TestScriptsAfterTheThawHaveTheirTime(t *testing.T) {
	t.Parallel()
	p := &promised{&parts{}, map[string]time.Duration{}}
	s := New(&Options{Freezer: p.parts, Scripts: p}).Open()
	defer s.Close()
	_, err := s.doFreeze(t.Context(), wire.FreezeArgs{Scripts: true, ScriptMillis: 600_000})
	require.NoError(t, err)
	_, err = s.doThaw(t.Context(), wire.ThawArgs{})
	require.NoError(t, err)
	for _, phase := range []string{phaseFreeze, phaseThaw} {
		require.InDelta(t, 10*time.Minute, p.left[phase], float64(time.Minute), phase)
	}
}

// A client that takes no answers piles up no calls.
func TestClientThatReadsNothing(t *testing.T) {
	near, far := net.Pipe()
	done := make(chan struct{})
	go func() { defer close(done); New(nil).Serve(context.Background(), far) }()
	request := func(call uint32, v wire.Verb, args any) error {
		raw, err := wire.Encode(args)
		require.NoError(t, err)
		payload, err := wire.Encode(wire.Request{Verb: v, Args: raw})
		require.NoError(t, err)
		return wire.Write(near, wire.Frame{Kind: wire.KindRequest, Call: call, Payload: payload})
	}
	require.NoError(t, request(1, wire.Hello, wire.HelloArgs{Version: wire.Version}))
	_, err := wire.Read(near)
	require.NoError(t, err)
	before, taken := runtime.NumGoroutine(), uint32(0)
	near.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
	for taken < 1000 && request(taken+2, wire.Lease, wire.LeaseArgs{}) == nil {
		taken++
	}
	require.Less(t, taken, uint32(1000))
	require.LessOrEqual(t, runtime.NumGoroutine()-before, 2*wire.MaxCalls)
	near.Close()
	<-done
}
