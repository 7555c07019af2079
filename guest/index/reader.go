package index

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"

	"github.com/klauspost/compress/zstd"

	"github.com/hikae/hikae/guest/index/list"
)

// Index is an index that is open. It is safe for concurrent use if what is below it is.
type Index struct {
	at  io.ReaderAt
	dir directory
}

// Summary is a volume and what is listed of it.
type Summary struct {
	Volume
	Entries int64
	Cut     string // why there are more than are listed; empty: there are not
}

// Open opens an index of so many bytes. It reads the directory, which is some 1 % of it, and nothing else. Errors are
// [*CorruptError], [ErrVersion], and those of reading.
func Open(ctx context.Context, at io.ReaderAt, size int64) (*Index, error) {
	x := &Index{at: at}
	head, err := x.read(ctx, 0, headBytes, size)
	if err != nil {
		return nil, err
	}
	if string(head[:4]) != magic {
		return nil, &CorruptError{"the head", 0, "this is no file index"}
	}
	if head[4] > version {
		return nil, fmt.Errorf("%w: %d", ErrVersion, head[4])
	}
	if !bytes.Equal(head[4:], []byte{version, 0, 0, 0}) {
		return nil, &CorruptError{"the head", 4, "a version that never was"}
	}
	tail, err := x.read(ctx, size-int64(tailBytes), tailBytes, size)
	if err != nil {
		return nil, err
	}
	off, packed, plain := binary.LittleEndian.Uint64(tail), binary.LittleEndian.Uint32(tail[8:]), binary.LittleEndian.Uint32(tail[12:])
	bad := func(why string) error { return &CorruptError{"the directory", int64(min(off, 1<<62)), why} }
	if string(tail[16+sha256.Size:]) != endMagic || off > uint64(size) || packed > maxDirectory ||
		off+uint64(packed)+uint64(tailBytes) != uint64(size) || plain > maxDirectory {
		return nil, &CorruptError{"the end", size - int64(tailBytes), "it is not that of a file index, which may be cut off"}
	}
	p, err := x.read(ctx, int64(off), int(packed), size)
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(p); !bytes.Equal(sum[:], tail[16:16+sha256.Size]) {
		return nil, bad("its hash is another")
	}
	if p, err = unpack(p, int(plain)); err != nil {
		return nil, bad(err.Error())
	}
	if !x.dir.decode(p, int64(off)) {
		return nil, bad("its content is wrong")
	}
	return x, nil
}

// Volumes are those that are listed, in their order.
func (x *Index) Volumes() []Summary {
	var out []Summary
	for _, v := range x.dir.volumes {
		out = append(out, Summary{v.Volume, v.entries, v.cut})
	}
	return out
}

// Stat is one entry of a volume, by its number. Errors wrap fs.ErrNotExist where there is none.
func (x *Index) Stat(ctx context.Context, volume int, path string) (Entry, error) {
	for e, err := range x.Walk(ctx, volume, path) {
		if err != nil || e.Path == path {
			return e, err
		}
		break
	}
	return Entry{}, &fs.PathError{Op: "stat", Path: path, Err: fs.ErrNotExist}
}

// Walk yields a folder of a volume and all that is below it; the folder "" is the whole volume. An error is the last.
func (x *Index) Walk(ctx context.Context, volume int, folder string) iter.Seq2[Entry, error] {
	return x.scan(ctx, volume, folder, nil)
}

// scan is Walk over blocks that a question does not rule out.
func (x *Index) scan(ctx context.Context, volume int, folder string, skip func(b *place) bool) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if volume < 0 || volume >= len(x.dir.volumes) {
			yield(Entry{}, fmt.Errorf("volume %d of %d: %w", volume, len(x.dir.volumes), fs.ErrNotExist))
			return
		}
		dec, err := newDecoder()
		if err != nil {
			yield(Entry{}, err)
			return
		}
		defer dec.Close()
		blocks := x.dir.volumes[volume].blocks
		for i := from(blocks, folder); i < len(blocks); i++ {
			b := &blocks[i]
			if list.Compare(b.first, folder) > 0 && !list.Within(b.first, folder) {
				return
			}
			if skip != nil && skip(b) {
				continue
			}
			after := ""
			if i+1 < len(blocks) {
				after = blocks[i+1].first
			}
			if on, err := x.each(ctx, dec, b, after, folder, yield); err != nil {
				yield(Entry{}, err)
				return
			} else if !on {
				return
			}
		}
	}
}

// from is the first block that may have a path.
func from(blocks []place, path string) int {
	i, found := slices.BinarySearchFunc(blocks, path, func(b place, p string) int { return list.Compare(b.first, p) })
	if found || i == 0 {
		return i
	}
	return i - 1
}

// each yields what of a block is within a folder; false: no more is wanted.
func (x *Index) each(ctx context.Context, dec *zstd.Decoder, b *place, after, folder string, yield func(Entry, error) bool) (bool, error) {
	p, err := x.block(ctx, dec, b)
	if err != nil {
		return false, err
	}
	bad := &CorruptError{fmt.Sprintf("the block of %.100q", b.first), b.off, "its content is wrong"}
	r := openRows(p)
	if r == nil || r.left != b.count {
		return false, bad
	}
	for i := range b.count {
		e, ok := r.next(i == 0)
		if !ok || i == 0 && e.Path != b.first || after != "" && list.Compare(e.Path, after) >= 0 {
			return false, bad
		}
		if list.Within(e.Path, folder) {
			if !yield(e, nil) {
				return false, nil
			}
		} else if list.Compare(e.Path, folder) > 0 {
			return false, nil
		}
	}
	if !r.end() {
		return false, bad
	}
	return true, nil
}

// block reads a block's plain bytes.
func (x *Index) block(ctx context.Context, dec *zstd.Decoder, b *place) ([]byte, error) {
	p, err := x.read(ctx, b.off, b.packed, b.off+int64(b.packed))
	if err != nil {
		return nil, err
	}
	what := fmt.Sprintf("the block of %.100q", b.first)
	if sum := sha256.Sum256(p); !bytes.Equal(sum[:hashBytes], b.hash[:]) {
		return nil, &CorruptError{what, b.off, "its hash is another"}
	}
	out, err := dec.DecodeAll(p, make([]byte, 0, b.plain))
	if err != nil || len(out) != b.plain {
		return nil, &CorruptError{what, b.off, "it cannot be decompressed"}
	}
	return out, nil
}

// newDecoder decodes one block at a time.
func newDecoder() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxBlock), zstd.WithDecoderLowmem(true))
}

// unpack decompresses the directory.
func unpack(p []byte, plain int) ([]byte, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxDirectory), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	out, err := dec.DecodeAll(p, make([]byte, 0, plain))
	if err != nil || len(out) != plain {
		return nil, errors.New("it cannot be decompressed")
	}
	return out, nil
}

// read reads a part of an index of so many bytes.
func (x *Index) read(ctx context.Context, off int64, n int, size int64) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if off < 0 || off+int64(n) > size {
		return nil, &CorruptError{"the index", max(off, 0), "it is cut off"}
	}
	p := make([]byte, n)
	if m, err := x.at.ReadAt(p, off); m < n {
		if cmp.Or(err, io.EOF) == io.EOF {
			return nil, &CorruptError{"the index", off + int64(m), "it is cut off"}
		}
		return nil, fmt.Errorf("read the file index at byte %d: %w", off, err)
	}
	return p, nil
}
