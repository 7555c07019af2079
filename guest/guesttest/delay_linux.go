package guesttest

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A far connection holds at most 64 parts of 32 KiB each way.
const (
	farParts = 64
	farPart  = 32 << 10
)

// Far is an address at which a server seems to be far away: what is sent arrives after the delay, each way, in order and
// at full speed. It ends with the test.
func Far(t testing.TB, addr string, delay time.Duration) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f := &far{to: addr, delay: delay, open: map[net.Conn]bool{}}
	f.group.Go(func() { f.accept(l) })
	t.Cleanup(func() {
		l.Close()
		f.end()
		f.group.Wait()
	})
	return l.Addr().String()
}

type far struct {
	to    string
	delay time.Duration
	group sync.WaitGroup

	mu    sync.Mutex
	ended bool
	open  map[net.Conn]bool
}

func (f *far) accept(l net.Listener) {
	for {
		near, err := l.Accept()
		if err != nil {
			return
		}
		f.group.Go(func() { f.join(near) })
	}
}

func (f *far) join(near net.Conn) {
	defer near.Close()
	there, err := net.DialTimeout("tcp", f.to, 10*time.Second)
	if err != nil {
		return
	}
	defer there.Close()
	if !f.note(near, there) {
		return
	}
	defer f.forget(near, there)
	var both sync.WaitGroup
	both.Go(func() { f.carry(near, there) })
	both.Go(func() { f.carry(there, near) })
	both.Wait()
}

func (f *far) note(conns ...net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range conns {
		f.open[c] = true
	}
	return !f.ended
}

func (f *far) forget(conns ...net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range conns {
		delete(f.open, c)
	}
}

func (f *far) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	for c := range f.open {
		c.Close()
	}
}

type part struct {
	data []byte
	due  time.Time
}

// carry brings one direction over. Its end ends both.
func (f *far) carry(from, to net.Conn) {
	parts := make(chan part, farParts)
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(parts)
		for {
			data := make([]byte, farPart)
			n, err := from.Read(data)
			if n > 0 {
				parts <- part{data: data[:n], due: time.Now().Add(f.delay)}
			}
			if err != nil {
				return
			}
		}
	})
	for p := range parts {
		time.Sleep(time.Until(p.due))
		if _, err := to.Write(p.data); err != nil {
			break
		}
	}
	if c, ok := to.(*net.TCPConn); ok {
		c.CloseWrite()
	}
	if _, broken := <-parts; broken { // nobody takes what comes
		from.Close()
		io.Copy(io.Discard, from)
		for range parts {
		}
	}
	reading.Wait()
}
