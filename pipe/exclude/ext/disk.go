package ext

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// disk reads blocks, as they are on the volume or as they are after the log's replay.
type disk struct {
	img    pipe.Image
	bits   uint   // a block is 1<<bits bytes
	blocks uint64 // the file system's
	log    *overlay
	cache  *pages
}

func newDisk(img pipe.Image, s *super, log *overlay) *disk {
	return &disk{img: img, bits: s.blockBits, blocks: s.blocks, log: log, cache: newPages(s.blockBits)}
}

func (d *disk) blockSize() int { return 1 << d.bits }

// holds reports whether n blocks from b on are within the file system.
func (d *disk) holds(b, n uint64) bool { return b < d.blocks && n <= d.blocks-b }

// raw fills p from a byte of the volume, without the log.
func (d *disk) raw(ctx context.Context, p []byte, off int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n, err := d.img.ReadAt(ctx, p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return fmt.Errorf("read at %d: %w", off+int64(n), io.ErrUnexpectedEOF)
	}
	return err
}

// bytes fills p from a byte on, with what the log holds of it.
func (d *disk) bytes(ctx context.Context, p []byte, off int64) error {
	if len(p) == 0 {
		return nil
	}
	if err := d.raw(ctx, p, off); err != nil {
		return err
	}
	return d.patch(ctx, p, off)
}

// patch puts over p, which was read at off, what the log holds of it.
func (d *disk) patch(ctx context.Context, p []byte, off int64) error {
	first, last := uint64(off)>>d.bits, uint64(off+int64(len(p))-1)>>d.bits
	for _, c := range d.log.between(first, last+1) {
		block, err := d.logged(ctx, c)
		if err != nil {
			return err
		}
		at := int64(c.block<<d.bits) - off
		if at < 0 {
			block, at = block[-at:], 0
		}
		copy(p[at:], block)
	}
	return nil
}

// logged reads a block's copy in the log. One that begins with the log's own magic number was written without it.
func (d *disk) logged(ctx context.Context, c logCopy) ([]byte, error) {
	block := make([]byte, d.blockSize())
	if err := d.raw(ctx, block, int64(c.at()<<d.bits)); err != nil {
		return nil, err
	}
	if c.escaped() {
		be.PutUint32(block, logMagic)
	}
	return block, nil
}

// block reads one block of metadata. The bytes are shared and not to be changed.
func (d *disk) block(ctx context.Context, b uint64) ([]byte, error) {
	if !d.holds(b, 1) {
		return nil, &fsys.CorruptError{What: fmt.Sprintf("block %d", b), Off: -1, Why: fmt.Sprintf("the file system has %d", d.blocks)}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	page, in := d.cache.of(b)
	p, ok := d.cache.get(page)
	if !ok {
		from := page << d.cache.bits
		p = make([]byte, min(uint64(1)<<d.cache.bits, d.blocks-from)<<d.bits)
		if err := d.bytes(ctx, p, int64(from<<d.bits)); err != nil {
			return nil, err
		}
		d.cache.put(page, p)
	}
	at := in << d.bits
	return p[at : at+1<<d.bits : at+1<<d.bits], nil
}
