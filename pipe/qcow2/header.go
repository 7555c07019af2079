package qcow2

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/hikae/hikae/pipe"
)

const (
	magic = "QFI\xfb"

	minClusterBits = 9
	maxClusterBits = 21
	maxL1Bytes     = 32 << 20  // as QEMU bounds it
	maxNameLen     = 1023      // of a backing file
	maxHeaderArea  = 128 << 10 // header and extensions; those that exist take a few hundred bytes

	headerLenV2 = 72
	headerLenV3 = 104
	headerLen   = 112 // what we write: up to the compression type, padded

	offsetMask = 0x00fffffffffffe00 // of L1 and L2 entries
)

// Incompatible features: a reader that does not know one must not open the image.
const (
	featDirty       = 1 << 0
	featCorrupt     = 1 << 1
	featDataFile    = 1 << 2
	featCompression = 1 << 3
	featExtendedL2  = 1 << 4
	featKnown       = featDirty | featCorrupt | featDataFile | featCompression | featExtendedL2

	autoclearBitmaps     = 1 << 0
	autoclearDataFileRaw = 1 << 1
)

// Header extensions.
const (
	extEnd           = 0
	extBackingFormat = 0xe2792aca
	extFeatureNames  = 0x6803f857
	extBitmaps       = 0x23852875
	extDataFile      = 0x44415441
)

// header is what the first cluster of an image says.
type header struct {
	version       uint32
	clusterBits   uint32
	size          int64 // of the disk
	crypt         uint32
	l1Len         uint32 // entries
	l1Off         uint64
	snapshots     uint32
	snapshotsOff  uint64
	incompatible  uint64
	autoclear     uint64
	compression   Compression
	backing       string
	backingFormat string
	dataFile      string
	bitmaps       []byte           // the extension's content
	featureNames  map[uint8]string // of incompatible bits
}

func (h *header) clusterSize() int64 { return 1 << h.clusterBits }
func (h *header) extended() bool     { return h.incompatible&featExtendedL2 != 0 }

// entryBits is the binary logarithm of an L2 entry's length.
func (h *header) entryBits() uint32 {
	if h.extended() {
		return 4
	}
	return 3
}

// l2Bits is the binary logarithm of the number of entries in an L2 table.
func (h *header) l2Bits() uint32 { return h.clusterBits - h.entryBits() }

// readHeader reads and checks the header of an image.
func readHeader(ctx context.Context, path string, file pipe.Image) (*header, error) {
	d := &headerReader{path: path, fileSize: file.Size()}
	area := make([]byte, min(file.Size(), maxHeaderArea))
	if err := readFull(ctx, file, area, 0); err != nil {
		return nil, err
	}
	d.b = area
	h, err := d.fixed()
	if err != nil {
		return nil, err
	}
	d.b = area[:min(int64(len(area)), h.clusterSize())]
	if err := d.backingName(h); err != nil {
		return nil, err
	}
	if err := d.extensions(h); err != nil {
		return nil, err
	}
	return h, d.features(h)
}

// headerReader takes a header apart.
type headerReader struct {
	path      string
	fileSize  int64
	b         []byte
	headerLen int
}

func (d *headerReader) corrupt(off int64, format string, args ...any) error {
	return &CorruptError{Path: d.path, Offset: off, Reason: fmt.Sprintf(format, args...)}
}

func (d *headerReader) u32(off int) uint32 { return binary.BigEndian.Uint32(d.b[off:]) }
func (d *headerReader) u64(off int) uint64 { return binary.BigEndian.Uint64(d.b[off:]) }

// fixed reads the fields at fixed places.
func (d *headerReader) fixed() (*header, error) {
	if len(d.b) < headerLenV2 || string(d.b[:4]) != magic {
		return nil, d.corrupt(0, "it has no qcow2 header")
	}
	h := &header{
		version: d.u32(4), clusterBits: d.u32(20), crypt: d.u32(32), l1Len: d.u32(36), l1Off: d.u64(40),
		snapshots: d.u32(60), snapshotsOff: d.u64(64),
	}
	if h.version != 2 && h.version != 3 {
		return nil, &UnsupportedError{Path: d.path, Feature: fmt.Sprintf("qcow version %d", h.version)}
	}
	if h.clusterBits < minClusterBits || h.clusterBits > maxClusterBits {
		return nil, d.corrupt(20, "cluster size 2^%d is outside of 2^%d to 2^%d", h.clusterBits, minClusterBits, maxClusterBits)
	}
	size := d.u64(24)
	if size > math.MaxInt64 {
		return nil, d.corrupt(24, "disk size %d overflows", size)
	}
	h.size = int64(size)
	d.headerLen = headerLenV2
	if h.version == 2 {
		return h, nil
	}
	return h, d.fixedV3(h)
}

func (d *headerReader) fixedV3(h *header) error {
	if len(d.b) < headerLenV3 {
		return d.corrupt(int64(len(d.b)), "the header is cut off")
	}
	h.incompatible, h.autoclear = d.u64(72), d.u64(88)
	if order := d.u32(96); order > 6 {
		return d.corrupt(96, "reference count width 2^%d is above 2^6", order)
	}
	n := d.u32(100)
	if n < headerLenV3 || int64(n) > min(h.clusterSize(), int64(len(d.b))) {
		return d.corrupt(100, "header length %d is outside of %d to the first cluster's end", n, headerLenV3)
	}
	d.headerLen = int(n)
	if n > headerLenV3 {
		h.compression = Compression(d.b[headerLenV3])
	}
	return nil
}

// backingName reads the name of the backing file, which ends the area of extensions.
func (d *headerReader) backingName(h *header) error {
	off, n := d.u64(8), d.u32(16)
	if off == 0 || n == 0 {
		return nil
	}
	if n > maxNameLen || off < uint64(d.headerLen) || off > uint64(len(d.b)) || uint64(n) > uint64(len(d.b))-off {
		return d.corrupt(8, "the backing file's name, %d bytes at %d, leaves the header", n, off)
	}
	h.backing = string(d.b[off : off+uint64(n)])
	d.b = d.b[:off]
	return nil
}

// extensions reads the header extensions: type, length, content padded to 8 bytes.
func (d *headerReader) extensions(h *header) error {
	for at := d.headerLen; at+8 <= len(d.b); {
		kind, n := d.u32(at), int64(d.u32(at+4))
		if kind == extEnd {
			return nil
		}
		start := int64(at + 8)
		if n > int64(len(d.b))-start {
			return d.corrupt(int64(at), "header extension %#x of %d bytes leaves the header", kind, n)
		}
		h.extension(kind, d.b[start:start+n])
		at = int(start + (n+7)&^7)
	}
	return nil
}

func (h *header) extension(kind uint32, content []byte) {
	switch kind {
	case extBackingFormat:
		h.backingFormat = string(content)
	case extDataFile:
		h.dataFile = string(content)
	case extBitmaps:
		h.bitmaps = append([]byte(nil), content...)
	case extFeatureNames:
		h.featureNames = incompatibleNames(content)
	}
}

// incompatibleNames reads a table of 48-byte entries: kind of feature, bit, name padded with zeros.
func incompatibleNames(table []byte) map[uint8]string {
	names := make(map[uint8]string)
	for ; len(table) >= 48; table = table[48:] {
		if table[0] == 0 {
			names[table[1]] = strings.TrimRight(string(table[2:48]), "\x00")
		}
	}
	return names
}

// features refuses what is not known here.
func (d *headerReader) features(h *header) error {
	if unknown := h.incompatible &^ featKnown; unknown != 0 {
		return &UnsupportedError{Path: d.path, Feature: h.nameFeatures(unknown)}
	}
	switch h.crypt {
	case 0:
	case 1:
		return &UnsupportedError{Path: d.path, Feature: "encryption (AES)"}
	case 2:
		return &UnsupportedError{Path: d.path, Feature: "encryption (LUKS)"}
	default:
		return &UnsupportedError{Path: d.path, Feature: fmt.Sprintf("encryption method %d", h.crypt)}
	}
	if (h.incompatible&featCompression != 0) != (h.compression != Zlib) {
		return d.corrupt(104, "%v compression and the feature bit for it do not agree", h.compression)
	}
	if h.compression > Zstd {
		return &UnsupportedError{Path: d.path, Feature: fmt.Sprintf("compression type %d", h.compression)}
	}
	if h.extended() && h.clusterBits < 14 {
		return d.corrupt(20, "cluster size 2^%d is too small for subclusters", h.clusterBits)
	}
	return nil
}

// nameFeatures names feature bits with the image's own words where it has them.
func (h *header) nameFeatures(bits uint64) string {
	var names []string
	for b := uint8(0); b < 64; b++ {
		if bits&(1<<b) == 0 {
			continue
		}
		name := h.featureNames[b]
		if name == "" {
			name = fmt.Sprintf("bit %d", b)
		}
		names = append(names, fmt.Sprintf("%q", name))
	}
	return "incompatible feature " + strings.Join(names, ", ")
}

// readFull reads len(p) bytes; an end before that is io.ErrUnexpectedEOF.
func readFull(ctx context.Context, img pipe.Image, p []byte, off int64) error {
	n, err := img.ReadAt(ctx, p, off)
	switch {
	case n == len(p):
		return nil
	case err == io.EOF:
		return io.ErrUnexpectedEOF
	}
	return err
}
