package object

import (
	"encoding/binary"
	"fmt"

	"github.com/hikae/hikae/repo/internal/cell"
)

const (
	entryLen  = 44
	lengthLen = 4 // the length of the sealed table, at the very end of the stream
)

// Entry is one frame of a table, with the id of its content.
type Entry struct {
	ID [32]byte
	FrameRef
}

func appendEntry(dst []byte, e Entry) []byte {
	dst = append(dst, e.ID[:]...)
	dst = append(dst, e.Type, e.Codec, 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, e.Stored)
	return binary.LittleEndian.AppendUint32(dst, e.Plain)
}

// TailSpan says which part of the stream to read so that, for an object of up to that many frames, the whole table is
// in it: the last n bytes, from off on.
func TailSpan(g cell.Geometry, frames int) (off, n int) {
	n = min(g.Stream, frames*entryLen+Overhead+lengthLen)
	return g.Stream - n, n
}

// TableSpan says where in the stream the sealed table is. tail is the last bytes of the stream, at least 4.
func TableSpan(g cell.Geometry, tail []byte) (off, n int, err error) {
	if len(tail) < lengthLen {
		return 0, 0, ErrShort
	}
	n = int(binary.LittleEndian.Uint32(tail[len(tail)-lengthLen:]))
	entries := n - Overhead
	if entries < 0 || entries%entryLen != 0 || entries/entryLen > MaxFrames || n > g.Stream-lengthLen-fixedHeader {
		return 0, 0, &CorruptError{Object: g.Object, Offset: g.Stream - lengthLen,
			Reason: fmt.Sprintf("sealed table of %d bytes", n)}
	}
	return g.Stream - lengthLen - n, n, nil
}

// ParseTable opens the sealed table, which starts at offset off of the stream, and checks that the frames fill the
// space between header and table exactly. sealed is overwritten. Errors: CorruptError, UnsupportedError.
func (c *Cipher) ParseTable(sealed []byte, headerLen, off int) ([]Entry, error) {
	ref := tableRef(off, len(sealed)-Overhead)
	table, err := c.OpenFrame(sealed, sealed, ref)
	if err != nil {
		return nil, err
	}
	if len(table)%entryLen != 0 || len(table)/entryLen > MaxFrames {
		return nil, c.corrupt(ref, fmt.Sprintf("table of %d bytes", len(table)))
	}
	entries, at := make([]Entry, len(table)/entryLen), headerLen
	for i := range entries {
		e := parseEntry(table[i*entryLen:])
		e.Ordinal, e.Offset = uint32(i), uint32(at)
		if err := e.check(off - at); err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, c.blame(ref, err))
		}
		if table[i*entryLen+34]|table[i*entryLen+35] != 0 {
			return nil, c.corrupt(ref, fmt.Sprintf("entry %d: reserved bytes are not zero", i))
		}
		entries[i] = e
		at += int(e.Stored)
	}
	if at != off {
		return nil, c.corrupt(ref, fmt.Sprintf("the last frame ends at %d, the table starts at %d", at, off))
	}
	return entries, nil
}

func tableRef(off, plain int) FrameRef {
	return FrameRef{
		Ordinal: ordinalTable, Offset: uint32(off), Stored: uint32(plain + Overhead), Plain: uint32(plain),
		Type: typeOwnTable, Codec: CodecPlain,
	}
}

func parseEntry(p []byte) Entry {
	return Entry{ID: [32]byte(p), FrameRef: FrameRef{
		Type: p[32], Codec: p[33],
		Stored: binary.LittleEndian.Uint32(p[36:]), Plain: binary.LittleEndian.Uint32(p[40:]),
	}}
}

// check holds an entry against the bounds; space is how many bytes of frames can still be there.
func (e *Entry) check(space int) error {
	switch {
	case e.Type < TypeBlock || e.Type > TypeAnchors:
		return &UnsupportedError{What: "frame type", Value: int(e.Type)}
	case e.Codec > CodecAssembled || e.Codec == CodecAssembled && e.Type != TypeBlock && e.Type != TypeVoid:
		return &UnsupportedError{What: "codec", Value: int(e.Codec)}
	case e.Stored < Overhead || int64(e.Stored) > int64(space):
		return fmt.Errorf("%d bytes stored where %d are left", e.Stored, space)
	case e.Plain > MaxPlain || e.Codec == CodecPlain && e.Stored != e.Plain+Overhead:
		return fmt.Errorf("%d plain bytes for %d stored", e.Plain, e.Stored)
	}
	return nil
}

// blame makes a CorruptError of what is not a typed error already.
func (c *Cipher) blame(ref FrameRef, err error) error {
	if _, ok := err.(*UnsupportedError); ok {
		return err
	}
	return c.corrupt(ref, err.Error())
}
