package mover

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/bandwidth"
	"github.com/hikae/hikae/pipe/mover/trust"
)

// ServerOptions say what a mover serves and to whom. Identity and Book are needed, and one at least of Backend, Blind,
// Source and Protocols; zero fields are good defaults.
type ServerOptions struct {
	// Identity is the mover's own key: its peers know its pin.
	Identity *trust.Identity
	// Book says who may come. It may change while the mover runs: a peer that is taken out is cut off within seconds.
	Book *trust.Book

	// Backend makes the mover a trusted target. Where it has Resolve(ctx, id) (pipe.PointInfo, error), points are found
	// by that. Where its writers are [pipe.Durable], content counts as settled before the commit; for append peers where
	// they are [pipe.Settler], too.
	Backend pipe.Backend
	// Blind makes it a blind target.
	Blind BlindStore
	// Source makes it a source service.
	Source Source

	// Protocols are served on the same port, by the names of their ALPN, none of which is [trust.ALPN]. A mover that serves
	// nothing else enrols peers and tells how it is.
	Protocols map[string]Protocol

	// StateDir keeps what a trusted target remembers of its tenants: a secret, and which blocks they have sent. It
	// belongs to one Backend. It is needed with Backend only.
	StateDir string

	// MaxWriters is how many points are written at once. Others wait in the order in which they came. Zero: 16.
	MaxWriters int
	// MaxWaiting is how many wait; beyond it, and beyond 256 of one peer, they are told to come back. Zero: 4096.
	MaxWaiting int
	// MaxSessions is how many sessions there are at once. Zero: 4096.
	MaxSessions int
	// Linger is how long a session without a connection is kept. Zero: 30 minutes.
	Linger time.Duration
	// Shaper limits how fast bytes go and come. Nil: as fast as they can.
	Shaper *bandwidth.Shaper

	// Classify gives an error of Backend, Blind or Source that this package cannot know its code, its object and its
	// range, by an [Error]; nil leaves it as it is. Standard errors and those of package pipe need none.
	Classify func(err error) *Error
	// Free is how many bytes are left for the backend, for a Health call. Nil: that is not told.
	Free func(ctx context.Context) (int64, error)

	Observer Observer     // nil: nobody counts
	Log      *slog.Logger // nil: nobody listens. It gets no secret and no content
	Version  string       // of the program, for a Health call
}

// What the options leave open.
const (
	defaultWriters  = 16
	defaultWaiting  = 4096
	defaultSessions = 4096
	defaultLinger   = 30 * time.Minute
	spoolBytes      = 512 << 20 // of objects on their way to a blind target
	spoolReserve    = 128 << 20 // of these, for full peers
	decodedBytes    = 128 << 20 // of content that is written by bytes
)

func (o *ServerOptions) withDefaults() (ServerOptions, error) {
	if o == nil {
		return ServerOptions{}, fmt.Errorf("a mover needs options: %w", fs.ErrInvalid)
	}
	c := *o
	switch {
	case c.Backend == nil && c.Blind == nil && c.Source == nil && len(c.Protocols) == 0:
		return c, fmt.Errorf("a mover that serves nothing: %w", fs.ErrInvalid)
	case c.Backend != nil && c.Blind != nil:
		return c, fmt.Errorf("a target is trusted or blind, not both: %w", fs.ErrInvalid)
	case c.Protocols[""] != nil || c.Protocols[trust.ALPN] != nil:
		return c, fmt.Errorf("a further protocol without a name, or with the movers' own: %w", fs.ErrInvalid)
	case c.Backend != nil && c.StateDir == "":
		return c, fmt.Errorf("a trusted target needs a folder for its state: %w", fs.ErrInvalid)
	case c.MaxWriters < 0, c.MaxWaiting < 0, c.MaxSessions < 0, c.Linger < 0:
		return c, fmt.Errorf("a mover with a limit below zero: %w", fs.ErrInvalid)
	}
	c.MaxWriters = orDefault(c.MaxWriters, defaultWriters)
	c.MaxWaiting = orDefault(c.MaxWaiting, defaultWaiting)
	c.MaxSessions = orDefault(c.MaxSessions, defaultSessions)
	c.Linger = orDefault(c.Linger, defaultLinger)
	if c.Observer == nil {
		c.Observer = unobserved{}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// mode is what the mover is, in a word.
func (o *ServerOptions) mode() string {
	switch {
	case o.Backend != nil:
		return "trusted"
	case o.Blind != nil:
		return "blind"
	case o.Source != nil:
		return "source"
	}
	return "proxy"
}
