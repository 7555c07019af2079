package mover

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Bounds of connections that have not shown who they are. Each has at most ten seconds for that, and takes some 13 KiB
// and a descriptor while it says nothing. A thousand machines may stand behind one address.
const (
	maxKnocking     = 4096
	maxKnockingEach = 1024 // from one address
)

// doors counts connections that have not shown who they are, and says once a minute for each address what it refused, and
// how often since it last said so.
type doors struct {
	log      *slog.Logger
	observer Observer

	mu       sync.Mutex
	total    int
	knocking map[netip.Addr]int
	said     map[netip.Addr]time.Time
	unsaid   map[netip.Addr]int // refusals since
}

func newDoors(log *slog.Logger, o Observer) *doors {
	return &doors{log: log, observer: o, knocking: map[netip.Addr]int{}, said: map[netip.Addr]time.Time{}, unsaid: map[netip.Addr]int{}}
}

// addressOf is who is at the other end, without the port: for IPv6 the network of 64 bits, of which one machine has all.
func addressOf(conn net.Conn) netip.Addr {
	ap, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	a := ap.Addr().Unmap().WithZone("")
	if a.Is6() {
		p, _ := a.Prefix(64)
		a = p.Addr()
	}
	return a
}

// knock counts a connection in, if there is room. Then left is to be called once.
func (d *doors) knock(from netip.Addr) (left func(), ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.total >= maxKnocking || d.knocking[from] >= maxKnockingEach {
		return nil, false
	}
	d.total++
	d.knocking[from]++
	return sync.OnceFunc(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.total--
		if d.knocking[from]--; d.knocking[from] == 0 {
			delete(d.knocking, from)
		}
	}), true
}

const (
	sayEvery = time.Minute
	maxSaid  = 4096 // addresses that are remembered
)

// refused counts a refusal, and logs it where nothing was said of the address for a minute.
func (d *doors) refused(from netip.Addr, why string, err error) {
	d.observer.Refused(why)
	now := time.Now()
	d.mu.Lock()
	last, known := d.said[from]
	if known && now.Sub(last) < sayEvery {
		d.unsaid[from]++
		d.mu.Unlock()
		return
	}
	if len(d.said) >= maxSaid {
		for a, at := range d.said {
			if now.Sub(at) >= sayEvery || len(d.said) >= maxSaid {
				delete(d.said, a)
				delete(d.unsaid, a)
			}
		}
	}
	before := d.unsaid[from]
	d.said[from] = now
	delete(d.unsaid, from)
	d.mu.Unlock()
	args := []any{"address", from.String(), "why", why, "err", err}
	if before > 0 {
		args = append(args, "held_back", before)
	}
	d.log.Warn("a connection was refused", args...)
}

// accept hands connections to serve until the listener is closed. An error that may pass, such as too many open files,
// is waited out.
func accept(ctx context.Context, l net.Listener, log *slog.Logger, serve func(net.Conn)) error {
	wait := time.Duration(0)
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
			wait = 0
			serve(conn)
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return nil
		default:
			wait = min(max(2*wait, 5*time.Millisecond), time.Second)
			log.Warn("no connection could be accepted", "err", err, "wait", wait)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(wait):
			}
		}
	}
}

// counted is a connection of which the bytes are counted.
type counted struct {
	net.Conn
	observer Observer
}

// NetConn is the connection below.
func (c counted) NetConn() net.Conn { return c.Conn }

// CloseWrite ends what is sent, where the connection below can do so.
func (c counted) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.observer.Wire(int64(n), 0)
	return n, err
}

func (c counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.observer.Wire(0, int64(n))
	return n, err
}
