package vmwaretest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

const (
	sector     = 512
	trackGrain = 64 << 10 // bytes of what change tracking counts, and of a flat file's allocation
)

// store is the file below a descriptor. What a delta does not hold is as in the disk that it stands on.
type store interface {
	// next is the length of the run at off, to end at most, and whether this file holds it.
	next(off, end int64) (n int64, held bool)
	// allocated is as next, for bytes that were written ever.
	allocated(off, end int64) (n int64, written bool)
	// readAt reads what is held, and writeAt writes whole grains.
	readAt(p []byte, off int64) error
	writeAt(p []byte, off int64) error
	grain() int64
	bytes() int64 // of data
	resize(size int64) error
	close() error
}

// flatStore is the disk's bytes as they are.
type flatStore struct {
	file    *os.File
	size    int64
	written map[int64]struct{} // by trackGrain
}

func createFlat(path string, size int64) (*flatStore, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(size); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &flatStore{file: f, size: size, written: map[int64]struct{}{}}, nil
}

// openFlat takes everything in the file for written.
func openFlat(path string) (*flatStore, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	s := &flatStore{file: f, size: info.Size(), written: map[int64]struct{}{}}
	for i := range (s.size + trackGrain - 1) / trackGrain {
		s.written[i] = struct{}{}
	}
	return s, nil
}

func (s *flatStore) next(off, end int64) (int64, bool) { return end - off, true }

func (s *flatStore) allocated(off, end int64) (int64, bool) {
	_, first := s.written[off/trackGrain]
	at := off
	for at < end {
		if _, ok := s.written[at/trackGrain]; ok != first {
			break
		}
		at = (at/trackGrain + 1) * trackGrain
	}
	return min(at, end) - off, first
}

func (s *flatStore) readAt(p []byte, off int64) error {
	n, err := s.file.ReadAt(p, off)
	if n == len(p) || err == io.EOF {
		clear(p[n:])
		return nil
	}
	return err
}

func (s *flatStore) writeAt(p []byte, off int64) error {
	p = p[:min(int64(len(p)), s.size-off)]
	for g := off / trackGrain; g*trackGrain < off+int64(len(p)); g++ {
		s.written[g] = struct{}{}
	}
	_, err := s.file.WriteAt(p, off)
	return err
}

func (s *flatStore) grain() int64 { return 1 }
func (s *flatStore) bytes() int64 { return int64(len(s.written)) * trackGrain }
func (s *flatStore) close() error { return s.file.Close() }

func (s *flatStore) resize(size int64) error {
	s.size = size
	return s.file.Truncate(size)
}

// sparseStore is a delta: tables that lead to grains, in one of two forms.
//
//	SESparse   header │ volatile header │ journal │ directory │ tables, all of them │ grains of 4 KiB as they come
//	COWD       header │ directory │ tables, all of them │ grains of 512 bytes as they come
type sparseStore struct {
	file  *os.File
	size  int64
	form  form
	slots map[int64]int64 // grain of the disk to grain of the file
}

// form is where things are in a sparse file, in bytes.
type form struct {
	grain  int64
	entry  int64 // bytes of a table's entry
	tables int64 // the first table
	data   int64 // the first grain
	header func(size int64) []byte
	code   func(slot int64) []byte
}

const perTable = 4096

func createSparse(path string, size int64, format DeltaFormat) (*sparseStore, error) {
	f := seForm(size)
	if format == COWD {
		f = cowdForm(size)
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = file.WriteAt(f.header(size), 0)
	if err = errors.Join(err, file.Truncate(f.data)); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &sparseStore{file: file, size: size, form: f, slots: map[int64]int64{}}, nil
}

func tablesOf(size, grain int64) int64 { return (size + grain*perTable - 1) / (grain * perTable) }

func up(n, unit int64) int64 { return (n + unit - 1) / unit * unit }

// seForm has all tables in their places from the beginning, so that a grain's entry is where its number says.
func seForm(size int64) form {
	const dir = 4096 * sector
	n := tablesOf(size, 4096)
	f := form{grain: 4096, entry: 8, tables: dir + up(n*8, 4096)}
	f.data = f.tables + n*perTable*8
	f.code = func(slot int64) []byte {
		return binary.LittleEndian.AppendUint64(nil, 3<<60|uint64(slot&0xfff)<<48|uint64(slot>>12))
	}
	f.header = func(size int64) []byte {
		b := make([]byte, f.tables)
		put := func(at int, sectors int64) { binary.LittleEndian.PutUint64(b[at:], uint64(sectors)) }
		for at, v := range map[int]int64{
			0: 0xcafebabe, 8: 0x2_0000_0001, 16: up(size, sector) / sector, 24: 8, 32: 64,
			80: 1, 88: 1, 96: 2, 104: 2, 112: 2048, 120: 2048,
			128: dir / sector, 136: (f.tables - dir) / sector, 144: f.tables / sector, 152: n * 64,
			160: f.data / sector, 168: 0, 176: f.data / sector, 184: 0,
			192: f.data / sector, 200: up(size, 4096) / sector,
		} {
			put(at, v)
		}
		binary.LittleEndian.PutUint64(b[sector:], 0xcafecafe)
		for i := range n {
			binary.LittleEndian.PutUint64(b[dir+i*8:], 0x1000_0000<<32|uint64(i))
		}
		return b
	}
	return f
}

func cowdForm(size int64) form {
	const dir = 4 * sector
	n := tablesOf(size, sector)
	f := form{grain: sector, entry: 4, tables: dir + up(n*4, sector)}
	f.data = f.tables + n*perTable*4
	f.code = func(slot int64) []byte {
		return binary.LittleEndian.AppendUint32(nil, uint32(f.data/sector+slot))
	}
	f.header = func(size int64) []byte {
		b := make([]byte, f.tables)
		copy(b, "COWD")
		for at, v := range map[int]int64{
			4: 1, 8: 3, 12: up(size, sector) / sector, 16: 1, 20: dir / sector, 24: n, 28: f.data / sector,
		} {
			binary.LittleEndian.PutUint32(b[at:], uint32(v))
		}
		for i := range n {
			binary.LittleEndian.PutUint32(b[dir+i*4:], uint32((f.tables+i*perTable*4)/sector))
		}
		return b
	}
	return f
}

func (s *sparseStore) next(off, end int64) (int64, bool) {
	slot, first := s.slots[off/s.form.grain]
	at := off
	for i := int64(0); at < end; i++ {
		n, ok := s.slots[at/s.form.grain]
		if ok != first || ok && n != slot+i {
			break
		}
		at = (at/s.form.grain + 1) * s.form.grain
	}
	return min(at, end) - off, first
}

func (s *sparseStore) allocated(off, end int64) (int64, bool) { return s.next(off, end) }

func (s *sparseStore) readAt(p []byte, off int64) error {
	g := s.form.grain
	n, err := s.file.ReadAt(p, s.form.data+s.slots[off/g]*g+off%g)
	if n == len(p) {
		return nil
	}
	return fmt.Errorf("%s: grain at %d: %w", s.file.Name(), off, err)
}

func (s *sparseStore) writeAt(p []byte, off int64) error {
	for g := s.form.grain; len(p) > 0; off, p = off+g, p[g:] {
		if err := s.writeGrain(p[:g], off/g); err != nil {
			return err
		}
	}
	return nil
}

// writeGrain writes a new grain before the entry that leads to it.
func (s *sparseStore) writeGrain(p []byte, n int64) error {
	slot, ok := s.slots[n]
	if !ok {
		slot = int64(len(s.slots))
	}
	if _, err := s.file.WriteAt(p, s.form.data+slot*s.form.grain); err != nil || ok {
		return err
	}
	s.slots[n] = slot
	_, err := s.file.WriteAt(s.form.code(slot), s.form.tables+n*s.form.entry)
	return err
}

func (s *sparseStore) grain() int64       { return s.form.grain }
func (s *sparseStore) bytes() int64       { return int64(len(s.slots)) * s.form.grain }
func (s *sparseStore) close() error       { return s.file.Close() }
func (s *sparseStore) resize(int64) error { return errors.ErrUnsupported }

// held are the grains of the disk that are here, in order.
func (s *sparseStore) held() []int64 {
	out := make([]int64, 0, len(s.slots))
	for g := range s.slots {
		out = append(out, g)
	}
	slices.Sort(out)
	return out
}
