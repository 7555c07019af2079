package mover

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// host is what the sessions of one mover share.
type host struct {
	backend   pipe.Backend
	blind     BlindStore
	source    Source
	tenants   *tenants
	admission *admission
	claims    *claims
	work      chan struct{}       // a place for each call that may use the processor
	encoder   *pipe.Encoder       // of what is read
	spool     *spool              // memory for objects that are being brought
	decoded   *semaphore.Weighted // bytes of decoded content that wait for the backend
	care      care
	classify  func(error) *Error
	observer  Observer
	log       *slog.Logger
	clock     clock

	mu   sync.Mutex
	live map[*handler]struct{}
	last uint64 // number of the newest session, for logs
}

// peers are those that have sessions, once for each.
func (h *host) peers() (list []trust.Peer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.live {
		list = append(list, s.peer)
	}
	return list
}

// care are the calls about the mover itself.
type care interface {
	enrol(peer trust.Peer, m *wire.Enrol) (*wire.Enrolled, error)
	rotate(peer trust.Peer, m *wire.Rotate) error
	health(ctx context.Context, full bool) *wire.HealthIs
}

// newHost makes what all sessions share.
func newHost(o *ServerOptions, c care) (*host, error) {
	opts, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	enc, err := pipe.NewEncoder(pipe.Fast, wire.MaxContent)
	if err != nil {
		return nil, err
	}
	h := &host{
		backend: opts.Backend, blind: opts.Blind, source: opts.Source,
		admission: newAdmission(opts.MaxWriters, opts.MaxWaiting), claims: newClaims(),
		work: make(chan struct{}, max(4, 2*runtime.GOMAXPROCS(0))), encoder: enc, spool: newSpool(spoolBytes, spoolReserve),
		decoded: semaphore.NewWeighted(decodedBytes),
		care:    c, classify: opts.Classify, observer: opts.Observer, log: opts.Log,
		live: map[*handler]struct{}{}, clock: clock{start: time.Now()},
	}
	if opts.Backend != nil {
		if h.tenants, err = openTenants(opts.StateDir); err != nil {
			return nil, fmt.Errorf("the target's state: %w", err)
		}
		h.tenants.warn = opts.Log.Warn
	}
	return h, nil
}

// close closes what newHost opened.
func (h *host) close() error {
	if h.tenants == nil {
		return nil
	}
	return h.tenants.close()
}

// busy takes a place for work on the processor. The caller gives it back.
func (h *host) busy(ctx context.Context) error {
	select {
	case h.work <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *host) idle() { <-h.work }
