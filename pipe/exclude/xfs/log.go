package xfs

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// The log is a ring of basic blocks of 512 bytes. A record is a header of one block or more and its data; every block of
// it begins with the number of the ring's cycle, and the words that stood there are kept in the header:
//
//	| header: magic, cycle, length, lsn, tail lsn, checksum, 64 words | more words, 64 in each block | data ... |
//
// A position in the log (lsn) is the cycle in the upper 32 bits and the block in the lower.
const (
	logBlock    = 512
	logMagic    = 0xfeedbabe
	maxRecord   = 256 << 10 // bytes of data in a record
	wordsInHead = 64        // blocks of data whose first words one header block keeps
	maxInFlight = 8         // records that may be on their way to the disk at once

	logFormatLittle = 1 // the byte order of the machine that wrote: the only one that is read here
)

// le is for what the guest's machine writes into the log in its own order.
var le = binary.LittleEndian

// ring is the log as it lies on the disk.
type ring struct {
	v      view
	at     int64 // byte of the volume
	blocks int64
	uuid   [16]byte
	sealed bool // every record has a checksum; those of mkfs and repair, which are never replayed, have none
}

// corruptLog is about a block of the log.
func (r *ring) corrupt(block int64, format string, args ...any) error {
	return &fsys.CorruptError{What: "log", Off: r.at + block*logBlock, Why: fmt.Sprintf(format, args...)}
}

// read fills p with blocks from block on, over the ring's end.
func (r *ring) read(ctx context.Context, p []byte, block int64) error {
	for len(p) > 0 {
		n := min(int64(len(p)), (r.blocks-block)*logBlock)
		if _, err := r.v.read(ctx, p[:n], r.at+block*logBlock); err != nil {
			return err
		}
		p, block = p[n:], 0
	}
	return nil
}

// cycleOf is the cycle in which a block was written.
func cycleOf(b []byte) uint32 {
	if be.Uint32(b) == logMagic {
		return be.Uint32(b[4:])
	}
	return be.Uint32(b)
}

func (r *ring) cycle(ctx context.Context, block int64) (uint32, error) {
	b := make([]byte, logBlock)
	if err := r.read(ctx, b, block); err != nil {
		return 0, err
	}
	return cycleOf(b), nil
}

func (r *ring) lsn(cycle uint32, block int64) uint64 { return uint64(cycle)<<32 | uint64(block) }

// distance is how far it is from one block to another along the ring.
func (r *ring) distance(from, to int64) int64 { return (to - from + r.blocks) % r.blocks }

// record is one record's header.
type record struct {
	block   int64 // where it begins
	head    int64 // blocks of the header
	length  int64 // bytes of data
	cycle   uint32
	lsn     uint64
	tail    uint64 // the oldest record that a replay needs, if this is the last one
	sum     uint32
	ops     uint32
	format  uint32
	uuid    [16]byte
	roundup int64 // blocks of data
}

// next is the block after the record.
func (r *record) next(l *ring) int64 { return (r.block + r.head + r.roundup) % l.blocks }

// parseHead reads the first block of a header.
func (r *ring) parseHead(b []byte, block int64) (*record, error) {
	h := &record{
		block: block, head: 1, cycle: be.Uint32(b[4:]), length: int64(be.Uint32(b[12:])), lsn: be.Uint64(b[16:]),
		tail: be.Uint64(b[24:]), sum: le.Uint32(b[32:]), ops: be.Uint32(b[40:]), format: be.Uint32(b[300:]),
	}
	copy(h.uuid[:], b[304:])
	h.roundup = (h.length + logBlock - 1) / logBlock
	version, size := be.Uint32(b[8:]), int64(be.Uint32(b[320:]))
	if be.Uint32(b) != logMagic {
		return nil, r.corrupt(block, "no record begins here")
	}
	if version == 2 && size > wordsInHead*logBlock {
		h.head = (size + wordsInHead*logBlock - 1) / (wordsInHead * logBlock)
	}
	switch {
	case version != 1 && version != 2:
		return nil, r.corrupt(block, "a record of version %d", version)
	case h.length == 0 || h.length > maxRecord || size > maxRecord || h.roundup > h.head*wordsInHead,
		h.head+h.roundup >= r.blocks:
		return nil, r.corrupt(block, "a record of %d bytes in buffers of %d", h.length, size)
	case h.lsn != r.lsn(h.cycle, block):
		return nil, r.corrupt(block, "a record that was written for %d:%d", h.lsn>>32, uint32(h.lsn))
	}
	return h, nil
}

// readHead reads the header at a block.
func (r *ring) readHead(ctx context.Context, block int64) (*record, error) {
	b := make([]byte, logBlock)
	if err := r.read(ctx, b, block); err != nil {
		return nil, err
	}
	return r.parseHead(b, block)
}

// load reads a record and its data into buf, verifies it, and puts the words back that the cycles stand in for. The data
// holds until the next call with the same buf.
func (r *ring) load(ctx context.Context, block int64, buf []byte) (*record, []byte, error) {
	h, err := r.readHead(ctx, block)
	if err != nil {
		return nil, nil, err
	}
	whole := buf[:(h.head+h.roundup)*logBlock]
	if err := r.read(ctx, whole, block); err != nil {
		return nil, nil, err
	}
	head, data := whole[:h.head*logBlock], whole[h.head*logBlock:]
	if err := r.verify(h, head, data); err != nil {
		return nil, nil, err
	}
	for i := range h.roundup {
		words := head[44+i*4:]
		if i >= wordsInHead {
			words = head[i/wordsInHead*logBlock+4+i%wordsInHead*4:]
		}
		copy(data[i*logBlock:i*logBlock+4], words[:4])
	}
	return h, data[:h.length], nil
}

// bufLen is what load needs of a buffer.
const bufLen = maxRecord + maxRecord/wordsInHead

// verify looks at a record as it lies in the log: all its blocks are of its cycle, and the checksum is right.
func (r *ring) verify(h *record, head, data []byte) error {
	for i := int64(0); i < h.head+h.roundup; i++ {
		b := head
		at := i
		if i >= h.head {
			b, at = data, i-h.head
		}
		want := h.cycle
		if h.block+i >= r.blocks {
			if want++; want == logMagic {
				want++
			}
		}
		if has := cycleOf(b[at*logBlock:]); has != want {
			return r.corrupt((h.block+i)%r.blocks, "cycle %d within a record of cycle %d: torn", has, want)
		}
	}
	if h.sum == 0 && !r.sealed || h.sum == h.checksum(head, data, 328) || h.sum == h.checksum(head, data, 324) {
		return nil
	}
	return r.corrupt(h.block, "wrong checksum of a record")
}

// checksum is over the first header's structure, which compilers give one of two lengths, that of the other header blocks
// that the data needs, and the data, all as they lie in the log.
func (h *record) checksum(head, data []byte, structLen int) uint32 {
	c := crc32.Update(0, castagnoli, head[:32])
	c = crc32.Update(c, castagnoli, make([]byte, 4))
	c = crc32.Update(c, castagnoli, head[36:structLen])
	for i := int64(1); i < (h.roundup+wordsInHead-1)/wordsInHead; i++ {
		c = crc32.Update(c, castagnoli, head[i*logBlock:][:4+wordsInHead*4])
	}
	return crc32.Update(c, castagnoli, data[:h.length])
}
