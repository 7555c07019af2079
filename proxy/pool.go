package proxy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"time"
)

// Pool counts what machines are doing. Whoever has something done by a machine takes a lease for it, renews it while it
// lasts, and gives it back; a lease that is not renewed ends by itself, so that a holder that died holds nothing.
//
//	Take ──▶ held ──Renew─▶ held ──Release─▶ free
//	           │
//	           └── not renewed in time ─▶ free; [Lease.Lost] is closed, Renew says [ErrLeaseLost]
//
// Waiting is fair: whoever came first is asked first when a machine has room again, and nobody waits behind somebody who
// waits for other machines. All methods are safe for concurrent use.
type Pool struct {
	life       time.Duration
	maxWaiting int

	mu       sync.Mutex
	machines map[string]*slots
	waiting  []*waiter // in the order in which they came
	closed   bool
}

// PoolOptions are how a pool works. Zero fields are good defaults.
type PoolOptions struct {
	// Life is how long a lease lasts that is not renewed, at least a second. Zero: 2 minutes.
	Life time.Duration
	// MaxWaiting is how many may wait at once. Zero: 4096.
	MaxWaiting int
}

// Bounds of a pool.
const (
	defaultLife    = 2 * time.Minute
	leastLife      = time.Second
	defaultWaiting = 4096
)

// Errors of a pool.
var (
	// ErrLeaseLost: the lease was not renewed in time, or its machine was taken out. Somebody else may have the place.
	ErrLeaseLost = errors.New("the lease was lost")
	// ErrFull: as many wait for a machine as may.
	ErrFull = errors.New("too many wait for a machine")
	// ErrPoolClosed: the pool was closed.
	ErrPoolClosed = fmt.Errorf("the pool: %w", fs.ErrClosed)
)

// slots is what one machine is doing.
type slots struct {
	limit  int // zero: none
	leases map[*Lease]struct{}
}

func (s *slots) room() bool { return s.limit <= 0 || len(s.leases) < s.limit }

// NewPool makes a pool without machines.
func NewPool(opts *PoolOptions) *Pool {
	o := PoolOptions{}
	if opts != nil {
		o = *opts
	}
	if o.Life == 0 {
		o.Life = defaultLife
	}
	if o.MaxWaiting == 0 {
		o.MaxWaiting = defaultWaiting
	}
	return &Pool{life: max(o.Life, leastLife), maxWaiting: o.MaxWaiting, machines: map[string]*slots{}}
}

// Set adds a machine, or changes how many tasks it may run at once; zero is no limit. Leases beyond a lower limit stay
// until they end.
func (p *Pool) Set(machine string, limit int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.machines[machine]
	if s == nil {
		s = &slots{leases: map[*Lease]struct{}{}}
		p.machines[machine] = s
	}
	s.limit = limit
	p.serve()
}

// Drop takes a machine out. Its leases are lost.
func (p *Pool) Drop(machine string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.machines[machine]
	if s == nil {
		return
	}
	delete(p.machines, machine)
	for l := range s.leases {
		l.lose()
	}
	p.serve()
}

// Close ends all waiting and all leases.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, s := range p.machines {
		for l := range s.leases {
			l.lose()
		}
		clear(s.leases)
	}
	for _, w := range p.waiting {
		w.answer <- outcome{err: ErrPoolClosed}
	}
	p.waiting = nil
}

// Load is what a machine is doing.
type Load struct {
	Tasks int `json:"tasks"`
	Limit int `json:"limit,omitempty"`
}

// Loads are those of all machines, by name.
func (p *Pool) Loads() map[string]Load {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.loads()
}

func (p *Pool) loads() map[string]Load {
	out := make(map[string]Load, len(p.machines))
	for name, s := range p.machines {
		out[name] = Load{len(s.leases), s.limit}
	}
	return out
}

// Chooser names the machines that will do, the best first, by what they are doing now. It is called again whenever
// something changes, with the pool locked: it must be quick, and must not call the pool. With an error the wait is over.
type Chooser func(loads map[string]Load) ([]string, error)

// waiter is somebody who waits.
type waiter struct {
	holder string
	choose Chooser
	since  time.Time
	answer chan outcome // of one
}

type outcome struct {
	lease *Lease
	err   error
}

// Take waits for a place on one of the machines that choose names, and returns its lease. holder says in words who it is
// for. The error is the context's, an [ErrFull], an [ErrPoolClosed], or choose's.
func (p *Pool) Take(ctx context.Context, holder string, choose Chooser) (*Lease, error) {
	w := &waiter{holder: holder, choose: choose, since: time.Now(), answer: make(chan outcome, 1)}
	if err := p.join(ctx, w); err != nil {
		return nil, err
	}
	select {
	case o := <-w.answer:
		return o.lease, o.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	p.waiting = slices.DeleteFunc(p.waiting, func(x *waiter) bool { return x == w })
	p.mu.Unlock()
	select {
	case o := <-w.answer: // just then
		if o.lease != nil {
			o.lease.Release()
		}
	default:
	}
	return nil, context.Cause(ctx)
}

// join serves a waiter at once, or puts it behind the others.
func (p *Pool) join(ctx context.Context, w *waiter) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case p.closed:
		return ErrPoolClosed
	case p.try(w):
		return nil
	case len(p.waiting) >= p.maxWaiting:
		return fmt.Errorf("%w (%d)", ErrFull, len(p.waiting))
	}
	p.waiting = append(p.waiting, w)
	return nil
}

// serve asks those who wait, the first first. The pool is locked.
func (p *Pool) serve() {
	if !p.closed {
		p.waiting = slices.DeleteFunc(p.waiting, p.try)
	}
}

// try gives a waiter what it waits for, if that is there. Where an earlier one waits for the same machine, it was asked
// before, and the machine has no room.
func (p *Pool) try(w *waiter) bool {
	names, err := w.choose(p.loads())
	if err != nil {
		w.answer <- outcome{err: err}
		return true
	}
	for _, name := range names {
		if s := p.machines[name]; s != nil && s.room() {
			w.answer <- outcome{lease: p.grant(name, s, w)}
			return true
		}
	}
	return false
}

func (p *Pool) grant(name string, s *slots, w *waiter) *Lease {
	l := &Lease{pool: p, machine: name, holder: w.holder, since: time.Now(), lost: make(chan struct{})}
	s.leases[l] = struct{}{}
	l.ends = l.since.Add(p.life)
	l.timer = time.AfterFunc(p.life, l.expire)
	return l
}

// MachineState is what one machine is doing, for people.
type MachineState struct {
	Machine string       `json:"machine"`
	Tasks   int          `json:"tasks"`
	Limit   int          `json:"limit,omitempty"`
	Leases  []LeaseState `json:"leases"`
}

// LeaseState is one task.
type LeaseState struct {
	Holder string    `json:"holder"`
	Since  time.Time `json:"since"`
	Ends   time.Time `json:"ends"` // if it is not renewed
}

// PoolState is the whole of a pool.
type PoolState struct {
	Machines []MachineState `json:"machines"` // by name
	Waiting  []string       `json:"waiting"`  // holders, the first first
}

// State is what all are doing.
func (p *Pool) State() PoolState {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := PoolState{Machines: []MachineState{}, Waiting: []string{}}
	for _, name := range slices.Sorted(maps.Keys(p.machines)) {
		out.Machines = append(out.Machines, p.machines[name].state(name))
	}
	for _, w := range p.waiting {
		out.Waiting = append(out.Waiting, w.holder)
	}
	return out
}

func (s *slots) state(name string) MachineState {
	m := MachineState{Machine: name, Tasks: len(s.leases), Limit: s.limit, Leases: []LeaseState{}}
	for l := range s.leases {
		m.Leases = append(m.Leases, LeaseState{l.holder, l.since, l.ends})
	}
	slices.SortFunc(m.Leases, compareLeases)
	return m
}
