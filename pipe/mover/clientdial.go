package mover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"syscall"
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

// tryKeys connects by the key of a rotation that was broken off, where there is one, and by the machine's own where that is
// refused: the mover was not told of the new one yet.
func (o *DialOptions) tryKeys(connect func(*trust.Identity) error) error {
	id, pending, err := o.identity()
	if err != nil {
		return err
	}
	if pending != nil {
		if err := connect(pending); !errors.Is(err, trust.ErrRefused) {
			return err
		}
	}
	return connect(id)
}

// Dial connects to a mover at address, HOST:PORT. It fails at once where the mover cannot be reached or does not trust
// this machine, and after a few seconds where it closes every connection because too many knock; later cuts are mended
// without a word.
func Dial(ctx context.Context, address string, opts *DialOptions) (*Client, error) {
	if opts == nil {
		opts = &DialOptions{}
	}
	var c *Client
	err := opts.tryKeys(func(id *trust.Identity) (err error) {
		c, err = dialAs(ctx, address, id, opts)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := opts.adopt(c.dialer.identity.Load()); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	c.dialer.follow()
	return c, nil
}

// adopt makes the key of a rotation the machine's own once it was used.
func (o *DialOptions) adopt(used *trust.Identity) error {
	if o.IdentityDir == "" {
		return nil
	}
	pending, err := trust.PendingIdentity(o.IdentityDir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && pending.Pin() != used.Pin() {
		return nil
	}
	if err != nil {
		return err
	}
	return trust.AdoptNext(o.IdentityDir)
}

func dialAs(ctx context.Context, address string, id *trust.Identity, opts *DialOptions) (*Client, error) {
	d := newDialer(address, opts)
	d.identity.Store(id)
	c := newClient(d.open, opts.ServerPin, d.settings)
	c.dialer = d
	if _, err := c.session(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func newDialer(address string, opts *DialOptions) *dialer {
	s := opts.settings()
	return &dialer{address: address, opts: *opts, settings: s, line: lineWatch{address: address, giveUp: s.GiveUp, warn: s.Warn}}
}

// dialer begins sessions over TLS.
type dialer struct {
	address  string
	opts     DialOptions
	settings settings
	identity atomic.Pointer[trust.Identity] // a rotation changes it
	before   atomic.Bool                    // there was a session
	line     lineWatch
	follows  atomic.Pointer[trust.Pin] // the machine's own key in IdentityDir as it was last; nil: identity is another
}

// follow lets the key be that of IdentityDir from now on: another process may give this machine a new one.
func (d *dialer) follow() {
	if d.opts.Identity == nil && d.opts.IdentityDir != "" {
		pin := d.identity.Load().Pin()
		d.follows.Store(&pin)
	}
}

// refresh takes the key that lies in IdentityDir where it is another one by now. One that cannot be read at the moment
// changes nothing: the one that is known may still be good.
func (d *dialer) refresh() {
	was := d.follows.Load()
	if was == nil {
		return
	}
	id, err := trust.FindIdentity(d.opts.IdentityDir)
	if err != nil || id.Pin() == *was {
		return
	}
	if pin := id.Pin(); d.follows.CompareAndSwap(was, &pin) {
		d.identity.Store(id)
	}
}

// another takes a key of IdentityDir that was not tried yet, after a refusal: a rotation in another process may be about
// to end, or have broken off after the new key was used.
func (d *dialer) another(tried map[trust.Pin]bool) bool {
	tried[d.identity.Load().Pin()] = true
	id := d.untried(tried)
	if id != nil {
		d.identity.Store(id)
	}
	return id != nil
}

// hasAnother reports whether there is a key to try after a refusal.
func (d *dialer) hasAnother() bool {
	return d.untried(map[trust.Pin]bool{d.identity.Load().Pin(): true}) != nil
}

func (d *dialer) untried(tried map[trust.Pin]bool) *trust.Identity {
	if d.follows.Load() == nil {
		return nil
	}
	for _, read := range []func(string) (*trust.Identity, error){trust.FindIdentity, trust.PendingIdentity} {
		if id, err := read(d.opts.IdentityDir); err == nil && !tried[id.Pin()] {
			return id
		}
	}
	return nil
}

// connect makes one connection, on which the mover has proven who it is.
func (d *dialer) connect(ctx context.Context) (net.Conn, error) {
	d.refresh()
	dial := net.Dialer{Timeout: connectWait}
	raw, err := dial.DialContext(ctx, "tcp", d.address)
	if err != nil {
		return nil, err
	}
	conn, err := trust.Connect(ctx, raw, trust.ClientTLS(d.identity.Load(), d.opts.ServerPin))
	if err != nil {
		return nil, final(knocked(err))
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

// open begins a session. The first one fails at once, unless the door is full; once there was one, the mover may be on its
// way back.
func (d *dialer) open(ctx context.Context, push func(wire.Message)) (line, greeting, error) {
	patience := d.settings.GiveUp
	if !d.before.Load() {
		patience = min(patience, fullDoor)
	}
	began, tried := time.Now(), map[trust.Pin]bool{}
	for wait := 250 * time.Millisecond; ; wait = min(2*wait, 15*time.Second) {
		l, g, err := d.openWithin(ctx, max(d.settings.GiveUp-time.Since(began), leastOpen), push)
		if err == nil {
			d.before.Store(true)
			return l, g, nil
		}
		if errors.Is(err, trust.ErrRefused) && d.another(tried) {
			continue
		}
		if !d.before.Load() && !turnedAway(err) || isFinal(err) || ctx.Err() != nil {
			return nil, greeting{}, err
		}
		wait := wait/2 + rand.N(wait/2)
		if time.Since(began)+wait > patience {
			if !d.before.Load() {
				return nil, greeting{}, err
			}
			return nil, greeting{}, fmt.Errorf("%w: %w", session.ErrGaveUp, err)
		}
		if d.before.Load() {
			d.line.look(false, time.Now())
		}
		if err := sleep(ctx, wait); err != nil {
			return nil, greeting{}, err
		}
	}
}

// Bounds of the attempts to begin a session.
const (
	fullDoor  = 8 * time.Second        // how long the first one knocks at a door that closes at once
	leastOpen = 100 * time.Millisecond // that an attempt gets, however little is left of GiveUp
)

// openWithin is openOnce with a bound, which is not the session's.
func (d *dialer) openWithin(ctx context.Context, within time.Duration, push func(wire.Message)) (line, greeting, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	return d.openOnce(ctx, push)
}

// turnedAway reports whether a connection was closed before the mover said a word. So a mover does with those who come
// while too many others have not shown yet who they are, and there is room again a moment later.
func turnedAway(err error) bool { return errors.Is(err, errDoor) }

// errDoor is a connection that was closed in the place of a handshake.
var errDoor = errors.New("the mover closed the connection before it said a word: too many knock at once, or no mover listens there")

// knocked is the error of a handshake, an errDoor where the other side closed the connection instead. A reset is the same:
// what we had said was not read.
func knocked(err error) error {
	const windowsReset = syscall.Errno(10054) // WSAECONNRESET; no number of other systems
	for _, door := range []error{io.EOF, syscall.ECONNRESET, syscall.EPIPE, windowsReset} {
		if errors.Is(err, door) {
			return fmt.Errorf("%w: %w", errDoor, err)
		}
	}
	return err
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
	d.line.look(true, time.Now())
	go d.line.watch(s)
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
