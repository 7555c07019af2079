package ntfs

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/fsys"
	"github.com/hikae/hikae/pipe/exclude/fsys/fsystest"
)

// history is a volume at two moments, and between them: with the files' content of the later one and the metadata of
// the earlier one, as it lies on a disk when all changes of metadata are in the log alone.
type history struct {
	treeA, treeB fsystest.Tree
	a, b         *state
	crash        []byte
	log          *stream
	changes      []change
	places       []span
	targets      []target
	agreed       *fsystest.CompareOptions
}

// newHistory lets the real driver make both moments. Without removal nothing that the first had is overwritten.
func newHistory(t *testing.T, seed uint64, remove bool, mkfs ...string) *history {
	t.Helper()
	return newHistoryOf(t, seed, 120, remove, mkfs...)
}

// newHistoryOf is newHistory with so many operations before the first moment, and half as many before the second.
func newHistoryOf(t *testing.T, seed uint64, ops int, remove bool, mkfs ...string) *history {
	t.Helper()
	img := filepath.Join(t.TempDir(), "volume.raw")
	require.NoError(t, os.WriteFile(img, nil, 0o600))
	require.NoError(t, os.Truncate(img, 8<<20))
	fsystest.Tool(t, nil, "mkntfs", append([]string{"-F", "-q", "-Q", "-p", "0", "-H", "0", "-S", "0"}, append(mkfs, img)...)...)
	h := &history{agreed: &fsystest.CompareOptions{NoMode: true, NoOwner: true, Times: 100, NoDirTimes: true}}
	h.treeA = mounted(t, img, func(dir string) {
		require.NoError(t, fsystest.Age(dir, seed, ops, &fsystest.AgeOptions{MaxFile: 64 << 10, NoSpecial: true}))
	})
	rawA, err := os.ReadFile(img)
	require.NoError(t, err)
	h.treeB = mounted(t, img, func(dir string) {
		if remove {
			for _, path := range slices.Sorted(maps.Keys(h.treeA)) {
				switch item := h.treeA[path]; {
				case !item.Mode.IsRegular():
				case item.Sum[0]%3 == 0:
					require.NoError(t, os.Remove(dir+"/"+path))
				case item.Sum[0]%3 == 1:
					require.NoError(t, os.Truncate(dir+"/"+path, item.Size/3))
					require.NoError(t, os.Rename(dir+"/"+path, dir+"/"+filepath.Dir(path)+"/moved"+fmt.Sprint(item.Node)))
				}
			}
			second := dir + "/second"
			require.NoError(t, os.Mkdir(second, 0o700))
			require.NoError(t, fsystest.Age(second, seed+1, ops/2, &fsystest.AgeOptions{MaxFile: 64 << 10, NoSpecial: true}))
			return
		}
		rng := rand.New(rand.NewPCG(seed, 1))
		for i := range 120 {
			p := bytes.Repeat([]byte(fmt.Sprint(i)), rng.IntN(5000))
			require.NoError(t, os.WriteFile(fmt.Sprintf("%s/new %d of them all", dir, i), p, 0o600))
		}
	})
	rawB, err := os.ReadFile(img)
	require.NoError(t, err)
	h.a, h.b = newState(t, rawA), newState(t, rawB)
	d := diff(t, h.a, h.b)
	require.NotEmpty(t, d.changes)
	h.changes, h.places = d.changes, d.places
	for _, c := range h.changes {
		if !slices.Contains(h.targets, c.target) {
			h.targets = append(h.targets, c.target)
		}
	}
	h.crash = slices.Clone(rawB)
	mirror := span{h.a.w.mirror * h.a.w.cluster, 4 * h.a.w.record}
	for _, p := range append(h.places, mirror) {
		copy(h.crash[p.off:p.off+p.n], rawA[p.off:])
	}
	f, err := h.b.w.file(t.Context(), numberLog)
	require.NoError(t, err)
	h.log, err = h.b.w.stream(f, typeData, "")
	require.NoError(t, err)
	return h
}

func mounted(t *testing.T, img string, do func(dir string)) fsystest.Tree {
	t.Helper()
	m := fsystest.Mount(t, "ntfs", img)
	do(m.Dir)
	require.NoError(t, m.Unmount())
	m = fsystest.Mount(t, "ntfs", img, "ro") // names of one file have caches of their own
	tree, err := fsystest.Scan(m.Dir)
	require.NoError(t, err)
	require.NoError(t, m.Unmount())
	return tree
}

// with is a volume with a log.
func (h *history) with(raw, log []byte) []byte {
	raw = slices.Clone(raw)
	for off := int64(0); off < int64(len(log)); {
		n := min(h.b.w.cluster, int64(len(log))-off)
		copy(raw[h.log.place(off/h.b.w.cluster):], log[off:off+n])
		off += n
	}
	return raw
}

// logOptions shape a log.
type logOptions struct {
	two    bool // version 2.0
	late   bool // the checkpoint stands behind the changes, which only its table of dirty pages leads back to
	open   bool // the transaction did not come to an end
	wrap   bool // the log begins anew in its middle
	flags  uint16
	finish func(w *logWriter, restart uint64) (newRestart, current uint64)
}

// write makes the log of all changes.
func (h *history) write(o logOptions) []byte {
	w := newLogWriter(h.log.size, o.two)
	w.targets = h.targets
	if o.wrap {
		w.pos = h.log.size - 5*logPage + logData
		w.startPage()
	}
	var restart uint64
	if !o.late {
		restart = w.checkpoint(nil, nil)
	}
	var dirty [][]byte
	for i, c := range h.changes {
		c.transaction = uint32(0x18 + 0x28*(i%2)) // two at a time
		lsn := w.op(c)
		if o.late {
			e := make([]byte, 0x20)
			for k, t := range w.targets {
				if t == c.target {
					le.PutUint32(e[4:], uint32(0x18+0x28*k))
				}
			}
			le.PutUint32(e[0x0C:], uint32(c.clusters))
			le.PutUint64(e[0x10:], uint64(c.vcn))
			le.PutUint64(e[0x18:], lsn)
			for k := range c.clusters {
				e = le.AppendUint64(e, uint64(c.lcn+k))
			}
			dirty = append(dirty, e)
		}
	}
	var open [][]byte
	for i := range 2 {
		id := uint32(0x18 + 0x28*i)
		if !o.open {
			w.op(change{redoOp: opCommit, transaction: id})
			w.op(change{redoOp: opForget, transaction: id})
			continue
		}
		e := make([]byte, 0x28)
		e[4] = stateActive
		le.PutUint64(e[0x18:], w.prevUndo[id])
		open = append(open, e)
	}
	if o.late {
		restart = w.checkpoint(table(0x20+8*16, dirty...), table(0x28, open...))
	}
	current := w.last
	if o.finish != nil {
		restart, current = o.finish(w, restart)
	}
	return w.finish(restart, current, o.flags)
}

func openRaw(t *testing.T, raw []byte, trust bool) fsys.FileSystem {
	t.Helper()
	f, err := OpenWith(t.Context(), pipe.FromReaderAt(bytes.NewReader(raw), int64(len(raw))), &Options{TrustLog: trust})
	require.NoError(t, err)
	return f
}

// requireTree wants the volume to show a moment.
func (h *history) requireTree(t *testing.T, f fsys.FileSystem, tree fsystest.Tree) {
	t.Helper()
	require.NoError(t, fsystest.Compare(context.WithoutCancel(t.Context()), f, tree, h.agreed))
}

// freeOf counts the clusters that a state's bitmap calls free, and with another's together.
func freeBoth(t *testing.T, a, b *state) (n int64) {
	t.Helper()
	ma, err := a.w.openMap(t.Context())
	require.NoError(t, err)
	mb, err := b.w.openMap(t.Context())
	require.NoError(t, err)
	pa, pb := make([]byte, (a.w.clusters+7)/8), make([]byte, (a.w.clusters+7)/8)
	require.NoError(t, ma.read(t.Context(), pa, 0))
	require.NoError(t, mb.read(t.Context(), pb, 0))
	for k := range a.w.clusters {
		if (pa[k/8]|pb[k/8])>>(k%8)&1 == 0 && k*a.w.cluster >= bootBytes {
			n++
		}
	}
	return n
}

// TestReplay: the log brings the earlier moment to the later one, whatever the form it is written in.
func TestReplay(t *testing.T) {
	for _, cluster := range []string{"512", "4096"} {
		h := newHistory(t, 7, true, "-c", cluster)
		for name, o := range map[string]logOptions{
			"1.1": {}, "2.0": {two: true}, "late checkpoint": {late: true}, "around the end": {wrap: true}, "late 2.0": {late: true, two: true},
		} {
			t.Run(name+" "+cluster, func(t *testing.T) { h.requireReplayed(t, o) })
		}
	}
}

func (h *history) requireReplayed(t *testing.T, o logOptions) {
	raw := h.with(h.crash, h.write(o))
	f := openRaw(t, raw, false) // by default a log is not trusted
	require.Contains(t, f.Info().Doubt, "its replay is not trusted")
	free, err := fsystest.FreeOf(t.Context(), f, f.Info().Size)
	require.NoError(t, err)
	require.Empty(t, free)

	f = openRaw(t, raw, true)
	require.Empty(t, f.Info().Doubt)
	require.Positive(t, f.Info().Replayed)
	h.requireTree(t, f, h.treeB)
	require.NoError(t, fsystest.CheckFree(t.Context(), f, f.Info().Size))
	free, err = fsystest.FreeOf(t.Context(), f, f.Info().Size)
	require.NoError(t, err)
	var sum int64
	for _, r := range free {
		sum += r.Len / h.a.w.cluster
	}
	require.Equal(t, freeBoth(t, h.a, h.b), sum)
}

// TestUndo: what transactions did that did not come to an end is taken back, whether it had reached the disk or not.
func TestUndo(t *testing.T) {
	h := newHistory(t, 11, false, "-c", "4096")
	for _, late := range []bool{false, true} {
		for _, raw := range [][]byte{h.crash, h.stamped()} {
			f := openRaw(t, h.with(raw, h.write(logOptions{open: true, late: late})), true)
			require.Empty(t, f.Info().Doubt)
			h.requireTree(t, f, h.treeA)
			require.NoError(t, fsystest.CheckFree(t.Context(), f, f.Info().Size))
		}
	}
}

// stamped is the later moment with the numbers of the log in all that it changed, as after a flush of the volume.
func (h *history) stamped() []byte {
	raw := slices.Clone(h.b.raw)
	for i, p := range h.places {
		if op := h.changes[i].redoOp; op != opSetBits && op != opClearBits {
			le.PutUint64(raw[p.off+8:], 1<<62)
		}
	}
	mirror := h.b.w.mirror * h.b.w.cluster
	copy(raw[mirror:mirror+4*h.b.w.record], raw[h.b.w.mft*h.b.w.cluster:])
	return raw
}

// TestQuiesced: a log in use of which everything is in its place does not make the volume doubtful. This is what a
// volume looks like that was flushed for a snapshot.
func TestQuiesced(t *testing.T) {
	h := newHistory(t, 13, true, "-c", "4096")
	w := newLogWriter(h.log.size, true)
	restart := w.checkpoint(nil, nil)
	for name, log := range map[string][]byte{
		"all applied":      h.write(logOptions{}),
		"only checkpoint":  w.finish(restart, restart, 0),
		"put away":         h.write(logOptions{flags: lfsClean}),
		"applied and late": h.write(logOptions{late: true, two: true}),
	} {
		f := openRaw(t, h.with(h.stamped(), log), false)
		require.Empty(t, f.Info().Doubt, name)
		require.Zero(t, f.Info().Replayed, name)
		h.requireTree(t, f, h.treeB)
		free, err := fsystest.FreeOf(t.Context(), f, f.Info().Size)
		require.NoError(t, err)
		require.NotEmpty(t, free, name)
	}
}

// TestDoubtfulLog: a log that is not understood to its last byte is not replayed, even where it is trusted.
func TestDoubtfulLog(t *testing.T) {
	h := newHistory(t, 17, true, "-c", "4096")
	good := h.write(logOptions{late: true})
	l := int64(len(good))
	change := func(do func(p []byte)) []byte {
		p := slices.Clone(good)
		do(p)
		return p
	}
	both := func(at int64, p ...byte) []byte {
		return change(func(log []byte) {
			copy(log[at:], p)
			copy(log[logPage+at:], p)
		})
	}
	lastOp := func(op uint16) []byte {
		h := *h
		h.changes = append(slices.Clone(h.changes), change1(h.changes[0], op))
		return h.write(logOptions{})
	}
	for name, c := range map[string]struct {
		want string
		log  []byte
	}{
		"no restart page":      {"no restart page", both(0, []byte("XXXX")...)},
		"chkdsk":               {"no restart page", both(0, []byte("CHKD")...)},
		"torn restart pages":   {"no restart page", both(510, 0xEE, 0xEE)},
		"version":              {"no restart page", both(0x1C, 3, 0)},
		"rounds":               {"no restart page", both(0x30+0x10, 9)},
		"client":               {"no restart page", both(0x60+0x20, 'X')},
		"checkpoint elsewhere": {"restart area", both(0x60+8, 0xFF, 0xFF)},
		"torn page":            {"torn write", change(func(p []byte) { p[4*logPage+510] ^= 0xFF })},
		"page gone":            {"log could not", change(func(p []byte) { clear(p[5*logPage : 6*logPage]) })},
		"old page":             {"log could not", change(func(p []byte) { copy(p[6*logPage:7*logPage], p[5*logPage:]) })},
		"more was written":     {"it ends at record", h.write(logOptions{finish: func(w *logWriter, r uint64) (uint64, uint64) { return r, w.last + 0x1000 }})},
		"unknown operation":    {"not known", lastOp(0x25)},
		"hot fix":              {"operation 0x17", lastOp(opHotFix)},
		"does not fit":         {"does not fit", lastOp(opDeleteEntryRoot)},
		"all of it":            {"no restart page", bytes.Repeat([]byte{0}, int(l))},
	} {
		t.Run(name, func(t *testing.T) {
			raw := h.with(h.crash, c.log)
			f := openRaw(t, raw, true)
			require.Contains(t, f.Info().Doubt, "the log could not be replayed")
			require.Contains(t, f.Info().Doubt, c.want)
			require.Zero(t, f.Info().Replayed)
			free, err := fsystest.FreeOf(t.Context(), f, f.Info().Size)
			require.NoError(t, err)
			require.Empty(t, free)
			for _, err := range f.ReadDir(t.Context(), f.Root()) {
				require.NoError(t, err)
			}
		})
	}
	require.Empty(t, openRaw(t, h.with(h.crash, good), true).Info().Doubt)
}

// change1 is a record like another, with another operation.
func change1(c change, op uint16) change {
	c.redoOp, c.recordOff = op, 0x38
	return c
}
