package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/hikae/hikae/pipe"
)

// VerifyOptions say how deep to look. The structure is always checked: every place of every vital object, the table
// of every pack, every page of every point's trees, and that every block which they name is in a pack.
type VerifyOptions struct {
	// DataPercent of the blocks are read, opened, decoded and held against their ids: 0 … 100. At 100 every cell of
	// every pack is checked too, parity included.
	DataPercent float64
	// Seed of the sample. Zero: a random one, told in the report.
	Seed uint64
	// Repair puts back places of vital objects that are missing, and replaces damaged ones from one that verifies. All
	// else that can be mended is the work of [Repository.Repair].
	Repair bool
	// Declare writes into the log what is damaged and cannot be had from elsewhere in the repository, so that every
	// client stores it again when it next appears, and none refers to it anew.
	Declare bool
	// Rate bounds what is read from the store, in bytes a second. Zero: nothing does.
	Rate int64
	// State keeps how far a run came, so that one that was cut off goes on there: see [VerifyState]. Nil: a file in the
	// client's StateDir where Resume is set.
	State VerifyState
	// Resume goes on where the last run with the same options was cut off, from State.
	Resume bool
	// Rotation reads all data of a part of the packs, so that runs on many days read all of it. DataPercent has to be zero.
	Rotation *Rotation
	// Progress is told how many bytes of the store have been looked at, and how many there are to look at.
	Progress func(done, total int64)
}

// VerifyReport is what verify found.
type VerifyReport struct {
	OK       bool       `json:"ok"` // nothing is damaged at the end
	Checked  Checked    `json:"checked"`
	Damaged  []Damage   `json:"damaged"`
	Affected []Affected `json:"affected"`
	Repaired []string   `json:"repaired"`
	// Spent are damaged packs that no point needs and that nothing will refer to: what was worth keeping of them stands
	// elsewhere. They are no damage; a prune removes them.
	Spent       []string `json:"spent"`
	Reclaimable int64    `json:"reclaimable"` // bytes of packs that no point needs, unfinished ones among them
	Notes       []string `json:"notes"`
	Seed        uint64   `json:"seed,omitempty"` // of the sample, where there was one
}

// Checked counts what was looked at.
type Checked struct {
	Objects  int64 `json:"objects"`
	Blocks   int64 `json:"blocks"`   // whose content was proven
	Bytes    int64 `json:"bytes"`    // read from the store
	Original int64 `json:"original"` // plain bytes of the proven blocks
	Resumed  int64 `json:"resumed"`  // bytes of packs that an earlier run had proven, before it was cut off
}

// Damage is one damaged place in the store.
type Damage struct {
	Object string `json:"object"`
	Offset int64  `json:"offset"`
	Length int64  `json:"length"` // 0 with offset 0: all of it
	Reason string `json:"reason"`
	// Mendable: what is damaged can be had from the object's parity or another copy, and nothing is lost.
	Mendable bool `json:"mendable"`
	// Unread: the store failed at it, each time. Whether it is damaged is not known, and nothing is done about it.
	Unread bool `json:"unread,omitempty"`
}

// Affected is a range of a restore point's disk that cannot be restored.
type Affected struct {
	Point  string `json:"point"`
	VM     string `json:"vm"`
	Disk   string `json:"disk"`
	Offset int64  `json:"offset"`
	Length int64  `json:"length"`
}

// maxAffected bounds the list; a note says when there is more.
const maxAffected = 100_000

// Verify checks the repository. The error is for what stopped the check; what it found is in the report. An object that the store
// fails at is told as unread; where many are, the store is what is broken, and the error is *ErrUnread.
func (r *Repository) Verify(ctx context.Context, opts *VerifyOptions) (VerifyReport, error) {
	if r.writer != nil {
		return VerifyReport{}, errWriteOnly
	}
	v := &verification{r: r}
	if opts != nil {
		v.opts = *opts
	}
	if err := v.prepare(ctx); err != nil {
		return VerifyReport{}, err
	}
	err := v.run(ctx)
	return v.rep, errors.Join(err, v.finishState(ctx, err))
}

// prepare checks the options, and takes up what an earlier run left.
func (v *verification) prepare(ctx context.Context) error {
	o := &v.opts
	switch {
	case o.DataPercent < 0 || o.DataPercent > 100 || math.IsNaN(o.DataPercent):
		return fmt.Errorf("%v percent of the data: %w", o.DataPercent, fs.ErrInvalid)
	case o.Rate < 0:
		return fmt.Errorf("a rate of %d bytes a second: %w", o.Rate, fs.ErrInvalid)
	case o.Rotation != nil && o.Rotation.Days < 0:
		return fmt.Errorf("a rotation of %d days: %w", o.Rotation.Days, fs.ErrInvalid)
	case o.Rotation != nil && o.DataPercent > 0:
		return fmt.Errorf("a rotation besides %v percent of the data: %w", o.DataPercent, fs.ErrInvalid)
	}
	if o.Declare && v.r.writable(ctx) != nil {
		return v.r.writable(ctx)
	}
	v.pace.rate = o.Rate
	if err := v.loadState(ctx); err != nil {
		return err
	}
	if o.Seed == 0 {
		o.Seed = rand.Uint64() | 1
	}
	if v.state.doc.Run != nil {
		v.state.doc.Run.Seed = o.Seed
	}
	if o.DataPercent > 0 && o.DataPercent < 100 {
		v.rep.Seed = o.Seed
	}
	return nil
}

// run looks at everything once.
func (v *verification) run(ctx context.Context) error {
	if err := v.r.log.findHole(ctx); err != nil {
		return err
	}
	list, err := v.r.committed(ctx)
	if err != nil {
		return err
	}
	if err := v.vitals(ctx, list); err != nil {
		return err
	}
	if err := v.list(ctx); err != nil {
		return err
	}
	var scopes []scope
	v.r.log.view(func(l *ledger) { scopes = l.scopes() })
	for _, s := range scopes {
		if err := v.scope(ctx, s, list); err != nil {
			return err
		}
	}
	if err := v.foreign(ctx, list); err != nil {
		return err
	}
	v.finish()
	return nil
}

// list finds the packs, of all scopes.
func (v *verification) list(ctx context.Context) error {
	all, err := v.r.packs(ctx)
	if err != nil {
		return err
	}
	v.all = all
	for p, size := range all {
		if _, known := v.scopeOf(p.Lease); known {
			v.total.Add(size)
		}
	}
	return nil
}

func (v *verification) scopeOf(lease uint64) (s scope, known bool) {
	v.r.log.view(func(l *ledger) { s, known = l.scopeOf(lease) })
	return s, known
}

// scope checks the content of one scope and the points that are made of it.
func (v *verification) scope(ctx context.Context, s scope, list []committed) error {
	idx, err := v.r.newIndex(s)
	if err != nil {
		return err
	}
	defer idx.close()
	v.idx, v.needed, v.recipes, v.sizes = idx, nil, nil, map[packRef]int64{}
	v.needs, v.absent, v.pages = map[badPlace][]pipe.ID{}, map[pipe.ID]packRef{}, map[seenPage]*pageState{}
	v.digests, v.miscounted = map[packRef]hash{}, map[pipe.ID]bool{}
	v.hurt, v.rescue, v.lack = map[packRef]bool{}, map[pipe.ID]location{}, map[pipe.ID]lacking{}
	v.doubtful, v.blind, v.misplaced = nil, false, map[packRef][16]byte{}
	for p, size := range v.all {
		if of, known := v.scopeOf(p.Lease); known && of == s {
			v.sizes[p] = size
		}
	}
	list = slices.DeleteFunc(slices.Clone(list), func(c committed) bool { return !v.r.ofScope(c.lease, s) })
	for _, step := range []func(context.Context) error{
		v.packs,
		v.indexObjects,
		v.anchorObjects,
		v.assembled,
		func(ctx context.Context) error { return v.pointsBeside(ctx, list) },
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if v.mend != nil {
		if err := v.mend(ctx, v, list); err != nil {
			return err
		}
	} else if v.opts.Declare {
		if err := v.declare(ctx, v.condemned()); err != nil {
			return err
		}
	}
	v.spend()
	if err := v.unfinished(ctx, s); err != nil {
		return err
	}
	v.reclaimable()
	return v.remember(ctx, s)
}

// remember tells the repository's own index what is bad, so that this process stores it again when its content next
// appears, and never deduplicates against it.
func (v *verification) remember(ctx context.Context, s scope) error {
	if len(v.rep.Damaged) == 0 && len(v.rep.Affected) == 0 {
		return nil
	}
	x, err := v.r.index(ctx, s)
	if err != nil {
		return err
	}
	for b := range v.idx.bad {
		if !v.doubtful[b.id] {
			v.remembered(x, b.id, v.idx.pack(b.pack))
		}
	}
	for id, p := range v.absent {
		v.remembered(x, id, p)
	}
	for p := range v.sizes {
		if !v.idx.has(p) {
			x.doubt()
		}
	}
	return nil
}

func (v *verification) remembered(x *index, id pipe.ID, p packRef) {
	if num, ok := x.number(p); ok {
		x.markBad(id, num)
	}
	x.doubt()
}

// verification is one run of Verify.
type verification struct {
	r    *Repository
	opts VerifyOptions
	all  map[packRef]int64 // packs that are there, with the sizes of their files

	total, done atomic.Int64
	pace        pace
	state       runState
	proven      map[packRef]bool // packs that an earlier run, or round, found whole
	mend        func(ctx context.Context, v *verification, list []committed) error
	from        []*Repository // where a repair may take things from

	mu  sync.Mutex
	rep VerifyReport

	// Of the scope that is just being checked.
	idx        *index              // made from the packs' own tables, not from the cache
	absent     map[pipe.ID]packRef // content of packs that index objects know and that are not there
	digests    map[packRef]hash    // of what the packs' own tables say
	pages      map[seenPage]*pageState
	miscounted map[pipe.ID]bool       // pages of which a parent says other counts
	recipes    []recipeFrame          // assembled blocks, for when every pack's table is known
	needs      map[badPlace][]pipe.ID // what each of them needs
	needed     []bool                 // packs that hold something a point needs, by number in the index
	sizes      map[packRef]int64

	hurt   map[packRef]bool     // packs that are not whole
	rescue map[pipe.ID]location // content that points need, and that only a pack has which is not whole
	lack   map[pipe.ID]lacking  // content that points need and no pack has
	told   map[pipe.ID]uint64   // content that the log calls bad, with the number of the record
	caches map[string]bool      // index and anchor objects that are not whole

	unread    map[string]bool      // objects that the store failed at
	doubtful  map[pipe.ID]bool     // content of which it is not known whether it is there
	misplaced map[packRef][16]byte // names under which another pack stands, and its id
	blind     bool                 // there are packs of which nobody can say what they hold
}

func (v *verification) damage(d Damage) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.rep.Damaged = append(v.rep.Damaged, d)
	if p, ok := parsePack(d.Object); ok && v.hurt != nil {
		v.hurt[p] = true
	}
	if isCache(d.Object) {
		if v.caches == nil {
			v.caches = map[string]bool{}
		}
		v.caches[d.Object] = true
	}
}

func (v *verification) advance(n int64) {
	done := v.done.Add(n)
	if v.opts.Progress != nil {
		v.opts.Progress(done, v.total.Load())
	}
}

func (v *verification) note(s string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.rep.Notes = append(v.rep.Notes, s)
}

// reclaimable counts the packs that no point of the scope needs.
func (v *verification) reclaimable() {
	for p, size := range v.sizes {
		num, known := v.idx.packNum[p]
		if known && !v.needed[num] {
			v.rep.Reclaimable += size
		}
	}
}

func (v *verification) finish() {
	switch c := v.r.client; {
	case c.suspect != nil:
		v.rep.Notes = append(v.rep.Notes, c.suspect.Error())
	case !c.proven():
		v.rep.Notes = append(v.rep.Notes, "this machine has not seen the repository before: whether this is its newest state is unproven")
	}
	slices.SortFunc(v.rep.Damaged, func(a, b Damage) int {
		if c := strings.Compare(a.Object, b.Object); c != 0 {
			return c
		}
		return int(a.Offset - b.Offset)
	})
	v.rep.OK = len(v.rep.Damaged) == 0 && len(v.rep.Affected) == 0
}
