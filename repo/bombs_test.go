package repo

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/cell"
	"github.com/hikae/hikae/repo/internal/object"
)

// bomb is an input that claims much more than it is, and a decoder that must not believe it.
type bomb struct {
	name   string
	input  []byte
	decode func(b []byte) error
}

// Bar 36: whatever an object claims, its decoder gives an error within a second and 128 MiB.
func TestBombs(t *testing.T) {
	patience := time.Second
	if raceEnabled {
		patience *= 10
	}
	for _, b := range append(append(codecBombs(t), binaryBombs()...), documentBombs()...) {
		t.Run(b.name, func(t *testing.T) {
			var took time.Duration
			for range 3 { // somebody else may have had the processor
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				begin := time.Now()
				err := b.decode(b.input)
				took = time.Since(begin)
				runtime.ReadMemStats(&after)
				require.Error(t, err)
				require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(128<<20))
				if took < patience {
					return
				}
			}
			t.Errorf("it takes %v", took)
		})
	}
}

// codecBombs are compressed blocks of 256 KiB, by what their table says.
func codecBombs(t *testing.T) (list []bomb) {
	const plain = 256 << 10
	zeros := make([]byte, 256<<20)
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
	require.NoError(t, err)
	ratio := enc.EncodeAll(zeros, nil)
	small := enc.EncodeAll(make([]byte, 64), nil)
	require.NoError(t, enc.Close())
	window := func(descriptor byte, size uint64) []byte { // a frame with a window of its own, and a size of 8 bytes
		b := append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xc0}, descriptor)
		return append(binary.LittleEndian.AppendUint64(b, size), 0x01, 0x00, 0x00)
	}
	skip := append(binary.LittleEndian.AppendUint32([]byte{0x50, 0x2a, 0x4d, 0x18}, 1<<32-1), 1, 2, 3)
	add := func(name string, input []byte, codec pipe.Codec) {
		list = append(list, bomb{name, input, func(b []byte) error {
			_, err := pipe.Decode(nil, b, codec, plain)
			return err
		}})
	}
	add("zstd/ratio", ratio, pipe.Zstd)
	add("zstd/window of 2 GiB", window(0xa8, plain), pipe.Zstd)
	add("zstd/window of 3 TiB", window(0xff, plain), pipe.Zstd)
	add("zstd/size of 2^63", window(0x50, 1<<63), pipe.Zstd)
	add("zstd/many frames", bytes.Repeat(small, 100_000), pipe.Zstd)
	add("zstd/skips 4 GiB", skip, pipe.Zstd)
	add("zstd/unknown dictionary", []byte{0x28, 0xb5, 0x2f, 0xfd, 0x23, 0xff, 0xff, 0xff, 0x7f, 0x00, 0x01, 0x00, 0x00}, pipe.Zstd)
	add("s2/ratio", s2.Encode(nil, zeros[:64<<20]), pipe.S2)
	add("s2/4 GiB", append(binary.AppendUvarint(nil, 1<<32-1), 0), pipe.S2)
	add("s2/more than promised", append(binary.AppendUvarint(nil, plain), bytes.Repeat([]byte{0xfe, 1, 0}, 100_000)...), pipe.S2)
	add("unknown codec", zeros[:plain], pipe.Codec(99))
	return list
}

// binaryBombs are counts and lengths at the ends of what their fields can say.
func binaryBombs() []bomb {
	table := make([]byte, packTableHead)
	table[0] = kindData
	binary.LittleEndian.PutUint32(table[29:], 1<<32-1)
	page := append(binary.LittleEndian.AppendUint16([]byte{0, 0}, 1<<16-1), byte(pipe.Data), 0xff, 0xff)
	recipe := append(binary.LittleEndian.AppendUint16(nil, maxPieces), bytes.Repeat([]byte{0, 0xff, 0xff, 0xff, 0x7f}, maxPieces)...)
	anchors := binary.LittleEndian.AppendUint16(make([]byte, 32), 1<<16-1)
	header := bytes.Repeat([]byte{0xff}, object.HeaderMax)
	copy(header, "HIKAE")
	w := cell.NewWriter(cell.Ident{Kind: kindData, Object: [16]byte{1}}, 30, 9000)
	_, _ = w.Write(make([]byte, 9000))
	file, _ := w.Finish()
	want := cell.Ident{Kind: kindData, Object: [16]byte{1}}
	return []bomb{
		{"pack table/2^32 entries", table, func(b []byte) error { _, err := decodePackTable(b); return err }},
		{"page/65535 entries", page, func(b []byte) error { _, err := decodePage(b, 0, 1<<16-1); return err }},
		{"recipe/lengths of 2^31", recipe, func(b []byte) error { _, err := decodeRecipe(b, 1<<31-1); return err }},
		{"anchors/65535 in none", anchors, func(b []byte) error { _, err := decodeAnchors(b); return err }},
		{"header/wraps", header, func(b []byte) error { _, err := object.ParseHeader(b); return err }},
		{"object/no header", file, func(b []byte) error {
			_, _, err := object.OpenFile(b, want, []object.Unwrapper{object.Clear{}})
			return err
		}},
		{"cells/noise of 32 MiB", bytes.Repeat([]byte{0xa5}, 32<<20), func(b []byte) error { _, _, err := cell.Repair(b); return err }},
		{"table/file of 2^31", file, func(b []byte) error {
			read := func(off, n int) ([]byte, error) { return b[len(b)-cell.Size:][:min(n, cell.Size)], nil }
			_, err := object.ReadTable(read, 1<<31, want, []object.Unwrapper{object.Clear{}})
			return err
		}},
		{"recovery sheet/8 MiB of lines", []byte(strings.Repeat("1 0000 0000 00\n", 600_000)), func(b []byte) error { _, _, err := parseSheet(b); return err }},
		{"key file/8 MiB", bytes.Repeat([]byte("ab "), 3<<20), func(b []byte) error { _, err := ParseKeyFile(b); return err }},
	}
}

// documentBombs are documents that are deep, long, or of numbers without end. They are a quarter of the
// longest object of this kind.
func documentBombs() (list []bomb) {
	const most = maxVital / 4
	root := publicOf(keyFromSeed(make([]byte, 32)))
	unsigned := func(b []byte) error { // what the root key did not sign is not read at all
		l := &ledger{}
		l.every, l.root = checkpointEvery, root
		_, err := l.openCheckpoint(append(make([]byte, signedMin), b...), 1)
		return err
	}
	inputs := map[string][]byte{
		"deep arrays":       bytes.Repeat([]byte("["), most),
		"deep objects":      bytes.Repeat([]byte(`{"a":`), most/5),
		"long number":       append(append([]byte(`{"n":1`), bytes.Repeat([]byte("0"), most)...), '}'),
		"exponent":          []byte(`{"n":1e999999999,"size":1e999999999}`),
		"empty points":      append(append([]byte(`{"points":[`), bytes.Repeat([]byte("{},"), most/3)...), `{}],"x":1}`...),
		"empty disks":       append(append([]byte(`{"disks":[`), bytes.Repeat([]byte("{},"), most/3)...), `{}],"x":1}`...),
		"empty blobs":       append(append([]byte(`{"blobs":[`), bytes.Repeat([]byte("{},"), most/3)...), `{}],"x":1}`...),
		"disks of numbers":  append(append([]byte(`{"disks":[`), bytes.Repeat([]byte("1,"), most/2)...), `1]}`...),
		"many chunks":       append(append([]byte(`{"blobs":[{"name":"b","size":1,"chunks":[`), bytes.Repeat([]byte(`"",`), most/3)...), `""]}]}`...),
		"chunks of numbers": append(append([]byte(`{"blobs":[{"name":"b","size":1,"chunks":[`), bytes.Repeat([]byte(`1,`), most/2)...), `1]}]}`...),
		"long name":         append(append([]byte(`{"`), bytes.Repeat([]byte("x"), most)...), `":1}`...),
	}
	for what, input := range inputs {
		for kind, v := range map[string]func() any{
			"manifest": func() any { return new(manifest) }, "header": func() any { return new(headerDocument) },
			"slot": func() any { return new(slotDocument) }, "verify state": func() any { return new(stateDocument) },
		} {
			list = append(list, bomb{kind + "/" + what, input, func(b []byte) error { return decodeJSON(b, v()) }})
		}
		list = append(list, bomb{"log record/" + what, input, func(b []byte) error { _, err := decodeRecord(b); return err }},
			bomb{"checkpoint/" + what, input, unsigned}, bomb{"writer key/" + what, input, func(b []byte) error { _, err := ParseWriterKey(b); return err }})
	}
	return append(list, bomb{"root entry/long", bytes.Repeat([]byte("data:"), 1<<20), func(b []byte) error { return new(rootEntry).UnmarshalText(b) }},
		bomb{"json/utf-8", append([]byte(`{"vm":"`), bytes.Repeat([]byte{0xff}, 1<<20)...), func(b []byte) error { return json.Unmarshal(b, new(manifest)) }})
}
