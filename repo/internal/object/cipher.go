package object

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"sync"

	"github.com/zeebo/blake3"
)

// Key is a symmetric key: a data key, a master key, the content of a key file.
type Key [32]byte

// KeyID names a key, or an X25519 public key, in a wrap.
func KeyID(key [32]byte) (id [8]byte) {
	sum := blake3.Sum256(append([]byte("hikae/1/keyid"), key[:]...))
	return [8]byte(sum[:])
}

func derive(secret, salt []byte, info string) Key {
	k, err := hkdf.Key(sha256.New, secret, salt, info, len(Key{}))
	if err != nil {
		panic("object: hkdf: " + err.Error()) // only for lengths that are constant here
	}
	return Key(k)
}

// commitment ties a header to one data key.
func commitment(h *Header, key Key) Key { return derive(key[:], h.salt(), "hikae/1/commit") }

const ordinalTable = 0xFFFFFFFF // in place of a frame's ordinal

// FrameRef says where a frame is and what it must be. Offset is of the stream.
type FrameRef struct {
	Ordinal uint32
	Offset  uint32
	Stored  uint32 // bytes of the sealed frame
	Plain   uint32 // bytes of the decoded content
	Type    uint8
	Codec   uint8
}

// Cipher is the opened key of one object: a few hundred bytes, safe for concurrent use.
type Cipher struct {
	id    [16]byte
	bound [36]byte    // the part of the additional data that is the same for all frames
	aead  cipher.AEAD // suite 1; nil in suite 0
	mac   Key         // suite 0
	pool  sync.Pool   // *scratch
}

// scratch is memory for one call: what goes through cipher.AEAD would escape from a stack.
type scratch struct {
	data   [46]byte
	nonce  [12]byte
	hasher *blake3.Hasher
	sum    []byte
}

// NewCipher checks key against the header's commitment; a key that does not match is a CorruptError.
func NewCipher(h *Header, key Key) (*Cipher, error) {
	if err := knownSuite(h.Suite); err != nil {
		return nil, err
	}
	if c := commitment(h, key); subtle.ConstantTimeCompare(c[:], h.Commitment[:]) != 1 {
		return nil, h.corrupt(atCommitment, "the header does not commit to this key")
	}
	return newCipher(h, key), nil
}

func newCipher(h *Header, key Key) *Cipher {
	c := &Cipher{id: h.Object}
	binary.LittleEndian.PutUint16(c.bound[:], Version)
	c.bound[2], c.bound[3] = h.Suite, h.Kind
	copy(c.bound[4:], h.Repo[:])
	copy(c.bound[20:], h.Object[:])
	c.mac = derive(key[:], h.salt(), "hikae/1/frames")
	if h.Suite == SuiteAES {
		c.aead, c.mac = newGCM(c.mac), Key{}
	}
	return c
}

func newGCM(key Key) cipher.AEAD {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic("object: aes: " + err.Error()) // only for key lengths that a Key cannot have
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic("object: gcm: " + err.Error())
	}
	return aead
}

// OpenFrame opens a sealed frame into dst[:0] and returns its content, still encoded: pipe.Decode with ref.Codec and
// ref.Plain is next. dst may be sealed itself. The error is a CorruptError.
func (c *Cipher) OpenFrame(dst, sealed []byte, ref FrameRef) ([]byte, error) {
	if len(sealed) != int(ref.Stored) || len(sealed) < Overhead {
		return nil, c.corrupt(ref, "frame has another length than its entry says")
	}
	s := c.scratch(ref)
	defer c.pool.Put(s)
	if c.aead != nil {
		out, err := c.aead.Open(dst[:0], s.nonce[:], sealed, s.data[:])
		if err != nil {
			return nil, c.corrupt(ref, "frame does not open")
		}
		return out, nil
	}
	content, tag := sealed[:len(sealed)-Overhead], sealed[len(sealed)-Overhead:]
	if subtle.ConstantTimeCompare(c.tag(s, content), tag) != 1 {
		return nil, c.corrupt(ref, "frame does not match its tag")
	}
	return append(dst[:0], content...), nil
}

// seal is unexported: only a Builder may say which ordinal is next.
func (c *Cipher) seal(dst, content []byte, ref FrameRef) []byte {
	s := c.scratch(ref)
	defer c.pool.Put(s)
	if c.aead != nil {
		return c.aead.Seal(dst[:0], s.nonce[:], content, s.data[:])
	}
	tag := c.tag(s, content)
	return append(append(dst[:0], content...), tag...)
}

func (c *Cipher) tag(s *scratch, content []byte) []byte {
	if s.hasher == nil {
		s.hasher, _ = blake3.NewKeyed(c.mac[:]) // never fails for 32 bytes
	}
	s.hasher.Reset()
	_, _ = s.hasher.Write(s.data[:])
	_, _ = s.hasher.Write(content)
	s.sum = s.hasher.Sum(s.sum[:0])
	return s.sum[:Overhead]
}

func (c *Cipher) scratch(ref FrameRef) *scratch {
	s, ok := c.pool.Get().(*scratch)
	if !ok {
		s = new(scratch)
	}
	copy(s.data[:], c.bound[:])
	binary.LittleEndian.PutUint32(s.data[36:], ref.Ordinal)
	s.data[40], s.data[41] = ref.Type, ref.Codec
	binary.LittleEndian.PutUint32(s.data[42:], ref.Plain)
	binary.LittleEndian.PutUint32(s.nonce[:], ref.Ordinal)
	return s
}

func (c *Cipher) corrupt(ref FrameRef, reason string) *CorruptError {
	return &CorruptError{Object: c.id, Offset: int(ref.Offset), Reason: reason}
}
