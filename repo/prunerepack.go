package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/cell"
	"github.com/hikae/hikae/repo/store"
)

// repackBatch is how many bytes of packs are written anew before the old ones go: so much room it takes at once.
const repackBatch = 512 << 20

// maxFrames is how many records of packs are put in order at once: 4 bytes each.
const maxFrames = 2 << 20

// candidate is a pack that is needed in part.
type candidate struct {
	num    uint32
	size   int64 // of the file
	unused int64 // of it
	doomed bool  // it is to go for good, and something in it is needed: its other copy was found damaged since
}

// share is the part of a pack that nobody needs.
func (c candidate) share() float64 { return float64(c.unused) / float64(max(1, c.size)) }

// repack writes anew what is needed of packs that are mostly dead weight, the worst first, until no more is left than the
// options allow. It takes a batch at a time: took is the bytes of its packs, more says that there is another one.
func (p *prune) repack(ctx context.Context, m *marking, left int64) (took int64, more bool, err error) {
	s, err := m.survey(m.tombs())
	if err != nil {
		return 0, false, err
	}
	batch, more := p.choose(m, s, left)
	if len(batch) == 0 {
		return 0, false, nil
	}
	for _, c := range batch {
		took += c.size
	}
	if p.opts.DryRun {
		p.pretendRepack(m, batch)
		return took, false, nil
	}
	err = p.rewrite(ctx, m, s, batch)
	if errors.Is(err, syscall.ENOSPC) && ctx.Err() == nil {
		p.r.warn(fmt.Sprintf("packs that are needed in part stay as they are, there is no room to write them anew: %v", err))
		return took, false, nil
	}
	return took, more, err
}

// choose picks the packs of a batch.
func (p *prune) choose(m *marking, s *survey, left int64) (batch []candidate, more bool) {
	var all []candidate
	var kept, unused int64
	for _, ref := range m.mayGo(keysOf(m.present)) {
		num, ok := m.x.number(ref)
		if !ok || int(num) >= len(s.live) || m.gone[num] {
			continue
		}
		t, dead := s.tombs[ref]
		c := candidate{num: num, size: m.present[ref], doomed: t.final && s.live[num] > 0}
		if dead && !c.doomed {
			continue
		}
		if s.total[num] > 0 {
			c.unused = int64(float64(c.size) * (1 - float64(s.live[num])/float64(s.total[num])))
		}
		kept += c.size
		unused += c.unused
		if s.live[num] > 0 && (c.unused > 0 || c.doomed) && !m.stuck[num] {
			all = append(all, c)
		}
	}
	slices.SortFunc(all, func(a, b candidate) int {
		if a.doomed != b.doomed {
			if a.doomed {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(b.share(), a.share()), cmp.Compare(a.num, b.num))
	})
	bytes, records := int64(0), int64(0)
	for _, c := range all {
		if !c.doomed && float64(unused) <= float64(kept)*p.opts.MaxUnused/100 {
			break
		}
		if p.opts.MaxRepack > 0 && bytes+c.size > left {
			break
		}
		records += int64(s.count[c.num])
		if (bytes+c.size > repackBatch || records > maxFrames) && len(batch) > 0 && !p.opts.DryRun {
			return batch, true
		}
		batch = append(batch, c)
		bytes += c.size
		unused -= c.unused
		kept -= c.unused
	}
	return batch, false
}

func keysOf(m map[packRef]int64) []packRef {
	out := make([]packRef, 0, len(m))
	for ref := range m {
		out = append(out, ref)
	}
	return out
}

// packFrames are records of the index that are copied from one pack. They were entered in the order in which they stand there.
type packFrames struct {
	pack    uint32
	records []uint32
}

// rewrite copies what is kept of packs into new ones, and reads those back.
func (p *prune) rewrite(ctx context.Context, m *marking, s *survey, batch []candidate) (err error) {
	frames, err := m.framesOf(s, batch)
	if err != nil {
		return err
	}
	l := p.lease
	if m.scope != (scope{}) {
		if l, err = p.r.newLeaseFor(ctx, accessWrite, nil, m.scope); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, l.end(ctx)) }()
	}
	m.written[l.n] = true
	w := p.r.newRewriter(ctx, l, m.x)
	defer w.close()
	known := len(m.x.packs)
	total := int64(0)
	for _, c := range batch {
		total += c.size
	}
	done := int64(0)
	for _, from := range frames {
		done += m.present[m.x.pack(from.pack)]
		p.tell("repack", done, total)
		for _, n := range from.records {
			if err := p.copyFrame(ctx, m, w, n); err != nil {
				return err
			}
		}
	}
	if err := w.flush(ctx); err != nil {
		return err
	}
	w.close() // for its buffers
	p.rep.Repacked += len(batch)
	return p.readBack(ctx, m, l.n, known)
}

func (p *prune) copyFrame(ctx context.Context, m *marking, w *rewriter, n uint32) error {
	id, loc, err := m.x.record(n)
	if err != nil {
		return err
	}
	if err := p.pace.wait(ctx, int64(loc.stored)); err != nil {
		return err
	}
	err = w.copy(ctx, id, loc)
	if _, damaged := errors.AsType[*ErrCorrupt](err); damaged || isSourceError(err) || errors.Is(err, pipe.ErrBlockMismatch) && ctx.Err() == nil {
		p.r.warn(fmt.Sprintf("%s stays: %v", m.x.pack(loc.pack).name(), err))
		m.stuck[loc.pack] = true
		return w.s.failed()
	}
	return err
}

// framesOf are the frames of packs that are kept there and nowhere else, in their order.
func (m *marking) framesOf(s *survey, batch []candidate) (frames []packFrames, err error) {
	x := m.x
	x.mu.RLock()
	defer x.mu.RUnlock()
	chosen := map[uint32]*packFrames{}
	for _, c := range batch {
		chosen[c.num] = &packFrames{c.num, make([]uint32, 0, s.count[c.num])}
	}
	n := uint32(0)
	each := x.records.eachFull(func(id pipe.ID, loc location, again, _ bool) {
		defer func() { n++ }()
		from := chosen[loc.pack]
		if from == nil || err != nil {
			return
		}
		first := n
		if again {
			if first, err = s.first(id); err != nil {
				return
			}
		}
		if !m.need.has(first) {
			return
		}
		if m.multi.has(first) {
			var kept []location
			if kept, _, err = s.keep(id, first); err != nil || !slices.Contains(kept, loc) {
				return
			}
		}
		from.records = append(from.records, n)
	})
	if err == nil {
		err = each
	}
	for _, from := range chosen {
		if len(from.records) > 0 {
			frames = append(frames, *from)
		}
	}
	slices.SortFunc(frames, func(a, b packFrames) int {
		return cmp.Or(cmp.Compare(x.packs[a.pack].Lease, x.packs[b.pack].Lease), cmp.Compare(a.pack, b.pack))
	})
	return frames, err
}

// readBack looks at every cell of the packs that were just written, before anything is given up for them.
func (p *prune) readBack(ctx context.Context, m *marking, lease uint64, from int) error {
	var file []byte
	for num := from; ; num++ {
		m.x.mu.RLock()
		end := num >= len(m.x.packs)
		var ref packRef
		if !end {
			ref = m.x.packs[num]
		}
		m.x.mu.RUnlock()
		if end {
			return nil
		}
		if ref.Lease != lease {
			continue
		}
		var err error
		if file, err = store.ReadInto(ctx, p.r.st, ref.name(), file, maxPackFile); err != nil {
			return fmt.Errorf("%s, just written, cannot be read back: %w", ref.name(), storeError(err))
		}
		if _, damaged, err := cell.Repair(file); err != nil || len(damaged) > 0 {
			return &ErrCorrupt{Object: ref.name(), Reason: "just written, and cells are damaged when it is read back: nothing is given up for it", Err: err}
		}
		p.rep.Written += int64(len(file))
		p.rep.Freed -= int64(len(file))
	}
}

// account says what stays.
func (p *prune) account(m *marking) {
	s, err := m.survey(m.tombs())
	if err != nil {
		return
	}
	for num, live := range s.live {
		ref := m.x.pack(uint32(num))
		size, here := m.present[ref]
		if _, dead := s.tombs[ref]; dead || !here || m.gone[uint32(num)] {
			continue
		}
		p.rep.Kept++
		p.rep.KeptBytes += size
		if s.total[num] > 0 {
			p.rep.Unused += int64(float64(size) * (1 - float64(live)/float64(s.total[num])))
		}
	}
}

// pretendRepack counts what writing packs anew would give.
func (p *prune) pretendRepack(m *marking, batch []candidate) {
	for _, c := range batch {
		p.rep.Repacked++
		p.rep.Deleted++
		p.rep.Freed += c.unused
		p.rep.Written += c.size - c.unused
		m.gone[c.num] = true
	}
}
