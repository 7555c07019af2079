package ntfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/fsys"
	"github.com/hikae/hikae/pipe/exclude/fsys/fsystest"
)

// What a hostile volume may take.
const (
	maxTime   = time.Second
	maxMemory = fsys.MaxMemory
)

// TestWriteSamples makes testdata anew: two small volumes, one with a log to replay. They are kept so that the fuzzers
// begin with the same bytes everywhere, without any tool.
func TestWriteSamples(t *testing.T) {
	if os.Getenv("HIKAE_WRITE_TESTDATA") == "" {
		t.Skip("writes testdata only with HIKAE_WRITE_TESTDATA=1")
	}
	h := newHistoryOf(t, 5, 30, true, "-c", "1024")
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll("testdata", 0o755))
	for name, raw := range map[string][]byte{"clean": h.b.raw, "log": h.with(h.crash, h.write(logOptions{late: true}))} {
		keep := blankData(t, raw, h.a, h.b)
		require.NoError(t, os.WriteFile(filepath.Join("testdata", name+".ntfs.zst"), enc.EncodeAll(keep, nil), 0o644))
	}
}

// blankData makes the content of files, and what both moments call free, compress.
func blankData(t *testing.T, raw []byte, moments ...*state) []byte {
	raw = bytes.Clone(raw)
	var maps [2][]byte
	for i, s := range moments {
		m, err := s.w.openMap(t.Context())
		require.NoError(t, err)
		maps[i] = make([]byte, (m.clusters+7)/8)
		require.NoError(t, m.read(t.Context(), maps[i], 0))
	}
	for k, size := int64(8), moments[0].w.cluster; k < moments[0].w.clusters; k++ {
		if (maps[0][k/8]|maps[1][k/8])>>(k%8)&1 == 0 {
			clear(raw[k*size : (k+1)*size])
		}
	}
	s := newState(t, raw)
	for n := int64(24); n < s.w.records(); n++ {
		f, err := s.w.file(t.Context(), n)
		if err != nil {
			continue
		}
		if c, err := s.w.stream(f, typeData, ""); err == nil {
			for _, r := range c.runs {
				if r.lcn >= 0 {
					clear(raw[r.lcn*s.w.cluster : (r.lcn+r.n)*s.w.cluster])
				}
			}
		}
	}
	return raw
}

// sample is a volume of testdata.
func sample(t testing.TB, name string) []byte {
	t.Helper()
	p, err := os.ReadFile(filepath.Join("testdata", name+".ntfs.zst"))
	require.NoError(t, err)
	dec, err := zstd.NewReader(nil)
	require.NoError(t, err)
	defer dec.Close()
	raw, err := dec.DecodeAll(p, nil)
	require.NoError(t, err)
	return raw
}

// edited is a volume with some bytes changed.
type edited struct {
	raw   []byte
	edits map[int64]byte
}

func (e *edited) Size() int64  { return int64(len(e.raw)) }
func (e *edited) Close() error { return nil }
func (e *edited) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	n, err := bytes.NewReader(e.raw).ReadAt(p, off)
	for at, b := range e.edits {
		if at >= off && at < off+int64(n) {
			p[at-off] = b
		}
	}
	return n, errors.Join(err, ctx.Err())
}

// exercise asks a volume for everything. Errors are fine; all must end in time.
func exercise(t testing.TB, vol pipe.Image, trust bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	begin := time.Now()
	f, err := OpenWith(ctx, vol, &Options{TrustLog: trust})
	if err == nil {
		_, _ = fsystest.FreeOf(ctx, f, vol.Size())
	}
	if d := time.Since(begin); d > maxTime*slower {
		t.Fatalf("the analysis took %v", d)
	}
	if err != nil {
		var bad *fsys.CorruptError
		require.True(t, errors.As(err, &bad) || errors.Is(err, fsys.ErrOther) || errors.Is(err, fs.ErrNotExist), "%v", err)
		return
	}
	visit(ctx, f, f.Root(), map[fsys.Node]bool{}, 0)
	require.NoError(t, ctx.Err())
}

func visit(ctx context.Context, f fsys.FileSystem, dir fsys.Node, seen map[fsys.Node]bool, depth int) {
	seen[dir] = true
	for e, err := range f.ReadDir(ctx, dir) {
		if err != nil || len(seen) > 500 {
			return
		}
		if seen[e.Node] {
			continue
		}
		seen[e.Node] = true
		_, _ = f.Stat(ctx, e.Node)
		switch e.Type {
		case fs.ModeDir:
			if depth < 20 {
				visit(ctx, f, e.Node, seen, depth+1)
			}
		case fs.ModeSymlink:
			_, _ = f.Readlink(ctx, e.Node)
		case 0:
			for range f.Runs(ctx, e.Node) {
			}
			_, _ = io.CopyN(io.Discard, io.NewSectionReader(nodeAt{ctx, f, e.Node}, 0, 1<<62), 256<<10)
		}
	}
}

type nodeAt struct {
	ctx context.Context // an adapter's whole purpose is to carry it
	f   fsys.FileSystem
	n   fsys.Node
}

func (n nodeAt) ReadAt(p []byte, off int64) (int, error) { return n.f.ReadAt(n.ctx, n.n, p, off) }

// metadata are the parts of a sample where a change means something.
func metadata(t testing.TB, raw []byte) (parts []span) {
	s := newStateTB(t, raw)
	parts = append(parts, span{0, 512})
	for n := int64(0); n < s.w.records(); n++ {
		parts = append(parts, span{s.w.where(n), s.w.record})
		f, err := s.w.file(context.Background(), n)
		if err != nil {
			continue
		}
		for _, a := range f.attrs {
			if a.resident || a.typ == typeData && n > numberBitmap {
				continue
			}
			st, err := s.w.stream(f, a.typ, a.name)
			if err != nil {
				continue
			}
			for _, r := range st.runs {
				if r.lcn >= 0 {
					parts = append(parts, span{r.lcn * s.w.cluster, r.n * s.w.cluster})
				}
			}
		}
	}
	return parts
}

// TestMutations changes a few bytes of metadata at random, thousands of times in the long tier.
func TestMutations(t *testing.T) {
	rounds := 60
	if tier := os.Getenv("HIKAE_TEST_TIER"); tier != "" {
		rounds = 5000
	}
	for _, name := range []string{"clean", "log"} {
		raw := sample(t, name)
		parts := metadata(t, raw)
		for seed := range uint64(rounds) {
			rng := rand.New(rand.NewPCG(seed, 3))
			e := &edited{raw: raw, edits: map[int64]byte{}}
			for range 1 + rng.IntN(6) {
				p := parts[rng.IntN(len(parts))]
				at := p.off + rng.Int64N(p.n)
				b := byte(rng.IntN(256))
				switch rng.IntN(3) {
				case 0:
					b = raw[at] ^ 1<<rng.IntN(8)
				case 1:
					b = 0xFF
				}
				e.edits[at] = b
			}
			exercise(t, e, seed%2 == 0)
			if t.Failed() {
				t.Fatalf("%s, seed %d", name, seed)
			}
		}
	}
}

// TestClaims: numbers that are far too large cost neither time nor memory.
func TestClaims(t *testing.T) {
	raw := sample(t, "clean")
	s := newStateTB(t, raw)
	put := func(at int64, v uint64, n int) *edited {
		e := &edited{raw: raw, edits: map[int64]byte{}}
		for i := range n {
			e.edits[at+int64(i)] = byte(v >> (8 * i))
		}
		return e
	}
	attribute := func(n int64, typ uint32) int64 {
		f, err := s.w.file(t.Context(), n)
		require.NoError(t, err)
		return s.w.where(n) + int64(f.parts(typ, "")[0].off)
	}
	table, bitmap := attribute(numberTable, typeData), attribute(numberBitmap, typeData)
	for name, vol := range map[string]*edited{
		"sectors":         put(0x28, 1<<50, 8),
		"all sectors":     put(0x28, 1<<63-1, 8),
		"cluster":         put(0x0D, 0x80, 1),
		"record":          put(0x40, 0xF0, 1),
		"table":           put(0x30, uint64(s.w.clusters-1), 8),
		"table's size":    put(table+0x30, 1<<60, 8),
		"table's valid":   put(table+0x38, 1<<60, 8),
		"table's end":     put(table+0x18, 1<<54, 8),
		"table's run":     put(table+0x41, 0xFF, 1),
		"bitmap's end":    put(bitmap+0x18, 1<<54, 8),
		"bitmap's valid":  put(bitmap+0x38, 1, 8),
		"table's hole":    put(table+0x40, 0x08, 1),
		"bitmap's hole":   put(bitmap+0x40, 0x01, 1),
		"no attributes":   put(s.w.where(numberRoot)+0x14, 0, 2),
		"own base":        put(s.w.where(numberRoot)+0x20, 5|5<<48, 8),
		"all of the rest": put(s.w.where(numberRoot)+0x18, 0xFFFFFFFF, 4),
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			exercise(t, vol, false)
			runtime.ReadMemStats(&after)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(maxMemory))
		})
	}
}

// TestSelfReference: an attribute list of the file table that leads to a record which only it would make readable.
func TestSelfReference(t *testing.T) {
	raw := sample(t, "clean")
	s := newStateTB(t, raw)
	r, err := s.w.readRecord(t.Context(), 0)
	require.NoError(t, err)
	for _, to := range []uint64{1 << 48, 1<<48 | 24, 1<<48 | 1<<40, 1<<48 | 5} {
		e := recordEditor{bytes.Clone(r)}
		list := make([]byte, 0x18+0x20)
		le.PutUint32(list, typeList)
		le.PutUint32(list[4:], uint32(len(list)))
		le.PutUint32(list[0x10:], 0x20)
		le.PutUint16(list[0x14:], 0x18)
		le.PutUint32(list[0x18:], typeData)
		le.PutUint16(list[0x1C:], 0x20)
		le.PutUint64(list[0x28:], to)
		f, err := newFile(0, r)
		require.NoError(t, err)
		require.NoError(t, e.replace(f.parts(typeName, "")[0].off, 0, list))
		fix(e.p)
		vol := &edited{raw: bytes.Clone(raw)}
		copy(vol.raw[s.w.where(0):], e.p)
		exercise(t, vol, false)
		_, err = Open(t.Context(), vol)
		var bad *fsys.CorruptError
		if to != 1<<48 { // leading to itself is leading nowhere
			require.True(t, errors.As(err, &bad) || errors.Is(err, fs.ErrNotExist), "%v", err)
		}
	}
}

// TestOther: what is something else is told apart from what is broken.
func TestOther(t *testing.T) {
	for _, raw := range [][]byte{nil, make([]byte, 100), make([]byte, 1<<20), []byte(strings.Repeat("-FVE-FS-", 1000))} {
		_, err := Open(t.Context(), pipe.FromReaderAt(bytes.NewReader(raw), int64(len(raw))))
		require.ErrorIs(t, err, fsys.ErrOther)
	}
	raw := sample(t, "clean")
	backup := bytes.Clone(raw)
	clear(backup[:8192]) // a volume that was made anew as something that begins with nothing
	_, err := Open(t.Context(), pipe.FromReaderAt(bytes.NewReader(backup), int64(len(backup))))
	require.ErrorIs(t, err, fsys.ErrOther)
	var bad *fsys.CorruptError
	_, err = Open(t.Context(), pipe.FromReaderAt(bytes.NewReader(raw[:4096]), 4096))
	require.ErrorAs(t, err, &bad)
}

// TestReadErrors: what cannot be read is an error of reading, at every read that opening and answering make, never a
// doubt and never an answer.
func TestReadErrors(t *testing.T) {
	raw := sample(t, "log")
	broken := errors.New("medium error")
	for fail := 1; ; fail++ {
		vol := &failing{Image: pipe.FromReaderAt(bytes.NewReader(raw), int64(len(raw))), left: fail, err: broken}
		f, err := OpenWith(t.Context(), vol, &Options{TrustLog: true})
		if err == nil {
			_, err = fsystest.FreeOf(t.Context(), f, vol.Size())
		}
		if vol.left > 0 {
			require.NoError(t, err)
			break
		}
		require.ErrorIs(t, err, broken, "read %d", fail)
	}
}

type failing struct {
	pipe.Image
	left int
	err  error
}

func (f *failing) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if f.left--; f.left <= 0 {
		return 0, f.err
	}
	return f.Image.ReadAt(ctx, p, off)
}

func newStateTB(t testing.TB, raw []byte) *state {
	t.Helper()
	g, _, err := openBoot(t.Context(), pipe.FromReaderAt(bytes.NewReader(raw), int64(len(raw))))
	require.NoError(t, err)
	w, _, err := newView(t.Context(), pipe.FromReaderAt(bytes.NewReader(raw), int64(len(raw))), g)
	require.NoError(t, err)
	return &state{raw, w}
}

func FuzzVolume(f *testing.F) {
	samples := [][]byte{sample(f, "clean"), sample(f, "log")}
	var parts [2][]span
	for i, raw := range samples {
		parts[i] = metadata(f, raw)
	}
	for i := range 8 {
		f.Add([]byte(fmt.Sprintf("%c0123456789abcdef", byte(i))))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) == 0 || len(p) > 200 {
			return
		}
		k := int(p[0] & 1)
		e := &edited{raw: samples[k], edits: map[int64]byte{}}
		for q := p[1:]; len(q) >= 5; q = q[5:] {
			s := parts[k][int(le.Uint16(q))%len(parts[k])]
			e.edits[s.off+int64(le.Uint16(q[2:]))%s.n] = q[4]
		}
		exercise(t, e, p[0]&2 != 0)
	})
}

func FuzzRecord(f *testing.F) {
	s := newStateTB(f, sample(f, "clean"))
	for n := range s.w.records() {
		if r, err := s.w.readRecord(context.Background(), n); err == nil {
			fix(r)
			f.Add([]byte(r))
		}
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) < 512 || len(p)%512 != 0 || len(p) > 4096 {
			return
		}
		was := bytes.Clone(p)
		r, err := parseRecord(p)
		if err != nil {
			return
		}
		for a, err := range r.attrs() {
			if err == nil && !a.resident {
				_, _ = appendRuns(nil, a, 1<<20)
			}
			if err == nil && a.typ == typeName {
				_, _ = parseName(a.value)
			}
			if err == nil && a.typ == typeIndexRoot && len(a.value) >= 0x20 {
				_, _ = walkNode(a.value[0x10:], func(indexEntry) (bool, error) { return true, nil })
			}
		}
		fix(p)
		require.Equal(t, was, p)
	})
}

func FuzzRuns(f *testing.F) {
	f.Add([]byte{0x21, 0x0D, 0x00, 0x22, 0x01, 0x05, 0x11, 0x02, 0xF0, 0}, int64(19))
	f.Add([]byte{0x88, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8}, int64(1<<54))
	f.Fuzz(func(t *testing.T, p []byte, high int64) {
		if high < -1 || high >= 1<<55 {
			return
		}
		runs, err := appendRuns(nil, attr{high: high, pairs: p}, 1<<32)
		if err != nil {
			return
		}
		next := int64(0)
		for _, r := range runs {
			require.Equal(t, next, r.vcn)
			require.Positive(t, r.n)
			require.True(t, r.lcn == -1 || r.lcn >= 0 && r.lcn+r.n <= 1<<32)
			next = r.end()
		}
	})
}

func FuzzLZNT1(f *testing.F) {
	f.Add([]byte{0x03, 0xB0, 0x02, 'a', 0xFC, 0x0F, 0, 0}, 4096) // a chunk: one byte, and 4095 copies of it
	f.Add([]byte{0xFF, 0x3F, 'x'}, 100)
	f.Fuzz(func(t *testing.T, p []byte, n int) {
		if n < 0 || n > 1<<20 {
			return
		}
		dst := bytes.Repeat([]byte{0xAA}, n)
		if decodeLZNT1(dst, p) == nil && n > 0 && len(p) < 2 {
			require.True(t, blank(dst, 0))
		}
	})
}

// TestLZNT1 decodes what was made by hand from the description of the format.
func TestLZNT1(t *testing.T) {
	dst := make([]byte, 5000)
	require.NoError(t, decodeLZNT1(dst, []byte{0x03, 0xB0, 0x02, 'a', 0xFC, 0x0F, 0x02, 0x30, 'x', 'y', 'z', 0, 0}))
	require.Equal(t, strings.Repeat("a", 4096)+"xyz", string(bytes.TrimRight(dst, "\x00")))
	for _, bad := range [][]byte{{0xFF, 0xB0, 1}, {0x02, 0xB0, 1, 0, 0}, {0x03, 0xB0, 2, 'a', 0, 0x10}} {
		require.ErrorIs(t, decodeLZNT1(dst, bad), errLZ)
	}
}

// TestSamples: the volumes of testdata keep opening, and the log of one keeps being replayed.
func TestSamples(t *testing.T) {
	for _, name := range []string{"clean", "log"} {
		raw := sample(t, name)
		f := openRaw(t, raw, true)
		require.Empty(t, f.Info().Doubt)
		require.Equal(t, name == "log", f.Info().Replayed > 0)
		free, err := fsystest.FreeOf(t.Context(), f, f.Info().Size)
		require.NoError(t, err)
		require.NotEmpty(t, free)
		require.Equal(t, name == "log", openRaw(t, raw, false).Info().Doubt != "")
	}
}

// TestConcurrent: one opened volume answers many at once.
func TestConcurrent(t *testing.T) {
	raw := sample(t, "log")
	f := openRaw(t, raw, true)
	var wg sync.WaitGroup
	sums := make([]int64, 6)
	for i := range sums {
		wg.Go(func() {
			for r := range f.Free(t.Context()) {
				sums[i] += r.Len
			}
			visit(t.Context(), f, f.Root(), map[fsys.Node]bool{}, 0)
		})
	}
	wg.Wait()
	for _, sum := range sums {
		require.Equal(t, sums[0], sum)
	}
	require.Positive(t, sums[0])
}
