package wire

import (
	"context"
	"fmt"
	"io"
	"sync"
)

// Gate is the sending side of a call's data: it lets through what the receiver has room for.
type Gate struct {
	mu      sync.Mutex
	left    int64
	changed chan struct{} // closed and replaced when there is more
	end     error
}

// NewGate is a gate with a whole window open.
func NewGate() *Gate { return &Gate{left: Window, changed: make(chan struct{})} }

// More is what a More frame does. One that opens the gate beyond the window is malformed.
func (g *Gate) More() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.left+MaxData > Window {
		return fmt.Errorf("%w: more than the window", ErrMalformed)
	}
	g.left += MaxData
	close(g.changed)
	g.changed = make(chan struct{})
	return nil
}

// End makes those who wait, and all that come, turn back with err. The first end counts.
func (g *Gate) End(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.end == nil {
		g.end = err
		close(g.changed)
		g.changed = make(chan struct{})
	}
}

// Pass waits until n bytes, at most MaxData, may go.
func (g *Gate) Pass(ctx context.Context, n int) error {
	for {
		g.mu.Lock()
		if g.end != nil {
			defer g.mu.Unlock()
			return g.end
		}
		if g.left >= int64(n) {
			g.left -= int64(n)
			g.mu.Unlock()
			return nil
		}
		changed := g.changed
		g.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// NewOutbox sends a call's data in frames by send, as far as the gate lets it and the context lasts. It is for one
// goroutine. Close sends the frame that ends the data; on a way that failed there is nothing to close.
func NewOutbox(ctx context.Context, gate *Gate, send func(payload []byte) error) io.WriteCloser {
	return &outbox{func(n int) error { return gate.Pass(ctx, n) }, send}
}

type outbox struct {
	pass func(n int) error
	send func(payload []byte) error
}

func (o *outbox) Write(p []byte) (n int, err error) {
	for n < len(p) {
		part := p[n:min(n+MaxData, len(p))]
		if err := o.pass(len(part)); err != nil {
			return n, err
		}
		if err := o.send(part); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

func (o *outbox) Close() error { return o.send(nil) }

// Inbox is the receiving side: what arrived and was not read yet, at most a window.
type Inbox struct {
	more func() error // sends a More

	mu    sync.Mutex
	ready *sync.Cond
	buf   []byte
	taken int64 // since the last More
	end   error
}

// NewInbox makes one; more sends a More frame.
func NewInbox(more func() error) *Inbox {
	b := &Inbox{more: more}
	b.ready = sync.NewCond(&b.mu)
	return b
}

// Put is what a Data frame does. It never waits.
func (b *Inbox) Put(p []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.ready.Broadcast()
	switch {
	case b.end != nil:
		return nil
	case len(p) == 0:
		b.end = io.EOF
		return nil
	case int64(len(b.buf)+len(p))+b.taken > Window:
		b.end = fmt.Errorf("%w: data beyond the window", ErrMalformed)
		return b.end
	}
	b.buf = append(b.buf, p...)
	return nil
}

// End makes reads return err once all that arrived was read. The first end counts.
func (b *Inbox) End(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.end == nil {
		b.end = err
	}
	b.ready.Broadcast()
}

// Read waits for data or the end.
func (b *Inbox) Read(p []byte) (int, error) {
	b.mu.Lock()
	for len(b.buf) == 0 && b.end == nil {
		b.ready.Wait()
	}
	n := copy(p, b.buf)
	b.buf = b.buf[n:]
	b.taken += int64(n)
	credits, end := 0, b.end
	for ; end == nil && b.taken >= MaxData; b.taken -= MaxData {
		credits++
	}
	empty := len(b.buf) == 0
	b.mu.Unlock()
	for range credits {
		if err := b.more(); err != nil {
			return n, err
		}
	}
	if empty && n == 0 {
		return 0, end
	}
	return n, nil
}
