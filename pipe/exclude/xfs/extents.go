package xfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// mapping is one extent of a file, in blocks.
type mapping struct {
	file      uint64
	n         uint64
	ag, first uint32
	unwritten bool
}

func (m mapping) end() uint64 { return m.file + m.n }

// unpack takes an extent apart: 128 bits hold a flag, 54 bits of place in the file, 52 of place in the volume, 21 of length.
func (f *FS) unpack(in *inode, b []byte, after uint64) (m mapping, err error) {
	hi, lo := be.Uint64(b), be.Uint64(b[8:])
	m = mapping{file: hi >> 9 & (1<<54 - 1), n: lo & (1<<21 - 1), unwritten: hi>>63 != 0}
	block := hi&(1<<9-1)<<43 | lo>>21
	var ok bool
	if m.ag, m.first, ok = f.sb.split(block, m.n); !ok || m.file < after {
		return m, in.corrupt("an extent of %d blocks at %d from block %d, after %d", m.n, m.file, block, after)
	}
	return m, nil
}

// mappings calls fn for the extents of the data fork, in order, from the one that holds a block on.
func (f *FS) mappings(ctx context.Context, in *inode, from uint64, fn func(m mapping) error) error {
	after := uint64(0)
	rec := func(b []byte) error {
		m, err := f.unpack(in, b, after)
		if err != nil {
			return err
		}
		if after = m.end(); after <= from {
			return nil
		}
		return fn(m)
	}
	k := f.dataFork(in)
	switch k.format {
	case forkExtents:
		return in.eachExtent(k, rec)
	case forkTree:
		w, top, err := f.forkWalk(in, k, rec)
		if err != nil {
			return err
		}
		w.from, w.cached = from, true
		return w.runBelow(ctx, top)
	}
	return in.corrupt("%s in format %d", k.what, k.format)
}

// eachExtent goes through a list of extents that is in the inode. errStop ends it without an error.
func (in *inode) eachExtent(k fork, rec func(b []byte) error) error {
	if k.extents > uint64(len(k.b)/16) {
		return in.corrupt("%d extents in %d bytes", k.extents, len(k.b))
	}
	for i := range int(k.extents) {
		if err := rec(k.b[i*16 : i*16+16]); errors.Is(err, errStop) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}

// forkWalk prepares the walk of a tree whose top node is in the inode, for [walk.runBelow].
func (f *FS) forkWalk(in *inode, k fork, rec func(b []byte) error) (w *walk, top node, err error) {
	if len(k.b) < 4 {
		return nil, top, in.corrupt("a tree in %d bytes", len(k.b))
	}
	room := (len(k.b) - 4) / 16
	top = node{level: int(be.Uint16(k.b)), count: int(be.Uint16(k.b[2:]))}
	if top.count == 0 || top.count > room {
		return nil, top, in.corrupt("a tree's top with %d keys", top.count)
	}
	top.keys, top.ptrs = k.b[4:4+top.count*8], k.b[4+room*8:][:top.count*8]
	w = &walk{f: f, v: f.after, shape: extentTree, owner: in.no, rec: rec, at: func(ptr uint64) (int64, bool) {
		ag, first, ok := f.sb.split(ptr, 1)
		return f.sb.at(ag, first), ok
	}}
	if _, ok := f.adopted[in.no]; ok {
		w.owner = anyOwner
	}
	return w, top, nil
}

// regular reads the inode of a regular file.
func (f *FS) regular(ctx context.Context, n fsys.Node) (*inode, error) {
	in, err := f.node(ctx, n)
	if err != nil {
		return nil, err
	}
	if !fileMode(in.mode).IsRegular() {
		return nil, fmt.Errorf("inode %d is no regular file: %w", in.no, fs.ErrInvalid)
	}
	if _, ok := f.between[in.no]; ok {
		return nil, errBetween(in.no)
	}
	if in.flags&flagRealtime != 0 {
		return nil, in.corrupt("it lies in the realtime section")
	}
	return in, nil
}

// Runs is as [fsys.FileSystem] has it.
func (f *FS) Runs(ctx context.Context, n fsys.Node) iter.Seq2[fsys.Run, error] {
	return func(yield func(fsys.Run, error) bool) {
		in, err := f.regular(ctx, n)
		if err != nil {
			yield(fsys.Run{}, err)
			return
		}
		end := int64(0)
		err = f.mappings(ctx, in, 0, func(m mapping) error {
			if m.end() > 1<<62>>f.sb.blockLog {
				return in.corrupt("an extent at block %d of it", m.file)
			}
			at := int64(m.file) << f.sb.blockLog
			if at > end && !yield(fsys.Run{File: end, Len: at - end, Vol: -1, Kind: fsys.Hole}, nil) {
				return errYielded
			}
			end = int64(m.end()) << f.sb.blockLog
			return f.shared(ctx, in, m, func(r fsys.Run) error {
				if !yield(r, nil) {
					return errYielded
				}
				return nil
			})
		})
		whole := (uint64(in.size) + uint64(f.sb.blockSize) - 1) &^ uint64(f.sb.blockSize-1)
		switch {
		case errors.Is(err, errYielded):
		case err != nil:
			yield(fsys.Run{}, err)
		case whole > 1<<62:
			yield(fsys.Run{}, in.corrupt("%d bytes", in.size))
		case int64(whole) > end:
			yield(fsys.Run{File: end, Len: int64(whole) - end, Vol: -1, Kind: fsys.Hole}, nil)
		}
	}
}

// errYielded is that whoever ranges over the runs has had enough.
var errYielded = errors.New("enough")

// run is what a part of an extent is to others.
func (f *FS) run(m mapping, from, to uint32, kind fsys.RunKind) fsys.Run {
	return fsys.Run{File: int64(m.file+uint64(from-m.first)) << f.sb.blockLog, Len: int64(to-from) << f.sb.blockLog,
		Vol: f.sb.at(m.ag, from), Kind: kind}
}

// shared cuts an extent where the tree of reference counts says that other files use the same blocks.
func (f *FS) shared(ctx context.Context, in *inode, m mapping, fn func(r fsys.Run) error) error {
	at, end := m.first, m.first+uint32(m.n)
	if m.unwritten {
		return fn(f.run(m, at, end, fsys.Unwritten))
	}
	if !f.sb.reflink || in.flags2&flagReflink == 0 {
		return fn(f.run(m, at, end, fsys.Written))
	}
	g, err := f.refRoot(ctx, m.ag)
	if err != nil {
		return err
	}
	w := f.groupWalk(f.after, g, refTree, func(b []byte) error {
		first, n, refs := be.Uint32(b), be.Uint32(b[4:]), be.Uint32(b[8:])
		if first >= end {
			return errStop // extents that are staged have the highest addresses
		}
		to := uint32(min(uint64(first)+uint64(n), uint64(end)))
		if to <= at || refs < 2 {
			return nil
		}
		if first > at {
			if err := fn(f.run(m, at, first, fsys.Written)); err != nil {
				return err
			}
			at = first
		}
		err := fn(f.run(m, at, to, fsys.Shared))
		at = to
		return err
	})
	w.cached, w.from = true, uint64(m.first)
	if err := w.run(ctx, uint64(g.ref.block), g.ref.levels); err != nil {
		return err
	}
	if at < end {
		return fn(f.run(m, at, end, fsys.Written))
	}
	return nil
}

// refRoot reads the header that leads to a group's reference counts.
func (f *FS) refRoot(ctx context.Context, ag uint32) (*group, error) {
	g := &group{no: ag, len: f.sb.agLen(ag)}
	off := f.sb.at(ag, 0) + f.sb.sectorSize
	what := fmt.Sprintf("AGF of group %d", ag)
	b, err := f.cached(ctx, off, int(f.sb.sectorSize), func(b []byte, patched bool) error {
		if string(b[:4]) != "XAGF" || be.Uint32(b[8:]) != ag {
			return &fsys.CorruptError{What: what, Off: off, Why: "no XAGF of this group"}
		}
		return f.checkSeal(b, &agfSeal, what, off, anyOwner, patched)
	})
	if err != nil {
		return nil, err
	}
	g.ref = root{be.Uint32(b[88:]), be.Uint32(b[92:])}
	return g, nil
}

// ReadAt is as [fsys.FileSystem] has it.
func (f *FS) ReadAt(ctx context.Context, n fsys.Node, p []byte, off int64) (int, error) {
	in, err := f.regular(ctx, n)
	if err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, fmt.Errorf("inode %d: read at %d: %w", in.no, off, fs.ErrInvalid)
	}
	if off >= in.size {
		return 0, io.EOF
	}
	short := int64(len(p)) > in.size-off
	if short {
		p = p[:in.size-off]
	}
	done, err := f.readData(ctx, in, p, off)
	if err == nil && short {
		err = io.EOF
	}
	return done, err
}

// readData fills p from byte off of the data fork. Content is never in the log, so it is read as it lies on the disk.
func (f *FS) readData(ctx context.Context, in *inode, p []byte, off int64) (done int, err error) {
	end := off + int64(len(p))
	err = f.mappings(ctx, in, uint64(off)>>f.sb.blockLog, func(m mapping) error {
		if m.file >= uint64(end+f.sb.blockSize-1)>>f.sb.blockLog {
			return errStop
		}
		from := int64(m.file) << f.sb.blockLog
		at, to := off+int64(done), min(end, from+int64(m.n)<<f.sb.blockLog)
		if from > at {
			clear(p[done : done+int(from-at)])
			done += int(from - at)
			at = from
		}
		part := p[done : done+int(to-at)]
		if m.unwritten {
			clear(part)
		} else if _, err := (view{vol: f.after.vol}).read(ctx, part, f.sb.at(m.ag, m.first)+at-from); err != nil {
			return err
		}
		if done += len(part); done == len(p) {
			return errStop
		}
		return nil
	})
	if err != nil {
		return done, err
	}
	clear(p[done:])
	return len(p), nil
}
