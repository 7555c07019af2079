package mover

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// tenant is one peer's part of the target: the names that it may use, the key of its ids on the wire, and the blocks
// that it has sent. All sessions of a peer share one.
type tenant struct {
	name string
	key  [32]byte // of the ids on the wire

	known *knownTable

	absorbing sync.Mutex // of what was seeded

	refs int       // sessions that use it
	idle time.Time // since when none does
}

// tenants are the open ones.
type tenants struct {
	dir    string
	secret [32]byte
	warn   func(text string, args ...any) // nil: nobody listens

	mu     sync.Mutex
	byName map[string]*tenant
}

// secretFile holds what the keys of all tenants are derived from. Without it they cannot be made again; what is lost
// then is the tables of known blocks, no more.
const secretFile = "tenants.secret"

// idleTenant is how long a table stays open after its last session.
const idleTenant = time.Minute

func openTenants(dir string) (*tenants, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	secret, err := readSecret(filepath.Join(dir, secretFile))
	if errors.Is(err, fs.ErrNotExist) {
		secret, err = makeSecret(filepath.Join(dir, secretFile))
	}
	if err != nil {
		return nil, err
	}
	return &tenants{dir: dir, secret: secret, byName: map[string]*tenant{}}, nil
}

func readSecret(path string) (secret [32]byte, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return secret, err
	}
	if len(b) != len(secret) {
		return secret, fmt.Errorf("%s has %d bytes where 32 belong: remove it, and every peer sends its blocks once more", path, len(b))
	}
	return [32]byte(b), nil
}

// makeSecret makes the file whole under another name and then links it, so that of two processes one makes it and the
// other reads it.
func makeSecret(path string) (secret [32]byte, err error) {
	_, _ = rand.Read(secret[:]) // it never fails
	f, err := os.CreateTemp(filepath.Dir(path), secretFile+".*")
	if err != nil {
		return secret, err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(secret[:])
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return secret, err
	}
	err = os.Link(f.Name(), path)
	if err != nil && !errors.Is(err, fs.ErrExist) { // a file system without links
		err = writeNew(path, secret[:])
	}
	if errors.Is(err, fs.ErrExist) {
		return readSecret(path)
	}
	return secret, err
}

// writeNew writes a file that is not there yet.
func writeNew(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// derive is a key of a tenant for one purpose.
func (ts *tenants) derive(purpose, name string) (key [32]byte) {
	b, err := hkdf.Key(sha256.New, ts.secret[:], nil, "hikae mover 1 "+purpose+" "+name, len(key))
	if err != nil {
		panic(err) // 32 bytes are always to be had
	}
	return [32]byte(b)
}

// open is a tenant for one more session, which releases it.
func (ts *tenants) open(name string) (*tenant, error) {
	t, err := ts.take(name)
	if err != nil {
		return nil, err
	}
	if err := t.absorb(ts.knownPath(name)); err != nil && ts.warn != nil {
		ts.warn("seeded blocks could not be taken over, and are sent over the line", "peer", name, "err", err)
	}
	return t, nil
}

func (ts *tenants) take(name string) (*tenant, error) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t := ts.byName[name]
	if t == nil {
		known, err := openKnown(ts.knownPath(name), ts.derive("known", name))
		if err != nil {
			return nil, err
		}
		t = &tenant{name: name, key: ts.derive("ids", name), known: known}
		ts.byName[name] = t
	}
	t.refs++
	return t, nil
}

func (ts *tenants) release(t *tenant) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if t.refs--; t.refs == 0 {
		t.idle = time.Now()
	}
}

// sweep closes the tables that nobody has used for a while.
func (ts *tenants) sweep(now time.Time) error {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	var all error
	for name, t := range ts.byName {
		if t.refs == 0 && now.Sub(t.idle) >= idleTenant {
			delete(ts.byName, name)
			all = errors.Join(all, t.known.sync(), t.known.Close())
		}
	}
	return all
}

// close closes all, used or not.
func (ts *tenants) close() error {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	var all error
	for name, t := range ts.byName {
		delete(ts.byName, name)
		all = errors.Join(all, t.known.sync(), t.known.Close())
	}
	return all
}

// fingerprint is a block's id on the wire.
func (t *tenant) fingerprint(p []byte) pipe.ID { return keyedID(t.key, p) }

// space translates between the names of VMs on the wire and in the backend. An append peer's VMs stand under its own
// name, and it never sees that: so no peer can name another's.
type space struct {
	prefix string // of an append peer
	only   string // the one VM of a collection
}

func spaceOf(name string, full bool) space {
	if full {
		return space{}
	}
	return space{prefix: name + "/"}
}

// inner is the backend's name of the VM that the peer calls vm.
func (s space) inner(vm string) (string, error) {
	if err := checkVM(vm, s.prefix != ""); err != nil {
		return "", err
	}
	if s.only != "" && vm != s.only {
		return "", fmt.Errorf("VM %q is not the one that was ordered: %w", vm, fs.ErrPermission)
	}
	if len(s.prefix)+len(vm) > wire.MaxName {
		return "", fmt.Errorf("the VM's name is longer than %d bytes together with the peer's: %w", wire.MaxName, fs.ErrInvalid)
	}
	return s.prefix + vm, nil
}

// outer is the peer's name of a VM of the backend; not ok: the peer does not see it.
func (s space) outer(vm string) (string, bool) {
	vm, ok := strings.CutPrefix(vm, s.prefix)
	return vm, ok && vm != "" && (s.only == "" || vm == s.only)
}

// checkVM refuses names that could not be told from another peer's, and those that no backend should meet.
func checkVM(vm string, below bool) error {
	switch {
	case vm == "", vm == ".", vm == "..", !utf8.ValidString(vm):
	case below && strings.ContainsAny(vm, `/\`):
	case strings.ContainsFunc(vm, unicode.IsControl):
	default:
		return nil
	}
	return fmt.Errorf("%q cannot name a VM: %w", vm, fs.ErrInvalid)
}
