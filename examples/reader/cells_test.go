package main

import (
	"encoding/binary"
	"testing"

	"github.com/klauspost/reedsolomon"
	"github.com/stretchr/testify/require"
)

// encodeCells writes the file of a stream.
func encodeCells(t *testing.T, stream []byte, g geometry) []byte {
	require.True(t, g.possible())
	shards := make([][]byte, g.n+g.m)
	for i := range shards {
		shards[i] = make([]byte, payloadSize)
		if at := i * payloadSize; i < int(g.n) && at < len(stream) {
			copy(shards[i], stream[at:])
		}
	}
	if g.code == 1 {
		for _, s := range shards[1:] {
			copy(s, shards[0])
		}
	} else {
		coder, err := (&cellFile{geometry: g}).coder()
		require.NoError(t, err)
		require.NoError(t, coder.(reedsolomon.Encoder).Encode(shards))
	}
	var file []byte
	for i, s := range shards {
		c := append(s, "HKCL"...)
		c = append(c, 1, g.kind, g.code, 0)
		c = append(c, g.object[:]...)
		for _, n := range []uint32{uint32(i), g.n, g.m, g.length} {
			c = binary.LittleEndian.AppendUint32(c, n)
		}
		c = append(c, g.repository[:]...)
		file = append(file, seal(append(c, make([]byte, 16)...))...)
	}
	return file
}

// seal puts right tags on a cell, as somebody would who wants a change to go unnoticed.
func seal(cell []byte) []byte {
	binary.LittleEndian.PutUint64(cell[4080:], xxh64(cell[:4080], 0))
	binary.LittleEndian.PutUint64(cell[4088:], xxh64(cell[:4080], secondSeed))
	return cell
}

// TestXXH64 holds the hash against values that the xxHash specification's own implementation gives.
func TestXXH64(t *testing.T) {
	require.Equal(t, uint64(0xEF46DB3751D8E999), xxh64(nil, 0))
	require.Equal(t, uint64(0x44BC2CF5AD770999), xxh64([]byte("abc"), 0))
}

func TestOversizedGeometryIsRefused(t *testing.T) {
	g := geometry{code: 1, n: 1, m: 2, length: payloadSize}
	require.True(t, g.possible())
	for _, change := range []func(*geometry){
		func(g *geometry) { g.length = maxStream + 1 }, func(g *geometry) { g.n = 2 }, func(g *geometry) { g.m = 3 },
		func(g *geometry) { g.m = 1 }, func(g *geometry) { g.code = 2 }, func(g *geometry) { g.n, g.m = 1<<31, 1<<31 },
	} {
		bad := g
		change(&bad)
		require.False(t, bad.possible(), "%+v", bad)
	}
}
