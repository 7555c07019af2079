package vmdk

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/hikae/hikae/pipe"
)

// What hosted products and exports use: one header, also found again in the footer of a stream.
//
//	 0 "KDMV"   4 version u32    8 flags u32   12 capacity u64   20 grain u64   28 descriptor u64, its length u64
//	44 entries of a table u32   48 redundant directory u64       56 directory u64                64 overhead u64
//	72 unclean u8   73 "\n \r\n"   77 compression u16            all places and lengths in sectors, little-endian
const (
	hostedMagic = "KDMV"
	headerLen   = 512

	flagNewlines  = 1 << 0
	flagRedundant = 1 << 1
	flagZeroGrain = 1 << 2
	flagPacked    = 1 << 16
	flagMarkers   = 1 << 17
	knownFlags    = flagNewlines | flagRedundant | flagZeroGrain | flagPacked | flagMarkers

	atEnd = ^uint64(0) // in place of the directory: it is in the footer

	newlines = "\n \r\n" // broken by a transfer that took the file for text
)

// markers of a stream, beside those of grains
const (
	markEnd       = 0
	markTable     = 1
	markDirectory = 2
	markFooter    = 3
)

type hosted struct {
	version    uint32
	flags      uint32
	capacity   int64 // sectors
	grain      int64 // sectors
	descriptor int64 // sector; 0 for none
	descLen    int64 // sectors
	perTable   uint32
	spareDir   uint64 // sector
	dir        uint64 // sector, or atEnd
	overhead   int64  // sectors
}

// parseHosted takes a header at off of a file apart.
func parseHosted(path string, off int64, b []byte) (*hosted, error) {
	le := binary.LittleEndian
	fail := func(at int64, format string, args ...any) (*hosted, error) {
		return nil, &CorruptError{Path: path, Offset: off + at, Reason: fmt.Sprintf(format, args...)}
	}
	if len(b) < headerLen || string(b[:4]) != hostedMagic {
		return fail(0, "there is no header")
	}
	h := &hosted{
		version: le.Uint32(b[4:]), flags: le.Uint32(b[8:]), perTable: le.Uint32(b[44:]),
		spareDir: le.Uint64(b[48:]), dir: le.Uint64(b[56:]),
	}
	if h.version < 1 || h.version > 3 {
		return nil, &UnsupportedError{Path: path, Feature: fmt.Sprintf("version %d", h.version)}
	}
	if unknown := h.flags &^ knownFlags; unknown != 0 {
		return nil, &UnsupportedError{Path: path, Feature: fmt.Sprintf("flag %#x", unknown)}
	}
	if h.flags&flagNewlines != 0 && string(b[73:77]) != newlines {
		return fail(73, "its line breaks were changed, as by a transfer as text")
	}
	for _, f := range []struct {
		at int
		to *int64
	}{{12, &h.capacity}, {20, &h.grain}, {28, &h.descriptor}, {36, &h.descLen}, {64, &h.overhead}} {
		v := le.Uint64(b[f.at:])
		if v > maxSectors {
			return fail(int64(f.at), "%d sectors", v)
		}
		*f.to = int64(v)
	}
	for at, v := range map[int64]uint64{48: h.spareDir, 56: h.dir} {
		if v > maxSectors && (v != atEnd || h.flags&flagPacked == 0 && at == 56) {
			return fail(at, "a directory at sector %d", v)
		}
	}
	switch packing := le.Uint16(b[77:]); {
	case h.grain > maxSectors/sector:
		return fail(20, "grains of %d sectors", h.grain)
	case h.flags&flagPacked == 0:
	case packing != 1:
		return nil, &UnsupportedError{Path: path, Feature: fmt.Sprintf("compression %d", packing)}
	case h.flags&flagMarkers == 0:
		return nil, &UnsupportedError{Path: path, Feature: "compression without markers"}
	}
	return h, nil
}

// append is the header as bytes.
func (h *hosted) append(b []byte) []byte {
	le := binary.LittleEndian
	b = append(b, hostedMagic...)
	b = le.AppendUint32(b, h.version)
	b = le.AppendUint32(b, h.flags)
	for _, v := range []int64{h.capacity, h.grain, h.descriptor, h.descLen} {
		b = le.AppendUint64(b, uint64(v))
	}
	b = le.AppendUint32(b, h.perTable)
	b = le.AppendUint64(b, h.spareDir)
	b = le.AppendUint64(b, h.dir)
	b = le.AppendUint64(b, uint64(h.overhead))
	b = append(b, 0)
	b = append(b, newlines...)
	var packing uint16
	if h.flags&flagPacked != 0 {
		packing = 1
	}
	b = le.AppendUint16(b, packing)
	return append(b, make([]byte, headerLen-79)...)
}

// readHosted reads the header of a file; the one in its footer where that says more.
func readHosted(ctx context.Context, path string, file pipe.Image) (*hosted, error) {
	b := make([]byte, headerLen)
	if file.Size() < headerLen {
		return nil, &CorruptError{Path: path, Reason: "it ends within its header"}
	}
	if err := readFull(ctx, file, b, 0); err != nil {
		return nil, fmt.Errorf("%s: header: %w", path, err)
	}
	h, err := parseHosted(path, 0, b)
	if err != nil || h.dir != atEnd {
		return h, err
	}
	return readFooter(ctx, path, file, h)
}

// readFooter reads the last three sectors of a stream: the footer's marker, the footer, and the end.
func readFooter(ctx context.Context, path string, file pipe.Image, h *hosted) (*hosted, error) {
	at := file.Size() - 3*sector
	if at < headerLen || file.Size()%sector != 0 {
		return nil, &CorruptError{Path: path, Offset: file.Size(), Reason: "the stream ends before its footer"}
	}
	b := make([]byte, 3*sector)
	if err := readFull(ctx, file, b, at); err != nil {
		return nil, fmt.Errorf("%s: footer: %w", path, err)
	}
	if m := parseMarker(b); m.size != 0 || m.kind != markFooter || parseMarker(b[2*sector:]) != (marker{}) {
		return nil, &CorruptError{Path: path, Offset: at, Reason: "the stream ends without a footer"}
	}
	f, err := parseHosted(path, at+sector, b[sector:])
	if err != nil {
		return nil, err
	}
	if f.dir == atEnd || f.capacity != h.capacity || f.grain != h.grain || f.perTable != h.perTable || f.flags != h.flags {
		return nil, &CorruptError{Path: path, Offset: at + sector, Reason: "its footer is not that of its header"}
	}
	f.descriptor, f.descLen = h.descriptor, h.descLen
	return f, nil
}

// embedded reads the descriptor in the file, nil where there is none.
func (h *hosted) embedded(ctx context.Context, path string, file pipe.Image) (*Descriptor, error) {
	if h.descriptor == 0 || h.descLen == 0 {
		return nil, nil
	}
	at := h.descriptor * sector
	if at < sector || h.descLen > maxDescriptor/sector || at > file.Size()-h.descLen*sector {
		return nil, &CorruptError{Path: path, Offset: 28, Reason: "its descriptor leaves the file"}
	}
	text := make([]byte, h.descLen*sector)
	if err := readFull(ctx, file, text, at); err != nil {
		return nil, fmt.Errorf("%s: descriptor: %w", path, err)
	}
	return ParseDescriptor(path, text)
}

// grains is the extent that the header describes.
func (h *hosted) grains(path string, file pipe.Image, c *cache) (*grains, error) {
	g := &grains{
		path: path, file: file, cache: c, size: h.capacity * sector, grain: h.grain * sector, perTable: int64(h.perTable), entry: 4,
		dir: int64(h.dir) * sector, packed: h.flags&flagPacked != 0, coder: hostedCoder(h.flags),
	}
	if h.flags&flagRedundant != 0 && h.spareDir != atEnd {
		g.spareDir = int64(h.spareDir) * sector
	}
	return g, g.check()
}

// hostedCoder is the flags that say what an entry means.
type hostedCoder uint32

func (hostedCoder) table(entry uint64) (int64, bool, error) {
	return int64(entry) * sector, entry != 0, nil
}

func (c hostedCoder) grain(entry uint64) (what, int64, error) {
	switch {
	case entry == 0:
		return isAbsent, 0, nil
	case entry == 1 && c&flagZeroGrain != 0:
		return isZero, 0, nil
	}
	return isData, int64(entry) * sector, nil
}
