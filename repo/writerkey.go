package repo

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/hikae/hikae/repo/internal/object"
)

// WriterKey is all that a write-only client holds of a repository: what it signs with, the key of its own content's ids
// and what the log calls its VMs. With it points of those VMs can be added; it opens nothing that others wrote, and of
// what its owner wrote no block.
//
// It is a secret of the machine that it is for: whoever has it can add points in that machine's name. It prints as
// nothing; MarshalText and [ParseWriterKey] are the way to a file and back.
type WriterKey struct{ doc writerDocument }

// writerDocument is what a writer key holds.
type writerDocument struct {
	Format int        `json:"format"` // 1
	Repo   id16       `json:"repo"`
	Header hash       `json:"header"` // of the header's document: who holds the key knows the right one
	Seed   secret32   `json:"seed"`   // Ed25519 seed (RFC 8032)
	IDKey  secret32   `json:"idKey"`  // of its scope
	VMs    []writerVM `json:"vms"`
}

// writerVM is a VM that a writer key may add points of.
type writerVM struct {
	Name string `json:"name"`
	Tag  id16   `json:"tag"`
}

const (
	maxWriterVMs = 1024
	maxWriterKey = 4 << 20 // bytes of a key's text
)

// Format prints nothing of the key, whatever the verb.
func (WriterKey) Format(f fmt.State, _ rune) { hidden(f) }

// Repository is the id of the repository that the key is for.
func (k WriterKey) Repository() string { return k.doc.Repo.String() }

// VMs are the names of the VMs that the key may add points of.
func (k WriterKey) VMs() (names []string) {
	for _, vm := range k.doc.VMs {
		names = append(names, vm.Name)
	}
	return names
}

// Public is the Ed25519 public key that the log knows the writer by.
func (k WriterKey) Public() [32]byte { return publicOf(keyFromSeed(k.doc.Seed[:])) }

// MarshalText gives the key's file, secret as it is: a JSON document.
func (k WriterKey) MarshalText() ([]byte, error) {
	b, err := encodeJSON(k.doc)
	return append(b, '\n'), err
}

// ParseWriterKey reads what MarshalText gave.
func ParseWriterKey(b []byte) (WriterKey, error) {
	var k WriterKey
	fail := func(err error) (WriterKey, error) { return WriterKey{}, fmt.Errorf("not a writer's key: %w", err) }
	if len(b) > maxWriterKey {
		return fail(fmt.Errorf("%d bytes", len(b)))
	}
	if n := len(b); n > 0 && b[n-1] == '\n' {
		b = b[:n-1]
	}
	if err := decodeJSON(b, &k.doc); err != nil {
		return fail(err)
	}
	return k, k.check()
}

func (k WriterKey) check() error {
	switch n := len(k.doc.VMs); {
	case k.doc.Format != 1:
		return &ErrUnsupported{What: fmt.Sprintf("format %d of a writer's key", k.doc.Format)}
	case n == 0 || n > maxWriterVMs:
		return fmt.Errorf("a writer's key for %d VMs, and 1 to %d are possible: %w", n, maxWriterVMs, fs.ErrInvalid)
	}
	for i, vm := range k.doc.VMs {
		if err := checkName(vm.Name); err != nil {
			return err
		}
		if vm.Tag == (id16{}) || slices.ContainsFunc(k.doc.VMs[:i], func(o writerVM) bool { return o.Name == vm.Name }) {
			return fmt.Errorf("VM %q of a writer's key: %w", vm.Name, fs.ErrInvalid)
		}
	}
	return nil
}

// EnrolWriter makes a key for a write-only client that may add points of these VMs and do nothing else. From here on
// the log knows it; there is no other copy of the key than the one that is returned.
func (r *Repository) EnrolWriter(ctx context.Context, vms []string) (WriterKey, error) {
	if r.keys.root == nil {
		return WriterKey{}, fmt.Errorf("a write-only client enrols nobody: %w", fs.ErrPermission)
	}
	if err := r.writable(ctx); err != nil {
		return WriterKey{}, err
	}
	k := WriterKey{writerDocument{Format: 1, Repo: r.header.ID, Header: r.headerHash, Seed: newSecret()}}
	public := publicKey(k.Public())
	k.doc.IDKey = scopeKey(r.keys.slot.IDKey, scope(public))
	var tags []id16
	for _, name := range vms {
		k.doc.VMs = append(k.doc.VMs, writerVM{name, r.keys.tag(name)})
		tags = append(tags, r.keys.tag(name))
	}
	if err := k.check(); err != nil {
		return WriterKey{}, err
	}
	_, err := r.log.append(ctx, r.keys.root, func() (*record, error) {
		return &record{Kind: recordKey, Key: &public, Role: roleAppend, VMs: tags}, nil
	})
	if err != nil {
		return WriterKey{}, err
	}
	return k, r.client.advance(r.log)
}

// newWriterKeyring is what a writer's key makes of a repository's header.
func newWriterKeyring(h *headerDocument, w WriterKey) (*keyring, error) {
	k := &keyring{
		repo: h.ID, suite: h.Suite, permille: h.ParityPermille,
		scope: scope(w.Public()), contents: newContentKeys(w.doc.IDKey), vms: map[string]id16{},
	}
	for _, vm := range w.doc.VMs {
		k.vms[vm.Name] = vm.Tag
	}
	if h.Suite == object.SuiteClear {
		k.wraps, k.unwraps = []object.Wrapper{object.Clear{}}, []object.Unwrapper{object.Clear{}}
		return k, nil
	}
	to, err := object.NewX25519Recipient(h.Recipient)
	if err != nil {
		return nil, fmt.Errorf("the header's recipient: %w", err)
	}
	own := object.KeyFile(derive(w.doc.Seed, "hikae/1/writer/own"))
	k.wraps = []object.Wrapper{to}
	k.ownWraps = []object.Wrapper{to, own}
	k.unwraps = []object.Unwrapper{own}
	return k, nil
}

// errNotEnrolled says that the log does not know a writer's key.
var errNotEnrolled = errors.New("the repository's log does not know this writer's key")

// asWriter returns the key of a write-only client, which somebody else has enrolled.
func (r *Repository) asWriter(ctx context.Context) (ed25519.PrivateKey, error) {
	key := keyFromSeed(r.writer.key.doc.Seed[:])
	known := func() (ok bool) {
		r.log.view(func(l *ledger) {
			e, enrolled := l.keys[publicOf(key)]
			ok = enrolled && e.role == roleAppend
		})
		return ok
	}
	if known() {
		return key, nil
	}
	if err := r.log.refresh(ctx); err != nil {
		return nil, err
	}
	if !known() {
		return nil, errNotEnrolled
	}
	return key, nil
}
