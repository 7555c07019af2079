package xfs

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// Where an inode's fields lie.
const (
	inodeMagic        = "IN"
	inodeNextUnlinked = 96
	inodeSum          = 100
	inodeLSN          = 112
	inodeNumber       = 152
	inodeUUID         = 160
	inodeCore4        = 100 // bytes before the forks
	inodeCore5        = 176
)

// Flags of an inode.
const (
	flagRealtime    = 1 << 0
	flagReflink     = 1 << 1 // of the second word, as the rest
	flagBigtime     = 1 << 3
	flagLargeCounts = 1 << 4
	flagMetadata    = 1 << 5
)

// How a fork keeps its content.
const (
	forkDevice = iota
	forkLocal
	forkExtents
	forkTree

	forkNone = 0xff // there is no such fork
)

// inode is a node in use.
type inode struct {
	no      uint64
	off     int64 // byte of the volume
	raw     []byte
	mode    uint16
	format  byte
	size    int64
	flags   uint16
	flags2  uint64
	extents uint64 // in the data fork
}

func (f *FS) coreLen() int {
	if f.sb.v5 {
		return inodeCore5
	}
	return inodeCore4
}

// forkOf is the part of an inode in which a fork lies.
func (f *FS) forkOf(b []byte, attr bool) []byte {
	area := b[f.coreLen():]
	at := int(b[82]) * 8
	switch {
	case attr && (at == 0 || at > len(area)):
		return nil
	case attr:
		return area[at:]
	case at == 0 || at > len(area):
		return area
	}
	return area[:at]
}

// fork is one of the two that an inode may have.
type fork struct {
	what    string
	b       []byte
	format  byte
	extents uint64
}

func (f *FS) dataFork(in *inode) fork {
	return fork{"content", f.forkOf(in.raw, false), in.format, in.extents}
}

// attrFork is that of the extended attributes. One that has no room in the inode and yet claims extents is returned as it
// stands, so that reading it fails.
func (f *FS) attrFork(in *inode) fork {
	b := in.raw
	k := fork{"attributes", f.forkOf(b, true), b[83], uint64(be.Uint16(b[80:]))}
	if in.flags2&flagLargeCounts != 0 {
		k.extents = uint64(be.Uint32(b[76:]))
	}
	if b[82] == 0 && k.extents == 0 && k.format != forkTree {
		k.format = forkNone
	}
	return k
}

// node reads an inode that is in use.
func (f *FS) node(ctx context.Context, n fsys.Node) (*inode, error) {
	no := uint64(n)
	used, err := f.inUse(ctx, no)
	if err != nil {
		return nil, err
	}
	off, _ := f.sb.inodeAt(no)
	if !used {
		return nil, fmt.Errorf("inode %d: %w", no, fs.ErrNotExist)
	}
	block := off &^ (f.sb.blockSize - 1)
	b, err := f.cached(ctx, block, int(f.sb.blockSize), func([]byte, bool) error { return nil })
	if err != nil {
		return nil, err
	}
	in := &inode{no: no, off: off, raw: b[off-block : off-block+f.sb.inodeSize]}
	return in, f.parseInode(in)
}

// inUse asks the tree of inodes.
func (f *FS) inUse(ctx context.Context, no uint64) (used bool, err error) {
	ag, _, ok := f.sb.split(no>>f.sb.inodesLog, 1)
	if !ok {
		return false, nil
	}
	g, err := f.inodeRoot(ctx, ag)
	if err != nil {
		return false, err
	}
	in := uint32(no & (1<<(f.sb.agBlockLog+f.sb.inodesLog) - 1))
	w := f.groupWalk(f.after, g, inodeTree, func(b []byte) error {
		r := f.parseChunk(b)
		if r.first > in || r.inUse(in) {
			used = r.inUse(in)
			return errStop
		}
		return nil
	})
	w.cached, w.from = true, uint64(in)
	return used, w.run(ctx, uint64(g.inodes.block), g.inodes.levels)
}

// inodeRoot reads the header that leads to a group's inodes.
func (f *FS) inodeRoot(ctx context.Context, ag uint32) (*group, error) {
	g := &group{no: ag, len: f.sb.agLen(ag)}
	off := f.sb.at(ag, 0) + 2*f.sb.sectorSize
	what := fmt.Sprintf("AGI of group %d", ag)
	b, err := f.cached(ctx, off, int(f.sb.sectorSize), func(b []byte, patched bool) error {
		if string(b[:4]) != "XAGI" || be.Uint32(b[8:]) != ag {
			return &fsys.CorruptError{What: what, Off: off, Why: "no XAGI of this group"}
		}
		if !f.sb.v5 {
			return nil
		}
		return f.checkSeal(b, &agiSeal, what, off, anyOwner, patched)
	})
	if err != nil {
		return nil, err
	}
	g.inodes = root{be.Uint32(b[20:]), be.Uint32(b[24:])}
	return g, nil
}

func (in *inode) corrupt(format string, args ...any) error {
	return &fsys.CorruptError{What: fmt.Sprintf("inode %d", in.no), Off: in.off, Why: fmt.Sprintf(format, args...)}
}

// parseInode takes in.raw apart.
func (f *FS) parseInode(in *inode) error {
	b := in.raw
	if string(b[:2]) != inodeMagic {
		return in.corrupt("no %s", inodeMagic)
	}
	version := b[4]
	if f.sb.v5 != (version == 3) || version == 0 || version > 3 {
		return in.corrupt("version %d", version)
	}
	in.mode, in.format, in.flags = be.Uint16(b[2:]), b[5], be.Uint16(b[90:])
	in.size, in.extents = int64(be.Uint64(b[56:])), uint64(be.Uint32(b[76:]))
	if f.sb.v5 {
		if !sumOK(b, inodeSum) {
			return in.corrupt("wrong checksum")
		}
		if be.Uint64(b[inodeNumber:]) != in.no || [16]byte(b[inodeUUID:]) != f.sb.metaUUID {
			return in.corrupt("it is inode %d of %x", be.Uint64(b[inodeNumber:]), b[inodeUUID:inodeUUID+16])
		}
		in.flags2 = be.Uint64(b[120:])
	}
	if in.flags2&flagLargeCounts != 0 {
		in.extents = be.Uint64(b[24:])
	}
	if int(b[82])*8 > len(b)-f.coreLen() || in.size < 0 {
		return in.corrupt("a fork at %d, %d bytes", int(b[82])*8, in.size)
	}
	if in.mode == 0 {
		return in.corrupt("the tree of inodes says it is in use, and it is not")
	}
	return nil
}

// Stat is as [fsys.FileSystem] has it.
func (f *FS) Stat(ctx context.Context, n fsys.Node) (fsys.Attr, error) {
	in, err := f.node(ctx, n)
	if err != nil {
		return fsys.Attr{}, err
	}
	b := in.raw
	a := fsys.Attr{
		Node: n, Mode: fileMode(in.mode), Size: in.size, Links: be.Uint32(b[16:]), UID: be.Uint32(b[8:]), GID: be.Uint32(b[12:]),
		Mod: in.time(40), Kept: f.kept(in),
	}
	if b[4] == 1 {
		a.Links = uint32(be.Uint16(b[6:]))
	}
	return a, nil
}

// kept is why a file's blocks must never be left out.
func (f *FS) kept(in *inode) string {
	_, between := f.between[in.no]
	switch {
	case slices.Contains(f.sb.special, in.no) || in.flags2&flagMetadata != 0:
		return "metadata of the file system"
	case in.flags&flagRealtime != 0:
		return "it lies in the realtime section"
	case between:
		return "a change of where it lies is not finished"
	case f.sharing && in.flags2&flagReflink != 0:
		return "a clone is not finished, and may be of it"
	}
	return ""
}

// bigtimeEpoch is where counting nanoseconds begins: as far back as 32 bits of seconds reach.
const bigtimeEpoch = -1 << 31

func (in *inode) time(at int) time.Time {
	b := in.raw[at:]
	if in.flags2&flagBigtime != 0 {
		ns := be.Uint64(b)
		return time.Unix(int64(ns/1e9)+bigtimeEpoch, int64(ns%1e9)).UTC()
	}
	return time.Unix(int64(int32(be.Uint32(b))), int64(be.Uint32(b[4:])%1e9)).UTC()
}

// fileMode turns what Unix calls a mode into Go's.
func fileMode(mode uint16) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	for _, bit := range []struct {
		unix uint16
		mode fs.FileMode
	}{{0o4000, fs.ModeSetuid}, {0o2000, fs.ModeSetgid}, {0o1000, fs.ModeSticky}} {
		if mode&bit.unix != 0 {
			m |= bit.mode
		}
	}
	switch mode >> 12 {
	case 1:
		m |= fs.ModeNamedPipe
	case 2:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case 4:
		m |= fs.ModeDir
	case 6:
		m |= fs.ModeDevice
	case 8:
	case 10:
		m |= fs.ModeSymlink
	case 12:
		m |= fs.ModeSocket
	default:
		m |= fs.ModeIrregular
	}
	return m
}
