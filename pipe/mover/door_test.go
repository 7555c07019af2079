package mover

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/mover/session"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// door passes connections on to a mover, but closes the first of them before a word.
func door(t *testing.T, to string, shut int64) (address string, came *atomic.Int64) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	came = new(atomic.Int64)
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			if came.Add(1) <= shut {
				in.Close()
				continue
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			go func() { io.Copy(out, in); out.Close() }()
			go func() { io.Copy(in, out); in.Close() }()
		}
	}()
	return l.Addr().String(), came
}

// Who is turned away because too many knock, comes again; who is refused, does not; and nobody knocks for ever.
func TestKnockingAgain(t *testing.T) {
	t.Parallel()
	y := newYard(t, nil)
	id := y.enrol("web", trust.Append)
	address, came := door(t, y.address, 2)
	c, err := Dial(t.Context(), address, &DialOptions{Identity: id, ServerPin: y.id.Pin(), CacheDir: t.TempDir()})
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.GreaterOrEqual(t, came.Load(), int64(3))

	stranger, err := trust.NewIdentity()
	require.NoError(t, err)
	address, came = door(t, y.address, 0)
	_, err = Dial(t.Context(), address, &DialOptions{Identity: stranger, ServerPin: y.id.Pin()})
	require.ErrorIs(t, err, trust.ErrRefused)
	require.EqualValues(t, 1, came.Load())

	address, came = door(t, y.address, 1<<30)
	start := time.Now()
	_, err = Dial(t.Context(), address, &DialOptions{Identity: id, ServerPin: y.id.Pin(), GiveUp: time.Second})
	require.ErrorIs(t, err, errDoor)
	require.ErrorContains(t, err, "too many knock")
	require.Less(t, time.Since(start), 3*time.Second)
	require.Greater(t, came.Load(), int64(1))
}

// A machine that never answers takes no more of a call's time than GiveUp.
func TestGivingUpOnADial(t *testing.T) {
	t.Parallel()
	y := newYard(t, nil)
	id := y.enrol("web", trust.Append)
	l, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts: the kernel does, and says nothing
	require.NoError(t, err)
	defer l.Close()
	start := time.Now()
	_, err = Dial(t.Context(), l.Addr().String(), &DialOptions{Identity: id, ServerPin: y.id.Pin(), GiveUp: 300 * time.Millisecond})
	require.Error(t, err)
	require.Less(t, time.Since(start), 3*time.Second)
	d := &dialer{address: l.Addr().String(), opts: DialOptions{ServerPin: y.id.Pin()}, settings: settings{GiveUp: 300 * time.Millisecond}.withDefaults()}
	d.identity.Store(id)
	d.before.Store(true)
	start = time.Now()
	_, _, err = d.open(t.Context(), func(wire.Message) {})
	require.ErrorIs(t, err, session.ErrGaveUp)
	require.Less(t, time.Since(start), 3*time.Second)
}

// A thousand machines may come at once from behind one address, and do not shut the door for all others.
func TestManyBehindOneAddress(t *testing.T) {
	t.Parallel()
	d := newDoors(slog.New(slog.DiscardHandler), &tally{})
	for range 1000 {
		_, ok := d.knock(netip.MustParseAddr("192.0.2.1"))
		require.True(t, ok)
	}
	for range 1000 {
		d.knock(netip.MustParseAddr("192.0.2.1"))
	}
	_, ok := d.knock(netip.MustParseAddr("192.0.2.2"))
	require.True(t, ok)
}

// A name that is given to another machine right after it was taken from one is the new machine's: its session stays.
func TestRevokedAndGivenAgain(t *testing.T) {
	t.Parallel()
	y := newYard(t, nil)
	old := y.dial(y.enrol("web", trust.Append))
	require.NoError(t, y.book.Revoke("web"))
	now := y.dial(y.enrol("web", trust.Append))
	require.Eventually(t, func() bool { return y.server.Stats().Sessions == 1 }, 5*time.Second, 10*time.Millisecond)
	require.EqualValues(t, 1, now.Stats().Sessions)
	_, err := now.Health(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, now.Stats().Sessions, "it had to begin another")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = old.Health(ctx)
	require.Error(t, err)
}
