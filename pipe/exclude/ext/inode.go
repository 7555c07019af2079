package ext

import (
	"context"
	"fmt"
	"io/fs"
	"time"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// Numbers of inodes that mean something.
const (
	inodeRoot    = 2
	inodeResize  = 7
	inodeJournal = 8
)

// inode is one inode.
type inode struct {
	n     uint32
	raw   []byte // as it is stored, and not to be changed
	mode  uint16
	flags uint32
	size  uint64
	links uint16
	seed  uint32 // of the checksums of its blocks
}

func (i *inode) encrypted() bool { return i.flags&flagEncrypted != 0 }
func (i *inode) inline() bool    { return i.flags&flagInline != 0 }

// blockArea is the root of the block map, or what is there in its place.
func (i *inode) blockArea() []byte { return i.raw[0x28:0x64] }

// extra is how far beyond the first 128 bytes the fields of later versions go.
func (i *inode) extra() int {
	if len(i.raw) <= 128 {
		return 0
	}
	return int(le.Uint16(i.raw[0x80:]))
}

func (i *inode) corrupt(format string, args ...any) error {
	return &fsys.CorruptError{What: fmt.Sprintf("inode %d", i.n), Off: -1, Why: fmt.Sprintf(format, args...)}
}

// inode reads an inode and checks it. One that is not in use is fs.ErrNotExist.
func (v *view) inode(ctx context.Context, node fsys.Node) (*inode, error) {
	if node == 0 || node > fsys.Node(v.s.inodes) {
		return nil, fmt.Errorf("inode %d of %d: %w", node, v.s.inodes, fs.ErrNotExist)
	}
	p, off, err := v.storedInode(ctx, uint32(node))
	if err != nil {
		return nil, err
	}
	if le.Uint16(p) == 0 || le.Uint16(p[0x1a:]) == 0 {
		return nil, fmt.Errorf("inode %d: %w", node, fs.ErrNotExist)
	}
	i := &inode{}
	if err := v.readInode(i, uint32(node), p, off); err != nil {
		return nil, err
	}
	return i, nil
}

// storedInode is an inode as it is stored, whether in use or not, and its byte of the volume. The number is that of an inode
// that there is; one that was never used is fs.ErrNotExist.
func (v *view) storedInode(ctx context.Context, n uint32) ([]byte, int64, error) {
	g, err := v.group(ctx, (n-1)/v.s.inodesPerGroup)
	if err != nil {
		return nil, 0, err
	}
	at := (n - 1) % v.s.inodesPerGroup
	if g.flags&groupInodesUninit != 0 || at >= v.s.inodesPerGroup-min(g.unused, v.s.inodesPerGroup) {
		return nil, 0, fmt.Errorf("inode %d was never used: %w", n, fs.ErrNotExist)
	}
	off := g.table<<v.s.blockBits + uint64(at)*uint64(v.s.inodeSize)
	block, err := v.d.block(ctx, off>>v.s.blockBits)
	if err != nil {
		return nil, 0, err
	}
	in := off & (1<<v.s.blockBits - 1)
	return block[in : in+uint64(v.s.inodeSize)], int64(off), nil
}

// readInode fills in and checks an inode that was read at a byte of the volume.
func (v *view) readInode(i *inode, n uint32, p []byte, off int64) error {
	*i = inode{n: n, raw: p, mode: le.Uint16(p), flags: le.Uint32(p[0x20:]), links: le.Uint16(p[0x1a:])}
	if i.extra()+128 > len(p) || i.extra()%4 != 0 {
		return wrongInode(n, off, "%d bytes of more fields", i.extra())
	}
	if v.s.metaSums() {
		i.seed = crc32cWord(crc32cWord(v.s.seed, n), le.Uint32(p[0x64:]))
		if stored, want := i.sum(); stored != want {
			return wrongInode(n, off, "checksum %#x, not %#x", stored, want)
		}
	}
	i.size = uint64(le.Uint32(p[0x4:]))
	if i.mode&modeType == modeRegular || i.mode&modeType == modeDir && v.s.incompat&incompatLargeDir != 0 {
		i.size |= uint64(le.Uint32(p[0x6c:])) << 32
	}
	if i.size > 1<<62 {
		return wrongInode(n, off, "%d bytes", i.size)
	}
	return nil
}

// sum is an inode's checksum, as stored and as computed over all of it but the checksum's own two halves.
func (i *inode) sum() (stored, want uint32) {
	p, none := i.raw, []byte{0, 0}
	stored = uint32(le.Uint16(p[0x7c:]))
	want = crc32c(crc32c(crc32c(i.seed, p[:0x7c]), none), p[0x7e:128])
	if len(p) == 128 {
		return stored, want & 0xffff
	}
	want = crc32c(want, p[128:0x82])
	if i.extra() < 4 {
		return stored, crc32c(want, p[0x82:]) & 0xffff
	}
	return stored | uint32(le.Uint16(p[0x82:]))<<16, crc32c(crc32c(want, none), p[0x84:])
}

// The types in a mode, and what they are for Go.
const (
	modeType    = 0xf000
	modeFIFO    = 0x1000
	modeChar    = 0x2000
	modeDir     = 0x4000
	modeBlock   = 0x6000
	modeRegular = 0x8000
	modeLink    = 0xa000
	modeSocket  = 0xc000
)

// fileMode translates a mode; a type that there is not is fs.ModeIrregular.
func fileMode(m uint16) fs.FileMode {
	mode := fs.FileMode(m & 0o777)
	for bit, flag := range map[uint16]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if m&bit != 0 {
			mode |= flag
		}
	}
	switch m & modeType {
	case modeFIFO:
		return mode | fs.ModeNamedPipe
	case modeChar:
		return mode | fs.ModeDevice | fs.ModeCharDevice
	case modeDir:
		return mode | fs.ModeDir
	case modeBlock:
		return mode | fs.ModeDevice
	case modeRegular:
		return mode
	case modeLink:
		return mode | fs.ModeSymlink
	case modeSocket:
		return mode | fs.ModeSocket
	}
	return mode | fs.ModeIrregular
}

// modified is the time of the last change: 32 bits of seconds, two more of later epochs, and nanoseconds.
func (i *inode) modified() time.Time {
	sec, nsec := int64(int32(le.Uint32(i.raw[0x10:]))), int64(0)
	if i.extra() >= 0x8c-128 {
		more := le.Uint32(i.raw[0x88:])
		sec, nsec = sec+int64(more&3)<<32, int64(more>>2)
	}
	return time.Unix(sec, nsec)
}

// attr is the inode for people outside.
func (v *view) attr(i *inode) fsys.Attr {
	return fsys.Attr{
		Node: fsys.Node(i.n), Mode: fileMode(i.mode), Size: int64(i.size), Links: uint32(i.links),
		UID: uint32(le.Uint16(i.raw[0x2:])) | uint32(le.Uint16(i.raw[0x78:]))<<16,
		GID: uint32(le.Uint16(i.raw[0x18:])) | uint32(le.Uint16(i.raw[0x7a:]))<<16,
		Mod: i.modified(), Kept: v.kept(i),
	}
}

// kept says why a file's blocks are the file system's own.
func (v *view) kept(i *inode) string {
	switch {
	case i.n == v.s.journal:
		return "it is the file system's log"
	case i.n == v.s.quotas[0] || i.n == v.s.quotas[1] || i.n == v.s.quotas[2]:
		return "it holds quotas"
	case v.s.orphans != 0 && i.n == v.s.orphans:
		return "it lists deleted files"
	case i.n != inodeRoot && i.n < v.s.firstInode:
		return "it is one of the file system's own files"
	case i.flags&flagEAInode != 0:
		return "it is an attribute of other files"
	}
	return ""
}
