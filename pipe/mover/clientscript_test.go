package mover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/mover/session"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// script answers calls as a test wants it. A *wire.Fail is an answer, any other error the session's.
type script func(call uint64, req wire.Message) (wire.Message, error)

// scripted is a session with a peer that is a function. Messages go through their coding where that takes them.
type scripted struct {
	t      testing.TB
	answer script
	number atomic.Uint64
	dead   chan struct{}
	once   sync.Once
}

func newScripted(t testing.TB, answer script) *scripted {
	return &scripted{t: t, answer: answer, dead: make(chan struct{})}
}

func (s *scripted) CallNumbered(ctx context.Context, req wire.Message) (uint64, wire.Message, error) {
	n := s.number.Add(1)
	req, err := recode(req)
	if err != nil {
		return n, nil, err
	}
	type result struct {
		m   wire.Message
		err error
	}
	done := make(chan result, 1)
	go func() {
		m, err := s.answer(n, req)
		done <- result{m, err}
	}()
	select {
	case r := <-done:
		if f, ok := errors.AsType[*wire.Fail](r.err); ok {
			return n, nil, f
		}
		if r.err != nil || r.m == nil {
			return n, nil, r.err
		}
		if m, err := recode(r.m); err == nil {
			return n, m, nil
		}
		return n, r.m, nil // the wire would refuse it; so must we
	case <-ctx.Done():
		return n, nil, ctx.Err()
	case <-s.dead:
		return n, nil, session.ErrClosed
	}
}

func (s *scripted) Close() error { s.once.Do(func() { close(s.dead) }); return nil }

// recode writes a message and reads it.
func recode(m wire.Message) (wire.Message, error) {
	b, err := wire.Append(nil, wire.Frame{Call: 1, Message: m})
	if err != nil {
		return nil, err
	}
	return wire.Decode(m.Kind(), b[wire.HeaderSize:])
}

// testClient is a Client of which each session is made by open.
func testClient(t testing.TB, open func(n int, push func(wire.Message)) (line, error), change func(*settings)) *Client {
	t.Helper()
	s := settings{CacheDir: t.TempDir(), GiveUp: 20 * time.Second}
	if change != nil {
		change(&s)
	}
	var n atomic.Int32
	c := newClient(func(_ context.Context, push func(wire.Message)) (line, greeting, error) {
		l, err := open(int(n.Add(1)), push)
		return l, greeting{peer: "web"}, err
	}, trust.Pin{1}, s.withDefaults())
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// scriptClient is a Client of one session with a function.
func scriptClient(t testing.TB, answer script) *Client {
	return testClient(t, func(int, func(wire.Message)) (line, error) { return newScripted(t, answer), nil }, nil)
}

// A cut below is the session's matter; what the session cannot mend reaches the caller as what it is.
func TestErrorsOfTheSessionReachTheCaller(t *testing.T) {
	for _, want := range []error{session.ErrGaveUp, net.ErrClosed, errors.New("anything")} {
		c := scriptClient(t, func(uint64, wire.Message) (wire.Message, error) { return nil, fmt.Errorf("x: %w", want) })
		_, err := c.Health(t.Context())
		require.ErrorIs(t, err, want)
	}
}

// A mover that forgets every session is asked a bounded number of times.
func TestSessionThatIsAlwaysLost(t *testing.T) {
	sessions := 0
	c := testClient(t, func(n int, _ func(wire.Message)) (line, error) {
		sessions = n
		return newScripted(t, func(uint64, wire.Message) (wire.Message, error) { return nil, session.ErrLost }), nil
	}, nil)
	_, err := c.Health(t.Context())
	require.ErrorIs(t, err, session.ErrLost)
	require.LessOrEqual(t, sessions, 6)
	_, err = c.Begin(t.Context(), "vm", nil)
	require.ErrorIs(t, err, session.ErrLost)
	_, err = c.Open(t.Context(), "p", "d")
	require.ErrorIs(t, err, session.ErrLost)
}

func TestClosedClient(t *testing.T) {
	c := scriptClient(t, func(uint64, wire.Message) (wire.Message, error) { return &wire.HealthIs{}, nil })
	_, err := c.Health(t.Context())
	require.NoError(t, err)
	require.Equal(t, "web", c.Peer())
	require.NoError(t, c.Close())
	_, err = c.Health(t.Context())
	require.ErrorIs(t, err, errClientClosed)
}

// Two peers of one mover, and two movers, are not taken for one another.
func TestIDTellsPeersAndMoversApart(t *testing.T) {
	ids := map[string]bool{}
	for _, pin := range []trust.Pin{{1}, {2}} {
		for _, peer := range []string{"a", "b"} {
			c := newClient(nil, pin, settings{}.withDefaults())
			c.greeting.peer = peer
			ids[c.ID()] = true
			require.NoError(t, c.Close())
		}
	}
	require.Len(t, ids, 4)
}
