package vmdk

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
)

// Stream is a streamOptimized disk that is read in one pass, as an export sends it.
type Stream struct {
	r          *bufio.Reader
	at         int64 // in the stream
	h          *hosted
	descriptor *Descriptor
	expect     int64 // grains, by the tables in front; -1 where they come later
	err        error
}

// Grain is a piece of a disk: Data belongs at byte Off, and is good until the next one is asked for.
type Grain struct {
	Off  int64
	Data []byte
}

// maxFront bounds what stands before the first grain: tables of a disk of 256 GiB, twice.
const maxFront = 33 << 20

const streamName = "stream" // in errors

// ReadStream reads what comes before the grains. Errors that callers can act on are *CorruptError and
// *UnsupportedError; those of r come back wrapped. A read from r is not ended by ctx: close what r reads from.
func ReadStream(ctx context.Context, r io.Reader) (*Stream, error) {
	s := &Stream{r: bufio.NewReaderSize(r, 256<<10), expect: -1}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	head := make([]byte, headerLen)
	if err := s.read(head); err != nil {
		return nil, err
	}
	var err error
	if s.h, err = parseHosted(streamName, 0, head); err != nil {
		return nil, err
	}
	return s, s.front(head)
}

// front reads on to the first grain.
func (s *Stream) front(head []byte) error {
	h := s.h
	switch {
	case h.flags&flagPacked == 0:
		return &UnsupportedError{Path: streamName, Feature: "a sparse disk that is no stream"}
	case h.grain < 1 || h.grain > 16<<20/sector || h.perTable < 1 || h.perTable > 1<<16:
		return s.corrupt("grains of %d sectors, tables of %d", h.grain, h.perTable)
	case h.overhead < 1 || h.overhead > maxFront/sector:
		return &UnsupportedError{Path: streamName, Feature: fmt.Sprintf("%d sectors before the first grain", h.overhead)}
	case h.descriptor < 1 || h.descLen < 1 || h.descLen > maxDescriptor/sector || h.descriptor+h.descLen > h.overhead:
		return s.corrupt("its descriptor at sector %d is not in front", h.descriptor)
	}
	front, err := s.more(head, h.overhead*sector)
	if err != nil {
		return err
	}
	if s.descriptor, err = ParseDescriptor(streamName, front[h.descriptor*sector:(h.descriptor+h.descLen)*sector]); err != nil {
		return err
	}
	if s.descriptor.ParentCID != NoParent {
		return &UnsupportedError{Path: streamName, Feature: "a stream of a delta"}
	}
	if h.dir != atEnd {
		s.expect, err = s.count(front)
	}
	return err
}

// more is b, with what follows it up to n bytes. Memory is taken as the bytes come, not as a header says.
func (s *Stream) more(b []byte, n int64) ([]byte, error) {
	buf := bytes.NewBuffer(b)
	got, err := io.CopyN(buf, s.r, n-int64(len(b)))
	s.at += got
	switch {
	case err == io.EOF:
		return nil, s.corrupt("it ends")
	case err != nil:
		return nil, fmt.Errorf("%s at %d: %w", streamName, s.at, err)
	}
	return buf.Bytes(), nil
}

// count is how many grains the tables in front know of: such a stream has no end of its own that could be missed.
func (s *Stream) count(front []byte) (n int64, err error) {
	covers := s.h.grain * int64(s.h.perTable)
	tables := s.h.capacity/covers + min(s.h.capacity%covers, 1)
	size := int64(len(front))
	dir := int64(s.h.dir) * sector
	if dir < sector || tables > size/4 || dir > size-tables*4 {
		return 0, &UnsupportedError{Path: streamName, Feature: "tables among the grains without a footer"}
	}
	for i, left := int64(0), size; i < tables; i++ {
		at := int64(binary.LittleEndian.Uint32(front[dir+i*4:])) * sector
		if at == 0 {
			continue
		}
		if at > size-int64(s.h.perTable)*4 {
			return 0, &UnsupportedError{Path: streamName, Feature: "tables among the grains without a footer"}
		}
		if left -= int64(s.h.perTable) * 4; left < 0 { // tables are in each other
			return 0, &CorruptError{Path: streamName, Offset: dir + i*4, Reason: "there are more tables than there is room for"}
		}
		for k := range int64(s.h.perTable) {
			if binary.LittleEndian.Uint32(front[at+k*4:]) > 1 {
				n++
			}
		}
	}
	return n, nil
}

// Size is the length of the disk in bytes.
func (s *Stream) Size() int64 { return s.h.capacity * sector }

// Descriptor is the text in the stream, taken apart.
func (s *Stream) Descriptor() *Descriptor { return s.descriptor }

func (s *Stream) corrupt(format string, args ...any) error {
	return &CorruptError{Path: streamName, Offset: s.at, Reason: fmt.Sprintf(format, args...)}
}

// read fills b.
func (s *Stream) read(b []byte) error {
	n, err := io.ReadFull(s.r, b)
	s.at += int64(n)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return s.corrupt("it ends")
	}
	return fmt.Errorf("%s at %d: %w", streamName, s.at, err)
}

// Grains yields what the disk holds, ascending, and what is between them is zero. It can be called once. When the
// sequence has ended without an error, the stream was whole.
func (s *Stream) Grains(ctx context.Context) iter.Seq2[Grain, error] {
	return func(yield func(Grain, error) bool) {
		if s.err == nil {
			s.err = errors.New("vmdk: a stream is read once")
			if err := s.grains(ctx, yield); err != nil {
				yield(Grain{}, err)
			}
			return
		}
		yield(Grain{}, s.err)
	}
}

func (s *Stream) grains(ctx context.Context, yield func(Grain, error) bool) error {
	next, count := int64(0), int64(0) // byte of the disk; grains so far
	for b := make([]byte, sector); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := s.r.Peek(1); err == io.EOF && s.expect >= 0 {
			return s.counted(count)
		}
		if err := s.read(b); err != nil {
			return err
		}
		m := parseMarker(b)
		switch {
		case m.size == 0 && m.kind == markEnd:
			return s.ended(m, count)
		case m.size == 0:
			if err := s.skip(m); err != nil {
				return err
			}
			continue
		}
		g, err := s.grain(m, b, next)
		if err != nil {
			return err
		}
		next, count = g.Off+s.h.grain*sector, count+1
		if !yield(g, nil) {
			return nil
		}
	}
}

// ended checks what a stream says when it is at its end.
func (s *Stream) ended(m marker, count int64) error {
	if m.value != 0 {
		return s.corrupt("an end of %d sectors", m.value)
	}
	if s.expect >= 0 {
		return s.counted(count)
	}
	return nil
}

func (s *Stream) counted(count int64) error {
	if count != s.expect {
		return s.corrupt("it ends after %d of %d grains", count, s.expect)
	}
	return nil
}

// skip passes over tables, the directory and the footer, which say again what the grains have said.
func (s *Stream) skip(m marker) error {
	if m.kind > markFooter {
		return &UnsupportedError{Path: streamName, Feature: fmt.Sprintf("a marker of kind %d", m.kind)}
	}
	limit := (s.h.capacity/s.h.grain+2)*4/sector + int64(s.h.perTable)*4/sector + 2 // more than all entries take
	if m.value > uint64(limit) {
		return s.corrupt("%d sectors of tables", m.value)
	}
	n, err := io.CopyN(io.Discard, s.r, int64(m.value)*sector)
	s.at += n
	if err == io.EOF {
		return s.corrupt("it ends within its tables")
	}
	return err
}

// grain reads the rest of a grain whose first sector is b.
func (s *Stream) grain(m marker, b []byte, next int64) (Grain, error) {
	size := s.h.grain * sector
	switch {
	case m.value >= uint64(s.h.capacity) || int64(m.value)%s.h.grain != 0:
		return Grain{}, s.corrupt("a grain at sector %d of a disk of %d", m.value, s.h.capacity)
	case int64(m.value)*sector < next:
		return Grain{}, s.corrupt("the grain at sector %d comes too late", m.value)
	case int64(m.size) > packedLimit(size):
		return Grain{}, s.corrupt("a compressed grain of %d bytes", m.size)
	}
	packed := make([]byte, (markerLen+int64(m.size)+sector-1)/sector*sector)
	copy(packed, b)
	if err := s.read(packed[sector:]); err != nil {
		return Grain{}, err
	}
	off := int64(m.value) * sector
	need := min(size, s.Size()-off)
	plain, err := inflate(packed[markerLen:markerLen+int64(m.size)], size, need)
	if err != nil {
		return Grain{}, s.corrupt("compressed grain: %v", err)
	}
	return Grain{Off: off, Data: plain[:need]}, nil
}
