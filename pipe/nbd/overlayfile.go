package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
)

// A scratch file:
//
//	offset                length
//	0                     4096         header
//	4096                  mapBytes     map: 2 bits for each block, from the lowest bits of little-endian words of 32 bits up;
//	                                   0 base, 1 data, 2 zero; whole pages of 4096 bytes
//	4096 + mapBytes       size         blocks, each at its own place; sparse
//
// and its header, integers little-endian:
//
//	0     8    "HIKAEOVL"
//	8     4    version, 1
//	12    4    length of a block in bytes, a power of two
//	16    8    size of the disk in bytes
//	24    2    length of the identity, n
//	26    n    identity of the base
//	4092  4    CRC-32C of what stands before
const (
	overlayMagic   = "HIKAEOVL"
	overlayVersion = 1
	headerBytes    = 4096
	mapPage        = 4096
	maxIdentity    = 1024
	smallestBlock  = 64 << 10
	maxBlocks      = 1 << 28 // a map of 64 MiB; longer disks get longer blocks
)

// ErrOtherBase is wrapped where a scratch file was made over another disk.
var ErrOtherBase = errors.New("the scratch file belongs to another disk")

// ErrNotOverlay is wrapped where a file is no scratch file, or a damaged one.
var ErrNotOverlay = errors.New("not a scratch file of an overlay")

// layout says where things are in a scratch file.
type layout struct {
	size, block, mapBytes int64
	identity              string
}

func newLayout(size int64, identity string) (layout, error) {
	if len(identity) > maxIdentity {
		return layout{}, fmt.Errorf("an identity of %d bytes, at most %d: %w", len(identity), maxIdentity, fs.ErrInvalid)
	}
	l := layout{size: size, block: smallestBlock, identity: identity}
	for size/l.block >= maxBlocks {
		l.block *= 2
	}
	blocks := size/l.block + 1
	l.mapBytes = (blocks/4 + mapPage) / mapPage * mapPage
	return l, nil
}

// at is where a byte of the disk is in the file.
func (l layout) at(off int64) int64 { return headerBytes + l.mapBytes + off }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (l layout) header() []byte {
	b := append(make([]byte, 0, headerBytes), overlayMagic...)
	b = binary.LittleEndian.AppendUint32(b, overlayVersion)
	b = binary.LittleEndian.AppendUint32(b, uint32(l.block))
	b = binary.LittleEndian.AppendUint64(b, uint64(l.size))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(l.identity)))
	b = append(b, l.identity...)
	b = b[:headerBytes]
	binary.LittleEndian.PutUint32(b[headerBytes-4:], crc32.Checksum(b[:headerBytes-4], castagnoli))
	return b
}

// create makes an empty file a scratch file. The header comes last: a file that has one is complete.
func (l layout) create(f *os.File) error {
	if err := f.Truncate(l.at(l.size)); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if _, err := f.WriteAt(l.header(), 0); err != nil {
		return err
	}
	return f.Sync()
}

// match holds a file against what one for this base must be.
func (l layout) match(f *os.File, length int64) error {
	b := make([]byte, headerBytes)
	if _, err := f.ReadAt(b, 0); err != nil {
		return fmt.Errorf("%w: %w", ErrNotOverlay, noEOF(err))
	}
	n := int(binary.LittleEndian.Uint16(b[24:]))
	switch {
	case string(b[:8]) != overlayMagic:
		return fmt.Errorf("%w: it starts with %q", ErrNotOverlay, b[:8])
	case crc32.Checksum(b[:headerBytes-4], castagnoli) != binary.LittleEndian.Uint32(b[headerBytes-4:]) || n > maxIdentity:
		return fmt.Errorf("%w: its header is damaged", ErrNotOverlay)
	case binary.LittleEndian.Uint32(b[8:]) != overlayVersion:
		return fmt.Errorf("%w: version %d: %w", ErrNotOverlay, binary.LittleEndian.Uint32(b[8:]), errors.ErrUnsupported)
	}
	size, identity := int64(binary.LittleEndian.Uint64(b[16:])), string(b[26:26+n])
	if size != l.size || identity != l.identity {
		return fmt.Errorf("%w: one of %d bytes called %q, not one of %d bytes called %q", ErrOtherBase, size, identity, l.size, l.identity)
	}
	if int64(binary.LittleEndian.Uint32(b[12:])) != l.block || length != l.at(l.size) {
		return fmt.Errorf("%w: blocks of %d bytes in a file of %d", ErrNotOverlay, binary.LittleEndian.Uint32(b[12:]), length)
	}
	return nil
}

func (l layout) readMap(f *os.File, take func(i int, word uint32)) error {
	page := make([]byte, mapPage)
	for at := int64(0); at < l.mapBytes; at += mapPage {
		if _, err := f.ReadAt(page, headerBytes+at); err != nil {
			return fmt.Errorf("its map: %w", noEOF(err))
		}
		for i := 0; i < mapPage; i += 4 {
			take(int(at)/4+i/4, binary.LittleEndian.Uint32(page[i:]))
		}
	}
	return nil
}

// page is one page of the map as the file has it.
func (o *Overlay) page(i int) []byte {
	b := make([]byte, 0, mapPage)
	for w := i * mapPage / 4; w < (i+1)*mapPage/4; w++ {
		b = binary.LittleEndian.AppendUint32(b, o.words[w].Load())
	}
	return b
}
