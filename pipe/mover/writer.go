package mover

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
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
	progress *progress // nil where only the commit makes durable

	brought atomic.Int64 // bytes of content, as they came

	gate   gate
	ctx    context.Context
	cancel context.CancelCauseFunc
	turn   bool    // it has one to give back
	before *writer // whom it took the VM from
	ended  chan struct{}
	used   atomic.Int64 // when the last call was made, in nanoseconds

	mu    sync.Mutex
	disks map[*disk]struct{}
	blobs map[*blob]struct{}
}

// claim is what only one writer of a peer has at a time.
type claim struct{ peer, vm string }

// attempt is a client's own number for one try to write a point.
type attempt struct{ peer, number string }

// claims are the points that are being written, and the last attempts that were committed.
type claims struct {
	mu   sync.Mutex
	by   map[claim]*writer
	done map[attempt]string // the point's id
	old  []attempt          // in their order
}

// maxAttempts is how many committed attempts are remembered. Who asks for one asks within the hour that a client waits.
const maxAttempts = 4096

func newClaims() *claims { return &claims{by: map[claim]*writer{}, done: map[attempt]string{}} }

// committed remembers what an attempt became.
func (c *claims) committed(a attempt, point string) {
	if a.number == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.old) == maxAttempts {
		delete(c.done, c.old[0])
		c.old = slices.Delete(c.old, 0, 1)
	}
	c.done[a] = point
	c.old = append(c.old, a)
}

// pointOf is what an attempt became.
func (c *claims) pointOf(a attempt) (point string, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	point, ok = c.done[a]
	return point, ok
}

// all are the points that are being written.
func (c *claims) all() []*writer {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Values(c.by))
}

// take hands the claim over to w and returns who had it.
func (c *claims) take(w *writer) (before *writer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before = c.by[w.claim]
	c.by[w.claim] = w
	return before
}

// drop gives a claim up, if it is still w's.
func (c *claims) drop(w *writer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by[w.claim] == w {
		delete(c.by, w.claim)
	}
}

var (
	errFenced     = &wire.Fail{Code: wire.CodeFenced, Text: "a later session of this peer writes this VM now: nothing of this one counts"}
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
	if w.before = w.h.host.claims.take(w); w.before != nil {
		w.before.end(errFenced)
		if err := w.before.wait(ctx); err != nil {
			return w.because(err)
		}
		w.before = nil
	}
	if point, ok := w.h.host.claims.pointOf(w.attempt); ok {
		return &wire.Fail{Code: wire.CodeExists, Object: point, Text: "this attempt was committed: it is point " + point}
	}
	if err := w.h.host.admission.enter(ctx); err != nil {
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
	if d, ok := pw.(pipe.Durable); ok {
		w.progress = newProgress(d)
	}
	return nil
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
func (w *writer) wait(ctx context.Context) error {
	t := time.NewTimer(teardown)
	defer t.Stop()
	select {
	case <-w.ended:
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

func (w *writer) touch() { w.used.Store(time.Now().UnixNano()) }

// maxIdle is how long a point may hold its turn without a call while others wait for theirs: somebody who has gone, or
// who means to keep others from writing.
const maxIdle = 15 * time.Minute

var errIdle = &wire.Fail{Code: wire.CodeRevoked, Text: "nothing was written to the point for long, and others waited: its turn is over"}

// evict ends points that hold a turn and do nothing with it, if somebody waits.
func (h *host) evict(now time.Time) {
	if h.admission.waiting.Load() == 0 {
		return
	}
	for _, w := range h.claims.all() {
		if used := w.used.Load(); used != 0 && now.Sub(time.Unix(0, used)) > maxIdle && !w.gate.inside() {
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
	for _, b := range w.openBlobs() {
		b.abort(errUnsealed)
	}
	ctx, stop := w.both(ctx)
	defer stop()
	if err := w.gate.enterAlone(ctx, errCommitting); err != nil {
		return nil, w.because(err)
	}
	point, err := w.pw.Commit(ctx, m.Tracking)
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

// tellEvery is how often the caller hears what has become durable.
const tellEvery = 200 * time.Millisecond

// tell says what has become durable, until the session ends.
func (h *handler) tell() {
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	for {
		select {
		case <-h.ctx.Done():
			return
		case <-tick.C:
		}
		for ref, w := range h.writers.each() {
			if w.progress == nil {
				continue
			}
			// The frontier first: a call below it is known to its writer already.
			if below, grown := w.progress.news(h.seen.at()); grown {
				h.push(&wire.Durable{Writer: ref, Below: below})
			}
		}
	}
}
