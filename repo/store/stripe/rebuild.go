package stripe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/hikae/hikae/repo/store"
)

// RebuildOptions say how a member is filled.
type RebuildOptions struct {
	// Store takes the seat of a member that is lost; it must be empty, or be what an interrupted rebuild left. The set
	// owns it from then on. Nil: the member itself is there, and behind or damaged.
	Store store.Store
	// Alone says that nobody else has the set open for writing: shards that no record names are then removed.
	Alone    bool
	Rate     int64          // bytes a second that are written; zero: as fast as it goes
	Progress func(Progress) // called now and then, never by two goroutines at once
}

// Rebuilt is what a rebuild did.
type Rebuilt struct {
	Objects int      // looked at
	Records int      // written
	Shards  int      // written
	Right   int      // shards that were there and right
	Bytes   int64    // of shards written
	Removed int      // leftovers
	Lost    []string // objects of which too little is left: their shards could not be made
}

// Rebuild brings a member, named by its id or label, up to date. From its first step on, writers give it all that is new;
// what was there before is read from the others, held against its checksums, and computed where shards are missing. Only
// what is missing or wrong on the member is written. Interrupted, it is called again, and finds what was done. The
// arbiter itself is rebuilt after another one was promoted.
//
// Objects that are lost are named in the result and do not stop it.
func (s *Store) Rebuild(ctx context.Context, who string, opts *RebuildOptions) (*Rebuilt, error) {
	var o RebuildOptions
	if opts != nil {
		o = *opts
	}
	if err := s.begin(ctx, true); err != nil {
		return nil, fmt.Errorf("rebuild: %w", err)
	}
	defer s.work.Done()
	b := &rebuild{s: s, o: o, pace: paceOf(o.Rate)}
	if err := b.run(ctx, who); err != nil {
		return &b.done, fmt.Errorf("rebuild %s: %w", who, err)
	}
	return &b.done, nil
}

type rebuild struct {
	s    *Store
	o    RebuildOptions
	pace *rate.Limiter

	v    *view
	at   int // the seat
	into *member

	mu   sync.Mutex
	done Rebuilt
}

func (b *rebuild) run(ctx context.Context, who string) error {
	v, err := b.s.reload(ctx)
	if err == nil {
		v, err = b.s.finish(ctx, v)
	}
	if err != nil {
		return err
	}
	if b.at, err = v.find(who); err != nil {
		return err
	}
	if v.Members[b.at].ID == v.Arbiter {
		return errors.New("it is the arbiter: promote another member first")
	}
	if b.o.Store != nil {
		if err := b.admit(ctx, v); err != nil {
			return err
		}
	}
	id, err := b.standing(ctx, Filling)
	if err != nil {
		return err
	}
	if err := b.fill(ctx, id); err != nil {
		return err
	}
	_, err = b.standing(ctx, Current)
	return err
}

// admit makes the new store known under a new id. That stands on the store before the set says so.
func (b *rebuild) admit(ctx context.Context, v *view) error {
	if v.seats[b.at].member != nil {
		return errors.New("the member is there: take it away before another store gets its seat")
	}
	m := &member{peer: &peer{st: b.o.Store, slow: b.s.opts}, label: v.Members[b.at].Label}
	id, err := m.identify(ctx)
	switch {
	case errors.Is(err, errBlank):
		if err := m.blank(ctx); err != nil {
			return of(m, err)
		}
		id = identity{Set: v.Set, Member: newID()}
		raw := text(memberMagic, &id)
		if err := errors.Join(m.create(ctx, memberName, raw), m.create(ctx, memberCopy, raw)); err != nil {
			return of(m, err)
		}
	case err != nil:
		return err
	case id.Set == v.Set && v.seat(id.Member) == b.at: // an earlier rebuild came this far
		b.s.join(m)
		_, err := b.s.reload(ctx)
		return err
	case id.Set != v.Set || v.seat(id.Member) >= 0:
		return of(m, errors.New("the store is a member already"))
	}
	m.id = id.Member
	b.s.join(m)
	return b.retry(ctx, func(n *State) error {
		n.Members[b.at].ID, n.Members[b.at].Standing = m.id, Behind
		return nil
	})
}

func (b *rebuild) retry(ctx context.Context, change func(*State) error) error {
	var err error
	for range maxChanges {
		if err = b.s.advance(ctx, change); !errors.Is(err, errNewer) {
			return err
		}
	}
	return err
}

// standing changes how the member stands, and gives its id.
func (b *rebuild) standing(ctx context.Context, to Standing) (string, error) {
	id := b.s.view().Members[b.at].ID
	err := b.retry(ctx, func(n *State) error {
		if n.Members[b.at].ID != id || to == Current && n.Members[b.at].Standing != Filling {
			return fmt.Errorf("%w: another rebuild or a failure changed the member's standing", ErrConflict)
		}
		n.Members[b.at].Standing = to
		return nil
	})
	if err != nil {
		return "", err
	}
	b.v = b.s.view()
	if t := b.v.seats[b.at]; t.member == nil || t.standing != to {
		return "", b.v.missing([]string{id}, b.v.odd)
	}
	b.into = b.v.seats[b.at].member
	return id, nil
}

// fill brings records and shards.
func (b *rebuild) fill(ctx context.Context, id string) error {
	if err := b.prune(ctx); err != nil {
		return err
	}
	n, err := b.s.level(ctx, b.v, "", []*member{b.into}, b.v.current()...)
	b.done.Records += n
	if err != nil {
		return err
	}
	infos, err := b.into.objects(ctx, b.v, "")
	if err != nil {
		return of(b.into, err)
	}
	slices.SortFunc(infos, func(a, b store.Info) int { return strings.Compare(a.Name, b.Name) })
	total := len(infos)
	for len(infos) > 0 {
		batch := infos[:min(len(infos), 8*workers)]
		infos = infos[len(batch):]
		if err := b.batch(ctx, batch); err != nil {
			return err
		}
		if b.o.Progress != nil {
			b.o.Progress(Progress{batch[len(batch)-1].Name, total - len(infos), total, b.done.Bytes})
		}
	}
	return b.sweep(ctx)
}

// batch rebuilds objects that stand one after another in the listing.
func (b *rebuild) batch(ctx context.Context, batch []store.Info) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4) // each holds a whole object in memory
	for _, info := range batch {
		g.Go(func() error { return b.object(ctx, info) })
	}
	return g.Wait()
}

// prune removes records that the set no longer has, and those that are damaged or of other objects: right ones are
// copied afterwards.
func (b *rebuild) prune(ctx context.Context) error {
	arb, err := b.v.arbiter()
	if err != nil {
		return err
	}
	mine, err := b.into.objects(ctx, b.v, "")
	if err != nil {
		return of(b.into, err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	for _, info := range mine {
		g.Go(func() error {
			want, err := b.s.load(ctx, b.v, arb, info.Name)
			if err != nil {
				if want, err = b.s.anywhere(ctx, b.v, info.Name); errors.Is(err, ErrDamaged) {
					return nil // nobody has a right one: nothing is removed
				}
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			got, gotErr := b.s.load(ctx, b.v, b.into, info.Name)
			switch {
			case gotErr == nil && want != nil && got.Attempt == want.Attempt:
				return nil
			case gotErr != nil && !errors.Is(gotErr, ErrDamaged):
				return of(b.into, gotErr)
			}
			b.mu.Lock()
			b.done.Removed++
			b.mu.Unlock()
			return of(b.into, b.into.remove(ctx, info.Name))
		})
	}
	return g.Wait()
}

// object makes the member's shard of an object where it is not right.
func (b *rebuild) object(ctx context.Context, info store.Info) error {
	if info.Size >= recordInline {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.done.Objects++
		return nil
	}
	r, err := b.s.lookup(ctx, info.Name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ctx.Err()
	case errors.Is(err, ErrTooFew):
		b.lost(info.Name)
		return nil
	case err != nil:
		return err
	}
	wrote, kept, err := b.shard(ctx, r)
	if errors.Is(err, ErrTooFew) {
		if _, again := b.s.fresh(ctx, info.Name); !errors.Is(again, fs.ErrNotExist) {
			b.lost(info.Name)
		}
		return nil
	}
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done.Objects++
	b.done.Right += kept
	if wrote > 0 {
		b.done.Shards++
		b.done.Bytes += wrote
	}
	return nil
}

func (b *rebuild) lost(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.done.Lost) < maxReported {
		b.done.Lost = append(b.done.Lost, name)
	}
}

// shard looks at the member's shard of one object, and writes it anew where it is not there or not right.
func (b *rebuild) shard(ctx context.Context, r *record) (wrote int64, kept int, err error) {
	i := slices.Index(r.Seats, byte(b.at))
	if !r.Striped || i < 0 {
		return 0, 0, nil
	}
	sh, name := shapeOf(r), shardName(r.Attempt, i)
	_, err = b.into.wholeShard(ctx, sh, i)
	switch {
	case err == nil:
		return 0, 1, nil
	case errors.Is(err, ErrDamaged): // its bytes are wrong: what is made anew is held against the others' checksums
	case errors.Is(err, errNoShard):
	default:
		return 0, 0, err
	}
	damaged := errors.Is(err, ErrDamaged)
	raw, free, err := b.s.remake(ctx, b.v, sh, i)
	if err != nil {
		return 0, 0, err
	}
	if err := wait(ctx, b.pace, int64(len(raw))); err != nil {
		return 0, 0, err
	}
	if damaged {
		if err := b.into.remove(ctx, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, 0, of(b.into, err)
		}
	}
	err = b.into.create(ctx, name, raw)
	if !errors.Is(err, errAbandoned) {
		free()
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return 0, 0, of(b.into, err)
	}
	return sh.size(), 0, nil
}

// sweep removes the member's shards that no record names, where nobody else can be writing.
func (b *rebuild) sweep(ctx context.Context) error {
	if !b.o.Alone || len(b.done.Lost) > 0 {
		return nil
	}
	list, err := b.s.loose(ctx, b.v, []*member{b.into})
	if err != nil {
		return err
	}
	for _, l := range list {
		if err := l.remove(ctx, l.info.Name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return of(l.member, err)
		}
		b.done.Removed++
	}
	return nil
}
