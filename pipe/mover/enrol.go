package mover

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// Enrolled is what an enrolment came to.
type Enrolled struct {
	Name   string     // under which the mover knows this machine
	Role   trust.Role // empty where an earlier enrolment was found, whose answer had been lost
	Mode   string     // trusted or blind
	Server trust.Pin  // the mover's key: for [DialOptions].ServerPin
	Key    trust.Pin  // this machine's
}

// Enrol makes this machine known to the mover at address, by a token that was made there. The machine's own key is
// the options' Identity or the one in IdentityDir, and durable there before the token is used; the options' ServerPin
// is the token's.
//
// A token is good once. Where the answer to an earlier attempt was lost, Enrol finds that the mover knows the key
// already, and that is all that was wanted.
func Enrol(ctx context.Context, address string, token trust.Token, opts *DialOptions) (*Enrolled, error) {
	o := DialOptions{}
	if opts != nil {
		o = *opts
	}
	o.ServerPin = token.Server
	id, _, err := o.identity()
	if err != nil {
		return nil, err
	}
	once, err := token.Identity()
	if err != nil {
		return nil, err
	}
	out := &Enrolled{Server: token.Server, Key: id.Pin()}
	err = out.enrol(ctx, address, once, id, &o)
	if _, answered := errors.AsType[*Error](err); err != nil && !answered && ctx.Err() == nil {
		if out.find(ctx, address, id, &o) == nil {
			return out, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("enrol at %s: %w", address, err)
	}
	return out, nil
}

// enrol uses the token.
func (out *Enrolled) enrol(ctx context.Context, address string, once, id *trust.Identity, o *DialOptions) error {
	c, err := dialAs(ctx, address, once, o)
	if err != nil {
		return err
	}
	defer c.Close()
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	req := &wire.Enrol{Host: clip(printable(host), wire.MaxName)}
	copy(req.PublicKey[:], id.PublicKey())
	a, err := ask[*wire.Enrolled](ctx, c, req)
	if err != nil {
		return err
	}
	if out.Role, err = trust.ParseRole(a.Role); err != nil {
		return malformed("enrolled as %q", printable(a.Role))
	}
	out.Name, out.Mode = a.Name, a.Mode
	return nil
}

// find looks whether the mover knows the machine's own key already.
func (out *Enrolled) find(ctx context.Context, address string, id *trust.Identity, o *DialOptions) error {
	c, err := dialAs(ctx, address, id, o)
	if err != nil {
		return err
	}
	defer c.Close()
	h, err := c.Health(ctx)
	if err != nil {
		return err
	}
	out.Name, out.Mode = c.Peer(), h.Mode
	return nil
}
