package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest"
)

// placed is a component in a guest, with the channel that it came by.
type placed struct {
	guest   string
	system  guest.System
	path    string
	stream  io.ReadWriteCloser
	channel guest.Channel
	brought *guest.Brought

	mu   sync.Mutex
	gone bool
}

// place opens a way and brings a component in. A link that breaks is made anew once (R190); what the first attempt left is
// taken away first.
func (s *Server) place(ctx context.Context, way guest.Way, name, session string, journal hikae.Journal, reconnects *int) (*placed, error) {
	var p *placed
	err := s.withReconnect(ctx, name, reconnects, func(ctx context.Context) (err error) {
		p, err = s.placeOnce(ctx, way, name, session, journal)
		return err
	})
	return p, err
}

func (s *Server) placeOnce(ctx context.Context, way guest.Way, name, session string, journal hikae.Journal) (*placed, error) {
	ch, err := way.Open(ctx)
	if err != nil {
		return nil, err
	}
	o := &guest.DeployOptions{Guest: name, Session: session, Way: way, Journal: journal}
	b, err := guest.Bring(ctx, ch, s.opts.Programs, o)
	if err != nil {
		_ = ch.Close() // a link that broke cannot be closed well
		return nil, err
	}
	return &placed{guest: name, system: ch.System(), path: b.Program.Path, stream: b.Stream, channel: ch, brought: b}, nil
}

// withReconnect does something over a link to a guest, and once more where the link broke (R190).
// left is how many reconnects are left, of the whole task.
func (s *Server) withReconnect(ctx context.Context, name string, left *int, do func(context.Context) error) error {
	err := do(ctx)
	for try := 1; err != nil && guest.LinkBroke(err) && !errors.Is(err, guest.ErrLeftover) && ctx.Err() == nil; try++ {
		if *left <= 0 {
			return &TaskError{Guest: name, Link: ToGuest, Reconnects: try - 1, Err: err}
		}
		if s.sleep(ctx, backOff(try)) != nil {
			return err
		}
		*left--
		err = do(ctx)
	}
	return err
}

// remove takes the component away and proves it. After an error it may be called again.
func (p *placed) remove(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return nil
	}
	if p.brought == nil { // a connection, and nothing of ours in the guest
		p.gone = true
		_ = p.stream.Close()
		return nil
	}
	if err := p.brought.Remove(ctx); err != nil {
		return err
	}
	p.gone = true
	_ = p.channel.Close() // nothing hangs on it any more
	return nil
}

// dialLimit bounds the wait for a guest that does not answer.
const dialLimit = 15 * time.Second

// dial connects to a persistent component, at one of the ports that are allowed, and begins the task's stream.
func (t *task) dial(ctx context.Context, a *dialArgs) (*dialAnswer, error) {
	limit, err := limitOf(a.LimitMillis, dialLimit)
	if err = errors.Join(err, checkGuest(a.Guest), t.server.mayDial(a.Address), t.unused()); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var conn net.Conn
	left := ToGuest.Reconnects()
	err = t.server.withReconnect(ctx, a.Guest, &left, func(ctx context.Context) (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", a.Address)
		return err
	})
	if err != nil {
		return nil, err
	}
	t.begin(&placed{guest: a.Guest, stream: conn})
	return &dialAnswer{}, nil
}

// mayDial sees that an address is one of a persistent component: a proxy is no door to everything behind it.
func (s *Server) mayDial(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" || len(address) > maxName {
		return invalid("%.80q is no address", address)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || !slices.Contains(s.opts.Direct, uint16(n)) {
		return &Failure{CodeForbidden, fmt.Sprintf("this proxy does not connect to port %.20q: it is none of a persistent component", port)}
	}
	return nil
}
