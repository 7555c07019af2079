package mover

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// Enrolled is what an enrolment came to.
type Enrolled struct {
	Name   string     // under which the mover knows this machine
	Role   trust.Role // of this machine there
	Mode   string     // trusted, blind, source, or proxy where it is none of these
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
	if _, answered := errors.AsType[*Error](err); err != nil && !answered && !errors.Is(err, wire.ErrMalformed) && ctx.Err() == nil {
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
	return out.take(a.Name, a.Role, a.Mode)
}

// modes are what a mover may call itself.
var modes = []string{"trusted", "blind", "source", "proxy"}

// take looks at what the mover said before anybody keeps it: it becomes names of folders, and decides what is opened.
func (out *Enrolled) take(name, role, mode string) error {
	if err := trust.CheckName(name); err != nil {
		return malformed("enrolled: %w", err)
	}
	r, err := trust.ParseRole(role)
	if err != nil {
		return malformed("enrolled: %w", err)
	}
	if !slices.Contains(modes, mode) {
		return malformed("enrolled at a mover of the mode %.40q", mode)
	}
	out.Name, out.Role, out.Mode = name, r, mode
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
	return out.take(c.Peer(), h.Role, h.Mode)
}
