package mover

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zeebo/blake3"
	"golang.org/x/sync/semaphore"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// everyone is all of a writer's gate: a call takes one of it, a replay all.
const everyone = 1 << 30

// remoteWriter writes a point on the other side.
//
// Its life: begun in a session; calls go through the gate side by side; each placement and mark is noted once it was
// carried out, each content kept until it is durable. When the session turns out to be lost, the first call that
// notices closes the gate, replays the point in the next session (replay.go), opens the gate, and goes on. Commit or
// Close end it.
type remoteWriter struct {
	c    *Client
	vm   string
	opts pipe.PointOptions
	fact string

	first *standing // of the VM when the point was begun

	gate  *semaphore.Weighted
	notes *notes
	kept  *keeper

	// Written with the gate closed, read by who is inside.
	in     *epoch
	ref    wire.Ref // 0: the point is committed, and has no number in this session
	key    [32]byte
	hasher *blake3.Hasher // keyed; cloned for use

	progress  atomic.Bool // something that counts was carried out since the last replay
	replays   int         // in a row, without progress; written with the gate closed
	committed string      // the point's id, once it is known

	mu         sync.Mutex
	disks      []*remoteDisk
	blobs      []*sentBlob
	ended      bool
	committing bool  // a commit may have been carried out
	failed     error // the point cannot be put back any more
	unnoted    error // something that was carried out is not in the notes
	stored     int64 // as the placements told
	usage      pipe.Usage
}

var _ interface {
	pipe.PointWriter
	pipe.Accountant
} = (*remoteWriter)(nil)

// Begin is as pipe.Backend has it. Where the mover writes as many points as it may, it waits for its turn.
func (c *Client) Begin(ctx context.Context, vm string, opts *pipe.PointOptions) (pipe.PointWriter, error) {
	w := &remoteWriter{c: c, vm: vm, gate: semaphore.NewWeighted(everyone), notes: newNotes(c.settings.CacheDir), kept: newKeeper(c.window)}
	if opts != nil {
		w.opts = *opts
	}
	if len(w.opts.Base) > wire.MaxName {
		return nil, fmt.Errorf("base %.40q: %w", w.opts.Base, fs.ErrNotExist)
	}
	if len(vm) > wire.MaxName {
		return nil, fmt.Errorf("VM %.40q…: %w", vm, fs.ErrInvalid)
	}
	if w.opts.Time.IsZero() {
		w.opts.Time = time.Now() // here, so that a replay says the same
	}
	var nonce [16]byte
	_, _ = rand.Read(nonce[:]) // never fails
	w.fact = hex.EncodeToString(nonce[:])
	w.opts.Facts = maps.Clone(w.opts.Facts)
	if w.opts.Facts == nil {
		w.opts.Facts = map[string]string{}
	}
	w.opts.Facts[SessionFact] = w.fact
	if err := w.begin(ctx); err != nil {
		w.kept.close()
		w.notes.close()
		return nil, err
	}
	c.mu.Lock()
	c.writers[w] = struct{}{}
	c.mu.Unlock()
	return w, nil
}

// begin begins the point for the first time.
func (w *remoteWriter) begin(ctx context.Context) error {
	for try := 1; ; try++ {
		e, err := w.c.session(ctx)
		if err != nil {
			return err
		}
		err = w.beginIn(ctx, e, w.c.turns)
		if err == nil {
			err = w.lookFirst(ctx, e)
		}
		if !isLost(err) {
			return err
		}
		w.c.lost(e)
		if try > w.c.settings.Replays {
			return err
		}
	}
}

// maxBegins is how many points of a client wait for their turn there at once; others wait here. Each takes one of the calls
// that may be under way, and those that are being written need them to come to an end.
const maxBegins = 16

// callBegin makes the call once there is a place among turns; nil needs none.
func (w *remoteWriter) callBegin(ctx context.Context, e *epoch, turns chan struct{}) (*wire.Begun, error) {
	ended := func() {}
	if turns != nil {
		select {
		case turns <- struct{}{}:
			ended = func() { <-turns }
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-w.c.life.Done():
			return nil, errClientClosed
		}
	}
	req := &wire.Begin{VM: w.vm, Base: w.opts.Base, Time: w.opts.Time.UnixNano(), Consistency: w.opts.Consistency, Facts: w.opts.Facts}
	undo := func(a *wire.Begun) wire.Message { return &wire.DropPoint{Writer: a.Writer} }
	return openCallThen(ctx, e, req, undo, ended)
}

// lookFirst notes what the VM has when the point was begun: behind the Begin, which has waited for whatever was under way.
func (w *remoteWriter) lookFirst(ctx context.Context, e *epoch) (err error) {
	if w.first, err = w.standingIn(ctx, e); err == nil || isLost(err) {
		return err
	}
	if ctx.Err() != nil {
		w.c.dropPoint(e, w.ref)
		return err
	}
	w.c.settings.Log.Warn("the points of a VM cannot be listed, so a restart of the target would end its backup", "vm", w.vm, "err", err)
	w.first = &standing{damage: err}
	return nil
}

// beginIn begins the point in a session. A mover that is busy is asked again. A point that is put back waits for no place
// among turns: there are no more of those than a session may write.
func (w *remoteWriter) beginIn(ctx context.Context, e *epoch, turns chan struct{}) error {
	a, err := w.callBegin(ctx, e, turns)
	for wait := time.Second; errors.Is(err, ErrBusy); wait = min(2*wait, 15*time.Second) {
		if err = sleep(ctx, wait); err == nil {
			a, err = w.callBegin(ctx, e, turns)
		}
		if ctx.Err() != nil && err != nil {
			return fmt.Errorf("%w: %w", ctx.Err(), ErrBusy)
		}
	}
	if err != nil {
		return err
	}
	if a.Writer == 0 {
		return malformed("a point was begun that has no number")
	}
	if w.hasher != nil && a.Key != w.key {
		w.c.dropPoint(e, a.Writer)
		return fmt.Errorf("%w: the mover names blocks by another key now", ErrLostContent)
	}
	if w.hasher == nil {
		if w.hasher, err = blake3.NewKeyed(a.Key[:]); err != nil {
			return err
		}
	}
	w.in, w.ref, w.key = e, a.Writer, a.Key
	e.enter(a.Writer, w)
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// do carries out op on a point that is not committed.
func (w *remoteWriter) do(ctx context.Context, op func(e *epoch) error) error {
	return w.inside(ctx, func(e *epoch) error {
		if w.ref == 0 { // a replay found it; its disks' numbers are of another session, too
			return fmt.Errorf("the point is committed: %w", fs.ErrClosed)
		}
		return op(e)
	})
}

// inside carries out op inside the gate, in a session that knows the point. Where the session turns out to be lost, the
// point is put back in another, and op is carried out again: nothing of what it did before exists any more.
func (w *remoteWriter) inside(ctx context.Context, op func(e *epoch) error) error {
	for {
		if err := w.enter(ctx); err != nil {
			return err
		}
		e := w.in
		err := op(e)
		w.gate.Release(1)
		if !isLost(err) {
			return err
		}
		w.c.lost(e)
	}
}

// enter goes through the gate once the point is there.
func (w *remoteWriter) enter(ctx context.Context) error {
	for {
		if err := w.gate.Acquire(ctx, 1); err != nil {
			return err
		}
		err := w.usable()
		if err == nil && w.in != nil && w.in == w.c.current.Load() {
			return nil
		}
		w.gate.Release(1)
		if err != nil {
			return err
		}
		if err := w.resume(ctx); err != nil {
			return err
		}
	}
}

func (w *remoteWriter) usable() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed != nil {
		return w.failed
	}
	if w.ended {
		return fmt.Errorf("the point is committed or closed: %w", fs.ErrClosed)
	}
	return nil
}

// noted takes the result of a note. Without its notes a writer goes on; it only cannot be put back.
func (w *remoteWriter) noted(err error) {
	if err == nil {
		return
	}
	w.mu.Lock()
	first := w.unnoted == nil && !w.ended
	if first {
		w.unnoted = err
	}
	w.mu.Unlock()
	if first {
		w.c.settings.Warn(fmt.Sprintf("notes cannot be kept, so a restart of the target would end this backup: %v", err))
	}
}

// settle is told by the session.
func (w *remoteWriter) settle(e *epoch, below uint64) { w.kept.settle(e, below) }

// Disk is as pipe.PointWriter has it. What the target can do is what the disk on the other side can.
func (w *remoteWriter) Disk(ctx context.Context, key string, size int64) (pipe.Target, error) {
	if size < 0 || len(key) > wire.MaxName {
		return nil, fmt.Errorf("disk %.40q of %d bytes: %w", key, size, fs.ErrInvalid)
	}
	d := &remoteDisk{w: w, key: key, size: size}
	err := w.do(ctx, func(e *epoch) error {
		if err := d.start(ctx, e, w.ref); err != nil {
			return err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.disks) > maxNoted {
			return fmt.Errorf("more than %d disks: %w", maxNoted, fs.ErrInvalid)
		}
		d.number = uint16(len(w.disks))
		w.disks = append(w.disks, d)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return d.target(), nil
}

// maxNoted bounds the disks of a point by what a note has room for. A repository takes far fewer.
const maxNoted = 1<<16 - 2

// Usage is as pipe.Accountant has it. Where the other side cannot be asked, it is what is known here.
func (w *remoteWriter) Usage() pipe.Usage {
	var far *wire.UsageIs
	if w.usable() == nil {
		far = w.askUsage()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if far != nil {
		w.usage = pipe.Usage{Stored: far.Stored, Parity: far.Parity}
	}
	w.usage.Stored = max(w.usage.Stored, w.stored)
	return w.usage
}

// askUsage is what the other side says, nil where it does not.
func (w *remoteWriter) askUsage() *wire.UsageIs {
	ctx, cancel := context.WithTimeout(w.c.life, usageWait)
	defer cancel()
	if w.gate.Acquire(ctx, 1) != nil {
		return nil
	}
	defer w.gate.Release(1)
	if w.in == nil || w.ref == 0 || w.in.gone.Load() {
		return nil
	}
	far, err := call[*wire.UsageIs](ctx, w.in, &wire.Usage{Writer: w.ref})
	if err != nil {
		return nil
	}
	return far
}

// usageWait bounds a question that has no context of its caller.
const usageWait = 10 * time.Second

// Commit is as pipe.PointWriter has it. Where the answer was lost with the session, the point is looked for by its
// fact before it is committed again.
func (w *remoteWriter) Commit(ctx context.Context, tracking map[string]string) (string, error) {
	err := w.inside(ctx, func(e *epoch) error {
		if w.committed != "" {
			return nil // the replay found it
		}
		w.mu.Lock()
		w.committing = true
		w.mu.Unlock()
		a, err := call[*wire.Committed](ctx, e, &wire.Commit{Writer: w.ref, Tracking: tracking})
		if err != nil {
			return err
		}
		if a.Point == "" {
			return malformed("a point was committed that has no id")
		}
		w.committed = a.Point
		return nil
	})
	if err != nil {
		w.finish(true)
		return "", err
	}
	w.Usage() // once more while the other side remembers: the last pack and its parity are in it
	w.finish(false)
	return w.committed, nil
}

// Close is as pipe.PointWriter has it.
func (w *remoteWriter) Close() error {
	w.finish(true)
	return nil
}

// finish ends the writer. Where drop is set, the point is abandoned on the other side as well.
func (w *remoteWriter) finish(drop bool) {
	w.mu.Lock()
	was := w.ended
	w.ended = true
	w.mu.Unlock()
	if was {
		return
	}
	w.c.mu.Lock()
	delete(w.c.writers, w)
	w.c.mu.Unlock()
	w.c.afterwards(closeWait, func(ctx context.Context) { w.depart(ctx, drop) })
	w.kept.close()
	w.notes.close()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range w.blobs {
		b.tape.close()
	}
	w.blobs = nil
}

// depart leaves the session, once nobody is inside the gate.
func (w *remoteWriter) depart(ctx context.Context, drop bool) {
	if w.gate.Acquire(ctx, everyone) != nil {
		return
	}
	e, ref := w.in, w.ref
	w.gate.Release(everyone)
	if e == nil || ref == 0 || e.gone.Load() {
		return
	}
	if drop {
		_, _ = call[*wire.OK](ctx, e, &wire.DropPoint{Writer: ref})
	}
	e.leave(ref)
}
