package mover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sort"

	"golang.org/x/sync/errgroup"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/session"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// ErrLostContent says that the other side has lost a session, and that this side could not put back all that was in
// it: the copy has to start again. What became durable there is found again by its fingerprints.
var ErrLostContent = errors.New("the target was started anew, and what it lost is not here any more")

// resume puts the point back in the current session, unless somebody else has done it meanwhile.
func (w *remoteWriter) resume(ctx context.Context) error {
	all, cancel := context.WithTimeout(ctx, w.c.settings.GiveUp)
	defer cancel()
	if err := w.gate.Acquire(all, everyone); err != nil {
		return w.whyStopped(ctx, err)
	}
	defer w.gate.Release(everyone)
	for {
		if err := w.usable(); err != nil {
			return err
		}
		e, err := w.c.session(all)
		if err != nil {
			return w.whyStopped(ctx, err)
		}
		if w.in == e {
			return nil
		}
		if err = w.again(); err == nil {
			err = w.replay(all, e)
		}
		switch {
		case err == nil:
			return nil
		case isLost(err):
			w.c.lost(e)
		case errors.Is(err, ErrLostContent):
			w.mu.Lock()
			w.failed = err
			w.mu.Unlock()
			return err
		default:
			if ctx.Err() != nil {
				w.replays-- // the caller went away; the point is not at fault
			}
			return w.whyStopped(ctx, err)
		}
	}
}

// again counts the replays. They are bounded as long as nothing comes of them: a target that falls over the point
// itself would do so for ever.
func (w *remoteWriter) again() error {
	if w.progress.Swap(false) {
		w.replays = 0
	}
	if w.replays >= w.c.settings.Replays {
		return fmt.Errorf("%w: the session was lost %d times in a row", ErrLostContent, w.replays+1)
	}
	w.replays++
	w.c.count(func(s *Stats) { s.Replays++ })
	return nil
}

// whyStopped tells our own deadline from the caller's.
func (w *remoteWriter) whyStopped(ctx context.Context, err error) error {
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return fmt.Errorf("%w: the point could not be put back within %v", session.ErrGaveUp, w.c.settings.GiveUp)
	}
	return err
}

// replay makes the point in a new session what it was in the lost one. The gate is closed. When it fails, the next call
// that comes through the gate starts it again from the beginning.
func (w *remoteWriter) replay(ctx context.Context, e *epoch) (err error) {
	w.mu.Lock()
	committing, unnoted := w.committing, w.unnoted
	disks, blobs := slices.Clone(w.disks), slices.Clone(w.blobs)
	w.mu.Unlock()
	if committing {
		if w.committed, err = w.c.findByFact(ctx, w.vm, w.fact); err != nil || w.committed != "" {
			if err == nil {
				w.in = e
			}
			return err
		}
	}
	if unnoted != nil {
		return fmt.Errorf("%w: its notes could not be kept: %w", ErrLostContent, unnoted)
	}
	for _, d := range disks {
		if d.lacks() {
			return fmt.Errorf("%w: disk %q was written by bytes", ErrLostContent, d.key)
		}
	}
	w.c.settings.Log.Info("the target has lost the session; putting the point back", "vm", w.vm)
	w.in = nil // until all is there
	if err := w.beginIn(ctx, e); err != nil {
		if f, ok := errors.AsType[*Error](err); committing && ok && f.Code == wire.CodeExists && f.Object != "" {
			w.committed, w.in = f.Object, e // it was carried out while we asked
			return nil
		}
		return err
	}
	in := w.in
	w.in = nil
	if err := w.refill(ctx, e, disks, blobs); err != nil {
		if !isLost(err) {
			e.leave(w.ref)
			_, _ = call[*wire.OK](ctx, e, &wire.DropPoint{Writer: w.ref})
		}
		return err
	}
	w.in = in
	return nil
}

// findByFact is the id of the point that carries our fact, empty where there is none.
func (c *Client) findByFact(ctx context.Context, vm, fact string) (string, error) {
	for p, err := range c.listed(ctx, vm) {
		switch {
		case errors.Is(err, ErrCorrupt):
			continue // ours was written a moment ago
		case err != nil:
			return "", err
		case p.Facts[SessionFact] == fact:
			return p.ID, nil
		}
	}
	return "", nil
}

// refill brings disks, what stands in them, and blobs.
func (w *remoteWriter) refill(ctx context.Context, e *epoch, disks []*remoteDisk, blobs []*sentBlob) error {
	for _, d := range disks {
		if err := d.start(ctx, e, w.ref); err != nil {
			return err
		}
	}
	r := &refill{w: w, e: e, disks: disks}
	if err := w.notes.all(func(n note) error { return r.add(ctx, n) }); err != nil {
		return r.why(err)
	}
	if err := r.flush(ctx); err != nil {
		return err
	}
	for _, b := range blobs {
		if err := b.resend(ctx, e, w.ref); err != nil {
			return err
		}
	}
	for _, d := range disks {
		var err error
		switch sealed, dropped := d.state(); {
		case sealed:
			_, err = call[*wire.OK](ctx, e, &wire.SealDisk{Disk: d.ref})
		case dropped:
			_, err = call[*wire.OK](ctx, e, &wire.DropDisk{Disk: d.ref})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// resend brings a blob from its tape.
func (b *sentBlob) resend(ctx context.Context, e *epoch, writer wire.Ref) error {
	if err := b.start(ctx, e, writer); err != nil {
		return err
	}
	r, err := b.tape.reader()
	if err != nil {
		return fmt.Errorf("%w: blob %q: %w", ErrLostContent, b.name, err)
	}
	for off := int64(0); off < b.size; {
		part := make([]byte, min(wire.MaxPart, b.size-off))
		if _, err := io.ReadFull(r, part); err != nil {
			return fmt.Errorf("%w: blob %q: %w", ErrLostContent, b.name, err)
		}
		if _, err := call[*wire.OK](ctx, e, &wire.BlobPart{Blob: b.ref, Off: off, Data: part}); err != nil {
			return err
		}
		off += int64(len(part))
	}
	if b.sealed {
		_, err = call[*wire.OK](ctx, e, &wire.SealBlob{Blob: b.ref, Size: b.size})
	}
	return err
}

// refill carries notes out again, as many at once as a copy has under way. Notes whose ranges overlap are never under
// way together, so that the later one has the last word.
type refill struct {
	w     *remoteWriter
	e     *epoch
	disks []*remoteDisk

	batch  []note
	ranges []pipe.Extent // of the batch, by offset
	own    bool          // the last error is one of making calls
}

// add takes the next note. Notes come by disk in any order; a batch is of one disk.
func (r *refill) add(ctx context.Context, n note) error {
	if int(n.disk) >= len(r.disks) {
		return fmt.Errorf("%w: a note is of disk %d of %d", ErrLostContent, n.disk, len(r.disks))
	}
	if len(r.batch) == wire.MaxIDs || len(r.batch) > 0 && r.batch[0].disk != n.disk || r.overlaps(n.extent) {
		if err := r.flush(ctx); err != nil {
			r.own = true
			return err
		}
	}
	at := r.position(n.extent.Off)
	r.ranges = slices.Insert(r.ranges, at, n.extent)
	r.batch = append(r.batch, n)
	return nil
}

// why says of an error that did not come from the other side that the notes are no good.
func (r *refill) why(err error) error {
	if r.own || errors.Is(err, ErrLostContent) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrLostContent, err)
}

func (r *refill) position(off int64) int {
	return sort.Search(len(r.ranges), func(i int) bool { return r.ranges[i].Off >= off })
}

func (r *refill) overlaps(x pipe.Extent) bool {
	at := r.position(x.Off)
	return at < len(r.ranges) && r.ranges[at].Off < x.End() || at > 0 && r.ranges[at-1].End() > x.Off
}

// flush carries out the batch. Of a disk that was given up nothing needs to be there.
func (r *refill) flush(ctx context.Context) error {
	batch := r.batch
	r.batch, r.ranges = r.batch[:0], r.ranges[:0]
	if len(batch) == 0 {
		return nil
	}
	d := r.disks[batch[0].disk]
	if _, dropped := d.state(); dropped {
		return nil
	}
	known, err := r.query(ctx, d, batch)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(flight.Puts)
	for _, n := range batch {
		g.Go(func() error {
			if n.extent.Kind == pipe.Data {
				return r.place(ctx, d, n, known[n.id])
			}
			_, err := call[*wire.OK](ctx, r.e, &wire.Mark{Disk: d.ref, Extent: n.extent})
			return err
		})
	}
	return g.Wait()
}

// query asks which of the batch's blocks are known.
func (r *refill) query(ctx context.Context, d *remoteDisk, batch []note) (map[pipe.ID]bool, error) {
	known := map[pipe.ID]bool{}
	var ids []pipe.ID
	for _, n := range batch {
		if _, ok := known[n.id]; n.extent.Kind == pipe.Data && !ok {
			known[n.id] = false
			ids = append(ids, n.id)
		}
	}
	if len(ids) == 0 {
		return known, nil
	}
	answers, err := d.query(ctx, r.e, ids)
	if err != nil {
		return nil, err
	}
	for i, id := range ids {
		known[id] = answers[i]
	}
	return known, nil
}

// place puts one block back: by its id where that is enough, else with the content that was kept.
func (r *refill) place(ctx context.Context, d *remoteDisk, n note, known bool) error {
	if known {
		call, _, err := d.put(ctx, r.e, n.extent.Off, n.id, int(n.extent.Len), nil)
		if err == nil {
			r.w.c.count(func(s *Stats) { s.Placed++ })
			if k := r.w.kept.find(n.id); k != nil {
				r.w.kept.placed(k, r.e, call)
			}
		}
		if !errors.Is(err, pipe.ErrNeedBlock) {
			return err
		}
	}
	k := r.w.kept.find(n.id)
	own := k != nil
	if !own {
		k = r.w.c.findKept(n.id)
	}
	if k == nil {
		return fmt.Errorf("%w: block %v at %d of disk %q", ErrLostContent, n.id, n.extent.Off, d.key)
	}
	call, _, err := d.put(ctx, r.e, n.extent.Off, n.id, int(n.extent.Len), k)
	if err != nil {
		return err
	}
	if own {
		r.w.kept.placed(k, r.e, call)
	}
	r.w.c.count(func(s *Stats) { s.Resent += int64(len(k.data)) })
	return nil
}

// findKept looks for a block's content at all writers: one may have been known because another point that is being
// written brought it.
func (c *Client) findKept(id pipe.ID) *kept {
	c.mu.Lock()
	writers := slices.Collect(maps.Keys(c.writers))
	c.mu.Unlock()
	for _, w := range writers {
		if k := w.kept.find(id); k != nil {
			return k
		}
	}
	return nil
}
