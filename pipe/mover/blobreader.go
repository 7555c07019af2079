package mover

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// readBlob answers a part of a blob.
func (h *handler) readBlob(ctx context.Context, m *wire.ReadBlob) (wire.Message, error) {
	if m.Len > wire.MaxPart {
		return nil, fmt.Errorf("%d bytes of a blob at once: %w", m.Len, fs.ErrInvalid)
	}
	b, err := h.reading.take(ctx, h, m.Point, m.Name, m.Off)
	if err != nil {
		return nil, err
	}
	if m.Off > b.size {
		_ = b.Close()
		return nil, fmt.Errorf("blob %q has %d bytes, not %d: %w", m.Name, b.size, m.Off, fs.ErrInvalid)
	}
	data := make([]byte, min(int64(m.Len), b.size-m.Off))
	if err := b.read(data, m.Off); err != nil {
		_ = b.Close()
		return nil, fmt.Errorf("point %s: blob %q at byte %d: %w", m.Point, m.Name, m.Off, err)
	}
	h.reading.put(b)
	return &wire.BlobContent{Size: b.size, Data: data}, nil
}

// blobReader is a blob that is read from front to back, part by part.
type blobReader struct {
	io.ReadCloser
	point, name string
	off, size   int64
}

// read fills p from off, which is not before what was read last.
func (b *blobReader) read(p []byte, off int64) error {
	if _, err := io.CopyN(io.Discard, b, off-b.off); err != nil {
		return err
	}
	n, err := io.ReadFull(b, p)
	b.off = off + int64(n)
	return err
}

// blobReaders are those that wait for their next part.
type blobReaders struct {
	mu   sync.Mutex
	list []*blobReader
	shut bool
}

// take is a reader of a blob that stands at off or before it: one that waits, or a new one.
func (bs *blobReaders) take(ctx context.Context, h *handler, point, name string, off int64) (*blobReader, error) {
	bs.mu.Lock()
	for i, b := range bs.list {
		if b.point == point && b.name == name && b.off <= off {
			bs.list = slices.Delete(bs.list, i, i+1)
			bs.mu.Unlock()
			return b, nil
		}
	}
	bs.mu.Unlock()
	p, err := h.host.find(ctx, point)
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(p.Blobs, func(b pipe.BlobInfo) bool { return b.Name == name })
	if at < 0 {
		return nil, fmt.Errorf("point %s: blob %q: %w", point, name, fs.ErrNotExist)
	}
	r, err := h.host.backend.OpenBlob(h.ctx, point, name) // it outlives the call
	if err != nil {
		return nil, err
	}
	return &blobReader{ReadCloser: r, point: point, name: name, size: p.Blobs[at].Size}, nil
}

func (bs *blobReaders) put(b *blobReader) {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	if bs.shut || b.off == b.size {
		_ = b.Close()
		return
	}
	if len(bs.list) == maxStreams {
		_ = bs.list[0].Close()
		bs.list = slices.Delete(bs.list, 0, 1)
	}
	bs.list = append(bs.list, b)
}

func (bs *blobReaders) close() {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	bs.shut = true
	for _, b := range bs.list {
		_ = b.Close()
	}
	bs.list = nil
}
