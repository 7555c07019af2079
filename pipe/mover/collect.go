package mover

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/session"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// Collect is the target that drives (R011, R012): it connects to the source service at address, hands it the order, and
// answers the calls by which the source brings the VM's disks to backend. It returns when the source is done, with the
// source's result.
//
// The source is held to its order: it may begin points of the order's VM, on such a point of it as a base, and see where
// those hold data; it reads no content, and sees nothing of other VMs. In opts, CacheDir keeps which blocks this source
// has sent, so that they are not sent again by the next collection; where it is empty, they are.
func Collect(ctx context.Context, address string, order *wire.Collect, backend pipe.Backend, opts *DialOptions) ([]byte, error) {
	if opts == nil {
		opts = &DialOptions{}
	}
	if err := checkVM(order.VM, false); err != nil {
		return nil, err
	}
	d := newDialer(address, opts)
	var result []byte
	err := opts.tryKeys(func(id *trust.Identity) (err error) {
		d.identity.Store(id)
		result, err = d.collect(ctx, order, backend)
		return err
	})
	return result, err
}

func (d *dialer) collect(ctx context.Context, order *wire.Collect, backend pipe.Backend) (result []byte, err error) {
	dir, drop, err := collectDir(d.opts.CacheDir)
	if err != nil {
		return nil, err
	}
	defer drop()
	hs, err := newHost(&ServerOptions{Backend: backend, StateDir: dir, Log: d.settings.Log}, uncared{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, hs.close()) }()
	var line atomic.Pointer[session.Client]
	source := trust.Peer{Name: sourceName(d.opts.ServerPin), Role: trust.Append, Pin: d.opts.ServerPin}
	h, err := newHandler(ctx, hs, source, func(m wire.Message) {
		if c := line.Load(); c != nil {
			c.Push(m)
		}
	})
	if err != nil {
		return nil, err
	}
	h.space = space{only: order.VM}
	so := &session.ClientOptions{
		Dial: d.connect, Role: wire.Collector, Handler: h, GiveUp: d.settings.GiveUp, Lanes: d.opts.Lanes, Log: d.settings.Log,
	}
	if d.opts.Shaper != nil {
		so.Shape = d.opts.Shaper.Session(d.address).Conn
	}
	s, err := session.NewClient(ctx, so)
	if err != nil {
		return nil, errors.Join(err, h.Close())
	}
	line.Store(s)
	if err := d.opts.adopt(d.identity.Load()); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	d.follow()
	defer func() { err = errors.Join(err, s.Close()) }() // it closes the handler
	answer, err := s.Call(ctx, order)
	if f, ok := errors.AsType[*wire.Fail](err); ok {
		return nil, fromFail(f)
	}
	if err != nil {
		return nil, err
	}
	done, ok := answer.(*wire.Collected)
	if !ok {
		return nil, malformed("%v was answered by %v", order.Kind(), kindOf(answer))
	}
	return done.Result, nil
}

// sourceName is a source as a tenant: by the whole of its key, a part of which others can make theirs.
func sourceName(pin trust.Pin) string { return "source-" + hex.EncodeToString(pin[:]) }

// collectDir is where a collection keeps what it knows of a source's blocks.
func collectDir(cache string) (dir string, drop func(), err error) {
	if cache != "" {
		return filepath.Join(cache, "collect"), func() {}, nil
	}
	dir, err = os.MkdirTemp("", "hikae-collect-")
	return dir, func() { _ = os.RemoveAll(dir) }, err
}

// uncared answers the calls about a mover where there is none: a source that is asked for its disks asks for nothing else.
type uncared struct{}

func (uncared) enrol(trust.Peer, *wire.Enrol) (*wire.Enrolled, error) { return nil, errUncared }
func (uncared) rotate(trust.Peer, *wire.Rotate) error                 { return errUncared }
func (uncared) health(context.Context, bool) *wire.HealthIs {
	return &wire.HealthIs{Mode: "trusted"}
}

var errUncared = fmt.Errorf("this session is for a collection: %w", errors.ErrUnsupported)

// collect begins a session of a target that collects from this source: its handler takes the order, and the source's
// own calls go back by the same session.
func (s *Server) collect(ctx context.Context, peer trust.Peer, to *session.Client) (session.Handler, error) {
	if err := s.opts.Book.Check(peer); err != nil {
		return nil, &wire.Fail{Code: wire.CodeForbidden, Text: "this peer is not known here any more"}
	}
	if callersOf(peer) != byFull {
		return nil, &wire.Fail{Code: wire.CodeForbidden, Text: "to collect is not for this peer's role"}
	}
	h, err := s.admit(newHandler(ctx, s.host, peer, func(wire.Message) {}))
	if err != nil {
		return nil, err
	}
	h.back = func(context.Context) (*Client, error) { return clientOver(to, peer, s.opts.StateDir, h) }
	return h, nil
}

// clientOver is the far target of a collection. Its session is the one that the order came by: where that is lost, the
// order is, too.
func clientOver(to *session.Client, peer trust.Peer, cache string, h *handler) (*Client, error) {
	begun := false
	open := func(_ context.Context, push func(wire.Message)) (line, greeting, error) {
		if begun {
			return nil, greeting{}, fmt.Errorf("the target that ordered this has gone: %w", fs.ErrClosed)
		}
		begun = true
		to.Notify(push)
		return borrowed{to}, greeting{peer: peer.Name, undurable: int64(min(to.Limits().Undurable, maxKeep))}, nil
	}
	return newClient(open, peer.Pin, settings{CacheDir: cache, Log: h.log}.withDefaults()), nil
}

// borrowed is a session that somebody else ends.
type borrowed struct{ *session.Client }

func (borrowed) Close() error { return nil }
