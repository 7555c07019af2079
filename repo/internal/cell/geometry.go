package cell

import "fmt"

// Sizes in bytes.
const (
	Size      = 4096           // of a cell
	Payload   = Size - Trailer // of the stream in each cell
	Trailer   = 64
	MaxStream = 64 << 20 // of one object
)

const maxCells = 1 << 16 // n+m: the field of code 3 has no more points

// The codes of parity.
const (
	CodeCopy    uint8 = 1 // n = 1: each parity payload is the data payload
	CodeGF8     uint8 = 2 // n+m ≤ 256: Reed–Solomon over GF(2⁸)
	CodeLeopard uint8 = 3 // n+m > 256: Leopard-RS over GF(2¹⁶)
)

// Ident says whose cells these are. Of Repo the trailers carry the first 8 bytes.
type Ident struct {
	Kind   uint8
	Object [16]byte
	Repo   [16]byte
}

// Geometry is what every trailer of one object says alike. It is comparable: two cells belong together only if their
// geometries are equal.
type Geometry struct {
	N, M       int // data cells, parity cells
	Code       uint8
	Stream     int // bytes
	Kind       uint8
	Object     [16]byte
	RepoPrefix [8]byte
}

// Cells is n+m. FileSize is that in bytes.
func (g Geometry) Cells() int    { return g.N + g.M }
func (g Geometry) FileSize() int { return g.Cells() * Size }

// geometryOf is what a writer with this parity makes of a stream of that length.
func geometryOf(id Ident, permille, stream int) Geometry {
	n := dataCells(stream)
	m := parityCells(n, permille)
	return Geometry{
		N: n, M: m, Code: codeOf(n, m), Stream: stream,
		Kind: id.Kind, Object: id.Object, RepoPrefix: [8]byte(id.Repo[:8]),
	}
}

func dataCells(stream int) int { return max(1, (stream+Payload-1)/Payload) }

func parityCells(n, permille int) int { return max(2, (n*permille+999)/1000) }

func codeOf(n, m int) uint8 {
	switch {
	case n == 1:
		return CodeCopy
	case n+m <= 256:
		return CodeGF8
	}
	return CodeLeopard
}

// check refuses a geometry that no writer makes.
func (g Geometry) check() error {
	switch {
	case g.Stream > MaxStream:
		return fmt.Errorf("%w: stream of %d bytes", ErrCell, g.Stream)
	case g.N != dataCells(g.Stream):
		return fmt.Errorf("%w: %d data cells for %d bytes", ErrCell, g.N, g.Stream)
	case g.M < 2 || g.M > max(2, g.N) || g.Cells() > maxCells:
		return fmt.Errorf("%w: %d parity cells for %d data cells", ErrCell, g.M, g.N)
	case g.Code != codeOf(g.N, g.M):
		return fmt.Errorf("%w: code %d for %d+%d cells", ErrCell, g.Code, g.N, g.M)
	}
	return nil
}
