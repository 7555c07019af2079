package session

import (
	"errors"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// raw is a peer that says what it is told to, and has no manners.
type raw struct {
	t    testing.TB
	conn net.Conn
	r    *wire.Reader
}

func newRaw(t testing.TB, conn net.Conn) *raw {
	return &raw{t: t, conn: conn, r: wire.NewReader(conn)}
}

// raw connects a peer without manners.
func (s *site) raw(name string) *raw {
	client, server := memPair(s.room)
	s.lanes.Go(func() {
		err := s.server.ServeConn(s.ctx, server, trust.Peer{Name: name})
		s.mu.Lock()
		s.errs = append(s.errs, err)
		s.mu.Unlock()
	})
	return newRaw(s.t, client)
}

func (p *raw) send(call uint64, m wire.Message) error {
	b, err := wire.Append(nil, wire.Frame{Call: call, Message: m})
	require.NoError(p.t, err)
	_, err = p.conn.Write(b)
	return err
}

// hello opens a lane.
func (p *raw) hello(id byte, lane uint32) wire.Message {
	require.NoError(p.t, p.send(0, &wire.Hello{Version: wire.Version, Role: wire.Caller, Session: [16]byte{id}, Lane: lane}))
	return p.next()
}

// next is the next message that is no heartbeat.
func (p *raw) next() wire.Message {
	for {
		f, err := p.r.Read()
		require.NoError(p.t, err)
		switch f.Message.(type) {
		case *wire.Ping, *wire.Pong, *wire.Credit:
			continue
		}
		return f.Message
	}
}

// gone waits until the other side closes, and returns the refusal that came before.
func (p *raw) gone() (last *wire.Refuse) {
	for {
		f, err := p.r.Read()
		if err != nil {
			require.True(p.t, errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF), "%v", err)
			p.conn.Close()
			return last
		}
		if m, ok := f.Message.(*wire.Refuse); ok {
			last = m
		}
	}
}
