package main

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/klauspost/reedsolomon"
)

// Sizes and bounds of section 2 of FORMAT.md.
const (
	cellSize    = 4096
	payloadSize = 4032
	maxStream   = 64 << 20
	maxCells    = 65536
	secondSeed  = 0x9E3779B97F4A7C15
)

type id16 [16]byte

// geometry is what every cell of an object says of the whole.
type geometry struct {
	kind, code byte
	object     id16
	n, m       uint32
	length     uint32 // bytes of stream
	repository [8]byte
}

// readCell tells what a good cell says, and whether it is one.
func readCell(cell []byte) (g geometry, ordinal uint32, ok bool) {
	if len(cell) != cellSize || !bytes.Equal(cell[4032:4036], []byte("HKCL")) || cell[4036] != 1 || cell[4039] != 0 {
		return g, 0, false
	}
	if xxh64(cell[:4080], 0) != binary.LittleEndian.Uint64(cell[4080:]) ||
		xxh64(cell[:4080], secondSeed) != binary.LittleEndian.Uint64(cell[4088:]) {
		return g, 0, false
	}
	g.kind, g.code = cell[4037], cell[4038]
	copy(g.object[:], cell[4040:4056])
	ordinal = binary.LittleEndian.Uint32(cell[4056:])
	g.n = binary.LittleEndian.Uint32(cell[4060:])
	g.m = binary.LittleEndian.Uint32(cell[4064:])
	g.length = binary.LittleEndian.Uint32(cell[4068:])
	copy(g.repository[:], cell[4072:4080])
	return g, ordinal, g.possible() && ordinal < g.n+g.m
}

// possible holds the geometry against the rules of section 2.
func (g geometry) possible() bool {
	if g.length > maxStream || g.n != max(1, (g.length+payloadSize-1)/payloadSize) {
		return false
	}
	if g.m < 2 || g.m > max(2, g.n) || g.n+g.m > maxCells {
		return false
	}
	switch {
	case g.n == 1:
		return g.code == 1
	case g.n+g.m <= 256:
		return g.code == 2
	default:
		return g.code == 3
	}
}

// cellFile is the outcome of reading a file of cells whole.
type cellFile struct {
	geometry
	stream  []byte
	damaged []int // places where something else stands than was written; n+m for bytes past the end
}

// want is what a reader knows of an object before it reads it; a nil field is not known.
type want struct {
	kind       byte
	object     *id16
	repository *id16
}

func (w want) fits(g geometry) bool {
	return g.kind == w.kind && (w.object == nil || g.object == *w.object) &&
		(w.repository == nil || g.repository == [8]byte(w.repository[:8]))
}

// readCells gives the stream of a file, repaired from parity where it must be. The error is a fault without a name.
func readCells(file []byte, w want) (*cellFile, error) {
	g, ok := vote(file, w)
	if !ok {
		return &cellFile{}, damaged("", -1, "no good cell of it is left")
	}
	f := &cellFile{geometry: g}
	shards := f.sort(file)
	if err := f.mend(shards); err != nil {
		return f, err
	}
	stream := make([]byte, 0, int(g.n)*payloadSize)
	for _, s := range shards[:g.n] {
		stream = append(stream, s...)
	}
	if len(bytes.TrimLeft(stream[g.length:], "\x00")) != 0 {
		return f, damaged("", int64(g.n-1)*cellSize, "the filling of the last cell is not zero")
	}
	f.stream = stream[:g.length]
	return f, nil
}

// vote finds the geometry that most good cells agree on.
func vote(file []byte, w want) (best geometry, ok bool) {
	votes := map[geometry]int{}
	for at := 0; at+cellSize <= len(file); at += cellSize {
		g, _, good := readCell(file[at : at+cellSize])
		if !good || !w.fits(g) {
			continue
		}
		votes[g]++
		if !ok || votes[g] > votes[best] {
			best, ok = g, true
		}
	}
	return best, ok
}

// sort puts each good payload where its ordinal says, and notes which places do not hold what belongs there.
func (f *cellFile) sort(file []byte) [][]byte {
	total := int(f.n + f.m)
	shards := make([][]byte, total)
	inPlace := make([]bool, total)
	for at := 0; at+cellSize <= len(file); at += cellSize {
		cell := file[at : at+cellSize]
		g, ordinal, good := readCell(cell)
		if !good || g != f.geometry {
			continue
		}
		if int(ordinal) == at/cellSize {
			inPlace[ordinal] = true
			shards[ordinal] = cell[:payloadSize]
		} else if shards[ordinal] == nil {
			shards[ordinal] = cell[:payloadSize]
		}
	}
	for i, ok := range inPlace {
		if !ok {
			f.damaged = append(f.damaged, i)
		}
	}
	if len(file) > total*cellSize {
		f.damaged = append(f.damaged, total)
	}
	return shards
}

// mend fills in the data payloads that are missing.
func (f *cellFile) mend(shards [][]byte) error {
	lost, lostData := 0, -1
	for i, s := range shards {
		if s == nil {
			lost++
			if i < int(f.n) && lostData < 0 {
				lostData = i
			}
		}
	}
	if lostData < 0 {
		return nil
	}
	if lost > int(f.m) {
		return damaged("", int64(lostData)*cellSize, "%d of %d cells are lost, and parity mends %d", lost, f.n+f.m, f.m)
	}
	coder, err := f.coder()
	if err == nil {
		err = coder.ReconstructData(shards)
	}
	if err != nil {
		return damaged("", int64(lostData)*cellSize, "parity does not mend it: %v", err)
	}
	return nil
}

// coder is the code of the table in section 2, never a library's own choice.
func (f *cellFile) coder() (interface{ ReconstructData([][]byte) error }, error) {
	switch f.code {
	case 1:
		return copies{}, nil
	case 2:
		return reedsolomon.New(int(f.n), int(f.m), reedsolomon.WithLeopardGF(false), reedsolomon.WithLeopardGF16(false))
	case 3:
		return reedsolomon.New(int(f.n), int(f.m), reedsolomon.WithLeopardGF16(true))
	}
	return nil, fmt.Errorf("code %d", f.code)
}

// copies is code 1: every payload is the same.
type copies struct{}

func (copies) ReconstructData(shards [][]byte) error {
	for _, s := range shards {
		if s != nil {
			shards[0] = s
			return nil
		}
	}
	return fmt.Errorf("no copy is left")
}
