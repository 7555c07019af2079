package repo

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/zeebo/blake3"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/object"
)

// secret32 is 32 secret bytes, in JSON as hexadecimal digits. It prints as nothing, so that no log ever holds one.
type secret32 [32]byte

func (secret32) Format(f fmt.State, _ rune)      { hidden(f) }
func (s secret32) MarshalText() ([]byte, error)  { return []byte(hex.EncodeToString(s[:])), nil }
func (s *secret32) UnmarshalText(b []byte) error { return decodeHex(s[:], b) }

func newSecret() (s secret32) {
	_, _ = rand.Read(s[:])
	return s
}

// slotDocument is what a slot holds: all secrets of the repository, and the hash that binds them to its header.
type slotDocument struct {
	Masters  []secret32 `json:"masters"`  // the last one wraps new objects
	IDKey    secret32   `json:"idKey"`    // never changes
	RootSeed secret32   `json:"rootSeed"` // Ed25519 seed: signs key records
	Identity secret32   `json:"identity"` // X25519 private key
	Header   hash       `json:"header"`   // of the header's document
}

// keyring is an opened slot, made ready for use.
type keyring struct {
	repo     [16]byte
	suite    uint8
	slot     slotDocument       // zero for a write-only client
	root     ed25519.PrivateKey // nil for a write-only client
	scope    scope              // whose ids new content gets
	contents *contentKeys       // of that scope
	vmTag    [32]byte
	vms      map[string]id16 // of a write-only client: the tags that it was given
	wraps    []object.Wrapper
	ownWraps []object.Wrapper // of what a write-only client has to read again; nil: wraps
	unwraps  []object.Unwrapper
	permille int
}

func newKeyring(repo [16]byte, suite uint8, permille int, slot slotDocument) (*keyring, error) {
	k := &keyring{repo: repo, suite: suite, slot: slot, permille: permille, root: keyFromSeed(slot.RootSeed[:])}
	k.contents = newContentKeys(slot.IDKey)
	k.vmTag = derive(slot.IDKey, "hikae/1/vm")
	if suite == object.SuiteClear {
		k.wraps = []object.Wrapper{object.Clear{}}
		k.unwraps = []object.Unwrapper{object.Clear{}}
		return k, nil
	}
	if len(slot.Masters) == 0 {
		return nil, fmt.Errorf("the slot holds no master key")
	}
	for _, m := range slot.Masters {
		k.unwraps = append(k.unwraps, object.Master(m))
	}
	k.wraps = []object.Wrapper{object.Master(slot.Masters[len(slot.Masters)-1])}
	identity, err := object.NewX25519Identity(object.Key(slot.Identity))
	if err != nil {
		return nil, err
	}
	k.unwraps = append(k.unwraps, identity, object.Clear{})
	return k, nil
}

func derive(key [32]byte, info string) [32]byte {
	b, err := hkdf.Key(sha256.New, key[:], nil, info, 32)
	if err != nil {
		panic("repo: hkdf of 32 bytes: " + err.Error())
	}
	return [32]byte(b)
}

func keyedHasher(key [32]byte) *blake3.Hasher {
	h, err := blake3.NewKeyed(key[:])
	if err != nil {
		panic("repo: a key of 32 bytes is refused: " + err.Error())
	}
	return h
}

// id is the identity of content that this client writes.
func (k *keyring) id(typ uint8, content []byte) pipe.ID { return k.contents.id(typ, content) }

// tag is what the log calls a VM. The zero tag is no VM's: a write-only client knows those of its own VMs only.
func (k *keyring) tag(vm string) id16 {
	if k.vms != nil {
		return k.vms[vm]
	}
	return domainTag(k.vmTag, vm)
}

// wrapsOf are the ways to the data key of a new object. What a write-only client has to read again it can open itself;
// the blocks that it writes it cannot.
func (k *keyring) wrapsOf(kind uint8) []object.Wrapper {
	if k.ownWraps != nil && kind != kindData {
		return k.ownWraps
	}
	return k.wraps
}

// maker seals one document as an object of its own.
func (k *keyring) maker(suite uint8, wraps []object.Wrapper) objectMaker {
	return func(kind uint8, content []byte) ([16]byte, []byte, error) {
		b, err := object.NewBuilder(k.repo, suite, kind, k.permille, len(content)+1<<12, wraps)
		if err != nil {
			return [16]byte{}, nil, err
		}
		_, err = b.Append(object.TypeDocument, hashBytes(content), object.CodecPlain, len(content), content)
		if err != nil {
			return [16]byte{}, nil, err
		}
		file, err := b.Seal()
		return b.ID(), file, err
	}
}

// clear seals what is signed but not secret.
func (k *keyring) clear() objectMaker {
	return k.maker(object.SuiteClear, []object.Wrapper{object.Clear{}})
}
