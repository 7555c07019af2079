package object

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"

	"golang.org/x/crypto/argon2"
)

// Cost is what one guess at a passphrase costs, as argon2id parameters. The zero value is 64 MiB, time 3, threads 2:
// about a quarter of a second.
type Cost struct {
	Time      uint32
	MemoryKiB uint32
	Threads   uint8
}

// Bounds of what a header may ask of a reader.
const (
	maxArgonTime      = 64
	maxArgonMemoryKiB = 4 << 20
	maxArgonThreads   = 64
)

func (c Cost) orDefault() Cost {
	if c == (Cost{}) {
		return Cost{Time: 3, MemoryKiB: 64 << 10, Threads: 2}
	}
	return c
}

// check: argon2 needs at least 8 KiB for each thread.
func (c Cost) check() error {
	if c.Time < 1 || c.Time > maxArgonTime || c.Threads < 1 || c.Threads > maxArgonThreads ||
		c.MemoryKiB < 8*uint32(c.Threads) || c.MemoryKiB > maxArgonMemoryKiB {
		return fmt.Errorf("argon2id cost out of bounds: time %d, %d KiB, %d threads", c.Time, c.MemoryKiB, c.Threads)
	}
	return nil
}

// Passphrase wraps and unwraps with what a person remembers. Cost is for wrapping only: reading takes the header's.
type Passphrase struct {
	Text string
	Cost Cost
}

func (p Passphrase) Wrap(h *Header, key Key) (Wrap, error) {
	cost := p.Cost.orDefault()
	if err := cost.check(); err != nil {
		return Wrap{}, err
	}
	body := make([]byte, 25, 25+sealedKeyLen)
	_, _ = rand.Read(body[:16]) // never fails
	binary.LittleEndian.PutUint32(body[16:], cost.Time)
	binary.LittleEndian.PutUint32(body[20:], cost.MemoryKiB)
	body[24] = cost.Threads
	return Wrap{Type: WrapPassphrase, Body: sealKey(body, h, p.stretch(body[:16], cost), key)}, nil
}

// StretchCost is what trying a passphrase on all wraps of a header may cost, in KiB times passes. Costs that no reader
// accepts count nothing: they are refused before anything is computed.
func (h *Header) StretchCost() (total int64) {
	for i := range h.Wraps {
		body := h.body(i, WrapPassphrase)
		if body == nil {
			continue
		}
		if c := costIn(body); c.check() == nil {
			total += int64(c.Time) * int64(c.MemoryKiB)
		}
	}
	return total
}

// costIn is the cost in a wrap's body.
func costIn(body []byte) Cost {
	return Cost{Time: binary.LittleEndian.Uint32(body[16:]), MemoryKiB: binary.LittleEndian.Uint32(body[20:]), Threads: body[24]}
}

// Unwrap tries every passphrase wrap. One that does not open is ErrWrongSecret: the cells' tags have already told
// damage apart.
func (p Passphrase) Unwrap(h *Header) (Key, error) {
	last := error(ErrNoKey)
	for i := range h.Wraps {
		body := h.body(i, WrapPassphrase)
		if body == nil {
			continue
		}
		cost := costIn(body)
		if err := cost.check(); err != nil {
			last = h.corrupt(fixedHeader, err.Error())
			continue
		}
		if key, err := openKey(h, p.stretch(body[:16], cost), body[25:]); err == nil {
			return key, nil
		}
		last = ErrWrongSecret
	}
	return Key{}, last
}

func (p Passphrase) stretch(salt []byte, c Cost) Key {
	return Key(argon2.IDKey([]byte(p.Text), salt, c.Time, c.MemoryKiB, c.Threads, uint32(len(Key{}))))
}
