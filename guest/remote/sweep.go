package remote

import (
	"context"
	"errors"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest"
)

// Leftover is a deployment of a process that has died, as the proxy's journal has it.
type Leftover struct {
	Guest  string     `json:"guest"`
	Kind   guest.Kind `json:"kind"` // of the way that it came by
	Folder string     `json:"folder"`
}

const maxLeftovers = 256

// leftovers are what dead processes of this proxy may have left in guests.
func (s *Server) leftovers(ctx context.Context) (out []Leftover, err error) {
	if s.opts.Journal == nil {
		return nil, nil
	}
	var errs []error
	for e, err := range s.opts.Journal.Pending(ctx) {
		switch {
		case err != nil:
			errs = append(errs, err)
		case e.Kind == guest.EffectKind && len(out) < maxLeftovers:
			out = append(out, Leftover{e.VM, guest.Kind(e.Facts["way"]), e.Facts["folder"]})
		}
		if len(errs) >= maxLeftovers {
			break
		}
	}
	return out, errors.Join(errs...)
}

// sweep takes away what dead sessions left in a guest, over ways of the kind that it came by.
func (t *task) sweep(ctx context.Context, a *sweepArgs) (*sweepAnswer, error) {
	limit, err := limitOf(a.LimitMillis, deployLimit)
	if err = errors.Join(err, checkGuest(a.Guest)); err != nil {
		return nil, err
	}
	ways, err := t.ways(a.Ways)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	free, err := t.server.slot(ctx)
	if err != nil {
		return nil, err
	}
	defer free()
	return t.server.sweep(ctx, a.Guest, ways)
}

// sweepBefore is the sweep that each visit of a guest begins with. What cannot be swept keeps nobody from the visit.
func (t *task) sweepBefore(ctx context.Context, name string, ways []guest.Way, hide []string) {
	out, err := t.server.sweep(ctx, name, ways)
	log := t.server.log.With("peer", t.peer.Name, "guest", name)
	if err != nil {
		log.Warn("what an earlier process left is still there", "err", failureOf(err, hide).Text)
	}
	if out != nil && out.Undone > 0 {
		log.Info("what an earlier process left was taken away", "components", out.Undone)
	}
}

func (s *Server) sweep(ctx context.Context, name string, ways []guest.Way) (*sweepAnswer, error) {
	out := &sweepAnswer{}
	if s.opts.Journal == nil {
		return out, nil
	}
	s.sweeping.Lock() // the journal hands a dead session's effects to one at a time
	defer s.sweeping.Unlock()
	b := &broom{guest: name, ways: ways}
	defer b.close()
	_, _ = s.opts.Journal.Sweep(ctx, map[string]hikae.Sweeper{guest.EffectKind: b}, nil) // what the broom cannot do it tells itself
	out.Undone, out.Left = b.undone, b.left
	return out, errors.Join(b.errs...)
}

// broom sweeps one guest, over the ways that it has.
type broom struct {
	guest string
	ways  []guest.Way

	open         map[guest.Kind]guest.Channel
	undone, left int
	errs         []error
}

// errOther is what the broom says of effects that it leaves where they are.
var errOther = errors.New("another guest's, or another way's")

// Undo implements [hikae.Sweeper].
func (b *broom) Undo(ctx context.Context, e hikae.Effect, _ []hikae.ChangeID) error {
	if e.VM != b.guest {
		return errOther
	}
	ch, err := b.channel(ctx, guest.Kind(e.Facts["way"]))
	if err == nil {
		err = guest.UndoDeploy(ctx, ch, e)
	}
	switch {
	case err == nil:
		b.undone++
	case errors.Is(err, errOther):
		b.left++
	default:
		b.left++
		b.errs = append(b.errs, err)
	}
	return err
}

func (b *broom) channel(ctx context.Context, kind guest.Kind) (guest.Channel, error) {
	if ch := b.open[kind]; ch != nil {
		return ch, nil
	}
	for _, w := range b.ways {
		if w.Kind() != kind {
			continue
		}
		ch, err := w.Open(ctx)
		if err != nil {
			return nil, err
		}
		if b.open == nil {
			b.open = map[guest.Kind]guest.Channel{}
		}
		b.open[kind] = ch
		return ch, nil
	}
	return nil, errOther
}

func (b *broom) close() {
	for _, ch := range b.open {
		_ = ch.Close()
	}
}
