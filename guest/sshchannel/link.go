package sshchannel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/hikae/hikae/guest"
)

const (
	// maxSessions is how many run at once: servers allow ten on one connection, unless they were told otherwise.
	maxSessions = 8
	// grace is how long a server has to let go of what was called off. One that does not is gone.
	grace = 2 * time.Second
)

// ErrLinkLost says that a connection is over: the guest ended it, or did not answer any more.
var ErrLinkLost = fmt.Errorf("%w: the SSH connection is lost", guest.ErrLink)

// link is one connection. It implements [hikae.GuestChannel].
type link struct {
	raw     *line
	client  *ssh.Client
	windows bool
	slots   chan struct{}
	last    atomic.Int64            // when a session of ours ended, in nanoseconds
	end     context.CancelCauseFunc // says why, once
	ended   context.Context
	closed  sync.Once
	group   sync.WaitGroup

	mu      sync.Mutex
	without bool // SFTP
}

func newLink(raw *line, client *ssh.Client, every time.Duration) *link {
	l := &link{raw: raw, client: client, slots: make(chan struct{}, maxSessions),
		windows: strings.Contains(string(client.ServerVersion()), "OpenSSH_for_Windows")}
	l.ended, l.end = context.WithCancelCause(context.Background())
	l.group.Go(func() {
		client.Wait()
		l.cut(ErrLinkLost)
	})
	l.group.Go(func() { l.keepAlive(every) })
	return l
}

// cut ends the connection below everything that waits on it.
func (l *link) cut(why error) {
	l.end(why)
	l.raw.Close()
}

// Close ends the connection and everything on it.
func (l *link) Close() error {
	l.closed.Do(func() {
		l.cut(net.ErrClosed)
		l.group.Wait()
	})
	return nil
}

// keepAlive asks the server whether it is there. One that is silent for a whole turn is gone.
func (l *link) keepAlive(every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-l.ended.Done():
			return
		case <-tick.C:
		}
		ctx, cancel := context.WithTimeout(l.ended, every)
		err := l.within(ctx, func() error {
			_, _, err := l.client.SendRequest("keepalive@openssh.com", true, nil)
			return err
		}, nil)
		cancel()
		if err != nil {
			return
		}
	}
}

// within runs what waits for the server. When the context ends first, interrupt (if any) asks for an end, and after a
// moment the connection is cut, so that nothing ever waits longer.
func (l *link) within(ctx context.Context, f func() error, interrupt func()) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return l.because(err)
	case <-ctx.Done():
	}
	called := make(chan struct{})
	go func() {
		defer close(called)
		if interrupt != nil {
			interrupt()
		}
	}()
	timer := time.AfterFunc(grace, func() { l.cut(fmt.Errorf("%w: no answer in time", ErrLinkLost)) })
	defer timer.Stop()
	<-done
	<-called
	return ctx.Err()
}

// because prefers the reason why the link ended to what was noticed of it.
func (l *link) because(err error) error {
	var refused *ssh.OpenChannelError
	if err == nil || l.ended.Err() == nil || errors.As(err, &refused) {
		return err
	}
	return fmt.Errorf("%w (%w)", context.Cause(l.ended), err)
}

// letGo is how long a server may take to notice that a session of ours has ended: until then it may count it still.
const letGo = 2 * time.Second

// session opens a session. A server that allows fewer than we open has us wait for one of ours to end.
func (l *link) session(ctx context.Context) (*ssh.Session, func(), error) {
	select {
	case l.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	case <-l.ended.Done():
		return nil, nil, context.Cause(l.ended)
	}
	release := func() {
		l.last.Store(time.Now().UnixNano())
		<-l.slots
	}
	for {
		s, err := l.openSession(ctx)
		if err == nil {
			return s, release, nil
		}
		var full *ssh.OpenChannelError
		if !errors.As(err, &full) || len(l.slots) <= 1 && time.Since(time.Unix(0, l.last.Load())) > letGo {
			release()
			return nil, nil, fmt.Errorf("open a session: %w", err)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			release()
			return nil, nil, fmt.Errorf("the server allows no more sessions, and none of ours has ended: %w", ctx.Err())
		}
	}
}

// openSession asks for a session. The library's wait has no end where the connection ends in the moment of asking, so ours
// does not hang on it.
func (l *link) openSession(ctx context.Context) (*ssh.Session, error) {
	if err := l.raw.ask(); err != nil {
		return nil, l.because(err)
	}
	type answer struct {
		session *ssh.Session
		err     error
	}
	answered := make(chan answer, 1)
	go func() {
		defer l.raw.asked()
		s, err := l.client.NewSession()
		answered <- answer{s, err}
	}()
	var got answer
	err := l.within(ctx, func() error {
		select {
		case got = <-answered:
			return got.err
		case <-l.ended.Done():
		}
		select {
		case got = <-answered:
			return got.err
		case <-time.After(grace):
			return net.ErrClosed
		}
	}, nil)
	if err != nil && got.session != nil {
		got.session.Close()
		return nil, err
	}
	return got.session, err
}

// line is the connection below. The library tells everybody who waits for an answer when nothing comes any more, once; who
// begins to wait after that waits for ever. So the end is held back for a moment while somebody begins, and nobody may begin
// after it.
type line struct {
	net.Conn
	mu     sync.Mutex
	asking int
	over   error // why nothing comes any more
}

// begins is how long whoever asks may take until they wait.
const begins = 200 * time.Millisecond

func (c *line) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && c.end(err) {
		time.Sleep(begins)
	}
	return n, err
}

// end lets nobody ask any more, and reports whether somebody does.
func (c *line) end(err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over != nil {
		return false
	}
	c.over = err
	return c.asking > 0
}

func (c *line) ask() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over == nil {
		c.asking++
	}
	return c.over
}

func (c *line) asked() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asking--
}
