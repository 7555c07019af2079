package qga

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"
)

const (
	// Timeout bounds a call where the context has no deadline of its own.
	Timeout = 30 * time.Second
	// MaxMessage bounds one message of the guest, in bytes. The agent holds at most 16 MiB of each output stream of a
	// program, and sends both in one message, a third longer by their encoding.
	MaxMessage = 64 << 20
)

// Options change how a Client behaves. Nil and zero fields are good defaults.
type Options struct {
	// SyncTimeout bounds the exchange that a connection begins with. Zero: 5 s.
	SyncTimeout time.Duration
}

// Client talks to one guest's agent. It connects when it is first used, and again after every lost answer. It is safe
// for concurrent use; calls wait for each other.
type Client struct {
	path  string
	carry Carrier // nil: by the socket at path
	opts  Options
	turn  chan struct{} // holds a token: whoever has it may use conn

	conn   net.Conn
	r      *bufio.Reader
	max    int           // bytes of one message
	try    time.Duration // one attempt to thaw
	closed sync.Once
	done   chan struct{}
}

// New makes a client for the agent at a unix socket. Nothing is connected yet.
func New(path string, opts *Options) *Client {
	c := &Client{path: path, turn: make(chan struct{}, 1), done: make(chan struct{}), max: MaxMessage, try: thawTry}
	if opts != nil {
		c.opts = *opts
	}
	if c.opts.SyncTimeout <= 0 {
		c.opts.SyncTimeout = 5 * time.Second
	}
	c.turn <- struct{}{}
	return c
}

// Close ends the connection, after the call that is under way.
func (c *Client) Close() error {
	c.closed.Do(func() {
		<-c.turn // never given back: later calls find done closed
		close(c.done)
		c.drop()
	})
	return nil
}

func (c *Client) drop() {
	if c.conn != nil {
		c.conn.Close()
		c.conn, c.r = nil, nil
	}
}

func bounded(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, limit)
}

// Do runs one command of the agent. A refusal is an *Error. After any other error the connection is gone, and whether
// the command was run is not known.
func (c *Client) Do(ctx context.Context, command string, args, out any) error {
	ctx, cancel := bounded(ctx, Timeout)
	defer cancel()
	select {
	case <-c.turn:
	case <-c.done:
		return fmt.Errorf("%s: %w", command, net.ErrClosed)
	case <-ctx.Done():
		return fmt.Errorf("%s: waiting for another call: %w", command, ctx.Err())
	}
	defer func() { c.turn <- struct{}{} }()
	if err := c.do(ctx, command, args, out); err != nil {
		if !Refused(err) {
			c.drop()
		}
		return err
	}
	return nil
}

func (c *Client) do(ctx context.Context, command string, args, out any) error {
	line, err := request(command, args)
	if err != nil {
		return err
	}
	if c.carry != nil {
		return c.byCarrier(ctx, command, line, out)
	}
	if c.conn == nil {
		if err := c.connect(ctx); err != nil {
			return fmt.Errorf("%s: %w", command, err)
		}
	}
	defer c.guard(ctx)()
	if _, err := c.conn.Write(line); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	text, err := c.line()
	if err != nil {
		return fmt.Errorf("%s: no answer: %w", command, because(ctx, err))
	}
	return decode(command, text, out)
}

// guard makes the connection's reads and writes end with the context. After stop the context has no hold on it any more.
func (c *Client) guard(ctx context.Context) (stop func()) {
	conn, cut := c.conn, make(chan struct{})
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	cancel := context.AfterFunc(ctx, func() {
		conn.SetDeadline(time.Unix(1, 0))
		close(cut)
	})
	return func() {
		if !cancel() {
			<-cut
		}
	}
}

// because prefers the context's reason to that of a connection that was cut short.
func because(ctx context.Context, err error) error {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return context.DeadlineExceeded
	}
	return err
}

func (c *Client) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.opts.SyncTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.path)
	if err != nil {
		return err
	}
	c.conn, c.r = conn, bufio.NewReaderSize(conn, 64<<10)
	if err := c.sync(ctx); err != nil {
		c.drop()
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("%w within %v", ErrSilent, c.opts.SyncTimeout)
		}
		return err
	}
	return nil
}

// sync throws away what an earlier client left behind in both directions: the byte 0xff never stands in JSON, so the
// agent gives up a half message at it, and marks its answer by one.
func (c *Client) sync(ctx context.Context) error {
	id := rand.Int64N(1 << 53)
	line, err := request("guest-sync-delimited", map[string]any{"id": id})
	if err != nil {
		return err
	}
	defer c.guard(ctx)()
	if _, err := c.conn.Write(append([]byte{0xff}, line...)); err != nil {
		return err
	}
	for left := c.max; left > 0; {
		n, err := c.skip(left)
		if err != nil {
			return because(ctx, err)
		}
		left -= n
		text, err := c.line()
		if err != nil {
			return because(ctx, err)
		}
		left -= len(text)
		var got int64
		if decode("guest-sync-delimited", text, &got) == nil && got == id {
			return nil
		}
	}
	return fmt.Errorf("before it answered: %w", ErrTooLong)
}

// skip reads up to and with the next 0xff.
func (c *Client) skip(max int) (n int, err error) {
	for n < max {
		part, err := c.r.ReadSlice(0xff)
		n += len(part)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return n, err
		}
	}
	return n, ErrTooLong
}

// line reads one answer.
func (c *Client) line() ([]byte, error) {
	var text []byte
	for {
		part, err := c.r.ReadSlice('\n')
		if len(text)+len(part) > c.max {
			return nil, ErrTooLong
		}
		text = append(text, part...)
		if err == nil {
			return text, nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
	}
}

func request(command string, args any) ([]byte, error) {
	full := map[string]any{"execute": command}
	if args != nil {
		full["arguments"] = args
	}
	line, err := json.Marshal(full)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", command, err)
	}
	return append(line, '\n'), nil
}

// maxWords bounds what a guest says of itself in an error, in bytes: it goes into reports.
const maxWords = 1 << 10

func words(s string) string {
	if len(s) <= maxWords {
		return s
	}
	return strings.ToValidUTF8(s[:maxWords], "") + "…"
}

// decode reads an answer into out.
func decode(command string, text []byte, out any) error {
	var m struct {
		Return json.RawMessage `json:"return"`
		Error  *struct {
			Class string `json:"class"`
			Desc  string `json:"desc"`
		} `json:"error"`
	}
	if err := json.Unmarshal(bytes.TrimLeft(text, "\xff"), &m); err != nil {
		return fmt.Errorf("%s: %w: %v", command, ErrProtocol, err)
	}
	switch {
	case m.Error != nil:
		return &Error{Command: command, Class: words(m.Error.Class), Desc: words(m.Error.Desc)}
	case m.Return == nil:
		return fmt.Errorf("%s: %w: it has neither result nor error", command, ErrProtocol)
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(m.Return, out); err != nil {
		return fmt.Errorf("%s: %w: %v", command, ErrProtocol, err)
	}
	return nil
}
