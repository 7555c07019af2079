package service

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/hikae/hikae/guest/agent/wire"
	"github.com/hikae/hikae/pipe/mover/trust"
)

// What is asked for in the handshake.
const (
	ALPNAgent     = "hikae-agent/1"     // the component
	ALPNInstaller = "hikae-installer/1" // the installer service itself
	ALPNEnrol     = "hikae-enrol/1"     // the service's own key, by the temporary one
)

// temporary is the key that the service shows until its own is known.
type temporary struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
}

const temporaryFile = "temporary.json"

// layDown writes a kit's keys into the folder: who is let in, and the temporary key in the place of an older one, which
// is void from now on.
func layDown(dir string, k *Kit) error {
	own := filepath.Join(dir, trustDir)
	if _, err := trust.LoadIdentity(own); err != nil {
		return err
	}
	book, err := trust.OpenBook(own)
	if err != nil {
		return err
	}
	for _, c := range k.Controllers {
		key, err := c.key()
		if err == nil {
			err = admit(book, c.Name, c.Role, key)
		}
		if err != nil {
			return err
		}
	}
	data, err := json.Marshal(temporary{Token: k.Token, Expires: k.Expires.UTC()})
	if err != nil {
		return err
	}
	return writeLocked(own, temporaryFile, data)
}

func writeLocked(dir, name string, data []byte) error {
	// The book's and the key's own lock is on this folder too, so it is locked one further in.
	inner := filepath.Join(dir, "lock")
	if err := trust.MakeFolder(inner); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), lockLimit)
	defer cancel()
	return trust.LockFolder(ctx, inner, func() error { return trust.WriteFile(dir, name, data) })
}

// admit lets a machine in. Another key under its name takes the place of the one before; another role too.
func admit(book *trust.Book, name string, role trust.Role, key ed25519.PublicKey) error {
	pin, err := trust.PinOf(key)
	if err != nil {
		return err
	}
	if known, err := book.Find(pin); err == nil && known.Name == name && known.Role == role && !known.Token {
		return nil
	}
	peers, err := book.Peers()
	if err != nil {
		return err
	}
	for _, p := range peers {
		if p.Name == name {
			if err := book.Revoke(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	token, err := book.AddToken(trust.Pin{}, name, role, time.Minute)
	if err != nil {
		return err
	}
	id, err := token.Identity()
	if err != nil {
		return err
	}
	_, err = book.Enrol(id.Pin(), key, "")
	return err
}

// people are the service's keys and those it lets in.
type people struct {
	dir  string
	own  *trust.Identity
	book *trust.Book
	now  func() time.Time
}

func openPeople(dir string) (*people, error) {
	dir = filepath.Join(dir, trustDir)
	own, err := trust.FindIdentity(dir)
	if err != nil {
		return nil, err
	}
	book, err := trust.OpenBook(dir)
	if err != nil {
		return nil, err
	}
	return &people{dir: dir, own: own, book: book, now: time.Now}, nil
}

// token is what was laid down, with its end. Without one the error is an fs.ErrNotExist.
func (p *people) token() (token trust.Token, expires time.Time, err error) {
	data, err := readBounded(filepath.Join(p.dir, temporaryFile), 4<<10)
	if err != nil {
		return token, expires, err
	}
	var t temporary
	if err := strict(data, 4<<10, &t); err != nil {
		return token, expires, err
	}
	token, err = trust.ParseToken(t.Token)
	return token, t.Expires, err
}

// temporary is the temporary key, while it is good. Without one the error is an fs.ErrNotExist.
func (p *people) temporary() (*trust.Identity, error) {
	token, expires, err := p.token()
	if err != nil {
		return nil, err
	}
	if !p.now().Before(expires) {
		return nil, fmt.Errorf("the temporary key ended at %v: %w", expires, fs.ErrNotExist)
	}
	return token.Identity()
}

// settled ends the temporary key when the controller that made it has come by the service's own. That another one knows
// the own key, by a kit of its own, says nothing of this one.
func (p *people) settled(peer trust.Peer) (was bool, err error) {
	token, _, err := p.token()
	if errors.Is(err, fs.ErrNotExist) || err == nil && token.Server != peer.Pin {
		return false, nil
	}
	if err == nil {
		err = os.Remove(filepath.Join(p.dir, temporaryFile))
	}
	return err == nil, errors.Join(err, trust.SyncFolder(p.dir))
}

// enrol is the verb, for the peer of a connection.
func (p *people) enrol(peer trust.Peer, protocol string, args wire.EnrolArgs) (wire.EnrolAnswer, error) {
	key := ed25519.PublicKey(args.Key)
	pin, err := trust.PinOf(key)
	if err != nil {
		return wire.EnrolAnswer{}, &wire.Failure{Code: wire.CodeInvalid, Message: err.Error()}
	}
	switch {
	case args.Name == "" && pin == peer.Pin:
	case args.Name == "":
		err = p.book.Rotate(peer, key)
	case peer.Role != trust.Full || protocol != ALPNInstaller:
		err = fmt.Errorf("%s may not let others in: %w", peer.Name, fs.ErrPermission)
	default:
		c := Controller{Name: args.Name, Role: trust.Role(args.Role)}
		if c.Role != trust.Full && c.Role != trust.Guest || trust.CheckName(args.Name) != nil || args.Name == peer.Name {
			return wire.EnrolAnswer{}, &wire.Failure{Code: wire.CodeInvalid, Message: fmt.Sprintf("%.80q as %.40q: no name, no role, or its own", args.Name, args.Role)}
		}
		err = admit(p.book, c.Name, c.Role, key)
	}
	return wire.EnrolAnswer{Pin: p.own.Pin().String()}, err
}
