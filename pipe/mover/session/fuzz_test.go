package session

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// frames are the bytes of messages in a row; those that belong to calls are numbered from 1.
func frames(t testing.TB, messages ...wire.Message) (b []byte) {
	t.Helper()
	call := uint64(0)
	for _, m := range messages {
		f := wire.Frame{Message: m}
		if m.Kind().InCall() {
			call++
			f.Call = call
		}
		var err error
		b, err = wire.Append(b, f)
		require.NoError(t, err)
	}
	return b
}

var fuzzHello = &wire.Hello{Version: wire.Version, Role: wire.Caller, Session: [16]byte{1}}

// patient is how long anything may take; the machine that fuzzes is busy.
const patient = 5 * time.Second

// FuzzServer feeds a server whatever comes behind the handshake: it neither panics nor hangs, and lets go of everything.
func FuzzServer(f *testing.F) {
	f.Add(frames(f, fuzzHello, put(1, 100), &wire.Ack{Below: 2}, &wire.Ping{Nonce: 1}, put(2, 10)))
	f.Add(frames(f, fuzzHello, &wire.ReadImage{Len: 1 << 20}, &wire.Query{IDs: []pipe.ID{{1}}}, &wire.Refuse{Code: wire.CodeClosed}))
	f.Add(frames(f, fuzzHello, &wire.Credit{MaxCalls: 1}, &wire.OK{}))
	f.Add(frames(f, &wire.Hello{Version: wire.Version, Role: wire.Collector}, &wire.Credit{MaxCalls: 10, Window: 1 << 20}, &wire.Collect{VM: "web"},
		&wire.Durable{Writer: 1, Below: 2}, &wire.Placed{}, &wire.Drain{Seconds: 1}))
	f.Add(frames(f, &wire.Hello{Version: 2}))
	f.Add([]byte{0x80, 0, 0, 0, byte(wire.KindPut), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		s := NewServer(&ServerOptions{
			MaxCalls: 8, Window: 1 << 20,
			Open:    func(context.Context, trust.Peer, func(wire.Message)) (Handler, error) { return newLedger(), nil },
			Collect: func(_ context.Context, _ trust.Peer, to *Client) (Handler, error) { return &caller1{to}, nil },
		})
		mine, theirs := memPair(64 << 10)
		served := make(chan error, 1)
		go func() { served <- s.ServeConn(context.Background(), theirs, trust.Peer{Name: "p"}) }()
		go func() { _, _ = io.Copy(io.Discard, mine) }()
		_, _ = mine.Write(data)
		mine.Close()
		select {
		case err := <-served:
			require.Error(t, err)
		case <-time.After(patient):
			t.Fatal("the lane does not end")
		}
		within(t, "the server does not end", func() { s.Close() })
		require.Zero(t, s.Stats().Sessions)
	})
}

// caller1 makes a call of its own for each that it gets.
type caller1 struct{ to *Client }

func (h *caller1) Handle(ctx context.Context, _ uint64, _ wire.Message) (wire.Message, error) {
	return h.to.Call(ctx, &wire.Health{})
}
func (*caller1) Close() error { return nil }

// FuzzClient feeds a client whatever a server may say.
func FuzzClient(f *testing.F) {
	welcome := &wire.Welcome{Version: wire.Version, MaxCalls: 8, Window: 1 << 20, MaxLanes: 8, PingEvery: 5000, DeadAfter: 20000}
	f.Add(frames(f, welcome, &wire.Placed{Stored: 1}, &wire.Pong{Nonce: 1}))
	f.Add(frames(f, welcome, &wire.Fail{Code: wire.CodeNoSpace}, &wire.Content{Data: []byte("x")}, &wire.Ping{}))
	f.Add(frames(f, welcome, &wire.Credit{}, &wire.Durable{Writer: 1, Below: 9}, &wire.Drain{}, &wire.Refuse{Code: wire.CodeLost}))
	f.Add(frames(f, welcome, put(1, 10), &wire.Ack{Below: 3}))
	f.Add(frames(f, &wire.Refuse{Code: wire.CodeBusy}))
	f.Add(frames(f, &wire.Welcome{Version: wire.Version}))
	f.Fuzz(func(t *testing.T, data []byte) {
		mine, theirs := memPair(64 << 10)
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		go func() {
			_, _ = theirs.Write(data)
			_ = theirs.CloseWrite()
		}()
		dials := 0
		within(t, "the client does not end", func() {
			defer theirs.Close()
			c, err := NewClient(t.Context(), &ClientOptions{Dial: func(context.Context) (net.Conn, error) {
				if dials++; dials > 1 {
					return nil, errors.New("the line is down")
				}
				return mine, nil
			}})
			if err != nil {
				return
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Millisecond)
			defer cancel()
			_, _ = c.Call(ctx, put(1, 100))
			_ = c.Close()
		})
	})
}

// within fails where f takes too long.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(patient):
		t.Fatal(what)
	}
}
