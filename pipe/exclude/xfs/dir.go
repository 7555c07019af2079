package xfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"strings"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// A small directory lies in its inode; others have data blocks below the 32nd GiB of their data fork, and above it what
// finds a name by its hash, which listing does not need.
const (
	dirLeafAt = 32 << 30

	dirBlock4, dirBlock5 = "XD2B", "XDB3" // the only block: the hashes are at its end
	dirData4, dirData5   = "XD2D", "XDD3"
)

// entryTypes are the types that a directory notes of its entries.
var entryTypes = []fs.FileMode{fs.ModeIrregular, 0, fs.ModeDir, fs.ModeDevice | fs.ModeCharDevice, fs.ModeDevice, fs.ModeNamedPipe,
	fs.ModeSocket, fs.ModeSymlink, fs.ModeDevice | fs.ModeCharDevice}

// ReadDir is as [fsys.FileSystem] has it. It holds one directory block.
func (f *FS) ReadDir(ctx context.Context, dir fsys.Node) iter.Seq2[fsys.Entry, error] {
	return func(yield func(fsys.Entry, error) bool) {
		err := f.readDir(ctx, dir, func(e fsys.Entry) error {
			if !yield(e, nil) {
				return errStop
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStop) {
			yield(fsys.Entry{}, err)
		}
	}
}

func (f *FS) readDir(ctx context.Context, dir fsys.Node, fn func(e fsys.Entry) error) error {
	in, err := f.node(ctx, dir)
	if err != nil {
		return err
	}
	if !fileMode(in.mode).IsDir() {
		return fmt.Errorf("inode %d is no directory: %w", in.no, fs.ErrInvalid)
	}
	if in.format == forkLocal {
		return f.shortDir(ctx, in, fn)
	}
	var d dirReader
	d.f, d.in, d.fn, d.buf = f, in, fn, make([]byte, f.sb.dirSize)
	err = f.mappings(ctx, in, 0, func(m mapping) error { return d.extent(ctx, m) })
	if err == nil && d.have > 0 {
		err = in.corrupt("a directory block is cut off")
	}
	return err
}

// shortDir reads a directory that lies in its inode.
func (f *FS) shortDir(ctx context.Context, in *inode, fn func(e fsys.Entry) error) error {
	b := f.forkOf(in.raw, false)
	if in.size > int64(len(b)) || in.size < 6 {
		return in.corrupt("a directory of %d bytes in %d", in.size, len(b))
	}
	b = b[:in.size]
	count, wide := int(b[0]), 4
	if b[1] > 0 {
		wide = 8
	}
	if len(b) < 2+wide {
		return in.corrupt("a directory of %d bytes", in.size)
	}
	b = b[2+wide:]
	for i := range count {
		if len(b) < 3 {
			return in.corrupt("entry %d of %d is cut off", i, count)
		}
		n, typed := int(b[0]), 0
		if f.sb.fileTypes {
			typed = 1
		}
		if len(b) < 3+n+typed+wide {
			return in.corrupt("entry %d of %d is cut off", i, count)
		}
		ino := b[3+n+typed:]
		no := uint64(be.Uint32(ino))
		if wide == 8 {
			no = be.Uint64(ino)
		}
		if err := f.entry(ctx, in, b[3:3+n], b[3+n], no, fn); err != nil {
			return err
		}
		b = ino[wide:]
	}
	return nil
}

// entry passes one name on.
func (f *FS) entry(ctx context.Context, in *inode, name []byte, kind byte, no uint64, fn func(e fsys.Entry) error) error {
	e := fsys.Entry{Name: string(name), Node: fsys.Node(no)}
	if e.Name == "." || e.Name == ".." {
		return nil
	}
	if e.Name == "" || strings.ContainsAny(e.Name, "/\x00") {
		return in.corrupt("the name %q", e.Name)
	}
	if f.sb.fileTypes && kind > 0 && int(kind) < len(entryTypes) {
		e.Type = entryTypes[kind]
		return fn(e)
	}
	of, err := f.node(ctx, e.Node)
	if err != nil {
		return fmt.Errorf("%q in inode %d: %w", e.Name, in.no, err)
	}
	e.Type = fileMode(of.mode).Type()
	return fn(e)
}

// dirReader puts directory blocks together from extents that may begin and end anywhere in them.
type dirReader struct {
	f    *FS
	in   *inode
	fn   func(e fsys.Entry) error
	buf  []byte
	have int64 // bytes of buf that are read
	next int64 // byte of the directory that must come next while have > 0
	at   int64 // where the block begins in the volume
	over bool  // some of it is from the overlay
}

func (d *dirReader) extent(ctx context.Context, m mapping) error {
	sb := d.f.sb
	if m.file >= dirLeafAt>>sb.blockLog {
		return errStop
	}
	if m.unwritten {
		return d.in.corrupt("a directory with an unwritten extent")
	}
	for i := range m.n {
		at := int64(m.file+i) << sb.blockLog
		if d.have == 0 && at%sb.dirSize != 0 || d.have > 0 && at != d.next {
			return d.in.corrupt("a directory block begins at byte %d of it", at)
		}
		off := sb.at(m.ag, m.first+uint32(i))
		if d.have == 0 {
			d.at, d.over = off, false
		}
		patched, err := d.f.after.read(ctx, d.buf[d.have:d.have+sb.blockSize], off)
		if err != nil {
			return err
		}
		d.have, d.next, d.over = d.have+sb.blockSize, at+sb.blockSize, d.over || patched
		if d.have == sb.dirSize {
			d.have = 0
			if err := d.block(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// block reads the entries of one directory block. Between the header and the hashes it is filled with entries and with
// stretches that are unused, each of which says how long it is.
func (d *dirReader) block(ctx context.Context) error {
	b, end, err := d.open()
	if err != nil {
		return err
	}
	typed := 0
	if d.f.sb.fileTypes {
		typed = 1
	}
	at := 16
	if d.f.sb.v5 {
		at = 64
	}
	for at < end {
		if end-at < 16 && be.Uint16(b[at:]) != 0xffff {
			return d.bad("%d bytes at its end", end-at)
		}
		if be.Uint16(b[at:]) == 0xffff {
			n := int(be.Uint16(b[at+2:]))
			if n < 8 || n%8 != 0 || n > end-at {
				return d.bad("%d unused bytes at %d", n, at)
			}
			at += n
			continue
		}
		n := int(b[at+8])
		size := (9 + n + typed + 2 + 7) &^ 7
		if size > end-at {
			return d.bad("an entry at %d goes over its end", at)
		}
		kind := byte(0)
		if typed == 1 {
			kind = b[at+9+n]
		}
		if err := d.f.entry(ctx, d.in, b[at+9:at+9+n], kind, be.Uint64(b[at:]), d.fn); err != nil {
			return err
		}
		at += size
	}
	return nil
}

// open verifies a directory block and says where its entries end.
func (d *dirReader) open() (b []byte, end int, err error) {
	b, end = d.buf, len(d.buf)
	magic := string(b[:4])
	if d.f.sb.v5 {
		if err := d.f.checkSeal(b, &dirSeal, fmt.Sprintf("directory %d", d.in.no), d.at, d.in.no, d.over); err != nil {
			return nil, 0, err
		}
	}
	switch {
	case magic == dirData5 && d.f.sb.v5 || magic == dirData4 && !d.f.sb.v5:
		return b, end, nil
	case magic == dirBlock5 && d.f.sb.v5 || magic == dirBlock4 && !d.f.sb.v5:
		hashes := int64(be.Uint32(b[end-8:]))
		if hashes > int64(end-8)/8 {
			return nil, 0, d.bad("%d hashes", hashes)
		}
		return b, end - 8 - int(hashes)*8, nil
	}
	return nil, 0, d.bad("no directory block")
}

func (d *dirReader) bad(format string, args ...any) error {
	return &fsys.CorruptError{What: fmt.Sprintf("directory %d", d.in.no), Off: d.at, Why: fmt.Sprintf(format, args...)}
}
