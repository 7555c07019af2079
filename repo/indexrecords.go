package repo

import (
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/hikae/hikae/pipe"
)

// records is an append-only array. The first ones may be those of the lasting cache, the others are on a scratch file, and the
// last of all wait in memory.
type records struct {
	base *indexCacheFile // nil: none
	file scratch
	n    uint32 // count, those of base too
	tail []byte // records that are not in the file yet
	near [nearPages]nearPage

	moved  bool // the scratch file is in the system's folder, there was no room where it belongs
	closed bool
}

// scratch is the file that a scratch file is.
type scratch interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Name() string
}

// nearPage is a page that was read a moment ago: walks over a disk ask for neighbours.
type nearPage struct {
	mu   sync.Mutex
	page uint32 // its number+1
	buf  [pageSize]byte
}

const (
	recordSize  = 56
	pageRecords = 72 // with a tag, a page of the cache file is 4 KiB
	pageSize    = pageRecords * recordSize
	nearPages   = 64
	tailSize    = 14 * pageSize // whole pages, so that one that is in a file never changes
	maxRecords  = 1<<32 - 2
)

func newRecords(f scratch) *records { return &records{file: f} }

// first is the number of the first record on the scratch file: whole pages below it are the cache's.
func (r *records) first() uint32 {
	if r.base == nil {
		return 0
	}
	return r.base.records
}

// append adds a record; again says that its id has one already, aside that it does not stand in the table.
func (r *records) append(id pipe.ID, loc location, again, aside bool) (uint32, error) {
	if r.closed {
		return 0, fs.ErrClosed
	}
	if r.n == maxRecords {
		return 0, fmt.Errorf("the index is full: %d records", r.n)
	}
	b := append(r.tail, id[:]...)
	for _, v := range [...]uint32{loc.pack, loc.ordinal, loc.offset, loc.stored, loc.plain} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	r.tail = append(b, loc.typ, byte(loc.codec), flag(again), flag(aside))
	r.n++
	if len(r.tail) < tailSize {
		return r.n - 1, nil
	}
	if err := r.flush(); err != nil {
		r.n--
		r.tail = r.tail[:len(r.tail)-recordSize]
		return 0, fmt.Errorf("index scratch file: %w", err)
	}
	return r.n - 1, nil
}

// flush writes the tail. Where there is no room, the file goes on in the system's folder for temporary files.
func (r *records) flush() error {
	_, err := r.file.WriteAt(r.tail, r.inFile())
	if err != nil && !r.moved {
		if other := r.move(); other == nil {
			_, err = r.file.WriteAt(r.tail, r.inFile())
		}
	}
	if err == nil {
		r.tail = r.tail[:0]
	}
	return err
}

func (r *records) move() error {
	f, err := scratchFile("")
	if err != nil {
		return err
	}
	buf := make([]byte, tailSize)
	for off := int64(0); off < r.inFile(); off += tailSize {
		if _, err = r.file.ReadAt(buf, off); err == nil {
			_, err = f.WriteAt(buf, off)
		}
		if err != nil {
			_ = closeScratch(f)
			return err
		}
	}
	_ = closeScratch(r.file)
	r.file, r.moved = f, true
	return nil
}

// inFile is how many bytes of records the scratch file holds.
func (r *records) inFile() int64 {
	return int64(r.n-r.first())*recordSize - int64(len(r.tail))
}

func flag(on bool) byte {
	if on {
		return 1
	}
	return 0
}

func (r *records) at(n uint32) (id pipe.ID, loc location, err error) {
	rest := n
	if from := r.first(); n >= from {
		rest = n - from
		if off := int64(rest) * recordSize; off >= r.inFile() {
			id, loc := parseRecord(r.tail[off-r.inFile():])
			return id, loc, nil
		}
	}
	// Numbers of the two files' pages do not meet: those of the scratch file are odd.
	page := 2*uint64(rest/pageRecords) + uint64(flag(n >= r.first()))
	near := &r.near[page/2%(nearPages/2)*2+page%2]
	near.mu.Lock()
	defer near.mu.Unlock()
	if near.page != uint32(page+1) {
		near.page = 0
		if err := r.readPage(near.buf[:], rest/pageRecords, n < r.first()); err != nil {
			return id, loc, err
		}
		near.page = uint32(page + 1)
	}
	id, loc = parseRecord(near.buf[rest%pageRecords*recordSize:])
	return id, loc, nil
}

func (r *records) readPage(b []byte, page uint32, base bool) error {
	if base {
		return r.base.readPage(b, page)
	}
	if _, err := r.file.ReadAt(b, int64(page)*pageSize); err != nil {
		return fmt.Errorf("index scratch file: %w", err)
	}
	return nil
}

func parseRecord(b []byte) (id pipe.ID, loc location) {
	copy(id[:], b)
	u := func(i int) uint32 { return binary.LittleEndian.Uint32(b[32+4*i:]) }
	return id, location{u(0), u(1), u(2), u(3), u(4), b[52], pipe.Codec(b[53])}
}

func (r *records) eachFull(f func(id pipe.ID, loc location, again, aside bool)) error {
	return r.eachRun(func(b []byte) error {
		for ; len(b) > 0; b = b[recordSize:] {
			id, loc := parseRecord(b)
			f(id, loc, b[54] != 0, b[55] != 0)
		}
		return nil
	})
}

// eachRun calls f for all records in turn, some at a time, as they stand in the files.
func (r *records) eachRun(f func([]byte) error) error {
	if r.closed {
		return fs.ErrClosed
	}
	if r.base != nil {
		if err := r.base.eachRun(f); err != nil {
			return err
		}
	}
	buf := make([]byte, tailSize)
	for off := int64(0); off < r.inFile(); off += tailSize {
		b := buf[:min(tailSize, r.inFile()-off)]
		if _, err := r.file.ReadAt(b, off); err != nil {
			return fmt.Errorf("index scratch file: %w", err)
		}
		if err := f(b); err != nil {
			return err
		}
	}
	return f(r.tail)
}

func (r *records) close() error {
	err := closeScratch(r.file)
	if r.base != nil {
		_ = r.base.close()
	}
	return err
}

// scratchFile makes a file that goes away with the process, also when that is killed, where the system allows it.
func scratchFile(dir string) (*os.File, error) {
	if dir != "" {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	f, err := os.CreateTemp(dir, "hikae-index-*")
	if err != nil {
		return nil, err
	}
	_ = os.Remove(f.Name()) // an open file cannot be removed on Windows: closeScratch does it
	return f, nil
}

func closeScratch(f scratch) error {
	err := f.Close()
	_ = os.Remove(f.Name())
	return err
}
