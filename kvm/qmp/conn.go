package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

// How long an answer is waited for.
const (
	// Timeout bounds a command, and Dial, where the context has no deadline of its own.
	Timeout = 30 * time.Second
	// MaxWait bounds one command whatever the context's deadline is: that of a session may be hours away, and a QEMU that
	// has not answered for so long has come to a stand.
	MaxWait = 5 * time.Minute
)

// Conn is a connection to a monitor. Its methods are safe for concurrent use.
type Conn struct {
	net     net.Conn
	version Version
	oob     bool

	writing sync.Mutex // whole commands, one after the other

	mu       sync.Mutex
	lastID   uint64
	waiting  map[uint64]chan message
	watchers map[*Watcher]struct{}
	err      error         // why the connection has ended
	ended    chan struct{} // the reader has
}

// Dial connects to the monitor at a unix socket and waits for its greeting, and for its first answer. Where the context's
// deadline passes before, the error is [ErrTaken] or [ErrSilent].
func Dial(ctx context.Context, path string) (*Conn, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	conn, err := New(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("monitor %s: %w", path, err)
	}
	return conn, nil
}

// New speaks over a connection, which it owns from now on, on error too.
func New(ctx context.Context, c net.Conn) (*Conn, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	conn := &Conn{net: c, waiting: map[uint64]chan message{}, watchers: map[*Watcher]struct{}{}, ended: make(chan struct{})}
	r := newReader(c, MaxMessage)
	caps, err := conn.greet(ctx, r)
	if err != nil {
		c.Close()
		return nil, err
	}
	go conn.read(r)
	if err := conn.negotiate(ctx, caps); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, Timeout)
}

// greet waits for the first message, which comes only when the monitor has no other client.
func (c *Conn) greet(ctx context.Context, r *reader) ([]string, error) {
	stop := context.AfterFunc(ctx, func() { c.net.SetReadDeadline(time.Unix(1, 0)) })
	m, err := r.next()
	if !stop() { // the read deadline has passed for good
		return nil, fmt.Errorf("%w (%w)", ErrTaken, ctx.Err())
	}
	if err != nil {
		return nil, err
	}
	if m.Greeting == nil {
		return nil, fmt.Errorf("%w: the first message is no greeting", ErrProtocol)
	}
	c.version = m.Greeting.Version
	return m.Greeting.Capabilities, nil
}

// negotiate leaves the negotiation mode. Out-of-band commands overtake those that QEMU is still busy with.
func (c *Conn) negotiate(ctx context.Context, caps []string) error {
	enable := []string{}
	if slices.Contains(caps, "oob") {
		enable = append(enable, "oob")
	}
	err := c.Execute(ctx, "qmp_capabilities", map[string]any{"enable": enable}, nil)
	c.oob = err == nil && len(enable) > 0
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w: %w", ErrSilent, err)
	}
	return err
}

// Version is what the greeting said.
func (c *Conn) Version() Version { return c.version }

// Close ends the connection. Commands under way return ErrClosed.
func (c *Conn) Close() error {
	c.fail(ErrClosed)
	<-c.ended
	return nil
}

// fail ends the connection for a reason; the first one counts.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	c.mu.Unlock()
	c.net.Close()
}

func (c *Conn) reason() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil || errors.Is(c.err, ErrClosed) {
		return ErrClosed
	}
	return fmt.Errorf("%w: %w", ErrClosed, c.err)
}

// read is the only one that reads: answers go to whoever waits for them, events to the watchers.
func (c *Conn) read(r *reader) {
	for {
		m, err := r.next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = ErrClosed
			}
			c.fail(err)
			break
		}
		c.dispatch(m)
	}
	c.mu.Lock()
	for w := range c.watchers {
		w.wake()
	}
	c.mu.Unlock()
	close(c.ended)
}

func (c *Conn) dispatch(m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.Event != "" {
		e := Event{Name: m.Event, Data: m.Data, Time: time.Unix(m.Timestamp.Seconds, m.Timestamp.Microseconds*1000)}
		for w := range c.watchers {
			w.take(e)
		}
		return
	}
	if m.ID == nil {
		return // of a command that could not be parsed: ours always can
	}
	if answer, ok := c.waiting[*m.ID]; ok {
		delete(c.waiting, *m.ID)
		answer <- m
	}
}

// Command is one command of a [Conn.Batch].
type Command struct {
	Name string
	Args any // a struct or map; nil: none
	Out  any // a pointer that the result is decoded into; nil: it is dropped
	Err  error
}

// Execute runs one command. A refusal by QEMU is an *Error.
func (c *Conn) Execute(ctx context.Context, name string, args, out any) error {
	cmd := Command{Name: name, Args: args, Out: out}
	if err := c.Batch(ctx, []*Command{&cmd}); err != nil {
		return err
	}
	return cmd.Err
}

// ExecuteOOB runs a command that allows it out of band: at once, whatever QEMU is busy with. A monitor without that
// ability runs it in turn.
func (c *Conn) ExecuteOOB(ctx context.Context, name string, args, out any) error {
	cmd := Command{Name: name, Args: args, Out: out}
	verb := "execute"
	if c.oob {
		verb = "exec-oob"
	}
	if err := c.run(ctx, verb, []*Command{&cmd}); err != nil {
		return err
	}
	return cmd.Err
}

// Batch sends several commands at once, so that QEMU runs each as soon as the one before it is done, and waits for all
// answers. Each command's own error stands in its Err; the error returned is that of the connection, and leaves open
// which of them were run.
func (c *Conn) Batch(ctx context.Context, cmds []*Command) error { return c.run(ctx, "execute", cmds) }

func (c *Conn) run(ctx context.Context, verb string, cmds []*Command) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	ctx, stop := context.WithTimeout(ctx, MaxWait)
	defer stop()
	text, answers, err := c.prepare(verb, cmds)
	if err != nil {
		return err
	}
	if err := c.send(ctx, text); err != nil {
		return fmt.Errorf("%s: %w", cmds[0].Name, err)
	}
	for i, cmd := range cmds {
		select {
		case m := <-answers[i]:
			cmd.Err = cmd.take(m)
		case <-c.ended:
			return fmt.Errorf("%s: %w", cmd.Name, c.reason())
		case <-ctx.Done():
			c.fail(fmt.Errorf("%s: no answer: %w", cmd.Name, ctx.Err()))
			return fmt.Errorf("%s: no answer: %w", cmd.Name, ctx.Err())
		}
	}
	return nil
}

// prepare gives each command an id and a place for its answer.
func (c *Conn) prepare(verb string, cmds []*Command) (text []byte, answers []chan message, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	first := c.lastID
	for _, cmd := range cmds {
		c.lastID++
		full := map[string]any{verb: cmd.Name, "id": c.lastID}
		if cmd.Args != nil {
			full["arguments"] = cmd.Args
		}
		line, err := json.Marshal(full)
		if err != nil {
			for id := first + 1; id <= c.lastID; id++ {
				delete(c.waiting, id)
			}
			return nil, nil, fmt.Errorf("%s: %w", cmd.Name, err)
		}
		answer := make(chan message, 1)
		c.waiting[c.lastID] = answer
		answers = append(answers, answer)
		text = append(append(text, line...), '\n')
	}
	return text, answers, nil
}

func (c *Conn) send(ctx context.Context, text []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	deadline, _ := ctx.Deadline()
	c.net.SetWriteDeadline(deadline)
	if _, err := c.net.Write(text); err != nil {
		c.fail(err)
		return c.reason()
	}
	return nil
}

func (cmd *Command) take(m message) error {
	if m.Error != nil {
		return &Error{Command: cmd.Name, Class: m.Error.Class, Desc: m.Error.Desc}
	}
	if cmd.Out == nil {
		return nil
	}
	if err := json.Unmarshal(m.Return, cmd.Out); err != nil {
		return fmt.Errorf("%s: %w: %v", cmd.Name, ErrProtocol, err)
	}
	return nil
}
