package index

import (
	"encoding/binary"

	"github.com/hikae/hikae/guest/index/list"
)

// Bounds of a block. A writer ends one long before.
const (
	blockBytes   = 64 << 10 // plain, about: a block that has so many is full
	maxBlock     = blockBytes + list.MaxPath + list.MaxTarget + 16<<10
	maxEntries   = 1 << 14
	maxPathBytes = 4 << 20 // of all paths together, so that few bytes do not make many
)

// The columns of a block, in this order. Values of one kind stand together: that is what makes them small.
const (
	colClass  = iota // number of the entry's class
	colShared        // bytes that the path begins with like the one before
	colSuffix        // length of the rest
	colNames         // the rests
	colSize
	colMod     // difference from the entry before
	colCreated // likewise
	colFlags
	colTexts // targets and notes
	columns
)

const (
	hasTarget = 1
	hasNote   = 2
)

// class is what many entries have in common.
type class struct {
	Type         list.Type
	Mode         uint32
	Owner, Group string
}

// block is one that is being written.
type block struct {
	cols    [columns][]byte
	head    []byte // classes
	classes map[class]uint64
	first   string
	last    Entry
	count   int
	paths   int // bytes
	grams   grams
}

func (b *block) reset() {
	for i := range b.cols {
		b.cols[i] = b.cols[i][:0]
	}
	if b.classes == nil {
		b.classes = map[class]uint64{}
	}
	clear(b.classes)
	b.grams.reset()
	b.head, b.first, b.last, b.count, b.paths = b.head[:0], "", Entry{}, 0, 0
}

// full says that another entry is to begin a new block.
func (b *block) full() bool {
	n := len(b.head)
	for _, c := range b.cols {
		n += len(c)
	}
	return n >= blockBytes || b.count == maxEntries || b.paths > maxPathBytes-list.MaxPath
}

func (b *block) add(e Entry) {
	if b.count == 0 {
		b.first = e.Path
	}
	shared := list.Shared(b.last.Path, e.Path)
	b.number(colClass, b.class(e))
	b.number(colShared, uint64(shared))
	b.number(colSuffix, uint64(len(e.Path)-shared))
	b.cols[colNames] = append(b.cols[colNames], e.Path[shared:]...)
	b.number(colSize, uint64(e.Size))
	b.cols[colMod] = binary.AppendVarint(b.cols[colMod], e.ModUnix-b.last.ModUnix)
	b.cols[colCreated] = binary.AppendVarint(b.cols[colCreated], e.CreatedUnix-b.last.CreatedUnix)
	flags := byte(0)
	if e.Target != "" {
		flags |= hasTarget
		b.cols[colTexts] = appendText(b.cols[colTexts], e.Target)
	}
	if e.Note != "" {
		flags |= hasNote
		b.cols[colTexts] = appendText(b.cols[colTexts], e.Note)
	}
	b.cols[colFlags] = append(b.cols[colFlags], flags)
	b.grams.add(e.Name())
	b.last = e
	b.count++
	b.paths += len(e.Path)
}

func (b *block) number(col int, v uint64) { b.cols[col] = binary.AppendUvarint(b.cols[col], v) }

func (b *block) class(e Entry) uint64 {
	c := class{e.Type, e.Mode, e.Owner, e.Group}
	i, ok := b.classes[c]
	if !ok {
		i = uint64(len(b.classes))
		b.classes[c] = i
		b.head = binary.AppendUvarint(append(b.head, byte(c.Type)), uint64(c.Mode))
		b.head = appendText(appendText(b.head, c.Owner), c.Group)
	}
	return i
}

// plain is the block as it is compressed.
func (b *block) plain(p []byte) []byte {
	p = binary.AppendUvarint(p, uint64(b.count))
	p = binary.AppendUvarint(p, uint64(len(b.classes)))
	p = append(p, b.head...)
	for _, c := range b.cols {
		p = append(binary.AppendUvarint(p, uint64(len(c))), c...)
	}
	return p
}

func appendText(p []byte, s string) []byte {
	return append(binary.AppendUvarint(p, uint64(len(s))), s...)
}

// rows reads a block's entries in order. It trusts nothing.
type rows struct {
	cols    [columns]*list.Cursor
	classes []class
	path    []byte
	last    Entry
	left    int
	paths   int
}

// openRows reads what stands before the entries; nil: it is malformed.
func openRows(p []byte) *rows {
	c := list.NewCursor(p)
	r := &rows{left: int(c.Uint(maxEntries))}
	n := int(c.Uint(uint64(r.left)))
	r.classes = make([]class, 0, n)
	for range n {
		r.classes = append(r.classes, class{list.Type(c.Byte()), uint32(c.Uint(1<<32 - 1)), c.Text(list.MaxText), c.Text(list.MaxText)})
	}
	for i := range r.cols {
		r.cols[i] = list.NewCursor(c.Bytes(int(c.Uint(maxBlock))))
	}
	if !c.Done() {
		return nil
	}
	return r
}

// next reads one entry; false: there is none, or the block is malformed. Nothing is wrong if after the last one end says so.
func (r *rows) next(first bool) (Entry, bool) {
	if r.left == 0 {
		return Entry{}, false
	}
	shared := int(r.cols[colShared].Uint(uint64(len(r.path))))
	rest := r.cols[colNames].Bytes(int(r.cols[colSuffix].Uint(list.MaxPath)))
	r.path = append(r.path[:shared], rest...)
	i := r.cols[colClass].Uint(uint64(max(len(r.classes)-1, 0)))
	flags := r.cols[colFlags].Byte()
	if r.paths += len(r.path); len(r.classes) == 0 || flags > hasTarget|hasNote || r.paths > maxPathBytes {
		return Entry{}, false
	}
	k := r.classes[i]
	e := Entry{
		Path: string(r.path), Type: k.Type, Mode: k.Mode, Owner: k.Owner, Group: k.Group,
		Size:        int64(r.cols[colSize].Uint(1<<63 - 1)),
		ModUnix:     r.last.ModUnix + r.cols[colMod].Int(),
		CreatedUnix: r.last.CreatedUnix + r.cols[colCreated].Int(),
	}
	if flags&hasTarget != 0 {
		e.Target = r.cols[colTexts].Text(list.MaxTarget)
	}
	if flags&hasNote != 0 {
		e.Note = r.cols[colTexts].Text(list.MaxText)
	}
	if r.bad() || e.Check() != nil || !first && list.Compare(r.last.Path, e.Path) >= 0 {
		return Entry{}, false
	}
	r.last = e
	r.left--
	return e, true
}

func (r *rows) bad() bool {
	for _, c := range r.cols {
		if c.Bad() {
			return true
		}
	}
	return false
}

// end reports that all was read, and all was well.
func (r *rows) end() bool {
	for _, c := range r.cols {
		if !c.Done() {
			return false
		}
	}
	return r.left == 0
}
