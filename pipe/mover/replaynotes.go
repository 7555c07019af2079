package mover

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/hikae/hikae/pipe"
)

// notes are what a writer remembers of a point that it writes, so that the point can be put back after the other side
// has forgotten it: which block stands where, and which ranges were marked. They are in the order in which the other
// side carried them out, as far as that matters: ranges that overlap were never under way at once.
//
// A note is 56 bytes, so the notes of a disk of 1 TiB in blocks of 256 KiB that is all new are 224 MiB.
type notes struct {
	tape *tape

	mu   sync.Mutex
	last note // a mark that the next one may extend; its kind is Data where there is none
}

// note is one placement (Kind Data, with an id) or one mark.
//
//	0   1  kind
//	1   1  zero
//	2   2  number of the disk
//	4   4  zero
//	8   8  offset
//	16  8  length
//	24  32 id
type note struct {
	disk   uint16
	extent pipe.Extent
	id     pipe.ID
}

const noteSize = 56

func newNotes(dir string) *notes {
	return &notes{tape: newTape(dir), last: note{extent: pipe.Extent{Kind: pipe.Data}}}
}

// add notes a placement or a mark. Marks that continue one another become one note.
func (n *notes) add(next note) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &n.last
	if l.extent.Kind == pipe.Data && next.extent.Kind == pipe.Data {
		return n.tape.add(next.encode())
	}
	if l.disk == next.disk && l.extent.Kind == next.extent.Kind && l.extent.End() == next.extent.Off {
		l.extent.Len += next.extent.Len
		return nil
	}
	if err := n.flush(); err != nil {
		return err
	}
	if next.extent.Kind == pipe.Data {
		return n.tape.add(next.encode())
	}
	n.last = next
	return nil
}

// flush writes the mark that was held back.
func (n *notes) flush() error {
	if n.last.extent.Kind == pipe.Data {
		return nil
	}
	err := n.tape.add(n.last.encode())
	n.last = note{extent: pipe.Extent{Kind: pipe.Data}}
	return err
}

// all calls each for every note, in order.
func (n *notes) all(each func(note) error) error {
	n.mu.Lock()
	err := n.flush()
	n.mu.Unlock()
	if err != nil {
		return err
	}
	r, err := n.tape.reader()
	if err != nil {
		return err
	}
	in := bufio.NewReaderSize(r, 64*noteSize)
	var b [noteSize]byte
	for {
		if _, err := io.ReadFull(in, b[:]); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("read the notes: %w", err)
		}
		if err := each(decodeNote(b[:])); err != nil {
			return err
		}
	}
}

func (n *notes) close() { n.tape.close() }

func (n note) encode() []byte {
	b := make([]byte, noteSize)
	b[0] = byte(n.extent.Kind)
	binary.BigEndian.PutUint16(b[2:], n.disk)
	binary.BigEndian.PutUint64(b[8:], uint64(n.extent.Off))
	binary.BigEndian.PutUint64(b[16:], uint64(n.extent.Len))
	copy(b[24:], n.id[:])
	return b
}

func decodeNote(b []byte) note {
	return note{
		disk: binary.BigEndian.Uint16(b[2:]),
		extent: pipe.Extent{
			Off: int64(binary.BigEndian.Uint64(b[8:])), Len: int64(binary.BigEndian.Uint64(b[16:])), Kind: pipe.Kind(b[0]),
		},
		id: pipe.ID(b[24:]),
	}
}
