package exclude

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/hikae/hikae/pipe"
)

// unit is the grain of what is kept of a disk, in bytes: no file system allocates less.
const unit = 512

// track is what need not be stored on one contiguous part of a disk. A busy file system of terabytes has millions of
// free ranges, so each takes a few bytes: the distance from the last one and the length, in units, as variable numbers;
// the kind stands in the low bits of the length. Every indexEvery ranges the index names a place to begin from.
//
//	gap │ length<<2 | kind │ gap │ length<<2 | kind │ …
type track struct {
	off, end int64 // of the part, on the disk
	data     []byte
	index    []waypoint
	count    int
	last     int64 // where the last range ends
}

type waypoint struct {
	off int64 // where the range before ends
	at  int   // in data
}

const indexEvery = 64

// The kinds as a track has them.
var trackKinds = [4]pipe.Kind{pipe.Free, pipe.Swap, pipe.Excluded, pipe.Free}

func trackKind(k pipe.Kind) uint64 {
	switch k {
	case pipe.Free:
		return 0
	case pipe.Swap:
		return 1
	case pipe.Excluded:
		return 2
	}
	panic("exclude: a track of " + k.String())
}

// append adds a range behind all others, in whole units.
func (t *track) append(e pipe.Extent) {
	if t.count%indexEvery == 0 {
		t.index = append(t.index, waypoint{t.last, len(t.data)})
	}
	t.data = binary.AppendUvarint(t.data, uint64(e.Off-t.last)/unit)
	t.data = binary.AppendUvarint(t.data, uint64(e.Len)/unit<<2|trackKind(e.Kind))
	t.count++
	t.last = e.End()
}

// bytes is what the track takes.
func (t *track) bytes() int { return len(t.data) + 16*len(t.index) }

// cursor walks over the ranges of tracks that stand in the order of the disk.
type cursor struct {
	tracks []*track
	now    pipe.Extent // Len == 0: there is none left
	data   []byte
	end    int64 // of the range before the next
}

// seek returns a cursor on the first range that ends behind off.
func seek(tracks []*track, off int64) *cursor {
	i, _ := slices.BinarySearchFunc(tracks, off, func(t *track, off int64) int { return cmp.Compare(t.end, off+1) })
	c := &cursor{tracks: tracks[i:]}
	if len(c.tracks) > 0 {
		t := c.tracks[0]
		c.tracks = c.tracks[1:]
		k, found := slices.BinarySearchFunc(t.index, off, func(w waypoint, off int64) int { return cmp.Compare(w.off, off) })
		if !found {
			k-- // the last that is not behind off
		}
		if k >= 0 && k < len(t.index) {
			c.data, c.end = t.data[t.index[k].at:], t.index[k].off
		} else {
			c.data, c.end = t.data, t.off
		}
	}
	for c.next(); c.now.Len > 0 && c.now.End() <= off; {
		c.next()
	}
	return c
}

// next goes on to the next range.
func (c *cursor) next() {
	for len(c.data) == 0 {
		if len(c.tracks) == 0 {
			c.now = pipe.Extent{}
			return
		}
		c.data, c.end = c.tracks[0].data, c.tracks[0].off
		c.tracks = c.tracks[1:]
	}
	gap, n := binary.Uvarint(c.data)
	c.data = c.data[n:]
	length, n := binary.Uvarint(c.data)
	c.data = c.data[n:]
	c.now = pipe.Extent{Off: c.end + int64(gap)*unit, Len: int64(length>>2) * unit, Kind: trackKinds[length&3]}
	c.end = c.now.End()
}

// trackWriter makes a track from ranges that arrive in order. Neighbours of one kind become one. Where the target's block
// size is known, a run of ranges that no whole block fits into is left out: it could not be dropped.
type trackWriter struct {
	track
	block    int64         // 0: unknown
	diskSize int64         // the last block of a disk may be short
	minimum  int64         // runs shorter than this are left out
	run      []pipe.Extent // not yet known to be worth keeping
	from     int64         // where the run begins
	keeping  bool          // it is: what follows without a gap is kept as it comes
}

// add takes the next range.
func (w *trackWriter) add(off, n int64, kind pipe.Kind) {
	end := (off + n) &^ (unit - 1)
	if off = (off + unit - 1) &^ (unit - 1); off >= end {
		return
	}
	last := len(w.run) - 1
	switch {
	case last < 0 || w.run[last].End() != off:
		w.flush()
		w.from, w.keeping = off, false
		w.run = append(w.run, pipe.Extent{Off: off, Len: end - off, Kind: kind})
	case w.run[last].Kind == kind:
		w.run[last].Len += end - off
	default:
		w.run = append(w.run, pipe.Extent{Off: off, Len: end - off, Kind: kind})
		last++
	}
	if w.keeping = w.keeping || w.worth(end); w.keeping && len(w.run) > 1 {
		last = len(w.run) - 1
		for _, e := range w.run[:last] {
			w.append(e)
		}
		w.run = append(w.run[:0], w.run[last])
	}
}

// worth reports whether a whole block fits between the beginning of the run and end.
func (w *trackWriter) worth(end int64) bool {
	if end-w.from < w.minimum {
		return false
	}
	if w.block == 0 {
		return true
	}
	first := (w.from + w.block - 1) &^ (w.block - 1)
	return first < end && end >= min(first+w.block, w.diskSize)
}

// flush ends a run.
func (w *trackWriter) flush() {
	if w.keeping {
		for _, e := range w.run {
			w.append(e)
		}
	}
	w.run, w.keeping = w.run[:0], false
}
