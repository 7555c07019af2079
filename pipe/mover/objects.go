package mover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// BlindAsker is an optional ability of a [BlindSession]: it says what it would refuse before the bytes have come. On nil
// nothing is promised; [BlindSession].Create decides.
type BlindAsker interface {
	// MayCreate is fs.ErrPermission for a name that the peer may not create an object of size bytes under, and
	// fs.ErrInvalid for what is no name. It does not look whether there is one.
	MayCreate(ctx context.Context, name string, size int64) error
}

// object is an object that is being brought. Its memory is taken when its first part comes.
type object struct {
	spool *spool
	peer  string
	full  bool // a full peer's
	name  string
	size  int64

	mu      sync.Mutex
	data    []byte        // nil until the first part comes
	have    []pipe.Extent // ascending, apart
	used    time.Time     // when the last part came
	sealing bool
	over    error // why nothing can be done with it any more
}

// openObject notes an object that is about to come. Whether there is one of that name already is not looked at: only
// creating it makes durable what is there, and who is told that it exists relies on it.
func (h *handler) openObject(ctx context.Context, m *wire.StoreOpen) (wire.Message, error) {
	if a, asks := h.blind.(BlindAsker); asks {
		if err := a.MayCreate(ctx, m.Name, m.Size); err != nil {
			return nil, err
		}
	}
	s := h.host.spool
	s.sweepLately()
	o := &object{spool: s, peer: h.peer.Name, full: h.who == byFull, name: m.Name, size: m.Size, used: time.Now()}
	if err := s.fits(o); err != nil && (!s.sweep() || s.fits(o) != nil) {
		return nil, err
	}
	ref, err := h.keepObject(o)
	if err != nil {
		return nil, err
	}
	return &wire.StoreOpened{Object: ref}, nil
}

// keepObject gives an object its number, if need be in the place of those that wait in vain.
func (h *handler) keepObject(o *object) (wire.Ref, error) {
	ref, err := h.objects.add(o)
	if err == nil {
		return ref, nil
	}
	for old, waits := range h.objects.each() {
		if waits.dropIdle(time.Now()); waits.ended() {
			_, _ = h.objects.take(old)
		}
	}
	return h.objects.add(o)
}

// part takes a part, anywhere in the object, once.
func (o *object) part(off int64, p []byte) error {
	err := o.place(off, p)
	if err == errSpoolFull && o.spool.sweep() {
		err = o.place(off, p)
	}
	return err
}

func (o *object) place(off int64, p []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over != nil {
		return o.over
	}
	if off > o.size || int64(len(p)) > o.size-off {
		return fmt.Errorf("object %s of %d bytes: %d bytes at %d: %w", o.name, o.size, len(p), off, fs.ErrInvalid)
	}
	e := pipe.Extent{Off: off, Len: int64(len(p))}
	at, _ := slices.BinarySearchFunc(o.have, e, func(a, b pipe.Extent) int { return int(min(1, max(-1, a.Off-b.Off))) })
	if at > 0 && o.have[at-1].End() > e.Off || at < len(o.have) && e.End() > o.have[at].Off {
		return fmt.Errorf("object %s: the part at %d has come before: %w", o.name, off, fs.ErrInvalid)
	}
	if e.Len == 0 {
		return nil
	}
	if o.data == nil { // not before: to announce objects costs nothing, and would take nothing less than all memory
		if err := o.spool.take(o); err != nil {
			return err
		}
		o.data = make([]byte, o.size)
	}
	copy(o.data[off:], p)
	o.used = time.Now()
	return o.note(at, e)
}

// note enters what has come, which belongs at that place of the list.
func (o *object) note(at int, e pipe.Extent) error {
	o.have = slices.Insert(o.have, at, e)
	if at+1 < len(o.have) && o.have[at].End() == o.have[at+1].Off {
		o.have[at].Len += o.have[at+1].Len
		o.have = slices.Delete(o.have, at+1, at+2)
	}
	if at > 0 && o.have[at-1].End() == o.have[at].Off {
		o.have[at-1].Len += o.have[at].Len
		o.have = slices.Delete(o.have, at, at+1)
	}
	if len(o.have) > wire.MaxObject/4096 {
		return fmt.Errorf("object %s comes in too many pieces: %w", o.name, fs.ErrInvalid)
	}
	return nil
}

// whole hands out the object's bytes where all have come.
func (o *object) whole() ([]byte, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.over != nil:
		return nil, o.over
	case o.size > 0 && (len(o.have) != 1 || o.have[0].Len != o.size):
		return nil, &wire.Fail{Code: wire.CodeIncomplete, Object: o.name, Text: "not all parts of the object have come"}
	}
	o.sealing = true
	return o.data, nil
}

// drop gives the memory back.
func (o *object) drop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.end(fs.ErrClosed)
}

// dropIdle is drop for an object that has waited too long.
func (o *object) dropIdle(now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over != nil || o.sealing || now.Sub(o.used) <= maxObjectIdle {
		return false
	}
	o.end(errObjectIdle)
	return true
}

// end wants the lock.
func (o *object) end(why error) {
	if o.over == nil {
		o.over = why
		o.spool.give(o)
		o.data, o.have = nil, nil
	}
}

func (o *object) ended() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.over != nil
}

func (h *handler) sealObject(ctx context.Context, m *wire.StoreSeal) error {
	o, err := h.objects.take(m.Object)
	if err != nil {
		return err
	}
	defer o.drop()
	data, err := o.whole()
	if err != nil {
		return err
	}
	return h.blind.Create(ctx, o.name, data)
}

// answerStore answers the calls of a blind target.
func (h *handler) answerStore(ctx context.Context, req wire.Message) (wire.Message, error) {
	switch m := req.(type) {
	case *wire.StoreOpen:
		return h.openObject(ctx, m)
	case *wire.StorePart:
		o, err := h.objects.get(m.Object)
		if err != nil {
			return nil, err
		}
		return ok(o.part(m.Off, m.Data))
	case *wire.StoreSeal:
		return ok(h.sealObject(ctx, m))
	case *wire.StoreDrop:
		o, err := h.objects.take(m.Object)
		if err != nil {
			return nil, err
		}
		o.drop()
		return &wire.OK{}, nil
	case *wire.StoreRead:
		return h.readObject(ctx, m)
	case *wire.StoreStat:
		size, err := h.blind.Stat(ctx, m.Name)
		return answered(&wire.StoreSize{Size: size}, err)
	case *wire.StoreList:
		return h.listObjects(ctx, m)
	case *wire.StoreRemove:
		return ok(h.blind.Remove(ctx, m.Name))
	case *wire.StoreProbe:
		a, err := h.blind.Probe(ctx)
		if a.Free < 0 {
			a.Free = math.MaxInt64
		}
		return answered(&wire.StoreIs{ExclusiveCreate: a.ExclusiveCreate, DurableNames: a.DurableNames, FreshReads: a.FreshReads, Free: a.Free}, err)
	}
	return nil, &wire.Fail{Code: wire.CodeUnsupported, Text: fmt.Sprintf("%v is not answered here", req.Kind())}
}

func (h *handler) readObject(ctx context.Context, m *wire.StoreRead) (wire.Message, error) {
	if m.Len > wire.MaxPart {
		return nil, fmt.Errorf("%d bytes of an object at once: %w", m.Len, fs.ErrInvalid)
	}
	p := make([]byte, m.Len)
	n, err := h.blind.ReadAt(ctx, m.Name, p, m.Off)
	if err != nil && err != io.EOF {
		return nil, err
	}
	return &wire.Content{Plain: uint32(n), Codec: pipe.Plain, Data: p[:n]}, nil
}

// objectList is a listing that stands still between two parts.
type objectList struct {
	mu    sync.Mutex
	next  func() (BlindObject, error, bool)
	stop  func()
	ahead *BlindObject
}

// listObjects begins a listing, or goes on with it.
func (h *handler) listObjects(ctx context.Context, m *wire.StoreList) (wire.Message, error) {
	ref := m.List
	if ref == 0 {
		next, stop := iter.Pull2(h.blind.List(h.ctx, m.Prefix))
		var err error
		if ref, err = h.lists.add(&objectList{next: next, stop: stop}); err != nil {
			stop()
			return nil, err
		}
	}
	l, err := h.lists.get(ref)
	if err != nil {
		return nil, err
	}
	names, more, err := l.part(ctx)
	if err != nil || !more {
		_, _ = h.lists.take(ref)
		l.end()
	}
	return answered(&wire.StoreNames{List: ref, More: more, Names: names}, err)
}

// part is what one message holds.
func (l *objectList) part(ctx context.Context) (names []wire.StoreName, more bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	size := 0
	for {
		o, ok, err := l.pull()
		if err = errors.Join(err, ctx.Err()); err != nil || !ok {
			return names, false, err
		}
		if len(o.Name) > wire.MaxName || o.Size < 0 {
			return nil, false, fmt.Errorf("object %q of %d bytes: %w", o.Name, o.Size, pipe.ErrBroken)
		}
		if size += len(o.Name) + 10; size > pageBytes || len(names) == wire.MaxExtents {
			l.ahead = &o
			return names, true, nil
		}
		names = append(names, wire.StoreName{Name: o.Name, Size: o.Size})
	}
}

func (l *objectList) pull() (BlindObject, bool, error) {
	if l.ahead != nil {
		o := *l.ahead
		l.ahead = nil
		return o, true, nil
	}
	o, err, ok := l.next()
	return o, ok, err
}

func (l *objectList) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stop()
}
