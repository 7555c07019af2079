package object

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/hikae/hikae/repo/internal/cell"
)

// Builder seals frames into the cells of one object, then of the next, in one buffer. It is not safe for concurrent
// use. Nothing of one object's key lives on in the next one's.
type Builder struct {
	header Header
	wraps  []Wrapper
	cells  *cell.Writer
	cipher *Cipher

	table  []byte // entries so far, in the clear
	frames int
	done   bool
	buf    []byte // one frame, sealed
}

// NewBuilder begins an object. permille is the repository's parity, capacity the expected length of the stream in
// bytes. With SuiteClear, wraps may be nil.
func NewBuilder(repo [16]byte, suite, kind uint8, permille, capacity int, wraps []Wrapper) (*Builder, error) {
	if err := knownSuite(suite); err != nil {
		return nil, err
	}
	if err := knownKind(kind); err != nil {
		return nil, err
	}
	if suite == SuiteClear && len(wraps) == 0 {
		wraps = []Wrapper{Clear{}}
	}
	b := &Builder{
		header: Header{Kind: kind, Suite: suite, Repo: repo},
		wraps:  slices.Clone(wraps),
		cells:  cell.NewWriter(cell.Ident{}, permille, capacity),
	}
	return b, b.Reset()
}

// Reset begins the next object: with a new id, a new data key, and frame 0. What Seal returned is gone. After an
// error the builder is of no use until a Reset succeeds.
func (b *Builder) Reset() error {
	b.done = true
	b.table, b.frames = b.table[:0], 0
	var key Key
	_, _ = rand.Read(key[:]) // never fails
	_, _ = rand.Read(b.header.Object[:])
	h := &b.header
	h.Commitment = commitment(h, key)
	if err := wrapAll(h, key, b.wraps); err != nil {
		return fmt.Errorf("wrapping the data key: %w", err)
	}
	b.cipher = newCipher(h, key)
	b.cells.Reset(cell.Ident{Kind: h.Kind, Object: h.Object, Repo: h.Repo})
	b.done = false
	b.buf = h.Append(b.buf[:0])
	return b.write(b.buf)
}

// ID is the object's id. Kind its kind.
func (b *Builder) ID() [16]byte { return b.header.Object }
func (b *Builder) Kind() uint8  { return b.header.Kind }

// Len is the length of the stream so far, Frames the number of frames in it.
func (b *Builder) Len() int    { return b.cells.Len() }
func (b *Builder) Frames() int { return b.frames }

// SealedLen is how long the stream will be once sealed, without the frames to come.
func (b *Builder) SealedLen() int { return b.Len() + len(b.table) + Overhead + lengthLen }

// Entries are the table so far. They are the caller's.
func (b *Builder) Entries() []Entry {
	entries, at := make([]Entry, b.frames), b.header.Len()
	for i := range entries {
		entries[i] = parseEntry(b.table[i*entryLen:])
		entries[i].Ordinal, entries[i].Offset = uint32(i), uint32(at)
		at += int(entries[i].Stored)
	}
	return entries
}

// Append seals data, which is the content that has that id, encoded with codec, plain bytes long before that. It
// returns ErrFull, and changes nothing, if the object cannot hold it.
func (b *Builder) Append(typ uint8, id [32]byte, codec uint8, plain int, data []byte) (FrameRef, error) {
	if b.done {
		return FrameRef{}, errSealed
	}
	if b.frames >= MaxFrames || len(data) > cell.MaxStream || b.SealedLen()+entryLen+len(data)+Overhead > cell.MaxStream {
		return FrameRef{}, ErrFull
	}
	if plain < 0 || plain > MaxPlain {
		return FrameRef{}, fmt.Errorf("frame of %d plain bytes; at most %d are possible", plain, MaxPlain)
	}
	e := Entry{ID: id, FrameRef: FrameRef{
		Ordinal: uint32(b.frames), Offset: uint32(b.Len()),
		Stored: uint32(len(data) + Overhead), Plain: uint32(plain), Type: typ, Codec: codec,
	}}
	if err := e.check(cell.MaxStream); err != nil {
		return FrameRef{}, err
	}
	if typ == TypeVoid {
		return FrameRef{}, errors.New("a frame becomes void, it is not written so")
	}
	b.frames++ // first: whatever happens, this nonce is spent
	b.table = appendEntry(b.table, e)
	b.buf = b.cipher.seal(b.buf, data, e.FrameRef)
	return e.FrameRef, b.write(b.buf)
}

var errSealed = errors.New("object is sealed already")

// write cannot fail: Append has made sure that there is room.
func (b *Builder) write(p []byte) error {
	if _, err := b.cells.Write(p); err != nil {
		b.done = true
		return err
	}
	return nil
}

// Check opens a frame again from the cells that will be written and returns its content, still encoded, in scratch or
// in new memory. The caller decodes and compares the id.
func (b *Builder) Check(ref FrameRef, scratch []byte) ([]byte, error) {
	if int64(ref.Offset)+int64(ref.Stored) > int64(b.Len()) {
		return nil, b.cipher.corrupt(ref, "no such frame")
	}
	scratch = slices.Grow(scratch[:0], int(ref.Stored))[:ref.Stored]
	b.cells.Read(scratch, int(ref.Offset))
	return b.cipher.OpenFrame(scratch, scratch, ref)
}

// Seal ends the object and returns its file, valid until Reset.
func (b *Builder) Seal() ([]byte, error) {
	if b.done {
		return nil, errSealed
	}
	b.done = true
	// In memory of its own: of small frames the table is a third of the object, and the builder lives on.
	sealed := make([]byte, 0, len(b.table)+Overhead+lengthLen)
	sealed = b.cipher.seal(sealed, b.table, tableRef(b.Len(), len(b.table)))
	sealed = binary.LittleEndian.AppendUint32(sealed, uint32(len(sealed)))
	if err := b.write(sealed); err != nil {
		return nil, err
	}
	return b.cells.Finish()
}
