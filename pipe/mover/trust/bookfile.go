package trust

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Bounds of a book.
const (
	maxBook  = 16 << 20 // bytes
	maxPeers = 10_000
	maxGone  = 4096
)

const bookPrefix = "hikae-peers 1 "

// pages are what a book's file holds:
//
//	hikae-peers 1 <SHA-256 of everything after this line, in hexadecimal>
//	{ JSON, indented by a tab }
//
// The sum finds damage. There is one way to write the same pages, and everything else is refused: a book that somebody
// changed by hand trusts nobody until it is put right, which is better than trusting whom nobody meant.
type pages struct {
	// Changes counts the writes of this file.
	Changes uint64 `json:"changes"`
	// Serial is the last one that was given to an entry.
	Serial uint64  `json:"serial"`
	Peers  []entry `json:"peers"` // by name
	Gone   []gone  `json:"gone"`  // oldest first
}

// entry is a peer or a token.
type entry struct {
	Name    string    `json:"name"`
	Role    Role      `json:"role"`
	Pin     Pin       `json:"pin"`
	Next    Pin       `json:"next,omitzero"`
	Host    string    `json:"host,omitempty"`
	Token   bool      `json:"token,omitempty"`
	Since   time.Time `json:"since"`
	Expires time.Time `json:"expires,omitzero"`
	Serial  uint64    `json:"serial"`
	Was     uint64    `json:"was,omitempty"` // the serial of the token by which it enrolled
}

// gone is a key that was good once. The newest 4,096 are remembered, for what a log says of them.
type gone struct {
	Name string    `json:"name"`
	Pin  Pin       `json:"pin"`
	Why  reason    `json:"why"`
	When time.Time `json:"when"`
}

type reason string

const (
	wasRevoked reason = "revoked"
	wasUsed    reason = "used"    // a token, by an enrolment
	wasExpired reason = "expired" // a token
	wasRotated reason = "rotated"
)

// reasons are what a peer with a key that is gone is told.
var reasons = map[reason]error{wasRevoked: ErrRevoked, wasUsed: ErrTokenUsed, wasExpired: ErrExpired, wasRotated: ErrRevoked}

func (e *entry) peer(pin Pin) Peer {
	return Peer{Name: e.Name, Role: e.Role, Pin: pin, Next: e.Next, Host: e.Host, Token: e.Token, Since: e.Since,
		Expires: e.Expires, Serial: e.Serial}
}

func encodePages(p *pages) ([]byte, error) {
	whole := *p
	whole.Peers, whole.Gone = append([]entry{}, p.Peers...), append([]gone{}, p.Gone...) // none is [], never null
	body, err := json.MarshalIndent(whole, "", "\t")
	if err != nil {
		return nil, err
	}
	body = append(body, '\n')
	sum := sha256.Sum256(body)
	data := slices.Concat([]byte(bookPrefix), []byte(hex.EncodeToString(sum[:])), []byte("\n"), body)
	if len(data) > maxBook {
		return nil, fmt.Errorf("%d bytes, at most %d", len(data), maxBook)
	}
	return data, nil
}

// decodePages takes what encodePages writes, and nothing else.
func decodePages(data []byte) (*pages, error) {
	head := len(bookPrefix) + hex.EncodedLen(sha256.Size)
	if len(data) > maxBook || len(data) <= head || !bytes.HasPrefix(data, []byte(bookPrefix)) || data[head] != '\n' {
		return nil, errors.New("it does not begin as a book of peers")
	}
	body := data[head+1:]
	if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != string(data[len(bookPrefix):head]) {
		return nil, errors.New("its checksum is wrong: it is damaged, or was changed by hand")
	}
	p := new(pages)
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(p); err != nil {
		return nil, err
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	if again, err := encodePages(p); err != nil || !bytes.Equal(again, data) {
		return nil, errors.New("it is not written as books are")
	}
	return p, nil
}

// check is everything that holds of pages at any time.
func (p *pages) check() error {
	if len(p.Peers) > maxPeers || len(p.Gone) > maxGone {
		return fmt.Errorf("%d peers and %d that are gone, at most %d and %d", len(p.Peers), len(p.Gone), maxPeers, maxGone)
	}
	pins, serials := map[Pin]bool{{}: true}, map[uint64]bool{0: true}
	take := func(pin Pin) error {
		if pins[pin] {
			return fmt.Errorf("key %s stands in it twice, or is no key", pin.Short())
		}
		pins[pin] = true
		return nil
	}
	for i := range p.Peers {
		e := &p.Peers[i]
		if i > 0 && fold(p.Peers[i-1].Name) >= fold(e.Name) {
			return fmt.Errorf("peer %q is out of order", e.Name)
		}
		err := e.check()
		if err == nil && (serials[e.Serial] || e.Serial > p.Serial) {
			err = fmt.Errorf("its serial is %d", e.Serial)
		}
		serials[e.Serial] = true
		err = errors.Join(err, take(e.Pin))
		if e.Next != (Pin{}) {
			err = errors.Join(err, take(e.Next))
		}
		if err != nil {
			return fmt.Errorf("peer %.80q: %w", e.Name, err)
		}
	}
	for _, g := range p.Gone {
		err := errors.Join(CheckName(g.Name), take(g.Pin), checkTime(g.When), cond(reasons[g.Why] == nil, "no such reason"))
		if err != nil {
			return fmt.Errorf("key %s that is gone (%.20q): %w", g.Pin.Short(), g.Why, err)
		}
	}
	return nil
}

func (e *entry) check() error {
	if err := errors.Join(CheckName(e.Name), checkHost(e.Host), checkTime(e.Since)); err != nil {
		return err
	}
	if _, err := ParseRole(string(e.Role)); err != nil {
		return err
	}
	if !e.Token {
		return cond(!e.Expires.IsZero() || e.Was == 0 || e.Was >= e.Serial, "it is no token, and did not come by one")
	}
	return errors.Join(checkTime(e.Expires), cond(e.Next != Pin{} || e.Host != "" || e.Was != 0, "it is a token, and has what only peers have"))
}

func cond(wrong bool, text string) error {
	if wrong {
		return errors.New(text)
	}
	return nil
}

// checkTime: whole seconds in UTC, which are written in one way.
func checkTime(t time.Time) error {
	return cond(t.IsZero() || t.Location() != time.UTC || t.Nanosecond() != 0 || t.Year() < 1970 || t.Year() > 9999, "a time is none")
}

// find is the index of a name, or where it belongs.
func (p *pages) find(name string) (int, bool) {
	return slices.BinarySearchFunc(p.Peers, fold(name), func(e entry, name string) int { return strings.Compare(fold(e.Name), name) })
}

// holds tells whether a key stands anywhere in the pages.
func (p *pages) holds(pin Pin) bool {
	return slices.ContainsFunc(p.Peers, func(e entry) bool { return e.Pin == pin || e.Next == pin }) ||
		slices.ContainsFunc(p.Gone, func(g gone) bool { return g.Pin == pin })
}

// add puts an entry in its place and gives it its serial.
func (p *pages) add(e entry) (*entry, error) {
	i, taken := p.find(e.Name)
	switch {
	case taken:
		return nil, fmt.Errorf("%q: %w", p.Peers[i].Name, ErrNameTaken)
	case p.holds(e.Pin):
		return nil, fmt.Errorf("%s: %w", e.Pin.Short(), ErrKeyTaken)
	case len(p.Peers) >= maxPeers:
		return nil, fmt.Errorf("the book has %d peers, and takes no more", maxPeers)
	}
	p.Serial++
	e.Serial = p.Serial
	p.Peers = slices.Insert(p.Peers, i, e)
	return &p.Peers[i], nil
}

// remove takes an entry out; its keys are gone.
func (p *pages) remove(i int, why reason, now time.Time) {
	e := p.Peers[i]
	p.Peers = slices.Delete(p.Peers, i, i+1)
	p.bury(e.Name, e.Pin, why, now)
	if e.Next != (Pin{}) {
		p.bury(e.Name, e.Next, why, now)
	}
}

func (p *pages) bury(name string, pin Pin, why reason, now time.Time) {
	p.Gone = append(p.Gone, gone{Name: name, Pin: pin, Why: why, When: now})
	p.Gone = p.Gone[max(0, len(p.Gone)-maxGone):]
}

// clone is for changes: what readers have does not move.
func (p *pages) clone() *pages {
	c := *p
	c.Peers, c.Gone = slices.Clone(p.Peers), slices.Clone(p.Gone)
	return &c
}
