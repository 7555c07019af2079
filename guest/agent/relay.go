package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hikae/hikae/guest/agent/wire"
)

const (
	askLimit    = 30 * time.Second  // for the bytes of an ask to come or go
	maxAsks     = 64                // at once
	maxEnded    = 4 * wire.MaxCalls // calls whose answers are kept, for asks that are made again
	socketName  = "s"
	maxSockPath = 100 // bytes: what every system takes
)

// ErrNoDaemon says that no component listens in a folder.
var ErrNoDaemon = errors.New("there is no daemon in this folder")

// Relay is one session that is spoken to by asks. See [Ask].
type Relay struct {
	session *Session

	mu    sync.Mutex
	calls map[uint32]*relayed
	over  uint32 // no call begins any more whose number is not higher
	ended bool   // no call begins any more

	serving sync.WaitGroup // calls
	asking  sync.WaitGroup
	slots   chan struct{}
}

// Relay begins a session that is spoken to by asks.
func (a *Agent) Relay() *Relay {
	return &Relay{session: a.Open(), calls: map[uint32]*relayed{}, slots: make(chan struct{}, maxAsks)}
}

// Listen makes the socket of a place, which only its owner can connect to.
func Listen(p *Place) (net.Listener, error) {
	name := p.Path(socketName)
	if len(name) > maxSockPath {
		return nil, fmt.Errorf("%s: longer than the %d bytes that the name of a socket may have", name, maxSockPath)
	}
	l, err := net.Listen("unix", name)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(name, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Serve takes asks until the session is over or the context ends. It then thaws, lets applications go, and hands out the
// answers that asks under way wait for. It owns the listener. Nil is after Remove.
func (r *Relay) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	accepting := make(chan error, 1)
	go func() { accepting <- r.accept(ctx, l) }()
	var err error
	select {
	case <-r.session.Done():
		err = r.session.Err()
		l.Close()
		<-accepting
	case err = <-accepting:
	case <-ctx.Done():
		err = ctx.Err()
		l.Close()
		<-accepting
	}
	cancel()
	r.session.Close()
	r.endCalls()
	within(askLimit, &r.asking)
	within(stragglers, &r.serving)
	return err
}

// within waits for a group, but not for ever.
func within(limit time.Duration, group *sync.WaitGroup) {
	done := make(chan struct{})
	go func() {
		group.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(limit):
	}
}

// endCalls makes asks return that wait for what will not come.
func (r *Relay) endCalls() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	for _, c := range r.calls {
		c.Close()
	}
}

func (r *Relay) accept(ctx context.Context, l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		select {
		case r.slots <- struct{}{}:
			r.asking.Go(func() {
				defer func() { <-r.slots }()
				defer c.Close()
				r.answer(ctx, c)
			})
		default:
			c.Close()
		}
	}
}

// answer answers one ask. The bytes are followed by a zero byte, or by the words of an error behind a one: an answer that
// was cut is told from a short one.
func (r *Relay) answer(ctx context.Context, c net.Conn) {
	c.SetDeadline(time.Now().Add(askLimit))
	if ownPeer(c) != nil {
		return
	}
	ask, brought, err := readAsk(c)
	if err != nil {
		return
	}
	r.session.Renew()
	out, err := r.ask(ctx, ask, brought)
	c.SetDeadline(time.Now().Add(askLimit))
	if err != nil {
		c.Write(append([]byte{1}, err.Error()...))
		return
	}
	c.Write(append([]byte{0}, out...))
}

func (r *Relay) ask(ctx context.Context, ask Ask, brought []byte) ([]byte, error) {
	c, err := r.find(ctx, ask)
	if err != nil {
		return nil, err
	}
	if err := c.bring(ask.In, brought); err != nil || ask.Max == 0 {
		return nil, err // one that only brings may be behind one that fetches
	}
	return c.fetch(ask.Out, ask.Max, ask.Wait)
}

// find finds a call, or begins it.
func (r *Relay) find(ctx context.Context, ask Ask) (*relayed, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.calls[ask.Call]; c != nil {
		return c, nil
	}
	if ask.Call <= r.over {
		return nil, fmt.Errorf("%w: call %d is over", errAsk, ask.Call)
	}
	if r.ended {
		return nil, ErrClosed
	}
	r.forget()
	c := newRelayed()
	r.calls[ask.Call] = c
	r.serving.Go(func() { r.session.Serve(ctx, c) })
	return c, nil
}

// forget drops the oldest answers. A client has few calls open, so those are not asked for again. The caller holds mu.
func (r *Relay) forget() {
	var ended []uint32
	for number, c := range r.calls {
		if c.isEnded() {
			ended = append(ended, number)
		}
	}
	slices.Sort(ended)
	for len(ended) > maxEnded {
		r.over = max(r.over, ended[0])
		delete(r.calls, ended[0])
		ended = ended[1:]
	}
}

// Bring makes one ask of the component that listens in a folder: what it brings comes from in, of at most MaxAskIn bytes,
// and what comes back goes to out. Where nobody listens the error is ErrNoDaemon.
func Bring(ctx context.Context, dir string, ask Ask, in io.Reader, out io.Writer) error {
	brought, err := io.ReadAll(io.LimitReader(in, MaxAskIn+1))
	if err != nil {
		return err
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", filepath.Join(dir, socketName))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoDaemon, err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	c.SetDeadline(time.Now().Add(2*askLimit + ask.Wait))
	if err := writeAsk(c, ask, brought); err != nil {
		return err
	}
	answer, err := io.ReadAll(io.LimitReader(c, MaxAskOut+2))
	switch {
	case err != nil:
		return err
	case len(answer) == 0:
		return fmt.Errorf("%w: it hung up", ErrNoDaemon)
	case answer[0] != 0:
		return fmt.Errorf("the daemon refused: %.1000s", answer[1:])
	}
	_, err = out.Write(answer[1:])
	return err
}
