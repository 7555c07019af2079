package mover

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// resolver is an optional ability of a backend: it finds a point by its id without walking through all.
type resolver interface {
	Resolve(ctx context.Context, id string) (pipe.PointInfo, error)
}

// find is a point of the backend by its full id.
func (h *host) find(ctx context.Context, id string) (pipe.PointInfo, error) {
	if r, ok := h.backend.(resolver); ok {
		p, err := r.Resolve(ctx, id)
		if err == nil && p.ID != id { // a prefix, or another way to name a point
			err = noPoint(id)
		}
		return p, err
	}
	for p, err := range h.backend.Points(ctx, "") {
		if err == nil && p.ID == id {
			return p, nil
		}
		if err := ctx.Err(); err != nil {
			return p, err
		}
	}
	return pipe.PointInfo{}, noPoint(id)
}

func noPoint(id string) error {
	return &wire.Fail{Code: wire.CodeNotFound, Object: clip(id, wire.MaxName), Text: "there is no such point"}
}

// own is a point that the peer may know of. To an append peer another's point is as one that does not exist, whatever
// state that is in.
func (h *handler) own(ctx context.Context, id string) (pipe.PointInfo, error) {
	p, err := h.host.find(ctx, id)
	if h.who == byFull {
		return p, err
	}
	if ctx.Err() != nil {
		return p, ctx.Err()
	}
	if err == nil {
		if vm, mine := h.space.outer(p.VM); mine {
			p.VM = vm
			return p, nil
		}
	}
	return pipe.PointInfo{}, noPoint(id)
}

// points answers one page of a listing.
func (h *handler) points(ctx context.Context, m *wire.Points) (wire.Message, error) {
	vm := ""
	if m.VM != "" {
		var err error
		if vm, err = h.space.inner(m.VM); err != nil {
			return nil, err
		}
	}
	l := h.pages.take(vm, m.After)
	if l == nil {
		l = newListing(h, vm)
	}
	page, err := l.page(ctx, m.After)
	if err != nil || !page.More {
		l.stop()
		return answered(page, err)
	}
	h.pages.put(l)
	return page, nil
}

// listing is a walk through points that stands still between two pages, so that many pages do not walk many times.
type listing struct {
	h      *handler
	vm     string
	last   string // id of the last point that was answered
	cancel context.CancelFunc
	next   func() (wire.Point, bool)
	stop   func()
	ahead  *wire.Point
	done   bool
}

// maxDamage is how many points in a row that cannot be described are answered one by one. A page ends with one that
// has an id, since the next page is asked for behind it.
const maxDamage = wire.MaxPoints / 2

// pageBytes bounds a page as it is encoded; a single point is less than a message in any case.
const pageBytes = 900 << 10

func newListing(h *handler, vm string) *listing {
	ctx, cancel := context.WithCancel(h.ctx)
	l := &listing{h: h, vm: vm, cancel: cancel}
	next, stop := iter.Pull(l.walk(ctx))
	l.next, l.stop = next, func() { cancel(); stop() }
	return l
}

// walk yields the peer's points as they go over the wire. Of a run of damaged ones the last stands for all that are
// beyond the bound.
func (l *listing) walk(ctx context.Context) iter.Seq[wire.Point] {
	return func(yield func(wire.Point) bool) {
		var damage []string
		more := 0
		flush := func() bool {
			if more > 0 {
				damage[len(damage)-1] += fmt.Sprintf("; and %d more", more)
			}
			for _, text := range damage {
				if !yield(wire.Point{Damage: clip(text, wire.MaxText)}) {
					return false
				}
			}
			damage, more = damage[:0], 0
			return true
		}
		for p, err := range l.h.host.backend.Points(ctx, l.vm) {
			if ctx.Err() != nil {
				return
			}
			switch {
			case err == nil:
				vm, mine := l.h.space.outer(p.VM)
				if !mine {
					continue
				}
				p.VM = vm
				if !flush() || !yield(l.h.describe(p)) {
					return
				}
			case l.vm == "" && l.h.who != byFull:
				// It may be another's.
			case len(damage) < maxDamage:
				damage = append(damage, "a point cannot be read: "+err.Error())
			default:
				more++
			}
		}
		flush()
	}
}

// page is the next page behind a point.
func (l *listing) page(ctx context.Context, after string) (*wire.PointList, error) {
	stop := context.AfterFunc(ctx, l.cancel)
	defer stop()
	for l.last != after {
		p, ok := l.pull()
		if !ok {
			return nil, errors.Join(ctx.Err(), noPoint(after))
		}
		l.last = p.ID
	}
	page := &wire.PointList{Points: []wire.Point{}}
	size, whole := 0, 0 // whole: how many, up to the last with an id
	for len(page.Points) < wire.MaxPoints {
		p, ok := l.pull()
		if !ok {
			break
		}
		n := encodedSize(p)
		if size += n; size > pageBytes && len(page.Points) > 0 {
			l.ahead = &p
			break
		}
		page.Points = append(page.Points, p)
		if p.ID != "" {
			whole = len(page.Points)
			l.last = p.ID
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if l.ahead == nil {
		if p, ok := l.pull(); ok {
			l.ahead = &p
		}
	}
	if page.More = !l.done || l.ahead != nil; page.More && whole > 0 && whole < len(page.Points) {
		l.cut(page, whole)
	}
	return page, nil
}

// pull is the next point, the one that was put back first.
func (l *listing) pull() (wire.Point, bool) {
	if l.ahead != nil {
		p := *l.ahead
		l.ahead = nil
		return p, true
	}
	p, ok := l.next()
	l.done = l.done || !ok
	return p, ok
}

// cut leaves the damaged points at a page's end to the next page.
func (l *listing) cut(page *wire.PointList, whole int) {
	rest := slices.Clone(page.Points[whole:])
	if l.ahead != nil {
		rest = append(rest, *l.ahead)
	}
	page.Points = page.Points[:whole]
	l.ahead = &rest[0]
	next := l.next
	rest = rest[1:]
	l.next = func() (wire.Point, bool) {
		if len(rest) > 0 {
			p := rest[0]
			rest = rest[1:]
			return p, true
		}
		return next()
	}
	l.done = false
}

func encodedSize(p wire.Point) int {
	b, err := wire.Append(nil, wire.Frame{Message: &wire.PointList{Points: []wire.Point{p}}})
	if err != nil {
		return 0
	}
	return len(b)
}

// describe is a point as it goes over the wire. What has no room there is left out where it is for people or can be had
// otherwise; a point that is beyond it altogether is said to be so.
func (h *handler) describe(p pipe.PointInfo) wire.Point {
	out := wire.Point{
		ID: p.ID, VM: p.VM, Time: p.Time.UnixNano(), Consistency: clip(p.Consistency, wire.MaxName), New: max(0, p.New),
		Tracking: fitting(p.Tracking, wire.MaxDisks), Facts: fitting(p.Facts, wire.MaxFacts),
	}
	if h.who != byFull { // it tells what others had already
		out.New = 0
	}
	for _, d := range p.Disks {
		disk := wire.PointDisk{Key: d.Key, Size: d.Size, Data: max(0, d.Data)}
		for kind, n := range d.Absent {
			if disk.Absent == nil {
				disk.Absent = map[string]uint64{}
			}
			disk.Absent[kind] = uint64(max(0, n))
		}
		out.Disks = append(out.Disks, disk)
	}
	for _, b := range p.Blobs {
		out.Blobs = append(out.Blobs, wire.PointBlob{Name: b.Name, Size: b.Size})
	}
	if _, err := wire.Append(nil, wire.Frame{Message: &wire.PointList{Points: []wire.Point{out}}}); err != nil {
		return wire.Point{Damage: clip(fmt.Sprintf("point %s cannot be described to another machine: %v", p.ID, err), wire.MaxText)}
	}
	return out
}

// fitting are the pairs that fit the wire, the first of them by name.
func fitting(m map[string]string, most int) map[string]string {
	out := map[string]string{}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if len(out) < most && len(k) <= wire.MaxName && len(m[k]) <= wire.MaxFact {
			out[k] = m[k]
		}
	}
	return out
}

// listings are those that stand still.
type listings struct {
	mu   sync.Mutex
	list []*listing
	shut bool
}

// take is the listing that stands just behind a point.
func (ls *listings) take(vm, after string) *listing {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for i, l := range ls.list {
		if l.vm == vm && l.last == after && after != "" {
			ls.list = slices.Delete(ls.list, i, i+1)
			return l
		}
	}
	return nil
}

// put keeps a listing, in place of the oldest where there are many.
func (ls *listings) put(l *listing) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.shut {
		l.stop()
		return
	}
	if len(ls.list) == maxLists {
		ls.list[0].stop()
		ls.list = slices.Delete(ls.list, 0, 1)
	}
	ls.list = append(ls.list, l)
}

func (ls *listings) close() {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.shut = true
	for _, l := range ls.list {
		l.stop()
	}
	ls.list = nil
}
