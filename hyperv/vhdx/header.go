package vhdx

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math/bits"

	"github.com/hikae/hikae/pipe"
)

var le = binary.LittleEndian

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const (
	mib         = 1 << 20
	sectorLog   = 4096
	identifier  = "vhdxfile"
	headerOff0  = 64 << 10
	headerOff1  = 128 << 10
	regionOff0  = 192 << 10
	regionOff1  = 256 << 10
	tableLen    = 64 << 10
	maxLog      = 8 << 20
	maxDiskSize = 64 << 40
	minBlock    = 1 << 20
	maxBlock    = 256 << 20
	maxRegions  = 2047
)

var (
	regionBAT      = mustGUID("2DC27766-F623-4200-9D64-115E9BFD4A08")
	regionMetadata = mustGUID("8B7CA206-4790-4B9A-B8FE-575F050F886E")

	itemFile     = mustGUID("CAA16737-FA36-4D43-B3B6-33F0AA44E76B")
	itemSize     = mustGUID("2FA54224-CD1B-4876-B211-5DBED83BF4B8")
	itemDiskID   = mustGUID("BECA12AB-B2E6-4523-93EF-C309E000C746")
	itemLogical  = mustGUID("8141BF1D-A96F-4709-BA47-F233A8FAAB5F")
	itemPhysical = mustGUID("CDA348C7-445D-4471-9CC9-E9885251C556")
	itemLocator  = mustGUID("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C")

	locatorVHDX = mustGUID("B04AEFB7-D19E-4A81-B789-25B8E9445913")
)

// header is one of the two headers.
type header struct {
	at         int64 // which of the two places
	sequence   uint64
	fileWrite  GUID
	dataWrite  GUID
	log        GUID // zero: the log is empty
	logVersion uint16
	version    uint16
	logLen     int64
	logOff     int64
}

func (h *header) encode() []byte {
	b := make([]byte, sectorLog)
	copy(b, "head")
	le.PutUint64(b[8:], h.sequence)
	copy(b[16:], h.fileWrite[:])
	copy(b[32:], h.dataWrite[:])
	copy(b[48:], h.log[:])
	le.PutUint16(b[64:], h.logVersion)
	le.PutUint16(b[66:], h.version)
	le.PutUint32(b[68:], uint32(h.logLen))
	le.PutUint64(b[72:], uint64(h.logOff))
	le.PutUint32(b[4:], crc32.Checksum(b, castagnoli))
	return b
}

// sealed reports whether b begins with a signature and its checksum at byte 4 is right; it looks at all of b.
func sealed(b []byte, signature string) bool {
	if len(b) < 8 || string(b[:4]) != signature {
		return false
	}
	sum := crc32.Update(0, castagnoli, b[:4])
	sum = crc32.Update(sum, castagnoli, []byte{0, 0, 0, 0})
	return crc32.Update(sum, castagnoli, b[8:]) == le.Uint32(b[4:])
}

func decodeHeader(b []byte, at int64) (header, bool) {
	if !sealed(b, "head") {
		return header{}, false
	}
	return header{
		at: at, sequence: le.Uint64(b[8:]), fileWrite: GUID(b[16:32]), dataWrite: GUID(b[32:48]), log: GUID(b[48:64]),
		logVersion: le.Uint16(b[64:]), version: le.Uint16(b[66:]), logLen: int64(le.Uint32(b[68:])),
		logOff: int64(min(le.Uint64(b[72:]), 1<<62)),
	}, true
}

// meta is what the metadata says of the disk.
type meta struct {
	blockSize int64
	size      int64
	sector    int64 // logical
	physical  int64
	keep      bool // blocks stay allocated: a fixed disk
	hasParent bool
	diskID    GUID
	locator   map[string]string
}

// region is a part of the file.
type region struct{ off, len int64 }

func (r region) end() int64 { return r.off + r.len }

func (r region) overlaps(o region) bool { return r.off < o.end() && o.off < r.end() }

// parser reads the fixed parts of a file.
type parser struct {
	ctx  context.Context
	path string
	file pipe.Image
}

func (p *parser) corrupt(off int64, format string, args ...any) error {
	return &CorruptError{Path: p.path, Offset: off, Reason: fmt.Sprintf(format, args...)}
}

// read is n bytes at off, which must be there.
func (p *parser) read(off, n int64) ([]byte, error) {
	if off < 0 || n < 0 || off > p.file.Size() || n > p.file.Size()-off {
		return nil, p.corrupt(off, "the file ends at %d, within what it needs", p.file.Size())
	}
	b := make([]byte, n)
	return b, readFull(p.ctx, p.file, b, off)
}

// readFull reads len(b) bytes that the image is known to have.
func readFull(ctx context.Context, img pipe.Image, b []byte, off int64) error {
	n, err := img.ReadAt(ctx, b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read at %d: %w", off+int64(n), err)
}

// header finds the header that counts.
func (p *parser) header() (header, error) {
	id, err := p.read(0, 8)
	if err != nil {
		return header{}, err
	}
	if string(id) != identifier {
		return header{}, p.corrupt(0, "it does not begin with %q", identifier)
	}
	var found []header
	var raw [][]byte
	for _, at := range []int64{headerOff0, headerOff1} {
		b, err := p.read(at, sectorLog)
		if err != nil {
			return header{}, err
		}
		if h, ok := decodeHeader(b, at); ok {
			found, raw = append(found, h), append(raw, b)
		}
	}
	switch {
	case len(found) == 0:
		return header{}, p.corrupt(headerOff0, "neither header has a good checksum")
	case len(found) == 2 && found[0].sequence == found[1].sequence && string(raw[0]) != string(raw[1]):
		return header{}, p.corrupt(headerOff0, "two different headers of the same sequence number %d", found[0].sequence)
	case len(found) == 2 && found[1].sequence > found[0].sequence:
		return p.checkHeader(found[1])
	}
	return p.checkHeader(found[0])
}

func (p *parser) checkHeader(h header) (header, error) {
	switch {
	case h.version != 1:
		return h, &UnsupportedError{p.path, fmt.Sprintf("VHDX version %d", h.version)}
	case h.log != GUID{} && h.logVersion != 0:
		return h, &UnsupportedError{p.path, fmt.Sprintf("log version %d", h.logVersion)}
	case h.logLen%mib != 0 || h.logOff%mib != 0 || h.logOff < mib && h.logLen > 0:
		return h, p.corrupt(h.at+68, "a log of %d bytes at %d", h.logLen, h.logOff)
	case h.log != GUID{} && h.logLen == 0:
		return h, p.corrupt(h.at+68, "a log that is in use has no length")
	}
	return h, nil
}

// regions finds the two regions that every file has.
func (p *parser) regions(h header) (bat, metadata region, err error) {
	var table []byte
	for _, at := range []int64{regionOff0, regionOff1} {
		b, err := p.read(at, tableLen)
		if err != nil {
			return bat, metadata, err
		}
		if sealed(b, "regi") {
			table = b
			break
		}
	}
	if table == nil {
		return bat, metadata, p.corrupt(regionOff0, "neither region table has a good checksum")
	}
	count := int(le.Uint32(table[8:]))
	if le.Uint32(table[8:]) > maxRegions {
		return bat, metadata, p.corrupt(regionOff0+8, "%d regions", le.Uint32(table[8:]))
	}
	all := []region{{0, mib}}
	if h.logLen > 0 {
		all = append(all, region{h.logOff, h.logLen})
	}
	for i := range count {
		e, at := table[16+32*i:], regionOff0+16+32*int64(i)
		r := region{int64(min(le.Uint64(e[16:]), 1<<62)), int64(le.Uint32(e[24:]))}
		if r.off%mib != 0 || r.len%mib != 0 || r.len == 0 || r.end() > p.file.Size() {
			return bat, metadata, p.corrupt(at, "a region of %d bytes at %d, in a file of %d", r.len, r.off, p.file.Size())
		}
		if i < 64 { // whoever has more has unknown ones, and those are checked against the known below
			for _, o := range all {
				if r.overlaps(o) {
					return bat, metadata, p.corrupt(at, "the region at %d overlaps the one at %d", r.off, o.off)
				}
			}
			all = append(all, r)
		}
		switch id := GUID(e[:16]); {
		case id == regionBAT && bat.len == 0:
			bat = r
		case id == regionMetadata && metadata.len == 0:
			metadata = r
		case id == regionBAT || id == regionMetadata:
			return bat, metadata, p.corrupt(at, "a second region %v", id)
		case le.Uint32(e[28:])&1 != 0:
			return bat, metadata, &UnsupportedError{p.path, fmt.Sprintf("the required region %v", id)}
		}
	}
	if bat.len == 0 || metadata.len == 0 || bat.overlaps(metadata) {
		return bat, metadata, p.corrupt(regionOff0, "no table of blocks or no metadata, or both in one place")
	}
	return bat, metadata, nil
}

// metadata reads the items that are known. A required one that is not known ends it.
func (p *parser) metadata(r region) (*meta, error) {
	table, err := p.read(r.off, tableLen)
	if err != nil {
		return nil, err
	}
	count := int(le.Uint16(table[10:]))
	if string(table[:8]) != "metadata" || count > maxRegions {
		return nil, p.corrupt(r.off, "no metadata table, or one of %d items", count)
	}
	items := map[GUID][]byte{}
	for i := range count {
		e, at := table[32+32*i:], r.off+32+32*int64(i)
		id, off, n := GUID(e[:16]), int64(le.Uint32(e[16:])), int64(le.Uint32(e[20:]))
		flags := le.Uint32(e[24:])
		switch id {
		case itemFile, itemSize, itemDiskID, itemLogical, itemPhysical, itemLocator:
		default:
			if flags&4 != 0 {
				return nil, &UnsupportedError{p.path, fmt.Sprintf("the required metadata %v", id)}
			}
			continue
		}
		if flags&1 != 0 {
			continue // a user's item of the same name is not the system's
		}
		if items[id] != nil || off < tableLen || n > mib || off+n > r.len {
			return nil, p.corrupt(at, "metadata item %v of %d bytes at %d, in a region of %d", id, n, off, r.len)
		}
		if items[id], err = p.read(r.off+off, n); err != nil {
			return nil, err
		}
	}
	return p.items(r.off, items)
}

func (p *parser) items(at int64, items map[GUID][]byte) (*meta, error) {
	for id, n := range map[GUID]int{itemFile: 8, itemSize: 8, itemDiskID: 16, itemLogical: 4, itemPhysical: 4} {
		if len(items[id]) < n {
			return nil, p.corrupt(at, "metadata item %v is missing or has %d bytes", id, len(items[id]))
		}
	}
	flags := le.Uint32(items[itemFile][4:])
	m := &meta{
		blockSize: int64(le.Uint32(items[itemFile])), keep: flags&1 != 0, hasParent: flags&2 != 0,
		size: int64(min(le.Uint64(items[itemSize]), 1<<62)), diskID: GUID(items[itemDiskID]),
		sector: int64(le.Uint32(items[itemLogical])), physical: int64(le.Uint32(items[itemPhysical])),
	}
	switch {
	case m.blockSize < minBlock || m.blockSize > maxBlock || bits.OnesCount64(uint64(m.blockSize)) != 1:
		return nil, p.corrupt(at, "a block size of %d", m.blockSize)
	case m.sector != 512 && m.sector != 4096:
		return nil, p.corrupt(at, "a logical sector of %d bytes", m.sector)
	case m.size <= 0 || m.size > maxDiskSize || m.size%m.sector != 0:
		return nil, p.corrupt(at, "a disk of %d bytes", m.size)
	case m.hasParent && items[itemLocator] == nil:
		return nil, p.corrupt(at, "a differencing disk that names no parent")
	}
	if m.hasParent {
		var err error
		if m.locator, err = p.locator(at, items[itemLocator]); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// chunkRatio is how many blocks one bitmap covers.
func (m *meta) chunkRatio() int64 { return (1 << 23) * m.sector / m.blockSize }

func (m *meta) blocks() int64 { return (m.size + m.blockSize - 1) / m.blockSize }

// entry is where in the table of blocks a block's entry is.
func (m *meta) entry(block int64) int64 { return block + block/m.chunkRatio() }

// bitmapEntry is where the entry of the bitmap is that covers a block.
func (m *meta) bitmapEntry(block int64) int64 {
	return (block/m.chunkRatio()+1)*(m.chunkRatio()+1) - 1
}

// entries is how many entries the table needs.
func (m *meta) entries() int64 {
	if m.hasParent {
		return m.bitmapEntry(m.blocks()-1) + 1
	}
	return m.entry(m.blocks()-1) + 1
}
