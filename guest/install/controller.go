package install

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hikae/hikae/guest/install/pack"
	"github.com/hikae/hikae/guest/install/service"
	"github.com/hikae/hikae/pipe/mover/trust"
)

// Lifetimes of a kit's temporary key.
const (
	DefaultKitLife = 30 * 24 * time.Hour
	MaxKitLife     = trust.MaxTokenLife
)

// Controller is this machine, as guests know it: its key, the kits that it made, and the guests that it has met. Its
// folder is for its owner alone. Several processes may have it open; all methods are safe for concurrent use.
type Controller struct {
	dir  string
	id   *trust.Identity
	book *trust.Book // of kits: nobody connects by it
}

// OpenController opens a controller's folder, and makes it and the key where they are missing.
func OpenController(dir string) (*Controller, error) {
	id, err := trust.LoadIdentity(dir)
	if err != nil {
		return nil, fmt.Errorf("controller: %w", err)
	}
	book, err := trust.OpenBook(dir)
	if err != nil {
		return nil, fmt.Errorf("controller: %w", err)
	}
	if err := trust.MakeFolder(filepath.Join(dir, guestsDir)); err != nil {
		return nil, fmt.Errorf("controller: %w", err)
	}
	return &Controller{dir: dir, id: id, book: book}, nil
}

// Identity is the controller's key.
func (c *Controller) Identity() *trust.Identity { return c.id }

// Public is what another controller's kits let this one in by, under a name and with a role.
func (c *Controller) Public(name string, role trust.Role) service.Controller {
	return service.Controller{Name: name, Role: role, Key: base64.StdEncoding.EncodeToString(c.id.PublicKey())}
}

// KitOptions say what a kit holds. Signers are needed; other zero fields are good defaults.
type KitOptions struct {
	Name     string               // of this controller in the guest. Empty: "backup-server"
	Guest    string               // for which guest alone the kit is. Empty: for any
	Lifetime time.Duration        // of the temporary key, a second to 30 days. Zero: 30 days
	Others   []service.Controller // that are let in too: proxies
	Signers  []ed25519.PublicKey  // of packages
	Listen   string               // where the service listens. Empty: service.DefaultListen
}

// kitName is what the temporary key is called in the book. Guests have names that no peer can have.
func kitName(guest string) string {
	if guest == "" {
		return "kit"
	}
	sum := sha256.Sum256([]byte(guest))
	return "kit." + hex.EncodeToString(sum[:16])
}

// NewKit makes a kit. There is one for any guest, and one for each guest that one was made for: making another voids the
// one before, also in guests that it was laid down in and that were not met yet.
func (c *Controller) NewKit(opts *KitOptions) (*service.Kit, error) {
	o := KitOptions{}
	if opts != nil {
		o = *opts
	}
	if o.Name == "" {
		o.Name = "backup-server"
	}
	if o.Lifetime == 0 {
		o.Lifetime = DefaultKitLife
	}
	if err := c.book.Revoke(kitName(o.Guest)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	// The role means nothing here: this book only keeps the key with its end.
	token, err := c.book.AddToken(c.id.Pin(), kitName(o.Guest), trust.Guest, o.Lifetime)
	if err != nil {
		return nil, err
	}
	k := &service.Kit{
		Token: token.String(), Expires: time.Now().Add(o.Lifetime).UTC().Truncate(time.Second),
		Controllers: append([]service.Controller{c.Public(o.Name, trust.Full)}, o.Others...), Listen: o.Listen,
	}
	for _, s := range o.Signers {
		k.Signers = append(k.Signers, pack.KeyText(s))
	}
	return k, k.Check()
}

// VoidKit ends a kit's temporary key: guests that were not met yet stay unmet. One that is not there is no error.
func (c *Controller) VoidKit(guest string) error {
	return ignoreMissing(c.book.Revoke(kitName(guest)))
}

// temporaryPins are those that a guest may show before it was met, the most particular first.
func (c *Controller) temporaryPins(guest string) (pins []trust.Pin, err error) {
	peers, err := c.book.Peers()
	if err != nil {
		return nil, err
	}
	var ended error
	for _, name := range []string{kitName(guest), kitName("")} {
		i := slices.IndexFunc(peers, func(p trust.Peer) bool { return p.Name == name && p.Token })
		if i < 0 {
			continue
		}
		if _, err := c.book.Find(peers[i].Pin); err != nil {
			ended = err
			continue
		}
		pins = append(pins, peers[i].Pin)
	}
	if len(pins) == 0 {
		return nil, errors.Join(fmt.Errorf("%w: no kit is good now: make one, and lay it down in the guest", ErrNotMet), ended)
	}
	return pins, nil
}

// Known is a guest that was met.
type Known struct {
	Address string    `json:"address"` // host:port
	Pin     trust.Pin `json:"pin"`
	Since   time.Time `json:"since"`
}

const (
	guestsDir  = "guests"
	guestsFile = "guests.json"
	maxGuests  = 100_000
	maxFile    = 64 << 20
)

// Guests are all that were met, by name.
func (c *Controller) Guests() (map[string]Known, error) {
	data, err := os.ReadFile(filepath.Join(c.dir, guestsDir, guestsFile))
	all := map[string]Known{}
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	if err == nil && len(data) > maxFile {
		err = fs.ErrInvalid
	}
	if err == nil {
		err = json.Unmarshal(data, &all)
	}
	if err != nil {
		return nil, fmt.Errorf("known guests: %w", err)
	}
	return all, nil
}

// Known is a guest that was met. Otherwise the error is [ErrNotMet].
func (c *Controller) Known(guest string) (Known, error) {
	all, err := c.Guests()
	if err != nil {
		return Known{}, err
	}
	k, ok := all[guest]
	if !ok {
		return Known{}, fmt.Errorf("guest %.80q: %w", guest, ErrNotMet)
	}
	return k, nil
}

// Forget takes a guest out of those that were met. One that was not is no error.
func (c *Controller) Forget(ctx context.Context, guest string) error {
	return c.change(ctx, func(all map[string]Known) { delete(all, guest) })
}

func (c *Controller) remember(ctx context.Context, guest string, k Known) error {
	return c.change(ctx, func(all map[string]Known) { all[guest] = k })
}

func (c *Controller) change(ctx context.Context, f func(map[string]Known)) error {
	dir := filepath.Join(c.dir, guestsDir)
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return trust.LockFolder(ctx, dir, func() error {
		all, err := c.Guests()
		if err != nil {
			return err
		}
		before := maps.Clone(all)
		f(all)
		if maps.Equal(before, all) {
			return nil
		}
		if len(all) > maxGuests {
			return fmt.Errorf("%d guests, at most %d: %w", len(all), maxGuests, fs.ErrInvalid)
		}
		data, err := json.MarshalIndent(all, "", "\t")
		if err != nil {
			return err
		}
		return trust.WriteFile(dir, guestsFile, append(data, '\n'))
	})
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// checkGuest tells whether a name can be a guest's here: it becomes part of a name in the book.
func checkGuest(name string) error {
	if name == "" || len(name) > 255 || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' }) {
		return fmt.Errorf("%.80q is no name for a guest: %w", name, fs.ErrInvalid)
	}
	return nil
}
