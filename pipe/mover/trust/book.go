package trust

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"time"
)

// Book is who may talk to a server: peers and tokens, by their keys, in one file. Every answer is from the file as it is
// at that moment, so that what one process writes counts in all others. A book that is damaged, or that others may write
// to, refuses everybody with an [ErrBook], and is never written over.
//
// A change is durable when its method returns nil. After an error of the disk it may or may not have happened; the book
// is whole in either case.
type Book struct {
	dir string
	now func() time.Time

	mu       sync.Mutex
	mark     mark
	pages    *pages // nil: err says why
	err      error
	byPin    map[Pin]int // index in pages.Peers
	goneBy   map[Pin]int
	turns    uint64 // changes that this value has seen
	refusals Refusals
}

// Lifetimes of tokens.
const (
	DefaultTokenLife = time.Hour
	MaxTokenLife     = 30 * 24 * time.Hour
)

// OpenBook opens the book in a folder. Where there is none it is an empty one, which the first token makes.
func OpenBook(dir string) (*Book, error) {
	if err := MakeFolder(dir); err != nil {
		return nil, fmt.Errorf("book of peers: %w", err)
	}
	b := &Book{dir: dir, now: time.Now}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.look()
	return b, b.err
}

func (b *Book) path() string { return filepath.Join(b.dir, bookName) }

// AddToken makes a token with which one machine can enrol under that name and role at the server with that pin. It ends
// after lifetime, by this machine's clock; zero is an hour, and 30 days is the most. The error is an [ErrNameTaken] where
// a peer, or a token that has not ended, has the name, in whatever case it is written.
func (b *Book) AddToken(server Pin, name string, role Role, lifetime time.Duration) (Token, error) {
	if lifetime == 0 {
		lifetime = DefaultTokenLife
	}
	_, err := ParseRole(string(role))
	if err = errors.Join(CheckName(name), err); err != nil {
		return Token{}, err
	}
	if lifetime < time.Second || lifetime > MaxTokenLife {
		return Token{}, fmt.Errorf("a token for %v: from a second to %v: %w", lifetime, MaxTokenLife, fs.ErrInvalid)
	}
	token := newToken(server)
	id, err := token.Identity()
	if err != nil {
		return Token{}, err
	}
	err = b.edit(func(p *pages, now time.Time) error {
		if i, taken := p.find(name); taken && p.Peers[i].ended(now) {
			p.remove(i, wasExpired, now)
		}
		_, err := p.add(entry{Name: name, Role: role, Pin: id.Pin(), Token: true, Since: now, Expires: now.Add(lifetime).Truncate(time.Second)})
		return err
	})
	if err != nil {
		return Token{}, err
	}
	return token, nil
}

func (e *entry) ended(now time.Time) bool { return e.Token && !now.Before(e.Expires) }

// Find is the peer or token with that key. The error is a [*PeerError] with ErrUnknownPeer, ErrRevoked, ErrTokenUsed,
// ErrExpired or ErrBook.
func (b *Book) Find(pin Pin) (Peer, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	peer, err := b.find(pin)
	b.countLocked(err)
	return peer, err
}

func (b *Book) find(pin Pin) (Peer, error) {
	b.look()
	return b.lookUp(pin)
}

// lookUp is find in the pages that were read last. A map is good enough: a pin is a hash of what its sender had to choose
// beforehand, and no secret, so the time that it takes to miss tells nothing of use.
func (b *Book) lookUp(pin Pin) (Peer, error) {
	if b.err != nil {
		return Peer{}, &PeerError{Pin: pin, Err: b.err}
	}
	if i, ok := b.byPin[pin]; ok {
		return b.pages.Peers[i].at(pin, b.now())
	}
	if i, ok := b.goneBy[pin]; ok {
		g := b.pages.Gone[i]
		return Peer{}, &PeerError{Name: g.Name, Pin: pin, Err: reasons[g.Why], Hint: fmt.Sprintf("%s at %s", g.Why, stamp(g.When))}
	}
	return Peer{}, &PeerError{Pin: pin, Err: ErrUnknownPeer}
}

// at is the peer of a key at a time.
func (e *entry) at(pin Pin, now time.Time) (Peer, error) {
	if e.ended(now) {
		return Peer{}, &PeerError{Name: e.Name, Pin: pin, Err: ErrExpired, Hint: "the token ended at " + stamp(e.Expires) + ": make another one"}
	}
	return e.peer(pin), nil
}

// Check tells whether a peer that was let in before is still one: nil, or the error of [Book.Find] for its key. The
// change of its key by a rotation is no matter; another machine under its name is another peer. A token that was used is
// no reason to end what came by it, for there is nothing left that it may do; it goes with the peer that it became. While
// the book cannot be read at all (no descriptors left, a disk that fails), what was read last counts here, and here alone.
func (b *Book) Check(peer Peer) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, err := b.find(peer.Pin)
	if b.pages == nil {
		return err
	}
	if i, ok := b.pages.find(peer.Name); ok {
		e := &b.pages.Peers[i]
		if e.Serial == peer.Serial {
			_, err := e.at(peer.Pin, b.now())
			return err
		}
		if peer.Token && e.Was == peer.Serial {
			return nil
		}
	}
	if err == nil {
		err = &PeerError{Name: peer.Name, Pin: peer.Pin, Err: ErrRevoked}
	}
	return err
}

// Peers are all peers and tokens by name, also tokens that have ended.
func (b *Book) Peers() ([]Peer, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.look()
	if b.err != nil {
		return nil, b.err
	}
	out := make([]Peer, len(b.pages.Peers))
	for i := range out {
		out[i] = b.pages.Peers[i].peer(b.pages.Peers[i].Pin)
	}
	return out, nil
}

// Enrol puts a machine's key in the place of a token. Of several that have the same token exactly one gets through; the
// others' error is an [ErrTokenUsed]. An [ErrKeyTaken] says that the key is, or was, somebody's; the token stays good.
func (b *Book) Enrol(token Pin, key ed25519.PublicKey, host string) (Peer, error) {
	pin, err := PinOf(key)
	if err = errors.Join(err, checkHost(host)); err != nil {
		return Peer{}, err
	}
	var peer Peer
	err = b.edit(func(p *pages, now time.Time) error {
		t, err := b.lookUp(token)
		switch {
		case err != nil:
			b.countLocked(err)
			return err
		case !t.Token:
			return &PeerError{Name: t.Name, Pin: token, Err: ErrTokenUsed, Hint: "this key is no token's"}
		}
		i, _ := p.find(t.Name)
		p.remove(i, wasUsed, now)
		e, err := p.add(entry{Name: t.Name, Role: t.Role, Pin: pin, Host: host, Since: now, Was: t.Serial})
		if err != nil {
			return err
		}
		peer = e.peer(pin)
		return nil
	})
	return peer, err
}

// Rotate announces the key that a peer changes over to. Until it was used ([PeerOf]) the old one is good too. Announced
// again it is no matter; another one takes its place.
func (b *Book) Rotate(peer Peer, key ed25519.PublicKey) error {
	pin, err := PinOf(key)
	if err != nil {
		return err
	}
	return b.edit(func(p *pages, now time.Time) error {
		i, err := p.same(peer)
		switch {
		case err != nil:
			return err
		case p.Peers[i].Token:
			return &PeerError{Name: peer.Name, Pin: peer.Pin, Err: fs.ErrPermission, Hint: "a token may only enrol"}
		case p.Peers[i].Next == pin:
			return errNoChange
		case p.holds(pin):
			return fmt.Errorf("%s: %w", pin.Short(), ErrKeyTaken)
		}
		if old := p.Peers[i].Next; old != (Pin{}) {
			p.bury(peer.Name, old, wasRotated, now)
		}
		p.Peers[i].Next = pin
		return nil
	})
}

// settle ends a rotation: the peer has shown that it has its new key.
func (b *Book) settle(peer Peer) (Peer, error) {
	err := b.edit(func(p *pages, now time.Time) error {
		i, err := p.same(peer)
		if err != nil {
			return err
		}
		e := &p.Peers[i]
		if e.Pin == peer.Pin {
			return errNoChange // another connection was faster
		}
		if e.Next != peer.Pin {
			return &PeerError{Name: peer.Name, Pin: peer.Pin, Err: ErrRevoked}
		}
		p.bury(e.Name, e.Pin, wasRotated, now)
		e.Pin, e.Next = e.Next, Pin{}
		return nil
	})
	switch {
	case err == nil:
		return b.Find(peer.Pin)
	case errors.Is(err, ErrBook) || errors.As(err, new(*PeerError)):
		return Peer{}, err
	}
	return peer, nil // a full disk shuts nobody out: both keys are the peer's, and the next connection tries again
}

// same is the entry of a peer that was found before.
func (p *pages) same(peer Peer) (int, error) {
	i, ok := p.find(peer.Name)
	if !ok || p.Peers[i].Serial != peer.Serial {
		return 0, &PeerError{Name: peer.Name, Pin: peer.Pin, Err: ErrRevoked}
	}
	return i, nil
}

// Revoke takes a peer or a token out of the book. From when it returns its keys are refused; see [Book.Watch] for
// connections that are open. An unknown name is an fs.ErrNotExist.
func (b *Book) Revoke(name string) error {
	return b.edit(func(p *pages, now time.Time) error {
		i, ok := p.find(name)
		if !ok {
			return fmt.Errorf("no peer is called %.80q: %w", name, fs.ErrNotExist)
		}
		p.remove(i, wasRevoked, now)
		return nil
	})
}

// errNoChange ends an edit that finds everything as it should be.
var errNoChange = errors.New("no change")

// edit changes the book: under a lock against other processes, from the file as it is, to a new file in its place.
func (b *Book) edit(change func(p *pages, now time.Time) error) error {
	err := locked(b.dir, func() error {
		b.mu.Lock() // only now: while another process writes, this one goes on reading
		defer b.mu.Unlock()
		b.read()
		if b.err != nil {
			return b.err
		}
		p, now := b.pages.clone(), b.now().UTC().Truncate(time.Second)
		if err := checkTime(now); err != nil {
			return fmt.Errorf("this machine's clock says %v: %w", now, err)
		}
		if err := change(p, now); err != nil {
			return err
		}
		return b.write(p)
	})
	if errors.Is(err, errNoChange) {
		return nil
	}
	return err
}

func (b *Book) write(p *pages) error {
	p.Changes++
	if err := p.check(); err != nil {
		panic("trust: a change would damage the book: " + err.Error())
	}
	data, err := encodePages(p)
	if err != nil {
		return fmt.Errorf("book of peers: %w", err)
	}
	err = writeFile(b.dir, bookName, data)
	b.read() // also after an error: the new file may be there
	if err != nil {
		return fmt.Errorf("book of peers: %w", err)
	}
	return nil
}
