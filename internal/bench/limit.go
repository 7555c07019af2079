//go:build linux

package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/reedsolomon"
	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"
)

// part is one piece of work that a full backup cannot do without, timed alone.
type part struct {
	Name    string  `json:"name"`
	Bytes   int64   `json:"bytes"`   // that it had to handle
	Seconds float64 `json:"seconds"` // CPU
}

const (
	blockSize = 256 << 10
	packSize  = 16 << 20
	cellSize  = 4032 // payload of a cell
)

// The parts, in the order in which a block meets them.
const (
	partRead = iota
	partHash
	partEncode
	partSeal
	partOpen
	partDecode
	partParity
	partCount
)

var partNames = [partCount]string{"read", "BLAKE3, keyed", "zstd, fastest", "AES-256-GCM, seal",
	"AES-256-GCM, open (check)", "zstd, decode and compare (check)", "Reed-Solomon, 3 %"}

// limiter does the work of a full backup without being a backup: nothing is written, nothing waits, each part runs
// alone over a batch of blocks with warm caches. It uses the libraries directly and none of our own packages.
type limiter struct {
	parts   [partCount]part
	hash    *blake3.Hasher
	encoder *zstd.Encoder
	decoder *zstd.Decoder
	aead    cipher.AEAD
	codes   map[int]reedsolomon.Encoder // by data cells
	known   map[[32]byte]bool
	pack    []byte // sealed bytes on the way to parity
	nonce   uint64
}

// measureLimit returns what each part costs on the blocks of a disk.
func measureLimit(disk string) ([]part, error) {
	l, err := newLimiter()
	if err != nil {
		return nil, err
	}
	defer l.encoder.Close()
	defer l.decoder.Close()
	runtime.GC()
	if err := l.run(disk); err != nil {
		return nil, err
	}
	return l.parts[:], l.parity()
}

// run reads the blocks of a disk that are not holes, in batches, and does each part's work on every batch.
func (l *limiter) run(disk string) error {
	f, err := os.Open(disk)
	if err != nil {
		return err
	}
	defer f.Close()
	ranges, err := dataRanges(f)
	if err != nil {
		return err
	}
	batch, fill := make([]byte, 64<<20), 0
	for _, r := range alignOut(ranges, blockSize) {
		for off, end := r.Start, r.Start+r.Length; off < end; {
			p := batch[fill:][:min(int64(len(batch)-fill), end-off)]
			n := 0
			err := l.timed(partRead, len(p), func() (err error) { n, err = readFull(f, p, off); return err })
			if err != nil {
				return err
			}
			clear(p[n:]) // behind the end of the disk
			fill, off = fill+len(p), off+int64(len(p))
			if fill == len(batch) {
				if err := l.batch(batch); err != nil {
					return err
				}
				fill = 0
			}
		}
	}
	return l.batch(batch[:fill])
}

func newLimiter() (*limiter, error) {
	l := &limiter{known: map[[32]byte]bool{}, codes: map[int]reedsolomon.Encoder{}}
	for i, name := range partNames {
		l.parts[i].Name = name
	}
	var errs [5]error
	var cipherBlock cipher.Block
	l.hash, errs[0] = blake3.NewKeyed(make([]byte, 32))
	l.encoder, errs[1] = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(blockSize), zstd.WithSingleSegment(true))
	l.decoder, errs[2] = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	cipherBlock, errs[3] = aes.NewCipher(make([]byte, 32))
	l.aead, errs[4] = cipher.NewGCM(cipherBlock)
	return l, errors.Join(errs[:]...)
}

func (l *limiter) add(which int, n int64, spent time.Duration) {
	l.parts[which].Bytes += n
	l.parts[which].Seconds += spent.Seconds()
}

// timed adds the CPU time of work on n bytes to a part.
func (l *limiter) timed(which int, n int, work func() error) error {
	start := cpuTime()
	err := work()
	l.add(which, int64(n), cpuTime()-start)
	return err
}

func (l *limiter) batch(p []byte) error {
	blocks := dataBlocks(p)
	ids := make([][32]byte, len(blocks))
	l.timed(partHash, count(blocks), func() error {
		for i, b := range blocks {
			l.hash.Reset()
			l.hash.Write(b) // never fails
			l.hash.Digest().Read(ids[i][:])
		}
		return nil
	})
	blocks = l.unknown(blocks, ids)
	frames, plain, err := l.encode(blocks)
	if err != nil {
		return err
	}
	sealed, err := l.seal(append(frames, plain...))
	if err != nil {
		return err
	}
	for _, s := range sealed {
		if l.pack = append(l.pack, s...); len(l.pack) >= packSize {
			if err := l.parity(); err != nil {
				return err
			}
		}
	}
	return nil
}

// dataBlocks are the blocks of p that are not zero.
func dataBlocks(p []byte) (blocks [][]byte) {
	zero := make([]byte, blockSize)
	for at := 0; at < len(p); at += blockSize {
		b := p[at:min(at+blockSize, len(p))]
		if !bytes.Equal(b, zero[:len(b)]) {
			blocks = append(blocks, b)
		}
	}
	return blocks
}

func (l *limiter) unknown(blocks [][]byte, ids [][32]byte) (out [][]byte) {
	for i, b := range blocks {
		if !l.known[ids[i]] {
			l.known[ids[i]] = true
			out = append(out, b)
		}
	}
	return out
}

// encode compresses the blocks that gain at least 1/64 and times only those, since a good program finds out about
// the rest for next to nothing; then it decodes them and compares.
func (l *limiter) encode(blocks [][]byte) (frames, plain [][]byte, err error) {
	var packed [][]byte
	for _, b := range blocks {
		if frame := l.encoder.EncodeAll(b, nil); len(frame) < len(b)-len(b)/64 {
			packed, frames = append(packed, b), append(frames, frame)
		} else {
			plain = append(plain, b)
		}
	}
	buf := make([]byte, 0, 2*blockSize)
	l.timed(partEncode, count(packed), func() error {
		for _, b := range packed {
			l.encoder.EncodeAll(b, buf)
		}
		return nil
	})
	err = l.timed(partDecode, count(packed), func() error {
		for i, frame := range frames {
			got, err := l.decoder.DecodeAll(frame, buf)
			if err != nil || !bytes.Equal(got, packed[i]) {
				return fmt.Errorf("a frame does not decode to its block (%v)", err)
			}
		}
		return nil
	})
	return frames, plain, err
}

func (l *limiter) seal(frames [][]byte) ([][]byte, error) {
	sealed := make([][]byte, len(frames))
	for i, f := range frames {
		sealed[i] = make([]byte, 0, len(f)+l.aead.Overhead())
	}
	first := l.nonce
	l.timed(partSeal, count(frames), func() error {
		for i, f := range frames {
			sealed[i] = l.aead.Seal(sealed[i], l.next(), f, nil)
		}
		return nil
	})
	l.nonce = first
	buf := make([]byte, 0, 2*blockSize)
	err := l.timed(partOpen, count(frames), func() error {
		for _, s := range sealed {
			if _, err := l.aead.Open(buf, l.next(), s, nil); err != nil {
				return err
			}
		}
		return nil
	})
	return sealed, err
}

func (l *limiter) next() []byte {
	l.nonce++
	return binary.BigEndian.AppendUint64(make([]byte, 4, 12), l.nonce)
}

// parity computes the parity cells of what has been sealed.
func (l *limiter) parity() error {
	n := (len(l.pack) + cellSize - 1) / cellSize
	if n < 2 {
		return nil
	}
	m := max(2, (n*3+99)/100)
	code, err := l.code(n, m)
	if err != nil {
		return err
	}
	cells := make([]byte, (n+m)*cellSize)
	copy(cells, l.pack)
	shards := make([][]byte, n+m)
	for i := range shards {
		shards[i] = cells[i*cellSize : (i+1)*cellSize]
	}
	length := len(l.pack)
	l.pack = l.pack[:0]
	return l.timed(partParity, length, func() error { return code.Encode(shards) })
}

func (l *limiter) code(n, m int) (reedsolomon.Encoder, error) {
	if code, ok := l.codes[n]; ok {
		return code, nil
	}
	code, err := reedsolomon.New(n, m, reedsolomon.WithLeopardGF16(true), reedsolomon.WithMaxGoroutines(1))
	l.codes[n] = code
	return code, err
}

func count(list [][]byte) (n int) {
	for _, p := range list {
		n += len(p)
	}
	return n
}

// cpuTime is the user and system time of this process.
func cpuTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(fmt.Sprintf("getrusage of the own process: %v", err)) // cannot fail with these arguments
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
