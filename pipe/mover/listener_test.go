package mover

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/mover/session"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
	"github.com/hikae/hikae/pipe/pipetest"
)

// Bad input of the issue: who is not in the book hears nothing, and is logged once with its address.
func TestStrangersAreRefused(t *testing.T) {
	t.Parallel()
	y := newYard(t, nil)
	id, err := trust.NewIdentity()
	require.NoError(t, err)
	for range 3 {
		_, err = Dial(t.Context(), y.address, &DialOptions{Identity: id, ServerPin: y.id.Pin()})
		require.ErrorIs(t, err, trust.ErrRefused)
	}
	raw, err := net.Dial("tcp", y.address)
	require.NoError(t, err)
	defer raw.Close()
	_, err = raw.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
	require.NoError(t, err)
	require.NoError(t, raw.SetDeadline(time.Now().Add(5*time.Second)))
	said, _ := io.ReadAll(raw)
	require.LessOrEqual(t, len(said), 7, "more than an alert")

	require.Eventually(t, func() bool { return y.seen.refused.Load() == 4 }, 5*time.Second, time.Millisecond)
	require.Equal(t, 1, strings.Count(y.log.String(), "a connection was refused"), y.log.String())
	require.Contains(t, y.log.String(), "address=127.0.0.1")
	require.EqualValues(t, 0, y.seen.sessions.Load())
}

// A peer that is taken out of the book, by another process too, is cut off within seconds, and nothing that it was
// writing is committed.
func TestRevocation(t *testing.T) {
	t.Parallel()
	y := newYard(t, nil)
	web, db := y.dial(y.enrol("web", trust.Append)), y.dial(y.enrol("db", trust.Append))
	w, err := web.Begin(t.Context(), "vm", nil)
	require.NoError(t, err)
	defer w.Close()
	require.NoError(t, y.book.Revoke("web"))
	require.Eventually(t, func() bool { return y.server.Stats().Sessions == 1 }, 5*time.Second, 10*time.Millisecond)
	_, err = w.Commit(t.Context(), nil)
	require.Error(t, err)
	_, err = web.Health(t.Context())
	require.Error(t, err)
	_, err = db.Health(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 0, y.server.host.admission.writing.Load())
	for range y.opts.Backend.Points(t.Context(), "") {
		t.Fatal("a point of a peer that was revoked")
	}
}

// A token lets one machine in, once, and for nothing but to enrol.
func TestEnrolment(t *testing.T) {
	t.Parallel()
	y := newYard(t, nil)
	token, err := y.book.AddToken(y.id.Pin(), "web", trust.Append, time.Hour)
	require.NoError(t, err)
	key, err := token.Identity()
	require.NoError(t, err)
	c := y.dial(key)
	_, err = c.Health(t.Context())
	require.ErrorIs(t, err, fs.ErrPermission)
	_, err = c.Begin(t.Context(), "vm", nil)
	require.ErrorIs(t, err, fs.ErrPermission)
	id, err := trust.NewIdentity()
	require.NoError(t, err)
	enrol := &wire.Enrol{PublicKey: [32]byte(id.PublicKey()), Host: "web.example"}
	answer, err := ask[*wire.Enrolled](t.Context(), c, enrol)
	require.NoError(t, err)
	require.Equal(t, &wire.Enrolled{Name: "web", Role: "append", Mode: "trusted"}, answer)
	_, err = ask[*wire.Enrolled](t.Context(), c, enrol)
	require.Error(t, err)
	require.Equal(t, "web", y.dial(id).Peer())
	for _, secret := range []string{token.String(), token.String()[20:60]} {
		require.NotContains(t, y.log.String(), secret)
	}
}

// Connections that say nothing take no more than their bound, and those who have shown who they are go on.
func TestSilentConnections(t *testing.T) {
	t.Parallel()
	y := newYard(t, nil)
	web := y.dial(y.enrol("web", trust.Append))
	var silent []net.Conn
	for range maxKnockingEach + 20 {
		c, err := net.Dial("tcp", y.address)
		require.NoError(t, err)
		silent = append(silent, c)
	}
	require.Eventually(t, func() bool { return y.seen.refused.Load() >= 20 }, 5*time.Second, time.Millisecond)
	mustBackup(t, web, "vm", pipetest.Bytes(chacha(1, 3*testBlock)), nil)
	for _, c := range silent {
		require.NoError(t, c.Close())
	}
	require.Eventually(t, func() bool { // there is room again
		y.server.doors.mu.Lock()
		defer y.server.doors.mu.Unlock()
		return y.server.doors.total == 0
	}, 5*time.Second, time.Millisecond)
	require.Empty(t, y.server.doors.knocking)
}

// A peer of another version, and one that breaks the protocol, is refused in so many words, and nothing happens.
func TestAnotherVersion(t *testing.T) {
	t.Parallel()
	y := newYard(t, nil)
	id := y.enrol("web", trust.Append)
	for name, first := range map[string]wire.Message{
		"version":  &wire.Hello{Version: wire.Version + 1, Role: wire.Caller},
		"no hello": &wire.Ping{Nonce: 1},
		"lost":     &wire.Hello{Version: wire.Version, Role: wire.Caller, Session: [16]byte{1}, Lane: 3},
		"collect":  &wire.Hello{Version: wire.Version, Role: wire.Collector, Session: [16]byte{2}},
	} {
		conn := connect(t, y, id)
		frame, err := wire.Append(nil, wire.Frame{Message: first})
		require.NoError(t, err)
		_, err = conn.Write(frame)
		require.NoError(t, err)
		f, err := wire.NewReader(conn).Read()
		require.NoError(t, err, name)
		require.IsType(t, &wire.Refuse{}, f.Message, name)
		require.Equal(t, map[string]wire.Code{
			"version": wire.CodeVersion, "no hello": wire.CodeInvalid, "lost": wire.CodeLost, "collect": wire.CodeUnsupported,
		}[name], f.Message.(*wire.Refuse).Code)
		require.NoError(t, conn.Close())
	}
	require.EqualValues(t, 0, y.seen.sessions.Load())
}

func connect(t *testing.T, y *yard, id *trust.Identity) *tls.Conn {
	raw, err := net.Dial("tcp", y.address)
	require.NoError(t, err)
	conn, err := trust.Connect(t.Context(), raw, trust.ClientTLS(id, y.id.Pin()))
	require.NoError(t, err)
	require.NoError(t, conn.SetDeadline(time.Now().Add(5*time.Second)))
	return conn
}

func TestDoors(t *testing.T) {
	t.Parallel()
	log, seen := &lines{}, &tally{}
	d := newDoors(slog.New(slog.NewTextHandler(log, nil)), seen)
	a := netip.MustParseAddr("192.0.2.1")
	var left []func()
	for range maxKnockingEach {
		l, ok := d.knock(a)
		require.True(t, ok)
		left = append(left, l)
	}
	_, ok := d.knock(a)
	require.False(t, ok)
	_, ok = d.knock(netip.MustParseAddr("192.0.2.2"))
	require.True(t, ok)
	left[0]()
	left[0]() // again is no matter
	_, ok = d.knock(a)
	require.True(t, ok)
	for i := range 3 * maxSaid {
		d.refused(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), "unknown", errors.New("x"))
	}
	require.LessOrEqual(t, len(d.said), maxSaid)
	require.LessOrEqual(t, len(d.unsaid), maxSaid)

	one, two := &net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 1}, &net.TCPAddr{IP: net.ParseIP("2001:db8::ffff:2"), Port: 2}
	require.Equal(t, addressOf(remote{addr: one}), addressOf(remote{addr: two}), "a machine has a whole network of addresses")
	require.Equal(t, a, addressOf(remote{addr: &net.TCPAddr{IP: net.ParseIP("::ffff:192.0.2.1")}}))
}

type remote struct {
	net.Conn
	addr net.Addr
}

func (r remote) RemoteAddr() net.Addr { return r.addr }

// failing is a listener that has no descriptors for a while.
type failing struct {
	net.Listener
	mu   sync.Mutex
	left int
}

func (f *failing) Accept() (net.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left--; f.left >= 0 {
		return nil, errors.New("too many open files")
	}
	return f.Listener.Accept()
}

// A listener that fails for a while is waited for.
func TestAcceptGoesOn(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	got, done := make(chan net.Conn, 1), make(chan error, 1)
	go func() {
		done <- accept(ctx, &failing{Listener: l, left: 4}, slog.New(slog.DiscardHandler), func(c net.Conn) { got <- c })
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	require.NoError(t, (<-got).Close())
	require.NoError(t, c.Close())
	cancel()
	require.NoError(t, l.Close())
	require.NoError(t, <-done)
}

// A server that was shut down serves nobody, and says so; shutting it down again is no matter.
func TestShutdown(t *testing.T) {
	t.Parallel()
	y := newYard(t, nil)
	c := y.dial(y.enrol("web", trust.Append))
	s := y.server
	y.stop()
	require.NoError(t, s.Shutdown(t.Context()))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.ErrorIs(t, s.Serve(t.Context(), l), ErrShutdown)
	_, err = net.Dial("tcp", l.Addr().String())
	require.Error(t, err, "the listener was left open")
	require.EqualValues(t, 0, y.seen.sessions.Load())
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = c.Health(ctx)
	require.True(t, errors.Is(err, context.DeadlineExceeded) || errors.Is(err, session.ErrClosed), "%v", err)
}

// Options that make no sense are refused before anything listens.
func TestOptions(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	for name, o := range map[string]*ServerOptions{
		"nil": nil, "nothing": {}, "no state": {Backend: r}, "both": {Backend: r, Blind: &blindShelf{}, StateDir: "x"},
		"negative": {Backend: r, StateDir: "x", MaxWriters: -1}, "no key": {Backend: r, StateDir: t.TempDir()},
	} {
		_, err := NewServer(o)
		require.ErrorIs(t, err, fs.ErrInvalid, name)
	}
}
