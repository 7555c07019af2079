package pipe

import (
	"context"
	"fmt"
	"iter"
)

// Kind says what a range of a disk is, and for a range that is absent from a restore point, why.
// The numbers are part of the repository format and of the wire protocol: they never change meaning.
type Kind uint8

const (
	Zero      Kind = 0 // reads as zero
	Data      Kind = 1 // must be read
	Free      Kind = 2 // free space of a file system: dropped, reads as zero on restore
	Swap      Kind = 3 // swap space: dropped, reads as zero on restore
	Excluded  Kind = 4 // a file that the user excluded: dropped, reads as zero on restore
	Bad       Kind = 5 // the source could not read it and the policy was to go on: reads as zero, the point is degraded
	Unchanged Kind = 6 // the same as in the base; never stands in a restore point
)

var kindNames = [...]string{"zero", "data", "free", "swap", "excluded", "bad", "unchanged"}

// String is the name used in reports and JSON.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Dropped reports whether a range of this kind is left out although the source may hold something else there.
func (k Kind) Dropped() bool { return k == Free || k == Swap || k == Excluded || k == Bad }

// Extent is a range of a disk with one kind. Off and Len are bytes; no alignment is promised.
type Extent struct {
	Off, Len int64
	Kind     Kind
}

// End is the first byte after the extent.
func (e Extent) End() int64 { return e.Off + e.Len }

func (e Extent) String() string { return fmt.Sprintf("%s [%d, %d)", e.Kind, e.Off, e.End()) }

// Extents asks img which parts of [off, off+n) hold data. An image that does not know answers Data for the whole
// range, which is always right.
func Extents(ctx context.Context, img Image, off, n int64) iter.Seq2[Extent, error] {
	if e, ok := As[ExtentImage](img); ok {
		return e.Extents(ctx, off, n)
	}
	return func(yield func(Extent, error) bool) {
		if n > 0 {
			yield(Extent{Off: off, Len: n, Kind: Data}, nil)
		}
	}
}
