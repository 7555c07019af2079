package object

import (
	"crypto/ecdh"
	"crypto/rand"
	"fmt"
)

// X25519Recipient is a public key: whoever holds it writes, and cannot read what was written.
type X25519Recipient struct{ public *ecdh.PublicKey }

// X25519Identity is the private key to it.
type X25519Identity struct{ private *ecdh.PrivateKey }

func NewX25519Recipient(public [32]byte) (*X25519Recipient, error) {
	p, err := ecdh.X25519().NewPublicKey(public[:])
	return &X25519Recipient{p}, err
}

func NewX25519Identity(private Key) (*X25519Identity, error) {
	p, err := ecdh.X25519().NewPrivateKey(private[:])
	return &X25519Identity{p}, err
}

func (x *X25519Identity) Recipient() *X25519Recipient { return &X25519Recipient{x.private.PublicKey()} }

// Public is the key's 32 bytes.
func (r *X25519Recipient) Public() [32]byte { return [32]byte(r.public.Bytes()) }

func (r *X25519Recipient) Wrap(h *Header, key Key) (Wrap, error) {
	ephemeral, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return Wrap{}, fmt.Errorf("ephemeral key: %w", err)
	}
	shared, err := ephemeral.ECDH(r.public)
	if err != nil {
		return Wrap{}, fmt.Errorf("recipient's public key: %w", err)
	}
	id, public := KeyID(r.Public()), ephemeral.PublicKey().Bytes()
	body := append(append(make([]byte, 0, 88), id[:]...), public...)
	return Wrap{Type: WrapX25519, Body: sealKey(body, h, x25519Key(h, shared, public, r.public.Bytes()), key)}, nil
}

func (x *X25519Identity) Unwrap(h *Header) (Key, error) {
	own := x.Recipient().Public()
	id, last := KeyID(own), error(ErrNoKey)
	for i := range h.Wraps {
		body := h.body(i, WrapX25519)
		if body == nil || [8]byte(body) != id {
			continue
		}
		key, err := x.open(h, body[8:40], body[40:], own[:])
		if err == nil {
			return key, nil
		}
		last = err
	}
	return Key{}, last
}

func (x *X25519Identity) open(h *Header, ephemeral, sealed, own []byte) (Key, error) {
	public, err := ecdh.X25519().NewPublicKey(ephemeral)
	if err != nil {
		return Key{}, h.corrupt(fixedHeader, err.Error())
	}
	shared, err := x.private.ECDH(public) // refuses points of low order
	if err != nil {
		return Key{}, h.corrupt(fixedHeader, err.Error())
	}
	return openKey(h, x25519Key(h, shared, ephemeral, own), sealed)
}

func x25519Key(h *Header, shared, ephemeral, recipient []byte) Key {
	salt := append(append(make([]byte, 0, 64), ephemeral...), recipient...)
	return derive(shared, salt, "hikae/1/wrap/x25519"+string(h.salt()))
}
