package mover

import (
	"context"
	"errors"
	"fmt"
	"slices"

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
		case errors.Is(err, ErrLostContent), errors.Is(err, ErrFenced):
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
	own, err := w.look(ctx, e, committing)
	if own != "" {
		w.found(e, own)
	}
	if err != nil || own != "" {
		return err
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
	if err := w.beginIn(ctx, e, nil); err != nil {
		if f, ok := errors.AsType[*Error](err); committing && ok && f.Code == wire.CodeExists && f.Object != "" {
			w.found(e, f.Object) // it was carried out while we asked
			return nil
		}
		return err
	}
	in := w.in
	w.in = nil
	_, err = w.look(ctx, e, false) // a commit that was under way there has ended before ours began
	if err == nil {
		err = w.refill(ctx, e, disks, blobs)
	}
	if err != nil {
		if !isLost(err) {
			w.c.dropPoint(e, w.ref)
		}
		return err
	}
	w.in = in
	return nil
}

// found says that the point is committed. It has no number in this session: the one that it had in another may be
// somebody else's here.
func (w *remoteWriter) found(e *epoch, point string) { w.committed, w.in, w.ref = point, e, 0 }

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
