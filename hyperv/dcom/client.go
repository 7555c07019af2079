package dcom

import (
	"context"
	"fmt"
	"io/fs"
	"iter"
	"net"
	"strings"
	"time"

	"github.com/oiweiwei/go-msrpc/msrpc/dcom"
	"github.com/oiweiwei/go-msrpc/msrpc/dcom/wmi"
	enumerator "github.com/oiweiwei/go-msrpc/msrpc/dcom/wmi/ienumwbemclassobject/v0"
	services "github.com/oiweiwei/go-msrpc/msrpc/dcom/wmi/iwbemservices/v0"
	"github.com/oiweiwei/go-msrpc/msrpc/dcom/wmio"

	"github.com/hikae/hikae/hyperv/cim"
)

// client is a [cim.Core].
type client struct {
	addr, host, port string
	login            cim.Login
	opts             Options
	connect          func(ctx context.Context) (*session, error)

	turn    chan struct{} // whoever put something into it has the fields below, and makes calls
	current *session
	closed  bool
}

// Flags of calls: MS-WMI 2.2.6.
const (
	flagImmediately = 0x10
	flagForward     = 0x20
	flagLocatable   = 0x100
	flagUpdateOnly  = 1
)

// Statuses of IEnumWbemClassObject::Next that are no failure.
const (
	nextOver     = 1
	nextTimedOut = 0x40004
)

const (
	nextWait = 10_000 // ms that the machine waits for instances
	maxQuery = 16 << 10
)

func (c *client) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, c.opts.Timeout, fmt.Errorf("no end within %v: %w", c.opts.Timeout, context.DeadlineExceeded))
}

func (c *client) lock(ctx context.Context) error {
	select {
	case c.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *client) unlock() { <-c.turn }

// do makes calls on the session there is, or on a new one.
func (c *client) do(ctx context.Context, call func(ctx context.Context, s *session) error) error {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	if err := c.lock(ctx); err != nil {
		return err
	}
	defer c.unlock()
	s, err := c.take(ctx)
	if err != nil {
		return err
	}
	return s.line.run(ctx, func(ctx context.Context) error { return call(ctx, s) })
}

func (c *client) take(ctx context.Context) (*session, error) {
	if c.closed {
		return nil, net.ErrClosed
	}
	if s := c.current; s != nil && !s.line.dead() && time.Since(s.born) < maxAge {
		return s, nil
	}
	c.retire()
	var err error
	c.current, err = c.connect(ctx)
	return c.current, err
}

// retire leaves a session to the enumerations that still use it.
func (c *client) retire() {
	s := c.current
	if c.current = nil; s == nil {
		return
	}
	if s.retired = true; s.users == 0 {
		s.line.kill()
	}
}

// Close ends the connection, and what is still asked on it.
func (c *client) Close() error {
	c.turn <- struct{}{} // a call that is under way ends in time
	defer c.unlock()
	c.closed = true
	if c.current != nil {
		c.current.line.kill()
	}
	return nil
}

// Get reads one instance.
func (c *client) Get(ctx context.Context, r cim.Ref) (in *cim.Instance, err error) {
	err = c.do(ctx, func(ctx context.Context, s *session) error {
		obj, err := s.object(ctx, r.Namespace, r.String())
		if err == nil {
			in, err = decode(obj, r.Namespace, 0)
		}
		return err
	})
	if err != nil {
		return nil, about("Get", r.String(), err)
	}
	in.Ref = r
	return in, nil
}

// Put replaces properties of one instance, and leaves the others as they are.
func (c *client) Put(ctx context.Context, r cim.Ref, in *cim.Instance) (*cim.Instance, error) {
	err := c.do(ctx, func(ctx context.Context, s *session) error {
		obj, err := s.object(ctx, r.Namespace, r.String())
		if err != nil {
			return err
		}
		if obj.Instance == nil {
			return fmt.Errorf("no instance: %w", fs.ErrNotExist)
		}
		for _, v := range in.Properties {
			if err := change(obj.Instance.Properties, v); err != nil {
				return err
			}
		}
		packed, err := pack(obj)
		if err != nil {
			return err
		}
		got, err := s.services.PutInstance(ctx, &services.PutInstanceRequest{This: s.this(), Instance: packed, Flags: flagUpdateOnly},
			dcom.WithIPID(s.spaces[strings.ToLower(r.Namespace)]))
		if got != nil {
			err = settle(got.Return, true, err)
		}
		if err = settle(0, false, err); err != nil {
			return unknown(err)
		}
		return nil
	})
	if err != nil {
		return nil, about("Put", r.String(), err)
	}
	return c.Get(ctx, r)
}

// Invoke calls a method, once.
func (c *client) Invoke(ctx context.Context, r cim.Ref, method string, args []cim.Property) (out *cim.Instance, err error) {
	err = c.do(ctx, func(ctx context.Context, s *session) error {
		in, err := s.prepare(ctx, r, method, args)
		if err != nil {
			return err
		}
		at, err := s.open(ctx, r.Namespace)
		if err != nil {
			return err
		}
		got, err := s.services.ExecMethod(ctx, &services.ExecMethodRequest{This: s.this(), ObjectPath: bstr(r.String()), MethodName: bstr(method),
			InParams: in, OutParams: &wmi.ClassObject{}}, dcom.WithIPID(at))
		if got != nil {
			err = settle(got.Return, true, err)
		}
		if err = settle(0, false, err); err != nil {
			return unknown(err)
		}
		obj, err := unpack(got.OutParams)
		if err == nil {
			out, err = decode(obj, r.Namespace, 0)
		}
		if err != nil {
			return &cim.UnknownError{Err: err}
		}
		return nil
	})
	if err != nil {
		return nil, about(method, r.String(), err)
	}
	return out, nil
}

// Query yields what WQL finds. The connection is free between two pages, so calls may be made in the midst of it.
func (c *client) Query(ctx context.Context, namespace, wql string, opts *cim.QueryOptions) iter.Seq2[*cim.Instance, error] {
	e := &enumeration{c: c, namespace: namespace, wql: wql, page: c.opts.Page, most: c.opts.MaxItems}
	if opts != nil {
		e.refs = opts.Refs
		if opts.Page > 0 {
			e.page = opts.Page
		}
		if opts.MaxItems > 0 {
			e.most = opts.MaxItems
		}
	}
	return func(yield func(*cim.Instance, error) bool) {
		ctx, cancel := c.bounded(ctx)
		defer cancel()
		run := *e
		run.each(ctx, yield)
	}
}

// enumeration is one that is under way, on the session that it began on.
type enumeration struct {
	c              *client
	namespace, wql string
	page, most     int
	refs           bool

	s     *session
	at    *dcom.IPID
	items []*cim.Instance
	count int
	done  bool
}

func (e *enumeration) each(ctx context.Context, yield func(*cim.Instance, error) bool) {
	defer e.end(ctx)
	for err := e.start(ctx); ; err = e.next(ctx) {
		if err != nil {
			yield(nil, about("Query", e.wql, err))
			return
		}
		for _, in := range e.items {
			if !yield(in, nil) {
				return
			}
		}
		if e.done {
			return
		}
		e.items = nil
	}
}

func (e *enumeration) start(ctx context.Context) error {
	if len(e.wql) > maxQuery {
		return fmt.Errorf("%w: a query of %d bytes", cim.ErrArgument, len(e.wql))
	}
	return e.c.do(ctx, func(ctx context.Context, s *session) error {
		at, err := s.open(ctx, e.namespace)
		if err != nil {
			return err
		}
		flags := int32(flagImmediately | flagForward)
		if e.refs {
			flags |= flagLocatable
		}
		got, err := s.services.ExecQuery(ctx, &services.ExecQueryRequest{This: s.this(), QueryLanguage: bstr("WQL"), Query: bstr(e.wql), Flags: flags},
			dcom.WithIPID(at))
		if got != nil {
			err = settle(got.Return, true, err)
		}
		if err = settle(0, false, err); err != nil {
			return err
		}
		if got.Enum == nil {
			return malformed("a query without an answer")
		}
		e.s, e.at = s, got.Enum.InterfacePointer().IPID()
		s.users++
		return nil
	})
}

func (e *enumeration) next(ctx context.Context) error {
	if err := e.c.lock(ctx); err != nil {
		return err
	}
	defer e.c.unlock()
	return e.s.line.run(ctx, func(ctx context.Context) error {
		got, err := e.s.enums.Next(ctx, &enumerator.NextRequest{This: e.s.this(), Timeout: nextWait, Count: uint32(e.page)}, dcom.WithIPID(e.at))
		if got != nil {
			if err = settle(got.Return, true, err); got.Return == nextOver || got.Return == nextTimedOut {
				err = nil // the library takes them for failures
			}
		}
		if err = settle(0, false, err); err != nil {
			return err
		}
		e.done = got.Return == nextOver
		if int(got.Returned) > len(got.Objects) {
			return malformed("%d instances that are %d", got.Returned, len(got.Objects))
		}
		if e.count += int(got.Returned); e.count > e.most {
			return fmt.Errorf("%w: more than %d instances", cim.ErrTooLarge, e.most)
		}
		if got.Returned == 0 && !e.done && got.Return != nextTimedOut {
			return malformed("a page with nothing in it")
		}
		return e.take(got.Objects[:got.Returned])
	})
}

func (e *enumeration) take(list []*wmi.ClassObject) error {
	for _, o := range list {
		obj, err := unpack(o)
		if err != nil {
			return err
		}
		in, err := decode(obj, e.namespace, 0)
		if err != nil {
			return err
		}
		if !e.refs {
			in.Ref = cim.Ref{}
		}
		e.items = append(e.items, in)
	}
	return nil
}

// end lets the session go, and the machine forget the enumeration.
func (e *enumeration) end(ctx context.Context) {
	if e.s == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	e.c.turn <- struct{}{} // a call that is under way ends in time
	defer e.c.unlock()
	if !e.s.line.dead() {
		_ = e.s.line.run(ctx, func(ctx context.Context) error { e.s.release(ctx, e.at); return nil })
	}
	if e.s.users--; e.s.users == 0 && e.s.retired {
		e.s.line.kill()
	}
}

// change gives one of an instance's properties another value.
func change(list []*wmio.Property, v cim.Property) error {
	for _, p := range list {
		if strings.EqualFold(p.Name, v.Name) {
			return put(p, v.Value)
		}
	}
	return fmt.Errorf("%w: the instance has no property %.100s", cim.ErrArgument, v.Name)
}
