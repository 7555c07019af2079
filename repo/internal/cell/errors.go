package cell

import (
	"encoding/hex"
	"errors"
	"fmt"
)

// ErrCell is wrapped by every error about a cell that does not verify. ErrTooLong: the stream would exceed MaxStream.
// ErrVersion, which is an ErrCell too: the tags hold, and the version or the code is one that this reader does not know.
// ErrPadding: all cells verify and yet the last one's padding is not zero, which no writer makes.
var (
	ErrCell    = errors.New("cell does not verify")
	ErrTooLong = fmt.Errorf("stream is longer than %d bytes", MaxStream)
	ErrVersion = fmt.Errorf("%w: made by a newer version", ErrCell)
	ErrPadding = errors.New("padding of the last cell is not zero")
)

// Made once: a scrub of ruined files meets them millions of times.
var (
	errNoCell = fmt.Errorf("%w: no trailer", ErrCell)
	errTags   = fmt.Errorf("%w: tags differ", ErrCell)
)

// DamageError says that more cells are lost than parity can give back.
type DamageError struct {
	Geometry Geometry // zero if no cell at all verified
	Ordinals []int    // lost cells, ascending; those below Geometry.N are holes in the stream at ordinal·Payload
	Budget   int      // how many could have been given back
}

func (e *DamageError) Error() string {
	if e.Geometry.N == 0 {
		return "damaged beyond repair: no cell verifies"
	}
	return fmt.Sprintf("object %s: damaged beyond repair: %d of %d cells are lost, %d can be given back",
		hex.EncodeToString(e.Geometry.Object[:]), len(e.Ordinals), e.Geometry.Cells(), e.Budget)
}
