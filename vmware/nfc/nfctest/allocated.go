package nfctest

import (
	"github.com/hikae/hikae/pipe"
)

// Bounds that VMware's programming guide gives for one question.
const (
	minChunk  = 64 << 10
	maxChunks = 512 << 10
)

// allocated answers which chunks of a range hold data: a bit each, the least first, padded to four bytes.
func (n *session) allocated(f *frame) error {
	file, ok := n.files[f.long(0)]
	chunk, start, count := f.long(16), f.long(24), f.long(32)
	if !ok || chunk < minChunk || chunk%sectorBytes != 0 || chunk > uint64(file.disk.Size()) ||
		count == 0 || count > maxChunks || start%chunk != 0 {
		return n.refuse(f.op, CodeParameter)
	}
	size := uint64(file.disk.Size())
	// The last chunk may reach past the end: it has to begin before it.
	if start >= size || count-1 > (size-1-start)/chunk {
		return n.refuse(f.op, CodeParameter)
	}
	n.reads.Wait()
	p := make([]byte, headBytes+f.size+int((count+31)/32*4))
	putHead(p, f.kind, f.size, f.op)
	copy(p[headBytes+8:], f.payload[8:f.size])
	if err := n.mark(p[headBytes+f.size:], file.disk, int64(start), int64(min(count*chunk, size-start)), int64(chunk)); err != nil {
		return n.refuse(f.op, CodeIO)
	}
	return n.write(p)
}

// mark sets the bit of each chunk in which the disk has data.
func (n *session) mark(bits []byte, disk Disk, start, length, chunk int64) error {
	for e, err := range pipe.Extents(n.s.ctx, disk, start, length) {
		if err != nil {
			return err
		}
		if e.Kind != pipe.Data || e.Len <= 0 {
			continue
		}
		for i := (e.Off - start) / chunk; i <= (e.End()-1-start)/chunk; i++ {
			bits[i/8] |= 1 << (i % 8)
		}
	}
	return nil
}
