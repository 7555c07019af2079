package repo

import (
	"encoding/hex"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"

	"github.com/hikae/hikae/repo/internal/object"
)

// Secret opens a repository: a passphrase, a key file or age identities. There is no default one.
type Secret interface {
	wrapper() (object.Wrapper, error)
	unwrapper() (object.Unwrapper, error)
}

// frugal is a way to open slots that has a bound on its cost: whoever keeps the store could put slots into it that ask for
// hours of stretching a passphrase. A header that asks for more than is left is passed over, and costs those after it nothing.
type frugal struct {
	object.Unwrapper
	left *int64 // KiB times passes
}

func (f *frugal) Unwrap(h *object.Header) (object.Key, error) {
	cost := h.StretchCost()
	if cost > *f.left {
		return object.Key{}, fmt.Errorf("all slots together: %w", ErrCostlySlot)
	}
	*f.left -= cost
	return f.Unwrapper.Unwrap(h)
}

// hidden is what every way of printing a secret gives, so that no log ever holds one.
func hidden(f fmt.State) { _, _ = io.WriteString(f, "(secret)") }

func (passphrase) Format(f fmt.State, _ rune)    { hidden(f) }
func (keyFile) Format(f fmt.State, _ rune)       { hidden(f) }
func (ageIdentities) Format(f fmt.State, _ rune) { hidden(f) }

// Passphrase is a secret that people remember. It is stretched with argon2id (64 MiB, 3 passes, 2 lanes: about a
// quarter of a second).
func Passphrase(p string) Secret { return passphrase(p) }

type passphrase string

func (p passphrase) wrapper() (object.Wrapper, error) {
	if p == "" {
		return nil, fmt.Errorf("%w: the passphrase is empty", ErrSecret)
	}
	return object.Passphrase{Text: string(p)}, nil
}

func (p passphrase) unwrapper() (object.Unwrapper, error) {
	return object.Passphrase{Text: string(p)}, nil
}

// KeyFile is a secret of 32 random bytes, as kept in a file.
func KeyFile(key [32]byte) Secret { return keyFile(key) }

// ParseKeyFile reads a key file: 64 hexadecimal digits, with or without a line end, exactly 32 bytes, or a text with the lines of
// a recovery sheet.
func ParseKeyFile(b []byte) (Secret, error) {
	var k keyFile
	if text := strings.TrimSpace(string(b)); len(text) == 64 {
		if _, err := hex.Decode(k[:], []byte(text)); err == nil {
			return k, nil
		}
	}
	if len(b) != len(k) {
		if key, ok, err := parseSheet(b); ok {
			return keyFile(key), err
		}
		return nil, fmt.Errorf("a key file holds 64 hexadecimal digits or 32 bytes, not %d bytes", len(b))
	}
	return keyFile(b), nil
}

type keyFile [32]byte

func (k keyFile) wrapper() (object.Wrapper, error)     { return object.KeyFile(k), nil }
func (k keyFile) unwrapper() (object.Unwrapper, error) { return object.KeyFile(k), nil }

// AgeIdentities reads age identities ("AGE-SECRET-KEY-1…", one a line). A repository that is made with them can be
// opened with any of them.
func AgeIdentities(r io.Reader) (Secret, error) {
	ids, err := age.ParseIdentities(io.LimitReader(r, 64<<10))
	if err != nil {
		return nil, fmt.Errorf("age identities: %w", err)
	}
	return ageIdentities(ids), nil
}

type ageIdentities []age.Identity

func (ids ageIdentities) wrapper() (object.Wrapper, error) {
	var to object.AgeRecipients
	for _, id := range ids {
		switch id := id.(type) {
		case *age.X25519Identity:
			to = append(to, id.Recipient())
		case *age.HybridIdentity:
			to = append(to, id.Recipient())
		default:
			return nil, fmt.Errorf("age identity of type %T has no recipient that can be told from it", id)
		}
	}
	return to, nil
}

func (ids ageIdentities) unwrapper() (object.Unwrapper, error) { return object.AgeIdentities(ids), nil }
