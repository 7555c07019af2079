package exclude

import (
	"errors"
	"slices"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// finds are the parts of a volume that belong to files which need not be stored, in the order in which they were found.
// Each takes eight bytes: where it begins and how long it is, in units, and in the lowest bit whether it is swap.
type finds struct {
	list []uint64
	full bool // there were more than are kept
}

const (
	findLenBits = 23
	findOffBits = 64 - findLenBits - 1
	maxFinds    = 4 << 20
	maxFindLen  = 1<<findLenBits - 1
)

// add takes the whole units of a range. Neighbours that come one after the other become one.
func (f *finds) add(r fsys.Range, kind pipe.Kind) {
	off, end := uint64(r.Off+unit-1)/unit, uint64(r.End())/unit
	swap := uint64(0)
	if kind == pipe.Swap {
		swap = 1
	}
	if n := len(f.list); n > 0 && off < end {
		lastOff, lastEnd, lastSwap := unpack(f.list[n-1])
		if lastEnd == off && lastSwap == swap && lastEnd-lastOff < maxFindLen {
			more := min(end-off, maxFindLen-(lastEnd-lastOff))
			f.list[n-1] += more << 1
			off += more
		}
	}
	for off < end {
		if len(f.list) >= maxFinds || off >= 1<<findOffBits {
			f.full = true
			return
		}
		n := min(end-off, maxFindLen)
		f.list = append(f.list, off<<(findLenBits+1)|n<<1|swap)
		off += n
	}
}

func unpack(x uint64) (off, end, swap uint64) {
	off = x >> (findLenBits + 1)
	return off, off + x>>1&maxFindLen, x & 1
}

// extent is a find in bytes of the volume.
func extent(x uint64) pipe.Extent {
	off, end, swap := unpack(x)
	kind := pipe.Excluded
	if swap == 1 {
		kind = pipe.Swap
	}
	return pipe.Extent{Off: int64(off) * unit, Len: int64(end-off) * unit, Kind: kind}
}

func (f *finds) sort() { slices.Sort(f.list) }

// errContradiction: two things claim the same place, so at least one of them is wrong about the volume.
var errContradiction = errors.New("what its file system calls free, and the files on it, overlap")

// merger puts finds and free ranges of a volume into one ascending order and checks that they do not overlap.
type merger struct {
	finds []uint64 // sorted, those not yet passed on
	pos   int64
	size  int64
	take  func(e pipe.Extent) error
}

func (m *merger) pass(e pipe.Extent) error {
	if e.Off < m.pos || e.Len <= 0 || e.Len > m.size-e.Off {
		return errContradiction
	}
	m.pos = e.End()
	return m.take(e)
}

// before passes on the finds that begin before off.
func (m *merger) before(off int64) error {
	for len(m.finds) > 0 {
		e := extent(m.finds[0])
		if e.Off >= off {
			return nil
		}
		m.finds = m.finds[1:]
		if err := m.pass(e); err != nil {
			return err
		}
	}
	return nil
}

func (m *merger) free(r fsys.Range) error {
	if err := m.before(r.Off + 1); err != nil {
		return err
	}
	return m.pass(pipe.Extent{Off: r.Off, Len: r.Len, Kind: pipe.Free})
}
