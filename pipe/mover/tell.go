package mover

import (
	"context"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// tellEvery is how often the caller hears what has become durable.
const tellEvery = 200 * time.Millisecond

// When what came is made durable though nobody asked for it. A caller keeps content until it is durable, and at most
// undurable bytes of it; of several points at once none may have filled a pack by then.
const (
	undurable   = 96 << 20        // as the session grants
	settleAt    = undurable / 2   // unsettled bytes of a session
	hushedAt    = undurable / 3   // the same, where nothing is told without a settling: the line shall not wait for it
	settleIdle  = 2 * time.Second // after so long without news: the caller has no room left, or its line is bad
	settleEvery = time.Second     // each settling may leave a pack that is not full
)

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
		unsettled := int64(0)
		writers := h.writers.each()
		for ref, w := range writers {
			if w.progress == nil {
				continue
			}
			// The frontier first: a call below it is known to its writer already.
			if below, grown := w.progress.news(h.seen.at()); grown {
				h.push(&wire.Durable{Writer: ref, Below: below})
			}
			unsettled += w.progress.unsettled()
		}
		full := unsettled > settleAt || h.who != byFull && unsettled > hushedAt
		for _, w := range writers {
			if w.progress != nil && w.settler != nil && w.progress.due(full, time.Now()) {
				h.ending.Go(w.settleNow) // tell itself is counted, so that nobody has waited in vain
			}
		}
	}
}

// due reports whether it is time to settle, and takes it on.
func (p *progress) due(full bool, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.prune()
	idle := len(p.working) == 0 && now.Sub(p.last) >= settleIdle
	brought := p.brought()
	wait := settleEvery
	if full && brought > hushedAt/2 { // the pack that it leaves is not the smallest
		wait = 0
	}
	if p.settling || len(p.placed) == 0 || !idle && !(full && brought > 0) || now.Sub(p.tried) < wait {
		return false
	}
	p.settling, p.tried = true, now
	if idle { // how long it takes tells whether there was anything to store
		p.reveal = now.Add(settleEvery)
	}
	return true
}

// settleNow makes durable what calls that are over have put. It counts as a call: a commit, or the writer's end, comes
// behind it.
func (w *writer) settleNow() {
	p := w.progress
	below, cut := p.cut(w.h.seen.at())
	err := w.gate.enter()
	if err == nil {
		ctx, cancel := context.WithTimeout(w.ctx, settleTime)
		err = w.settler.Settle(ctx)
		cancel()
		w.gate.leave()
	}
	p.over(below, cut, err == nil)
	if err != nil && w.ctx.Err() == nil {
		w.h.log.Debug("what came could not be made durable for now", "vm", w.claim.vm, "err", err)
	}
}

// cut is what a settling that begins now settles: all calls below a number.
func (p *progress) cut(frontier uint64) (below uint64, cut []placed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hushed {
		cut, p.placed = p.placed, nil
	}
	return p.lowest(frontier), cut
}

// over is the end of a settling. Without success its part is there to be settled still.
func (p *progress) over(below uint64, cut []placed, done bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settling = false
	switch {
	case !p.hushed:
	case done:
		p.settled = max(p.settled, below)
	case len(p.placed) == 0:
		p.placed = cut
	default:
		for _, c := range cut {
			p.placed[0].lowest = min(p.placed[0].lowest, c.lowest)
			p.placed[0].bytes += c.bytes
		}
	}
}

// progressOf is how to know what of a point is durable; nil where only its commit tells. An append peer hears of what
// was settled only, so that where nobody can settle it hears nothing.
func (w *writer) progressOf(pw pipe.PointWriter) *progress {
	d, ok := pw.(pipe.Durable)
	w.settler, _ = pw.(pipe.Settler)
	hushed := w.h.who != byFull
	if !ok || hushed && w.settler == nil {
		return nil
	}
	return newProgress(d, hushed)
}
