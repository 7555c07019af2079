package mover

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/hikae/hikae/pipe"
)

// What is kept until it is durable, in bytes of encoded content.
const (
	defaultKeep = 96 << 20
	maxKeep     = 1 << 30
)

// window bounds what all writers of a client keep of content that is not durable yet. Where it is full and nothing settles,
// they share it: who wants room takes it from whoever has most.
type window struct {
	own int64 // the options' limit

	mu    sync.Mutex
	limit int64
	used  int64
	parts map[*keeper]int64 // of used; only those that have some
	moved chan struct{}     // closed when something was let go
}

func newWindow(own int64) *window {
	return &window{own: own, limit: own, parts: map[*keeper]int64{}, moved: make(chan struct{})}
}

// setLimit takes the other side's limit; 0 is none. The smaller one counts.
func (w *window) setLimit(n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.limit = w.own
	if n > 0 {
		w.limit = min(n, w.own)
	}
	w.wake()
}

func (w *window) wake() {
	close(w.moved)
	w.moved = make(chan struct{})
}

// take asks for n bytes of it for k. Where there is no room it returns a channel that is closed when there may be. A single block
// always has room in an empty window.
func (w *window) take(k *keeper, n int64) (wait <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.used > 0 && w.used+n > w.limit {
		return w.moved
	}
	if w.used += n; n > 0 {
		w.parts[k] += n
	}
	return nil
}

// larger are the keepers that have more of the window than k, and k, the largest first.
func (w *window) larger(k *keeper) []*keeper {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := []*keeper{k}
	for o, part := range w.parts {
		if o != k && part > w.parts[k] {
			list = append(list, o)
		}
	}
	slices.SortFunc(list, func(a, b *keeper) int { return cmp.Compare(w.parts[b], w.parts[a]) })
	return list
}

func (w *window) give(k *keeper, n int64) {
	if n == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.used -= n
	if w.parts[k] -= n; w.parts[k] == 0 {
		delete(w.parts, k)
	}
	w.wake()
}

// kept is the content of one block, encoded, until it is durable.
type kept struct {
	id    pipe.ID
	data  []byte
	codec pipe.Codec
	size  int64 // bytes of the window that it has

	// Guarded by the keeper.
	in   *epoch // the session of the call that placed it; nil: it is under way
	call uint64 // and the call's number
	gone bool   // let go, or pushed out

	untracked bool // there was no room, or the same content is kept already
}

// keeper is one writer's part of the window.
type keeper struct {
	window *window

	mu      sync.Mutex
	by      map[pipe.ID]*kept
	order   []*kept // that were placed, oldest first; those that are gone are skipped
	below   uint64  // what the target told last: calls below are durable
	told    *epoch  // in this session
	trusted bool    // the target settles what it is given: it is worth waiting for
	weary   bool    // waiting was in vain
	closed  bool
}

func newKeeper(w *window) *keeper { return &keeper{window: w, by: map[pipe.ID]*kept{}} }

// keep copies a block's content, where there is room for it, so that the caller may use its memory again. It waits for
// room. Where waiting is in vain, because the target does not settle what it has, older content is pushed out, and then a
// replay may fail; how many bytes those were is the second result.
func (k *keeper) keep(ctx context.Context, s *settings, id pipe.ID, codec pipe.Codec, data []byte) (*kept, int64, error) {
	c := &kept{id: id, codec: codec, data: data, size: int64(len(data))}
	pushed := int64(0)
	for {
		wait := k.window.take(k, c.size)
		if wait == nil {
			break
		}
		n, ok, err := k.await(ctx, s, wait)
		if err != nil {
			return nil, pushed, err
		}
		if !ok { // nothing could make room: all is under way: go on without keeping it
			c.size, c.untracked = 0, true
			return c, pushed + int64(len(data)), nil
		}
		pushed += n
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.by[id] == nil && !k.closed {
		k.by[id] = c
		c.data = bytes.Clone(data)
		return c, pushed, nil
	}
	k.window.give(k, c.size) // the same content is kept already, on its way or placed
	c.size, c.untracked = 0, true
	return c, pushed, nil
}

// await waits for room. It returns how many bytes it pushed out to make some; not ok where it could not.
func (k *keeper) await(ctx context.Context, s *settings, wait <-chan struct{}) (pushed int64, ok bool, err error) {
	k.mu.Lock()
	patience := s.impatient
	if k.trusted {
		patience = s.patience
	}
	weary := k.weary
	k.mu.Unlock()
	if !weary {
		t := time.NewTimer(patience)
		defer t.Stop()
		select {
		case <-wait:
			return 0, true, nil
		case <-ctx.Done():
			return 0, false, ctx.Err()
		case <-t.C:
		}
	}
	k.mu.Lock()
	k.weary = true
	k.mu.Unlock()
	for _, o := range k.window.larger(k) {
		if n, ok := o.pushOut(); ok {
			return n, true, nil
		}
	}
	return 0, false, nil
}

// pushOut drops the oldest block that was placed, and returns its size.
func (k *keeper) pushOut() (pushed int64, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for len(k.order) > 0 {
		old := k.order[0]
		k.order = k.order[1:]
		if !old.gone {
			k.drop(old)
			return old.size, true
		}
	}
	return 0, false
}

// drop forgets a block. The keeper is locked.
func (k *keeper) drop(c *kept) {
	if c.gone {
		return
	}
	c.gone = true
	if k.by[c.id] == c {
		delete(k.by, c.id)
	}
	k.window.give(k, c.size)
}

// placed says that call number n in session e has placed the block.
func (k *keeper) placed(c *kept, e *epoch, n uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c.untracked || c.gone {
		return
	}
	first := c.in == nil
	c.in, c.call = e, n
	if k.told == e && n < k.below {
		k.drop(c)
		return
	}
	if first {
		k.order = append(k.order, c)
	}
}

// failed says that the block was not placed and will not be.
func (k *keeper) failed(c *kept) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !c.untracked && c.in == nil {
		k.drop(c)
	}
}

// settle lets go what calls below a number of session e brought.
func (k *keeper) settle(e *epoch, below uint64) {
	if e.gone.Load() { // a late word of a session whose calls are made again
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.told != e {
		k.told, k.below = e, 0
	}
	k.below = max(k.below, below)
	k.trusted, k.weary = true, false
	left := k.order[:0]
	for _, c := range k.order {
		if !c.gone && c.in == e && c.call < k.below {
			k.drop(c)
		}
		if !c.gone {
			left = append(left, c)
		}
	}
	clear(k.order[len(left):])
	k.order = left
}

// find is the content of a block that was placed, nil where it is not kept.
func (k *keeper) find(id pipe.ID) *kept {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.by[id]
}

// close lets everything go.
func (k *keeper) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	for _, c := range k.by {
		k.drop(c)
	}
	k.order = nil
}
