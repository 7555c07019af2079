package ntfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// maxUnit bounds a compression unit in bytes. Windows compresses on clusters of up to 4 KiB: 64 KiB.
const maxUnit = 1 << 20

// source is where a view reads: the volume, or the volume with the log's changes in front of it.
type source interface {
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)
}

// stream is the content of one attribute.
type stream struct {
	src      source
	cluster  int64
	resident []byte // the whole content, where it has no clusters
	runs     []run
	flags    uint16
	unit     int64 // bytes of a compression unit; 0: not compressed
	size     int64
	init     int64 // what is behind it reads as zero, whatever lies there
	alloc    int64
	cache    *unitCache
}

// newStream puts together the parts of an attribute; src is where its clusters are read from.
func newStream(src source, g geometry, parts []attr, cache *unitCache) (*stream, error) {
	slices.SortStableFunc(parts, func(a, b attr) int { return int(max(-1, min(1, a.low-b.low))) })
	first := parts[0]
	s := &stream{src: src, cluster: g.cluster, flags: first.flags, size: first.size, init: first.init, alloc: first.alloc, cache: cache}
	if first.resident {
		s.resident = first.value
		if len(parts) > 1 {
			return nil, errors.New("a resident attribute has several parts")
		}
		return s, nil
	}
	next := int64(0)
	for _, a := range parts {
		if a.resident || a.low != next {
			return nil, fmt.Errorf("a part begins at cluster %d instead of %d", a.low, next)
		}
		var err error
		if s.runs, err = appendRuns(s.runs, a, g.clusters); err != nil {
			return nil, err
		}
		next = a.high + 1
	}
	return s, s.check(g, first)
}

// check holds what the stream claims against the volume's size.
func (s *stream) check(g geometry, first attr) error {
	var total, end int64
	for _, r := range s.runs {
		if end = r.end(); r.lcn >= 0 {
			total += r.n
		}
	}
	if total > g.clusters {
		return fmt.Errorf("it has %d clusters, the volume %d", total, g.clusters)
	}
	if end < (s.size+g.cluster-1)/g.cluster {
		return fmt.Errorf("%d clusters for %d bytes", end, s.size)
	}
	if first.flags&attrCompressed != 0 {
		s.unit = g.cluster << first.unit
		if first.flags&attrCompressed != 1 || first.unit == 0 || first.unit > 12 || s.unit > maxUnit {
			return fmt.Errorf("compression method %d with units of 2^%d clusters", first.flags&attrCompressed, first.unit)
		}
	}
	return nil
}

// solid: all of it is allocated, so that its length is bounded by that of the volume. What the file system keeps for
// itself must be.
func (s *stream) solid() error {
	for _, r := range s.runs {
		if r.lcn < 0 {
			return fmt.Errorf("a hole at cluster %d", r.vcn)
		}
	}
	return nil
}

// readAt reads the content like io.ReaderAt.
func (s *stream) readAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fs.ErrInvalid
	}
	n := int(max(0, min(int64(len(p)), s.size-off)))
	valid := int(max(0, min(int64(n), s.init-off)))
	clear(p[valid:n])
	if valid > 0 {
		if err := s.stored(ctx, p[:valid], off); err != nil {
			return 0, err
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// stored reads what lies in the volume, whatever the size of the content says.
func (s *stream) stored(ctx context.Context, p []byte, off int64) error {
	switch {
	case s.resident != nil || s.runs == nil:
		clear(p[copy(p, s.resident[min(off, int64(len(s.resident))):]):])
		return nil
	case s.unit > 0:
		return s.compressed(ctx, p, off)
	}
	return s.raw(ctx, p, off)
}

// raw reads clusters as they are.
func (s *stream) raw(ctx context.Context, p []byte, off int64) error {
	for i := findRun(s.runs, off/s.cluster); len(p) > 0; i++ {
		if i == len(s.runs) {
			return &fsys.CorruptError{What: "run list", Off: -1, Why: fmt.Sprintf("nothing at byte %d of the stream", off)}
		}
		r := s.runs[i]
		in := off - r.vcn*s.cluster
		n := int(min(int64(len(p)), r.n*s.cluster-in))
		if r.lcn < 0 {
			clear(p[:n])
		} else if err := readFull(ctx, s.src, p[:n], r.lcn*s.cluster+in); err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// compressed reads unit by unit.
func (s *stream) compressed(ctx context.Context, p []byte, off int64) error {
	for len(p) > 0 {
		k, in := off/s.unit, off%s.unit
		n := int(min(int64(len(p)), s.unit-in))
		if int64(n) == s.unit {
			if err := s.decodeUnit(ctx, p[:n], k); err != nil {
				return err
			}
		} else {
			plain, err := s.cache.get(ctx, s, k)
			if err != nil {
				return err
			}
			copy(p[:n], plain[in:])
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// decodeUnit fills dst with one compression unit: as it is where all of its clusters are allocated, zero where none
// is, and LZNT1 where there are some and a hole behind them.
func (s *stream) decodeUnit(ctx context.Context, dst []byte, k int64) error {
	off := k * s.unit
	vcn, end := off/s.cluster, (off+s.unit)/s.cluster
	var have int64
	for i := findRun(s.runs, vcn); i < len(s.runs) && s.runs[i].vcn < end; i++ {
		r := s.runs[i]
		if r.lcn < 0 {
			continue
		}
		if max(r.vcn, vcn) != vcn+have {
			return &fsys.CorruptError{What: "compression unit", Off: -1, Why: fmt.Sprintf("a hole within unit %d", k)}
		}
		have += min(r.end(), end) - max(r.vcn, vcn)
	}
	switch have *= s.cluster; have {
	case 0:
		clear(dst)
		return nil
	case s.unit:
		return s.raw(ctx, dst, off)
	}
	packed := make([]byte, have)
	if err := s.raw(ctx, packed, off); err != nil {
		return err
	}
	if err := decodeLZNT1(dst, packed); err != nil {
		return &fsys.CorruptError{What: "compression unit", Off: s.place(vcn), Why: err.Error()}
	}
	return nil
}

// place is the byte of the volume where a cluster of the stream lies, -1 for none.
func (s *stream) place(vcn int64) int64 {
	if i := findRun(s.runs, vcn); i < len(s.runs) && s.runs[i].lcn >= 0 && s.runs[i].vcn <= vcn {
		return (s.runs[i].lcn + vcn - s.runs[i].vcn) * s.cluster
	}
	return -1
}

// readFull reads all of p; the end of the volume within it is damage, for all that is read was named by the volume.
func readFull(ctx context.Context, src source, p []byte, off int64) error {
	n, err := src.ReadAt(ctx, p, off)
	switch {
	case n == len(p):
		return nil
	case errors.Is(err, io.EOF):
		return &fsys.CorruptError{What: "cluster", Off: off, Why: "it is behind the end of the volume"}
	case err == nil:
		return io.ErrUnexpectedEOF
	}
	return err
}
