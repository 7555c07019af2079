package guest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hikae/hikae"
)

// Sweeper undoes effects of kind [EffectKind]: it takes away what a session that was killed left in a guest.
type Sweeper struct {
	// Way is the way of that kind into a guest, by the name that the effect has for it.
	Way func(ctx context.Context, guest string, kind Kind) (Way, error)
}

var _ hikae.Sweeper = (*Sweeper)(nil)

const sweepLimit = 2 * time.Minute

// Undo implements [hikae.Sweeper]. It returns nil when it has looked in the guest and found nothing of that effect. A
// guest that cannot be reached keeps its effect until a later sweep.
func (s *Sweeper) Undo(ctx context.Context, e hikae.Effect, _ []hikae.ChangeID) error {
	ctx, cancel := bounded(ctx, sweepLimit)
	defer cancel()
	kind := Kind(e.Facts["way"])
	if err := (Order{kind}).Check(); err != nil || e.Kind != EffectKind {
		return fmt.Errorf("effect %s of kind %q is not one of a component: %w", e.ID, e.Kind, errors.Join(err, errPath))
	}
	way, err := s.Way(ctx, e.VM, kind)
	if err != nil {
		return &StepError{Guest: e.VM, Step: "connect", Err: err}
	}
	for try := 0; ; try++ {
		err := undoOver(ctx, way, e)
		if err == nil || try == Reconnects || !LinkBroke(err) || pause(ctx, reconnectWait) != nil {
			return err
		}
	}
}

func undoOver(ctx context.Context, way Way, e hikae.Effect) error {
	ch, err := way.Open(ctx)
	if err != nil {
		return &StepError{Guest: e.VM, Step: "connect", Err: err}
	}
	return errors.Join(UndoDeploy(ctx, ch, e), ignoreClosed(ch.Close()))
}
