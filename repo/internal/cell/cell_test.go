package cell_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/stretchr/testify/require"
	"github.com/zeebo/blake3"

	"github.com/hikae/hikae/repo/internal/cell"
)

var ident = cell.Ident{
	Kind:   3,
	Object: [16]byte{0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf},
	Repo:   [16]byte{0xb0, 0xb1, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xbb, 0xbc, 0xbd, 0xbe, 0xbf},
}

// long says whether the slower figures are asked for.
func long() bool {
	tier := os.Getenv("HIKAE_TEST_TIER")
	return tier == "long" || tier == "release"
}

// content is n bytes of BLAKE3's extended output of a name: what vectors call a stream.
func content(name string, n int) []byte {
	p := make([]byte, n)
	h := blake3.New()
	_, _ = h.WriteString(name)
	_, _ = h.Digest().Read(p)
	return p
}

func build(t testing.TB, permille int, stream []byte) []byte {
	w := cell.NewWriter(ident, permille, len(stream))
	_, err := w.Write(stream)
	require.NoError(t, err)
	file, err := w.Finish()
	require.NoError(t, err)
	return file
}

func seeded(t testing.TB) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// sizes cluster at the edges: one under, exact, one over, of a cell and of the codes' limits.
var sizes = []int{
	0, 1, cell.Payload - 1, cell.Payload, cell.Payload + 1, 2 * cell.Payload, 2*cell.Payload + 1, 20000,
	99*cell.Payload + 7, 248 * cell.Payload, 248*cell.Payload + 1, 249*cell.Payload + 1, 300 * cell.Payload,
}

func TestRoundTrip(t *testing.T) {
	for _, permille := range []int{0, 30, 500, 1000} {
		for _, size := range sizes {
			if size > 20000 && permille%1000 == 0 && !long() {
				continue // the matrix of a large code 2 takes seconds under the race detector
			}
			t.Run(fmt.Sprintf("%d bytes, %d permille", size, permille), func(t *testing.T) {
				want := content("round trip", size)
				file := build(t, permille, want)
				stream, g, damaged, err := cell.Decode(file)
				require.NoError(t, err)
				require.Empty(t, damaged)
				require.True(t, bytes.Equal(want, stream))
				require.Equal(t, g.FileSize(), len(file))
				require.Equal(t, max(1, (size+4031)/4032), g.N)
				require.Equal(t, max(2, (g.N*permille+999)/1000), g.M)
				require.Equal(t, ident.Object, g.Object)
				require.Equal(t, [8]byte(ident.Repo[:8]), g.RepoPrefix)
			})
		}
	}
}

// What an earlier object left in the buffer must not be seen in a later one.
func TestReuseGivesTheSameBytes(t *testing.T) {
	rng := seeded(t)
	w := cell.NewWriter(ident, 100, 0)
	for range 30 {
		stream := content("reuse", sizes[rng.IntN(len(sizes))])
		w.Reset(ident)
		for rest := stream; len(rest) > 0; {
			n := min(len(rest), 1+rng.IntN(9000))
			_, err := w.Write(rest[:n])
			require.NoError(t, err)
			rest = rest[n:]
		}
		require.Equal(t, len(stream), w.Len())
		file, err := w.Finish()
		require.NoError(t, err)
		require.True(t, bytes.Equal(build(t, 100, stream), file))
	}
}

func TestWriterRead(t *testing.T) {
	rng, stream := seeded(t), content("read", 50000)
	w := cell.NewWriter(ident, 30, len(stream))
	_, err := w.Write(stream)
	require.NoError(t, err)
	for range 200 {
		off := rng.IntN(len(stream))
		p := make([]byte, rng.IntN(len(stream)-off+1))
		w.Read(p, off)
		require.True(t, bytes.Equal(stream[off:off+len(p)], p))
	}
}

func TestTooLong(t *testing.T) {
	w := cell.NewWriter(ident, 30, 0)
	_, err := w.Write(make([]byte, cell.MaxStream+1))
	require.ErrorIs(t, err, cell.ErrTooLong)
	require.Zero(t, w.Len())
}

func TestSpan(t *testing.T) {
	rng, stream := seeded(t), content("span", 30*cell.Payload+17)
	file := build(t, 30, stream)
	for range 2000 {
		off := rng.IntN(len(stream))
		n := rng.IntN(min(len(stream)-off, 3*cell.Payload) + 1)
		fileOff, fileLen := cell.StreamSpan(off, n)
		require.Zero(t, fileOff%cell.Size+fileLen%cell.Size)
		cells := bytes.Clone(file[fileOff : fileOff+fileLen])
		dst := make([]byte, n)
		cell.Strip(dst, cells, off, n)
		require.True(t, bytes.Equal(stream[off:off+n], dst))
		cell.Strip(cells, cells, off, n)
		require.True(t, bytes.Equal(stream[off:off+n], cells[:n]), "in place")
	}
}

func TestCheckSpan(t *testing.T) {
	file := bytes.Clone(build(t, 100, content("check span", 20*cell.Payload)))
	require.Empty(t, cell.CheckSpan(file[4*cell.Size:9*cell.Size], 4))
	file[6*cell.Size+100] ^= 1
	copy(file[7*cell.Size:8*cell.Size], file[8*cell.Size:])
	require.Equal(t, []int{6, 7}, cell.CheckSpan(file[4*cell.Size:9*cell.Size], 4))
	require.Equal(t, []int{9}, cell.CheckSpan(file[8*cell.Size:10*cell.Size-1], 8))
	require.Equal(t, []int{3, 4}, cell.CheckSpan(file[4*cell.Size:6*cell.Size], 3), "not these cells")
	require.Empty(t, cell.CheckSpan(nil, 0))
}

// reseal puts the right tags under a changed cell: what a forger, or a writer with a bug, could have written.
func reseal(c []byte) {
	var d xxhash.Digest
	d.ResetWithSeed(0x9E3779B97F4A7C15)
	_, _ = d.Write(c[:4080])
	binary.LittleEndian.PutUint64(c[4080:], xxhash.Sum64(c[:4080]))
	binary.LittleEndian.PutUint64(c[4088:], d.Sum64())
}

func TestParseTrailerRefuses(t *testing.T) {
	good := build(t, 100, content("trailer", 20*cell.Payload))[:cell.Size]
	u32 := func(at, v int) func([]byte) {
		return func(c []byte) { binary.LittleEndian.PutUint32(c[at:], uint32(v)) }
	}
	set := func(at int, v byte) func([]byte) { return func(c []byte) { c[at] = v } }
	for name, change := range map[string]func([]byte){
		"magic":               set(4032, 'h'),
		"version":             set(4036, 2),
		"unknown code":        set(4038, 4),
		"code not of n and m": set(4038, 3),
		"reserved byte":       set(4039, 1),
		"ordinal n+m":         u32(4056, 22),
		"huge ordinal":        u32(4056, -1),
		"n not of the stream": u32(4060, 21),
		"n zero":              u32(4060, 0),
		"m zero":              u32(4064, 0),
		"m one":               u32(4064, 1),
		"m over n":            u32(4064, 21),
		"m huge":              u32(4064, -1),
		"stream too long":     u32(4068, cell.MaxStream+1),
		"stream of other n":   u32(4068, 20*cell.Payload+1),
	} {
		t.Run(name, func(t *testing.T) {
			c := bytes.Clone(good)
			change(c)
			reseal(c)
			_, _, err := cell.ParseTrailer(c)
			require.ErrorIs(t, err, cell.ErrCell)
		})
	}
	for _, at := range []int{4036, 4038} { // version, code
		c := bytes.Clone(good)
		c[at] = 9
		reseal(c)
		_, _, err := cell.ParseTrailer(c)
		require.ErrorIs(t, err, cell.ErrVersion)
		_, _, _, err = cell.Decode(c)
		require.ErrorIs(t, err, cell.ErrVersion)
		_, _, _, err = cell.Decode(slices.Concat(c, build(t, 30, nil)))
		require.NoError(t, err, "a stray one is damage")
	}
	c := bytes.Clone(good)
	reseal(c)
	g, ordinal, err := cell.ParseTrailer(c)
	require.NoError(t, err)
	require.Zero(t, ordinal)
	require.Equal(t, cell.Geometry{
		N: 20, M: 2, Code: 2, Stream: 20 * cell.Payload, Kind: 3, Object: ident.Object, RepoPrefix: [8]byte(ident.Repo[:8]),
	}, g)
	for _, n := range []int{0, 1, 63, 64, cell.Size - 1, cell.Size + 1} {
		_, _, err := cell.ParseTrailer(append(bytes.Clone(good), 0)[:n])
		require.ErrorIs(t, err, cell.ErrCell)
	}
}

func TestPaddingIsChecked(t *testing.T) {
	file := bytes.Clone(build(t, 100, content("padding", 5000)))
	file[cell.Size+4000] = 1
	reseal(file[cell.Size : 2*cell.Size])
	_, _, _, err := cell.Decode(file)
	require.ErrorIs(t, err, cell.ErrPadding)
	_, _, err = cell.Repair(file)
	require.ErrorIs(t, err, cell.ErrPadding)
}

// mends holds Check, Decode and Repair of a hurt file against what was written.
func mends(t testing.TB, file, stream, hurt []byte, wantDamaged []int) {
	t.Helper()
	got, _, damaged, err := cell.Decode(hurt)
	require.NoError(t, err)
	require.True(t, bytes.Equal(stream, got))
	require.Equal(t, wantDamaged, damaged)
	fixed, damaged, err := cell.Repair(hurt)
	require.NoError(t, err)
	require.Equal(t, wantDamaged, damaged)
	require.True(t, bytes.Equal(file, fixed))
	_, damaged, err = cell.Check(hurt)
	require.NoError(t, err)
	require.Equal(t, wantDamaged, damaged)
}

// harm damages the given cells, each in one of several ways.
func harm(rng *rand.Rand, file []byte, ordinals []int) []byte {
	hurt := bytes.Clone(file)
	for _, i := range ordinals {
		c := hurt[i*cell.Size : (i+1)*cell.Size]
		switch rng.IntN(4) {
		case 0:
			clear(c)
		case 1:
			c[rng.IntN(len(c))] ^= 1 << rng.IntN(8)
		case 2:
			at := rng.IntN(len(c))
			copy(c[at:], content("noise", len(c)-at))
			c[at] ^= 1
		case 3:
			for k := range c {
				c[k] ^= 0xFF
			}
		}
	}
	return hurt
}

func TestAnyLostCellsAreMended(t *testing.T) {
	rng := seeded(t)
	for _, c := range []struct{ size, permille, rounds int }{
		{100, 30, 200}, {5000, 30, 400}, {9 * cell.Payload, 500, 1000}, {20*cell.Payload - 3, 150, 300},
		{80 * cell.Payload, 250, 20}, {230 * cell.Payload, 100, 1}, {300 * cell.Payload, 30, 20},
		{300 * cell.Payload, 1000, 5},
	} {
		t.Run(fmt.Sprintf("%d bytes, %d permille", c.size, c.permille), func(t *testing.T) {
			stream := content("lost", c.size)
			file := build(t, c.permille, stream)
			g, _, err := cell.ParseTrailer(file[:cell.Size])
			require.NoError(t, err)
			if long() {
				c.rounds *= 10
			}
			for range c.rounds {
				lost := rng.Perm(g.Cells())[:1+rng.IntN(g.M)]
				slices.Sort(lost)
				mends(t, file, stream, harm(rng, file, lost), lost)
			}
		})
	}
}

func TestFullPackIsMended(t *testing.T) {
	rng, rounds := seeded(t), 3
	if long() {
		rounds = 40
	}
	stream := content("full pack", 16<<20)
	file := build(t, 30, stream)
	g, _, err := cell.ParseTrailer(file[:cell.Size])
	require.NoError(t, err)
	require.Equal(t, cell.CodeLeopard, g.Code)
	for i := range rounds {
		lost := rng.Perm(g.Cells())[:g.M]
		if i == 0 { // a run of neighbours, as a bad stretch of a disk takes it
			from := rng.IntN(g.N - g.M)
			for k := range lost {
				lost[k] = from + k
			}
		}
		slices.Sort(lost)
		mends(t, file, stream, harm(rng, file, lost), lost)
	}
}

func TestBeyondRepair(t *testing.T) {
	rng, stream := seeded(t), content("beyond", 40*cell.Payload-5)
	file := build(t, 100, stream)
	for range 200 {
		lost := rng.Perm(44)[:5+rng.IntN(20)]
		slices.Sort(lost)
		hurt := harm(rng, file, lost)
		got, g, damaged, err := cell.Decode(hurt)
		var damage *cell.DamageError
		require.ErrorAs(t, err, &damage)
		require.Equal(t, lost, damage.Ordinals)
		require.Equal(t, lost, damaged)
		require.Equal(t, 4, damage.Budget)
		require.Equal(t, 40, g.N)
		want := bytes.Clone(stream)
		for _, i := range lost {
			clear(want[min(i*cell.Payload, len(want)):min((i+1)*cell.Payload, len(want))])
		}
		require.True(t, bytes.HasPrefix(want, got))
		require.Equal(t, len(bytes.TrimRight(want, "\x00")), len(bytes.TrimRight(got, "\x00")))
		_, _, err = cell.Repair(hurt)
		require.ErrorAs(t, err, &damage)
		_, _, err = cell.Check(hurt)
		require.ErrorAs(t, err, &damage)
	}
	for _, none := range [][]byte{nil, {}, make([]byte, 100), make([]byte, 10*cell.Size)} {
		got, g, _, err := cell.Decode(none)
		var damage *cell.DamageError
		require.ErrorAs(t, err, &damage)
		require.Empty(t, got)
		require.Zero(t, g)
	}
}

func TestTruncationAtEveryLength(t *testing.T) {
	stream := content("truncation", 3*cell.Payload+100)
	file := build(t, 500, stream) // 4+2
	for n := range len(file) {
		got, _, damaged, err := cell.Decode(file[:n])
		missing := 6 - n/cell.Size
		require.Len(t, damaged, min(missing, 6)*min(1, n/cell.Size), "%d bytes", n)
		if missing <= 2 {
			require.NoError(t, err)
			require.True(t, bytes.Equal(stream, got))
			continue
		}
		var damage *cell.DamageError
		require.ErrorAs(t, err, &damage)
		require.True(t, bytes.HasPrefix(stream, got))
		require.Len(t, got, min(len(stream), n/cell.Size*cell.Payload))
	}
}

func TestEveryFlippedBit(t *testing.T) {
	stream := content("flip", 200)
	file := build(t, 30, stream) // 1+2
	step := 7                    // coprime to 8: all bits of a byte and all bytes have their turn
	if long() {
		step = 1
	}
	hurt := bytes.Clone(file)
	for bit := 0; bit < len(file)*8; bit += step {
		hurt[bit/8] ^= 1 << (bit % 8)
		got, _, damaged, err := cell.Decode(hurt)
		if err != nil || !bytes.Equal(stream, got) || len(damaged) != 1 || damaged[0] != bit/8/cell.Size {
			t.Fatalf("bit %d: damaged %v, %v", bit, damaged, err)
		}
		hurt[bit/8] ^= 1 << (bit % 8)
	}
}

func TestMisplacedCells(t *testing.T) {
	stream := content("misplaced", 10*cell.Payload)
	file := build(t, 200, stream) // 10+2
	cells := func(f []byte) [][]byte { return slices.Collect(slices.Chunk(f, cell.Size)) }
	other := cells(func() []byte {
		w := cell.NewWriter(cell.Ident{Kind: 3, Object: [16]byte{1}, Repo: ident.Repo}, 200, 0)
		_, _ = w.Write(stream)
		f, err := w.Finish()
		require.NoError(t, err)
		return f
	}())
	for name, c := range map[string]struct {
		change  func(c [][]byte) [][]byte
		damaged []int
	}{
		"two swapped":      {func(c [][]byte) [][]byte { c[2], c[7] = c[7], c[2]; return c }, []int{2, 7}},
		"all in reverse":   {func(c [][]byte) [][]byte { slices.Reverse(c); return c }, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}},
		"one missing":      {func(c [][]byte) [][]byte { return slices.Delete(c, 9, 10) }, []int{9, 10, 11}},
		"one twice":        {func(c [][]byte) [][]byte { c[3] = c[4]; return c }, []int{3}},
		"one inserted":     {func(c [][]byte) [][]byte { return slices.Insert(c, 11, c[0]) }, []int{11, 12}},
		"another object's": {func(c [][]byte) [][]byte { c[0], c[11] = other[0], other[11]; return c }, []int{0, 11}},
		"a byte too many":  {func(c [][]byte) [][]byte { return append(c, []byte{0}) }, []int{12}},
		"another file after it": {
			func(c [][]byte) [][]byte { return append(c, other[:11]...) }, []int{12},
		},
	} {
		t.Run(name, func(t *testing.T) {
			mends(t, file, stream, slices.Concat(c.change(cells(file))...), c.damaged)
		})
	}
}

// Random damage never gives wrong bytes without an error, however much of it there is.
func TestNeverWrongBytes(t *testing.T) {
	rng, stream := seeded(t), content("never", 12*cell.Payload-9)
	file := build(t, 300, stream)
	for range 2000 {
		hurt := bytes.Clone(file)
		for range 1 + rng.IntN(6) {
			from := rng.IntN(len(hurt))
			to := min(len(hurt), from+1+rng.IntN(3*cell.Size))
			switch rng.IntN(3) {
			case 0:
				clear(hurt[from:to])
			case 1:
				copy(hurt[from:to], file[rng.IntN(len(file)):])
			case 2:
				hurt = slices.Delete(hurt, from, to)
			}
			if len(hurt) == 0 {
				break
			}
		}
		got, _, _, err := cell.Decode(hurt)
		if err == nil && !bytes.Equal(stream, got) {
			t.Fatal("wrong bytes")
		}
		if damage := (*cell.DamageError)(nil); err != nil && !errors.As(err, &damage) {
			t.Fatal(err)
		}
	}
}

// FuzzDecode edits a good file, four bytes an edit, and gives right tags to the cells that resealed has bits for: so it
// gets past the tags to everything behind them.
func FuzzDecode(f *testing.F) {
	stream := content("fuzz", 3*cell.Payload-5)
	base := build(f, 300, stream) // 3+2
	f.Add([]byte{}, uint8(0))
	f.Add([]byte{0, 0, 9, 1, 1, 0, 8, 1}, uint8(1))
	f.Add([]byte{2, 0x40, 0, 0}, uint8(0))
	f.Add([]byte{3, 0, 8, 3}, uint8(2))
	f.Add([]byte{4, 1, 0, 2}, uint8(0))
	for field := range byte(16) { // each field of a trailer
		f.Add([]byte{1, 0, 4 * field, 1, 1, 1, 4 * field, 0xFF}, uint8(3))
	}
	f.Fuzz(func(t *testing.T, edits []byte, resealed uint8) {
		file := bytes.Clone(base)
		for e := range slices.Chunk(edits, 4) {
			if len(e) == 4 && len(file) > 0 {
				file = edit(file, e[0], int(e[1])<<8|int(e[2]), e[3])
			}
		}
		for i, c := range slices.Collect(slices.Chunk(file, cell.Size)) {
			if len(c) == cell.Size && i < 8 && resealed>>i&1 == 1 {
				reseal(c)
			}
		}
		decodeAnything(t, file, stream, resealed == 0)
	})
}

func edit(file []byte, op byte, at int, value byte) []byte {
	switch cells := len(file) / cell.Size; {
	case op%5 == 1 && cells > 0: // in the trailer of one cell
		file[at>>8%cells*cell.Size+cell.Payload+at%cell.Trailer] = value
	case op%5 == 2:
		file = file[:at%len(file)]
	case op%5 == 3 && cells > 0: // one cell over another
		from := file[int(value)%cells*cell.Size:]
		copy(file[at%cells*cell.Size:], bytes.Clone(from[:cell.Size]))
	case op%5 == 4:
		file = append(file, bytes.Repeat([]byte{value}, at%(2*cell.Size))...)
	default:
		file[at%len(file)] = value
	}
	return file
}

// decodeAnything: whatever the file, what comes out is whole, stable, and, where nobody forged tags, what was written.
func decodeAnything(t *testing.T, file, written []byte, honest bool) {
	stream, g, _, err := cell.Decode(file)
	if err != nil {
		return
	}
	if len(stream) != g.Stream || honest && !bytes.Equal(written, stream) {
		t.Fatal("wrong bytes")
	}
	fixed, _, err := cell.Repair(file)
	require.NoError(t, err)
	again, g2, damaged, err := cell.Decode(fixed)
	require.NoError(t, err)
	require.Empty(t, damaged)
	require.Equal(t, g, g2)
	require.True(t, bytes.Equal(stream, again))
}

// Cells that are good one by one can belong to different files: their parity tells.
func TestConsistent(t *testing.T) {
	for _, n := range []int{1, cell.Payload, cell.Payload + 1, 300 * cell.Payload} {
		id := cell.Ident{Kind: 3, Object: [16]byte{7}}
		file := func(fill byte) []byte {
			w := cell.NewWriter(id, 30, n)
			_, err := w.Write(bytes.Repeat([]byte{fill}, n))
			require.NoError(t, err)
			f, err := w.Finish()
			require.NoError(t, err)
			return f
		}
		one, two := file(1), file(2)
		require.True(t, cell.Consistent(one), n)
		for _, i := range []int{0, len(one)/cell.Size - 1} {
			mixed := bytes.Clone(one)
			copy(mixed[i*cell.Size:(i+1)*cell.Size], two[i*cell.Size:])
			_, damaged, err := cell.Check(mixed)
			require.NoError(t, err)
			require.Empty(t, damaged)
			require.False(t, cell.Consistent(mixed), "%d bytes, cell %d", n, i)
		}
		one[5] ^= 1
		require.False(t, cell.Consistent(one), "it is damaged")
	}
	require.False(t, cell.Consistent(nil))
}
