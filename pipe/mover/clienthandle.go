package mover

import (
	"context"
	"fmt"
	"time"

	"github.com/hikae/hikae/pipe/mover/wire"
)

// leaveWait is how long the answer of a call that opens something is waited for when its caller has left. Whatever is
// carried out at once is answered by then; a Begin that waits for its turn is given up.
const leaveWait = 10 * time.Second

// openCall makes a call whose answer is a handle. A caller that leaves does not have the handle, and the other side does
// not know that: so the call goes on without the caller, and what it opened is closed by what undo says.
func openCall[A wire.Message](ctx context.Context, e *epoch, req wire.Message, undo func(A) wire.Message) (A, error) {
	return openCallThen(ctx, e, req, undo, func() {})
}

// openCallThen is openCall, and calls ended when nothing of the call is under way any more.
func openCallThen[A wire.Message](
	ctx context.Context, e *epoch, req wire.Message, undo func(A) wire.Message, ended func(),
) (none A, err error) {
	if err := ctx.Err(); err != nil {
		ended()
		return none, err
	}
	type result struct {
		answer A
		err    error
	}
	came, left := make(chan result), make(chan struct{})
	life, cancel := context.WithCancel(e.client.life)
	begun := e.client.goOn(func() {
		defer cancel()
		a, err := call[A](life, e, req)
		ended()
		select {
		case came <- result{a, err}:
		case <-left:
			if err == nil {
				e.client.tell(e, undo(a))
			}
		}
	})
	if !begun {
		cancel()
		ended()
		return none, errClientClosed
	}
	select {
	case r := <-came:
		if r.err != nil && e.client.life.Err() != nil {
			r.err = fmt.Errorf("%w: %w", errClientClosed, r.err)
		}
		return r.answer, r.err
	case <-ctx.Done():
		close(left)
		time.AfterFunc(leaveWait, cancel)
		return none, ctx.Err()
	}
}

// goOn runs f behind the caller's back, up to [Client.Close]. It reports false where that has been called.
func (c *Client) goOn(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed.Load() {
		return false
	}
	c.behind.Go(f)
	return true
}

// tell makes a call about something that nobody here has any more. Where it fails, the end of the session does the same.
func (c *Client) tell(e *epoch, m wire.Message) {
	ctx, cancel := context.WithTimeout(c.life, c.settings.GiveUp)
	defer cancel()
	_, _ = call[*wire.OK](ctx, e, m)
}

// dropPoint abandons a point of a session, and does not wait for it.
func (c *Client) dropPoint(e *epoch, ref wire.Ref) {
	e.leave(ref)
	c.goOn(func() { c.tell(e, &wire.DropPoint{Writer: ref}) })
}
