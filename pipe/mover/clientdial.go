package mover

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/hikae/hikae/pipe/mover/bandwidth"
	"github.com/hikae/hikae/pipe/mover/session"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// DialOptions say as whom to connect, to whom, and how. Besides Identity or IdentityDir, and ServerPin, zero fields are
// good defaults.
type DialOptions struct {
	// Identity is this machine's own key. Nil: the one in IdentityDir.
	Identity *trust.Identity
	// IdentityDir is the folder of the key. It is needed for [Client.Rotate]; where a rotation was broken off, Dial goes
	// on with it.
	IdentityDir string
	// ServerPin is the one key that the mover may have.
	ServerPin trust.Pin

	// GiveUp is how long a call waits for a line, and how long a point may take to be put back after a session was
	// lost. Zero: 30 minutes.
	GiveUp time.Duration
	// Lanes is how many connections a session has. Zero: as many as help.
	Lanes int
	// Shaper limits how fast bytes go and come. Nil: as fast as they can.
	Shaper *bandwidth.Shaper

	// CacheDir holds the notes by which a point is put back, 56 bytes for each block. Empty: the system's folder for
	// temporary files.
	CacheDir string
	// Keep bounds the content that is kept until it is durable, in bytes. The other side may ask for less. Zero: 96 MiB.
	Keep int64
	// Replays is how often a point is put back without anything coming of it. Zero: 5.
	Replays int

	Log  *slog.Logger      // nil: nobody listens
	Warn func(text string) // what a person should know; nil: nobody does
}

func (o *DialOptions) settings() settings {
	return settings{GiveUp: o.GiveUp, Replays: o.Replays, Keep: o.Keep, CacheDir: o.CacheDir, Log: o.Log, Warn: o.Warn}.withDefaults()
}

// identity is the key to connect with, and the one of a rotation that was broken off, nil where there is none.
func (o *DialOptions) identity() (id, pending *trust.Identity, err error) {
	if o.IdentityDir != "" {
		pending, err = trust.PendingIdentity(o.IdentityDir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, err
		}
	}
	if o.Identity != nil {
		return o.Identity, pending, nil
	}
	if o.IdentityDir == "" {
		return nil, nil, fmt.Errorf("neither an identity nor a folder for one: %w", fs.ErrInvalid)
	}
	id, err = trust.LoadIdentity(o.IdentityDir)
	return id, pending, err
}

// Dial connects to a mover at address, HOST:PORT. It fails at once where the mover cannot be reached or does not trust
// this machine; later cuts are mended without a word.
func Dial(ctx context.Context, address string, opts *DialOptions) (*Client, error) {
	if opts == nil {
		opts = &DialOptions{}
	}
	id, pending, err := opts.identity()
	if err != nil {
		return nil, err
	}
	if pending != nil {
		c, err := dialAs(ctx, address, pending, opts)
		if err == nil {
			if err := trust.AdoptNext(opts.IdentityDir); err != nil {
				return nil, errors.Join(err, c.Close())
			}
			return c, nil
		}
		if !errors.Is(err, trust.ErrRefused) {
			return nil, err
		}
	}
	return dialAs(ctx, address, id, opts)
}

func dialAs(ctx context.Context, address string, id *trust.Identity, opts *DialOptions) (*Client, error) {
	d := &dialer{address: address, opts: *opts, settings: opts.settings()}
	d.identity.Store(id)
	c := newClient(d.open, opts.ServerPin, d.settings)
	c.dialer = d
	if _, err := c.session(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// dialer begins sessions over TLS.
type dialer struct {
	address  string
	opts     DialOptions
	settings settings
	identity atomic.Pointer[trust.Identity] // a rotation changes it
	before   atomic.Bool                    // there was a session
}

// connect makes one connection, on which the mover has proven who it is.
func (d *dialer) connect(ctx context.Context) (net.Conn, error) {
	dial := net.Dialer{Timeout: connectWait}
	raw, err := dial.DialContext(ctx, "tcp", d.address)
	if err != nil {
		return nil, err
	}
	conn, err := trust.Connect(ctx, raw, trust.ClientTLS(d.identity.Load(), d.opts.ServerPin))
	if err != nil {
		return nil, final(err)
	}
	return conn, nil
}

// connectWait bounds the wait for an address that does not answer.
const connectWait = 15 * time.Second

// final marks what another attempt does not mend: it is about who somebody is.
func final(err error) error {
	if errors.As(err, new(*trust.PeerError)) || errors.Is(err, trust.ErrRefused) {
		return fmt.Errorf("%w: %w", session.ErrFinal, err)
	}
	return err
}

// open begins a session. The first one fails at once; once there was one, the mover may be on its way back.
func (d *dialer) open(ctx context.Context, push func(wire.Message)) (line, greeting, error) {
	deadline := time.Now().Add(d.settings.GiveUp)
	for wait := 250 * time.Millisecond; ; wait = min(2*wait, 15*time.Second) {
		l, g, err := d.openOnce(ctx, push)
		if err == nil {
			d.before.Store(true)
			return l, g, nil
		}
		if !d.before.Load() || isFinal(err) || ctx.Err() != nil {
			return nil, greeting{}, err
		}
		if time.Until(deadline) < wait {
			return nil, greeting{}, fmt.Errorf("%w: %w", session.ErrGaveUp, err)
		}
		if err := sleep(ctx, wait); err != nil {
			return nil, greeting{}, err
		}
	}
}

func isFinal(err error) bool {
	return errors.Is(err, session.ErrFinal) || errors.Is(err, trust.ErrRefused)
}

// openOnce makes one attempt.
func (d *dialer) openOnce(ctx context.Context, push func(wire.Message)) (line, greeting, error) {
	opts := &session.ClientOptions{
		Dial: d.connect, Role: wire.Caller, GiveUp: d.settings.GiveUp, Lanes: d.opts.Lanes, Push: push, Log: d.settings.Log,
	}
	if d.opts.Shaper != nil {
		opts.Shape = d.opts.Shaper.Session(d.address).Conn
	}
	s, err := session.NewClient(ctx, opts)
	if err != nil {
		if r, ok := errors.AsType[*wire.Refuse](err); ok && !isLost(err) {
			err = fmt.Errorf("%w: %w", err, &Error{Code: r.Code, Text: printable(r.Text)})
		}
		return nil, greeting{}, err
	}
	return s, greeting{peer: s.Peer(), undurable: int64(min(s.Limits().Undurable, maxKeep))}, nil
}

// Rotate gives this machine another key. The new one is durable in the options' IdentityDir before the mover hears of
// it, and takes the old one's place there once it was used; until then both are good. It goes on where an earlier
// rotation was broken off. The session of the old key ends: points that are being written are put back in the next.
func (c *Client) Rotate(ctx context.Context) error {
	d := c.dialer
	if d == nil || d.opts.IdentityDir == "" {
		return fmt.Errorf("a new key needs the folder of the old one: %w", fs.ErrInvalid)
	}
	next, err := trust.NextIdentity(d.opts.IdentityDir)
	if err != nil {
		return err
	}
	var key [32]byte
	copy(key[:], next.PublicKey())
	if _, err := ask[*wire.OK](ctx, c, &wire.Rotate{PublicKey: key}); err != nil {
		return fmt.Errorf("rotate: %w", err)
	}
	if err := probe(ctx, d.address, next, &d.opts); err != nil {
		return fmt.Errorf("the mover has taken the new key and refuses it; the old one stays: %w", err)
	}
	if err := trust.AdoptNext(d.opts.IdentityDir); err != nil {
		return err
	}
	d.identity.Store(next)
	if e := c.current.Load(); e != nil {
		c.lost(e)
	}
	return nil
}

// probe connects with a key and makes one call.
func probe(ctx context.Context, address string, id *trust.Identity, opts *DialOptions) error {
	c, err := dialAs(ctx, address, id, opts)
	if err != nil {
		return err
	}
	_, err = c.Health(ctx)
	return errors.Join(err, c.Close())
}
