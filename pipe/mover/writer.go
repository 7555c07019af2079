package mover

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// SessionFact is the name of a small property that a client writes into each point: a random number of that one
// attempt. A client whose session was lost while it committed looks for it, so that nothing is committed twice.
const SessionFact = "hikae.mover.session"

// writer is one point that a session writes.
//
// Its life: it claims its VM, which puts aside whatever the same peer was still writing there; waits for its turn; is
// begun at the backend; takes calls; and ends once, by a commit, by being dropped, fenced, or with its session. Its end
// waits for the calls that are under way, whose contexts it cancels, and only then is the backend's writer closed.
type writer struct {
	h        *handler
	claim    claim
	attempt  attempt
	ref      wire.Ref
	pw       pipe.PointWriter
	progress *progress    // nil where only the commit makes durable
	settler  pipe.Settler // nil: there is none

	brought atomic.Int64 // bytes of content, as they came

	gate    gate
	streams gate // blobs that the backend takes
	ctx     context.Context
	cancel  context.CancelCauseFunc
	turn    bool    // it has one to give back
	before  *writer // whom it took the VM from
	ended   chan struct{}
	used    atomic.Int64 // when the last call was made, by the host's clock
	parked  atomic.Int64 // parts of blobs that wait for their predecessors
	failed  atomic.Bool  // a failure was noted; those after it follow from it

	mu    sync.Mutex
	disks map[*disk]struct{}
	blobs map[*blob]struct{}
	whole int // blobs that were sealed
}

var (
	errCommitting = &wire.Fail{Code: wire.CodeClosed, Text: "the point is being committed"}
	errCommitted  = &wire.Fail{Code: wire.CodeClosed, Text: "the point was committed"}
	errDropped    = &wire.Fail{Code: wire.CodeClosed, Text: "the point was dropped"}
	errUnsealed   = &wire.Fail{Code: wire.CodeIncomplete, Text: "the blob was not sealed before the point was committed"}
	errSealing    = &wire.Fail{Code: wire.CodeClosed, Text: "the disk is being sealed"}
	errSealed     = &wire.Fail{Code: wire.CodeClosed, Text: "the disk was sealed"}
)

// begin begins a point.
func (h *handler) begin(ctx context.Context, m *wire.Begin) (wire.Message, error) {
	vm, err := h.space.inner(m.VM)
	if err != nil {
		return nil, err
	}
	if _, ours := m.Facts[SeedFact]; ours && h.who != byFull { // whoever seeds goes by it
		return nil, fmt.Errorf("the fact %s is not a peer's to set: %w", SeedFact, fs.ErrPermission)
	}
	if m.Base != "" && h.who != byFull {
		if _, err := h.own(ctx, m.Base); err != nil {
			return nil, fmt.Errorf("base: %w", err)
		}
	}
	w := &writer{
		h: h, claim: claim{h.peer.Name, vm}, attempt: attempt{h.peer.Name, m.Facts[SessionFact]}, ended: make(chan struct{}),
		disks: map[*disk]struct{}{}, blobs: map[*blob]struct{}{},
	}
	w.ctx, w.cancel = context.WithCancelCause(h.ctx)
	_ = w.gate.enter() // it is new
	err = w.start(ctx, m)
	if err == nil {
		w.ref, err = h.writers.add(w)
	}
	w.gate.leave()
	if err == nil && h.gate.enter() != nil { // Close has begun, and may have looked at the writers already
		err = errSessionEnded
	} else if err == nil {
		h.gate.leave()
	}
	if err != nil {
		w.end(err)
		return nil, err
	}
	if w.progress != nil {
		h.telling.Do(func() { h.ending.Go(h.tell) })
	}
	return &wire.Begun{Writer: w.ref, Key: h.tenant.key}, nil
}

// start takes the writer from its claim to the backend.
func (w *writer) start(ctx context.Context, m *wire.Begin) error {
	ctx, stop := w.both(ctx)
	defer stop()
	before, past := w.h.host.claims.take(w)
	if past != nil {
		return w.overtaken(ctx, past)
	}
	if w.before = before; before != nil {
		w.before.end(errFenced)
		if err := w.before.wait(ctx); err != nil {
			return w.because(err)
		}
		w.before = nil
	}
	if err := w.exists(); err != nil {
		return err
	}
	if err := w.h.host.admission.enter(ctx, w.claim.peer); err != nil {
		return w.because(err)
	}
	w.turn = true
	w.touch()
	opts := &pipe.PointOptions{Base: m.Base, Consistency: m.Consistency, Facts: m.Facts}
	if m.Time != 0 {
		opts.Time = time.Unix(0, m.Time).UTC()
	}
	pw, err := w.h.host.backend.Begin(ctx, w.claim.vm, opts)
	if err != nil {
		return w.because(err)
	}
	w.pw = pw
	w.progress = w.progressOf(pw)
	return nil
}

// exists is the error for an attempt that was committed.
func (w *writer) exists() error {
	point, ok := w.h.host.claims.pointOf(w.attempt)
	if !ok {
		return nil
	}
	return &wire.Fail{Code: wire.CodeExists, Object: point, Text: "this attempt was committed: it is point " + point}
}

// overtaken is the error for an attempt behind which another was begun: the caller was frozen, and has gone on. Its
// commit may still be under way.
func (w *writer) overtaken(ctx context.Context, past <-chan struct{}) error {
	if err := awaitEnd(ctx, past); err != nil {
		return w.because(err)
	}
	if err := w.exists(); err != nil {
		return err
	}
	return errFenced
}

// both is a context that ends with the call's and with the writer's.
func (w *writer) both(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(w.ctx, func() { cancel(context.Cause(w.ctx)) })
	return ctx, func() { stop(); cancel(nil) }
}

// because says why a call that failed did: that the writer was put aside tells more than that its context ended.
func (w *writer) because(err error) error {
	if w.ctx.Err() != nil {
		if why := context.Cause(w.ctx); why != nil {
			return why
		}
	}
	return err
}

// end puts the writer aside, for the first reason that is given, and returns at once; wait waits for it.
func (w *writer) end(why error) {
	if !w.gate.end(why) {
		return
	}
	w.cancel(why)
	w.h.ending.Go(func() {
		defer close(w.ended)
		for _, b := range w.openBlobs() {
			b.abort(why)
		}
		_ = w.gate.wait(context.Background()) // every call has a context that has ended
		_ = w.streams.wait(context.Background())
		for d := range w.disks {
			_ = d.target.Close()
		}
		if w.pw != nil {
			w.settle(why)
			if err := w.pw.Close(); err != nil {
				w.h.log.Warn("a writer did not close well", "vm", w.claim.vm, "err", err)
			}
		}
		if w.turn {
			w.h.host.admission.leave()
		}
		if w.before != nil { // it was put aside while it waited: who waits for it waits for both
			<-w.before.ended
			w.before = nil
		}
		w.h.host.claims.drop(w)
	})
}

// settleTime bounds how long is spent on what a writer that was given up leaves for the next.
const settleTime = 20 * time.Second

// settle makes durable what came before the writer was given up, so that it need not come again: the peer's next attempt
// finds those blocks.
func (w *writer) settle(why error) {
	s, ok := w.pw.(pipe.Settler)
	if !ok || errors.Is(why, errCommitted) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), settleTime)
	defer cancel()
	err := s.Settle(ctx)
	if err == nil {
		err = w.h.tenant.known.sync()
	}
	if err != nil {
		w.h.log.Debug("what a writer leaves could not be made durable, and is sent again", "vm", w.claim.vm, "err", err)
	}
}

// wait waits until the writer has ended and nothing of it is under way.
func (w *writer) wait(ctx context.Context) error { return awaitEnd(ctx, w.ended) }

func awaitEnd(ctx context.Context, ended <-chan struct{}) error {
	t := time.NewTimer(teardown)
	defer t.Stop()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return &wire.Fail{Code: wire.CodeBusy, Text: "what was written to this VM before does not come to its end"}
	}
}

// enter begins a call on the writer. The context that it returns ends with the writer; done is called after the call.
func (w *writer) enter(ctx context.Context) (context.Context, func(), error) {
	if err := w.gate.enter(); err != nil {
		return nil, nil, err
	}
	w.touch()
	ctx, stop := w.both(ctx)
	return ctx, func() { stop(); w.touch(); w.gate.leave() }, nil
}

func (w *writer) touch() { w.used.Store(int64(max(1, w.h.host.clock.now()))) }

// maxIdle is how long a point may hold its turn without a call while others wait for theirs: somebody who has gone, or
// who means to keep others from writing.
const maxIdle = 15 * time.Minute

var errIdle = &wire.Fail{Code: wire.CodeRevoked, Text: "nothing was written to the point for long, and others waited: its turn is over"}

// evict ends points that hold a turn and do nothing with it, if somebody waits. A blob that is open is nothing that is
// done, and neither is a part that waits for one that never comes.
func (h *host) evict(now time.Duration) {
	if h.admission.waiting.Load() == 0 {
		return
	}
	for _, w := range h.claims.all() {
		if used := w.used.Load(); used != 0 && now-time.Duration(used) > maxIdle && w.gate.inside() <= int(w.parked.Load()) {
			w.h.log.Warn("a point was given up: nothing was written to it, and others wait", "vm", w.claim.vm)
			w.end(errIdle)
		}
	}
}

// commit makes the point appear.
func (h *handler) commit(ctx context.Context, m *wire.Commit) (wire.Message, error) {
	w, err := h.writers.get(m.Writer)
	if err != nil {
		return nil, err
	}
	if len(w.openBlobs()) > 0 { // a part of one may be under way for long
		return nil, w.because(errUnsealed)
	}
	ctx, stop := w.both(ctx)
	defer stop()
	if err := w.gate.enterAlone(ctx, errCommitting); err != nil {
		return nil, w.because(err)
	}
	point, err := "", error(errUnsealed)
	if len(w.openBlobs()) == 0 {
		point, err = w.pw.Commit(ctx, m.Tracking)
	}
	if err != nil {
		err = w.because(err)
		w.gate.leave()
		w.gate.reopen()
		return nil, err
	}
	h.host.claims.committed(w.attempt, point)
	h.totals.keep(m.Writer, w.usage())
	w.gate.leave()
	if err := h.tenant.known.sync(); err != nil {
		h.log.Warn("the table of known blocks could not be synced", "err", err)
	}
	_, _ = h.writers.take(m.Writer)
	w.forget()
	w.end(errCommitted)
	h.log.Info("a point was committed", "point", point)
	return &wire.Committed{Point: point}, nil
}

// dropPoint abandons a point, and answers when nothing of it is under way any more.
func (h *handler) dropPoint(ctx context.Context, m *wire.DropPoint) error {
	w, err := h.writers.take(m.Writer)
	if err != nil {
		return err
	}
	w.forget()
	w.end(errDropped)
	return w.wait(ctx)
}

// forget takes the numbers of the point's disks back.
func (w *writer) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for d := range w.disks {
		_, _ = w.h.disks.take(d.ref)
	}
}

func (h *handler) usage(m *wire.Usage) (wire.Message, error) {
	if u, ok := h.totals.of(m.Writer); ok { // packs are sealed, and get their parity, by the commit
		return u, nil
	}
	w, err := h.writers.get(m.Writer)
	if err != nil {
		return nil, err
	}
	if err := w.gate.enter(); err != nil {
		return nil, err
	}
	defer w.gate.leave()
	u := w.usage()
	if u == nil {
		return nil, fmt.Errorf("this target does not count: %w", errors.ErrUnsupported)
	}
	return u, nil
}

// usage is what a peer is told of what its point added; nil where the backend does not count.
func (w *writer) usage() *wire.UsageIs {
	if w.h.who != byFull { // what the repository took tells what others have in it
		return &wire.UsageIs{Stored: w.brought.Load()}
	}
	a, ok := w.pw.(pipe.Accountant)
	if !ok {
		return nil
	}
	u := a.Usage()
	return &wire.UsageIs{Stored: max(0, u.Stored), Parity: max(0, u.Parity)}
}

// committedTotals are the usages of the points that a session committed last.
type committedTotals struct {
	mu    sync.Mutex
	by    map[wire.Ref]*wire.UsageIs
	order []wire.Ref
}

// maxTotals bounds them: who asks does so right behind the commit.
const maxTotals = 64

func (t *committedTotals) keep(ref wire.Ref, u *wire.UsageIs) {
	if u == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.by == nil {
		t.by = map[wire.Ref]*wire.UsageIs{}
	}
	if len(t.order) == maxTotals {
		delete(t.by, t.order[0])
		t.order = t.order[1:]
	}
	t.by[ref], t.order = u, append(t.order, ref)
}

func (t *committedTotals) of(ref wire.Ref) (*wire.UsageIs, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	u, ok := t.by[ref]
	return u, ok
}

// openBlobs are those that are begun and not sealed.
func (w *writer) openBlobs() (list []*blob) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for b := range w.blobs {
		list = append(list, b)
	}
	return list
}
