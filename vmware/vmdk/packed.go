package vmdk

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zlib"
)

// markerLen is the length of what stands before a compressed grain: its first sector and its length.
const markerLen = 12

// packedLimit bounds a compressed grain. Deflate makes nothing longer by more than a few bytes in 64 KiB.
func packedLimit(grain int64) int64 { return grain + grain/8 + 4096 }

// decoded is a whole grain that is stored compressed.
func (g *grains) decoded(ctx context.Context, r run) ([]byte, error) {
	key := cacheKey{file: g.file, decoded: true, off: r.host}
	if p, ok := g.cache.get(key); ok {
		return p, nil
	}
	var head [markerLen]byte
	if err := readFull(ctx, g.file, head[:], r.host); err != nil {
		return nil, fmt.Errorf("%s: grain at %d: %w", g.path, r.host, err)
	}
	lba, n := binary.LittleEndian.Uint64(head[:]), int64(binary.LittleEndian.Uint32(head[8:]))
	switch {
	case lba != uint64(r.grain/sector):
		return nil, g.corrupt(r.host, "the grain says that it is of sector %d, its table says %d", lba, r.grain/sector)
	case n == 0 || n > packedLimit(g.grain) || n > g.file.Size()-r.host-markerLen:
		return nil, g.corrupt(r.host, "a compressed grain of %d bytes", n)
	}
	packed := make([]byte, n)
	if err := readFull(ctx, g.file, packed, r.host+markerLen); err != nil {
		return nil, fmt.Errorf("%s: grain at %d: %w", g.path, r.host, err)
	}
	plain, err := inflate(packed, g.grain, min(g.grain, g.size-r.grain))
	if err != nil {
		return nil, g.corrupt(r.host, "compressed grain: %v", err)
	}
	g.cache.put(key, plain)
	return plain, nil
}

var inflaters sync.Pool

// inflate decodes a grain. It has to be whole, or, as the last of a disk, to have at least its need; it is never longer.
func inflate(packed []byte, grain, need int64) ([]byte, error) {
	src := bytes.NewReader(packed)
	z, ok := inflaters.Get().(io.ReadCloser)
	var err error
	if ok {
		err = z.(zlib.Resetter).Reset(src, nil)
	} else {
		z, err = zlib.NewReader(src)
	}
	if err != nil {
		return nil, err
	}
	defer inflaters.Put(z)
	plain := make([]byte, grain+1) // one more, to see what is too long
	n := 0
	for err == nil && n < len(plain) {
		var m int
		m, err = z.Read(plain[n:]) // not io.ReadFull, which takes a stream that was cut for one that ended
		n += m
	}
	switch {
	case int64(n) > grain:
		return nil, fmt.Errorf("it is longer than %d bytes", grain)
	case err != io.EOF:
		return nil, err
	case int64(n) < need:
		return nil, fmt.Errorf("it ends at %d of %d bytes", n, need)
	}
	return plain[:grain], nil
}
