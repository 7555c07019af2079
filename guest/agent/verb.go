package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"github.com/hikae/hikae/guest/agent/wire"
)

// verb carries out one call. Data that it gives goes by send.
type verb func(s *Session, ctx context.Context, c *call, args json.RawMessage, send func([]byte) error) (any, error)

// verbs are all there are.
var verbs = map[wire.Verb]verb{
	wire.Hello:   plain((*Session).hello),
	wire.Lease:   plain((*Session).renewed),
	wire.Inspect: plain((*Session).inspect),
	wire.Prepare: plain((*Session).prepare),
	wire.Freeze:  plain((*Session).doFreeze),
	wire.Thaw:    plain((*Session).doThaw),
	wire.Finish:  plain((*Session).finish),
	wire.Settle:  plain((*Session).settle),
	wire.Index:   giving((*Session).index),
	wire.Logs:    plain((*Session).logs),
	wire.Fetch:   giving((*Session).fetch),
	wire.Shipped: plain((*Session).shipped),
	wire.Install: taking((*Session).install),
	wire.Enrol:   plain((*Session).enrol),
	wire.Remove:  plain((*Session).remove),
}

// plain makes a verb of a method.
func plain[A, R any](do func(*Session, context.Context, A) (R, error)) verb {
	return func(s *Session, ctx context.Context, _ *call, raw json.RawMessage, _ func([]byte) error) (any, error) {
		var args A
		if err := wire.Decode(raw, &args); err != nil {
			return nil, err
		}
		return do(s, ctx, args)
	}
}

// dataChunk is what small writes are gathered to, in bytes.
const dataChunk = 128 << 10

// giving makes a verb of a method that writes data.
func giving[A, R any](do func(*Session, context.Context, A, io.Writer) (R, error)) verb {
	return func(s *Session, ctx context.Context, c *call, raw json.RawMessage, send func([]byte) error) (any, error) {
		out := wire.NewOutbox(ctx, c.gate, send)
		w := bufio.NewWriterSize(out, dataChunk)
		return plain(func(s *Session, ctx context.Context, args A) (r R, err error) {
			if r, err = do(s, ctx, args, w); err != nil {
				return r, err
			}
			if err = w.Flush(); err != nil {
				return r, err
			}
			return r, out.Close()
		})(s, ctx, c, raw, send)
	}
}

// taking makes a verb of a method that reads data.
func taking[A, R any](do func(*Session, context.Context, A, io.Reader) (R, error)) verb {
	return func(s *Session, ctx context.Context, c *call, raw json.RawMessage, send func([]byte) error) (any, error) {
		return plain(func(s *Session, ctx context.Context, args A) (R, error) { return do(s, ctx, args, c.inbox) })(s, ctx, c, raw, send)
	}
}

// has says whether this component has a verb.
func (a *Agent) has(v wire.Verb) bool {
	o := &a.opts
	switch v {
	case wire.Hello, wire.Lease, wire.Inspect, wire.Thaw, wire.Remove:
		return true
	case wire.Freeze:
		return o.Freezer != nil || o.Applications != nil || o.Scripts != nil
	case wire.Prepare, wire.Finish, wire.Settle:
		return o.Applications != nil
	case wire.Logs, wire.Fetch, wire.Shipped:
		return o.Logs != nil
	case wire.Index:
		return o.Indexer != nil
	case wire.Install:
		return o.Installer != nil
	case wire.Enrol:
		return o.Enrol != nil
	}
	return false
}

// do carries out one request. A part that panics fails its call alone: what is frozen must be thawed all the same.
func (s *Session) do(ctx context.Context, req wire.Request, c *call, send func([]byte) error) (answer any, err error) {
	run, known := verbs[req.Verb]
	if !known || !s.agent.has(req.Verb) {
		return nil, failure(wire.CodeUnknown, "this component does not have the verb %.40q", req.Verb)
	}
	s.mu.Lock()
	greeted := s.greeted
	s.mu.Unlock()
	if !greeted && req.Verb != wire.Hello {
		return nil, failure(wire.CodeState, "a session begins with hello")
	}
	err = safely(func() (err error) {
		answer, err = run(s, ctx, c, req.Args, send)
		return err
	})
	return answer, err
}

// hello begins the session. A client of another version is told ours, and gets no further.
func (s *Session) hello(_ context.Context, args wire.HelloArgs) (wire.HelloAnswer, error) {
	lease := DefaultLease
	if args.LeaseMillis != 0 {
		lease = time.Duration(args.LeaseMillis) * time.Millisecond
	}
	if args.LeaseMillis < 0 || args.LeaseMillis > MaxLease.Milliseconds() || lease < MinLease {
		return wire.HelloAnswer{}, failure(wire.CodeInvalid, "a lease of %d ms: %v to %v", args.LeaseMillis, MinLease, MaxLease)
	}
	if args.Version == wire.Version {
		s.mu.Lock()
		s.greeted, s.lease = true, lease
		s.timer.Reset(lease)
		s.mu.Unlock()
	}
	return s.agent.hello(), nil
}

func (a *Agent) hello() wire.HelloAnswer {
	h := wire.HelloAnswer{
		Version: wire.Version, Product: a.opts.Product, Persist: a.opts.Persist, Installer: a.opts.Installer != nil,
		OS: runtime.GOOS, Arch: runtime.GOARCH, PID: os.Getpid(), Admin: a.opts.Admin, Boot: a.opts.Boot,
		Unverified: a.opts.Unverified,
	}
	h.Host, _ = os.Hostname()
	for _, v := range wire.Verbs {
		if a.has(v) {
			h.Verbs = append(h.Verbs, v)
		}
	}
	return h
}

func (s *Session) renewed(context.Context, wire.LeaseArgs) (wire.LeaseAnswer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return wire.LeaseAnswer{LeaseMillis: s.lease.Milliseconds(), Frozen: s.holding}, nil
}

// inspect looks around. A part that cannot is a note: the others' news are of use all the same.
func (s *Session) inspect(ctx context.Context, args wire.InspectArgs) (a wire.InspectAnswer, err error) {
	o := &s.agent.opts
	note := func(what string, err error) {
		if err != nil {
			a.Notes = append(a.Notes, fmt.Sprintf("%s: %v", what, err))
		}
	}
	if o.Freezer != nil {
		a.Volumes, err = o.Freezer.Volumes(ctx)
		note("file systems", err)
	}
	if o.Applications != nil && args.Applications {
		a.Applications, err = o.Applications.Find(ctx)
		note("applications", err)
	}
	if o.Scripts != nil {
		a.Scripts = o.Scripts.List()
	}
	if !o.Admin {
		a.Notes = append(a.Notes, "this account may not freeze file systems")
	}
	return a, ctx.Err()
}

func (s *Session) index(ctx context.Context, args wire.IndexArgs, to io.Writer) (wire.IndexAnswer, error) {
	return s.agent.opts.Indexer.Index(ctx, args, to)
}

func (s *Session) logs(ctx context.Context, args wire.LogsArgs) (wire.LogsAnswer, error) {
	return s.agent.opts.Logs.Logs(ctx, args)
}

func (s *Session) fetch(ctx context.Context, args wire.FetchArgs, to io.Writer) (wire.FetchAnswer, error) {
	return s.agent.opts.Logs.Fetch(ctx, args, to)
}

func (s *Session) shipped(ctx context.Context, args wire.ShippedArgs) (wire.ShippedAnswer, error) {
	return wire.ShippedAnswer{}, s.agent.opts.Logs.Shipped(ctx, args)
}

// install reads to the end of the data whatever the installer left: what comes behind it would be somebody else's.
func (s *Session) install(ctx context.Context, args wire.InstallArgs, from io.Reader) (wire.InstallAnswer, error) {
	return s.agent.opts.Installer.Install(ctx, args, from)
}

func (s *Session) enrol(ctx context.Context, args wire.EnrolArgs) (wire.EnrolAnswer, error) {
	return s.agent.opts.Enrol(ctx, args)
}

// remove lets go of everything and takes the component away. The session ends when the answer is on its way.
func (s *Session) remove(ctx context.Context, _ wire.RemoveArgs) (a wire.RemoveAnswer, err error) {
	s.cancelFreeze()
	leave, err := s.enter(ctx)
	if err != nil {
		return a, err
	}
	defer leave()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), letGoLimit)
	defer cancel()
	s.release(ctx)
	if s.agent.opts.Remove == nil {
		return a, nil
	}
	return s.agent.opts.Remove(ctx)
}
