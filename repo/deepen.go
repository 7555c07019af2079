package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sync/errgroup"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/object"
	"github.com/hikae/hikae/repo/store"
)

// An index object saves asking every pack for its table, and it is never the last word. Who may write one may say
// anything in it: a client that was taken over of its own packs, and whoever keeps the store of those of every
// write-only client, whose index objects are sealed for a public key. So it speaks for packs of its own lease only, what
// it said is remembered, and before content counts as lost the packs themselves are asked.

// toldTable is what an index object said of a pack.
type toldTable struct {
	digest hash // of its entry in the index object
	stream int  // the length of stream that it stands there with
}

// digestOf is what a pack's own table gives where an index object that told the truth gave want.
func digestOf(p packRef, stream int, entries []object.Entry) hash {
	return hashBytes(encodePackTable(packTable{ref: p, stream: stream, entries: entries}))
}

// tell takes note that what the index has of a pack is hearsay.
func (x *index) tell(num uint32, t toldTable) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.told == nil {
		x.told = map[uint32]toldTable{}
	}
	x.told[num] = t
}

func (x *index) untell(num uint32) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.told, num)
}

func (x *index) allTold() map[uint32]packRef {
	x.mu.RLock()
	defer x.mu.RUnlock()
	list := make(map[uint32]packRef, len(x.told))
	for num := range x.told {
		list[num] = x.packs[num]
	}
	return list
}

// asked takes note of what a pack's own table says. Where that is something else than what was told, nothing counts of
// what the index has of the pack, and the pack may be added anew.
func (x *index) asked(num uint32, entries []object.Entry) (wrong bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	p, t := x.packs[num], x.told[num]
	delete(x.told, num)
	if digestOf(p, t.stream, entries) == t.digest {
		return false
	}
	if x.disowned == nil {
		x.disowned = map[uint32]bool{}
	}
	x.disowned[num] = true
	delete(x.packNum, p)
	clear(x.sound)
	return true
}

// lies takes note that a pack holds something else than what its own sealed table says: no accident does that.
func (x *index) lies(num uint32) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.doubts = true
	if x.liars == nil {
		x.liars = map[uint32]bool{}
	}
	x.liars[num] = true
	clear(x.sound)
}

func (x *index) isLiar(num uint32) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.liars[num]
}

// deepen asks the packs that index objects spoke for, each once, in the life of this index. That can take long where
// there are many; it happens where content would be lost otherwise, and nowhere else.
func (r *Repository) deepen(ctx context.Context, x *index) error {
	if r.writer != nil {
		return nil // what its cache does not have it does not know
	}
	x.asking.Lock()
	defer x.asking.Unlock()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for num, p := range x.allTold() {
		g.Go(func() error { return r.ask(ctx, x, num, p) })
	}
	return g.Wait()
}

func (r *Repository) ask(ctx context.Context, x *index, num uint32, p packRef) error {
	entries, err := r.readTableNow(ctx, p)
	if ctx.Err() != nil || isFailure(err) {
		return errors.Join(err, ctx.Err())
	}
	if err == nil {
		err = r.checkTable(p, entries)
	}
	if err != nil {
		x.doubt()
		x.untell(num) // what the index object said is all that there is
		r.warn(fmt.Sprintf("%s cannot be asked: %v", p.name(), err))
		return nil
	}
	if !x.asked(num, entries) {
		return nil
	}
	x.doubt()
	r.warn(fmt.Sprintf("%s holds something else than an index object says of it: what the pack itself says counts", p.name()))
	return r.addTable(x, p, entries)
}

// readTableNow is readTable for a pack whose size is to be looked up first.
func (r *Repository) readTableNow(ctx context.Context, p packRef) ([]object.Entry, error) {
	info, err := r.st.Stat(ctx, p.name())
	if err != nil {
		return nil, storeError(err)
	}
	return r.readTable(ctx, p, info.Size)
}

// seek finds content in the index, and where there is nothing that fits, in the packs themselves.
func (r *Repository) seek(ctx context.Context, x *index, id pipe.ID, fits func(location) bool) (location, bool, error) {
	loc, found, _, err := x.find(id, fits)
	if found || err != nil {
		return loc, found, err
	}
	if err := r.deepen(ctx, x); err != nil {
		return loc, false, err
	}
	loc, found, _, err = x.find(id, fits)
	return loc, found, err
}

// indexKeys are the keys that open what speaks for packs of a scope. In the shared one that is who opened a slot, and
// nobody else: a public key, or none, is at hand for whoever keeps the store.
func (k *keyring) indexKeys(s scope) []object.Unwrapper {
	if k.suite == object.SuiteClear || k.vms != nil || s != (scope{}) {
		return k.unwraps
	}
	var masters []object.Unwrapper
	for _, m := range k.slot.Masters {
		masters = append(masters, object.Master(m))
	}
	return masters
}

// checkTable refuses a table that no writer makes.
func (r *Repository) checkTable(p packRef, entries []object.Entry) error {
	for _, e := range entries {
		if (e.Type == object.TypeBlock || e.Type == object.TypeChunk) && e.Plain > uint32(r.header.BlockSize) {
			return &ErrCorrupt{Object: p.name(), Reason: fmt.Sprintf("content of %d bytes is longer than a block", e.Plain)}
		}
	}
	return nil
}

// settle makes durable the names that a dead writer may have left visible and not durable, before a new point refers to
// what is under them. A session that committed has made durable all that it wrote; one that ended otherwise, or was
// ended by another, may not have.
func (r *Repository) settle(ctx context.Context, x *index) error {
	x.asking.Lock()
	defer x.asking.Unlock()
	x.mu.RLock()
	upTo := uint32(len(x.packs))
	fresh := x.packs[min(x.settled.Load(), upTo):upTo]
	x.mu.RUnlock()
	s, ok := store.As[store.Settler](r.st)
	if !ok {
		x.settled.Store(upTo)
		return nil
	}
	open := map[uint64]bool{}
	r.log.view(func(l *ledger) {
		for _, p := range fresh {
			if !l.flushed(p.Lease) {
				open[p.Lease] = true
			}
		}
	})
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for lease := range open {
		for _, dir := range []string{"data", "meta"} {
			g.Go(func() error {
				err := s.Settle(ctx, fmt.Sprintf("%s/%016x/", dir, lease))
				if errors.Is(err, fs.ErrNotExist) {
					return nil
				}
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	x.settled.Store(upTo)
	return nil
}
