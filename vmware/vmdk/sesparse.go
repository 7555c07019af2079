package vmdk

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hikae/hikae/pipe"
)

// What ESXi writes deltas in on VMFS 6, and of large disks elsewhere.
//
//	  0 magic cafebabe   8 version 2.1   16 capacity   24 grain (8)   32 table (64)   40 flags
//	 80 volatile header 88 its length   128 directory 136 its length
//	144 tables         152 their length 192 grains    200 their length
//
// All are 64 bits, little-endian, places and lengths in sectors. The volatile header, with the magic cafecafe, says at
// byte 24 whether the journal has to be replayed. A directory entry is 1 in the top nibble and the number of a table in
// the lower half. A table entry has its kind in the top nibble; of data the number of the grain follows, its lower 12
// bits first.
const (
	seMagic    = 0xcafebabe
	seVolatile = 0xcafecafe
	seVersion  = 0x2_0000_0001
	seGrain    = 8    // sectors
	seTable    = 64   // sectors
	sePerTable = 4096 // entries of 8 bytes
)

type seCoder struct {
	tables int64 // where table 0 is
	tLen   int64 // bytes of all tables
	grains int64 // where grain 0 is
	gLen   int64
}

func openSESparse(ctx context.Context, path string, file pipe.Image, c *cache) (*grains, error) {
	b := make([]byte, headerLen)
	if file.Size() < headerLen {
		return nil, &CorruptError{Path: path, Reason: "it ends within its header"}
	}
	if err := readFull(ctx, file, b, 0); err != nil {
		return nil, fmt.Errorf("%s: header: %w", path, err)
	}
	fail := func(at int, format string, args ...any) (*grains, error) {
		return nil, &CorruptError{Path: path, Offset: int64(at), Reason: fmt.Sprintf(format, args...)}
	}
	u64 := func(at int) uint64 { return binary.LittleEndian.Uint64(b[at:]) }
	if u64(0) != seMagic {
		return fail(0, "there is no header of a SESparse extent")
	}
	for at, f := range map[int]struct {
		name string
		want uint64
	}{8: {"version", seVersion}, 24: {"grain size", seGrain}, 32: {"table size", seTable}, 40: {"flags", 0}} {
		if u64(at) != f.want {
			return nil, &UnsupportedError{Path: path, Feature: fmt.Sprintf("SESparse %s %#x", f.name, u64(at))}
		}
	}
	for _, at := range []int{16, 80, 128, 136, 144, 152, 192, 200} {
		if u64(at) > maxSectors {
			return fail(at, "%d sectors", u64(at))
		}
	}
	bytes := func(at int) int64 { return int64(u64(at)) * sector }
	if err := cleanJournal(ctx, path, file, bytes(80)); err != nil {
		return nil, err
	}
	g := &grains{
		path: path, file: file, cache: c, size: bytes(16), grain: seGrain * sector, perTable: sePerTable, entry: 8, dir: bytes(128),
		coder: seCoder{tables: bytes(144), tLen: bytes(152), grains: bytes(192), gLen: bytes(200)},
	}
	if err := g.check(); err != nil {
		return nil, err
	}
	if bytes(136) < g.tables()*8 {
		return fail(136, "a directory of %d bytes for %d tables", bytes(136), g.tables())
	}
	return g, nil
}

// cleanJournal refuses an extent whose tables are not what they will be once its journal is replayed.
func cleanJournal(ctx context.Context, path string, file pipe.Image, at int64) error {
	if at < sector || at > file.Size()-sector {
		return &CorruptError{Path: path, Offset: 80, Reason: "its volatile header leaves the file"}
	}
	b := make([]byte, 32)
	if err := readFull(ctx, file, b, at); err != nil {
		return fmt.Errorf("%s: volatile header: %w", path, err)
	}
	switch {
	case binary.LittleEndian.Uint64(b) != seVolatile:
		return &CorruptError{Path: path, Offset: at, Reason: "there is no volatile header"}
	case binary.LittleEndian.Uint64(b[24:]) != 0:
		return &UnsupportedError{Path: path, Feature: "SESparse with a journal to replay"}
	}
	return nil
}

func (c seCoder) table(entry uint64) (int64, bool, error) {
	if entry == 0 {
		return 0, false, nil
	}
	n := int64(entry & 0xffffffff)
	if entry>>32 != 0x10000000 {
		return 0, false, fmt.Errorf("%#x", entry)
	}
	if (n+1)*seTable*sector > c.tLen {
		return 0, false, fmt.Errorf("table %d of %d", n, c.tLen/(seTable*sector))
	}
	return c.tables + n*seTable*sector, true, nil
}

var errKind = errors.New("it is of no known kind")

func (c seCoder) grain(entry uint64) (what, int64, error) {
	switch entry >> 60 {
	case 0:
		if entry != 0 {
			return 0, 0, errKind
		}
		return isAbsent, 0, nil
	case 1, 2: // unmapped by the guest, and zero
		return isZero, 0, nil
	case 3:
		n := entry>>48&0xfff | entry&0xffff_ffff_ffff<<12
		if n >= uint64(c.gLen/(seGrain*sector)) {
			return 0, 0, fmt.Errorf("grain %d of %d", n, c.gLen/(seGrain*sector))
		}
		return isData, c.grains + int64(n)*seGrain*sector, nil
	}
	return 0, 0, errKind
}
