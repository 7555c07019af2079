package ntfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// indexName is $I30, the index over the file names of a directory.
const indexName = "$\x00I\x003\x000\x00"

// Flags of an index entry.
const (
	entryDown = 1 // it has an index block below it, whose number is its last 8 bytes
	entryLast = 2 // it ends its node and has no key
)

// ReadDir implements [fsys.FileSystem]: the entries of the root of the index, then those of its blocks in the order in
// which they lie. The tree that connects the blocks is for looking up; not to follow it means not to be led in circles.
func (v *volume) ReadDir(ctx context.Context, dir fsys.Node) iter.Seq2[fsys.Entry, error] {
	return func(yield func(fsys.Entry, error) bool) {
		err := v.now.walkDir(ctx, int64(dir), func(e indexEntry) (bool, error) {
			if e.hidden() {
				return true, nil
			}
			mode, err := v.now.entryType(ctx, e)
			if err != nil {
				return false, err
			}
			return yield(fsys.Entry{Name: e.key.name, Node: fsys.Node(e.file.number()), Type: mode}, nil), nil
		})
		if err != nil {
			yield(fsys.Entry{}, err)
		}
	}
}

// indexEntry is an entry with a key in a directory's index.
type indexEntry struct {
	file ref
	key  fileName
}

// hidden: names for DOS, the root's entry for itself, and the file system's own files, which no system shows.
func (e indexEntry) hidden() bool {
	return e.key.space == spaceDOS || e.file.number() < firstOrdinary
}

// walkDir visits the entries until visit says no.
func (w *view) walkDir(ctx context.Context, dir int64, visit func(indexEntry) (bool, error)) error {
	f, err := w.file(ctx, dir)
	if err != nil {
		return err
	}
	if f.head.flags()&recordDir == 0 {
		return fmt.Errorf("file record %d is no directory: %w", dir, fs.ErrInvalid)
	}
	root, err := w.small(ctx, f, typeIndexRoot, indexName, w.record)
	if err != nil {
		return err
	}
	if len(root) < 0x20 || le.Uint32(root) != typeName {
		return corrupt(fmt.Sprintf("index of %d", dir), w.where(dir), errors.New("its root is not one of names"))
	}
	more, err := walkNode(root[0x10:], visit)
	if err != nil {
		return wrapIndex(dir, w.where(dir), err)
	}
	if !more || len(f.parts(typeIndexAlloc, indexName)) == 0 {
		return nil
	}
	return w.walkBlocks(ctx, f, int64(le.Uint32(root[8:])), visit)
}

// wrapIndex adds the place to what is wrong with an index; other errors stay what they are.
func wrapIndex(dir, off int64, err error) error {
	var bad *nodeError
	if errors.As(err, &bad) {
		return corrupt(fmt.Sprintf("index of %d", dir), off, err)
	}
	return err
}

// walkBlocks visits the blocks of an index that are in use.
func (w *view) walkBlocks(ctx context.Context, f *file, size int64, visit func(indexEntry) (bool, error)) error {
	if !powerOfTwo(size, 512, maxRecord) {
		return corrupt(fmt.Sprintf("index of %d", f.number), w.where(f.number), fmt.Errorf("blocks of %d bytes", size))
	}
	blocks, err := w.solidStream(f, typeIndexAlloc, indexName)
	if err != nil {
		return err
	}
	used, err := w.solidStream(f, typeBitmap, indexName)
	if err != nil {
		return err
	}
	p := make([]byte, size)
	bitmap := bitReader{s: used}
	for k := int64(0); (k+1)*size <= blocks.size; k++ {
		if set, err := bitmap.bit(ctx, k); err != nil {
			return err
		} else if !set {
			continue
		}
		if _, err := blocks.readAt(ctx, p, k*size); err != nil {
			return err
		}
		more, err := walkBlock(p, k*size/w.indexUnit(size), visit)
		if err != nil {
			return wrapIndex(f.number, blocks.place(k*size/w.cluster), err)
		}
		if !more {
			return nil
		}
	}
	return nil
}

// indexUnit is what the blocks of an index are numbered in: clusters, or sectors where a cluster holds several blocks.
func (g geometry) indexUnit(block int64) int64 {
	if block >= g.cluster {
		return g.cluster
	}
	return stride
}

// nodeError is damage in an index.
type nodeError struct{ why string }

func (e *nodeError) Error() string { return e.why }

func nodeErrorf(format string, args ...any) error { return &nodeError{fmt.Sprintf(format, args...)} }

// walkBlock visits the entries of an index block.
func walkBlock(p []byte, vcn int64, visit func(indexEntry) (bool, error)) (bool, error) {
	if string(p[:4]) != "INDX" {
		return false, nodeErrorf("the signature of a block is %q", p[:4])
	}
	if err := unfix(p); err != nil {
		return false, nodeErrorf("%v", err)
	}
	if got := int64(le.Uint64(p[0x10:])); got != vcn {
		return false, nodeErrorf("block %d says that it is %d", vcn, got)
	}
	return walkNode(p[0x18:], visit)
}

// walkNode visits the entries behind an index header, where p begins.
func walkNode(p []byte, visit func(indexEntry) (bool, error)) (bool, error) {
	off, end := int64(le.Uint32(p)), int64(le.Uint32(p[4:]))
	if off < 0x10 || off > end || end > int64(len(p)) {
		return false, nodeErrorf("entries from %d to %d of %d", off, end, len(p))
	}
	for p = p[off:end]; ; {
		if len(p) < 0x10 {
			return false, nodeErrorf("the entries have no end")
		}
		n, key, flags := int(le.Uint16(p[8:])), int(le.Uint16(p[0x0A:])), le.Uint16(p[0x0C:])
		if flags&entryLast != 0 {
			return true, nil
		}
		if n < 0x10 || n > len(p) || 0x10+key > n {
			return false, nodeErrorf("an entry of %d bytes, its key %d, %d left", n, key, len(p))
		}
		name, err := parseName(p[0x10 : 0x10+key])
		if err != nil {
			return false, nodeErrorf("%v", err)
		}
		if more, err := visit(indexEntry{ref(le.Uint64(p)), name}); !more || err != nil {
			return false, err
		}
		p = p[n:]
	}
}

// entryType says what an entry is, as Stat will. A file that looks ordinary in the index needs no other look.
func (w *view) entryType(ctx context.Context, e indexEntry) (fs.FileMode, error) {
	switch {
	case e.key.flags&(flagReparse|flagSystem) != 0:
		c, err := w.content(ctx, e.file.number())
		if err != nil {
			return w.plainType(e, err)
		}
		return c.mode.Type(), nil
	case e.key.flags&flagDir != 0:
		return fs.ModeDir, nil
	}
	return 0, nil
}

// plainType is what the index says, for an entry whose record is damaged: that shows when somebody asks for it, and
// must not hide the rest of the directory.
func (w *view) plainType(e indexEntry, err error) (fs.FileMode, error) {
	var bad *fsys.CorruptError
	switch {
	case !errors.As(err, &bad) && !errors.Is(err, fs.ErrNotExist):
		return 0, err
	case e.key.flags&flagDir != 0:
		return fs.ModeDir, nil
	}
	return 0, nil
}
