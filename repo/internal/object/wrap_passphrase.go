package object

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/crypto/argon2"
)

// Cost is what one guess at a passphrase costs, as argon2id parameters. The zero value is 64 MiB, time 3, threads 2:
// about a quarter of a second.
type Cost struct {
	Time      uint32
	MemoryKiB uint32
	Threads   uint8
}

// Bounds of what a header may ask of a reader. Whoever keeps the store writes headers too, so the memory is what any machine that
// restores can spare, and still sixteen times what our own wraps take.
const (
	maxArgonTime      = 64
	maxArgonMemoryKiB = 1 << 20
	maxArgonThreads   = 64
)

// MaxStretch is what one guess of the highest cost takes, in KiB times passes.
const MaxStretch = maxArgonTime * maxArgonMemoryKiB

// ErrCostly says that a guess at a passphrase would cost more than a reader spends. Nothing of it was spent.
var ErrCostly = errors.New("a guess at the passphrase would cost more than any slot needs")

func (c Cost) orDefault() Cost {
	if c == (Cost{}) {
		return Cost{Time: 3, MemoryKiB: 64 << 10, Threads: 2}
	}
	return c
}

// check: argon2 needs at least 8 KiB for each thread. Errors: ErrCostly; another one for what cannot be computed at all.
func (c Cost) check() error {
	if c.Time > maxArgonTime || c.Threads > maxArgonThreads || c.MemoryKiB > maxArgonMemoryKiB {
		return fmt.Errorf("argon2id with time %d, %d KiB, %d threads: %w", c.Time, c.MemoryKiB, c.Threads, ErrCostly)
	}
	if c.Time < 1 || c.Threads < 1 || c.MemoryKiB < 8*uint32(c.Threads) {
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

// Unwrap tries every passphrase wrap, one after the other. One that does not open is ErrWrongSecret: the cells' tags have already
// told damage apart. One that asks for more than a reader spends is passed over, and is ErrCostly where no other opens.
func (p Passphrase) Unwrap(h *Header) (Key, error) {
	last := error(ErrNoKey)
	for i := range h.Wraps {
		body := h.body(i, WrapPassphrase)
		if body == nil {
			continue
		}
		cost := costIn(body)
		if err := cost.check(); errors.Is(err, ErrCostly) {
			last = err
			continue
		} else if err != nil {
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
	if c.MemoryKiB > (Cost{}).orDefault().MemoryKiB {
		defer runtime.GC() // or the memory of several guesses lies about at once
	}
	return Key(argon2.IDKey([]byte(p.Text), salt, c.Time, c.MemoryKiB, c.Threads, uint32(len(Key{}))))
}
