package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/store"
)

const (
	maxBuried   = 3000 // names in one record: 171 KB of the 256 that it may have
	firstBuried = 64   // where there is hardly any room: about 1 GiB, in a record of one cell
	tightRoom   = 64 << 20
	sweepers    = 8
)

// plan is what becomes of a scope's packs.
type plan struct {
	s      *survey
	back   []packRef // to be taken back: they were to go, and are needed
	goes   []packRef // needed by nobody, and not named in a tombstone yet
	buried []packRef // named in one, and needed by nobody
}

// sweepPacks removes the packs of which nothing is needed, as far as no session is open that may come to need them.
func (p *prune) sweepPacks(ctx context.Context, m *marking) error {
	for {
		if err := m.verdict(m.since(ctx)); err != nil {
			return err
		}
		pl, err := p.decide(ctx, m, nil)
		if err != nil {
			return err
		}
		if p.opts.DryRun {
			p.pretend(m, pl)
			return nil
		}
		if err := p.takeBack(ctx, pl.back); err != nil {
			return err
		}
		rest := p.portion(ctx, pl)
		if err := p.bury(ctx, m.mark, m.bad, pl.goes); err != nil {
			return err
		}
		if err := p.finish(ctx, m); err != nil || !rest {
			return err
		}
	}
}

// portion cuts the plan to what a small record holds where a large one may not fit, and reports whether there is more.
func (p *prune) portion(ctx context.Context, pl *plan) bool {
	if len(pl.goes) <= firstBuried {
		return false
	}
	s, ok := store.As[store.Spacer](p.r.st)
	if !ok {
		return false
	}
	if free, err := s.Free(ctx); err != nil || free >= tightRoom {
		return false
	}
	pl.goes = pl.goes[:firstBuried]
	return true
}

// decide says what becomes of each pack. only: of those that a tombstone names, these alone; nil: all. Whatever is given up
// because it is elsewhere too, was read there.
func (p *prune) decide(ctx context.Context, m *marking, only map[packRef]bool) (*plan, error) {
	for {
		tombs := m.tombs()
		s, err := m.survey(tombs)
		if err != nil {
			return nil, err
		}
		pl := &plan{s: s}
		var free []packRef
		m.x.mu.RLock()
		for num, ref := range m.x.packs {
			t, dead := tombs[ref]
			_, here := m.present[ref]
			switch {
			case m.gone[uint32(num)] || !here:
			case dead && s.live[num] > 0 && !t.final:
				pl.back = append(pl.back, ref)
			case dead && s.live[num] == 0 && (only == nil || only[ref]):
				pl.buried = append(pl.buried, ref)
			case !dead && s.live[num] == 0:
				free = append(free, ref)
			}
		}
		m.x.mu.RUnlock()
		broken, err := p.broken(ctx, m)
		if err != nil {
			return nil, err
		}
		pl.goes = m.mayGo(append(free, broken...))
		slices.SortFunc(pl.goes, func(a, b packRef) int { return cmp.Compare(a.Lease, b.Lease) })
		again, err := p.prove(ctx, m, pl)
		if err != nil || !again {
			return pl, err
		}
	}
}

// broken are the packs of which nothing can be had any more. Of those that cannot be opened otherwise nobody knows what is in
// them: they stay.
func (p *prune) broken(ctx context.Context, m *marking) (list []packRef, err error) {
	for _, ref := range m.unreadable() {
		ruined, err := m.ruined(ctx, ref)
		if err != nil {
			return nil, err
		}
		name := ref.name()
		switch {
		case ruined && !p.opts.Lost:
			list = append(list, ref)
		case !slices.Contains(p.rep.Unreadable, name):
			p.rep.Unreadable = append(p.rep.Unreadable, name)
		}
	}
	return list, nil
}

// prove reads what stays of content that is given up elsewhere. What this prune has written was read back already. again
// says that something was found damaged, so that the decision is to be taken anew.
func (p *prune) prove(ctx context.Context, m *marking, pl *plan) (again bool, err error) {
	going := map[uint32]bool{}
	for _, ref := range slices.Concat(pl.goes, pl.buried) {
		if num, ok := m.x.number(ref); ok {
			going[num] = true
		}
	}
	if len(going) == 0 {
		return false, nil
	}
	var nums []uint32
	n := uint32(0)
	m.x.mu.RLock()
	err = m.x.records.eachFull(func(id pipe.ID, loc location, repeated, _ bool) {
		defer func() { n++ }()
		if !going[loc.pack] {
			return
		}
		first := n
		if repeated {
			first, _ = pl.s.first(id)
		}
		if m.need.has(first) && m.multi.has(first) && !m.proven.has(first) {
			nums = append(nums, first)
		}
	})
	m.x.mu.RUnlock()
	if err != nil {
		return false, err
	}
	for _, n := range nums {
		bad, err := p.proveOne(ctx, m, pl.s, n)
		if err != nil {
			return false, err
		}
		again = again || bad
	}
	return again, nil
}

func (p *prune) proveOne(ctx context.Context, m *marking, s *survey, n uint32) (bad bool, err error) {
	if m.proven.has(n) {
		return false, nil
	}
	id, _, err := m.x.record(n)
	if err != nil {
		return false, err
	}
	m.x.mu.RLock()
	kept, others, err := s.keep(id, n)
	m.x.mu.RUnlock()
	if err != nil || len(others) == 0 {
		return false, err
	}
	l := kept[0]
	ref := m.x.pack(l.pack)
	if !m.written[ref.Lease] {
		if err := p.pace.wait(ctx, int64(l.stored)); err != nil {
			return false, err
		}
		err = p.r.fetchFrame(ctx, m.x, ref, id, l, make([]byte, l.plain))
		if ctx.Err() != nil || isFailure(err) {
			return false, errors.Join(err, ctx.Err())
		}
		if err != nil {
			p.r.warn(fmt.Sprintf("%s holds %s no more, and other copies stay for that: %v", ref.name(), id, err))
			m.x.markBad(id, l.pack)
			return true, m.sources(ctx, id16{}, id)
		}
	}
	m.proven.set(n)
	return false, nil
}

// takeBack says that packs are needed after all.
func (p *prune) takeBack(ctx context.Context, refs []packRef) error {
	for part := range slices.Chunk(refs, maxBuried) {
		if err := p.say(ctx, &record{Kind: recordUntombstone, Packs: namesOf(part)}, nil); err != nil {
			return err
		}
		p.rep.Rescued += len(part)
	}
	return nil
}

// bury names objects in tombstones. What was decided on a state of the log that said less of damage does not count.
func (p *prune) bury(ctx context.Context, mark uint64, bad int, refs []packRef) error {
	var epoch uint64
	p.r.log.view(func(l *ledger) { epoch = l.epoch })
	for part := range slices.Chunk(refs, maxBuried) {
		err := p.say(ctx, &record{Kind: recordTombstone, Packs: namesOf(part), Mark: mark}, func(l *ledger) error {
			if len(l.bad) != bad || l.epoch != epoch {
				return errMarkAgain
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// say writes a record of this prune, as long as its lease is not over.
func (p *prune) say(ctx context.Context, rec *record, allow func(*ledger) error) error {
	key, err := p.r.signingKey(ctx)
	if err != nil {
		return err
	}
	_, err = p.r.log.append(ctx, key, func() (*record, error) {
		if err := p.r.log.live(p.lease.n); err != nil {
			return nil, err
		}
		if allow != nil {
			if err := allow(p.r.log); err != nil {
				return nil, err
			}
		}
		out := *rec
		out.Lease = p.lease.n
		return &out, nil
	})
	return err
}

func namesOf(refs []packRef) (names []string) {
	for _, ref := range refs {
		names = append(names, nameOf(ref))
	}
	return names
}

// finish removes what tombstones name, also those of a prune that died: once every session is over that is older than the
// tombstone, and what those committed was read.
func (p *prune) finish(ctx context.Context, m *marking) error {
	if len(m.tombs()) == 0 {
		return nil
	}
	if err := p.outlastTombs(ctx); err != nil {
		return err
	}
	ready := p.ready(m.tombs())
	if err := m.verdict(m.since(ctx)); err != nil {
		return err
	}
	pl, err := p.decide(ctx, m, ready)
	if err != nil {
		return err
	}
	if err := p.takeBack(ctx, pl.back); err != nil {
		return err
	}
	var away []packRef
	for _, ref := range pl.buried {
		if ready[ref] {
			away = append(away, ref)
		}
	}
	for ref := range ready { // removed by a prune that died before it could say so
		if _, here := m.present[ref]; !here {
			gone, err := p.isGone(ctx, ref)
			if err != nil {
				return err
			}
			if gone {
				away = append(away, ref)
			}
			continue
		}
		if m.x.has(ref) || p.opts.Lost {
			continue
		}
		ruined, err := m.ruined(ctx, ref)
		if err != nil {
			return err
		}
		if ruined {
			away = append(away, ref)
		}
	}
	if len(away) > 0 { // what stays for it may be of a session that died, and gone with the next power cut
		if err := p.r.settle(ctx, m.x); err != nil {
			return err
		}
	}
	removed, err := p.remove(ctx, away, m.present, func(l *ledger) error {
		if len(l.bad) != m.x.badRead || l.epoch != m.x.epoch {
			return errMarkAgain // what stays may be what has just been found damaged
		}
		return nil
	})
	for _, ref := range removed {
		if num, ok := m.x.number(ref); ok {
			m.gone[num] = true
		}
	}
	return err
}

// ready are the objects whose tombstones nobody is left to question.
func (p *prune) ready(tombs map[packRef]tomb) map[packRef]bool {
	out := map[packRef]bool{}
	p.r.log.view(func(l *ledger) {
		ready := l.mayBeSwept(p.lease.n)
		for ref, t := range tombs {
			if ready(ref, t) {
				out[ref] = true
			}
		}
	})
	return out
}

// isGone asks for a pack that was not in a listing: a listing may be late, and then nobody has looked at what is in the pack.
func (p *prune) isGone(ctx context.Context, ref packRef) (bool, error) {
	_, err := p.r.st.Stat(ctx, nameOf(ref))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return false, err
}

// remove says that objects go for good, removes them, and says that they are gone. allow is asked right before each sweep record.
func (p *prune) remove(ctx context.Context, refs []packRef, sizes map[packRef]int64, allow func(*ledger) error) (gone []packRef, err error) {
	done := 0
	for part := range slices.Chunk(refs, maxBuried) {
		if err := p.say(ctx, &record{Kind: recordSweep, Packs: namesOf(part)}, allow); err != nil {
			return gone, err
		}
		var final []packRef // what the log says so of: nothing takes these back, so whoever removes them, however late, is right
		p.r.log.view(func(l *ledger) {
			for _, ref := range part {
				if l.tombs[ref].final {
					final = append(final, ref)
				}
			}
		})
		removed, err := p.unlink(ctx, final, sizes)
		gone = append(gone, removed...)
		if err != nil {
			return gone, err
		}
		if len(removed) > 0 {
			if err := p.say(ctx, &record{Kind: recordSwept, Packs: namesOf(removed)}, nil); err != nil {
				return gone, err
			}
		}
		done += len(part)
		p.tell("sweep", int64(done), int64(len(refs)))
	}
	return gone, nil
}

// unlink removes objects, several at once. One that the store does not let go stays for a later prune.
func (p *prune) unlink(ctx context.Context, refs []packRef, sizes map[packRef]int64) (gone []packRef, err error) {
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(sweepers)
	for _, ref := range refs {
		g.Go(func() error {
			err := p.unlinkOne(ctx, ref)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, fs.ErrPermission), errors.Is(err, store.ErrLocked):
				p.rep.Locked = append(p.rep.Locked, nameOf(ref))
				return nil
			case err != nil:
				return err
			}
			gone = append(gone, ref)
			p.rep.Deleted++
			p.rep.Freed += sizes[ref]
			return nil
		})
	}
	err = g.Wait()
	return gone, err
}

func (p *prune) unlinkOne(ctx context.Context, ref packRef) error {
	places := []string{nameOf(ref)}
	if ref.Kind == kindManifest {
		all := copiesOf(places[0])
		places = all[:]
	}
	for _, name := range places {
		if err := p.r.st.Remove(ctx, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// manifests removes those of points that are gone.
func (p *prune) manifests(ctx context.Context) error {
	if err := p.whole(ctx); err != nil {
		return err
	}
	var mark uint64
	var bad int
	p.r.log.view(func(l *ledger) { mark, bad = l.n, len(l.bad) })
	sizes, err := p.listManifests(ctx)
	if err != nil {
		return err
	}
	var goes []packRef
	p.r.log.view(func(l *ledger) {
		may := l.mayGo()
		for ref := range sizes {
			if _, dead := l.tombs[ref]; !dead && may(ref) {
				goes = append(goes, ref)
			}
		}
	})
	if p.opts.DryRun {
		for _, ref := range goes {
			p.rep.Deleted++
			p.rep.Freed += sizes[ref]
		}
		return nil
	}
	err = p.bury(ctx, mark, bad, goes)
	if errors.Is(err, errMarkAgain) { // nothing of it was about damage: the next prune takes them
		err = nil
	}
	if err != nil {
		return err
	}
	tombs := map[packRef]tomb{}
	p.r.log.view(func(l *ledger) {
		maps.Copy(tombs, l.tombs)
		maps.DeleteFunc(tombs, func(o objectKey, _ tomb) bool { return o.Kind != kindManifest })
	})
	if len(tombs) == 0 {
		return nil
	}
	if err := p.outlastTombs(ctx); err != nil {
		return err
	}
	_, err = p.remove(ctx, slices.Collect(maps.Keys(p.ready(tombs))), sizes, nil)
	return err
}

// listManifests are the manifests that are there, with the sizes of all their copies.
func (p *prune) listManifests(ctx context.Context) (map[packRef]int64, error) {
	sizes := map[packRef]int64{}
	for _, prefix := range copiesOf("manifest/") {
		for info, err := range p.r.st.List(ctx, prefix) {
			if err != nil {
				return nil, err
			}
			if ref, ok := parseRef(strings.TrimPrefix(info.Name, prefix), "-"); ok {
				sizes[packRef{ref, kindManifest}] += info.Size
			}
		}
	}
	return sizes, nil
}

// caches removes index and anchor objects of leases of which no pack is left, and heartbeats of leases that are over.
func (p *prune) caches(ctx context.Context) error {
	if err := p.r.log.refresh(ctx); err != nil {
		return err
	}
	over := func(lease uint64) (is bool) {
		p.r.log.view(func(l *ledger) {
			s := l.leases[lease]
			is = lease > 0 && lease <= l.n && (s == nil || s.over)
		})
		return is
	}
	present, err := p.r.packs(ctx)
	if err != nil {
		return err
	}
	if p.r.log.damage() != nil {
		return p.r.log.damage()
	}
	used := map[uint64]bool{}
	for ref := range present {
		used[ref.Lease] = true
	}
	for _, dir := range []string{"index/", "anchor/", "beat/"} {
		for info, err := range p.r.st.List(ctx, dir) {
			if err != nil {
				return err
			}
			number, _, _ := strings.Cut(strings.TrimPrefix(info.Name, dir), "/")
			lease, ok := parseNumber(number)
			if !ok || !over(lease) || used[lease] && dir != "beat/" {
				continue
			}
			switch err := p.r.st.Remove(ctx, info.Name); {
			case err == nil:
				p.rep.Deleted++
				p.rep.Freed += info.Size
			case errors.Is(err, fs.ErrPermission), errors.Is(err, store.ErrLocked):
				p.rep.Locked = append(p.rep.Locked, info.Name)
			case !errors.Is(err, fs.ErrNotExist):
				return err
			}
		}
	}
	return p.deferred(ctx)
}

// deferred reports what waits, and for whom.
func (p *prune) deferred(ctx context.Context) error {
	sizes, err := p.r.packs(ctx)
	if err != nil {
		return err
	}
	p.r.log.view(func(l *ledger) {
		for ref, t := range l.tombs {
			if !t.final {
				p.rep.Deferred++
				p.rep.DeferredBytes += sizes[ref]
			}
		}
		for _, n := range l.waitedFor(p.lease.n) {
			s := l.leases[n]
			p.rep.Waits = append(p.rep.Waits, PruneWait{n, s.access, publicKeyText(s.key), p.r.writing(n)})
		}
	})
	return nil
}

// pretend counts what would go.
func (p *prune) pretend(m *marking, pl *plan) {
	for _, ref := range slices.Concat(pl.goes, pl.buried) {
		p.rep.Deleted++
		p.rep.Freed += m.present[ref]
		if num, ok := m.x.number(ref); ok {
			m.gone[num] = true
		}
	}
}
