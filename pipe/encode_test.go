package pipe_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var levels = []pipe.Compression{pipe.None, pipe.Fast, pipe.Default, pipe.Better, pipe.Max}

// What is encoded decodes to the same bytes, at every level and size (R019).
func TestEncodeThenDecode(t *testing.T) {
	encoders := map[pipe.Compression]*pipe.Encoder{}
	for _, level := range levels {
		enc, err := pipe.NewEncoder(level, 64<<10)
		require.NoError(t, err)
		encoders[level] = enc
	}
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.SampledFrom([]int64{0, 1, 2, 511, 4096, 65_535, 65_536}).Draw(t, "size")
		block := make([]byte, size)
		_, err := pipetest.NewPattern(rapid.Uint64().Draw(t, "seed"), size).ReadAt(t.Context(), block, 0)
		require.NoError(t, err)
		level := rapid.SampledFrom(levels).Draw(t, "level")
		before := bytes.Clone(block)
		data, codec := encoders[level].Encode(make([]byte, 0, rapid.IntRange(0, 100_000).Draw(t, "room")), block)
		require.Equal(t, before, block, "the block is not touched")
		require.LessOrEqual(t, len(data), len(block))
		got, err := pipe.Decode(make([]byte, rapid.IntRange(0, 100_000).Draw(t, "room")), data, codec, len(block))
		require.NoError(t, err)
		require.True(t, bytes.Equal(block, got))
		for _, other := range []int{len(block) - 1, len(block) + 1} {
			if other >= 0 {
				_, err = pipe.Decode(nil, data, codec, other)
				require.ErrorIs(t, err, pipe.ErrDecode)
			}
		}
	})
}

func TestEncodeChoosesPlain(t *testing.T) {
	random := randomBytes(256 << 10)
	text := []byte(strings.Repeat("all work and no play ", 13_000))[:256<<10]
	mixed := bytes.Clone(random)
	copy(mixed[128<<10:], text[:128<<10])
	counter := make([]byte, 256<<10)
	for i := range counter {
		counter[i] = byte(i)
	}
	repeated := bytes.Repeat(random[:4096], 64)
	for _, level := range levels {
		enc, err := pipe.NewEncoder(level, 256<<10)
		require.NoError(t, err)
		data, codec := enc.Encode(nil, random)
		require.Equal(t, pipe.Plain, codec, "%s", level)
		require.Same(t, &random[0], &data[0], "%s", level)
		_, codec = enc.Encode(nil, text)
		require.Equal(t, level == pipe.None, codec == pipe.Plain, "%s", level)
		for name, block := range map[string][]byte{"counter": counter, "repeated": repeated} {
			_, codec = enc.Encode(nil, block)
			require.Equal(t, level == pipe.None, codec == pipe.Plain, "%s at %s: each byte is as frequent, and it compresses", name, level)
		}
		data, _ = enc.Encode(nil, mixed)
		require.Equal(t, level == pipe.None, len(data) > 150<<10, "%s: half of it compresses", level)
	}
}

// Encoding and decoding into buffers with room allocates no block. Bytes are counted, not allocations: under the race
// detector pools forget small things.
func TestEncodeDoesNotAllocate(t *testing.T) {
	text := []byte(strings.Repeat("all work and no play ", 13_000))[:256<<10]
	for _, level := range levels {
		enc, err := pipe.NewEncoder(level, 256<<10)
		require.NoError(t, err)
		out, got := make([]byte, 0, 400<<10), make([]byte, 0, 256<<10)
		both := func() {
			data, codec := enc.Encode(out, text)
			_, _ = pipe.Decode(got, data, codec, len(text))
		}
		both()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 20 {
			both()
		}
		runtime.ReadMemStats(&after)
		require.Less(t, (after.TotalAlloc-before.TotalAlloc)/20, uint64(100<<10), "%s", level)
	}
}

func TestEncodersMayBeShared(t *testing.T) {
	for _, level := range levels {
		enc, err := pipe.NewEncoder(level, 64<<10)
		require.NoError(t, err)
		var group sync.WaitGroup
		for g := range 8 {
			group.Go(func() {
				block := make([]byte, 60_000)
				_, _ = pipetest.NewPattern(uint64(g), 60_000).ReadAt(t.Context(), block, 0)
				for range 5 {
					data, codec := enc.Encode(nil, block)
					got, err := pipe.Decode(nil, data, codec, len(block))
					if err != nil || !bytes.Equal(got, block) {
						t.Errorf("%s: %v", level, err)
					}
				}
			})
		}
		group.Wait()
	}
}

// Decode believes nothing: what claims to be larger than promised, or is cut, is an error and costs no memory.
func TestDecodeRefusesHostileBlocks(t *testing.T) {
	huge := make([]byte, 64<<20)
	enc, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	bombs := map[string][]byte{
		"zstd bomb":         enc.EncodeAll(huge, nil),
		"zstd two frames":   enc.EncodeAll(make([]byte, 500), enc.EncodeAll(make([]byte, 500), nil)),
		"zstd unsized bomb": unsized(t, huge),
		"zstd header only":  {0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
		"zstd skippable":    append([]byte{0x50, 0x2a, 0x4d, 0x18}, binary.LittleEndian.AppendUint32(nil, 1<<31)...),
		"s2 bomb":           s2.Encode(nil, huge),
		"s2 length":         binary.AppendUvarint(nil, 1<<40),
		"empty":             {},
		"noise":             randomBytes(1000),
	}
	require.NoError(t, enc.Close())
	for name, data := range bombs {
		for _, codec := range []pipe.Codec{pipe.Plain, pipe.S2, pipe.Zstd, 77} {
			for _, plain := range []int{999, 256 << 10} {
				_, err := pipe.Decode(nil, data, codec, plain)
				require.ErrorIs(t, err, pipe.ErrDecode, "%s as %v", name, codec)
			}
		}
	}
	_, err = pipe.Decode(nil, bombs["zstd bomb"], pipe.Zstd, 64<<20)
	require.ErrorIs(t, err, pipe.ErrDecode, "more than any block")
}

// unsized is a zstd frame without the length of its content.
func unsized(t *testing.T, p []byte) []byte {
	var out bytes.Buffer
	enc, err := zstd.NewWriter(&out)
	require.NoError(t, err)
	_, err = enc.Write(p)
	require.NoError(t, err)
	require.NoError(t, enc.Close())
	return out.Bytes()
}

func FuzzDecode(f *testing.F) {
	for _, level := range levels {
		enc, err := pipe.NewEncoder(level, 64<<10)
		require.NoError(f, err)
		data, codec := enc.Encode(nil, []byte(strings.Repeat("seed ", 1000)))
		f.Add(data, uint8(codec), 5000)
	}
	f.Fuzz(func(t *testing.T, data []byte, codec uint8, plain int) {
		if plain < 0 || plain > 1<<20 {
			return
		}
		got, err := pipe.Decode(nil, data, pipe.Codec(codec), plain)
		if err == nil && len(got) != plain {
			t.Fatalf("%d bytes where %d were promised", len(got), plain)
		}
	})
}

// BenchmarkIncompressible is the price of finding out: plain blocks against what the codec alone would take.
func BenchmarkIncompressible(b *testing.B) {
	block := make([]byte, 256<<10)
	_, _ = rand.NewChaCha8([32]byte{}).Read(block)
	for _, level := range levels {
		b.Run(fmt.Sprint(level), func(b *testing.B) {
			enc, err := pipe.NewEncoder(level, len(block))
			require.NoError(b, err)
			out := make([]byte, 0, 400<<10)
			b.SetBytes(int64(len(block)))
			for b.Loop() {
				enc.Encode(out, block)
			}
		})
	}
}
