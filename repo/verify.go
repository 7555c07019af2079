package repo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/cell"
	"github.com/hikae/hikae/repo/internal/object"
	"github.com/hikae/hikae/repo/store"
)

// VerifyOptions say how deep to look. The structure is always checked: every place of every vital object, the table
// of every pack, every page of every point's trees, and that every block which they name is in a pack.
type VerifyOptions struct {
	// DataPercent of the blocks are read, opened, decoded and held against their ids: 0 … 100. At 100 every cell of
	// every pack is checked too, parity included.
	DataPercent float64
	// Seed of the sample. Zero: a random one, told in the report.
	Seed uint64
	// Repair puts back places of vital objects that are missing, and replaces damaged ones from one that verifies.
	Repair bool
	// Progress is told how many bytes of the store have been looked at, and how many there are to look at.
	Progress func(done, total int64)
}

// VerifyReport is what verify found.
type VerifyReport struct {
	OK          bool       `json:"ok"` // nothing is damaged at the end
	Checked     Checked    `json:"checked"`
	Damaged     []Damage   `json:"damaged"`
	Affected    []Affected `json:"affected"`
	Repaired    []string   `json:"repaired"`
	Reclaimable int64      `json:"reclaimable"` // bytes of packs that no committed point needs
	Notes       []string   `json:"notes"`
	Seed        uint64     `json:"seed,omitempty"` // of the sample, where there was one
}

// Checked counts what was looked at.
type Checked struct {
	Objects  int64 `json:"objects"`
	Blocks   int64 `json:"blocks"`   // whose content was proven
	Bytes    int64 `json:"bytes"`    // read from the store
	Original int64 `json:"original"` // plain bytes of the proven blocks
}

// Damage is one damaged place in the store.
type Damage struct {
	Object string `json:"object"`
	Offset int64  `json:"offset"`
	Length int64  `json:"length"` // 0 with offset 0: all of it
	Reason string `json:"reason"`
	// Mendable: what is damaged can be had from the object's parity or another copy, and nothing is lost.
	Mendable bool `json:"mendable"`
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

// Verify checks the repository. The error is for what stopped the check; what it found is in the report.
func (r *Repository) Verify(ctx context.Context, opts *VerifyOptions) (VerifyReport, error) {
	v := &verification{r: r, needs: map[pipe.ID][]pipe.ID{}, absent: map[pipe.ID]packRef{}, pages: map[pipe.ID]bool{}}
	if opts != nil {
		v.opts = *opts
	}
	if v.opts.DataPercent < 0 || v.opts.DataPercent > 100 || math.IsNaN(v.opts.DataPercent) {
		return VerifyReport{}, fmt.Errorf("%v percent of the data: %w", v.opts.DataPercent, fs.ErrInvalid)
	}
	if v.opts.Seed == 0 {
		v.opts.Seed = rand.Uint64() | 1
	}
	if v.opts.DataPercent > 0 && v.opts.DataPercent < 100 {
		v.rep.Seed = v.opts.Seed
	}
	if err := r.log.findHole(ctx); err != nil {
		return v.rep, err
	}
	list, err := r.committed(ctx)
	if err != nil {
		return v.rep, err
	}
	idx, err := newIndex(r.opts.CacheDir)
	if err != nil {
		return v.rep, err
	}
	defer idx.close()
	v.idx = idx
	for _, step := range []func(context.Context) error{
		func(ctx context.Context) error { return v.vitals(ctx, list) },
		v.packs,
		v.indexObjects,
		v.anchorObjects,
		v.assembled,
		func(ctx context.Context) error { return v.points(ctx, list) },
		func(ctx context.Context) error { return v.foreign(ctx, list) },
	} {
		if err := step(ctx); err != nil {
			return v.rep, err
		}
	}
	v.finish()
	return v.rep, v.remember(ctx)
}

// remember tells the repository's own index what is bad, so that this process stores it again when its content next
// appears, and never deduplicates against it.
func (v *verification) remember(ctx context.Context) error {
	if v.rep.OK {
		return nil
	}
	x, err := v.r.index(ctx)
	if err != nil {
		return err
	}
	for b := range v.idx.bad {
		v.remembered(x, b.id, v.idx.pack(b.pack))
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
	idx  *index // made from the packs' own tables, not from the cache

	total, done atomic.Int64

	mu      sync.Mutex
	rep     VerifyReport
	absent  map[pipe.ID]packRef   // content of packs that index objects know and that are not there
	pages   map[pipe.ID]bool      // subtrees that were seen and are sound
	recipes []recipeFrame         // assembled blocks, for when every pack's table is known
	needs   map[pipe.ID][]pipe.ID // what each of them needs
	needed  []bool                // packs that hold something a point needs, by number in the index
	sizes   map[packRef]int64
}

func (v *verification) damage(d Damage) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.rep.Damaged = append(v.rep.Damaged, d)
}

func (v *verification) advance(n int64) {
	done := v.done.Add(n)
	if v.opts.Progress != nil {
		v.opts.Progress(done, v.total.Load())
	}
}

// vitals checks every place of header, slots, log and manifests.
func (v *verification) vitals(ctx context.Context, list []committed) error {
	slots, err := v.r.slots(ctx)
	if err != nil {
		return err
	}
	if damage, ok := errors.AsType[*ErrCorrupt](v.r.log.damage()); ok {
		v.damage(Damage{Object: damage.Object, Reason: damage.Reason})
	}
	all := []mustBe{{headerName, kindHeader, func(o *object.Object, _ []byte) bool { return contentHash(o) == v.r.headerHash }}}
	for _, s := range slots {
		all = append(all, mustBe{s, kindSlot, func(o *object.Object, _ []byte) bool { return o == nil || slotName(o.Header.Object) == s }})
	}
	var hashes []hash
	v.r.log.view(func(l *ledger) { hashes = slices.Clone(l.hashes) })
	for i, h := range hashes {
		all = append(all, mustBe{logName(uint64(i) + 1), kindLog, func(o *object.Object, _ []byte) bool { return contentHash(o) == h }})
	}
	for _, c := range list {
		all = append(all, mustBe{manifestName(c.lease, c.point), kindManifest, func(_ *object.Object, stream []byte) bool { return hashBytes(stream) == c.manifest }})
	}
	for _, o := range all {
		if err := v.vital(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

// mustBe is a vital object, and what tells it from another one that stands under its name.
type mustBe struct {
	name string
	kind uint8
	is   func(o *object.Object, stream []byte) bool // o is nil for another person's slot
}

func contentHash(o *object.Object) hash {
	content, err := o.Content(0)
	if err != nil {
		return hash{}
	}
	return hashBytes(content)
}

// vital checks the three places of one object. The measure is what the log and the slots say that it must be, so that
// nothing that was put in its place, whole as it may be, is ever written over the right ones.
func (v *verification) vital(ctx context.Context, want mustBe) error {
	name, kind := want.name, want.kind
	var good []byte
	var wrong []Damage
	for _, place := range copiesOf(name) {
		file, err := store.ReadAll(ctx, v.r.st, place, maxVital)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		v.rep.Checked.Objects++
		v.rep.Checked.Bytes += int64(len(file))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			wrong = append(wrong, Damage{Object: place, Reason: "missing"})
			continue
		case err != nil:
			wrong = append(wrong, Damage{Object: place, Reason: err.Error()})
			continue
		}
		fixed, damaged, err := cell.Repair(file)
		if err == nil {
			var o *object.Object
			o, _, err = object.OpenFile(slices.Clone(fixed), cell.Ident{Kind: kind, Repo: v.r.header.ID}, v.r.keys.unwraps)
			if kind == kindSlot && (errors.Is(err, object.ErrNoKey)) {
				o, err = nil, v.slotHeader(name, fixed) // another person's
			}
			if err == nil && !want.is(o, streamOf(fixed)) {
				err = errors.New("it is another object")
			}
		}
		if err == nil && good != nil && string(good) != string(fixed) {
			err = errors.New("it differs from the other places")
		}
		if err != nil {
			wrong = append(wrong, Damage{Object: place, Reason: err.Error()})
			continue
		}
		if good == nil {
			good = fixed
		}
		for _, c := range damaged {
			wrong = append(wrong, Damage{Object: place, Offset: int64(c) * cell.Size, Length: cell.Size, Reason: "cell"})
		}
	}
	for i := range wrong {
		wrong[i].Mendable = good != nil
		if v.opts.Repair && good != nil && v.repairPlace(ctx, wrong[i].Object, name, good) {
			v.rep.Repaired = append(v.rep.Repaired, wrong[i].Object)
			continue
		}
		v.rep.Damaged = append(v.rep.Damaged, wrong[i])
	}
	return nil
}

// slotHeader checks what can be seen of a slot without opening it: that its id is the one in its name.
func (v *verification) slotHeader(name string, file []byte) error {
	h, err := object.ParseHeader(streamOf(file))
	if err == nil && slotName(h.Object) != name {
		err = errors.New("it is another slot")
	}
	return err
}

// streamOf is the stream of a file whose cells are whole.
func streamOf(file []byte) []byte {
	stream, _, _, err := cell.Decode(file)
	if err != nil {
		return nil
	}
	return stream
}

// repairPlace writes one place of a vital object again. The first place of a log record is only ever filled when it is
// missing, never removed: between the two steps of a replacement another writer could take its number.
func (v *verification) repairPlace(ctx context.Context, place, name string, good []byte) bool {
	if v.r.writable() != nil {
		return false
	}
	err := v.r.st.Create(ctx, place, good)
	if errors.Is(err, fs.ErrExist) && (place != name || !strings.HasPrefix(name, "log/")) {
		if err = v.r.st.Remove(ctx, place); err == nil || errors.Is(err, fs.ErrNotExist) {
			err = v.r.st.Create(ctx, place, good)
		}
	}
	if err != nil {
		v.note(fmt.Sprintf("%s could not be put back: %v", place, err))
	}
	return err == nil
}

func (v *verification) note(s string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.rep.Notes = append(v.rep.Notes, s)
}

// packs reads every pack's table, and of the data as much as was asked for.
func (v *verification) packs(ctx context.Context) error {
	sizes, err := v.r.packs(ctx)
	if err != nil {
		return err
	}
	v.sizes = sizes
	for _, size := range sizes {
		v.total.Add(size)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for p, size := range sizes {
		g.Go(func() error {
			defer v.advance(size)
			if v.opts.DataPercent == 100 {
				return v.wholePack(ctx, p, size)
			}
			return v.packTable(ctx, p, size)
		})
	}
	return g.Wait()
}

// packTable checks header and table, and reads the frames that the sample hits.
func (v *verification) packTable(ctx context.Context, p packRef, size int64) error {
	want := cell.Ident{Kind: p.Kind, Repo: v.r.header.ID, Object: p.ID}
	var bytes int64
	read := func(off, n int) ([]byte, error) {
		b := make([]byte, n)
		got, err := v.r.st.ReadAt(ctx, p.name(), b, int64(off))
		bytes += int64(got)
		if got > 0 {
			err = nil
		}
		return b[:got], err
	}
	t, err := object.ReadTable(read, size, want, v.r.keys.unwraps)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil { // look at all of it: what is damaged, and whether it can be mended
		return v.wholePack(ctx, p, size)
	}
	v.count(1, 0, bytes, 0)
	if err := v.r.addTable(v.idx, p, t.Entries); err != nil {
		v.damage(Damage{Object: p.name(), Reason: err.Error()})
		return nil
	}
	v.later(p, t.Entries)
	for _, e := range t.Entries {
		if e.Type != object.TypeBlock || e.Codec == object.CodecAssembled || !v.sampled(e.ID) {
			continue
		}
		dst := make([]byte, e.Plain)
		loc := location{ordinal: e.Ordinal, offset: e.Offset, stored: e.Stored, plain: e.Plain, typ: e.Type, codec: pipe.Codec(e.Codec)}
		if err := v.r.fetchFrame(ctx, v.idx, p, e.ID, loc, dst); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return v.wholePack(ctx, p, size)
		}
		v.count(0, 1, int64(e.Stored), int64(e.Plain))
	}
	return nil
}

func (v *verification) count(objects, blocks, bytes, original int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	c := &v.rep.Checked
	c.Objects += objects
	c.Blocks += blocks
	c.Bytes += bytes
	c.Original += original
}

// sampled decides by the block's id and the seed, so that the same seed reads the same blocks.
func (v *verification) sampled(id [32]byte) bool {
	if v.opts.DataPercent <= 0 {
		return false
	}
	x := binary.LittleEndian.Uint64(id[16:]) ^ v.opts.Seed
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	return float64(x>>11)/(1<<53)*100 < v.opts.DataPercent
}

// wholePack reads all of a pack: every cell's tags, every frame.
func (v *verification) wholePack(ctx context.Context, p packRef, size int64) error {
	file, err := store.ReadAll(ctx, v.r.st, p.name(), maxPackFile)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		v.damage(Damage{Object: p.name(), Reason: err.Error()})
		return nil
	}
	stream, _, damaged, err := cell.Decode(file)
	mendable := err == nil
	v.cells(p, damaged, size, mendable)
	if err != nil && len(damaged) == 0 {
		v.damage(Damage{Object: p.name(), Reason: err.Error()})
	}
	if !mendable {
		// What the table says may still stand, and some frames too: points need only those that are lost.
		return v.brokenPack(ctx, p, size)
	}
	o, err := object.Open(stream, cell.Ident{Kind: p.Kind, Repo: v.r.header.ID, Object: p.ID}, v.r.keys.unwraps)
	if err != nil {
		v.damage(Damage{Object: p.name(), Reason: err.Error()})
		return nil
	}
	if err := v.r.addTable(v.idx, p, o.Entries()); err != nil {
		v.damage(Damage{Object: p.name(), Reason: err.Error()})
		return nil
	}
	v.count(1, 0, size, 0)
	return v.frames(ctx, p, o, stream)
}

func (v *verification) cells(p packRef, damaged []int, size int64, mendable bool) {
	for i := 0; i < len(damaged); {
		j := i + 1
		for j < len(damaged) && damaged[j] == damaged[j-1]+1 {
			j++
		}
		v.damage(Damage{
			Object: p.name(), Offset: int64(damaged[i]) * cell.Size, Length: int64(j-i) * cell.Size,
			Reason: "cells are damaged or missing", Mendable: mendable,
		})
		i = j
	}
}

func (v *verification) frames(ctx context.Context, p packRef, o *object.Object, stream []byte) error {
	buf := v.r.buffer()
	defer v.r.buffers.Put(buf)
	v.later(p, o.Entries())
	for _, e := range o.Entries() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if e.Codec == object.CodecAssembled {
			continue
		}
		if e.Type != object.TypeBlock && e.Type != object.TypePage && e.Type != object.TypeChunk {
			continue
		}
		buf.plain = grow(buf.plain, int(e.Plain))
		loc := location{ordinal: e.Ordinal, offset: e.Offset, stored: e.Stored, plain: e.Plain, typ: e.Type, codec: pipe.Codec(e.Codec)}
		err := v.r.openInto(ctx, v.idx, buf.plain, o.Cipher(), stream[e.Offset:e.Offset+e.Stored], e.ID, loc, buf)
		if err != nil {
			off, n := cell.StreamSpan(int(e.Offset), int(e.Stored))
			v.damage(Damage{Object: p.name(), Offset: int64(off), Length: int64(n), Reason: err.Error()})
			if num, ok := v.idx.number(p); ok {
				v.idx.markBad(e.ID, num)
			}
			continue
		}
		if e.Type == object.TypeBlock {
			v.count(0, 1, 0, int64(e.Plain))
		}
	}
	return nil
}

// brokenPack salvages what it can of a pack that has lost more cells than its parity mends: with its table, from the
// pack itself or later from an index object, each frame that still opens.
func (v *verification) brokenPack(ctx context.Context, p packRef, size int64) error {
	entries, err := v.r.readTable(ctx, p, size)
	if err != nil {
		return ctx.Err()
	}
	return v.salvage(ctx, p, entries)
}

func (v *verification) salvage(ctx context.Context, p packRef, entries []object.Entry) error {
	if err := v.r.addTable(v.idx, p, entries); err != nil {
		v.damage(Damage{Object: p.name(), Reason: err.Error()})
		return nil
	}
	v.later(p, entries)
	for _, e := range entries {
		if e.Codec == object.CodecAssembled {
			continue
		}
		dst := make([]byte, e.Plain)
		loc := location{ordinal: e.Ordinal, offset: e.Offset, stored: e.Stored, plain: e.Plain, typ: e.Type, codec: pipe.Codec(e.Codec)}
		if err := v.r.fetchFrame(ctx, v.idx, p, e.ID, loc, dst); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if num, ok := v.idx.number(p); ok {
				v.idx.markBad(e.ID, num)
			}
		}
	}
	return nil
}

// indexObjects checks the cache, and learns from it what packs held that are no longer there.
func (v *verification) indexObjects(ctx context.Context) error {
	for info, err := range v.r.st.List(ctx, "index/") {
		if err != nil {
			return err
		}
		ref, ok := parseRef(strings.TrimPrefix(info.Name, "index/"), "/")
		if !ok {
			continue
		}
		file, err := store.ReadAll(ctx, v.r.st, info.Name, maxPackFile)
		if err == nil {
			err = v.indexObject(ctx, file, ref)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		v.count(1, 0, info.Size, 0)
		if err != nil {
			v.damage(Damage{Object: info.Name, Reason: err.Error(), Mendable: true}) // the packs say the same
		}
	}
	return nil
}

func (v *verification) indexObject(ctx context.Context, file []byte, ref objectRef) error {
	o, damaged, err := object.OpenFile(file, cell.Ident{Kind: kindIndex, Repo: v.r.header.ID, Object: ref.ID}, v.r.keys.unwraps)
	if err != nil {
		return err
	}
	for i := range o.Entries() {
		doc, err := o.Content(i)
		if err != nil {
			return err
		}
		t, err := decodePackTable(doc)
		if err != nil {
			return err
		}
		if num, ok := v.idx.number(t.ref); ok {
			if err := v.agrees(t, num); err != nil {
				return err
			}
			continue
		}
		if _, there := v.sizes[t.ref]; there { // its own table is lost
			if err := v.salvage(ctx, t.ref, t.entries); err != nil {
				return err
			}
			continue
		}
		for _, e := range t.entries {
			v.absent[e.ID] = t.ref
		}
	}
	if len(damaged) > 0 {
		return fmt.Errorf("%d cells are damaged", len(damaged))
	}
	return nil
}

// agrees holds a table in an index object against the pack's own.
func (v *verification) agrees(t packTable, num uint32) error {
	for _, e := range t.entries {
		if e.Type == object.TypeVoid {
			continue
		}
		ok, err := v.idx.holds(e.ID, location{num, e.Ordinal, e.Offset, e.Stored, e.Plain, e.Type, pipe.Codec(e.Codec)})
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("it does not say what %s says", t.ref.name())
		}
	}
	return nil
}

// foreign tells what belongs to nothing. It is ignored otherwise.
func (v *verification) foreign(ctx context.Context, list []committed) error {
	committed := map[string]bool{}
	for _, c := range list {
		committed[manifestName(c.lease, c.point)] = true
	}
	ids := map[[16]byte]packRef{}
	for p := range v.sizes {
		if twin, ok := ids[p.ID]; ok {
			v.note(fmt.Sprintf("%s and %s are the same pack", min(p.name(), twin.name()), max(p.name(), twin.name())))
		}
		ids[p.ID] = p
	}
	told := 0
	for info, err := range v.r.st.List(ctx, "") {
		if err != nil {
			return err
		}
		if ours(info.Name, committed) {
			continue
		}
		if told++; told > maxForeign {
			v.note("more objects that belong to nothing than are listed")
			return nil
		}
		v.note(info.Name + " belongs to no point")
	}
	return nil
}

// maxForeign bounds how many foreign objects are named.
const maxForeign = 100

// ours reports whether a name is one that this format gives.
func ours(name string, committed map[string]bool) bool {
	name = strings.TrimPrefix(strings.TrimPrefix(name, "copy1/"), "copy2/")
	if name == headerName || committed[name] {
		return true
	}
	dir, rest, _ := strings.Cut(name, "/")
	switch dir {
	case "slot":
		var id id16
		return decodeHex(id[:], []byte(rest)) == nil
	case "log", "checkpoint":
		_, ok := parseNumber(rest)
		return ok
	case "index", "anchor":
		_, ok := parseRef(rest, "/")
		return ok
	case "beat":
		lease, k, _ := strings.Cut(rest, "/")
		_, ok := parseNumber(lease)
		_, also := parseNumber(k)
		return ok && also
	}
	_, ok := parsePack(name)
	return ok
}

// anchorObjects checks the writers' cache of anchors.
func (v *verification) anchorObjects(ctx context.Context) error {
	for info, err := range v.r.st.List(ctx, "anchor/") {
		if err != nil {
			return err
		}
		ref, ok := parseRef(strings.TrimPrefix(info.Name, "anchor/"), "/")
		if !ok {
			continue
		}
		v.count(1, 0, info.Size, 0)
		err := v.anchorObject(ctx, info.Name, ref)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil { // losing it loses nothing that is stored
			v.damage(Damage{Object: info.Name, Reason: err.Error(), Mendable: true})
		}
	}
	return nil
}

func (v *verification) anchorObject(ctx context.Context, name string, ref objectRef) error {
	file, err := store.ReadAll(ctx, v.r.st, name, maxPackFile)
	if err != nil {
		return err
	}
	o, damaged, err := object.OpenFile(file, cell.Ident{Kind: object.KindAnchor, Repo: v.r.header.ID, Object: ref.ID}, v.r.keys.unwraps)
	if err == nil && len(damaged) > 0 {
		err = fmt.Errorf("%d cells are damaged", len(damaged))
	}
	for i := 0; err == nil && i < len(o.Entries()); i++ {
		var doc []byte
		if doc, err = o.Content(i); err == nil {
			_, err = decodeAnchors(doc)
		}
	}
	return err
}

// recipeFrame is an assembled block in its pack.
type recipeFrame struct {
	pack packRef
	e    object.Entry
}

func (v *verification) later(p packRef, entries []object.Entry) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, e := range entries {
		if e.Type == object.TypeBlock && e.Codec == object.CodecAssembled {
			v.recipes = append(v.recipes, recipeFrame{p, e})
		}
	}
}

// assembled checks the recipes: they are read at every depth, because what they need must be there; what they give is
// proven where the data is asked for.
func (v *verification) assembled(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, f := range v.recipes {
		g.Go(func() error {
			err := v.recipe(ctx, f)
			if err == nil || ctx.Err() != nil {
				return ctx.Err()
			}
			if num, ok := v.idx.number(f.pack); ok {
				v.idx.markBad(f.e.ID, num)
			}
			return nil
		})
	}
	return g.Wait()
}

func (v *verification) recipe(ctx context.Context, f recipeFrame) error {
	loc := location{ordinal: f.e.Ordinal, offset: f.e.Offset, stored: f.e.Stored, plain: f.e.Plain, typ: f.e.Type, codec: codecAssembled}
	rec, err := v.r.fetchRecipe(ctx, f.pack, f.e.ID, loc)
	if err != nil {
		off, n := cell.StreamSpan(int(loc.offset), int(loc.stored))
		v.damage(Damage{Object: f.pack.name(), Offset: int64(off), Length: int64(n), Reason: err.Error()})
		return err
	}
	ids := rec.sources()
	v.mu.Lock()
	v.needs[f.e.ID] = ids
	v.mu.Unlock()
	for _, id := range ids {
		loc, ok, err := v.idx.reusable(id)
		if err != nil || !ok || loc.codec == codecAssembled {
			return fmt.Errorf("block %s is missing or damaged", id)
		}
	}
	if v.opts.DataPercent < 100 && !v.sampled(f.e.ID) {
		return nil
	}
	dst := make([]byte, f.e.Plain)
	if err := v.r.fetchFrame(ctx, v.idx, f.pack, f.e.ID, loc, dst); err != nil {
		if err = v.r.fetchMended(ctx, v.idx, f.pack, f.e.ID, loc, dst); err != nil {
			off, n := cell.StreamSpan(int(loc.offset), int(loc.stored))
			v.damage(Damage{Object: f.pack.name(), Offset: int64(off), Length: int64(n), Reason: err.Error()})
			return err
		}
	}
	v.count(0, 1, int64(f.e.Stored), int64(f.e.Plain))
	return nil
}

// points walks every point's trees.
func (v *verification) points(ctx context.Context, list []committed) error {
	v.needed = make([]bool, len(v.idx.packs))
	missing := map[packRef]bool{}
	for _, c := range list {
		m, err := v.r.readManifest(ctx, c)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			v.affect(Affected{Point: c.point.String()})
			continue // the damage itself was found among the vitals
		}
		for i := range m.Disks {
			d := &m.Disks[i]
			w := &treeCheck{v: v, m: m, disk: d, shape: v.r.shapeOf(d), missing: missing}
			if _, err := w.check(ctx, entry(d.Root), w.shape.height, 0); err != nil {
				return err
			}
		}
		for _, b := range m.Blobs {
			for _, id := range b.Chunks {
				if !v.have(pipe.ID(id), object.TypeChunk, missing) {
					v.affect(Affected{Point: m.Point.String(), VM: m.VM, Disk: "blob " + b.Name, Length: b.Size})
				}
			}
		}
	}
	for p := range missing {
		v.damage(Damage{Object: p.name(), Reason: "missing"})
	}
	return nil
}

// have reports whether content is in a pack, and not known to be bad.
func (v *verification) have(id pipe.ID, typ uint8, missing map[packRef]bool) bool {
	loc, ok, err := v.idx.lookup(id)
	_, good, _ := v.idx.reusable(id)
	if err != nil || !ok || loc.typ != typ {
		if p, ok := v.absent[id]; ok {
			missing[p] = true
		}
		return false
	}
	v.needed[loc.pack] = true
	if loc.codec == codecAssembled {
		for _, need := range v.needs[id] {
			if !v.have(need, object.TypeBlock, missing) {
				good = false
			}
		}
	}
	return good
}

func (v *verification) affect(a Affected) {
	if n := len(v.rep.Affected); n > 0 {
		last := &v.rep.Affected[n-1]
		if last.Point == a.Point && last.Disk == a.Disk && last.Offset+last.Length == a.Offset && a.Length > 0 {
			last.Length += a.Length
			return
		}
	}
	if len(v.rep.Affected) == maxAffected {
		v.note("more ranges are affected than are listed")
	}
	if len(v.rep.Affected) < maxAffected {
		v.rep.Affected = append(v.rep.Affected, a)
	}
}

// treeCheck walks one disk's tree. A subtree that was found sound once is not walked again: points share most pages.
type treeCheck struct {
	v       *verification
	m       *manifest
	disk    *manifestDisk
	shape   shape
	missing map[packRef]bool
}

// check: e stands for the page of this level that starts at block first; level −1 is a block.
func (w *treeCheck) check(ctx context.Context, e entry, level int, first int64) (sound bool, err error) {
	if e.kind != pipe.Data {
		return true, nil
	}
	if level < 0 {
		loc, ok, err := w.v.idx.lookup(e.id)
		if err != nil {
			return false, err
		}
		n := min(w.shape.blockSize, w.shape.size-first*w.shape.blockSize)
		if w.v.have(e.id, object.TypeBlock, w.missing) && ok && int64(loc.plain) == n {
			return true, nil
		}
		w.affect(first, 1)
		return false, nil
	}
	if w.v.pages[e.id] {
		return true, nil
	}
	p, err := w.page(ctx, e, level, first)
	if err != nil {
		return false, err
	}
	if p == nil {
		w.affect(first, w.shape.covered(level+1, first))
		return false, nil
	}
	sound = true
	var total sums
	for i := range p.entries {
		at := first + int64(i)*w.shape.span(level)
		ok, err := w.check(ctx, p.entries[i], level-1, at)
		if err != nil {
			return false, err
		}
		sound = sound && ok
		total.add(sumsOf(p.entries[i], level, w.shape.covered(level, at)))
	}
	if total != e.sums {
		w.v.damage(Damage{Object: "page " + e.id.String(), Reason: "its parent counts its blocks wrongly"})
	}
	if sound {
		w.v.pages[e.id] = true
	}
	return sound, nil
}

func (w *treeCheck) page(ctx context.Context, e entry, level int, first int64) (*page, error) {
	if !w.v.have(e.id, object.TypePage, w.missing) {
		return nil, nil
	}
	b, err := w.v.r.content(ctx, w.v.idx, object.TypePage, e.id)
	if err == nil {
		var p *page
		if p, err = decodePage(b, level, w.shape.entries(level, first)); err == nil {
			return p, nil
		}
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	w.v.damage(Damage{Object: "page " + e.id.String(), Reason: err.Error()})
	return nil, nil
}

func (w *treeCheck) affect(block, n int64) {
	off := block * w.shape.blockSize
	w.v.affect(Affected{
		Point: w.m.Point.String(), VM: w.m.VM, Disk: w.disk.Key,
		Offset: off, Length: min(n*w.shape.blockSize, w.shape.size-off),
	})
}

func (v *verification) finish() {
	for p, size := range v.sizes {
		num, known := v.idx.packNum[p]
		if known && !v.needed[num] {
			v.rep.Reclaimable += size
		}
	}
	if !v.r.client.proven() {
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
