package helper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae/hyperv"
	"github.com/hikae/hikae/hyperv/helper/wire"
)

// DialOptions change how a helper is spoken to. Nil and zero fields are good defaults.
type DialOptions struct {
	Session string        // for whoever reads the host's logs
	Lease   time.Duration // the helper takes everything back after such a silence. Zero: one minute; at most an hour
	// Progress is told how far a set has come: guests and auto-recovery take minutes (R061). It must not take its time.
	Progress func(Progress)
}

// Progress is how far the making of a set has come.
type Progress struct {
	Mark    string
	Stage   string // gather, start, prepare, snapshot, status, undo
	Detail  string // in words; may be empty
	Elapsed time.Duration
}

// Requester is a helper that runs on a host. It implements [hyperv.Requester].
type Requester struct {
	conn  *conn
	opts  DialOptions
	hello wire.HelloAnswer

	remove  func(context.Context) error // takes away what was brought
	closing sync.Mutex
	closed  bool
	bid     bool // a Bye was said, or nobody is there to say it to
}

var _ hyperv.Requester = (*Requester)(nil)

// mostLease is what a helper grants.
const mostLease = time.Hour

// Dial speaks to a helper that somebody else started, on a stream that somebody has secured, and that the requester closes. The
// context bounds the greeting alone.
func Dial(ctx context.Context, stream io.ReadWriteCloser, opts *DialOptions) (*Requester, error) {
	r := &Requester{conn: newConn(stream), remove: func(context.Context) error { return nil }}
	if opts != nil {
		r.opts = *opts
	}
	if r.opts.Lease <= 0 {
		r.opts.Lease = time.Minute
	}
	r.opts.Lease = min(r.opts.Lease, mostLease)
	if err := r.greet(ctx); err != nil {
		r.conn.shut()
		<-r.conn.done
		return nil, fmt.Errorf("greet the helper: %w", err)
	}
	go r.conn.keep(min(r.opts.Lease/3, often))
	return r, nil
}

func (r *Requester) greet(ctx context.Context) error {
	hello := &wire.Hello{Version: wire.Version, LeaseMillis: uint32(r.opts.Lease.Milliseconds()), Session: r.opts.Session}
	if err := r.conn.ask(ctx, hello, &r.hello, how{free: true, limit: helloLimit}); err != nil {
		return err
	}
	if r.hello.Version != wire.Version {
		return fmt.Errorf("it speaks protocol %d, here is %d: %w", r.hello.Version, wire.Version, errors.ErrUnsupported)
	}
	return nil
}

// Product is the helper's name and version.
func (r *Requester) Product() string { return r.hello.Product }

// Unverified says in words what was never run on a real Windows. It is to be shown to users.
func (r *Requester) Unverified() string { return r.hello.Unverified }

// explain says which host, and what was asked of it.
func (r *Requester) explain(op, object string, err error) error {
	var failure *wire.Failure
	switch {
	case err == nil:
		return nil
	case errors.As(err, &failure):
		return &Error{Host: r.hello.Host, Op: op, Object: object, Failure: failure}
	}
	return fmt.Errorf("helper on %s: %s %s: %w", r.hello.Host, op, object, err)
}

// Components implements [hyperv.Requester].
func (r *Requester) Components(ctx context.Context) ([]hyperv.Component, error) {
	var a wire.ComponentsAnswer
	if err := r.conn.ask(ctx, &wire.Components{}, &a, how{limit: askLimit, undo: true}); err != nil {
		return nil, r.explain("components", "", err)
	}
	list := make([]hyperv.Component, 0, len(a.Components))
	for _, c := range a.Components {
		list = append(list, hyperv.Component{VM: strings.ToLower(c.VM), Caption: c.Caption, Method: methodOf(c.Caption), Files: c.Files, Volumes: c.Volumes})
	}
	return list, nil
}

// methodOf reads a writer's caption: Online\web1, Offline\web1 since 2012 R2, and before
// Backup Using Child Partition Snapshot\web1, Backup Using Saved State\web1.
func methodOf(caption string) hyperv.Method {
	word, _, parted := strings.Cut(caption, `\`)
	if !parted {
		return hyperv.MethodUnknown
	}
	switch strings.ToLower(word) {
	case "online", "backup using child partition snapshot":
		return hyperv.MethodOnline
	case "saved state", "backup using saved state":
		return hyperv.MethodSaved
	case "offline":
		return hyperv.MethodOffline
	}
	return hyperv.MethodUnknown
}

const takeLimit = 20 * time.Minute

// Take implements [hyperv.Requester]. Where the context ends it waits until the host has taken back what was begun.
func (r *Requester) Take(ctx context.Context, q hyperv.SetRequest) (hyperv.Set, error) {
	s, err := r.take(ctx, q)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (r *Requester) take(ctx context.Context, q hyperv.SetRequest) (*Set, error) {
	limit := q.Limit
	if limit <= 0 {
		limit = takeLimit
	}
	m := &wire.Take{Mark: q.Mark, Full: q.Full, Transportable: q.Transportable, VMs: q.VMs,
		LimitMillis: uint32(max(min(limit, 4*time.Hour).Milliseconds(), 1))}
	var a wire.TakeAnswer
	err := r.conn.ask(ctx, m, &a, how{limit: limit + undoGrace, undo: true, progress: r.tell(q.Mark)})
	if err != nil {
		return nil, r.explain("take a set of", strings.Join(q.VMs, ", "), err)
	}
	s := newSet(r, &a)
	if ctx.Err() != nil { // it was made at the same moment
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoGrace)
		defer cancel()
		return nil, errors.Join(context.Cause(ctx), s.Delete(undo))
	}
	return s, nil
}

func (r *Requester) tell(mark string) func(wire.Progress) {
	if r.opts.Progress == nil {
		return nil
	}
	return func(p wire.Progress) {
		r.opts.Progress(Progress{Mark: mark, Stage: p.Stage, Detail: p.Detail, Elapsed: time.Duration(p.ElapsedMillis) * time.Millisecond})
	}
}

// DeleteSet implements [hyperv.Requester].
func (r *Requester) DeleteSet(ctx context.Context, mark string) error {
	var a wire.SweepAnswer
	return r.explain("delete what is left of", mark, r.conn.ask(ctx, &wire.Sweep{Mark: mark}, &a, how{limit: deleteLimit}))
}

// Close implements [hyperv.Requester]. It returns nil when the helper has taken back what it made, and nothing of it is left on the
// host. It may be called again after an error.
func (r *Requester) Close() error {
	r.closing.Lock()
	defer r.closing.Unlock()
	if r.closed {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), byeLimit)
	defer cancel()
	var told error
	if !r.bid {
		r.bid = true
		told = r.bye(ctx)
	}
	if err := r.remove(ctx); err != nil {
		return errors.Join(told, err)
	}
	r.closed = true
	return told
}

// bye ends the session in good order. A link that broke before is the end of it too.
func (r *Requester) bye(ctx context.Context) error {
	r.conn.bidding()
	err := r.conn.ask(ctx, &wire.Bye{}, &wire.Done{Of: wire.KindBye}, how{free: true, limit: byeLimit})
	r.conn.fail(ErrClosed)
	<-r.conn.done
	if errors.Is(err, ErrLink) || errors.Is(err, ErrClosed) {
		return nil
	}
	return r.explain("end", "", err)
}
