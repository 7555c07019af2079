package qcow2

import (
	"context"
	"fmt"
	"io"
	"io/fs"

	"github.com/hikae/hikae/pipe"
)

// layer is one image of a chain. It is itself an image: what it does not hold comes from its backing.
type layer struct {
	path       string
	id         int // in the cache
	h          *header
	size       int64 // of the disk, or of the snapshot that is read
	ofSnapshot bool
	file       pipe.Image // the qcow2 file
	data       pipe.Image // where plain clusters are: file, or the external data file
	extern     bool
	backing    pipe.Image // nil: zeros
	l1         []byte     // as in the file, 8 bytes an entry
	l1Off      int64
	cache      *cache
}

func (l *layer) corrupt(off int64, format string, args ...any) error {
	return &CorruptError{Path: l.path, Offset: off, Reason: fmt.Sprintf(format, args...)}
}

func (l *layer) Size() int64 { return l.size }

// ReadAt implements [pipe.Image]. Clusters that are neighbours in the file are read at once.
func (l *layer) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("%s: read at %d: %w", l.path, off, fs.ErrInvalid)
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	end := off + min(int64(len(p)), max(l.size-off, 0))
	done := 0
	for at := off; at < end; {
		r, err := l.row(ctx, at, end)
		if err != nil {
			return done, err
		}
		if err := l.read(ctx, p[done:done+int(r.len)], r); err != nil {
			return done, err
		}
		done += int(r.len)
		at = r.end()
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// row is the run at off, continued over the borders of L2 tables, which matters for small clusters.
func (l *layer) row(ctx context.Context, off, end int64) (run, error) {
	r, err := l.next(ctx, off, end)
	for err == nil && r.what != isCompressed && r.end() < end {
		p, nextErr := l.next(ctx, r.end(), end)
		if nextErr != nil || !r.continues(p) {
			break
		}
		r.len += p.len
	}
	return r, err
}

// read fills p with the content of r, of which it has the length.
func (l *layer) read(ctx context.Context, p []byte, r run) error {
	switch r.what {
	case isZero:
		clear(p)
		return nil
	case isData:
		return readPadded(ctx, l.data, p, r.host)
	case isCompressed:
		return l.readCompressed(ctx, p, r)
	}
	if l.backing == nil {
		clear(p)
		return nil
	}
	return readPadded(ctx, l.backing, p, r.off)
}

// readPadded reads what an image has of a range, and zeros past its end.
func readPadded(ctx context.Context, img pipe.Image, p []byte, off int64) error {
	have := int(min(max(img.Size()-off, 0), int64(len(p))))
	clear(p[have:])
	if have == 0 {
		return nil
	}
	return readFull(ctx, img, p[:have], off)
}

// readCompressed fills p from a compressed cluster. A cluster that is wanted in part is kept, because the next read
// likely wants the rest.
func (l *layer) readCompressed(ctx context.Context, p []byte, r run) error {
	cs := l.h.clusterSize()
	if int64(len(p)) == cs {
		return l.decode(ctx, p, r)
	}
	key := cacheKey{layer: l.id, decoded: true, n: uint64(r.host)}
	plain, ok := l.cache.get(key)
	if !ok {
		plain = make([]byte, cs)
		if err := l.decode(ctx, plain, r); err != nil {
			return err
		}
		l.cache.put(key, plain)
	}
	copy(p, plain[r.off&(cs-1):])
	return nil
}

// descriptor takes the L2 entry of a compressed cluster apart: a byte offset in the low bits and, above, the number of
// sectors after the first that it touches. The length is up to the end of the last.
func descriptor(entry uint64, clusterBits uint32) (off, n int64) {
	offBits := 70 - clusterBits
	v := int64(entry &^ (entryCompressed | entryCopied))
	off = v & (1<<offBits - 1)
	return off, (v>>offBits+1)*512 - off&511
}

// decode reads a compressed cluster.
func (l *layer) decode(ctx context.Context, plain []byte, r run) error {
	off, n := descriptor(uint64(r.host), l.h.clusterBits)
	if off >= l.file.Size() || off < l.h.clusterSize() {
		return l.badEntry(r.off, fmt.Sprintf("compressed data at %d, outside of the file's data", off))
	}
	buf := make([]byte, min(n, l.file.Size()-off))
	if err := readFull(ctx, l.file, buf, off); err != nil {
		return fmt.Errorf("%s: compressed cluster at %d: %w", l.path, off, err)
	}
	if err := l.h.compression.decode(plain, buf); err != nil {
		return l.corrupt(off, "the compressed cluster for disk offset %d does not decode: %v", r.off, err)
	}
	return nil
}

// Close does nothing: the files belong to the Image.
func (l *layer) Close() error { return nil }
