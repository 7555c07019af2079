package stripe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
)

// ScrubOptions say how a set is gone through.
type ScrubOptions struct {
	Rate     int64          // bytes a second that are read in all; zero: as fast as it goes
	Progress func(Progress) // called now and then, never by two goroutines at once
	After    string         // objects up to this name have been looked at
}

// Progress is how far a scrub or rebuild is.
type Progress struct {
	Object         string // the name before which everything is done: ScrubOptions.After of whoever goes on
	Objects, Total int    // objects done, and how many there are
	Bytes          int64  // read or written so far
}

// Report is what a scrub found.
type Report struct {
	Objects, Shards int
	Bytes           int64    // of shards that were read
	Damaged         []Damage // parts that are missing or wrong, all of which a rebuild can make again
	Lost            []string // objects of which too little is left
	Loose           []Damage // shards that no record names, and records that the arbiter has not: leftovers
}

// Damage is one thing that is wrong on one member.
type Damage struct {
	Member string // its label
	Object string
	Shard  int // −1: the record
	Err    error
}

// maxReported bounds a report's lists.
const maxReported = 100_000

// Scrub reads everything on all members that answer, and says what is not as it was written. It changes nothing.
func (s *Store) Scrub(ctx context.Context, opts *ScrubOptions) (*Report, error) {
	var o ScrubOptions
	if opts != nil {
		o = *opts
	}
	if err := s.begin(ctx, true); err != nil {
		return nil, fmt.Errorf("scrub: %w", err)
	}
	defer s.work.Done()
	sc := &scrub{s: s, v: s.view(), pace: paceOf(o.Rate)}
	if err := sc.run(ctx, o); err != nil {
		return &sc.report, fmt.Errorf("scrub: %w", err)
	}
	return &sc.report, nil
}

type scrub struct {
	s    *Store
	v    *view
	pace *rate.Limiter

	mu     sync.Mutex
	report Report
}

// paceOf limits bytes a second. Nil: not at all.
func paceOf(bytesPerSecond int64) *rate.Limiter {
	if bytesPerSecond <= 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(bytesPerSecond), int(min(bytesPerSecond, 1<<30)))
}

func wait(ctx context.Context, pace *rate.Limiter, n int64) error {
	if pace == nil {
		return nil
	}
	for n > 0 {
		part := min(n, int64(pace.Burst()))
		if err := pace.WaitN(ctx, int(part)); err != nil {
			return err
		}
		n -= part
	}
	return nil
}

func (sc *scrub) run(ctx context.Context, o ScrubOptions) error {
	have, err := holders(ctx, sc.v, "", sc.v.current())
	if err != nil {
		return err
	}
	names := sortedNames(have)
	for len(names) > 0 && o.After != "" && names[0] <= o.After {
		names = names[1:]
	}
	total := len(names)
	for len(names) > 0 {
		batch := names[:min(len(names), 4*workers)]
		names = names[len(batch):]
		g, each := errgroup.WithContext(ctx)
		g.SetLimit(workers)
		for _, name := range batch {
			g.Go(func() error { return sc.object(each, name) })
		}
		if err := g.Wait(); err != nil {
			return err
		}
		if o.Progress != nil {
			o.Progress(Progress{batch[len(batch)-1], total - len(names), total, sc.report.Bytes})
		}
	}
	return sc.leftovers(ctx)
}

// object looks at all copies of a record, and at all shards.
func (sc *scrub) object(ctx context.Context, name string) error {
	r, err := sc.s.fresh(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return ctx.Err()
	}
	if errors.Is(err, ErrTooFew) {
		sc.add(func(p *Report) { p.Lost = append(p.Lost, name) })
		return nil
	}
	if err != nil {
		return err
	}
	var wrong []Damage
	for _, m := range sc.v.current() {
		got, err := sc.s.load(ctx, sc.v, m, name)
		if err == nil && got.Attempt != r.Attempt {
			err = fmt.Errorf("%w: the copy of another object", ErrConflict)
		}
		if err != nil {
			wrong = append(wrong, Damage{m.label, name, -1, err})
		}
	}
	right := 0
	if r.Striped {
		for i := range r.Seats {
			err := sc.shard(ctx, r, i)
			if err == nil {
				right++
				continue
			}
			wrong = append(wrong, Damage{sc.v.Members[r.Seats[i]].Label, name, i, err})
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(wrong) > 0 {
		if _, err := sc.s.fresh(ctx, name); errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
	}
	sc.add(func(p *Report) {
		p.Objects++
		if p.Damaged = append(p.Damaged, wrong...); r.Striped && right < r.K {
			p.Lost = append(p.Lost, name)
		}
	})
	return nil
}

func (sc *scrub) add(f func(*Report)) {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	f(&sc.report)
	sc.report.Damaged = sc.report.Damaged[:min(len(sc.report.Damaged), maxReported)]
	sc.report.Lost = sc.report.Lost[:min(len(sc.report.Lost), maxReported)]
	sc.report.Loose = sc.report.Loose[:min(len(sc.report.Loose), maxReported)]
}

// shard reads one whole shard.
func (sc *scrub) shard(ctx context.Context, r *record, i int) error {
	t := sc.v.seats[r.Seats[i]]
	if t.member == nil {
		return fmt.Errorf("member %s: not there", sc.v.Members[r.Seats[i]].Label)
	}
	if err := wait(ctx, sc.pace, shapeOf(r).size()); err != nil {
		return err
	}
	n, err := t.wholeShard(ctx, shapeOf(r), i)
	sc.add(func(p *Report) { p.Shards, p.Bytes = p.Shards+1, p.Bytes+n })
	return err
}

var errNoShard = errors.New("its shard is not there")

// wholeShard reads a shard and says whether all of it is right. It asks for the size first: what a record claims is not
// allocated before somebody has it.
func (m *member) wholeShard(ctx context.Context, sh shape, i int) (int64, error) {
	name := shardName(sh.Attempt, i)
	info, err := m.stat(ctx, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, of(m, errNoShard)
	case err == nil && info.Size != sh.size():
		return 0, of(m, fmt.Errorf("shard %d: %w: %d bytes instead of %d", i, ErrDamaged, info.Size, sh.size()))
	case err != nil:
		return 0, of(m, err)
	}
	raw, err := m.read(ctx, name, 0, int(sh.size()))
	if err != nil {
		return 0, of(m, err)
	}
	return int64(len(raw)), of(m, sh.whole(i, raw))
}

// leftovers are what nobody needs.
func (sc *scrub) leftovers(ctx context.Context) error {
	arb, err := sc.v.arbiter()
	if err != nil {
		return nil // nobody can say what is too much
	}
	list, err := sc.s.loose(ctx, sc.v, sc.v.current())
	if err != nil {
		if errors.Is(err, ErrTooFew) {
			return nil // an object is lost, and reported: whose shards are loose cannot be said
		}
		return err
	}
	for _, l := range list {
		sc.add(func(p *Report) { p.Loose = append(p.Loose, Damage{l.label, l.info.Name, -1, nil}) })
	}
	have, err := holders(ctx, sc.v, "", sc.v.current())
	if err != nil {
		return err
	}
	for _, name := range sortedNames(have) {
		if have[name][arb.id] {
			continue
		}
		for _, m := range sc.v.current() {
			if have[name][m.id] {
				sc.add(func(p *Report) { p.Loose = append(p.Loose, Damage{m.label, name, -1, nil}) })
			}
		}
	}
	return nil
}
