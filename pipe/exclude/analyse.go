package exclude

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/fsys"
	"github.com/hikae/hikae/pipe/exclude/layout"
	"github.com/hikae/hikae/pipe/exclude/swap"
)

// maxPlanBytes bounds the memory of a plan. From a half of it on small ranges are left out, then larger ones.
const maxPlanBytes = 96 << 20

// analyse finds out what of a volume need not be stored. It may be called again, and then forgets what it found before.
func (a *analysis) analyse(ctx context.Context, r *result) {
	a.bytes -= r.size()
	r.keep()
	r.whole, r.caution, r.unjudged = "", false, false
	before := a.bytes
	err := a.guarded(ctx, r)
	if r.whole == "" && err != nil {
		r.fail(ctx, err)
	}
	if r.whole != "" {
		a.bytes = before
	}
}

// guarded turns a reader's panic into a doubt about the volume. Readers do not panic on any input known to their tests,
// and a backup is worth more than being told of an unknown one by losing it.
func (a *analysis) guarded(ctx context.Context, r *result) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("its reader failed: %v", p)
		}
	}()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if v := r.volume; v.Whole != "" {
		r.store(true, "%s", v.Whole)
		r.caution = v.Kind != "" && readable(v.Kind)
		// Whatever speaks against the volume, memory of a sleeping system on it speaks for all others.
		area, err := swap.Open(ctx, v.Image())
		r.sleeps = err == nil && area.Hibernated
		return nil
	}
	if r.volume.Kind == layout.Swap {
		return a.swapSpace(ctx, r)
	}
	for _, reader := range a.opts.Readers {
		if reader.Kind == r.volume.Kind {
			return a.fileSystem(ctx, r, reader)
		}
	}
	if r.volume.Kind == "" {
		r.store(false, "nothing that is known here is on it")
	} else {
		r.store(false, "%s is not looked into", r.volume.Kind)
	}
	return nil
}

// readable kinds are those that a person expects to be looked into.
func readable(kind string) bool {
	switch kind {
	case layout.Ext, layout.XFS, layout.NTFS, layout.FAT, layout.Swap, layout.PhysicalVolume:
		return true
	}
	return false
}

// fail says why a volume could not be analysed to the end.
func (r *result) fail(ctx context.Context, err error) {
	sleepy := r.volume.Kind == layout.Swap || r.volume.Kind == layout.NTFS
	switch {
	case ctx.Err() != nil:
		r.store(true, "%v", context.Cause(ctx))
		r.unjudged = sleepy
	case errors.Is(err, fsys.ErrOther):
		r.store(true, "it has the signature of %s, and nothing of it behind that", r.volume.Kind)
	default:
		r.store(true, "%v", err)
		var damage *fsys.CorruptError
		r.unjudged = sleepy && !errors.As(err, &damage)
	}
}

// swapTypes are the types of partitions and logical volumes that swap space is made on: its own, that of any Linux data,
// and those without a type. A database on a raw partition may have an old header of swap space in front of it.
var swapTypes = map[string]bool{
	"": true, "linear": true, "striped": true, "linear, striped": true,
	"0x82": true, "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": true, // Linux swap
	"0x83": true, "0fc63daf-8483-4772-8e79-3d69d8477de4": true, // Linux data
}

// swapSpace judges a swap partition or logical volume.
func (a *analysis) swapSpace(ctx context.Context, r *result) error {
	area, err := swap.Open(ctx, r.volume.Image())
	if err != nil {
		return err
	}
	r.info = info{Kind: layout.Swap, Label: area.Label, UUID: area.UUID}
	switch {
	case area.Hibernated:
		r.sleeps = true
		r.store(true, "it holds the memory of a sleeping system")
	case area.Doubt != "":
		r.store(true, "%s", area.Doubt)
	case !swapTypes[strings.ToLower(r.volume.Type)]:
		r.store(true, "it has the header of swap space, and the type %s: the header may be old", r.volume.Type)
	case a.opts.Swap:
		d := area.Droppable()
		var found finds
		found.add(d, pipe.Swap)
		return a.place(ctx, r, nil, &found)
	}
	return nil
}

// fileSystem judges a volume with a file system.
func (a *analysis) fileSystem(ctx context.Context, r *result, reader Reader) error {
	f, err := reader.Open(ctx, r.volume.Image())
	if err != nil {
		return err
	}
	i := f.Info()
	r.info = info{Kind: i.Kind, Label: i.Label, UUID: i.UUID, Replayed: i.Replayed}
	r.sleeps = r.sleeps || i.Hibernated
	switch {
	case i.Hibernated:
		r.store(true, "a system sleeps on it")
		return nil
	case i.Doubt != "":
		r.store(true, "%s", i.Doubt)
		return nil
	case i.Size > r.volume.Size:
		r.store(true, "its file system is longer than what it lies on")
		return nil
	}
	l := looker{a: a, r: r, f: f, info: i, taken: map[fsys.Node]bool{}}
	if err := l.look(ctx); err != nil {
		return err
	}
	if r.whole != "" {
		return nil
	}
	if !a.opts.Free {
		f = nil
	}
	return a.place(ctx, r, f, &l.found)
}

// place turns finds and free space into tracks, one for each place of the volume.
func (a *analysis) place(ctx context.Context, r *result, f fsys.FileSystem, found *finds) error {
	for _, p := range r.volume.Places() {
		w := &trackWriter{track: track{off: p.Off, end: p.Off + p.N, last: p.Off}, block: a.opts.BlockSize, diskSize: a.sizes[p.Disk]}
		r.tracks = append(r.tracks, w)
	}
	found.sort()
	if found.full {
		a.notes = append(a.notes, r.volume.Name+": it has more parts of files to leave out than are kept in memory; the rest is stored")
	}
	room := maxPlanBytes - a.bytes
	size := 0
	m := &merger{finds: found.list, size: r.volume.Size, take: func(e pipe.Extent) error {
		if size >= room {
			return nil
		}
		r.count(e.Kind, e.Len)
		for i, p := range r.volume.Locate(e.Off, e.Len) {
			t := r.tracks[i]
			before := t.bytes()
			t.minimum = coarser(size, room)
			t.add(p.Off, p.N, e.Kind)
			size += t.bytes() - before
		}
		return ctx.Err()
	}}
	if f != nil {
		for free, err := range f.Free(ctx) {
			if err == nil {
				err = m.free(free)
			}
			if err != nil {
				return err
			}
		}
	}
	if err := m.before(r.volume.Size); err != nil {
		return err
	}
	if len(m.finds) > 0 {
		return errContradiction
	}
	for _, t := range r.tracks {
		t.flush()
		t.data, t.index = clip(t.data), clip(t.index)
	}
	if a.bytes += r.size(); size >= room {
		a.notes = append(a.notes, r.volume.Name+": more of it could be left out than is kept in memory; the rest is stored")
	}
	return nil
}

// coarser is the shortest run that is still remembered, in bytes, as the room for it runs out.
func coarser(size, room int) int64 {
	switch {
	case size > room/4*3:
		return 4 << 20
	case size > room/2:
		return 256 << 10
	}
	return 0
}

// clip gives back what append took in advance.
func clip[T any](s []T) []T { return append(make([]T, 0, len(s)), s...) }

// size is what the tracks take, in bytes.
func (r *result) size() (n int) {
	for _, t := range r.tracks {
		n += t.bytes()
	}
	return n
}
