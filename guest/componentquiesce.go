package guest

import (
	"context"
	"errors"
	"sync"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest/agent/wire"
)

// ErrNothingFrozen says that there was nothing in the guest that could be frozen, and no application that holds still.
var ErrNothingFrozen = errors.New("nothing in the guest could be frozen")

// Quiesce makes a quiescer of a component, for one snapshot.
func (c *Component) Quiesce(args wire.FreezeArgs) *Quiesce { return &Quiesce{component: c, args: args} }

// Quiesce freezes and thaws one guest by its component, and remembers what it was told.
type Quiesce struct {
	component *Component
	args      wire.FreezeArgs

	mu     sync.Mutex
	froze  bool // Freeze went well, and Thaw was not called yet
	frozen wire.FreezeAnswer
	thawed wire.ThawAnswer
}

var _ hikae.Quiescer = (*Quiesce)(nil)

// Freeze implements [hikae.Quiescer]. Where nothing holds still it thaws and is ErrNothingFrozen.
func (q *Quiesce) Freeze(ctx context.Context) error {
	a, err := q.component.Freeze(ctx, q.args)
	if err != nil {
		return err
	}
	q.mu.Lock()
	q.frozen, q.froze = a, true
	q.mu.Unlock()
	if len(a.Frozen) == 0 && !anyOK(a.Applications) {
		return errors.Join(ErrNothingFrozen, q.Thaw(context.WithoutCancel(ctx)))
	}
	return nil
}

// Thaw implements [hikae.Quiescer]: where the guest had thawed before, after a Freeze that went well, the error is
// [hikae.ErrThawedEarly].
func (q *Quiesce) Thaw(ctx context.Context) error {
	a, err := q.component.Thaw(ctx)
	q.mu.Lock()
	defer q.mu.Unlock()
	froze := q.froze
	if err != nil {
		return err
	}
	if q.froze = false; !froze {
		return nil
	}
	q.thawed = a
	if !a.Held {
		return hikae.ErrThawedEarly
	}
	return nil
}

// Frozen is what Freeze was answered.
func (q *Quiesce) Frozen() wire.FreezeAnswer {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.frozen
}

// Thawed is what the Thaw after it was answered.
func (q *Quiesce) Thawed() wire.ThawAnswer {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.thawed
}

func anyOK(outcomes []wire.Outcome) bool {
	for _, o := range outcomes {
		if o.OK {
			return true
		}
	}
	return false
}
