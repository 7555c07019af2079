package hyperv

import (
	"context"
	"errors"
	"fmt"

	"github.com/hikae/hikae"
)

var errNotYet = errors.New("this is not there yet")

// undoers undo effects, by kind. Undoing what never happened, or was undone already, is no error. Each file that makes effects adds
// its kinds here. Every effect's facts name the site as "site" and the host that it was made on as "host"; the VM may have moved.
var undoers = map[string]func(ctx context.Context, p *Provider, e hikae.Effect, keep []hikae.ChangeID) error{}

// Undo implements [hikae.Sweeper] for effects on the provider's site.
func (p *Provider) Undo(ctx context.Context, e hikae.Effect, keep []hikae.ChangeID) error {
	if site := e.Facts["site"]; site != p.site.Address() {
		return fmt.Errorf("effect %s was made on %s, this is %s: %w", e.ID, site, p.site.Address(), errors.ErrUnsupported)
	}
	f := undoers[e.Kind]
	if f == nil {
		return fmt.Errorf("effect %s: %q is unknown", e.ID, e.Kind)
	}
	return f(ctx, p, e, keep)
}
