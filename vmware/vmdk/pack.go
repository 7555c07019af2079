package vmdk

import (
	"bytes"
	"encoding/binary"
	"sync"

	"github.com/klauspost/compress/zlib"
)

type packer struct {
	buf bytes.Buffer
	z   *zlib.Writer
}

// Level 1: at level 6 a guest's disk gets 5 to 10 % smaller, in three times the time.
var packers = sync.Pool{New: func() any {
	z, err := zlib.NewWriterLevel(nil, zlib.BestSpeed)
	if err != nil {
		panic("vmdk: " + err.Error()) // the level is one that exists
	}
	return &packer{z: z}
}}

var sectorOfZeros [sector]byte

// pack makes a grain what it is in a stream: a marker, the compressed bytes, and zeros up to the next sector. A grain
// that is cut by the end of the disk is made whole, as readers want it.
func pack(grain int64, plain []byte) []byte {
	p := packers.Get().(*packer)
	defer packers.Put(p)
	p.buf.Reset()
	var head [markerLen]byte
	p.buf.Write(head[:])
	p.z.Reset(&p.buf)
	p.z.Write(plain) // into memory, which cannot fail
	for left := grainBytes - len(plain); left > 0; {
		n, _ := p.z.Write(sectorOfZeros[:min(left, sector)])
		left -= n
	}
	p.z.Close()
	n := p.buf.Len() - markerLen
	p.buf.Write(sectorOfZeros[:-p.buf.Len()&(sector-1)])
	out := bytes.Clone(p.buf.Bytes())
	binary.LittleEndian.PutUint64(out, uint64(grain*grainSectors))
	binary.LittleEndian.PutUint32(out[8:], uint32(n))
	return out
}

// packedLen is the length of what pack made, by its marker.
func packedLen(head []byte) int64 {
	n := markerLen + int64(binary.LittleEndian.Uint32(head[8:]))
	return (n + sector - 1) / sector * sector
}
