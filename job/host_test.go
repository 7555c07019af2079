package job

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"sync"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
)

// host is a hypervisor in memory that tracks changes the way real ones do: one base for each disk, named by a change
// id, that gathers what is written; a snapshot begins the next one; Commit drops the old, Release without Commit merges
// the new one back into it. Every operation can be made to fail.
type host struct {
	mu     sync.Mutex
	disks  map[string]*hostDisk
	order  []string
	config map[string][]byte
	facts  map[string]string
	vms    int // how many VMs are listed; zero: one
	skip   map[string]string
	level  hikae.Consistency

	snapshots int // that exist on the host
	next      int
	hook      func(op string) error

	noExtents  bool // the images do not tell which parts hold data
	noTracking bool
	early      bool   // snapshots tell their change ids before the end
	during     func() // the guest's work while a disk is read
}

type hostDisk struct {
	data  []byte
	bases []*base // the oldest first: the base, and while there is a snapshot the one that began with it
}

type base struct {
	id    hikae.ChangeID
	dirty map[int64]bool // by 4 KiB
}

func newHost(sizes ...int64) *host {
	h := &host{disks: map[string]*hostDisk{}, level: hikae.Application, hook: func(string) error { return nil }}
	for i, size := range sizes {
		h.addDisk(fmt.Sprintf("d%d", i), size)
	}
	return h
}

func (h *host) addDisk(key string, size int64) {
	h.disks[key] = &hostDisk{data: make([]byte, size)}
	h.order = append(h.order, key)
}

// write is what the guest does.
func (h *host) write(key string, p []byte, off int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.disks[key]
	copy(d.data[off:], p)
	for _, b := range d.bases {
		for cell := off / 4096; cell*4096 < off+int64(len(p)); cell++ {
			b.dirty[cell] = true
		}
	}
}

func (h *host) content(key string) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.disks[key].data)
}

func (h *host) vm() hikae.VM {
	vm := hikae.VM{ID: "vm-1", Name: "web1", Facts: h.facts, Config: h.config}
	for _, key := range h.order {
		vm.Disks = append(vm.Disks, hikae.Disk{Key: key, Size: int64(len(h.disks[key].data)), Skip: h.skip[key]})
	}
	return vm
}

func (h *host) VMs(context.Context) iter.Seq2[hikae.VM, error] {
	return func(yield func(hikae.VM, error) bool) {
		if err := h.hook("vms"); err != nil {
			yield(hikae.VM{}, err)
			return
		}
		for i := range max(1, h.vms) {
			vm := h.vm()
			vm.ID = fmt.Sprintf("vm-%d", i+1)
			if !yield(vm, nil) {
				return
			}
		}
	}
}

func (h *host) Snapshot(ctx context.Context, id string, opts *hikae.SnapshotOptions) (hikae.Snapshot, error) {
	if err := h.hook("snapshot"); err != nil {
		return nil, err
	}
	level, thaw := h.freeze(ctx, opts.Quiescer)
	defer thaw()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.snapshots > 0 {
		return nil, &hikae.BusyError{What: id, Owner: "a snapshot that was left behind"}
	}
	h.snapshots++
	h.next++
	s := &hostSnapshot{h: h, level: level, vm: h.vm(), opts: *opts, pinned: map[string][]byte{}, dirty: map[string][]*base{}, new: map[string]hikae.ChangeID{}}
	for key, d := range h.disks {
		s.pinned[key] = slices.Clone(d.data)
		if h.noTracking {
			continue
		}
		for _, b := range d.bases {
			s.dirty[key] = append(s.dirty[key], &base{id: b.id, dirty: maps.Clone(b.dirty)})
		}
		s.new[key] = hikae.ChangeID(fmt.Sprintf("cp%d", h.next))
		d.bases = append(d.bases, &base{id: s.new[key], dirty: map[int64]bool{}})
	}
	if h.early {
		return &earlySnapshot{hostSnapshot: s}, nil
	}
	return s, nil
}

// sweep does what a start does with what a dead session left: the snapshot goes, and so do bases that no point names.
func (h *host) sweep(keep []hikae.ChangeID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.snapshots = 0
	for _, d := range h.disks {
		d.bases = slices.DeleteFunc(d.bases, func(b *base) bool { return !slices.Contains(keep, b.id) })
	}
}

// bases are the change ids that a disk is tracked from.
func (h *host) bases(key string) (ids []hikae.ChangeID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, b := range h.disks[key].bases {
		ids = append(ids, b.id)
	}
	return ids
}

// earlySnapshot implements [hikae.EarlyTracking].
type earlySnapshot struct {
	*hostSnapshot
	kept bool
}

func (s *earlySnapshot) Early(context.Context) (map[string]hikae.ChangeID, error) {
	return maps.Clone(s.new), s.h.hook("early")
}

func (s *earlySnapshot) KeepEarly() { s.kept = true }

func (s *earlySnapshot) Release(ctx context.Context) error {
	if !s.kept || s.committed {
		return s.hostSnapshot.Release(ctx)
	}
	if err := errors.Join(s.h.hook("release"), ctx.Err()); err != nil {
		return err
	}
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	s.h.snapshots--
	for key, d := range s.h.disks {
		d.bases = slices.DeleteFunc(d.bases, func(b *base) bool { return b.id == s.opts.Unfinished[key] && b.id != s.opts.Past[key] })
	}
	return nil
}

// freeze freezes by whoever was brought along, as real hosts do: what cannot be frozen is pinned as it is.
func (h *host) freeze(ctx context.Context, q hikae.Quiescer) (level hikae.Consistency, thaw func()) {
	if q == nil {
		return h.level, func() {}
	}
	level = hikae.Filesystem
	if q.Freeze(ctx) != nil {
		level = hikae.Crash
	}
	return level, func() { _ = q.Thaw(context.WithoutCancel(ctx)) }
}

type hostSnapshot struct {
	h         *host
	level     hikae.Consistency
	vm        hikae.VM
	pinned    map[string][]byte
	opts      hikae.SnapshotOptions
	dirty     map[string][]*base
	new       map[string]hikae.ChangeID
	committed bool
	released  bool
}

func (s *hostSnapshot) VM() hikae.VM                   { return s.vm }
func (s *hostSnapshot) Consistency() hikae.Consistency { return s.level }

func (s *hostSnapshot) OpenDisk(ctx context.Context, key string) (pipe.Image, error) {
	if err := s.h.hook("opendisk"); err != nil {
		return nil, err
	}
	if s.h.during != nil {
		s.h.during()
	}
	data, ok := s.pinned[key]
	if !ok {
		return nil, fs.ErrNotExist
	}
	img := pipetest.HookImage(pipetest.Bytes(data), func(_ context.Context, op *pipetest.Op) error { return s.h.hook("image " + op.Name) })
	if s.h.noExtents {
		return struct{ pipe.Image }{img}, nil
	}
	return img, nil
}

func (s *hostSnapshot) Changed(_ context.Context, key string, since hikae.ChangeID) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		if err := s.h.hook("changed"); err != nil {
			yield(pipe.Extent{}, err)
			return
		}
		size := int64(len(s.pinned[key]))
		at := slices.IndexFunc(s.dirty[key], func(b *base) bool { return b.id == since })
		if at < 0 || since == "" {
			yield(pipe.Extent{}, hikae.ErrTrackingLost)
			return
		}
		b := s.dirty[key][at]
		for off := int64(0); off < size; off += 4096 {
			e := pipe.Extent{Off: off, Len: min(4096, size-off), Kind: pipe.Unchanged}
			if b.dirty[off/4096] {
				e.Kind = pipe.Data
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (s *hostSnapshot) Prepare(context.Context) (map[string]hikae.ChangeID, error) {
	return s.new, s.h.hook("prepare")
}

func (s *hostSnapshot) Commit(ctx context.Context) error {
	if err := errors.Join(s.h.hook("commit snapshot"), ctx.Err()); err != nil {
		return err
	}
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	for key, d := range s.h.disks {
		d.bases = slices.DeleteFunc(d.bases, func(b *base) bool { return b.id != s.new[key] })
	}
	s.committed = true
	return nil
}

func (s *hostSnapshot) Release(ctx context.Context) error {
	if err := errors.Join(s.h.hook("release"), ctx.Err()); err != nil {
		return err
	}
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	if s.released {
		panic("released twice")
	}
	s.released = true
	s.h.snapshots--
	if s.committed {
		return nil
	}
	for key, d := range s.h.disks {
		if n := len(d.bases); n > 1 && d.bases[n-1].id == s.new[key] {
			maps.Copy(d.bases[n-2].dirty, d.bases[n-1].dirty)
		}
		if n := len(d.bases); n > 0 && d.bases[n-1].id == s.new[key] {
			d.bases = d.bases[:n-1]
		}
	}
	return nil
}
