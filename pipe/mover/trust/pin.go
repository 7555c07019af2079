package trust

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io/fs"
	"strings"
)

// Pin names a key: the SHA-256 of its SubjectPublicKeyInfo in DER (RFC 5280 §4.1.2.7, RFC 8410 for Ed25519). It is no
// secret.
type Pin [sha256.Size]byte

const pinPrefix = "sha256:"

// PinOf is the pin of a key.
func PinOf(key ed25519.PublicKey) (Pin, error) {
	if len(key) != ed25519.PublicKeySize {
		return Pin{}, fmt.Errorf("a public key of %d bytes: %w", len(key), fs.ErrInvalid)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return Pin{}, err
	}
	return sha256.Sum256(der), nil
}

// String is "sha256:" and 64 hexadecimal digits.
func (p Pin) String() string { return pinPrefix + hex.EncodeToString(p[:]) }

// Short are the first twelve digits, for people to compare and for logs.
func (p Pin) Short() string { return hex.EncodeToString(p[:6]) }

// ParsePin reads what String writes.
func ParsePin(text string) (p Pin, err error) {
	digits, ok := strings.CutPrefix(text, pinPrefix)
	if !ok || len(digits) != hex.EncodedLen(len(p)) || strings.ToLower(digits) != digits {
		return Pin{}, fmt.Errorf("%.80q is no pin, which is %q and 64 digits: %w", text, pinPrefix, fs.ErrInvalid)
	}
	if _, err := hex.Decode(p[:], []byte(digits)); err != nil {
		return Pin{}, fmt.Errorf("pin: %w: %w", fs.ErrInvalid, err)
	}
	return p, nil
}

// MarshalText is String.
func (p Pin) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText is [ParsePin].
func (p *Pin) UnmarshalText(text []byte) (err error) {
	*p, err = ParsePin(string(text))
	return err
}

func (p Pin) equal(other Pin) bool { return subtle.ConstantTimeCompare(p[:], other[:]) == 1 }
