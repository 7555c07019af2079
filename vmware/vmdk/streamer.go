package vmdk

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

// streamer writes a stream: the header, grains in the order of the disk with the tables that end among them, the
// directory, the footer.
type streamer struct {
	w     io.Writer
	h     hosted
	next  int64 // sector
	dir   []uint32
	table *[perTable]uint32 // nil: nothing in it yet
	at    int64             // which table
}

func newStreamer(w io.Writer, size int64) *streamer {
	return &streamer{
		w: w, dir: make([]uint32, (size+tableCovers-1)/tableCovers),
		h: hosted{
			version: 3, flags: flagNewlines | flagPacked | flagMarkers, capacity: sectors(size), grain: grainSectors, descriptor: 1,
			descLen: descSectors, perTable: perTable, dir: atEnd, overhead: overhead,
		},
	}
}

// start is what comes before the first grain.
func (s *streamer) start(desc []byte) []byte {
	b := slices.Concat(s.h.append(nil), desc)
	return append(b, make([]byte, overhead*sector-len(b))...)
}

func (s *streamer) begin(desc []byte) error { return s.write(s.start(desc)) }

// write appends whole sectors.
func (s *streamer) write(b []byte) error {
	if len(b)%sector != 0 {
		panic(fmt.Sprintf("vmdk: a piece of %d bytes", len(b)))
	}
	if _, err := take(&s.next, int64(len(b)/sector)); err != nil {
		return err
	}
	_, err := s.w.Write(b)
	return err
}

// packed appends a grain that pack made. Grains come in the order of the disk.
func (s *streamer) packed(grain int64, b []byte) error {
	if s.table != nil && s.at != grain/perTable {
		if err := s.endTable(); err != nil {
			return err
		}
	}
	if s.table == nil {
		s.table, s.at = new([perTable]uint32), grain/perTable
	}
	at := s.next
	if err := s.write(b); err != nil {
		return err
	}
	s.table[grain%perTable] = uint32(at)
	return nil
}

// endTable appends the table that is open.
func (s *streamer) endTable() error {
	b := marker{value: tableSectors, kind: markTable}.append(nil)
	for _, e := range s.table {
		b = binary.LittleEndian.AppendUint32(b, e)
	}
	at := s.next + 1
	if err := s.write(b); err != nil {
		return err
	}
	s.dir[s.at], s.table = uint32(at), nil
	return nil
}

// finish appends all that comes after the grains.
func (s *streamer) finish() error {
	if s.table != nil {
		if err := s.endTable(); err != nil {
			return err
		}
	}
	n := max((int64(len(s.dir))*4+sector-1)/sector, 1)
	b := marker{value: uint64(n), kind: markDirectory}.append(nil)
	footer := s.h
	footer.dir = uint64(s.next + 1)
	for _, e := range s.dir {
		b = binary.LittleEndian.AppendUint32(b, e)
	}
	b = append(b, make([]byte, (n+1)*sector-int64(len(b)))...)
	b = marker{value: 1, kind: markFooter}.append(b)
	b = footer.append(b)
	return s.write(marker{kind: markEnd}.append(b))
}
