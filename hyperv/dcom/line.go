package dcom

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/hikae/hikae/hyperv/cim"
)

const (
	maxAnswer = 16 << 20        // bytes that one call may read
	grace     = 2 * time.Second // for a call whose caller has left: most are answered by then, and the connection lives
)

// errKilled ends the calls on a connection that was given up.
var errKilled = errors.New("the connection was given up")

// line is a connection on which the library's calls end in time. The library reads for as long as the context lives that its connection
// was made with, so that context is the line's, and a call is ended by giving the line up.
type line struct {
	net.Conn
	done context.Context // not a call's
	end  context.CancelFunc
	read atomic.Int64 // bytes, by the call that is under way
}

func newLine(conn net.Conn) *line {
	l := &line{Conn: conn}
	l.done, l.end = context.WithCancel(context.Background())
	return l
}

func (l *line) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if l.read.Add(int64(n)) > maxAnswer {
		l.kill()
		return 0, fmt.Errorf("%w: an answer of more than %d bytes", cim.ErrMalformed, maxAnswer)
	}
	return n, err
}

// Close keeps what waits inside the library from outliving the connection, whoever closes it.
func (l *line) Close() error {
	l.end()
	return l.Conn.Close()
}

func (l *line) kill()      { _ = l.Close() }
func (l *line) dead() bool { return l.done.Err() != nil }

// run makes one call of the library. It ends in time: with the deadline of ctx, or a moment after ctx was cancelled.
func (l *line) run(ctx context.Context, call func(ctx context.Context) error) (err error) {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if l.dead() {
		return errKilled
	}
	l.read.Store(0)
	finished := make(chan struct{})
	defer close(finished)
	defer context.AfterFunc(ctx, func() {
		wait := time.Duration(0)
		if errors.Is(ctx.Err(), context.Canceled) {
			wait = grace
		}
		select {
		case <-finished:
		case <-time.After(wait):
			l.kill()
		}
	})()
	defer func() {
		if p := recover(); p != nil {
			l.kill()
			err = fmt.Errorf("%w: %v", cim.ErrMalformed, p)
		}
		if err != nil && l.dead() && ctx.Err() != nil {
			err = errors.Join(context.Cause(ctx), err)
		}
	}()
	return call(l.done)
}
