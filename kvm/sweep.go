package kvm

import (
	"context"
	"errors"
	"fmt"

	"github.com/hikae/hikae"
)

// Kinds of effects, in the order in which a session writes them down. They are undone in the opposite order.
const (
	kindBitmap = "kvm.bitmap" // the bitmaps that begin with the snapshot
	kindFleece = "kvm.fleece" // fleecing images, filters and the nodes above them
	kindFreeze = "kvm.freeze" // file systems of the guest
	kindPause  = "kvm.pause"  // the guest's processors
	kindExport = "kvm.export" // the NBD server and its exports
)

// Undo implements [hikae.Sweeper] for all kinds that begin with "kvm.". It touches what bears the session's mark and
// nothing else. Where QEMU has ended, only files are left to remove, and bitmaps in images that are not open: those are
// an error, and go when the machine runs again.
//
// A point that was committed before the session died keeps its bitmaps, and the base that it replaced loses its own, as
// the session's Commit would have done.
func (p *Provider) Undo(ctx context.Context, e hikae.Effect, keep []hikae.ChangeID) error {
	switch e.Kind {
	case kindImages:
		return p.undoImages(ctx, e, keep)
	case kindPlace:
		return p.undoPlace(ctx, e)
	case kindDraft:
		return undoDraft(e)
	}
	f, err := footprintOf(e)
	if err != nil {
		return err
	}
	mon, err := p.monitor(ctx, f.machine())
	if gone(err) && e.Kind == kindBitmap && f.filed() {
		return p.undoBitmapsOff(ctx, &f, keep)
	}
	if gone(err) {
		return f.undoWithout(e.Kind, err)
	}
	if err != nil {
		return err
	}
	defer mon.Close()
	switch e.Kind {
	case kindExport:
		return f.removeExports(ctx, mon)
	case kindFreeze:
		return f.undoFreeze(ctx, mon, e.Facts["agent"], e.Facts["process"])
	case kindPause:
		return f.unpause(ctx, mon)
	case kindFleece:
		return f.removeSession(ctx, mon)
	case kindBitmap:
		return f.undoBitmaps(ctx, mon, keep)
	}
	return fmt.Errorf("effect %s: %w", e.Kind, errors.ErrUnsupported)
}

// undoWithout is what there is to do where no QEMU is.
func (f *footprint) undoWithout(kind string, dial error) error {
	switch kind {
	case kindFleece:
		return f.removeFiles()
	case kindBitmap:
		return fmt.Errorf("bitmaps of %s: they may be in the machine's images; they are removed when the machine runs again: %w", f.Mark, dial)
	}
	return nil
}

// undoFreeze thaws, if it is still the machine that was frozen: it has nodes of the session, or, where those could be
// removed and the guest not be thawed, is the same process.
func (f *footprint) undoFreeze(ctx context.Context, mon monitor, agent, process string) error {
	nodes, err := takeNodes(ctx, mon)
	if err != nil || !f.lives(nodes) && (process == "" || process != processOf(mon)) {
		return err
	}
	return agentLink{agent, f.Domain}.thaw(ctx)
}

// unpause lets a machine go on that a session stopped and did not live to continue.
func (f *footprint) unpause(ctx context.Context, mon monitor) error {
	nodes, err := takeNodes(ctx, mon)
	if err != nil || !f.lives(nodes) {
		return err
	}
	status, err := runState(ctx, mon)
	if err != nil || status != "paused" {
		return err
	}
	return mon.Execute(ctx, "cont", nil, nil)
}

// undoBitmaps goes back to the base, or on to the point that was committed.
func (f *footprint) undoBitmaps(ctx context.Context, mon monitor, keep []hikae.ChangeID) error {
	drop := dropOf(f.Mark, keep)
	return f.removeBitmaps(ctx, mon, func(d disk) []string { return drop(d.Base, d.Next, d.Old) })
}
