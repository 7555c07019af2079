package cell

import (
	"encoding/binary"
	"fmt"

	"github.com/cespare/xxhash/v2"
)

const (
	magic   = "HKCL"
	version = 1

	// The second tag's seed is the 64-bit golden ratio; any constant but the first one's 0 would do.
	seed2 = 0x9E3779B97F4A7C15
)

// Places in a cell.
const (
	atMagic   = Payload
	atVersion = atMagic + 4
	atKind    = atMagic + 5
	atCode    = atMagic + 6
	atZero    = atMagic + 7
	atObject  = atMagic + 8
	atOrdinal = atMagic + 24
	atN       = atMagic + 28
	atM       = atMagic + 32
	atStream  = atMagic + 36
	atRepo    = atMagic + 40
	atTag1    = atMagic + 48
	atTag2    = atMagic + 56
)

// putTrailer finishes a cell whose payload stands.
func putTrailer(cell []byte, g Geometry, ordinal int) {
	cell = cell[:Size]
	copy(cell[atMagic:], magic)
	cell[atVersion], cell[atKind], cell[atCode], cell[atZero] = version, g.Kind, g.Code, 0
	copy(cell[atObject:], g.Object[:])
	binary.LittleEndian.PutUint32(cell[atOrdinal:], uint32(ordinal))
	binary.LittleEndian.PutUint32(cell[atN:], uint32(g.N))
	binary.LittleEndian.PutUint32(cell[atM:], uint32(g.M))
	binary.LittleEndian.PutUint32(cell[atStream:], uint32(g.Stream))
	copy(cell[atRepo:], g.RepoPrefix[:])
	one, two := tags(cell)
	binary.LittleEndian.PutUint64(cell[atTag1:], one)
	binary.LittleEndian.PutUint64(cell[atTag2:], two)
}

func tags(cell []byte) (one, two uint64) {
	var d xxhash.Digest
	d.ResetWithSeed(seed2)
	_, _ = d.Write(cell[:atTag1]) // never fails
	return xxhash.Sum64(cell[:atTag1]), d.Sum64()
}

// ParseTrailer checks one cell by its tags and returns what its trailer says. Every error wraps ErrCell.
func ParseTrailer(cell []byte) (g Geometry, ordinal int, err error) {
	if len(cell) != Size || string(cell[atMagic:atMagic+4]) != magic {
		return Geometry{}, 0, errNoCell
	}
	if one, two := tags(cell); one != binary.LittleEndian.Uint64(cell[atTag1:]) ||
		two != binary.LittleEndian.Uint64(cell[atTag2:]) {
		return Geometry{}, 0, errTags
	}
	if cell[atVersion] > version || cell[atCode] > CodeLeopard {
		return Geometry{}, 0, ErrVersion
	}
	if cell[atVersion] != version || cell[atZero] != 0 {
		return Geometry{}, 0, fmt.Errorf("%w: version %d", ErrCell, cell[atVersion])
	}
	g = Geometry{
		N:          int(binary.LittleEndian.Uint32(cell[atN:])),
		M:          int(binary.LittleEndian.Uint32(cell[atM:])),
		Code:       cell[atCode],
		Stream:     int(binary.LittleEndian.Uint32(cell[atStream:])),
		Kind:       cell[atKind],
		Object:     [16]byte(cell[atObject:]),
		RepoPrefix: [8]byte(cell[atRepo:]),
	}
	if err := g.check(); err != nil {
		return Geometry{}, 0, err
	}
	ordinal = int(binary.LittleEndian.Uint32(cell[atOrdinal:]))
	if ordinal >= g.Cells() {
		return Geometry{}, 0, fmt.Errorf("%w: ordinal %d of %d", ErrCell, ordinal, g.Cells())
	}
	return g, ordinal, nil
}
