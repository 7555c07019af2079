package ext

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// errEncrypted: the bytes are there, the key is not.
var errEncrypted = fmt.Errorf("it is encrypted: %w", errors.ErrUnsupported)

// regular reads the inode of a regular file.
func (f *FS) regular(ctx context.Context, n fsys.Node) (*inode, error) {
	i, err := f.inode(ctx, n)
	if err == nil && i.mode&modeType != modeRegular {
		err = fmt.Errorf("inode %d is no regular file: %w", n, fs.ErrInvalid)
	}
	return i, err
}

// Runs implements [fsys.FileSystem].
func (f *FS) Runs(ctx context.Context, n fsys.Node) iter.Seq2[fsys.Run, error] {
	return func(yield func(fsys.Run, error) bool) {
		i, err := f.regular(ctx, n)
		if err != nil {
			yield(fsys.Run{}, f.noted(err))
			return
		}
		unit := f.s.blockSize() << f.s.clusterBits
		end := (int64(i.size) + unit - 1) / unit * unit
		if i.inline() {
			if end > 0 {
				yield(fsys.Run{Len: end, Vol: -1, Kind: fsys.Packed}, nil)
			}
			return
		}
		if err := f.yieldRuns(ctx, i, end, yield); err != nil {
			yield(fsys.Run{}, f.noted(err))
		}
	}
}

// yieldRuns yields what is mapped with the holes between, and a last one up to end.
func (f *FS) yieldRuns(ctx context.Context, i *inode, end int64, yield func(fsys.Run, error) bool) error {
	at, stopped := int64(0), false
	hole := func(to int64) bool {
		from := at
		at = max(at, to)
		return from >= to || yield(fsys.Run{File: from, Len: to - from, Vol: -1, Kind: fsys.Hole}, nil)
	}
	err := f.mapping(ctx, i, 0, math.MaxUint64, func(m mapped) bool {
		r := fsys.Run{File: int64(m.file << f.s.blockBits), Len: int64(m.n << f.s.blockBits), Vol: int64(m.vol << f.s.blockBits)}
		if m.unwritten {
			r.Kind = fsys.Unwritten
		}
		if stopped = !hole(r.File) || !yield(r, nil); stopped {
			return false
		}
		at = r.File + r.Len
		return true
	})
	if err == nil && !stopped {
		hole(end)
	}
	return err
}

// ReadAt implements [fsys.FileSystem]. What lies in one piece is read in one piece.
func (f *FS) ReadAt(ctx context.Context, n fsys.Node, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d: %w", off, fs.ErrInvalid)
	}
	i, err := f.regular(ctx, n)
	switch {
	case err != nil:
		return 0, f.noted(err)
	case i.encrypted():
		return 0, fmt.Errorf("inode %d: %w", n, errEncrypted)
	case off >= int64(i.size):
		return 0, atEnd(p)
	}
	want := p[:min(int64(len(p)), int64(i.size)-off)]
	if err := f.content(ctx, i, want, off); err != nil {
		return 0, f.noted(err)
	}
	if len(want) < len(p) {
		return len(want), io.EOF
	}
	return len(want), nil
}

func atEnd(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	return io.EOF
}

// content fills p, which lies within the file.
func (v *view) content(ctx context.Context, i *inode, p []byte, off int64) error {
	if i.inline() {
		data, err := v.inlineData(i)
		if err != nil {
			return err
		}
		n := 0
		if off < int64(len(data)) {
			n = copy(p, data[off:])
		}
		clear(p[n:])
		return nil
	}
	var failed error
	done := 0 // bytes of p
	end := off + int64(len(p))
	err := v.mapping(ctx, i, uint64(off)>>v.s.blockBits, uint64(end-1)>>v.s.blockBits+1, func(m mapped) bool {
		from, to := max(off, int64(m.file<<v.s.blockBits)), min(end, int64(m.end()<<v.s.blockBits))
		if m.unwritten || from >= to {
			return from < end
		}
		clear(p[done : from-off])
		done = int(to - off)
		in := from - int64(m.file<<v.s.blockBits)
		failed = v.d.bytes(ctx, p[from-off:to-off], int64(m.vol<<v.s.blockBits)+in)
		return failed == nil && to < end
	})
	if err = errors.Join(failed, err); err != nil {
		return err
	}
	clear(p[done:])
	return nil
}

// Readlink implements [fsys.FileSystem].
func (f *FS) Readlink(ctx context.Context, n fsys.Node) (string, error) {
	i, err := f.inode(ctx, n)
	switch {
	case err != nil:
		return "", f.noted(err)
	case i.mode&modeType != modeLink:
		return "", fmt.Errorf("inode %d is no symbolic link: %w", n, fs.ErrInvalid)
	case i.encrypted():
		return "", fmt.Errorf("inode %d: %w", n, errEncrypted)
	case i.size == 0 || i.size > min(fsys.MaxLink, uint64(f.s.blockSize())):
		return "", f.noted(i.corrupt("a link of %d bytes", i.size))
	case f.fastLink(i):
		return string(i.blockArea()[:i.size]), nil
	}
	target := make([]byte, i.size)
	if err := f.content(ctx, i, target, 0); err != nil {
		return "", f.noted(err)
	}
	return string(target), nil
}

// fastLink reports whether a link's target is where others have their block map. Nothing says so outright: it is where
// the inode has no blocks but that of its attributes, or, where attributes may have inodes of their own, by its length.
func (v *view) fastLink(i *inode) bool {
	if i.size >= 60 || i.inline() || i.flags&flagExtents != 0 {
		return false
	}
	if v.s.incompat&incompatEAInode != 0 {
		return true
	}
	own := uint32(0)
	if le.Uint32(i.raw[0x68:]) != 0 {
		own = uint32(v.s.blockSize() << v.s.clusterBits >> 9)
	}
	return le.Uint32(i.raw[0x1c:]) == own
}
