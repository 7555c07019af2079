package helper

import (
	"context"
	"fmt"
	"sync"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/hyperv"
)

// For is what a provider makes its requesters by (see [hyperv.ProviderOptions]): way says how a host is reached. Nothing is brought
// to a host before the first request, so that the provider can say into which journal.
func For(way func(host string) (guest.Way, error), programs guest.Programs, opts *Options) func(context.Context, *hyperv.Host) (hyperv.Requester, error) {
	return func(_ context.Context, h *hyperv.Host) (hyperv.Requester, error) {
		l := &lazy{way: way, programs: programs}
		if opts != nil {
			l.opts = *opts
		}
		l.opts.Host = h.Info().Name
		return l, nil
	}
}

// lazy is a requester whose helper is brought with the first request.
type lazy struct {
	way      func(host string) (guest.Way, error)
	programs guest.Programs
	opts     Options

	mu     sync.Mutex
	r      *Requester
	closed bool
}

var _ hyperv.Journaled = (*lazy)(nil)

// Journal implements [hyperv.Journaled].
func (l *lazy) Journal(j hikae.Journal, site string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.opts.Journal, l.opts.Site = j, site
}

// connected is the helper, which is brought where that was not done yet. One whose link is lost never answers again, and has taken its
// sets back: what was brought for it is taken away, and another one is brought.
func (l *lazy) connected(ctx context.Context) (*Requester, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return nil, ErrClosed
	case l.r != nil && l.r.conn.why() == nil:
		return l.r, nil
	case l.r != nil:
		if err := l.r.Close(); err != nil {
			return nil, fmt.Errorf("the helper whose link was lost: %w", err)
		}
		l.r = nil
	}
	way, err := l.way(l.opts.Host)
	if err != nil {
		return nil, fmt.Errorf("the way to host %s: %w", l.opts.Host, err)
	}
	l.r, err = Connect(ctx, way, l.programs, &l.opts)
	return l.r, err
}

func (l *lazy) Components(ctx context.Context) ([]hyperv.Component, error) {
	r, err := l.connected(ctx)
	if err != nil {
		return nil, err
	}
	return r.Components(ctx)
}

func (l *lazy) Take(ctx context.Context, q hyperv.SetRequest) (hyperv.Set, error) {
	r, err := l.connected(ctx)
	if err != nil {
		return nil, err
	}
	return r.Take(ctx, q)
}

func (l *lazy) DeleteSet(ctx context.Context, mark string) error {
	r, err := l.connected(ctx)
	if err != nil {
		return err
	}
	return r.DeleteSet(ctx, mark)
}

// Close implements [hyperv.Requester]. It may be called again after an error.
func (l *lazy) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.r == nil {
		return nil
	}
	return l.r.Close()
}
