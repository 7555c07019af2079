package smbwire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/cloudsoda/go-smb2"
)

// ErrKilled ends the calls on a connection that was given up.
var ErrKilled = errors.New("the connection was given up")

// Grace is how long a request may go on whose caller has left. Most are answered by then, and the connection lives.
const Grace = 2 * time.Second

// Line is a connection on which the library's calls end in time.
type Line struct {
	*Wire
	done context.Context // not a call's: ends what waits inside the library when the connection is given up
	end  context.CancelFunc
}

// NewLine owns the connection. timeout bounds each call.
func NewLine(conn net.Conn, timeout time.Duration) *Line {
	l := &Line{Wire: newWire(conn, timeout)}
	l.done, l.end = context.WithCancel(context.Background())
	return l
}

// Done is the context for the library's own waits.
func (l *Line) Done() context.Context { return l.done }

// Run makes one call of the library, and tells whether its caller left before it ended. It ends in time: a connection on
// which it does not is given up, and so is one whose caller left and that still did not answer after a moment. The library
// takes a server's word for sizes here and there; a panic over that is an answer that makes no sense, and no reason for the
// program to end.
func (l *Line) Run(ctx context.Context, call func() error) (left bool, err error) {
	if err := ctx.Err(); err != nil {
		return true, err
	}
	if l.Dead() {
		return false, ErrKilled
	}
	var answered atomic.Bool
	timer := time.AfterFunc(l.timeout, func() {
		if !answered.Load() {
			l.Kill()
		}
	})
	stop := context.AfterFunc(ctx, func() { timer.Reset(min(Grace, l.timeout)) })
	defer func() {
		answered.Store(true)
		left = !stop()
		timer.Stop()
		if p := recover(); p != nil {
			l.Kill()
			err = &smb2.InvalidResponseError{Message: fmt.Sprint("the answer makes no sense: ", p)}
		}
	}()
	return false, call()
}

// Dead reports whether the connection is over.
func (l *Line) Dead() bool { return l.done.Err() != nil || l.Broken.Load() }

// Kill gives the connection up. What the other side has open for it, it closes.
func (l *Line) Kill() {
	l.end()
	_ = l.Close()
}
