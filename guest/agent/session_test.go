package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae/guest/agent/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// parts record what they are told, in one story.
type parts struct {
	mu    sync.Mutex
	story []string

	freezeErr  error
	veto       error
	thawErr    error
	freezing   chan struct{} // closed when Freeze is entered, which then waits for its context; nil: it does not
	watchdog   bool          // it was first
	panicking  bool
	prepareErr error
	opening    time.Duration // that Ready takes
	givenUp    atomic.Int32  // readies that were closed
}

func (p *parts) tell(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.story = append(p.story, what)
}

func (p *parts) told() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.story)
}

func (p *parts) Volumes(context.Context) ([]wire.Volume, error) {
	return []wire.Volume{{Mount: "/", Type: "ext4"}}, nil
}

func (p *parts) Ready(ctx context.Context, args wire.FreezeArgs) (Ready, error) {
	if p.opening > 0 {
		select {
		case <-time.After(p.opening):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return &readyParts{p}, nil
}

// readyParts is a freeze that is about to be.
type readyParts struct{ p *parts }

func (r *readyParts) Freeze(ctx context.Context) (Frozen, error) { return r.p.freeze(ctx) }
func (r *readyParts) Close() error                               { r.p.givenUp.Add(1); return nil }

func (p *parts) freeze(ctx context.Context) (Frozen, error) {
	if p.freezing != nil {
		close(p.freezing)
		<-ctx.Done()
		p.tell("given up")
		return nil, ctx.Err()
	}
	if p.panicking {
		panic("a part broke its promise")
	}
	if p.freezeErr != nil {
		return nil, p.freezeErr
	}
	p.tell("frozen")
	return &frozenParts{p}, nil
}

type frozenParts struct{ *parts }

func (f *frozenParts) Answer() wire.FreezeAnswer {
	return wire.FreezeAnswer{Frozen: []wire.Frozen{{Mount: "/", Type: "ext4", Micros: 7}}}
}

func (f *frozenParts) Thaw(context.Context) ([]string, bool, error) {
	f.tell("thawed")
	return []string{"/"}, !f.watchdog, f.thawErr
}

func (p *parts) List() []string { return []string{"/etc/hikae/freeze.d/10-db"} }

func (p *parts) Run(_ context.Context, phase string, _ int64) ([]wire.ScriptResult, error) {
	p.tell("script " + phase)
	var err error
	if phase == "freeze" {
		err = p.veto
	}
	return []wire.ScriptResult{{Path: p.List()[0], Phase: phase}}, err
}

func (p *parts) Find(context.Context) ([]wire.Application, error) {
	return nil, errors.New("no socket")
}

func (p *parts) Prepare(context.Context, wire.PrepareArgs) (Prepared, []wire.Outcome, error) {
	if p.prepareErr != nil {
		return nil, nil, p.prepareErr
	}
	p.tell("prepare")
	return &preparedParts{p}, outcome, nil
}

var outcome = []wire.Outcome{{Kind: "postgresql", Name: "main", OK: true}}

type preparedParts struct{ *parts }

func (p *preparedParts) Hold(context.Context) []wire.Outcome   { p.tell("hold"); return outcome }
func (p *preparedParts) Resume(context.Context) []wire.Outcome { p.tell("resume"); return outcome }
func (p *preparedParts) Finish(context.Context) ([]wire.Record, []wire.Outcome) {
	p.tell("finish")
	return []wire.Record{{Kind: "postgresql", Name: "main", File: "backup_label", Content: []byte("START")}}, outcome
}
func (p *preparedParts) Settle(_ context.Context, a wire.SettleArgs) []wire.Outcome {
	p.tell("settle")
	return outcome
}
func (p *preparedParts) Close() error { p.tell("close"); return nil }

func (p *parts) options() *Options {
	return &Options{Product: "test 1", Admin: true, Freezer: p, Applications: p, Scripts: p,
		Remove: func(context.Context) (wire.RemoveAnswer, error) {
			p.tell("remove")
			return wire.RemoveAnswer{Removed: []string{"/tmp/x"}}, nil
		}}
}

// peer is a client that speaks frames by hand.
type peer struct {
	t *testing.T
	net.Conn
	n      uint32
	served chan error
}

func dial(t *testing.T, a *Agent) *peer {
	t.Helper()
	ours, theirs := net.Pipe()
	p := &peer{t: t, Conn: ours, served: make(chan error, 1)}
	go func() { p.served <- a.Serve(context.Background(), theirs) }()
	t.Cleanup(func() { ours.Close() })
	ours.SetDeadline(time.Now().Add(20 * time.Second))
	return p
}

func (p *peer) ask(v wire.Verb, args any) {
	p.t.Helper()
	raw, err := wire.Encode(args)
	require.NoError(p.t, err)
	payload, err := wire.Encode(wire.Request{Verb: v, Args: raw})
	require.NoError(p.t, err)
	p.n++
	require.NoError(p.t, wire.Write(p, wire.Frame{Kind: wire.KindRequest, Call: p.n, Payload: payload}))
}

// hear reads one answer; a failure is an error.
func (p *peer) hear(into any) error {
	p.t.Helper()
	f, err := wire.Read(p)
	require.NoError(p.t, err)
	if f.Kind == wire.KindFailure {
		failure := &wire.Failure{}
		require.NoError(p.t, wire.Decode(f.Payload, failure))
		return failure
	}
	require.Equal(p.t, wire.KindAnswer, f.Kind)
	require.NoError(p.t, wire.Decode(f.Payload, into))
	return nil
}

func (p *peer) do(v wire.Verb, args, into any) error {
	p.t.Helper()
	p.ask(v, args)
	return p.hear(into)
}

func (p *peer) hello(lease time.Duration) wire.HelloAnswer {
	p.t.Helper()
	var a wire.HelloAnswer
	require.NoError(p.t, p.do(wire.Hello, wire.HelloArgs{Version: wire.Version, LeaseMillis: lease.Milliseconds()}, &a))
	return a
}

func (p *peer) end() error {
	select {
	case err := <-p.served:
		return err
	case <-time.After(10 * time.Second):
		p.t.Fatal("it serves on")
		return nil
	}
}

func codeOf(t *testing.T, err error) wire.Code {
	t.Helper()
	var f *wire.Failure
	require.ErrorAs(t, err, &f)
	return f.Code
}

// The whole story of a backup, in its order. R183, R188.
func TestSession(t *testing.T) {
	t.Parallel()
	p := &parts{}
	c := dial(t, New(p.options()))
	h := c.hello(0)
	require.Equal(t, "test 1", h.Product)
	require.NotContains(t, h.Verbs, wire.Install)
	require.Contains(t, h.Verbs, wire.Freeze)

	var inspected wire.InspectAnswer
	require.NoError(t, c.do(wire.Inspect, wire.InspectArgs{Applications: true}, &inspected))
	require.Len(t, inspected.Volumes, 1)
	require.Equal(t, []string{"applications: no socket"}, inspected.Notes, "one part's trouble is no other's")

	require.NoError(t, c.do(wire.Prepare, wire.PrepareArgs{}, &wire.PrepareAnswer{}))
	require.Equal(t, wire.CodeState, codeOf(t, c.do(wire.Prepare, wire.PrepareArgs{}, nil)))
	var frozen wire.FreezeAnswer
	require.NoError(t, c.do(wire.Freeze, wire.FreezeArgs{Scripts: true}, &frozen))
	require.Len(t, frozen.Frozen, 1)
	require.Len(t, frozen.Scripts, 1)
	require.Len(t, frozen.Applications, 1)
	require.Equal(t, wire.CodeState, codeOf(t, c.do(wire.Freeze, wire.FreezeArgs{}, nil)))
	require.Equal(t, wire.CodeState, codeOf(t, c.do(wire.Finish, wire.FinishArgs{}, nil)))
	var lease wire.LeaseAnswer
	require.NoError(t, c.do(wire.Lease, wire.LeaseArgs{}, &lease))
	require.True(t, lease.Frozen)
	var thawed wire.ThawAnswer
	require.NoError(t, c.do(wire.Thaw, wire.ThawArgs{}, &thawed))
	require.True(t, thawed.Held)
	require.Positive(t, thawed.FrozenMicros)
	require.NoError(t, c.do(wire.Thaw, wire.ThawArgs{}, &thawed), "a second one is no error")
	var finished wire.FinishAnswer
	require.NoError(t, c.do(wire.Finish, wire.FinishArgs{}, &finished))
	require.Equal(t, "START", string(finished.Records[0].Content))
	require.NoError(t, c.do(wire.Settle, wire.SettleArgs{Durable: true}, &wire.SettleAnswer{}))
	var removed wire.RemoveAnswer
	require.NoError(t, c.do(wire.Remove, wire.RemoveArgs{}, &removed))
	require.Equal(t, []string{"/tmp/x"}, removed.Removed)
	require.NoError(t, c.end())
	require.Equal(t, []string{"prepare", "script freeze", "hold", "frozen", "thawed", "resume", "script thaw", "finish",
		"settle", "close", "remove"}, p.told())
	_, err := wire.Read(c)
	require.ErrorIs(t, err, io.EOF)
}

// Whatever stops a freeze, the way back is gone, in the right order.
func TestFreezeFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		parts *parts
		code  wire.Code
		story []string
	}{
		"veto":   {&parts{veto: failure(wire.CodeVeto, "no")}, wire.CodeVeto, []string{"prepare", "script freeze", "script freezeFail"}},
		"freeze": {&parts{freezeErr: errors.New("EIO")}, wire.CodeFailed, []string{"prepare", "script freeze", "hold", "resume", "script freezeFail"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			peer := dial(t, New(c.parts.options()))
			peer.hello(0)
			require.NoError(t, peer.do(wire.Prepare, wire.PrepareArgs{}, &wire.PrepareAnswer{}))
			for range 2 { // it can be tried again
				require.Equal(t, c.code, codeOf(t, peer.do(wire.Freeze, wire.FreezeArgs{Scripts: true}, nil)))
			}
			require.Equal(t, c.story, c.parts.told()[:len(c.story)])
			require.Len(t, c.parts.told(), 2*len(c.story)-1)
		})
	}
}

// A client that goes in a freeze, or falls silent, or lets the hold go by, leaves nothing frozen. R189, R192.
func TestFreezeAlone(t *testing.T) {
	t.Parallel()
	t.Run("gone", func(t *testing.T) {
		t.Parallel()
		p := &parts{}
		c := dial(t, New(p.options()))
		c.hello(0)
		require.NoError(t, c.do(wire.Prepare, wire.PrepareArgs{}, &wire.PrepareAnswer{}))
		require.NoError(t, c.do(wire.Freeze, wire.FreezeArgs{Scripts: true}, &wire.FreezeAnswer{}))
		c.Close()
		require.ErrorIs(t, c.end(), io.EOF)
		require.Equal(t, []string{"thawed", "resume", "script thaw", "close"}, p.told()[4:])
	})
	t.Run("silent", func(t *testing.T) {
		t.Parallel()
		p := &parts{}
		c := dial(t, New(p.options()))
		c.hello(MinLease)
		require.NoError(t, c.do(wire.Freeze, wire.FreezeArgs{}, &wire.FreezeAnswer{}))
		require.ErrorIs(t, c.end(), ErrLease)
		require.Equal(t, []string{"frozen", "thawed"}, p.told())
	})
	t.Run("late", func(t *testing.T) {
		t.Parallel()
		p := &parts{}
		c := dial(t, New(p.options()))
		c.hello(0)
		require.NoError(t, c.do(wire.Freeze, wire.FreezeArgs{HoldMillis: minHold}, &wire.FreezeAnswer{}))
		require.Eventually(t, func() bool { return slices.Contains(p.told(), "thawed") }, 5*time.Second, 10*time.Millisecond)
		var thawed wire.ThawAnswer
		require.NoError(t, c.do(wire.Thaw, wire.ThawArgs{}, &thawed))
		require.False(t, thawed.Held)
		require.Equal(t, []string{"/"}, thawed.Thawed, "the client is told how it went")
		require.NoError(t, c.do(wire.Freeze, wire.FreezeArgs{}, &wire.FreezeAnswer{}), "and may try again")
	})
	t.Run("watchdog", func(t *testing.T) {
		t.Parallel()
		p := &parts{watchdog: true}
		c := dial(t, New(p.options()))
		c.hello(0)
		require.NoError(t, c.do(wire.Freeze, wire.FreezeArgs{}, &wire.FreezeAnswer{}))
		var thawed wire.ThawAnswer
		require.NoError(t, c.do(wire.Thaw, wire.ThawArgs{}, &thawed))
		require.False(t, thawed.Held)
	})
	t.Run("thaw overtakes", func(t *testing.T) {
		t.Parallel()
		p := &parts{freezing: make(chan struct{})}
		c := dial(t, New(p.options()))
		c.hello(0)
		c.ask(wire.Freeze, wire.FreezeArgs{})
		<-p.freezing
		c.ask(wire.Thaw, wire.ThawArgs{})
		first, second := c.hear(&wire.ThawAnswer{}), c.hear(&wire.ThawAnswer{})
		if first == nil { // two calls' answers come in either order
			first, second = second, first
		}
		require.Equal(t, wire.CodeCancelled, codeOf(t, first))
		require.NoError(t, second)
		require.Equal(t, []string{"given up"}, p.told())
	})
	t.Run("cancel", func(t *testing.T) {
		t.Parallel()
		p := &parts{freezing: make(chan struct{})}
		c := dial(t, New(p.options()))
		c.hello(0)
		c.ask(wire.Freeze, wire.FreezeArgs{})
		<-p.freezing
		require.NoError(t, wire.Write(c, wire.Frame{Kind: wire.KindCancel, Call: c.n}))
		require.Equal(t, wire.CodeCancelled, codeOf(t, c.hear(nil)))
	})
	t.Run("panic", func(t *testing.T) {
		t.Parallel()
		p := &parts{panicking: true}
		c := dial(t, New(p.options()))
		c.hello(0)
		require.Equal(t, wire.CodeFailed, codeOf(t, c.do(wire.Freeze, wire.FreezeArgs{}, nil)))
		p.panicking = false
		require.NoError(t, c.do(wire.Freeze, wire.FreezeArgs{}, &wire.FreezeAnswer{}))
	})
}

// Two sessions of one component: one freeze at a time, and neither ends the other.
func TestTwoSessions(t *testing.T) {
	t.Parallel()
	p := &parts{}
	a := New(p.options())
	first, second := dial(t, a), dial(t, a)
	first.hello(0)
	second.hello(0)
	require.NoError(t, first.do(wire.Freeze, wire.FreezeArgs{}, &wire.FreezeAnswer{}))
	require.Equal(t, wire.CodeState, codeOf(t, second.do(wire.Freeze, wire.FreezeArgs{}, nil)))
	require.NoError(t, second.do(wire.Thaw, wire.ThawArgs{}, &wire.ThawAnswer{}))
	require.NotContains(t, p.told(), "thawed", "only whoever froze thaws")
	first.Close()
	first.end()
	require.NoError(t, second.do(wire.Freeze, wire.FreezeArgs{}, &wire.FreezeAnswer{}))
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	p := &parts{prepareErr: &wire.Failure{Code: wire.CodeRights, Message: "no"}}
	c := dial(t, New(p.options()))
	require.Equal(t, wire.CodeState, codeOf(t, c.do(wire.Inspect, wire.InspectArgs{}, nil)), "before hello")
	var h wire.HelloAnswer
	require.NoError(t, c.do(wire.Hello, wire.HelloArgs{Version: wire.Version + 1}, &h))
	require.Equal(t, wire.Version, h.Version)
	require.Equal(t, wire.CodeState, codeOf(t, c.do(wire.Inspect, wire.InspectArgs{}, nil)), "another version is told no more")
	require.Equal(t, wire.CodeInvalid, codeOf(t, c.do(wire.Hello, wire.HelloArgs{Version: wire.Version, LeaseMillis: 1}, nil)))
	require.Equal(t, wire.CodeInvalid, codeOf(t, c.do(wire.Hello, wire.HelloArgs{Version: wire.Version, LeaseMillis: -1}, nil)))
	require.Equal(t, wire.CodeInvalid, codeOf(t, c.do(wire.Hello, wire.HelloArgs{Version: wire.Version, LeaseMillis: 1 << 62}, nil)))
	c.hello(0)
	require.Equal(t, wire.CodeUnknown, codeOf(t, c.do("exec", struct{}{}, nil)))
	require.Equal(t, wire.CodeUnknown, codeOf(t, c.do(wire.Logs, wire.LogsArgs{}, nil)), "a part that it does not have")
	require.Equal(t, wire.CodeRights, codeOf(t, c.do(wire.Prepare, wire.PrepareArgs{}, nil)))
	require.Equal(t, wire.CodeInvalid, codeOf(t, c.do(wire.Freeze, map[string]any{"Mount": 1, "x": 2}, nil)))
	for _, args := range []wire.FreezeArgs{{HoldMillis: 1}, {HoldMillis: maxHold + 1}, {HoldMillis: -1}, {ScriptMillis: -1},
		{ScriptMillis: maxScript + 1}, {Mounts: make([]string, maxMounts+1)}} {
		require.Equal(t, wire.CodeInvalid, codeOf(t, c.do(wire.Freeze, args, nil)))
	}
	require.Empty(t, p.told())
}
