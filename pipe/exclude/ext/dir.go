package ext

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io/fs"
	"iter"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// fileTypes are the types that a directory's entries name; 0 is unknown.
var fileTypes = [...]fs.FileMode{
	1: 0, 2: fs.ModeDir, 3: fs.ModeDevice | fs.ModeCharDevice, 4: fs.ModeDevice, 5: fs.ModeNamedPipe, 6: fs.ModeSocket,
	7: fs.ModeSymlink,
}

// ReadDir implements [fsys.FileSystem]. Names in an encrypted directory are base64, in the alphabet for URLs and without
// padding, of the bytes that are stored. Where the file system keeps no types in its directories (the first revision of
// ext2) each costs a look at the inode.
func (f *FS) ReadDir(ctx context.Context, dir fsys.Node) iter.Seq2[fsys.Entry, error] {
	return func(yield func(fsys.Entry, error) bool) {
		i, err := f.inode(ctx, dir)
		if err == nil && i.mode&modeType != modeDir {
			err = fmt.Errorf("inode %d is no directory: %w", dir, fs.ErrInvalid)
		}
		if err == nil {
			r := &dirReader{f: f, i: i, yield: yield}
			err = r.read(ctx)
		}
		if err != nil {
			yield(fsys.Entry{}, f.noted(err))
		}
	}
}

// dirReader reads one directory.
type dirReader struct {
	f     *FS
	i     *inode
	yield func(fsys.Entry, error) bool
}

func (r *dirReader) read(ctx context.Context) error {
	if r.i.inline() {
		return r.inline(ctx)
	}
	var failed error
	blocks := (r.i.size + uint64(r.f.s.blockSize()) - 1) >> r.f.s.blockBits
	err := r.f.mapping(ctx, r.i, 0, blocks, func(m mapped) bool {
		for k := uint64(0); k < m.n && m.file+k < blocks && !m.unwritten; k++ {
			var more bool
			if more, failed = r.block(ctx, m.file+k, m.vol+k); failed != nil || !more {
				return false
			}
		}
		return m.end() < blocks
	})
	if failed != nil {
		return failed
	}
	return err
}

// inline reads a directory without blocks. Its first four bytes are its parent's number; the rest, and what is in the
// attribute, are lists of entries of their own.
func (r *dirReader) inline(ctx context.Context) error {
	data, err := r.f.inlineData(r.i)
	if err != nil {
		return err
	}
	data = data[:min(uint64(len(data)), r.i.size)]
	head := min(60, len(data))
	if head < 4 {
		return r.i.corrupt("a directory of %d bytes", len(data))
	}
	for _, part := range [2][]byte{data[4:head], data[head:]} {
		if more, err := r.entries(ctx, part, -1); err != nil || !more {
			return err
		}
	}
	return nil
}

// block reads one block of the directory: the nth, at b of the volume.
func (r *dirReader) block(ctx context.Context, n, b uint64) (bool, error) {
	p, err := r.f.d.block(ctx, b)
	if err != nil {
		return false, err
	}
	off := int64(b << r.f.s.blockBits)
	if r.f.s.metaSums() {
		if why := r.checkSum(p, n); why != "" {
			return false, r.corrupt(off, why)
		}
	}
	return r.entries(ctx, p, off)
}

func (r *dirReader) corrupt(off int64, why string) error {
	return &fsys.CorruptError{What: fmt.Sprintf("directory %d", r.i.n), Off: off, Why: why}
}

// checkSum checks a block's checksum. It stands in a false entry at the end, or, in a block of the index, behind the room for
// the index's entries.
func (r *dirReader) checkSum(p []byte, n uint64) string {
	stored, want := uint32(0), uint32(0)
	tail := p[len(p)-12:]
	switch at := r.indexAt(p, n); {
	case at > 0:
		room, used := int(le.Uint16(p[at:])), int(le.Uint16(p[at+2:]))
		end := at + room*8
		if used > room || end+8 > len(p) {
			return fmt.Sprintf("an index of %d and %d entries", used, room)
		}
		stored = le.Uint32(p[end+4:])
		want = crc32c(crc32c(crc32c(r.i.seed, p[:at+used*8]), p[end:end+4]), []byte{0, 0, 0, 0})
	case le.Uint32(tail) == 0 && le.Uint16(tail[4:]) == 12 && le.Uint16(tail[6:]) == 0xde00:
		stored, want = le.Uint32(tail[8:]), crc32c(r.i.seed, p[:len(p)-12])
	default:
		return "it has no checksum"
	}
	if stored != want {
		return fmt.Sprintf("checksum %#x, not %#x", stored, want)
	}
	return ""
}

// indexAt is where in a block the index of a hashed directory begins, with room and number of its entries; 0 where it is not
// one of the index. The root has "." and ".." and eight bytes before it, others one empty entry.
func (r *dirReader) indexAt(p []byte, n uint64) int {
	if r.i.flags&flagIndexed == 0 {
		return 0
	}
	switch length := entryLen(p, len(p)); {
	case n == 0 && length == 12 && entryLen(p[12:], len(p)) == len(p)-12:
		return 32
	case n > 0 && length == len(p) && le.Uint32(p) == 0:
		return 8
	}
	return 0
}

// entryLen is an entry's length. In blocks of 64 KiB the lowest two bits, which are otherwise zero, are the highest.
func entryLen(p []byte, block int) int {
	n := int(le.Uint16(p[4:]))
	switch {
	case block < 1<<16:
		return n
	case n == 0xffff || n == 0:
		return block
	}
	return n&^3 | n&3<<16
}

// entries reads a list of entries that fills p:
//
//	inode (4) │ length of the entry (2) │ of the name (1) │ type (1) │ name …
//
// The first revision has no types: there the name's length has two bytes.
func (r *dirReader) entries(ctx context.Context, p []byte, off int64) (bool, error) {
	for at := 0; at < len(p); {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		if len(p)-at < 8 {
			return false, r.corrupt(off, fmt.Sprintf("%d bytes at its end", len(p)-at))
		}
		e := p[at:]
		length, name := entryLen(e, len(p)), int(e[6])
		if length < 8 || length%4 != 0 || length > len(e) || name+8 > length {
			return false, r.corrupt(off, fmt.Sprintf("the entry at %d has %d bytes and a name of %d", at, length, name))
		}
		at += length
		if le.Uint32(e) == 0 {
			continue
		}
		if more, err := r.entry(ctx, le.Uint32(e), e[8:8+name], e[7], off); err != nil || !more {
			return more, err
		}
	}
	return true, nil
}

func (r *dirReader) entry(ctx context.Context, n uint32, raw []byte, typ byte, off int64) (bool, error) {
	name := string(raw)
	switch {
	case name == "." || name == "..":
		return true, nil
	case n > r.f.s.inodes:
		return false, r.corrupt(off, fmt.Sprintf("an entry is of inode %d", n))
	case r.i.encrypted():
		name = base64.RawURLEncoding.EncodeToString(raw)
	case len(name) == 0 || bytes.ContainsAny(raw, "/\x00"):
		return false, r.corrupt(off, fmt.Sprintf("an entry is called %q", name))
	}
	e := fsys.Entry{Name: name, Node: fsys.Node(n)}
	if typ > 0 && int(typ) < len(fileTypes) && r.f.s.incompat&incompatFiletype != 0 {
		e.Type = fileTypes[typ]
		return r.yield(e, nil), nil
	}
	i, err := r.f.inode(ctx, e.Node)
	if err != nil {
		return false, fmt.Errorf("entry %q: %w", name, err)
	}
	e.Type = fileMode(i.mode).Type()
	return r.yield(e, nil), nil
}
