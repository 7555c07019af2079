package list

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
)

const (
	magic      = "HKFL\x01"
	maxClasses = 4096
	maxItem    = MaxPath + MaxTarget + 8*(MaxText+10) + 100 // bytes

	itemVolume = 1
	itemEntry  = 2
	itemEnd    = 3

	hasTarget = 1
	hasNote   = 2
)

// class is what many entries have in common.
type class struct {
	Type         Type
	Mode         uint32
	Owner, Group string
}

func (e *Entry) class() class { return class{e.Type, e.Mode, e.Owner, e.Group} }

// Writer writes a list. It is not safe for concurrent use.
type Writer struct {
	out     *bufio.Writer
	buf     []byte
	head    []byte
	last    Entry
	first   bool // of its volume
	inside  bool // a volume
	classes map[class]uint64
	entries int64
	written int64
	err     error
}

// NewWriter begins a list.
func NewWriter(w io.Writer) *Writer {
	lw := &Writer{out: bufio.NewWriterSize(w, 64<<10), classes: map[class]uint64{}}
	lw.put([]byte(magic))
	return lw
}

// Entries is how many there are.
func (w *Writer) Entries() int64 { return w.entries }

// Bytes is how long the list is so far.
func (w *Writer) Bytes() int64 { return w.written }

// Volume begins a volume.
func (w *Writer) Volume(v Volume) error {
	if err := v.Check(); err != nil {
		return err
	}
	w.buf = w.buf[:0]
	for _, s := range v.fields() {
		w.text(*s)
	}
	w.last, w.first, w.inside = Entry{}, true, true
	return w.item(itemVolume)
}

// Add adds an entry of the last volume. Errors wrap [ErrMalformed] where it cannot be there, or not after the one before.
func (w *Writer) Add(e Entry) error {
	if err := e.Check(); err != nil {
		return err
	}
	if !w.inside || !w.first && Compare(w.last.Path, e.Path) >= 0 {
		return fmt.Errorf("%w: %.100q does not follow %.100q", ErrMalformed, e.Path, w.last.Path)
	}
	flags := uint64(0)
	if e.Target != "" {
		flags |= hasTarget
	}
	if e.Note != "" {
		flags |= hasNote
	}
	w.buf = binary.AppendUvarint(w.buf[:0], flags)
	w.class(e.class())
	shared := Shared(w.last.Path, e.Path)
	w.buf = binary.AppendUvarint(w.buf, uint64(shared))
	w.text(e.Path[shared:])
	w.buf = binary.AppendUvarint(w.buf, uint64(e.Size))
	w.buf = binary.AppendVarint(w.buf, e.ModUnix-w.last.ModUnix)
	w.buf = binary.AppendVarint(w.buf, e.CreatedUnix-w.last.CreatedUnix)
	if e.Target != "" {
		w.text(e.Target)
	}
	if e.Note != "" {
		w.text(e.Note)
	}
	w.last, w.first = e, false
	w.entries++
	return w.item(itemEntry)
}

// Close ends the list. The stream below is not closed.
func (w *Writer) Close() error {
	w.buf = binary.AppendUvarint(w.buf[:0], uint64(w.entries))
	if err := w.item(itemEnd); err != nil {
		return err
	}
	w.err = w.out.Flush()
	return w.err
}

func (w *Writer) class(c class) {
	if i, ok := w.classes[c]; ok {
		w.buf = binary.AppendUvarint(w.buf, i)
		return
	}
	w.buf = binary.AppendUvarint(w.buf, uint64(len(w.classes)))
	if len(w.classes) == maxClasses {
		clear(w.classes)
	}
	w.classes[c] = uint64(len(w.classes))
	w.buf = append(w.buf, byte(c.Type))
	w.buf = binary.AppendUvarint(w.buf, uint64(c.Mode))
	w.text(c.Owner)
	w.text(c.Group)
}

func (w *Writer) text(s string) {
	w.buf = append(binary.AppendUvarint(w.buf, uint64(len(s))), s...)
}

func (w *Writer) item(kind byte) error {
	w.head = binary.AppendUvarint(append(w.head[:0], kind), uint64(len(w.buf)))
	w.put(w.head)
	w.put(w.buf)
	return w.err
}

func (w *Writer) put(p []byte) {
	if w.err == nil {
		_, w.err = w.out.Write(p)
		w.written += int64(len(p))
	}
}

// Shared is how many bytes two paths begin with alike.
func Shared(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
