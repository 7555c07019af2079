package mover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/zeebo/blake3"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// keyedID is a block's id under a key: BLAKE3, keyed, 256 bits.
func keyedID(key [32]byte, p []byte) (id pipe.ID) {
	h, err := blake3.NewKeyed(key[:])
	if err != nil {
		panic(err) // the key has 32 bytes
	}
	_, _ = h.Write(p)
	h.Sum(id[:0])
	return id
}

// query says which blocks need not be sent. A block is known only where this tenant has sent it once and the backend
// has it still: nobody learns what others have.
func (h *handler) query(ctx context.Context, m *wire.Query) (wire.Message, error) {
	d, ctx, done, err := h.enterDisk(ctx, m.Disk)
	if err != nil {
		return nil, err
	}
	defer done()
	if d.blocks == nil {
		return nil, d.noBlocks()
	}
	var at []int
	var ids []pipe.ID
	for i, id := range m.IDs {
		if backend, ok := h.tenant.known.lookup(id); ok {
			at, ids = append(at, i), append(ids, backend)
		}
	}
	bits := make([]byte, (len(m.IDs)+7)/8)
	known := 0
	if len(ids) > 0 {
		missing, err := d.blocks.Missing(ctx, ids)
		if err == nil && len(missing) != len(ids) {
			err = fmt.Errorf("%d answers to %d ids: %w", len(missing), len(ids), pipe.ErrBroken)
		}
		if err != nil {
			return nil, fmt.Errorf("disk %q: %w", d.key, d.w.because(err))
		}
		for i, is := range missing {
			if !is {
				bits[at[i]/8] |= 0x80 >> (at[i] % 8)
				known++
			}
		}
	}
	h.host.observer.Blocks(h.peer.Name, BlockCount{Known: int64(known), Missing: int64(len(m.IDs) - known)})
	return &wire.Known{Bits: bits}, nil
}

func (d *disk) noBlocks() error {
	return fmt.Errorf("disk %q takes no blocks: %w", d.key, errors.ErrUnsupported)
}

// put places a block.
func (h *handler) put(ctx context.Context, m *wire.Put) (wire.Message, error) {
	d, ctx, done, err := h.enterDisk(ctx, m.Disk)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := d.isBlock(m.Off, int64(m.Plain)); err != nil {
		return nil, d.wrong("put", m.Off, int64(m.Plain), err)
	}
	var res pipe.PutResult
	if m.Content {
		res, err = d.putContent(ctx, m)
	} else {
		res, err = d.putKnown(ctx, m)
	}
	if err != nil {
		return nil, d.wrong("put", m.Off, int64(m.Plain), err)
	}
	d.w.progress.bring(len(m.Data))
	h.host.observer.Blocks(h.peer.Name, BlockCount{PlainBytes: int64(m.Plain), WireBytes: int64(len(m.Data)), Stored: res.Stored})
	return d.w.placed(m, res), nil
}

// placed is what a peer is told of a Put. Whether somebody else had the block is not for an append peer to know: to it,
// what it brings is new, and stored as it came.
func (w *writer) placed(m *wire.Put, res pipe.PutResult) *wire.Placed {
	if w.h.who == byFull {
		return &wire.Placed{Deduplicated: max(0, res.Deduplicated), Stored: max(0, res.Stored)}
	}
	if !m.Content {
		return &wire.Placed{Deduplicated: int64(m.Plain)}
	}
	w.brought.Add(int64(len(m.Data)))
	return &wire.Placed{Stored: int64(len(m.Data))}
}

// isBlock refuses what is not exactly one block of the disk.
func (d *disk) isBlock(off, n int64) error {
	if d.blocks == nil {
		return d.noBlocks()
	}
	if size := d.target.Size(); off < 0 || off%d.grain != 0 || off >= size || n != min(d.grain, size-off) {
		return fmt.Errorf("no block of a disk of %d bytes in blocks of %d: %w", size, d.grain, fs.ErrInvalid)
	}
	return nil
}

// putKnown places a block that this tenant has sent before.
func (d *disk) putKnown(ctx context.Context, m *wire.Put) (pipe.PutResult, error) {
	id, ok := d.w.h.tenant.known.lookup(m.ID)
	if !ok {
		return pipe.PutResult{}, pipe.ErrNeedBlock
	}
	return d.blocks.PutBlock(ctx, m.Off, id, int(m.Plain), pipe.Plain, nil)
}

// putContent proves that the content is what the id names before anything is stored, and remembers the block only
// after the backend has taken it.
func (d *disk) putContent(ctx context.Context, m *wire.Put) (pipe.PutResult, error) {
	tenant := d.w.h.tenant
	b, err := d.prove(ctx, m)
	if err == nil && !b.placed {
		b.res, err = d.place(ctx, m, b)
	}
	if err != nil {
		return b.res, err
	}
	if err := tenant.known.add(m.ID, b.id); err != nil {
		d.w.h.log.Warn("a block could not be remembered", "err", err)
	}
	return b.res, nil
}

// proven is a block whose content is what its id on the wire names.
type proven struct {
	id     pipe.ID // in the backend
	there  bool    // the backend has it
	placed bool    // and it is placed already
	res    pipe.PutResult
}

// prove decodes a block, holds it against the id on the wire, and names it as the backend does. While the content is
// at hand the backend may place it from parts.
//
// The backend's id is computed first, and the wire's after it: should a bit of the content turn over between the two,
// the second finds it; should one turn over later, the backend does, which holds what it stores against the first.
func (d *disk) prove(ctx context.Context, m *wire.Put) (b proven, err error) {
	host := d.w.h.host
	if err := host.busy(ctx); err != nil {
		return b, err
	}
	defer host.idle()
	buf := plainBuffer(int(m.Plain))
	defer plainBuffers.Put(buf)
	plain, err := pipe.Decode(*buf, m.Data, m.Codec, int(m.Plain))
	if err != nil {
		return b, err
	}
	if allZero(plain) {
		return b, fmt.Errorf("a block of zeros is marked, not put: %w", fs.ErrInvalid)
	}
	b.id = d.blocks.Fingerprint(plain)
	if d.w.h.tenant.fingerprint(plain) != m.ID {
		return b, pipe.ErrBlockMismatch
	}
	missing, err := d.blocks.Missing(ctx, []pipe.ID{b.id})
	if err != nil {
		return b, err
	}
	if b.there = len(missing) == 1 && !missing[0]; b.there || d.parts == nil {
		return b, nil
	}
	b.res, b.placed, err = d.parts.Assemble(ctx, m.Off, b.id, plain)
	return b, err
}

// place puts a block by its name alone where the backend has it, whoever brought it, and else as the peer encoded it.
func (d *disk) place(ctx context.Context, m *wire.Put, b proven) (pipe.PutResult, error) {
	if b.there {
		res, err := d.blocks.PutBlock(ctx, m.Off, b.id, int(m.Plain), pipe.Plain, nil)
		if !errors.Is(err, pipe.ErrNeedBlock) {
			return res, err
		}
	}
	return d.blocks.PutBlock(ctx, m.Off, b.id, int(m.Plain), m.Codec, m.Data)
}

// allZero holds a block against itself, shifted by one.
func allZero(p []byte) bool {
	return len(p) == 0 || p[0] == 0 && bytes.Equal(p[:len(p)-1], p[1:])
}
