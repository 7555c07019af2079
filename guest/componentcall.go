package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/hikae/hikae/guest/agent/wire"
)

// pending is a call that is open.
type pending struct {
	gate  *wire.Gate  // of data that we send; nil: none
	inbox *wire.Inbox // of data that we take; nil: none
	free  func()      // its place

	once   sync.Once
	answer []byte
	err    error
	done   chan struct{} // closed with answer or err set
}

// errEnded stops data of ours for a call that was answered already.
var errEnded = errors.New("the call has ended")

// end ends the call. The first end counts.
func (p *pending) end(answer []byte, err error) {
	p.once.Do(func() {
		p.answer, p.err = answer, err
		if p.gate != nil {
			p.gate.End(errEnded)
		}
		if p.inbox != nil {
			if err == nil {
				err = io.ErrUnexpectedEOF // data without its end
			}
			p.inbox.End(err)
		}
		close(p.done)
		p.free()
	})
}

// take takes a frame of the component's.
func (p *pending) take(f wire.Frame) error {
	switch {
	case f.Kind == wire.KindAnswer:
		p.end(f.Payload, nil)
	case f.Kind == wire.KindFailure:
		failure, err := parseFailure(f.Payload)
		if err != nil {
			return err
		}
		p.end(nil, failure)
	case f.Kind == wire.KindData && p.inbox != nil:
		return p.inbox.Put(f.Payload)
	case f.Kind == wire.KindMore && p.gate != nil:
		return p.gate.More()
	default:
		return fmt.Errorf("%w: kind %d for a call that has no such data", wire.ErrMalformed, f.Kind)
	}
	return nil
}

// maxWords bounds what a guest says of itself in an error, in bytes: it goes into reports.
const maxWords = 1 << 10

// parseFailure reads a failure. Its words are a guest's: they are cut, and what could steer a terminal goes.
func parseFailure(payload []byte) (*wire.Failure, error) {
	f := &wire.Failure{}
	if err := wire.Decode(payload, f); err != nil {
		return nil, err
	}
	f.Code, f.Message, f.Hint = wire.Code(clean(string(f.Code))), clean(f.Message), clean(f.Hint)
	return f, nil
}

// clean makes a guest's words fit to be shown.
func clean(s string) string {
	if len(s) > maxWords {
		s = s[:maxWords] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r == '\n' || unicode.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, strings.ToValidUTF8(s, "\uFFFD"))
}

// invoke is a call whose answer is all there is to it. Where the context has no deadline, limit is.
func invoke[R, A any](ctx context.Context, c *Component, limit time.Duration, v wire.Verb, args A) (r R, err error) {
	raw, err := c.call(ctx, limit, v, args, nil, nil)
	if err == nil {
		err = c.decode(v, raw, &r)
	}
	return r, err
}

// decode reads an answer. A component that does not keep to the protocol is given up.
func (c *Component) decode(v wire.Verb, raw []byte, into any) error {
	err := wire.Decode(raw, into)
	if err != nil {
		err = fmt.Errorf("%s: %w: %w", v, ErrLost, err)
		c.lose(err)
	}
	return err
}

// call makes one call: data that comes goes to out, data that goes comes from in. It returns when the context ends, and
// the component is told; the call's place stays taken until it answers.
func (c *Component) call(ctx context.Context, limit time.Duration, v wire.Verb, args any, out io.Writer, in io.Reader) ([]byte, error) {
	ctx, cancel := bounded(ctx, limit)
	defer cancel()
	p, number, err := c.begin(ctx, v, args)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", v, err)
	}
	quit := context.AfterFunc(ctx, func() {
		if p.inbox != nil {
			p.inbox.End(ctx.Err())
		}
		c.tell(wire.Frame{Kind: wire.KindCancel, Call: number})
	})
	defer quit()
	if err := p.transfer(ctx, c, number, out, in); err != nil {
		cancel() // tells the component
		return nil, fmt.Errorf("%s: %w", v, err)
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: %w", v, ctx.Err())
	}
	if p.err != nil {
		return nil, fmt.Errorf("%s: %w", v, p.err)
	}
	return p.answer, nil
}

// begin sends a request when there is a place for it.
func (c *Component) begin(ctx context.Context, v wire.Verb, args any) (*pending, uint32, error) {
	raw, err := wire.Encode(args)
	if err != nil {
		return nil, 0, err
	}
	payload, err := wire.Encode(wire.Request{Verb: v, Args: raw})
	if err != nil {
		return nil, 0, err
	}
	select {
	case c.slots <- struct{}{}:
	case <-c.lost:
		return nil, 0, c.Err()
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
	p := &pending{done: make(chan struct{}), free: func() { <-c.slots }}
	number := uint32(0)
	err = c.writeNext(ctx, func() (f wire.Frame, err error) {
		number, err = c.register(v, p)
		return wire.Frame{Kind: wire.KindRequest, Call: number, Payload: payload}, err
	})
	switch {
	case number == 0: // it has not begun
		p.free()
	case err != nil && ctx.Err() != nil: // it may yet arrive, and nobody waits for it
		go c.tell(wire.Frame{Kind: wire.KindCancel, Call: number})
	}
	return p, number, err
}

// register gives a call its number. It is the caller's turn to write, so that numbers go out in order.
func (c *Component) register(v wire.Verb, p *pending) (uint32, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	c.next++
	number := c.next
	if v.TakesData() {
		p.gate = wire.NewGate()
	}
	if v.GivesData() {
		p.inbox = wire.NewInbox(func() error { return c.tell(wire.Frame{Kind: wire.KindMore, Call: number}) })
	}
	c.calls[number] = p
	return number, nil
}

// transfer moves a call's data. That the component ended the call by its own error is for the answer to say.
func (p *pending) transfer(ctx context.Context, c *Component, number uint32, out io.Writer, in io.Reader) error {
	if p.inbox != nil {
		_, err := io.Copy(out, p.inbox)
		if err != nil && p.ended() {
			err = nil
		}
		return err
	}
	if p.gate == nil {
		return nil
	}
	w := wire.NewOutbox(ctx, p.gate, func(b []byte) error {
		return c.write(ctx, wire.Frame{Kind: wire.KindData, Call: number, Payload: b})
	})
	_, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{in}, make([]byte, wire.MaxData))
	if err == nil {
		err = w.Close()
	}
	if errors.Is(err, errEnded) {
		err = nil
	}
	return err
}

func (p *pending) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}
