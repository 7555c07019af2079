package index

import (
	"encoding/binary"
	"math/bits"

	"github.com/hikae/hikae/guest/index/list"
)

// directory says where everything is.
type directory struct{ volumes []part }

// part is a volume and its blocks.
type part struct {
	Volume
	cut     string
	entries int64
	blocks  []place
}

// place is where a block is, and what is known of it without reading it.
type place struct {
	off           int64
	packed, plain int
	count         int
	first         string // path
	summary       []byte
	hash          [hashBytes]byte
}

func (d *directory) encode(p []byte) []byte {
	p = binary.AppendUvarint(p, uint64(len(d.volumes)))
	for _, v := range d.volumes {
		for _, s := range []string{v.Mount, v.Device, v.Kind, v.ID, v.Label, string(v.System), v.cut} {
			p = appendText(p, s)
		}
		p = binary.AppendUvarint(p, uint64(len(v.blocks)))
		last := ""
		for _, b := range v.blocks {
			for _, n := range []int{b.packed, b.plain, b.count} {
				p = binary.AppendUvarint(p, uint64(n))
			}
			shared := list.Shared(last, b.first)
			p = appendText(binary.AppendUvarint(p, uint64(shared)), b.first[shared:])
			p = appendText(p, string(b.summary))
			p = append(p, b.hash[:]...)
			last = b.first
		}
	}
	return p
}

// Bounds of a directory: what all first paths are together, in bytes, and how many blocks there are.
const (
	maxPaths  = 32 << 20
	maxBlocks = 1 << 17
)

// decode reads a directory of an index whose blocks end at that byte. False: it is malformed.
func (d *directory) decode(p []byte, end int64) bool {
	c, at, paths, blocks := list.NewCursor(p), int64(headBytes), 0, 0
	d.volumes = make([]part, c.Uint(maxVolumes))
	for i := range d.volumes {
		v := &d.volumes[i]
		for _, s := range []*string{&v.Mount, &v.Device, &v.Kind, &v.ID, &v.Label, (*string)(&v.System), &v.cut} {
			*s = c.Text(list.MaxText)
		}
		n := int(c.Uint(maxBlocks))
		if blocks += n; blocks > maxBlocks || c.Bad() || v.Check() != nil {
			return false
		}
		last := ""
		for j := range n {
			b := place{off: at, packed: int(c.Uint(maxBlock + 1024)), plain: int(c.Uint(maxBlock)), count: int(c.Uint(maxEntries))}
			shared := int(c.Uint(uint64(len(last))))
			b.first = last[:shared] + c.Text(list.MaxPath)
			b.summary = c.Bytes(int(c.Uint(maxGramBits / 8)))
			copy(b.hash[:], c.Bytes(hashBytes))
			paths += len(b.first)
			ordered := j == 0 || list.Compare(last, b.first) < 0
			if c.Bad() || !ordered || !summarySize(len(b.summary)) || b.count == 0 || b.packed == 0 || paths > maxPaths {
				return false
			}
			at += int64(b.packed)
			v.entries += int64(b.count)
			v.blocks = append(v.blocks, b)
			last = b.first
		}
	}
	return c.Done() && at == end
}

func summarySize(n int) bool { return n == 0 || n >= 8 && bits.OnesCount(uint(n)) == 1 }
