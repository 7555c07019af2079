package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/hikae/hikae/pipe"
)

// kinds are what the ranges of a disk are: ascending, without gaps, neighbours of different kinds. A disk of no bytes has
// none.
type kinds []pipe.Extent

// maxRuns bounds the ranges of one disk in one point, and with them the memory that a reader of it needs.
const maxRuns = 8 << 20

var errRuns = fmt.Errorf("its content is in more than %d pieces", maxRuns)

func newKinds(size int64, kind pipe.Kind) kinds {
	if size == 0 {
		return nil
	}
	return kinds{{Len: size, Kind: kind}}
}

// at is the index of the range that holds off.
func (k kinds) at(off int64) int {
	return sort.Search(len(k), func(i int) bool { return k[i].End() > off })
}

// set makes a range be of a kind.
func (k *kinds) set(off, n int64, kind pipe.Kind) error {
	if n == 0 {
		return nil
	}
	list, end := *k, off+n
	first := list.at(off)
	last := first
	if list[first].End() < end {
		last = first + list[first:].at(end-1)
	}
	var put [3]pipe.Extent
	out := put[:0]
	if head := list[first]; head.Off < off {
		out = append(out, pipe.Extent{Off: head.Off, Len: off - head.Off, Kind: head.Kind})
	} else if first > 0 {
		first--
		out = append(out, list[first])
	}
	out = joined(out, pipe.Extent{Off: off, Len: n, Kind: kind})
	if tail := list[last]; end < tail.End() {
		out = joined(out, pipe.Extent{Off: end, Len: tail.End() - end, Kind: tail.Kind})
	} else if last+1 < len(list) && list[last+1].Kind == kind {
		last++
		out[len(out)-1].Len += list[last].Len
	}
	*k = slices.Replace(list, first, last+1, out...)
	if len(*k) > maxRuns {
		return errRuns
	}
	return nil
}

// joined appends a range to those before it.
func joined(list []pipe.Extent, e pipe.Extent) []pipe.Extent {
	if e.Len == 0 {
		return list
	}
	if last := len(list) - 1; last >= 0 && list[last].Kind == e.Kind {
		list[last].Len += e.Len
		return list
	}
	return append(list, e)
}

// over are the kinds of a disk of which k tells what is different from base.
func (k kinds) over(base kinds) kinds {
	var out []pipe.Extent
	for _, e := range k {
		if e.Kind != pipe.Unchanged {
			out = joined(out, e)
			continue
		}
		for i := base.at(e.Off); i < len(base) && base[i].Off < e.End(); i++ {
			off, end := max(base[i].Off, e.Off), min(base[i].End(), e.End())
			out = joined(out, pipe.Extent{Off: off, Len: end - off, Kind: base[i].Kind})
		}
	}
	return out
}

// totals are how much of a disk is data, and how much is absent for which reason.
func (k kinds) totals() (data int64, absent map[string]int64) {
	for _, e := range k {
		if e.Kind == pipe.Data {
			data += e.Len
			continue
		}
		if absent == nil {
			absent = map[string]int64{}
		}
		absent[e.Kind.String()] += e.Len
	}
	return data, absent
}

// appendTo encodes the kinds: each range is its length and its kind in one number.
func (k kinds) appendTo(b []byte) []byte {
	for _, e := range k {
		b = binary.AppendUvarint(b, uint64(e.Len)<<3|uint64(e.Kind))
	}
	return b
}

var errShort = errors.New("it ends early")

// decodeKinds reads what appendTo wrote, for a disk of size bytes. based tells whether there is something that can be
// unchanged.
func decodeKinds(b []byte, count int, size int64, based bool) (kinds, error) {
	if count > maxRuns || count > len(b) {
		return nil, errRuns
	}
	out, pos := make(kinds, 0, count), int64(0)
	for range count {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, errShort
		}
		b = b[n:]
		e := pipe.Extent{Off: pos, Len: int64(v >> 3), Kind: pipe.Kind(v & 7)}
		switch {
		case e.Len <= 0 || e.Len > size-pos || e.Kind > pipe.Unchanged:
			return nil, fmt.Errorf("a range of %d bytes at %d of a disk of %d", e.Len, pos, size)
		case e.Kind == pipe.Unchanged && !based:
			return nil, errors.New("it has a range as in its base, and no base")
		}
		pos = e.End()
		out = joined(out, e)
	}
	if pos != size || len(b) > 0 {
		return nil, fmt.Errorf("its ranges end at %d of %d bytes", pos, size)
	}
	return out, nil
}
