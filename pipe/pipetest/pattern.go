package pipetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math/rand/v2"

	"github.com/hikae/hikae/pipe"
)

// cell is the unit in which a pattern is made, region the unit in which its character changes.
const (
	cell   = 4 << 10
	region = 64 << 10
)

// Pattern is a disk whose content follows from a seed: any byte of it can be computed alone, so a disk of terabytes
// costs nothing. Its data is random (does not compress), text-like, of few symbols, repeated every 256 KiB, and here
// and there zero without an extent that tells. Dropped and Unchanged ranges hold such data too: who copies them by
// mistake is seen. Create one by [NewPattern].
type Pattern struct {
	seed   uint64
	size   int64
	layout cover
	blank  bool // dropped kinds read as zero: what a copy holds
}

// NewPattern returns a pattern of size bytes. The layout says of which kind its ranges are; what it leaves out is Data,
// and a later range replaces an earlier one.
func NewPattern(seed uint64, size int64, layout ...pipe.Extent) *Pattern {
	p := &Pattern{seed: seed, size: size}
	p.layout.set(pipe.Extent{Len: size, Kind: pipe.Data})
	for _, e := range layout {
		p.layout.set(e)
	}
	return p
}

// Blank returns the same disk as a restored copy of it reads: with zeros in the ranges that are dropped.
func (p *Pattern) Blank() *Pattern {
	q := *p
	q.blank = true
	return &q
}

// Layout is the list of the pattern's extents.
func (p *Pattern) Layout() []pipe.Extent { return append([]pipe.Extent(nil), p.layout...) }

// Size is as pipe.Image has it.
func (p *Pattern) Size() int64 { return p.size }

// Close does nothing.
func (p *Pattern) Close() error { return nil }

// ReadAt is as pipe.Image has it.
func (p *Pattern) ReadAt(ctx context.Context, b []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, fmt.Errorf("read at %d: %w", off, fs.ErrInvalid)
	}
	done := 0
	for _, e := range p.layout.within(off, min(off+int64(len(b)), p.size)) {
		part := b[done : done+int(e.Len)]
		if e.Kind == pipe.Zero || (p.blank && e.Kind.Dropped()) {
			clear(part)
		} else {
			p.fill(part, e.Off)
		}
		done += len(part)
	}
	if done < len(b) {
		return done, io.EOF
	}
	return done, nil
}

// Extents is as pipe.ExtentImage has it.
func (p *Pattern) Extents(ctx context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		if off < 0 || n < 0 || n > p.size-off {
			yield(pipe.Extent{}, fmt.Errorf("extents of [%d, %d): %w", off, off+n, fs.ErrInvalid))
			return
		}
		for _, e := range p.layout.within(off, off+n) {
			if err := ctx.Err(); err != nil {
				yield(pipe.Extent{}, err)
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (p *Pattern) fill(b []byte, off int64) {
	var scratch [cell]byte
	for len(b) > 0 {
		at := off / cell * cell
		var n int
		if at == off && len(b) >= cell {
			p.fillCell(b[:cell], at)
			n = cell
		} else {
			p.fillCell(scratch[:], at)
			n = copy(b, scratch[off-at:])
		}
		b, off = b[n:], off+int64(n)
	}
}

var words = []string{"the ", "kernel ", "of ", "disk ", "0x00", "return ", "error ", "\n\t", "value", "=", "block ", "a ", "is ", ";", "{ ", "page "}

// fillCell makes one cell. The character of its region decides how.
func (p *Pattern) fillCell(b []byte, off int64) {
	r := rand.NewPCG(p.seed, uint64(off/region))
	switch r.Uint64() % 8 {
	case 0, 1: // random
		r.Seed(p.seed+1, uint64(off))
		for i := 0; i < cell; i += 8 {
			binary.LittleEndian.PutUint64(b[i:], r.Uint64())
		}
	case 2: // zero
		clear(b)
	case 3: // repeated
		r.Seed(7, uint64(off%(256<<10)))
		for i := 0; i < cell; i += 8 {
			binary.LittleEndian.PutUint64(b[i:], r.Uint64()&0x0f0f0f0f0f0f0f0f)
		}
	case 4: // few symbols
		r.Seed(p.seed+2, uint64(off))
		for i := 0; i < cell; i += 8 {
			binary.LittleEndian.PutUint64(b[i:], r.Uint64()&0x0303030003030303)
		}
	default: // text
		r.Seed(p.seed+3, uint64(off))
		for i := 0; i < cell; {
			x := r.Uint64()
			for range 16 {
				i += copy(b[i:], words[x&15])
				x >>= 4
			}
		}
	}
}

// Bytes is an image that holds b.
func Bytes(b []byte) pipe.Image { return pipe.FromReaderAt(bytes.NewReader(b), int64(len(b))) }

// RandomLayout returns ranges of the given kinds that cover a disk of size bytes, by a seed. Lengths run from single
// bytes to a third of the disk and cluster around the edges of blocks.
func RandomLayout(seed uint64, size int64, kinds ...pipe.Kind) []pipe.Extent {
	r := rand.New(rand.NewPCG(seed, 99))
	var list []pipe.Extent
	for off := int64(0); off < size; {
		var n int64
		switch r.IntN(4) {
		case 0:
			n = 1 + r.Int64N(5000)
		case 1:
			n = 512 * (1 + r.Int64N(300))
		case 2: // to the next edge of 64 KiB, and a byte beside it at times
			n = (off/region+1)*region - off + r.Int64N(3) - 1
		default:
			n = 1 + r.Int64N(max(1, size/3))
		}
		n = min(max(1, n), size-off)
		list = append(list, pipe.Extent{Off: off, Len: n, Kind: kinds[r.IntN(len(kinds))]})
		off += n
	}
	return list
}
