package vmware

import (
	"context"
	"fmt"

	"github.com/hikae/hikae"
)

// undoers undo effects, by kind. Undoing what never happened, or was undone already, is no error. Each file that makes effects
// adds its kinds here. Every effect's facts name the server as "server": what Client.Address says.
var undoers = map[string]func(ctx context.Context, c *Client, e hikae.Effect, keep []hikae.ChangeID) error{}

// undo undoes one effect by a client of the server that it was made on.
func undo(ctx context.Context, c *Client, e hikae.Effect, keep []hikae.ChangeID) error {
	f := undoers[e.Kind]
	if f == nil {
		return fmt.Errorf("effect %s: %q is unknown", e.ID, e.Kind)
	}
	return f(ctx, c, e, keep)
}

// effect is an effect on the server of this client.
func (c *Client) effect(kind, vm string, facts map[string]string) hikae.Effect {
	all := map[string]string{"server": c.Address()}
	for k, v := range facts {
		all[k] = v
	}
	return hikae.Effect{Kind: kind, VM: vm, Facts: all}
}

// intend writes an effect down. Without a journal it is done at once.
func intend(ctx context.Context, j hikae.Journal, e hikae.Effect) (done func(context.Context) error, err error) {
	if j == nil {
		return func(context.Context) error { return nil }, nil
	}
	return j.Intend(ctx, e)
}
