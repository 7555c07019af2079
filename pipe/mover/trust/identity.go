package trust

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Identity is a machine's own key. It prints as its pin, never as itself. All methods are safe for concurrent use.
type Identity struct {
	key ed25519.PrivateKey
	pin Pin
	now func() time.Time

	mu   sync.Mutex
	cert *tls.Certificate // of this process; see certificate
}

// The files of a folder.
const (
	identityFile = "identity.key"
	nextFile     = "identity.next.key"
	lockFile     = "trust.lock"
	bookName     = "peers.book"
)

const (
	maxKeyFile = 4 << 10
	pemType    = "PRIVATE KEY" // PKCS #8
)

// NewIdentity makes a key that is written nowhere.
func NewIdentity() (*Identity, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return identityOf(key)
}

func identityOf(key ed25519.PrivateKey) (*Identity, error) {
	pin, err := PinOf(key.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, err
	}
	return &Identity{key: key, pin: pin, now: time.Now}, nil
}

// LoadIdentity is the identity that lies in a folder; the first call makes folder and key. When it returns, the key is
// durable. Of several processes that come first at the same time, all get the same key.
//
// A file that others may read is refused with an [ErrIdentity] (not on Windows, where its folder's access list decides).
func LoadIdentity(dir string) (*Identity, error) { return loadOrMake(dir, identityFile) }

// NextIdentity is the key that a machine changes over to, made durable before anybody is told of it:
//
//	next, err := trust.NextIdentity(dir)   // the same one again after a kill
//	… tell the server, with the old key: wire.Rotate
//	… connect with next: from now on the old one is good for nothing
//	err = trust.AdoptNext(dir)
//
// A machine that finds one at its start (see [PendingIdentity]) was killed in between, and tries it first: where it is
// refused, the server was not told yet.
func NextIdentity(dir string) (*Identity, error) { return loadOrMake(dir, nextFile) }

// PendingIdentity is the key of [NextIdentity] if there is one. Without one the error is an fs.ErrNotExist.
func PendingIdentity(dir string) (*Identity, error) {
	return readIdentity(filepath.Join(dir, nextFile))
}

// FindIdentity is the key of [LoadIdentity] if there is one, and makes none. Without one the error is an fs.ErrNotExist.
func FindIdentity(dir string) (*Identity, error) {
	return readIdentity(filepath.Join(dir, identityFile))
}

// AdoptNext makes the next key the machine's own, durably; the old one is gone. Without a next one it does nothing.
func AdoptNext(dir string) error {
	err := locked(dir, func() error {
		next := filepath.Join(dir, nextFile)
		if _, err := readIdentity(next); err != nil {
			return err
		}
		if err := replace(next, filepath.Join(dir, identityFile)); err != nil {
			return err
		}
		return syncFolder(dir)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func loadOrMake(dir, name string) (*Identity, error) {
	path := filepath.Join(dir, name)
	id, err := readIdentity(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return id, err
	}
	if err := MakeFolder(dir); err != nil {
		return nil, err
	}
	err = locked(dir, func() error {
		if id, err = readIdentity(path); !errors.Is(err, fs.ErrNotExist) {
			return err // somebody was faster
		}
		if id, err = NewIdentity(); err != nil {
			return err
		}
		return id.write(dir, name)
	})
	if err != nil {
		return nil, err
	}
	return id, nil
}

func (id *Identity) write(dir, name string) error {
	der, err := x509.MarshalPKCS8PrivateKey(id.key)
	if err != nil {
		return err
	}
	return writeFile(dir, name, pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}))
}

func readIdentity(path string) (*Identity, error) {
	data, fi, err := readFile(path, maxKeyFile)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	if open := openTo(fi, 0o077); open != 0 {
		return nil, fmt.Errorf("%w: %s may be used by others (mode %04o): if nobody has read it, chmod 600 it; else remove it and enrol anew",
			ErrIdentity, path, fi.Mode().Perm())
	}
	key, err := parseKey(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrIdentity, path, err)
	}
	return identityOf(key)
}

func parseKey(data []byte) (ed25519.PrivateKey, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != pemType || strings.TrimSpace(string(rest)) != "" {
		return nil, fmt.Errorf("it is not one PEM block %q", pemType)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("its PKCS #8 is damaged") // the parser's own words might show some of it
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("it holds a key of another kind (%T), not Ed25519", parsed)
	}
	return key, nil
}

// Pin names the key.
func (id *Identity) Pin() Pin { return id.pin }

// PublicKey is what an enrolment hands over.
func (id *Identity) PublicKey() ed25519.PublicKey { return id.key.Public().(ed25519.PublicKey) }

// String names the key and does not tell it.
func (id *Identity) String() string { return "identity " + id.pin.Short() }

// Format prints as String does, whatever the verb.
func (id *Identity) Format(f fmt.State, _ rune) { fmt.Fprint(f, id.String()) }

// LogValue is String.
func (id *Identity) LogValue() slog.Value { return slog.StringValue(id.String()) }
