package mover

import (
	"context"
	"errors"
	"fmt"

	"github.com/hikae/hikae/pipe/mover/wire"
)

// standing is which points a VM had, as far as the other side could tell.
//
// It is looked at when a point has been begun, and again before and behind each Begin that puts the point back. A mover that
// was frozen for hours finds there what its successor has committed meanwhile, also where the target was started anew and
// remembers no attempt: nothing that it has read counts any more (PROTOCOL.md 7.8).
type standing struct {
	points  map[string]struct{} // ids, without our own
	own     string              // the point that carries our fact; empty: there is none
	damaged int                 // how many could not be read
	damage  error               // the first of those
}

// standingIn lists the VM's points in a session. An error is one of the listing itself.
func (w *remoteWriter) standingIn(ctx context.Context, e *epoch) (*standing, error) {
	s := &standing{points: map[string]struct{}{}}
	list := listedBy(w.vm, func(m *wire.Points) (*wire.PointList, error) { return call[*wire.PointList](ctx, e, m) })
	for p, err := range list {
		switch {
		case errors.Is(err, ErrCorrupt):
			s.damaged++
			if s.damage == nil {
				s.damage = err
			}
		case err != nil:
			return nil, err
		case p.Facts[SessionFact] == w.fact:
			s.own = p.ID
		default:
			s.points[p.ID] = struct{}{}
		}
	}
	return s, nil
}

// overtaken is nil as long as nobody else has committed a point of the VM since ours was begun. Where that cannot be told,
// because points could not be read then or cannot be now, it is an error as well.
func (w *remoteWriter) overtaken(now *standing) error {
	for id := range now.points {
		switch _, there := w.first.points[id]; {
		case there:
		case w.first.damage != nil:
			return fmt.Errorf("%w: whether point %q of VM %q is newer than this one cannot be told: %w", ErrLostContent, id, w.vm, w.first.damage)
		default:
			return fmt.Errorf("%w: point %q of VM %q was committed by another since this one was begun", ErrFenced, id, w.vm)
		}
	}
	if now.damaged > w.first.damaged {
		return now.damage
	}
	return nil
}

// look is how the VM stands now, and whether our point may be put back into it. The gate is closed.
func (w *remoteWriter) look(ctx context.Context, e *epoch, committing bool) (own string, err error) {
	now, err := w.standingIn(ctx, e)
	switch {
	case err != nil:
		return "", err
	case committing && now.own != "":
		return now.own, nil
	case committing && now.damage != nil: // ours may be the one that cannot be read: it must not be committed again
		return "", fmt.Errorf("whether the point was committed cannot be told: %w", now.damage)
	}
	return "", w.overtaken(now)
}
