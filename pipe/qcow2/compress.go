package qcow2

import (
	"bytes"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// Compression is how compressed clusters of an image are encoded. The numbers are those of the format.
type Compression uint8

const (
	Zlib Compression = 0 // raw deflate
	Zstd Compression = 1
)

func (c Compression) String() string {
	switch c {
	case Zlib:
		return "zlib"
	case Zstd:
		return "zstd"
	}
	return fmt.Sprintf("compression(%d)", uint8(c))
}

// maxWindow bounds what a zstd frame may make a reader remember: what every reader is asked to provide (RFC 8878, 3.1.1.1.2).
const maxWindow = 8 << 20

var inflaters = sync.Pool{New: func() any { return flate.NewReader(nil) }}

// With one at a time, a decoder starts no goroutines and may be dropped by the pool.
var unzstders = sync.Pool{New: func() any {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(maxWindow))
	if err != nil {
		panic("qcow2: zstd options: " + err.Error())
	}
	return d
}}

var deflaters = sync.Pool{New: func() any {
	w, err := flate.NewWriterWindow(nil, deflateWindow)
	if err != nil {
		panic("qcow2: deflate window: " + err.Error())
	}
	return w
}}

// deflateWindow is how far back a compressed stream may point: QEMU inflates with a window of this size.
const deflateWindow = 4 << 10

var zstders = sync.Pool{New: func() any {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic("qcow2: zstd options: " + err.Error())
	}
	return e
}}

// encode compresses a cluster.
func (c Compression) encode(plain []byte) ([]byte, error) {
	if c == Zstd {
		e := zstders.Get().(*zstd.Encoder)
		defer zstders.Put(e)
		return e.EncodeAll(plain, make([]byte, 0, len(plain))), nil
	}
	w := deflaters.Get().(*flate.Writer)
	defer deflaters.Put(w)
	out := bytes.NewBuffer(make([]byte, 0, len(plain)))
	w.Reset(out)
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	err := w.Close()
	return out.Bytes(), err
}

// decode fills dst, a whole cluster, from src. What follows the compressed stream in src is padding up to a sector, or
// the next cluster.
func (c Compression) decode(dst, src []byte) error {
	if c == Zstd {
		d := unzstders.Get().(*zstd.Decoder)
		defer unzstders.Put(d)
		if err := d.Reset(bytes.NewReader(src)); err != nil {
			return err
		}
		_, err := io.ReadFull(d, dst)
		return err
	}
	r := inflaters.Get().(io.Reader)
	defer inflaters.Put(r)
	if err := r.(flate.Resetter).Reset(bytes.NewReader(src), nil); err != nil {
		return err
	}
	_, err := io.ReadFull(r, dst)
	return err
}
