package stripe

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"runtime"
	"sync"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/reedsolomon"
	"golang.org/x/sync/errgroup"
)

// A shard is a header of 512 bytes and cells. Data shard i holds bytes [i·S, (i+1)·S) of the object, S = ⌈length/k⌉, so
// that a range of the object is in few shards; what the last ones lack counts as zero. Cell c of the k+m shards is one
// code word: a cell that is lost needs k others of the same number, and nothing else of their shards.
const (
	shardMagic  = "HKSS"
	shardHeader = 512
	cellSum     = 8
	cellSize    = 32 << 10
	minCell     = 1 << 10
	maxCell     = 1 << 20
)

func shardName(attempt [16]byte, i int) string {
	h := hex.EncodeToString(attempt[:])
	return fmt.Sprintf("%s%s/%s-%02x", shardPrefix, h[:2], h, i)
}

// parseShard reads a shard's name.
func parseShard(name string) (attempt [16]byte, i int, ok bool) {
	if len(name) != len(shardPrefix)+3+32+3 {
		return attempt, 0, false
	}
	raw, err := hex.DecodeString(name[len(shardPrefix)+3 : len(shardPrefix)+35])
	n, err2 := hex.DecodeString(name[len(name)-2:])
	if err != nil || err2 != nil {
		return attempt, 0, false
	}
	copy(attempt[:], raw)
	i = int(n[0])
	return attempt, i, shardName(attempt, i) == name
}

// shape is how an object lies in its shards.
type shape struct {
	*record
	width int64 // S: payload bytes of a shard
	cells int   // of a shard
}

func shapeOf(r *record) shape {
	width := (r.Length + int64(r.K) - 1) / int64(r.K)
	return shape{record: r, width: width, cells: int((width + int64(r.Cell) - 1) / int64(r.Cell))}
}

// cellLen is how many payload bytes cell c has: only the last one may have fewer.
func (s shape) cellLen(c int) int { return int(min(int64(s.Cell), s.width-int64(c)*int64(s.Cell))) }

// cellOff is where cell c begins in a shard's object.
func (s shape) cellOff(c int) int64 { return shardHeader + int64(c)*int64(s.Cell+cellSum) }

func (s shape) size() int64 { return shardHeader + s.width + int64(s.cells)*cellSum }

// seed binds the sums of a shard's cells to the object, its creation, its geometry and the shard's number, so that a
// cell which stands anywhere else is wrong there.
func (s shape) seed(i int) uint64 { return xxhash.Sum64(s.header(i)) }

// sum is a cell's checksum. It finds faults, not forgers: those the repository's own tags find.
func sum(seed uint64, c int, payload []byte) uint64 {
	const odd = 0x9e3779b97f4a7c15
	d := digests.Get().(*xxhash.Digest)
	d.ResetWithSeed(seed + uint64(c)*odd)
	_, _ = d.Write(payload) // never fails
	v := d.Sum64()
	digests.Put(d)
	return v
}

var digests = sync.Pool{New: func() any { return xxhash.New() }}

// header is what a shard begins with.
func (s shape) header(i int) []byte {
	b := make([]byte, 0, shardHeader)
	b = append(b, shardMagic...)
	b = binary.LittleEndian.AppendUint16(b, 1)
	b = append(b, byte(i), byte(s.K), byte(s.M))
	b = append(b, s.Set[:]...)
	b = append(b, s.Attempt[:]...)
	b = binary.LittleEndian.AppendUint64(b, s.Generation)
	b = binary.LittleEndian.AppendUint64(b, uint64(s.Length))
	b = binary.LittleEndian.AppendUint32(b, uint32(s.Cell))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(s.Name)))
	b = append(b, s.Name...)
	b = append(b, make([]byte, shardHeader-sumSize-len(b))...)
	check := digest(b)
	return append(b, check[:]...)
}

// cell is the payload and the sum of cell c within a whole shard.
func (s shape) cell(shard []byte, c int) (payload, check []byte) {
	at, n := s.cellOff(c), s.cellLen(c)
	return shard[at : at+int64(n)], shard[at+int64(n) : at+int64(n)+cellSum]
}

// cut fills the shards, each of the right size, with the object's data and its parity.
func (s shape) cut(enc reedsolomon.Encoder, data []byte, shards [][]byte) error {
	seeds := make([]uint64, len(shards))
	for i, shard := range shards {
		copy(shard, s.header(i))
		seeds[i] = s.seed(i)
	}
	const share = 32 // cells for which another goroutine is worth its while
	parts := min(runtime.GOMAXPROCS(0), 4, s.cells/share+1)
	var g errgroup.Group
	for p := range parts {
		g.Go(func() error { return s.cutCells(enc, data, shards, seeds, s.cells*p/parts, s.cells*(p+1)/parts) })
	}
	return g.Wait()
}

// cutCells fills cells [a, b) of all shards. A row of cells is copied, encoded and summed while it is in the processor's
// cache.
func (s shape) cutCells(enc reedsolomon.Encoder, data []byte, shards [][]byte, seeds []uint64, a, b int) error {
	row := make([][]byte, len(shards))
	for c := a; c < b; c++ {
		for i, shard := range shards {
			row[i], _ = s.cell(shard, c)
			if i < s.K {
				from := min(int64(i)*s.width+int64(c)*int64(s.Cell), s.Length)
				n := copy(row[i], data[from:max(from, min(int64(i+1)*s.width, s.Length))])
				clear(row[i][n:])
			}
		}
		if err := enc.Encode(row); err != nil {
			return err
		}
		for i, shard := range shards {
			_, check := s.cell(shard, c)
			binary.LittleEndian.PutUint64(check, sum(seeds[i], c, row[i]))
		}
	}
	return nil
}

// whole says whether all of a shard is as it was written.
func (s shape) whole(i int, shard []byte) error {
	if int64(len(shard)) != s.size() || !bytes.Equal(shard[:shardHeader], s.header(i)) {
		return fmt.Errorf("shard %d: %w: its header or length", i, ErrDamaged)
	}
	seed := s.seed(i)
	for c := range s.cells {
		payload, check := s.cell(shard, c)
		if binary.LittleEndian.Uint64(check) != sum(seed, c, payload) {
			return fmt.Errorf("shard %d: %w: cell %d", i, ErrDamaged, c)
		}
	}
	return nil
}

// encoders are made once for each geometry: making one inverts a matrix.
var encoders sync.Map // [2]int → reedsolomon.Encoder

// encoder is of the Vandermonde code over GF(2⁸), the library's plain one; the format says so, and a vector holds it.
func encoder(k, m int) (reedsolomon.Encoder, error) {
	if e, ok := encoders.Load([2]int{k, m}); ok {
		return e.(reedsolomon.Encoder), nil
	}
	e, err := reedsolomon.New(k, m, reedsolomon.WithMaxGoroutines(1))
	if err != nil {
		return nil, err
	}
	had, _ := encoders.LoadOrStore([2]int{k, m}, e)
	return had.(reedsolomon.Encoder), nil
}
