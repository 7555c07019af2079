package xfs

import (
	"context"
	"fmt"
	"io/fs"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// maxSymlink is the longest target that XFS takes, in bytes.
const maxSymlink = 1024

// symlinkHead is what version 5 puts before each part of a target.
const symlinkHead = 56

// Readlink is as [fsys.FileSystem] has it.
func (f *FS) Readlink(ctx context.Context, n fsys.Node) (string, error) {
	in, err := f.node(ctx, n)
	if err != nil {
		return "", err
	}
	if fileMode(in.mode)&fs.ModeSymlink == 0 {
		return "", fmt.Errorf("inode %d is no symbolic link: %w", in.no, fs.ErrInvalid)
	}
	if in.size == 0 || in.size > maxSymlink {
		return "", in.corrupt("a target of %d bytes", in.size)
	}
	if in.format == forkLocal {
		b := f.forkOf(in.raw, false)
		if in.size > int64(len(b)) {
			return "", in.corrupt("a target of %d bytes in %d", in.size, len(b))
		}
		return string(b[:in.size]), nil
	}
	target := make([]byte, 0, in.size)
	err = f.mappings(ctx, in, 0, func(m mapping) error {
		part, err := f.symlinkPart(ctx, in, m, int64(len(target)))
		target = append(target, part...)
		return err
	})
	if err == nil && int64(len(target)) < in.size {
		err = in.corrupt("a target of %d bytes, of which there are %d", in.size, len(target))
	}
	return string(target[:min(in.size, int64(len(target)))]), err
}

// symlinkPart reads one extent of a target, of which have bytes were read.
func (f *FS) symlinkPart(ctx context.Context, in *inode, m mapping, have int64) ([]byte, error) {
	size := int64(m.n) << f.sb.blockLog
	if have >= in.size || m.unwritten || size > maxBuffer {
		return nil, in.corrupt("an extent of %d bytes for its target", size)
	}
	b, off := make([]byte, size), f.sb.at(m.ag, m.first)
	what := fmt.Sprintf("target of inode %d", in.no)
	if err := f.readSealed(ctx, f.after, b, &symlinkSeal, what, off, in.no); err != nil {
		return nil, err
	}
	if !f.sb.v5 {
		return b[:min(size, in.size-have)], nil
	}
	n := int64(be.Uint32(b[8:]))
	if string(b[:4]) != "XSLM" || int64(be.Uint32(b[4:])) != have || n > size-symlinkHead || n > in.size-have {
		return nil, &fsys.CorruptError{What: what, Off: off, Why: fmt.Sprintf("%d bytes at %d of it", n, be.Uint32(b[4:]))}
	}
	return b[symlinkHead : symlinkHead+n], nil
}
