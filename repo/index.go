package repo

import (
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hikae/hikae/pipe"
)

// location says where the content of one id is.
type location struct {
	pack    uint32 // number of the pack in the index
	ordinal uint32 // of the frame in its object
	offset  uint32 // of the frame in the stream
	stored  uint32 // length of the frame
	plain   uint32 // length of the content
	typ     uint8
	codec   pipe.Codec
}

// whole: not assembled from other blocks.
func (l location) whole() bool { return l.codec != codecAssembled }

// index finds a location by id. It is a cache: it is made from the tables of packs, and nothing is lost with it.
//
// In memory it holds a table of tags and record numbers, some 10 bytes a record: see slotTable. The
// records, with the full ids, are in files: those of the lasting cache, if there is one, and the others in a scratch file.
// A hit is a hit only after all 32 bytes were compared there; that costs one small read from the page cache, against the
// hashing of a whole block that went before.
type index struct {
	scope   scope        // whose content it is
	ids     *contentKeys // of that scope
	trusted bool         // what speaks for its packs was written by who holds the keys to all of it
	blocks  blockCache

	mu sync.RWMutex
	*indexHold
	packs   []packRef
	packNum map[packRef]uint32
	bad     map[badPlace]bool // found damaged, by this process or as the log says: never deduplicated against
	ruined  map[uint32]bool   // packs that hold more of it than is remembered
	doubts  bool              // something that was here is damaged or gone
	sound   map[badPlace]bool // recipes of which everything was there, since the last damage was found

	more     map[pipe.ID][]uint32 // records of places beyond maxPlaces
	told     map[uint32]toldTable // packs that an index object spoke for, and whose own tables were not asked yet
	disowned map[uint32]bool      // numbers under which packs count for nothing: their own tables say otherwise
	liars    map[uint32]bool      // packs that hold something else than what their sealed tables say
	asking   sync.Mutex           // held while packs are asked for their own tables
	settled  atomic.Uint32        // packs below this number have durable names

	dead       map[packRef]bool // named in a tombstone: read from, never referred to anew
	epoch      uint64           // of the ledger's state that it was told of
	deathsRead int              // of the ledger's deaths
	badRead    int              // of the ledger's bad content
	badPacks   int              // packs that were known then
	gone       int              // of its packs, those that are dead
	goneFirst  int              // of these, those that were so when it was loaded

	fromCache bool // some of it
	left      runtime.Cleanup
}

// indexHold is what an index holds that no collector frees. One that the repository has given up, and whose last user just let go
// of it, ends by itself.
type indexHold struct {
	table   *slotTable
	records *records
}

func (h *indexHold) release() error {
	h.table.free()
	return h.records.close()
}

// badPlace is content that a pack should hold and does not.
type badPlace struct {
	id   pipe.ID
	pack uint32
}

// maxBad bounds what is remembered of damage by its place. Of packs in which more is found, all counts as bad.
const maxBad = 1 << 16

func newIndex(dir string) (*index, error) {
	f, err := scratchFile(dir)
	if err != nil {
		return nil, err
	}
	h := &indexHold{&slotTable{}, newRecords(f)}
	x := &index{indexHold: h, packNum: map[packRef]uint32{}, bad: map[badPlace]bool{}}
	x.left = runtime.AddCleanup(x, func(h *indexHold) { _ = h.release() }, h)
	return x, nil
}

func (x *index) close() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.left.Stop()
	x.records.closed = true
	return x.release()
}

func (x *index) len() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return int(x.records.n)
}

// outlivedPacks is from how many packs on an index is made anew when most of what it holds has gone.
const outlivedPacks = 64

// outlived reports whether most of the packs that it speaks for have gone since it was loaded: their records take memory for nothing.
// One that knows of damage, which another one would have to find again, stays.
func (x *index) outlived() bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	sound := len(x.bad)+len(x.ruined)+len(x.liars)+len(x.disowned) == 0
	return sound && len(x.packs) >= outlivedPacks && 2*(x.gone-x.goneFirst) > len(x.packs)
}

// addPack gives a pack a number; known says whether it had one.
func (x *index) addPack(p packRef) (num uint32, known bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if n, ok := x.packNum[p]; ok {
		return n, true
	}
	n := uint32(len(x.packs))
	x.packs = append(x.packs, p)
	x.packNum[p] = n
	return n, false
}

// number is what addPack gave a pack.
func (x *index) number(p packRef) (num uint32, ok bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	num, ok = x.packNum[p]
	return num, ok
}

func (x *index) pack(num uint32) packRef {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.packs[num]
}

// maxPlaces is how many good places of one content stand in the table: the first is used, the others are for when it
// fails. What comes later is kept aside and asked last, so that whoever can write packs cannot push a good place out.
const maxPlaces = 3

// add enters a record. Content that is in several packs has several; the first that is not known to be bad counts.
func (x *index) add(id pipe.ID, loc location) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	good, all, same := 0, 0, false
	part := x.table.part(id)
	if x.records.closed {
		return fs.ErrClosed
	}
	if err := part.room(); err != nil {
		return err
	}
	slot, err := x.places(id, func(old location) bool {
		all++
		if !x.bad[badPlace{id, old.pack}] && !x.ruined[old.pack] {
			same = same || old.pack == loc.pack
			if old.whole() == loc.whole() { // recipes never keep out the whole block that other recipes need
				good++
			}
		}
		return true
	})
	if err != nil {
		return err
	}
	if same {
		return nil
	}
	n, err := x.records.append(id, loc, all > 0, good >= maxPlaces)
	if err != nil {
		return err
	}
	if good >= maxPlaces {
		if x.more == nil {
			x.more = map[pipe.ID][]uint32{}
		}
		x.more[id] = append(x.more[id], n)
		return nil
	}
	part.take(slot, tagOf(id), n)
	return nil
}

// lookup finds the location of an id. One that is known to be bad is still found where there is no other, for salvage
// asks too.
func (x *index) lookup(id pipe.ID) (location, bool, error) {
	loc, found, _, err := x.best(id, false)
	return loc, found, err
}

// whole finds the location of a block that is not assembled, and says whether it is good.
func (x *index) whole(id pipe.ID) (loc location, found, good bool, err error) {
	return x.best(id, true)
}

// reusable finds a location of an id that a new point may refer to.
func (x *index) reusable(id pipe.ID) (location, bool, error) {
	loc, _, good, err := x.best(id, false)
	return loc, good, err
}

func (x *index) best(id pipe.ID, whole bool) (loc location, found, good bool, err error) {
	return x.find(id, func(l location) bool { return !whole || l.whole() })
}

// find finds the best of the locations that fit: one that is good, or else one of a pack that is known to lie about other
// content, or else one that is known to be bad; what a tombstone names comes right after the good ones. Only the first counts
// as good.
func (x *index) find(id pipe.ID, fits func(location) bool) (loc location, found, good bool, err error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	best := 0
	err = x.all(id, func(l location) bool {
		if !fits(l) {
			return true
		}
		if rank := x.rank(id, l); rank > best {
			loc, best = l, rank
		}
		return best < rankGood
	})
	return loc, best > 0, best == rankGood, err
}

const (
	rankBad = 1 + iota
	rankLiar
	rankDead
	rankGood
)

func (x *index) rank(id pipe.ID, l location) int {
	switch {
	case x.bad[badPlace{id, l.pack}] || x.ruined[l.pack]:
		return rankBad
	case x.liars[l.pack]:
		return rankLiar
	case len(x.dead) > 0 && x.dead[x.packs[l.pack]]:
		return rankDead
	}
	return rankGood
}

// all calls f for every location of id, those that were kept aside last, until f returns false.
func (x *index) all(id pipe.ID, f func(location) bool) error {
	goOn := true
	_, err := x.places(id, func(l location) bool {
		goOn = f(l)
		return goOn
	})
	for _, n := range x.more[id] {
		if err != nil || !goOn {
			break
		}
		var loc location
		if _, loc, err = x.records.at(n); err == nil && !x.disowned[loc.pack] {
			goOn = f(loc)
		}
	}
	return err
}

// others are the locations of id that fit, besides those that were tried, the better ones first.
func (x *index) others(id pipe.ID, tried map[location]bool, fits func(location) bool) ([]location, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var list []location
	err := x.all(id, func(l location) bool {
		if fits(l) && !tried[l] {
			list = append(list, l)
		}
		return true
	})
	slices.SortStableFunc(list, func(a, b location) int { return x.rank(id, b) - x.rank(id, a) })
	return list, err
}

// recordOf is the number of an id's record; it never changes while the index is open, and neither does the record.
func (x *index) recordOf(id pipe.ID) (uint32, bool, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	found := false
	slot, err := x.places(id, func(location) bool {
		found = true
		return false
	})
	if err != nil || !found {
		return 0, false, err
	}
	return x.table.part(id).record(slot), true, nil
}

// record reads one by its number.
func (x *index) record(n uint32) (pipe.ID, location, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if n >= x.records.n {
		return pipe.ID{}, location{}, fmt.Errorf("the index has no record %d", n)
	}
	return x.records.at(n)
}

// markBad takes note that a pack does not hold content that it should.
func (x *index) markBad(id pipe.ID, pack uint32) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.doubts = true
	if len(x.bad) < maxBad {
		x.bad[badPlace{id, pack}] = true
	} else {
		if x.ruined == nil {
			x.ruined = map[uint32]bool{}
		}
		x.ruined[pack] = true
	}
	clear(x.sound)
}

// isSound reports whether vouch was called for a recipe, and nothing was found damaged since.
func (x *index) isSound(id pipe.ID, pack uint32) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.sound[badPlace{id, pack}]
}

func (x *index) vouch(id pipe.ID, pack uint32) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.sound == nil || len(x.sound) >= maxBad {
		x.sound = map[badPlace]bool{}
	}
	x.sound[badPlace{id, pack}] = true
}

// doubt takes note that something is missing, without knowing what was in it.
func (x *index) doubt() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.doubts = true
}

// doubtful reports whether anything that was here is damaged or gone.
func (x *index) doubtful() bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.doubts
}

// places calls f for each location of id, in the order in which they were added, until f returns false. It returns the slot of
// that one in the id's part of the table; the empty slot where the next one belongs, if f never did.
func (x *index) places(id pipe.ID, f func(location) bool) (slot int, err error) {
	if x.records.closed {
		return 0, fs.ErrClosed
	}
	p, tag := x.table.part(id), tagOf(id)
	if len(p.slots) == 0 {
		return 0, nil
	}
	for slot = p.home(tag); p.slots[slot] != 0; slot = p.next(slot) {
		if uint32(p.slots[slot]>>32) != tag {
			continue
		}
		got, loc, err := x.records.at(p.record(slot))
		if err != nil {
			return 0, err
		}
		if got == id && !x.disowned[loc.pack] && !f(loc) {
			return slot, nil
		}
	}
	return slot, nil
}

// reserve makes room for n more records at once.
func (x *index) reserve(n int) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.records.closed {
		return fs.ErrClosed
	}
	return x.table.reserve(n)
}

// each calls f for the first record of every id, in the order of entry.
func (x *index) each(f func(id pipe.ID, loc location)) error {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.records.eachFull(func(id pipe.ID, loc location, again, _ bool) {
		if !again && !x.disowned[loc.pack] {
			f(id, loc)
		}
	})
}

// cached reports whether some of it came from the lasting cache.
func (x *index) cached() bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.fromCache
}
