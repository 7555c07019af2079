package mover

import (
	"context"
	"net"
	"slices"
	"sync"

	"github.com/hikae/hikae/pipe/mover/trust"
)

// Protocol is another protocol that is served on a mover's port, to peers of the same book: a guest interaction proxy is
// one. Which one a connection is for stands in its ALPN.
type Protocol interface {
	// ServeConn serves one connection until it ends or ctx does, and closes it. ctx ends with the mover, and when the peer
	// is taken out of the book. The peer has shown its key; what its role may do, and how many connections there may be,
	// is the protocol's to say. It may be a token.
	ServeConn(ctx context.Context, conn net.Conn, peer trust.Peer) error
}

// protocols are the names that are served: the mover's own first.
func (o *ServerOptions) protocols() []string {
	names := []string{trust.ALPN}
	for name := range o.Protocols {
		names = append(names, name)
	}
	slices.Sort(names[1:])
	return names
}

// visitors are the connections of further protocols, so that those of a peer who is taken out of the book end.
type visitors struct {
	mu   sync.Mutex
	last int
	live map[int]visitor
}

type visitor struct {
	peer trust.Peer
	end  context.CancelFunc
}

// enter counts a connection in. Its context ends with life, too.
func (v *visitors) enter(ctx, life context.Context, peer trust.Peer) (context.Context, func()) {
	ctx, end := context.WithCancel(ctx)
	stop := context.AfterFunc(life, end)
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.live == nil {
		v.live = map[int]visitor{}
	}
	v.last++
	n := v.last
	v.live[n] = visitor{peer, end}
	return ctx, func() {
		stop()
		end()
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.live, n)
	}
}

// review ends what peers have that are not known any more.
func (v *visitors) review(known func(trust.Peer) error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, x := range v.live {
		if known(x.peer) != nil {
			x.end()
		}
	}
}

// serveFurther serves a connection of another protocol.
func (s *Server) serveFurther(ctx context.Context, p Protocol, conn net.Conn, peer trust.Peer) error {
	ctx, leave := s.further.enter(ctx, s.life, peer)
	defer leave()
	if err := s.opts.Book.Check(peer); err != nil { // between the handshake and enter nobody would have noticed
		_ = conn.Close()
		return err
	}
	return p.ServeConn(ctx, conn, peer)
}
