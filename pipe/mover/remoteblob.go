package mover

import (
	"context"
	"fmt"
	"io"
	"io/fs"

	"github.com/hikae/hikae/pipe/mover/wire"
)

// OpenBlob is as pipe.Backend has it. ctx is also that of the reading.
func (c *Client) OpenBlob(ctx context.Context, point, name string) (io.ReadCloser, error) {
	if len(point) > wire.MaxName || len(name) > wire.MaxName {
		return nil, fmt.Errorf("blob %.40q of point %.40q: %w", name, point, fs.ErrNotExist)
	}
	b := &remoteBlob{ctx: ctx, c: c, point: point, name: name, size: -1}
	if err := b.fill(); err != nil {
		return nil, err
	}
	return b, nil
}

// remoteBlob reads a far blob part by part.
type remoteBlob struct {
	ctx         context.Context // io.Reader has no room for it
	c           *Client
	point, name string
	off, size   int64  // off: where the next part begins
	part        []byte // what of the last part was not read yet
	err         error
}

func (b *remoteBlob) fill() error {
	req := &wire.ReadBlob{Point: b.point, Name: b.name, Off: b.off, Len: wire.MaxPart}
	a, err := ask[*wire.BlobContent](b.ctx, b.c, req)
	if err != nil {
		return err
	}
	n := int64(len(a.Data))
	switch {
	case b.size >= 0 && a.Size != b.size:
		return malformed("blob %q had %d bytes and has %d", b.name, b.size, a.Size)
	case n > a.Size-b.off, n == 0 && b.off < a.Size:
		return malformed("blob %q of %d bytes: %d of them at %d", b.name, a.Size, n, b.off)
	}
	b.size, b.part, b.off = a.Size, a.Data, b.off+n
	return nil
}

func (b *remoteBlob) Read(p []byte) (int, error) {
	for b.err == nil && len(b.part) == 0 {
		if b.off == b.size {
			b.err = io.EOF
		} else {
			b.err = b.fill()
		}
	}
	if b.err != nil {
		return 0, b.err
	}
	n := copy(p, b.part)
	b.part = b.part[n:]
	return n, nil
}

func (b *remoteBlob) Close() error {
	b.part, b.err = nil, fmt.Errorf("blob %q: %w", b.name, fs.ErrClosed)
	return nil
}
