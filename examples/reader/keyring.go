package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"
	"golang.org/x/crypto/argon2"
)

// Types of wraps.
const (
	wrapClear      = 0
	wrapMaster     = 1
	wrapX25519     = 2
	wrapPassphrase = 3
	wrapKey        = 4
	wrapAge        = 5
)

// maxArgonWork is what one slot of the highest cost takes, in passes over KiB; all slots together get no more.
const maxArgonWork = 64 * (1 << 20)

// keyring holds whatever may open an object: secrets of people first, and after a slot was opened those of the
// repository.
type keyring struct {
	passphrase []byte
	key        []byte // of a key file
	identities []age.Identity

	masters  [][]byte
	identity *ecdh.PrivateKey

	argonWork uint64
}

// unwrap tries each wrap that a key is there for.
func (o *opened) unwrap(wraps []wrap, keys *keyring) ([]byte, error) {
	var worst error = &fault{"", -1, errNoKey, ""}
	for _, w := range wraps {
		key, err := keys.try(o, w)
		if err != nil {
			if !errors.Is(err, errNoKey) {
				worst = err
			}
			continue
		}
		o.wrap = w.kind
		return key, nil
	}
	return nil, worst
}

func (k *keyring) try(o *opened, w wrap) ([]byte, error) {
	switch w.kind {
	case wrapClear:
		if len(w.body) != 32 {
			return nil, damaged("", fixedHeader, "a clear key of %d bytes", len(w.body))
		}
		return w.body, nil
	case wrapMaster:
		return k.byID(o, w.body, k.masters, "hikae/1/wrap/master")
	case wrapKey:
		if k.key == nil {
			return nil, errNoKey
		}
		return k.byID(o, w.body, [][]byte{k.key}, "hikae/1/wrap/key")
	case wrapX25519:
		return k.byExchange(o, w.body)
	case wrapPassphrase:
		return k.byPassphrase(o, w.body)
	case wrapAge:
		return k.byAge(w.body)
	}
	return nil, errNoKey
}

// byID opens a wrap that names its key by the key's id.
func (k *keyring) byID(o *opened, body []byte, keys [][]byte, info string) ([]byte, error) {
	if len(body) != 8+48 {
		return nil, damaged("", fixedHeader, "a wrap of %d bytes", len(body))
	}
	for _, key := range keys {
		if bytes.Equal(keyID(key), body[:8]) {
			return o.openKey(derive(key, o.salt, info), body[8:])
		}
	}
	return nil, errNoKey
}

func (k *keyring) byExchange(o *opened, body []byte) ([]byte, error) {
	if len(body) != 8+32+48 {
		return nil, damaged("", fixedHeader, "a wrap of %d bytes", len(body))
	}
	if k.identity == nil {
		return nil, errNoKey
	}
	recipient := k.identity.PublicKey().Bytes()
	if !bytes.Equal(keyID(recipient), body[:8]) {
		return nil, errNoKey
	}
	ephemeral, err := ecdh.X25519().NewPublicKey(body[8:40])
	if err != nil {
		return nil, damaged("", fixedHeader, "%v", err)
	}
	shared, err := k.identity.ECDH(ephemeral)
	if err != nil {
		return nil, damaged("", fixedHeader, "%v", err)
	}
	salt := append(bytes.Clone(body[8:40]), recipient...)
	return o.openKey(derive(shared, salt, "hikae/1/wrap/x25519"+string(o.salt)), body[40:])
}

func (k *keyring) byPassphrase(o *opened, body []byte) ([]byte, error) {
	if len(body) != 16+9+48 {
		return nil, damaged("", fixedHeader, "a wrap of %d bytes", len(body))
	}
	if k.passphrase == nil {
		return nil, errNoKey
	}
	time, memory, threads := binary.LittleEndian.Uint32(body[16:]), binary.LittleEndian.Uint32(body[20:]), body[24]
	if time > 64 || threads > 64 || memory > 1<<20 {
		return nil, &fault{"", fixedHeader, errCostly, fmt.Sprintf("argon2id with time %d, %d KiB, %d threads", time, memory, threads)}
	}
	if time < 1 || threads < 1 || memory < 8*uint32(threads) {
		return nil, damaged("", fixedHeader, "costs of argon2id: time %d, %d KiB, %d threads", time, memory, threads)
	}
	work := uint64(time) * uint64(memory)
	if k.argonWork+work > maxArgonWork {
		return nil, &fault{"", fixedHeader, errCostly, "all slots together"}
	}
	k.argonWork += work
	key, err := o.openKey(argon2.IDKey(k.passphrase, body[:16], time, memory, threads, 32), body[25:])
	if err != nil {
		return nil, &fault{"", -1, errSecret, ""}
	}
	return key, nil
}

func (k *keyring) byAge(body []byte) ([]byte, error) {
	if len(k.identities) == 0 {
		return nil, errNoKey
	}
	r, err := age.Decrypt(bytes.NewReader(body), k.identities...)
	var other *age.NoIdentityMatchError
	if errors.As(err, &other) {
		return nil, errNoKey
	}
	if err != nil {
		return nil, damaged("", fixedHeader, "%v", err)
	}
	key, err := io.ReadAll(io.LimitReader(r, 33))
	if err != nil {
		return nil, damaged("", fixedHeader, "%v", err)
	}
	if len(key) != 32 {
		return nil, damaged("", fixedHeader, "an age file that does not hold 32 bytes")
	}
	return key, nil
}

// openKey opens a sealed data key, 48 bytes, under a key that is used once.
func (o *opened) openKey(key, sealed []byte) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("key-encryption key: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("key-encryption key: %w", err)
	}
	plain, err := aead.Open(nil, make([]byte, 12), sealed, o.head[:])
	if err != nil {
		return nil, damaged("", fixedHeader, "the wrapped key does not open")
	}
	return plain, nil
}

// keyID is how a wrap names the key that it is for.
func keyID(key []byte) []byte {
	id := hash(append([]byte("hikae/1/keyid"), key...))
	return id[:8]
}
