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

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// spool bounds the memory that objects on their way to a blind target's store take, over all sessions: an object is
// looked at as a whole before it is stored.
type spool struct {
	mu   sync.Mutex
	left int64
}

func (s *spool) take(n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n > s.left {
		return &wire.Fail{Code: wire.CodeBusy, Text: "too many objects are on their way here"}
	}
	s.left -= n
	return nil
}

func (s *spool) give(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left += n
}

// object is an object that is being brought.
type object struct {
	spool *spool
	name  string

	mu   sync.Mutex
	data []byte
	have []pipe.Extent // ascending, apart
	over bool
}

// openObject takes room for the whole object; its memory is touched only as its parts come.
func (h *handler) openObject(ctx context.Context, m *wire.StoreOpen) (wire.Message, error) {
	switch _, err := h.blind.Stat(ctx, m.Name); {
	case err == nil:
		return nil, fmt.Errorf("object %s: %w", m.Name, fs.ErrExist)
	case errors.Is(err, fs.ErrInvalid):
		return nil, err
	} // whatever else: creating it decides
	if err := h.host.spool.take(m.Size); err != nil {
		return nil, err
	}
	o := &object{spool: h.host.spool, name: m.Name, data: make([]byte, m.Size)}
	ref, err := h.objects.add(o)
	if err != nil {
		o.drop()
		return nil, err
	}
	return &wire.StoreOpened{Object: ref}, nil
}

// part takes a part, anywhere in the object, once.
func (o *object) part(off int64, p []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over {
		return fs.ErrClosed
	}
	if off > int64(len(o.data)) || int64(len(p)) > int64(len(o.data))-off {
		return fmt.Errorf("object %s of %d bytes: %d bytes at %d: %w", o.name, len(o.data), len(p), off, fs.ErrInvalid)
	}
	e := pipe.Extent{Off: off, Len: int64(len(p))}
	at, _ := slices.BinarySearchFunc(o.have, e, func(a, b pipe.Extent) int { return int(min(1, max(-1, a.Off-b.Off))) })
	if at > 0 && o.have[at-1].End() > e.Off || at < len(o.have) && e.End() > o.have[at].Off {
		return fmt.Errorf("object %s: the part at %d has come before: %w", o.name, off, fs.ErrInvalid)
	}
	copy(o.data[off:], p)
	if e.Len == 0 {
		return nil
	}
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
	case o.over:
		return nil, fs.ErrClosed
	case len(o.data) > 0 && (len(o.have) != 1 || o.have[0].Len != int64(len(o.data))):
		return nil, &wire.Fail{Code: wire.CodeIncomplete, Object: o.name, Text: "not all parts of the object have come"}
	}
	return o.data, nil
}

// drop gives the memory back.
func (o *object) drop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.over {
		o.over = true
		o.spool.give(int64(len(o.data)))
		o.data, o.have = nil, nil
	}
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
