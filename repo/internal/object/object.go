package object

import (
	"errors"
	"fmt"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/cell"
)

// Object is a whole object that was opened: its frames can be read, from any goroutine.
type Object struct {
	Header  *Header
	stream  []byte
	cipher  *Cipher
	entries []Entry
}

// Open reads an object from its stream, which it keeps and overwrites in part. want says what it must be; a zero
// object id is any. Errors: those of ParseHeader, Unwrap and ParseTable.
func Open(stream []byte, want cell.Ident, un []Unwrapper) (*Object, error) {
	h, err := ParseHeader(stream)
	if err != nil {
		return nil, err
	}
	if err := h.Matches(want); err != nil {
		return nil, err
	}
	c, err := Unwrap(h, un...)
	if err != nil {
		return nil, err
	}
	off, n, err := TableSpan(cell.Geometry{Stream: len(stream), Object: h.Object}, stream)
	if err != nil {
		return nil, err
	}
	entries, err := c.ParseTable(stream[off:off+n], h.Len(), off)
	if err != nil {
		return nil, err
	}
	return &Object{Header: h, stream: stream, cipher: c, entries: entries}, nil
}

// OpenFile reads an object from its file, mending up to m cells on the way: damaged says which, as in cell.Decode.
// Errors beyond Open's: cell.DamageError.
func OpenFile(file []byte, want cell.Ident, un []Unwrapper) (o *Object, damaged []int, err error) {
	stream, g, damaged, err := cell.Decode(file)
	if err != nil {
		return nil, damaged, err
	}
	if o, err = Open(stream, want, un); err != nil {
		return nil, damaged, err
	}
	return o, damaged, sameObject(o.Header, g)
}

// sameObject: cells that say another name than the header would be mended and reported under it.
func sameObject(h *Header, g cell.Geometry) error {
	if h.Object != g.Object || h.Kind != g.Kind || [8]byte(h.Repo[:8]) != g.RepoPrefix {
		return h.corrupt(0, "the cells are named for another object")
	}
	return nil
}

// Entries is the table, in order. It must not be changed.
func (o *Object) Entries() []Entry { return o.entries }

// Cipher opens this object's frames wherever they are read from.
func (o *Object) Cipher() *Cipher { return o.cipher }

// Frame opens the i-th frame: content still encoded, in new memory.
func (o *Object) Frame(i int) ([]byte, error) {
	ref := o.entries[i].FrameRef
	return o.cipher.OpenFrame(nil, o.stream[ref.Offset:ref.Offset+ref.Stored], ref)
}

// Content opens and decodes the i-th frame. What its id must be is the caller's to check.
func (o *Object) Content(i int) ([]byte, error) {
	data, err := o.Frame(i)
	if err != nil {
		return nil, err
	}
	ref := o.entries[i].FrameRef
	content, err := pipe.Decode(nil, data, pipe.Codec(ref.Codec), int(ref.Plain))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", o.cipher.corrupt(ref, "frame does not decode"), err)
	}
	return content, nil
}

// Table is what ReadTable reads of a pack.
type Table struct {
	Header   *Header
	Geometry cell.Geometry
	Cipher   *Cipher
	Entries  []Entry
}

// tailFrames is for how many frames the table is read without asking for its length first: 64 KiB blocks that
// compress to a quarter fill a pack of 16 MiB with about a thousand.
const tailFrames = 1024

// ReadTable reads header and table of an object whose file has that size, in three reads as a rule: the last cell,
// which says how many data cells there are, the end of the data cells, the first cell. read returns n bytes of the
// file from off on, or fewer at its end; what it returns is overwritten. Cells are not mended here: after a CorruptError,
// or ErrShort, read the whole file and OpenFile it. Errors beyond Open's: cell.ErrCell, and those of read.
func ReadTable(read func(off, n int) ([]byte, error), size int64, want cell.Ident, un []Unwrapper) (*Table, error) {
	g, err := lastGeometry(read, size)
	if err != nil {
		return nil, err
	}
	if g.Kind != want.Kind || want.Object != [16]byte{} && g.Object != want.Object {
		return nil, &CorruptError{Object: g.Object, Reason: "the cells are named for another object"}
	}
	h, err := readHeader(read, g)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(h.Matches(want), sameObject(h, g)); err != nil {
		return nil, err
	}
	c, err := Unwrap(h, un...)
	if err != nil {
		return nil, err
	}
	sealed, off, err := readSealedTable(read, g)
	if err != nil {
		return nil, err
	}
	entries, err := c.ParseTable(sealed, h.Len(), off)
	if err != nil {
		return nil, err
	}
	return &Table{Header: h, Geometry: g, Cipher: c, Entries: entries}, nil
}

func lastGeometry(read func(off, n int) ([]byte, error), size int64) (cell.Geometry, error) {
	if size < cell.Size || size > 2*cell.MaxStream+cell.MaxStream/32 {
		return cell.Geometry{}, fmt.Errorf("%w: file of %d bytes", cell.ErrCell, size)
	}
	p, err := read(int(size)-cell.Size, cell.Size)
	if err != nil {
		return cell.Geometry{}, err
	}
	g, ordinal, err := cell.ParseTrailer(p)
	if err == nil && (int64(g.FileSize()) != size || ordinal != g.Cells()-1) {
		err = fmt.Errorf("%w: file of %d bytes ends with cell %d of %d", cell.ErrCell, size, ordinal, g.Cells())
	}
	return g, err
}

func readHeader(read func(off, n int) ([]byte, error), g cell.Geometry) (*Header, error) {
	n := min(g.Stream, cell.Payload)
	p, err := readStream(read, 0, n)
	if err != nil {
		return nil, err
	}
	h, err := ParseHeader(p)
	if errors.Is(err, ErrShort) && n < g.Stream {
		if p, err = readStream(read, 0, min(g.Stream, HeaderMax)); err != nil {
			return nil, err
		}
		h, err = ParseHeader(p)
	}
	return h, err
}

func readSealedTable(read func(off, n int) ([]byte, error), g cell.Geometry) (sealed []byte, off int, err error) {
	tailOff, n := TailSpan(g, tailFrames)
	tail, err := readStream(read, tailOff, n)
	if err != nil {
		return nil, 0, err
	}
	off, n, err = TableSpan(g, tail)
	if err != nil {
		return nil, 0, err
	}
	if off < tailOff {
		tail, err = readStream(read, off, n)
		return tail, off, err
	}
	return tail[off-tailOff : off-tailOff+n], off, nil
}

func readStream(read func(off, n int) ([]byte, error), off, n int) ([]byte, error) {
	fileOff, fileLen := cell.StreamSpan(off, n)
	p, err := read(fileOff, fileLen)
	if err != nil {
		return nil, err
	}
	if len(p) != fileLen {
		return nil, ErrShort
	}
	cell.Strip(p, p, off, n)
	return p[:n], nil
}
