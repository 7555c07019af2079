package stripe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/hikae/hikae/repo/store"
)

// maxKnown is how many records of striped objects are kept: at most 512 bytes each.
const maxKnown = 16 << 10

// records remembers where striped objects are. Those never change, but may be removed, and made anew, by others: whoever
// finds no shards where a remembered record says asks again.
type records struct {
	max int
	mu  sync.Mutex
	m   map[string]*record
}

func newRecords(max int) *records { return &records{max: max, m: map[string]*record{}} }

func (k *records) get(name string) *record {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.m[name]
}

// put remembers a record, and forgets any one where there are too many.
func (k *records) put(r *record) {
	if !r.Striped {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for name := range k.m {
		if len(k.m) < k.max {
			break
		}
		delete(k.m, name)
	}
	k.m[r.Name] = r
}

func (k *records) drop(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.m, name)
}

// load reads an object's record from one member, and holds it against what it must be.
func (s *Store) load(ctx context.Context, v *view, m *member, name string) (*record, error) {
	b, err := m.readAll(ctx, name, maxRecord)
	if err != nil {
		return nil, err
	}
	r, err := decodeRecord(b)
	if err == nil && (r.Name != name || r.Set != v.set) {
		err = fmt.Errorf("%s: %w: it is the record of %s", name, ErrDamaged, r.Name)
	}
	if err == nil && r.Striped && !seatsWithin(r.Seats, len(v.seats)) {
		err = fmt.Errorf("%s: %w: seats", name, ErrDamaged)
	}
	return r, err
}

func seatsWithin(seats []byte, n int) bool {
	for _, s := range seats {
		if int(s) >= n {
			return false
		}
	}
	return true
}

// lookup finds an object's record. The arbiter is asked first; where it does not answer in time, has none, or a damaged
// one, the others are asked too, and any right copy proves the object: copies are made after the arbiter's, and removed
// before it. fs.ErrNotExist is said only where the arbiter says so, or enough others do, and nobody has one.
func (s *Store) lookup(ctx context.Context, name string) (*record, error) {
	if r := s.known.get(name); r != nil {
		return r, nil
	}
	v := s.view()
	members := v.current()
	if len(members) == 0 {
		return nil, &LostError{Object: name, Need: 1}
	}
	type answer struct {
		m   *member
		r   *record
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan answer, len(members))
	query := func(m *member) {
		go func() {
			r, err := s.load(ctx, v, m, name)
			answers <- answer{m, r, err}
		}()
	}
	punctual := lateLast(members)
	asked := 0
	ask := func(upTo int) {
		for ; asked < upTo; asked++ {
			query(members[asked])
		}
	}
	ask(1)
	need := min(len(v.seats)-v.Parity, v.quorum())
	hedge := time.NewTimer(s.opts.Hedge)
	defer hedge.Stop()
	absent, arbiter, causes := 0, false, []error{}
asking:
	for got := 0; ; {
		if got == asked {
			if asked == len(members) || arbiter || absent >= need {
				break asking
			}
			ask(len(members)) // nobody else is left but who is late
		}
		select {
		case <-hedge.C:
			if arbiter { // who does not contradict it by now does not
				break asking
			}
			ask(len(members))
		case a := <-answers:
			got++
			switch {
			case a.err == nil:
				s.known.put(a.r)
				return a.r, nil
			case errors.Is(a.err, store.ErrForeign), errors.Is(a.err, fs.ErrInvalid):
				return nil, a.err
			case errors.Is(a.err, fs.ErrNotExist):
				absent++
				if a.m.id == v.Arbiter {
					arbiter = true
					hedge.Reset(s.opts.Hedge)
				}
			case ctx.Err() != nil:
				return nil, ctx.Err()
			default:
				causes = append(causes, of(a.m, a.err))
			}
			ask(punctual)
		}
	}
	if !arbiter && absent < need {
		return nil, &LostError{Object: name, Have: absent, Need: need, Causes: causes}
	}
	if damaged := firstDamage(causes); damaged != nil { // somebody has what was a record once
		return nil, &LostError{Object: name, Need: 1, Causes: causes}
	}
	return nil, fs.ErrNotExist
}

// lateLast moves those who are not waited for to the end, and says how many come before them.
func lateLast(members []*member) int {
	late := map[*member]bool{} // asked once: it may change meanwhile
	for _, m := range members {
		late[m] = m.isLate()
	}
	slices.SortStableFunc(members, func(a, b *member) int {
		switch {
		case late[a] == late[b]:
			return 0
		case late[b]:
			return -1
		}
		return 1
	})
	if i := slices.IndexFunc(members, func(m *member) bool { return late[m] }); i >= 0 {
		return i
	}
	return len(members)
}

func firstDamage(errs []error) error {
	for _, err := range errs {
		if errors.Is(err, ErrDamaged) {
			return err
		}
	}
	return nil
}

// anywhere finds a record on any member that is up to date. It waits for all of them: fs.ErrNotExist says that none has it, also
// where the arbiter was put back as it had been earlier. A damaged one is ErrDamaged.
func (s *Store) anywhere(ctx context.Context, v *view, name string) (*record, error) {
	members := v.current()
	list, errs := make([]*record, len(members)), make([]error, len(members))
	each(members, func(i int, m *member) { list[i], errs[i] = s.load(ctx, v, m, name) })
	var causes []error
	for i, err := range errs {
		switch {
		case err == nil:
			return list[i], nil
		case !errors.Is(err, fs.ErrNotExist):
			causes = append(causes, of(members[i], err))
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if damaged := firstDamage(causes); damaged != nil {
		return nil, damaged
	}
	if len(causes) > 0 || len(members) == 0 {
		return nil, &LostError{Object: name, Have: len(members) - len(causes), Need: len(members), Causes: causes}
	}
	return nil, fs.ErrNotExist
}

// Stat returns an object's size.
func (s *Store) Stat(ctx context.Context, name string) (store.Info, error) {
	if err := s.begin(ctx, store.ValidName(name)); err != nil {
		return store.Info{}, fail("stat", name, err)
	}
	defer s.work.Done()
	if reserved(name) {
		return store.Info{}, fail("stat", name, store.ErrForeign)
	}
	r, err := s.fresh(ctx, name)
	if err != nil {
		return store.Info{}, fail("stat", name, err)
	}
	return store.Info{Name: name, Size: r.Length}, nil
}

// fresh is lookup without what is remembered.
func (s *Store) fresh(ctx context.Context, name string) (*record, error) {
	s.known.drop(name)
	return s.lookup(ctx, name)
}
