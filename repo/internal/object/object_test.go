package object_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"github.com/zeebo/blake3"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/cell"
	"github.com/hikae/hikae/repo/internal/object"
)

var (
	repo   = [16]byte{0xb0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	master = object.Master{1, 2, 3}
	cheap  = object.Cost{Time: 1, MemoryKiB: 64, Threads: 1}
)

func long() bool {
	tier := os.Getenv("HIKAE_TEST_TIER")
	return tier == "long" || tier == "release"
}

func seeded(t testing.TB) *mrand.Rand {
	seed := mrand.Uint64()
	t.Logf("seed %d", seed)
	return mrand.New(mrand.NewPCG(seed, 0))
}

// content is n bytes of BLAKE3's extended output of a name.
func content(name string, n int) []byte {
	p := make([]byte, n)
	h := blake3.New()
	_, _ = h.WriteString(name)
	_, _ = h.Digest().Read(p)
	return p
}

func ident(b *object.Builder) cell.Ident {
	return cell.Ident{Kind: b.Kind(), Repo: repo, Object: b.ID()}
}

func newBuilder(t testing.TB, suite, kind uint8, wraps ...object.Wrapper) *object.Builder {
	b, err := object.NewBuilder(repo, suite, kind, 100, 1<<16, wraps)
	require.NoError(t, err)
	return b
}

// fill appends one frame for each content, plain.
func fill(t testing.TB, b *object.Builder, contents ...[]byte) {
	for _, c := range contents {
		_, err := b.Append(object.TypeBlock, blake3.Sum256(c), object.CodecPlain, len(c), c)
		require.NoError(t, err)
	}
}

func seal(t testing.TB, b *object.Builder) []byte {
	file, err := b.Seal()
	require.NoError(t, err)
	return bytes.Clone(file)
}

func some(n int) (contents [][]byte) {
	for i := range n {
		contents = append(contents, content(fmt.Sprint("frame ", i), i*977%5000))
	}
	return contents
}

var suites = []struct {
	name  string
	suite uint8
	wraps []object.Wrapper
	un    []object.Unwrapper
}{
	{"clear", object.SuiteClear, nil, []object.Unwrapper{object.Clear{}}},
	{"aes", object.SuiteAES, []object.Wrapper{master}, []object.Unwrapper{master}},
}

func TestRoundTrip(t *testing.T) {
	for _, s := range suites {
		for _, frames := range []int{0, 1, 2, 40} {
			t.Run(fmt.Sprintf("%s, %d frames", s.name, frames), func(t *testing.T) {
				b, contents := newBuilder(t, s.suite, object.KindData, s.wraps...), some(frames)
				fill(t, b, contents...)
				require.Equal(t, frames, b.Frames())
				want, length := b.Entries(), b.SealedLen()
				file := seal(t, b)
				o, damaged, err := object.OpenFile(file, ident(b), s.un)
				require.NoError(t, err)
				require.Empty(t, damaged)
				require.Equal(t, length, b.Len())
				require.Equal(t, want, append([]object.Entry{}, o.Entries()...))
				for i, c := range contents {
					require.Equal(t, blake3.Sum256(c), o.Entries()[i].ID)
					got, err := o.Content(i)
					require.NoError(t, err)
					require.True(t, bytes.Equal(c, got))
				}
			})
		}
	}
}

func TestCodecs(t *testing.T) {
	b := newBuilder(t, object.SuiteAES, object.KindManifest, master)
	plain := bytes.Repeat([]byte("all work and no play "), 500)
	for _, level := range []pipe.Compression{pipe.None, pipe.Fast, pipe.Default, pipe.Max} {
		enc, err := pipe.NewEncoder(level, 1<<16)
		require.NoError(t, err)
		data, codec := enc.Encode(nil, plain)
		_, err = b.Append(object.TypeDocument, blake3.Sum256(plain), uint8(codec), len(plain), data)
		require.NoError(t, err)
	}
	zw, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	_, err = b.Append(object.TypeDocument, [32]byte{}, object.CodecZstd, len(plain)+1, zw.EncodeAll(plain, nil))
	require.NoError(t, err)

	o, _, err := object.OpenFile(seal(t, b), ident(b), []object.Unwrapper{master})
	require.NoError(t, err)
	for i := range 4 {
		got, err := o.Content(i)
		require.NoError(t, err)
		require.Equal(t, plain, got)
	}
	_, err = o.Content(4) // sealed as it should be, of another length than promised
	require.ErrorIs(t, err, pipe.ErrDecode)
	require.ErrorAs(t, err, new(*object.CorruptError))
}

func TestAppendRefuses(t *testing.T) {
	b := newBuilder(t, object.SuiteAES, object.KindData, master)
	for name, c := range map[string]struct {
		typ, codec uint8
		plain      int
	}{
		"type of its own table": {0, 0, 5}, "void from the start": {6, 0, 5}, "unknown type": {8, 0, 5}, "unknown codec": {1, 4, 5}, "a page cannot be assembled": {2, 3, 5},
		"plain of another length": {1, 0, 6}, "negative": {1, 1, -1}, "too long": {1, 1, object.MaxPlain + 1},
	} {
		_, err := b.Append(c.typ, [32]byte{}, c.codec, c.plain, []byte("hello"))
		require.Error(t, err, name)
	}
	require.Zero(t, b.Frames())
	big := make([]byte, 30<<20)
	fill(t, b, big, big)
	_, err := b.Append(object.TypeBlock, [32]byte{}, object.CodecPlain, 8<<20, big[:8<<20])
	require.ErrorIs(t, err, object.ErrFull)
	fit := cell.MaxStream - b.SealedLen() - 44 - object.Overhead
	_, err = b.Append(object.TypeBlock, [32]byte{}, object.CodecPlain, fit+1, big[:fit+1])
	require.ErrorIs(t, err, object.ErrFull)
	fill(t, b, big[:fit])
	_, err = b.Seal()
	require.NoError(t, err)
	require.Equal(t, cell.MaxStream, b.Len())
	_, err = b.Append(object.TypeBlock, [32]byte{}, object.CodecPlain, 0, nil)
	require.Error(t, err, "sealed already")
	_, err = b.Seal()
	require.Error(t, err, "sealed already: the table's nonce is spent")

	_, err = object.NewBuilder(repo, 2, object.KindData, 30, 0, []object.Wrapper{master})
	require.ErrorAs(t, err, new(*object.UnsupportedError))
	_, err = object.NewBuilder(repo, object.SuiteAES, 0, 30, 0, []object.Wrapper{master})
	require.Error(t, err)
	_, err = object.NewBuilder(repo, object.SuiteAES, object.KindData, 30, 0, nil)
	require.Error(t, err, "no way to the key")
	_, err = object.NewBuilder(repo, object.SuiteAES, object.KindData, 30, 0, []object.Wrapper{master, object.Clear{}})
	require.Error(t, err, "a sealed object with its key beside it")
	_, err = object.NewBuilder(repo, object.SuiteClear, object.KindData, 30, 0, []object.Wrapper{master})
	require.Error(t, err)
	_, err = object.NewBuilder(repo, object.SuiteAES, object.KindData, 30, 0, slices.Repeat([]object.Wrapper{master}, 17))
	require.Error(t, err)
}

// Check must look at what will be written, not at what was given.
func TestCheckOpensFromTheCells(t *testing.T) {
	for _, s := range suites {
		b, err := object.NewBuilder(repo, s.suite, object.KindData, 30, 1<<20, s.wraps)
		require.NoError(t, err)
		var scratch []byte
		for _, c := range some(50) {
			ref, err := b.Append(object.TypeBlock, [32]byte{}, object.CodecPlain, len(c), c)
			require.NoError(t, err)
			got, err := b.Check(ref, scratch)
			require.NoError(t, err)
			require.True(t, bytes.Equal(c, got))
			scratch = got[:0]
			ref.Plain++
			_, err = b.Check(ref, nil)
			require.ErrorAs(t, err, new(*object.CorruptError))
			ref.Offset, ref.Plain = uint32(b.Len()), ref.Plain-1
			_, err = b.Check(ref, nil)
			require.ErrorAs(t, err, new(*object.CorruptError))
		}
	}
}

// A frame that failed its check keeps its place and its nonce, and says so.
func TestVoid(t *testing.T) {
	b := newBuilder(t, object.SuiteAES, object.KindData, master)
	fill(t, b, []byte("one"), []byte("two"), []byte("three"))
	b.Void(b.Entries()[1].FrameRef)
	o, _, err := object.OpenFile(seal(t, b), ident(b), []object.Unwrapper{master})
	require.NoError(t, err)
	require.Equal(t, object.TypeVoid, o.Entries()[1].Type)
	require.Zero(t, o.Entries()[1].ID)
	_, err = o.Frame(1)
	require.ErrorAs(t, err, new(*object.CorruptError), "it was sealed as something else")
	got, err := o.Content(2)
	require.NoError(t, err)
	require.Equal(t, "three", string(got))
}

// frames returns the header, a cipher, the entries and the stream of a small object.
func frames(t *testing.T, b *object.Builder, un []object.Unwrapper) (*object.Header, *object.Cipher, []object.Entry, []byte) {
	file := seal(t, b)
	o, _, err := object.OpenFile(file, ident(b), un)
	require.NoError(t, err)
	stream, _, _, err := cell.Decode(file)
	require.NoError(t, err)
	return o.Header, o.Cipher(), o.Entries(), stream
}

func TestFrameOpensOnlyInItsPlace(t *testing.T) {
	for _, s := range suites {
		t.Run(s.name, func(t *testing.T) {
			b := newBuilder(t, s.suite, object.KindData, s.wraps...)
			fill(t, b, []byte("the one frame"), []byte("another frame"))
			_, c, entries, stream := frames(t, b, s.un)
			cut := func(ref object.FrameRef) []byte { return stream[ref.Offset : ref.Offset+ref.Stored] }
			first, second := entries[0].FrameRef, entries[1].FrameRef
			got, err := c.OpenFrame(nil, cut(first), first)
			require.NoError(t, err)
			require.Equal(t, "the one frame", string(got))

			refuse := func(name string, c *object.Cipher, sealed []byte, change func(r *object.FrameRef)) {
				ref := first
				change(&ref)
				_, err := c.OpenFrame(nil, sealed, ref)
				var corrupt *object.CorruptError
				require.ErrorAs(t, err, &corrupt, name)
				require.Equal(t, int(ref.Offset), corrupt.Offset)
			}
			same := func(*object.FrameRef) {}
			refuse("swapped", c, cut(second), same)
			refuse("ordinal", c, cut(first), func(r *object.FrameRef) { r.Ordinal = 1 })
			refuse("type", c, cut(first), func(r *object.FrameRef) { r.Type = object.TypePage })
			refuse("codec", c, cut(first), func(r *object.FrameRef) { r.Codec = object.CodecS2 })
			refuse("plain length", c, cut(first), func(r *object.FrameRef) { r.Plain++ })
			refuse("stored length", c, cut(first)[1:], func(r *object.FrameRef) { r.Stored-- })
			refuse("cut short", c, cut(first)[1:], same)
			refuse("shorter than a tag", c, cut(first)[:15], func(r *object.FrameRef) { r.Stored = 15 })
			for bit := range len(cut(first)) * 8 {
				sealed := bytes.Clone(cut(first))
				sealed[bit/8] ^= 1 << (bit % 8)
				refuse("flipped", c, sealed, same)
			}
			require.NoError(t, b.Reset())
			fill(t, b, []byte("the one frame"), []byte("another frame"))
			_, other, _, _ := frames(t, b, s.un)
			refuse("another object's key", other, cut(first), same)
		})
	}
}

// Under the same data key, an object of another repository, kind or id does not pass for this one: the header's
// commitment holds the ids, and the frames hold all of it.
func TestHeaderIsBound(t *testing.T) {
	b := newBuilder(t, object.SuiteClear, object.KindData)
	fill(t, b, []byte("content"))
	h, _, entries, stream := frames(t, b, []object.Unwrapper{object.Clear{}})
	key := object.Key(h.Wraps[0].Body)
	for name, change := range map[string]func(h *object.Header){
		"repository": func(h *object.Header) { h.Repo[3] ^= 1 },
		"object":     func(h *object.Header) { h.Object[15] ^= 1 },
		"commitment": func(h *object.Header) { h.Commitment[31] ^= 1 },
	} {
		changed := *h
		change(&changed)
		_, err := object.NewCipher(&changed, key)
		require.ErrorAs(t, err, new(*object.CorruptError), name)
	}
	changed := *h // kind and suite are not in the commitment: they are in each frame
	changed.Kind = object.KindMeta
	c, err := object.NewCipher(&changed, key)
	require.NoError(t, err)
	_, err = c.OpenFrame(nil, stream[entries[0].Offset:][:entries[0].Stored], entries[0].FrameRef)
	require.ErrorAs(t, err, new(*object.CorruptError))
}

func TestWantedObject(t *testing.T) {
	b := newBuilder(t, object.SuiteAES, object.KindManifest, master)
	fill(t, b, []byte("x"))
	file, good := seal(t, b), ident(b)
	for name, change := range map[string]func(w *cell.Ident){
		"kind": func(w *cell.Ident) { w.Kind = object.KindData }, "repository": func(w *cell.Ident) { w.Repo[15]++ },
		"object": func(w *cell.Ident) { w.Object[0]++ },
	} {
		want := good
		change(&want)
		_, _, err := object.OpenFile(file, want, []object.Unwrapper{master})
		require.ErrorAs(t, err, new(*object.CorruptError), name)
		_, err = object.ReadTable(reader(file, nil), int64(len(file)), want, []object.Unwrapper{master})
		require.ErrorAs(t, err, new(*object.CorruptError), name)
	}
	good.Object = [16]byte{}
	_, _, err := object.OpenFile(file, good, []object.Unwrapper{master})
	require.NoError(t, err)
}

// A second object's stream in this one's cells: all seals hold, the names differ.
func TestStreamUnderAnotherName(t *testing.T) {
	b := newBuilder(t, object.SuiteAES, object.KindManifest, master)
	fill(t, b, []byte("x"))
	stream, _, _, err := cell.Decode(seal(t, b))
	require.NoError(t, err)
	w := cell.NewWriter(cell.Ident{Kind: object.KindManifest, Repo: repo, Object: [16]byte{1}}, 30, 0)
	_, _ = w.Write(stream)
	file, err := w.Finish()
	require.NoError(t, err)
	_, _, err = object.OpenFile(file, ident(b), []object.Unwrapper{master})
	require.ErrorAs(t, err, new(*object.CorruptError))
}

func reader(file []byte, reads *int) func(off, n int) ([]byte, error) {
	return func(off, n int) ([]byte, error) {
		if reads != nil {
			*reads++
		}
		return bytes.Clone(file[min(off, len(file)):min(off+n, len(file))]), nil
	}
}

func TestReadTable(t *testing.T) {
	identity, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	many := object.AgeRecipients(slices.Repeat([]age.Recipient{identity.Recipient()}, 60))
	for _, c := range []struct {
		frames, reads int
		wraps         []object.Wrapper
	}{
		{0, 3, []object.Wrapper{master}}, {100, 3, []object.Wrapper{master}}, {1024, 3, []object.Wrapper{master}},
		{1025, 4, []object.Wrapper{master}}, {5000, 4, []object.Wrapper{master}},
		{3, 4, []object.Wrapper{many, master}}, // a header of more than one cell
	} {
		t.Run(fmt.Sprintf("%d frames, %d wraps", c.frames, len(c.wraps)), func(t *testing.T) {
			b := newBuilder(t, object.SuiteAES, object.KindData, c.wraps...)
			for i := range c.frames {
				fill(t, b, content(fmt.Sprint(i), 100+i%7))
			}
			want, file, reads := b.Entries(), seal(t, b), 0
			table, err := object.ReadTable(reader(file, &reads), int64(len(file)), ident(b), []object.Unwrapper{master})
			require.NoError(t, err)
			require.Equal(t, c.reads, reads)
			require.Equal(t, want, table.Entries)
			for _, e := range table.Entries[:min(10, c.frames)] {
				off, n := cell.StreamSpan(int(e.Offset), int(e.Stored))
				cells := bytes.Clone(file[off : off+n])
				cell.Strip(cells, cells, int(e.Offset), int(e.Stored))
				got, err := table.Cipher.OpenFrame(cells, cells[:e.Stored], e.FrameRef)
				require.NoError(t, err)
				require.Equal(t, e.ID, blake3.Sum256(got))
			}
		})
	}
}

func TestReadTableOfDamage(t *testing.T) {
	rng := seeded(t)
	b := newBuilder(t, object.SuiteAES, object.KindData, master)
	fill(t, b, some(30)...)
	want, file := b.Entries(), seal(t, b)
	for range 500 {
		hurt := bytes.Clone(file)
		hurt[rng.IntN(len(hurt))] ^= 1 << rng.IntN(8)
		hurt = hurt[:len(hurt)-rng.IntN(2)*rng.IntN(len(hurt))]
		table, err := object.ReadTable(reader(hurt, nil), int64(len(hurt)), ident(b), []object.Unwrapper{master})
		if err == nil {
			require.Equal(t, want, table.Entries)
			continue
		}
		typed := errors.Is(err, cell.ErrCell) || errors.Is(err, object.ErrShort) || errors.Is(err, object.ErrNoKey) ||
			errors.As(err, new(*object.CorruptError)) || errors.As(err, new(*object.UnsupportedError))
		require.True(t, typed, "%v", err)
	}
	broken := errors.New("no such disk")
	_, err := object.ReadTable(func(int, int) ([]byte, error) { return nil, broken }, int64(len(file)), ident(b), nil)
	require.ErrorIs(t, err, broken)
}

// Every bit of a small object: mended, or refused, never other content.
func TestEveryFlippedBit(t *testing.T) {
	step := 13
	if long() {
		step = 1
	}
	for _, s := range suites {
		b := newBuilder(t, s.suite, object.KindLog, s.wraps...)
		fill(t, b, []byte("record"))
		file := seal(t, b)
		for bit := 0; bit < len(file)*8; bit += step {
			file[bit/8] ^= 1 << (bit % 8)
			o, damaged, err := object.OpenFile(file, ident(b), s.un)
			require.NoError(t, err)
			require.Equal(t, []int{bit / 8 / cell.Size}, damaged)
			got, err := o.Content(0)
			require.NoError(t, err)
			require.Equal(t, "record", string(got))
			file[bit/8] ^= 1 << (bit % 8)
		}
		stream, _, _, err := cell.Decode(file) // and without the cells' help
		require.NoError(t, err)
		for bit := range len(stream) * 8 {
			hurt := bytes.Clone(stream)
			hurt[bit/8] ^= 1 << (bit % 8)
			o, err := object.Open(hurt, ident(b), s.un)
			if err != nil {
				continue
			}
			got, err := o.Content(0)
			require.True(t, err != nil || string(got) == "record")
		}
	}
}

// Nothing of a builder's last object may be in its next: neither key, nor id, nor bytes.
func TestResetLeaksNothing(t *testing.T) {
	b := newBuilder(t, object.SuiteClear, object.KindData)
	seen := map[[32]byte]bool{}
	for i := range 200 {
		if i > 0 {
			require.NoError(t, b.Reset())
		}
		secret := bytes.Repeat([]byte{byte(i), 0x5A, 0xC3}, 3000*(1-i%2)+1)
		require.Zero(t, b.Frames())
		fill(t, b, secret)
		id := b.ID()
		file := seal(t, b)
		o, _, err := object.OpenFile(file, ident(b), []object.Unwrapper{object.Clear{}})
		require.NoError(t, err)
		for _, secret := range [][]byte{o.Header.Wraps[0].Body, id[:], o.Header.Commitment[:]} {
			sum := blake3.Sum256(secret)
			require.False(t, seen[sum], "key, id or commitment came back")
			seen[sum] = true
		}
		if i > 0 {
			require.False(t, bytes.Contains(file, bytes.Repeat([]byte{byte(i - 1), 0x5A, 0xC3}, 3)))
		}
	}
}

// The same content at the same ordinal gives other bytes in each object, and at each ordinal of one: no pair of key
// and nonce comes twice. (Under a repeated pair the ciphertexts would be equal.)
func TestNoNonceTwice(t *testing.T) {
	b := newBuilder(t, object.SuiteAES, object.KindData, master)
	seen := map[[32]byte]bool{}
	same := make([]byte, 64)
	for i := range 500 {
		if i > 0 {
			require.NoError(t, b.Reset())
		}
		fill(t, b, same, same, same)
		_, _ = b.Append(object.TypeBlock, [32]byte{}, 9, 64, same) // refused appends spend nothing and repeat nothing
		fill(t, b, same)
		_, _, entries, stream := frames(t, b, []object.Unwrapper{master})
		for k, e := range entries {
			require.Equal(t, uint32(k), e.Ordinal)
			stored := [32]byte(stream[e.Offset:])
			require.False(t, seen[stored])
			seen[stored] = true
		}
	}
}

func TestCipherIsSafeForConcurrentUse(t *testing.T) {
	for _, s := range suites {
		b, contents := newBuilder(t, s.suite, object.KindData, s.wraps...), some(20)
		fill(t, b, contents...)
		o, _, err := object.OpenFile(seal(t, b), ident(b), s.un)
		require.NoError(t, err)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for i, c := range contents {
					got, err := o.Frame(i)
					if err != nil || !bytes.Equal(c, got) {
						t.Errorf("frame %d: %v", i, err)
					}
				}
			})
		}
		wg.Wait()
	}
}

// The hot path takes no memory once its buffers have grown.
func TestNoAllocationPerFrame(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	for _, s := range suites {
		b, err := object.NewBuilder(repo, s.suite, object.KindData, 30, 8<<20, s.wraps)
		require.NoError(t, err)
		block := make([]byte, 8<<10)
		_, _ = rand.Read(block)
		scratch, ref := make([]byte, 16<<10), object.FrameRef{}
		for range 300 { // the table's memory has grown
			_, err := b.Append(object.TypeBlock, [32]byte{}, object.CodecPlain, len(block), block)
			require.NoError(t, err)
		}
		require.NoError(t, b.Reset())
		allocs := testing.AllocsPerRun(200, func() {
			ref, err = b.Append(object.TypeBlock, [32]byte{}, object.CodecPlain, len(block), block)
			if err == nil {
				_, err = b.Check(ref, scratch)
			}
		})
		require.NoError(t, err)
		require.Zero(t, allocs, s.name)
	}
}
