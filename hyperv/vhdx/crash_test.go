package vhdx

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
)

// op is one thing that was done to a file.
type op struct {
	off  int64
	data []byte // nil: the file's length becomes off, or with sync all before is durable
	sync bool
}

func (o op) apply(b []byte) []byte {
	if o.sync {
		return b
	}
	end := o.off + int64(len(o.data))
	if end > int64(len(b)) || o.data == nil {
		b = append(b[:min(end, int64(len(b)))], make([]byte, max(0, end-int64(len(b))))...)
	}
	copy(b[o.off:], o.data)
	return b
}

// recorder is a file in memory that notes what is done to it.
type recorder struct {
	b   []byte
	ops []op
}

func (r *recorder) do(o op) error {
	r.ops, r.b = append(r.ops, o), o.apply(r.b)
	return nil
}

func (r *recorder) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	if off >= int64(len(r.b)) {
		return 0, io.EOF
	}
	n := copy(p, r.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (r *recorder) WriteAt(_ context.Context, p []byte, off int64) (int, error) {
	return len(p), r.do(op{off: off, data: bytes.Clone(p)})
}

func (r *recorder) Zero(_ context.Context, off, n int64) error {
	return r.do(op{off: off, data: make([]byte, n)})
}

func (r *recorder) Truncate(_ context.Context, size int64) error { return r.do(op{off: size}) }

func (r *recorder) Sync(context.Context) error { return r.do(op{sync: true}) }

// crashHistory is one writer's life, with what the disk held after each step and how many operations had been done.
type crashHistory struct {
	before []byte // the file
	ops    []op
	parent *layer
	states [][]byte // of the disk, the first before any step
	at     []int    // operations after each step
	sure   []int    // operations after each Flush, and which state it made sure
	which  []int
}

const crashDisk = 2<<20 + 512*3

func makeHistory(t *testing.T, r *rand.Rand, child bool) *crashHistory {
	ctx := context.Background()
	h := &crashHistory{}
	m := &meta{blockSize: mib, sector: 512, physical: 4096, size: crashDisk, diskID: NewGUID()}
	state := make([]byte, crashDisk)
	if child {
		m.hasParent, m.locator = true, map[string]string{keyLinkage: NewGUID().String(), keyRelative: `.\p`}
		for i := range state {
			state[i] = byte(i/512) | 1
		}
		h.parent = &layer{table: fixedTable{}, path: "parent", size: crashDisk, sector: 512,
			file: pipe.FromReaderAt(bytes.NewReader(bytes.Clone(state)), crashDisk)}
	}
	rec := &recorder{}
	w, err := format(ctx, "disk", &storeImage{storage: rec}, m, 0)
	require.NoError(t, err)
	require.NoError(t, w.seal(t.Context()))
	h.before, rec.ops = bytes.Clone(rec.b), nil

	store := &storeImage{storage: rec}
	store.size.Store(int64(len(rec.b)))
	w, _, err = openWriter(ctx, "disk", store, newOpener(nil))
	require.NoError(t, err)
	w.layer.parent = h.parent
	note := func() { h.states, h.at = append(h.states, bytes.Clone(state)), append(h.at, len(rec.ops)) }
	note()
	for range 14 {
		off := r.Int64N(crashDisk)
		n := 1 + r.Int64N(min(crashDisk-off, []int64{400, 9000, 300_000, crashDisk}[r.IntN(4)]))
		if r.IntN(8) == 0 {
			off, n = mib, mib
		}
		switch r.IntN(5) {
		case 0:
			require.NoError(t, w.Mark(ctx, pipe.Extent{Off: off, Len: n}))
			clear(state[off : off+n])
		default:
			for p := state[off : off+n]; len(p) > 0; {
				p = p[copy(p, le.AppendUint64(nil, r.Uint64())):]
			}
			_, err := w.WriteAt(ctx, state[off:off+n], off)
			require.NoError(t, err)
		}
		note()
		if r.IntN(2) == 0 {
			require.NoError(t, w.Flush(ctx))
			h.sure, h.which = append(h.sure, len(rec.ops)), append(h.which, len(h.states)-1)
		}
	}
	require.NoError(t, w.seal(t.Context()))
	h.sure, h.which = append(h.sure, len(rec.ops)), append(h.which, len(h.states)-1)
	h.ops = rec.ops
	return h
}

// check opens what a crash after cut operations left. Each unit of bytes must be as it was in one state. The unit is a
// sector where operations were lost from the end on. Where any may be lost, it is a byte: of two writes into one sector the
// second may be there without the first, since what a disk is given here is not whole sectors.
func (h *crashHistory) check(file []byte, cut, unit int) error {
	ctx := context.Background()
	l, _, err := newOpener(nil).layer(ctx, "disk", pipe.FromReaderAt(bytes.NewReader(file), int64(len(file))))
	if err != nil {
		return err
	}
	l.parent = h.parent
	got := make([]byte, crashDisk)
	if _, err := l.ReadAt(ctx, got, 0); err != nil {
		return err
	}
	first := 0
	for i, n := range h.sure {
		if n <= cut {
			first = h.which[i]
		}
	}
	last := len(h.states) - 1
	if i := slices.IndexFunc(h.at, func(n int) bool { return n > cut }); i >= 0 {
		last = i // the step that was under way
	}
	states := h.states[first : last+1]
	for off, n := 0, 512; off < crashDisk; off += n {
		n = 512
		if whole := min(128<<10, crashDisk-off); off%(128<<10) == 0 && slices.ContainsFunc(states, func(b []byte) bool {
			return bytes.Equal(b[off:off+whole], got[off:off+whole])
		}) {
			n = whole // the quick way
			continue
		}
		s := got[off : off+512]
		if slices.ContainsFunc(states, func(b []byte) bool { return bytes.Equal(b[off:off+512], s) }) {
			continue
		}
		for i := off; i < off+512; i += unit {
			if slices.ContainsFunc(states, func(b []byte) bool { return bytes.Equal(b[i:i+unit], got[i:i+unit]) }) {
				continue
			}
			return fmt.Errorf("the sector at %d is of no state from %d to %d", off, first, last)
		}
	}
	return nil
}

// A writer that dies at any write, in the middle of one, or with any of those lost that were not yet synced, leaves a
// file that opens with all that Flush made durable; and so does one that dies while it applies the log of another.
func TestCrash(t *testing.T) {
	seeds := uint64(1)
	if tier := os.Getenv("HIKAE_TEST_TIER"); tier == "long" || tier == "release" {
		seeds = 40
	}
	cuts := 0
	for seed := range seeds {
		for _, child := range []bool{false, true} {
			r := rand.New(rand.NewPCG(seed, 11))
			h := makeHistory(t, r, child)
			synced, whole := bytes.Clone(h.before), bytes.Clone(h.before)
			var torn, lossy []byte
			from := 0 // operations before that are durable
			for cut := 0; cut <= len(h.ops); cut++ {
				lossy = append(lossy[:0], synced...)
				for _, o := range h.ops[from:cut] {
					if r.IntN(2) == 0 {
						lossy = o.apply(lossy)
					}
				}
				files := [][]byte{whole, lossy}
				if cut < len(h.ops) && len(h.ops[cut].data) > 512 {
					o := h.ops[cut]
					half := (o.off + int64(len(o.data))/2) &^ 511
					torn = op{off: o.off, data: o.data[:max(half-o.off, 0)]}.apply(append(torn[:0], whole...))
					files = append(files, torn)
				}
				for kind, f := range files {
					cuts++
					require.NoError(t, h.check(f, cut, []int{512, 1, 512}[kind]), "seed %d child %v cut %d of %d, kind %d", seed, child, cut, len(h.ops), kind)
				}
				if cut%11 == 0 {
					h.repair(t, r, lossy, cut)
				}
				if cut == len(h.ops) {
					break
				}
				if whole = h.ops[cut].apply(whole); h.ops[cut].sync {
					synced, from = append(synced[:0], whole...), cut+1
				}
			}
		}
	}
	t.Logf("%d crashes", cuts)
}

// repair opens what a crash left for writing, which applies its log, and crashes that at every operation too.
func (h *crashHistory) repair(t *testing.T, r *rand.Rand, file []byte, cut int) {
	rec := &recorder{b: bytes.Clone(file)}
	store := &storeImage{storage: rec}
	store.size.Store(int64(len(file)))
	w, _, err := openWriter(t.Context(), "disk", store, newOpener(nil))
	require.NoError(t, err)
	require.NoError(t, w.seal(t.Context()))
	synced := bytes.Clone(file)
	for i, o := range rec.ops {
		synced = o.apply(synced)
		if i%5 == 0 || i == len(rec.ops)-1 {
			require.NoError(t, h.check(synced, cut, 1), "cut %d, repair cut at %d", cut, i)
		}
	}
}
