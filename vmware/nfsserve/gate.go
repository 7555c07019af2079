package nfsserve

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// gate lets in only whom it knows, no more than so many, and no message that is longer than any that a host sends.
type gate struct {
	net.Listener
	clients []netip.Prefix
	slots   chan struct{}

	mu     sync.Mutex
	conns  map[*guarded]bool
	closed bool
	empty  sync.WaitGroup
}

const (
	maxMessage = 2 << 20 // a write of 1 MiB and its call
	idleLimit  = 30 * time.Minute
	writeLimit = time.Minute

	acceptPause    = 5 * time.Millisecond
	acceptPatience = 30 * time.Second // the longest pause
)

var errLong = errors.New("a message is longer than any that is answered")

func newGate(l net.Listener, clients []netip.Prefix, most int) *gate {
	return &gate{Listener: l, clients: clients, slots: make(chan struct{}, most), conns: map[*guarded]bool{}}
}

// Accept implements net.Listener.
func (g *gate) Accept() (net.Conn, error) {
	pause := acceptPause
	for {
		c, err := g.Listener.Accept()
		if err != nil && !errors.Is(err, net.ErrClosed) && pause <= acceptPatience {
			time.Sleep(pause) // out of descriptors for a moment: the datastore of VMs that run does not go for that
			pause *= 2
			continue
		}
		if err != nil {
			return nil, err
		}
		pause = acceptPause
		if !g.knows(c.RemoteAddr()) {
			c.Close()
			continue
		}
		select {
		case g.slots <- struct{}{}:
		default:
			c.Close()
			continue
		}
		guard := &guarded{Conn: c, gate: g}
		if g.add(guard) {
			return guard, nil
		}
		<-g.slots
		c.Close()
	}
}

func (g *gate) knows(a net.Addr) bool {
	at, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return false
	}
	addr := at.Addr().Unmap().WithZone("")
	return slices.ContainsFunc(g.clients, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func (g *gate) add(c *guarded) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.conns[c] = true
	g.empty.Add(1)
	return true
}

// Close ends the listener and every connection.
func (g *gate) Close() error {
	g.mu.Lock()
	g.closed = true
	conns := make([]*guarded, 0, len(g.conns))
	for c := range g.conns {
		conns = append(conns, c)
	}
	g.mu.Unlock()
	err := g.Listener.Close()
	for _, c := range conns {
		c.Close()
	}
	return err
}

// wait waits until every connection has been closed.
func (g *gate) wait() { g.empty.Wait() }

// guarded is a connection whose calls are looked at, whole, before the library gets them: it takes a length's word for it.
type guarded struct {
	net.Conn
	gate *gate
	once sync.Once
	call []byte // what is left of one that was looked at
}

// Read hands out calls (RFC 5531, 11: a record is fragments, each with its length before it; the library takes records of one
// fragment).
func (c *guarded) Read(p []byte) (int, error) {
	if len(c.call) == 0 {
		call, err := c.next()
		if err != nil {
			c.Close()
			return 0, err
		}
		c.call = call
	}
	n := copy(p, c.call)
	c.call = c.call[n:]
	return n, nil
}

func (c *guarded) next() ([]byte, error) {
	c.Conn.SetReadDeadline(time.Now().Add(idleLimit))
	var head [4]byte
	if _, err := io.ReadFull(c.Conn, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n&(1<<31) == 0 || n&^(1<<31) > maxMessage {
		return nil, errLong
	}
	c.Conn.SetReadDeadline(time.Now().Add(writeLimit))
	record := make([]byte, 4+n&^(1<<31))
	copy(record, head[:])
	if _, err := io.ReadFull(c.Conn, record[4:]); err != nil {
		return nil, err
	}
	return record, check(record[4:])
}

func (c *guarded) Write(p []byte) (int, error) {
	c.Conn.SetWriteDeadline(time.Now().Add(writeLimit))
	n, err := c.Conn.Write(p)
	if err != nil {
		c.Close() // the library would wait for more requests
	}
	return n, err
}

func (c *guarded) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		c.gate.mu.Lock()
		delete(c.gate.conns, c)
		c.gate.mu.Unlock()
		<-c.gate.slots
		c.gate.empty.Done()
	})
	return err
}
