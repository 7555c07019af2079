package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/guest"
)

func (t *tool) guestRemoveCommand() *cobra.Command {
	f := &waysFlags{}
	cmd := &cobra.Command{
		Use:   "remove GUEST…",
		Short: "Remove what killed sessions left in a guest",
		Long: text(`
Remove from the guest what sessions of this machine wrote down that they made there and never took away: folders,
services, processes. Each is looked for in the guest afterwards. A component goes by itself when it has heard nothing of
its session for a minute; this is for one that was killed too, or for a guest that was off.

Nothing that is not in this machine's own notes (HIKAE_STATE_DIR) is touched.`),
		Example: example(`
hikae guest remove ssh://root@web1`),
		Args: want("GUEST…", "[GUEST]"),
	}
	f.flags(cmd, "")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) { return t.guestRemove(ctx, f, args) })
	return cmd
}

// removeDoc is what remove prints for scripts.
type removeDoc struct {
	Guest   string `json:"guest"`
	Removed int    `json:"removed"`
	Waiting int    `json:"waiting"` // in other guests, or of sessions that are at work
}

func (t *tool) guestRemove(ctx context.Context, f *waysFlags, urls []string) (*reply, error) {
	g, err := t.reachQuietly(ctx, f, urls)
	if err != nil {
		return nil, err
	}
	defer g.Close()
	doc := removeDoc{Guest: g.here.Guest}
	before, err := g.waiting(ctx)
	if err != nil {
		return nil, err
	}
	own := &ownSweeper{guest: doc.Guest, sweeper: g.sweeper()}
	doc.Removed, _ = g.journal.SweepFor(ctx, "", map[string]hikae.Sweeper{guest.EffectKind: own}, nil) // what is wrong here, own knows
	doc.Waiting = before - doc.Removed
	left := &reply{doc: doc, loud: true, text: func(w *show.Printer) error {
		return w.Printf("%s: %d removed, %d wait for other guests or for sessions that are at work\n", outcome.Clean(doc.Guest), doc.Removed, doc.Waiting)
	}}
	if err := errors.Join(own.errs...); err != nil {
		return left, aboutGuest(g.here.Guest, err)
	}
	return left, nil
}

// ownSweeper sweeps one guest, and remembers what it could not. What is in others is no concern of this command.
type ownSweeper struct {
	guest   string
	sweeper hikae.Sweeper
	errs    []error
}

var errOtherGuest = errors.New("another guest's")

// Undo implements [hikae.Sweeper].
func (s *ownSweeper) Undo(ctx context.Context, e hikae.Effect, keep []hikae.ChangeID) error {
	if e.VM != s.guest {
		return errOtherGuest
	}
	err := s.sweeper.Undo(ctx, e, keep)
	if err != nil {
		s.errs = append(s.errs, err)
	}
	return err
}

// waiting counts the effects in guests that nobody has undone.
func (g *guestReached) waiting(ctx context.Context) (n int, err error) {
	for e, err := range g.journal.Pending(ctx) {
		if err != nil {
			return n, err
		}
		if e.Kind == guest.EffectKind {
			n++
		}
	}
	return n, nil
}
