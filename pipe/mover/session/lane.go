package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hikae/hikae/pipe/mover/wire"
)

// Times that are no option.
const (
	helloTime    = 10 * time.Second // for a Hello or its answer to come whole
	farewellTime = 2 * time.Second  // for the last message to arrive
	deadlineStep = 16               // a deadline is set anew when this part of it has passed
)

// timing is when a side says Ping and when it gives a lane up.
type timing struct{ pingEvery, deadAfter time.Duration }

// bounded keeps what the other side says within reason.
func (t timing) bounded() timing {
	t.pingEvery = min(max(t.pingEvery, 100*time.Millisecond), time.Minute)
	t.deadAfter = min(max(t.deadAfter, 3*t.pingEvery), 5*time.Minute)
	return t
}

// lane is one connection of a session, from its Welcome to its end: a goroutine that writes, one that reads.
//
// What is to be said outside of calls has one place for each kind and no queue: however fast the other side asks, no more
// than the newest is waiting.
type lane struct {
	link   *link
	conn   net.Conn
	number uint32
	timing timing

	// Under the link's lock.
	first     []wire.Message // before anything else
	pong      *wire.Pong
	ping      bool
	pinged    uint64    // nonce of the last Ping
	pingedAt  time.Time // zero: it was answered
	ackDue    bool
	creditDue bool
	durables  map[uint32]struct{} // writers of which news is due
	drain     *wire.Drain
	replies   []*reply
	calls     map[uint64]*call // that it has taken, without an answer
	expects   int64            // bytes of their answers
	room      int64            // for expects, on a long line
	acked     uint64           // every call below was told of on this lane
	farewell  *wire.Refuse     // to be said now, and nothing behind it
	idle      bool             // the writer waits for wake
	lost      bool             // the link has let go of it
	used      time.Time        // when the last call or answer passed

	wake  chan struct{}
	stop  chan struct{}
	fails sync.Once
	err   error // why it ended; read it when stop is closed

	heard  atomic.Int64 // nanoseconds since the link's start
	said   atomic.Int64
	proved atomic.Bool // something came behind the greeting
	mem    *memory     // of the frame that is being read

	readBy, writeBy time.Time // deadlines as they stand; each for its own goroutine

	writing atomic.Int64 // since when the writer is in a write; 0: it is not
	seen    struct {     // by the reader, of the write that goes on
		since int64
		acked uint64
	}
}

func newLane(l *link, conn net.Conn, number uint32, t timing) *lane {
	tune(conn, t.deadAfter)
	a := &lane{link: l, conn: conn, number: number, timing: t, durables: map[uint32]struct{}{}, calls: map[uint64]*call{},
		room: leastRoom, wake: make(chan struct{}, 1), stop: make(chan struct{}), used: time.Now()}
	a.heard.Store(l.now())
	a.said.Store(l.now())
	return a
}

// run carries the lane until it ends, and says why.
func (a *lane) run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { a.fail(context.Cause(ctx)) })()
	written := make(chan struct{})
	go func() {
		defer close(written)
		a.fail(a.write())
	}()
	a.fail(a.read())
	<-written
	return a.err
}

// fail ends the lane; the first error counts. Its calls are free for other lanes when it returns.
func (a *lane) fail(err error) {
	a.fails.Do(func() {
		if err == nil {
			err = io.EOF
		}
		a.err = err
		close(a.stop)
		abort(a.conn)
		a.link.lost(a)
	})
}

// abort closes a connection at once. Closing TLS first says so, which takes seconds where nothing gets through.
func abort(conn net.Conn) {
	if under, ok := conn.(interface{ NetConn() net.Conn }); ok {
		abort(under.NetConn())
	}
	conn.Close()
}

// notify wakes the writer.
func (a *lane) notify() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// read takes frames from the connection until it ends.
func (a *lane) read() error {
	r := wire.NewReader((*laneReader)(a))
	r.Lend(func(n int) []byte {
		a.mem = borrow(n)
		return a.mem.buf
	})
	for {
		a.mem = nil
		f, err := r.Read()
		if err != nil {
			return fmt.Errorf("lane %d: %w", a.number, a.silence(err))
		}
		if a.mem == nil && content(f.Message) != nil {
			r.Take()
		}
		a.proved.Store(true)
		if err := a.link.receive(a, f, a.mem); err != nil {
			return fmt.Errorf("lane %d: %w", a.number, err)
		}
	}
}

// errSilent is what a deadline means here.
var errSilent = errors.New("nothing gets through any more")

func (a *lane) silence(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%w for %v: %w", errSilent, a.timing.deadAfter, err)
	}
	return err
}

// laneReader is the connection with a deadline for each read, and counted.
type laneReader lane

func (r *laneReader) Read(p []byte) (int, error) {
	a := (*lane)(r)
	before := time.Now()
	if a.readBy.Sub(before) < a.timing.deadAfter*(deadlineStep-1)/deadlineStep {
		a.readBy = before.Add(a.timing.deadAfter)
		if err := a.conn.SetReadDeadline(a.readBy); err != nil {
			return 0, err
		}
	}
	n, err := a.conn.Read(p)
	if n > 0 {
		a.heard.Store(a.link.now())
		a.link.counters.in.Add(int64(n))
		a.link.pressure.came(len(p), time.Since(before))
		a.lengthen()
	}
	return n, err
}

// lengthen gives a write more time where it gets on, if slowly: the kernel takes more only when much of what it has is
// gone, and a limit lets pass a little at a time, which may take longer than a lane may be silent. The reader sees to it, because it is woken by the
// other side's Pings.
func (a *lane) lengthen() {
	since, now := a.writing.Load(), a.link.now()
	if since == 0 || now-since < int64(a.timing.deadAfter/8) {
		return
	}
	acked, ok := acknowledged(a.conn)
	if !ok {
		return
	}
	if a.seen.since == since && acked > a.seen.acked {
		_ = a.conn.SetWriteDeadline(time.Now().Add(a.timing.deadAfter))
	}
	a.seen.since, a.seen.acked = since, acked
}

// beat says Ping where nothing was said or heard for a while. It is for the writer.
func (a *lane) beat() {
	now, every := a.link.now(), int64(a.timing.pingEvery)
	quiet := now - min(a.said.Load(), a.heard.Load())
	if quiet < every {
		return
	}
	a.link.mu.Lock()
	defer a.link.mu.Unlock()
	if a.pingedAt.IsZero() || time.Since(a.pingedAt) >= a.timing.pingEvery {
		a.ping = true
		a.ackDue = a.ackDue || a.link.calls != nil && a.link.calls.owesAck(a)
	}
}

// ask says Ping soon, to measure the line.
func (a *lane) ask() {
	a.link.mu.Lock()
	a.ping = true
	a.link.mu.Unlock()
	a.notify()
}
