package stripe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae/repo/store"
)

// Options change how a store works. Nil and zero fields are good defaults.
type Options struct {
	// Degraded allows writing while members are away, as long as the arbiter and a quorum are there. Who misses
	// something is first written down as behind, and is asked for no record until it was rebuilt. Without it every
	// member must answer for a Create or Remove to succeed.
	Degraded bool
	// Striped says which names are striped when their object is larger than 4 KiB; all others are mirrored up to
	// [MaxMirrored]. Nil: those under data/, meta/ and index/. It may change between runs: records say what is where.
	Striped func(name string) bool

	// Hedge is how long a read waits for the shards that it needs before it asks for others. Zero: 300 ms.
	Hedge time.Duration
	// ReadDeadline is when a member that has not answered a read counts as lost; each MiB asked for adds a second.
	// Zero: 3 s.
	ReadDeadline time.Duration
	// WriteDeadline is the same for what changes a member. Zero: 60 s.
	WriteDeadline time.Duration
	// ListDeadline is how long one member may list. Zero: 10 minutes.
	ListDeadline time.Duration
	// Silence is for how long a member that did not answer is not asked again. Zero: 15 s.
	Silence time.Duration
}

func (o *Options) patience(d time.Duration, n int64) time.Duration {
	return d + time.Duration(n>>20)*time.Second
}

func optionsOf(opts *Options) *Options {
	var o Options
	if opts != nil {
		o = *opts
	}
	for d, otherwise := range map[*time.Duration]time.Duration{
		&o.Hedge: 300 * time.Millisecond, &o.ReadDeadline: 3 * time.Second, &o.WriteDeadline: time.Minute,
		&o.ListDeadline: 10 * time.Minute, &o.Silence: 15 * time.Second,
	} {
		if *d <= 0 {
			*d = otherwise
		}
	}
	if o.Striped == nil {
		o.Striped = bulk
	}
	return &o
}

// bulk names the objects of a repository that are large and many.
func bulk(name string) bool {
	return strings.HasPrefix(name, "data/") || strings.HasPrefix(name, "meta/") || strings.HasPrefix(name, "index/")
}

// smallest is the size up to which nothing is striped: a record on each member costs less than shards.
const smallest = 4 << 10

func (o *Options) stripes(name string, size int) bool {
	return size > MaxMirrored || size > smallest && o.Striped(name)
}

// Store is a striped set. It is a [store.Prober], [store.Settler], [store.Spacer] and [store.Sweeper].
type Store struct {
	opts *Options
	all  []*member // as they were given, under numbers

	known *records

	mu       sync.Mutex
	seen     *view
	inflight map[[16]byte]bool // creations of this store that have not ended
	closed   bool
	work     sync.WaitGroup

	admin sync.Mutex // one change of the state at a time
}

var (
	_ store.Store   = (*Store)(nil)
	_ store.Prober  = (*Store)(nil)
	_ store.Settler = (*Store)(nil)
	_ store.Spacer  = (*Store)(nil)
	_ store.Sweeper = (*Store)(nil)
)

// Open opens the set whose members are among stores, in whatever order: each member says itself which one it is. A nil
// store stands for one that could not be opened. It fails with [ErrTooFew] where more than m members are lost, and with
// [ErrNotSet] where there is none. Nothing is written. On nil the Store owns the stores and closes them.
func Open(ctx context.Context, stores []store.Store, opts *Options) (*Store, error) {
	return open(ctx, stores, opts, false)
}

// OpenAnyway is Open for whoever only looks at a set or mends it: it takes any member that answers.
func OpenAnyway(ctx context.Context, stores []store.Store, opts *Options) (*Store, error) {
	return open(ctx, stores, opts, true)
}

func open(ctx context.Context, stores []store.Store, opts *Options, anyway bool) (*Store, error) {
	s := newStore(stores, opts)
	v, err := s.survey(ctx)
	if err != nil {
		return nil, fmt.Errorf("open striped set: %w", err)
	}
	if err := v.enough(); err != nil && !anyway {
		return nil, fmt.Errorf("open striped set: %w", err)
	}
	s.seen = v
	return s, nil
}

func newStore(stores []store.Store, opts *Options) *Store {
	s := &Store{opts: optionsOf(opts), known: newRecords(maxKnown), inflight: map[[16]byte]bool{}}
	for i, st := range stores {
		if st != nil {
			s.all = append(s.all, &member{peer: &peer{st: st, slow: s.opts}, label: fmt.Sprint(i + 1)})
		}
	}
	return s
}

// view is what is known of the set at one time. It is not changed.
type view struct {
	State
	set   [16]byte
	seats []seat // as State.Members
	odd   []error
}

// seat is a member's place, and who sits there.
type seat struct {
	*member             // nil: nobody answered
	standing   Standing // as the state says, and Behind for who has another state
	generation uint64   // of the newest state that it has
}

func (v *view) arbiter() (*member, error) {
	i := v.seat(v.Arbiter)
	if i < 0 || v.seats[i].member == nil || v.seats[i].standing != Current {
		return nil, ErrNoArbiter
	}
	return v.seats[i].member, nil
}

// current are the members whose records count, the arbiter first.
func (v *view) current() (list []*member) {
	for _, s := range v.seats {
		if s.member == nil || s.standing != Current {
			continue
		}
		if list = append(list, s.member); s.id == v.Arbiter {
			last := len(list) - 1
			list[0], list[last] = list[last], list[0]
		}
	}
	return list
}

// there are all members that answered.
func (v *view) there() (list []*member) {
	for _, s := range v.seats {
		if s.member != nil {
			list = append(list, s.member)
		}
	}
	return list
}

// enough says whether what is acknowledged must be on who answered.
func (v *view) enough() error {
	have, current := 0, 0
	var away []string
	for i, s := range v.seats {
		if s.member == nil {
			away = append(away, v.Members[i].Label)
			continue
		}
		if have++; s.standing == Current {
			current++
		}
	}
	if need := len(v.seats) - v.Parity; have < need || current == 0 {
		return &LostError{Object: "members", Have: min(have, have*current), Need: need, Causes: v.odd, Members: away}
	}
	return nil
}

// State is what the set's members agree on, as it was last read.
func (s *Store) State() State {
	v := s.view()
	st := v.State
	st.Members = append([]Member(nil), v.Members...)
	return st
}

func (s *Store) view() *view {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen
}

func (s *Store) setView(v *view) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == nil || v.Generation >= s.seen.Generation {
		s.seen = v
	}
}

// begin says whether a call may start; it ends with s.work.Done.
func (s *Store) begin(ctx context.Context, valid bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !valid:
		return fs.ErrInvalid
	case s.closed:
		return fs.ErrClosed
	case ctx.Err() != nil:
		return ctx.Err()
	}
	s.work.Add(1)
	return nil
}

// Close waits for the calls that run, and closes all members. What a member was asked and did not answer goes on.
func (s *Store) Close() error {
	s.mu.Lock()
	again := s.closed
	s.closed = true
	s.mu.Unlock()
	if again {
		return nil
	}
	s.work.Wait()
	members := s.stores()
	errs := make([]error, len(members))
	each(members, func(i int, m *member) {
		errs[i] = of(m, m.last(s.opts.WriteDeadline, store.Store.Close))
	})
	return errors.Join(errs...)
}

// stores are all stores, members or not.
func (s *Store) stores() []*member {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all
}

// join adds a store.
func (s *Store) join(m *member) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(slices.Clone(s.all), m)
}

func isEnd(err error) bool { return errors.Is(err, io.EOF) }

// reserved says whether a name or prefix is within the set's own folder.
func reserved(name string) bool { return name == home || strings.HasPrefix(name, home+"/") }

// each calls f for all members at once and waits for all; f is bounded by its member's deadline.
func each(members []*member, f func(i int, m *member)) {
	var wg sync.WaitGroup
	for i, m := range members {
		wg.Go(func() { f(i, m) })
	}
	wg.Wait()
}
