package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/hikae/hikae/pipe"
)

// RepairOptions say what a repair may use. Nil and zero fields are good defaults.
type RepairOptions struct {
	// DryRun looks what could be repaired, and writes nothing.
	DryRun bool
	// From are other repositories with the same id key (see InitOptions.CopyFrom), or copies of this one: what is lost here is taken from there,
	// by its id.
	From []*Repository
	// Source is asked for blocks that are nowhere else: the disk that was backed up, as it is now. Nil: nobody is.
	Source Source
	// Rate bounds what is read from the store, in bytes a second. Zero: nothing does.
	Rate int64
	// Progress is told how many bytes of the store have been looked at in this round, and how many there are to look at.
	Progress func(done, total int64)
}

// Source gives what a disk holds now. Nothing that it says is believed: what does not have the id of the block that is
// missing is not used.
type Source interface {
	// ReadBlock fills p with what stands there. fs.ErrNotExist: it does not have this disk, or this range of it.
	ReadBlock(ctx context.Context, at Place, p []byte) error
}

// Place is where a block of a point stands.
type Place struct {
	Point, VM, Disk string
	Offset          int64
}

// RepairReport is what a repair found, did, and could not do.
type RepairReport struct {
	OK    bool     `json:"ok"`    // nothing is damaged at the end, but for what is spent
	Found []Damage `json:"found"` // at the beginning
	// Repaired are objects of which nothing is lost any more: put back where they are, or, of packs, written again
	// elsewhere.
	Repaired []string `json:"repaired"`
	// Spent are the damaged packs that nothing needs any more. A prune removes them.
	Spent    []string   `json:"spent"`
	Left     []Damage   `json:"left"`     // what could not be repaired
	Affected []Affected `json:"affected"` // what can therefore not be restored

	// Counts of pieces of content that were written again, or with DryRun would be, by where they were had from.
	Mended  int64 `json:"mended"`  // the repository itself: from parity, or from what still opens
	Fetched int64 `json:"fetched"` // another repository
	Reread  int64 `json:"reread"`  // the live source

	Written int64    `json:"written"` // bytes added to packs, without parity
	Checked Checked  `json:"checked"` // in all rounds
	Notes   []string `json:"notes"`
}

// maxRounds bounds how often a repair looks again: once for each level of a tree whose pages come back one below the other.
const maxRounds = 10

// ErrOtherIDs says that another repository calls the same content by other ids, so that nothing can be taken from it.
var ErrOtherIDs = errors.New("the repositories do not share their id key")

// Repair finds all damage, as Verify with all data does, and repairs what it can.
//
// Nothing that verifies is ever removed or written over, and nothing is written that was not proven by its strong hash:
//
//   - Places of vital objects are put back from one that verifies.
//   - Packs that stand under another one's name are put back under their own.
//   - What points need of a damaged pack is written anew into new packs, whether it still opens, is mended from parity,
//     stands in another pack, or comes from another repository or the live source. The damaged pack stays until a prune
//     finds that nobody needs it. The log is told first that its content is bad there, so that no client refers to it.
//   - Index and anchor objects are made again from the packs.
//
// A store that fails is not taken for one that is damaged: what cannot be read is left alone and told as unread, and where that
// is much, or needed to go on, the repair stops with *ErrUnread.
//
// It looks again afterwards; the report says what is left. Beside writers and readers it does no harm; it takes a writer's
// lease for each scope that it writes to. The error is for what stopped it; what was repaired until then stays so.
// Errors: *ErrUnread, ErrReadOnly, ErrOtherIDs, fs.ErrPermission for a write-only client.
func (r *Repository) Repair(ctx context.Context, opts *RepairOptions) (RepairReport, error) {
	if r.writer != nil {
		return RepairReport{}, errWriteOnly
	}
	m := &mending{r: r}
	if opts != nil {
		m.opts = *opts
	}
	if err := m.check(ctx); err != nil {
		return m.rep, err
	}
	err := m.rounds(ctx)
	return m.rep, err
}

// mending is one run of Repair.
type mending struct {
	r    *Repository
	opts RepairOptions
	rep  RepairReport

	silent bool             // the live source is not asked any more
	wrote  int64            // pieces of content, in this round
	proven map[packRef]bool // packs that were found whole in a round before
}

func (m *mending) check(ctx context.Context) error {
	if !m.opts.DryRun {
		if err := m.r.writable(ctx); err != nil {
			return err
		}
	}
	for _, f := range m.opts.From {
		if f.writer != nil {
			return errWriteOnly
		}
		if f.keys.slot.IDKey != m.r.keys.slot.IDKey {
			return ErrOtherIDs
		}
	}
	if m.opts.Rate < 0 {
		return fmt.Errorf("a rate of %d bytes a second: %w", m.opts.Rate, fs.ErrInvalid)
	}
	return nil
}

// rounds looks and repairs until there is nothing more to repair. Packs that were whole in one round are not read again
// in the next: new ones are, all of them.
func (m *mending) rounds(ctx context.Context) error {
	m.proven = map[packRef]bool{}
	for round := range maxRounds {
		v, err := m.look(ctx)
		m.take(&v.rep, round == 0)
		maps.Copy(m.proven, v.state.proven)
		if err != nil {
			return err
		}
		if m.wrote == 0 || m.opts.DryRun {
			break
		}
	}
	m.rep.OK = len(m.rep.Left) == 0 && len(m.rep.Affected) == 0
	if !m.opts.DryRun {
		m.credit()
	}
	return nil
}

// credit adds to what was repaired what was found damaged and is so no longer: a pack that is gone, and of which all came
// back from elsewhere.
func (m *mending) credit() {
	for _, d := range m.rep.Found {
		left := slices.ContainsFunc(m.rep.Left, func(l Damage) bool { return l.Object == d.Object })
		if !left && !slices.Contains(m.rep.Repaired, d.Object) {
			m.rep.Repaired = append(m.rep.Repaired, d.Object)
		}
	}
	slices.Sort(m.rep.Repaired)
}

// look is one round.
func (m *mending) look(ctx context.Context) (*verification, error) {
	m.wrote = 0
	v := &verification{
		r: m.r, mend: m.scope, from: m.opts.From, proven: maps.Clone(m.proven), state: runState{proven: map[packRef]bool{}},
		opts: VerifyOptions{DataPercent: 100, Repair: !m.opts.DryRun, Rate: m.opts.Rate, Progress: m.opts.Progress},
	}
	if err := v.prepare(ctx); err != nil {
		return v, err
	}
	return v, v.run(ctx)
}

// take takes over what a round found.
func (m *mending) take(found *VerifyReport, first bool) {
	if first {
		m.rep.Found = slices.Clone(found.Damaged)
		for _, name := range found.Repaired {
			m.rep.Found = append(m.rep.Found, Damage{Object: name, Reason: "a place of it was missing or damaged", Mendable: true})
		}
	}
	m.rep.Left, m.rep.Affected = found.Damaged, found.Affected
	for _, name := range slices.Concat(found.Repaired, found.Spent) {
		if !slices.Contains(m.rep.Repaired, name) {
			m.rep.Repaired = append(m.rep.Repaired, name)
		}
	}
	m.rep.Spent = found.Spent
	c, d := &m.rep.Checked, found.Checked
	*c = Checked{c.Objects + d.Objects, c.Blocks + d.Blocks, c.Bytes + d.Bytes, c.Original + d.Original, 0}
	for _, n := range found.Notes {
		if !slices.Contains(m.rep.Notes, n) {
			m.rep.Notes = append(m.rep.Notes, n)
		}
	}
}

// scope repairs one scope, while its index is there that was made from the packs' own tables.
func (m *mending) scope(ctx context.Context, v *verification, list []committed) error {
	if err := m.packs(ctx, v, list); err != nil {
		return err
	}
	if m.opts.DryRun {
		return nil
	}
	return m.caches(ctx, v)
}

// packs writes again what points need of damaged packs, and what they lack.
func (m *mending) packs(ctx context.Context, v *verification, list []committed) error {
	if !m.opts.DryRun {
		moved, err := m.strays(ctx, v)
		if err != nil {
			return err
		}
		if moved { // what is lost now shows in the next round
			m.wrote++
			return nil
		}
	}
	if len(v.hurt) == 0 && len(v.lack) == 0 {
		return nil
	}
	if m.opts.DryRun {
		m.rep.Mended += int64(len(v.rescue))
		return m.fetchAll(ctx, v, list, func(uint8, pipe.ID, []byte) error { return nil })
	}
	bad := v.condemned()
	v.contentOf(func(p packRef, id pipe.ID, _ location) { bad.add(id, p.Lease) })
	if err := v.declare(ctx, bad); err != nil {
		return err
	}
	if len(v.rescue) == 0 && (len(v.lack) == 0 || len(m.opts.From) == 0 && m.opts.Source == nil) {
		return nil
	}
	// After the record: what is written below a later lease is not meant by it.
	l, err := m.r.newLeaseFor(ctx, accessWrite, nil, v.idx.scope)
	if err != nil {
		return err
	}
	w := m.r.newRewriter(ctx, l, v.idx)
	err = m.write(ctx, v, list, w)
	w.close()
	m.rep.Written += w.usage().Stored
	return errors.Join(err, l.end(ctx))
}

func (m *mending) write(ctx context.Context, v *verification, list []committed, w *rewriter) error {
	for _, id := range inPackOrder(v.rescue) {
		loc := v.rescue[id]
		err := w.copy(ctx, id, loc)
		if err == nil {
			m.rep.Mended++
			m.wrote++
			continue
		}
		if isFailure(err) {
			return &ErrUnread{Object: v.idx.pack(loc.pack).name(), Err: err}
		}
		if ctx.Err() != nil || w.s.failed() != nil {
			return err
		}
		v.lacks(id, loc.typ, int64(loc.plain))
	}
	err := m.fetchAll(ctx, v, list, func(typ uint8, id pipe.ID, content []byte) error {
		m.wrote++
		return w.put(ctx, typ, id, content)
	})
	if err != nil {
		return err
	}
	return w.flush(ctx)
}

// inPackOrder is content in the order in which it stands, so that each pack is read once.
func inPackOrder(at map[pipe.ID]location) []pipe.ID {
	ids := make([]pipe.ID, 0, len(at))
	for id := range at {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b pipe.ID) int {
		x, y := at[a], at[b]
		if x.pack != y.pack {
			return int(int64(x.pack) - int64(y.pack))
		}
		return int(int64(x.offset) - int64(y.offset))
	})
	return ids
}
