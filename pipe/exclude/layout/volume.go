package layout

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"

	"github.com/hikae/hikae/pipe"
)

// Volume is a part of the disks that holds one thing: a file system, swap space, or something that is not known.
type Volume struct {
	// Name is unique among the volumes of a machine in most cases: "disk0", "disk0:1" by the partition's number,
	// "vg0/root".
	Name  string
	Label string // a GPT partition's name
	Type  string // the partition's type as its table has it, or the type of a logical volume's segments
	Size  int64  // bytes
	// Kind is the signature that was found, as [Identify] names it; empty where there was none.
	Kind string
	// Whole says in words why nothing may be concluded about the volume, and all of it must be stored. Empty: nothing
	// speaks against looking into it.
	Whole string

	segments []segment
	places   []Place
}

// Place is one contiguous range of one disk that a volume lies on, in bytes.
type Place struct {
	Disk   string
	Off, N int64
}

// segment is a part of a volume over one or more columns. Column i holds the stripes i, i+n, i+2n … one after the other.
type segment struct {
	off, n  int64 // in the volume
	stripe  int64 // bytes; of no meaning with one column
	columns []column
	first   int // its first place in the volume's list
}

type column struct {
	disk *Disk // nil: the disk is not here
	off  int64
}

func linear(d *Disk, off, n int64) segment { return segment{n: n, columns: []column{{d, off}}} }

// finish computes what follows from the segments.
func (v *Volume) finish() {
	v.Size, v.places = 0, nil
	for i := range v.segments {
		s := &v.segments[i]
		s.off, s.first = v.Size, len(v.places)
		v.Size += s.n
		for _, c := range s.columns {
			p := Place{Off: c.off, N: s.n / int64(len(s.columns))}
			if c.disk != nil {
				p.Disk = c.disk.Key
			}
			v.places = append(v.places, p)
		}
	}
}

// Places are the ranges of the disks that the volume lies on, in the order of the volume. They do not overlap.
func (v *Volume) Places() []Place { return v.places }

// Locate tells where the range [off, off+n) of the volume lies: for each place that holds a part of it the place's
// index and one contiguous range of that disk. Of one place, a later range of the volume lies behind an earlier one.
// What is outside the volume is left out.
func (v *Volume) Locate(off, n int64) iter.Seq2[int, Place] {
	return func(yield func(int, Place) bool) {
		end := min(off+n, v.Size)
		off := max(off, 0)
		i, _ := slices.BinarySearchFunc(v.segments, off, func(s segment, off int64) int { return cmp.Compare(s.off+s.n, off+1) })
		for ; i < len(v.segments) && v.segments[i].off < end; i++ {
			s := &v.segments[i]
			for c := range s.columns {
				from, to := s.inColumn(c, max(off, s.off)-s.off), s.inColumn(c, min(end, s.off+s.n)-s.off)
				if from < to && !yield(s.first+c, Place{v.places[s.first+c].Disk, s.columns[c].off + from, to - from}) {
					return
				}
			}
		}
	}
}

// inColumn is how many of the first x bytes of a segment lie in column c.
func (s *segment) inColumn(c int, x int64) int64 {
	if len(s.columns) == 1 {
		return x
	}
	row := s.stripe * int64(len(s.columns))
	return x/row*s.stripe + min(max(x%row-int64(c)*s.stripe, 0), s.stripe)
}

// chunk is the longest range from byte x of the segment that lies in one column without a break, and where.
func (s *segment) chunk(x, n int64) (c *column, off, length int64) {
	if len(s.columns) == 1 {
		return &s.columns[0], s.columns[0].off + x, min(n, s.n-x)
	}
	i := x / s.stripe % int64(len(s.columns))
	c = &s.columns[i]
	return c, c.off + s.inColumn(int(i), x), min(n, s.stripe-x%s.stripe)
}

// Image is the volume's content. Closing it closes nothing. It knows which parts hold data as far as the disks do.
func (v *Volume) Image() pipe.Image { return &volumeImage{v} }

type volumeImage struct{ v *Volume }

func (i *volumeImage) Size() int64  { return i.v.Size }
func (i *volumeImage) Close() error { return nil }

func (i *volumeImage) segment(off int64) *segment {
	k, _ := slices.BinarySearchFunc(i.v.segments, off, func(s segment, off int64) int { return cmp.Compare(s.off+s.n, off+1) })
	return &i.v.segments[k]
}

func (i *volumeImage) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, &pipe.RangeError{Op: "read", Off: off, Len: int64(len(p)), Err: fs.ErrInvalid}
	}
	done := 0
	for done < len(p) {
		at := off + int64(done)
		if at >= i.v.Size {
			return done, io.EOF
		}
		s := i.segment(at)
		c, from, n := s.chunk(at-s.off, int64(len(p)-done))
		if c.disk == nil {
			return done, &pipe.RangeError{Op: "read", Off: at, Len: n, Err: fmt.Errorf("a disk of the volume is missing: %w", fs.ErrNotExist)}
		}
		m, err := readAt(ctx, c.disk.Image, p[done:done+int(n)], from)
		done += m
		if err == nil && int64(m) < n {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// Extents are those of the disks. Stripes are put together again, neighbours of one kind as one.
func (i *volumeImage) Extents(ctx context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		if off < 0 || n < 0 || n > i.v.Size-off {
			yield(pipe.Extent{}, &pipe.RangeError{Op: "extents", Off: off, Len: n, Err: fs.ErrInvalid})
			return
		}
		for end := off + n; off < end; {
			s := i.segment(off)
			part := min(end, s.off+s.n) - off
			for e, err := range s.extents(ctx, off-s.off, part) {
				e.Off += s.off
				if !yield(e, err) || err != nil {
					return
				}
			}
			off += part
		}
	}
}

// extents are those of one segment, in its own offsets.
func (s *segment) extents(ctx context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		columns := make([]*follower, len(s.columns))
		for c := range columns {
			from, to := s.inColumn(c, off), s.inColumn(c, off+n)
			columns[c] = follow(ctx, s.columns[c], from, to-from)
			defer columns[c].stop()
		}
		var run pipe.Extent
		for end := off + n; off < end; {
			step := end - off
			c := 0
			if len(columns) > 1 {
				c = int(off / s.stripe % int64(len(columns)))
				step = min(step, s.stripe-off%s.stripe)
			}
			e, err := columns[c].take(step)
			if err != nil {
				yield(pipe.Extent{}, err)
				return
			}
			if run.Len > 0 && run.Kind == e.Kind {
				run.Len += e.Len
			} else {
				if run.Len > 0 && !yield(run, nil) {
					return
				}
				run = pipe.Extent{Off: off, Len: e.Len, Kind: e.Kind}
			}
			off += e.Len
		}
		if run.Len > 0 {
			yield(run, nil)
		}
	}
}

// follower takes the extents of one column piece by piece.
type follower struct {
	next func() (pipe.Extent, error, bool)
	stop func()
	left pipe.Extent
}

func follow(ctx context.Context, c column, from, n int64) *follower {
	if c.disk == nil {
		return &follower{stop: func() {}, left: pipe.Extent{Len: n, Kind: pipe.Data}}
	}
	f := &follower{}
	f.next, f.stop = iter.Pull2(pipe.Extents(ctx, c.disk.Image, c.off+from, n))
	return f
}

// take is the next at most n bytes of one kind.
func (f *follower) take(n int64) (pipe.Extent, error) {
	if f.left.Len <= 0 {
		if f.next == nil {
			return pipe.Extent{}, pipe.ErrExtents
		}
		e, err, ok := f.next()
		if err == nil && (!ok || e.Len <= 0) {
			err = pipe.ErrExtents
		}
		if err != nil {
			return e, err
		}
		f.left = e
	}
	out := pipe.Extent{Len: min(n, f.left.Len), Kind: f.left.Kind}
	f.left.Len -= out.Len
	return out, nil
}

// doubtOverlaps makes volumes whole that claim the same bytes of a disk.
func doubtOverlaps(volumes []*Volume) {
	type claim struct {
		Place
		v *Volume
	}
	var claims []claim
	for _, v := range volumes {
		for _, p := range v.places {
			if p.Disk != "" {
				claims = append(claims, claim{p, v})
			}
		}
	}
	slices.SortFunc(claims, func(a, b claim) int { return cmp.Or(cmp.Compare(a.Disk, b.Disk), cmp.Compare(a.Off, b.Off)) })
	var reach claim // of the claims so far, the one that ends last
	for _, c := range claims {
		if reach.v != nil && reach.Disk == c.Disk && c.Off < reach.Off+reach.N {
			for _, pair := range [2][2]*Volume{{c.v, reach.v}, {reach.v, c.v}} {
				if pair[0].Whole == "" {
					pair[0].Whole = "it overlaps with " + pair[1].Name
				}
			}
		}
		if reach.v == nil || reach.Disk != c.Disk || c.Off+c.N > reach.Off+reach.N {
			reach = c
		}
	}
}
