package hypervtest

import (
	"bufio"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// controls are the control connections of a host or a cluster, and the guests that they have write.
type controls struct {
	mu     sync.Mutex
	open   map[io.Closer]bool
	churns map[string]func() // by VM
	done   sync.WaitGroup
	closed bool
}

// ServeControl takes control connections until the host is closed. Each has to say the token first, of 16 characters at least. It
// returns at once; the listener is closed with the host.
func (h *Host) ServeControl(l net.Listener, token string) error {
	return h.beside.steer.serve(l, token, steered{hosts: []*Host{h}})
}

// ServeControl is that of all nodes.
func (c *Cluster) ServeControl(l net.Listener, token string) error {
	return c.steer.serve(l, token, steered{hosts: c.hosts, cluster: c})
}

func (c *controls) serve(l net.Listener, token string, s steered) error {
	if len(token) < 16 {
		return errors.New("the token is too short")
	}
	s.controls = c
	if !c.enter(l) {
		return net.ErrClosed
	}
	go func() {
		defer c.leave(l)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if !c.enter(conn) {
				conn.Close()
				return
			}
			go func() {
				defer c.leave(conn)
				s.control(conn, token)
			}()
		}
	}()
	return nil
}

// enter counts in what has to be closed at the end.
func (c *controls) enter(what io.Closer) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	if c.open == nil {
		c.open = map[io.Closer]bool{}
	}
	c.open[what] = true
	c.done.Add(1)
	return true
}

func (c *controls) leave(what io.Closer) {
	c.mu.Lock()
	delete(c.open, what)
	c.mu.Unlock()
	what.Close()
	c.done.Done()
}

// churn has a guest write until it is called with nil, or until the end.
func (c *controls) churn(vm string, start func() (stop func())) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	stop := c.churns[vm]
	delete(c.churns, vm)
	if stop != nil {
		stop()
	}
	if start == nil {
		return nil
	}
	if c.churns == nil {
		c.churns = map[string]func(){}
	}
	c.churns[vm] = start()
	return nil
}

func (c *controls) close() {
	c.mu.Lock()
	c.closed = true
	for what := range c.open {
		what.Close()
	}
	for _, stop := range c.churns {
		stop()
	}
	c.churns = nil
	c.mu.Unlock()
	c.done.Wait()
}

// control answers one connection, line by line.
func (s steered) control(conn net.Conn, token string) {
	in, known := bufio.NewReaderSize(conn, 64<<10), false
	for {
		wait := controlIdle
		if !known {
			wait = 10 * time.Second
		}
		conn.SetDeadline(time.Now().Add(wait))
		var o order
		if err := readLine(in, &o); err != nil {
			return
		}
		if known = known || subtle.ConstantTimeCompare([]byte(o.Token), []byte(token)) == 1; !known {
			return
		}
		a, err := s.obey(&o)
		if a == nil {
			a = new(answer)
		}
		if err != nil {
			a = &answer{Error: err.Error()}
		}
		line, err := json.Marshal(a)
		if err != nil {
			return
		}
		if _, err := conn.Write(append(line, '\n')); err != nil {
			return
		}
	}
}

// sumOf digests a disk of a length.
func sumOf(r io.ReaderAt, size int64) (string, error) {
	h := sha256.New()
	if _, err := io.CopyBuffer(h, io.NewSectionReader(r, 0, size), make([]byte, 1<<20)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// guestReader reads a disk as its guest does.
type guestReader struct {
	g    *Guest
	disk int
}

// ReadAt implements [io.ReaderAt].
func (r guestReader) ReadAt(p []byte, off int64) (int, error) {
	left := r.g.Size(r.disk) - off
	if left <= 0 {
		return 0, io.EOF
	}
	got, err := r.g.Read(r.disk, off, int(min(int64(len(p)), left)))
	if n := copy(p, got); n < len(p) && err == nil {
		return n, io.EOF
	}
	return copy(p, got), err
}
