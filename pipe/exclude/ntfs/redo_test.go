package ntfs

import (
	"bytes"
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// someFile is a file of the later moment with two clusters or more that lie together.
func (h *history) someFile(t *testing.T) (fsys.Node, *stream) {
	t.Helper()
	for _, item := range h.treeB {
		if !item.Mode.IsRegular() || item.Size < 2*h.b.w.cluster {
			continue
		}
		f, err := h.b.w.file(t.Context(), int64(item.Node))
		require.NoError(t, err)
		s, err := h.b.w.stream(f, typeData, "")
		require.NoError(t, err)
		if len(s.runs) > 0 && s.runs[0].lcn >= 0 && s.runs[0].n > 1 {
			return fsys.Node(item.Node), s
		}
	}
	t.Fatal("no such file")
	return 0, nil
}

// TestBytes: bytes of a stream are put into their place, unless their cluster was given away later.
func TestBytes(t *testing.T) {
	h := newHistory(t, 19, false, "-c", "4096")
	n, s := h.someFile(t)
	content := func(f fsys.FileSystem) []byte {
		p := make([]byte, 2*h.b.w.cluster)
		_, err := f.ReadAt(t.Context(), n, p, 0)
		require.NoError(t, err)
		return p
	}
	want := content(openRaw(t, h.b.raw, false))
	to := target{int64(n), typeData, 0}
	c := change{target: to, lcn: s.runs[0].lcn, clusters: 2, block: 512, recordOff: 16, attrOff: 8, redoOp: opUpdateNonresident,
		undoOp: opUpdateNonresident, redo: bytes.Repeat([]byte{0xC3}, 4096), undo: slices.Clone(want[536 : 536+4096])}
	h.targets = append(h.targets, to)
	h.changes = append(h.changes, c)
	patched := slices.Clone(want)
	copy(patched[536:], c.redo)
	require.True(t, bytes.Equal(patched, content(openRaw(t, h.with(h.crash, h.write(logOptions{})), true))))

	gone := le.AppendUint64(le.AppendUint64(nil, uint64(s.runs[0].lcn+1)), 1)
	h.changes = append(h.changes, change{redoOp: opDeleteDirty, redo: gone})
	copy(patched[4096:], want[4096:])
	require.True(t, bytes.Equal(patched, content(openRaw(t, h.with(h.crash, h.write(logOptions{})), true))))

	h.changes[len(h.changes)-2].target.file = numberLog // what no record may be about
	h.targets[len(h.targets)-1].file = numberLog
	require.Contains(t, openRaw(t, h.with(h.crash, h.write(logOptions{})), true).Info().Doubt, "does not fit")
}

// TestTails: a page that was torn while it was written again is read from its copy.
func TestTails(t *testing.T) {
	h := newHistory(t, 23, true, "-c", "4096")
	for _, two := range []bool{false, true} {
		log := h.write(logOptions{two: two})
		last := int64(0)
		for page := int64(4 * logPage); page < int64(len(log)); page += logPage {
			if string(log[page:page+4]) == "RCRD" {
				last = page
			}
		}
		require.NotZero(t, last)
		tail := log[2*logPage : 3*logPage]
		copy(tail, log[last:last+logPage])
		if !two {
			le.PutUint64(tail[8:], uint64(last))
		}
		torn := slices.Clone(log)
		torn[last+1022] ^= 0xFF
		f := openRaw(t, h.with(h.crash, torn), true)
		require.Empty(t, f.Info().Doubt)
		h.requireTree(t, f, h.treeB)

		clear(log[2*logPage : 3*logPage])
		log[last+1022] ^= 0xFF // without the copy it is not
		require.Contains(t, openRaw(t, h.with(h.crash, log), true).Info().Doubt, "torn write")
	}
}

// node makes an index node of entries with 8 bytes of key, and the last entry.
func node(keys ...byte) []byte {
	p := make([]byte, 0x10)
	le.PutUint32(p, 0x10)
	for _, k := range append(keys, 0) {
		p = append(p, entry(k)...)
	}
	le.PutUint32(p[4:], uint32(len(p)))
	return p
}

// entry has a key of one letter, and a block below it; 0 is the last one.
func entry(key byte) []byte {
	e := make([]byte, 0x20)
	le.PutUint16(e, 0x10) // of the data, where the index is not one of names
	le.PutUint16(e[8:], 0x20)
	le.PutUint16(e[0x0C:], entryDown)
	if key == 0 {
		le.PutUint16(e[0x0C:], entryLast)
	}
	copy(e[0x10:], bytes.Repeat([]byte{key}, 8))
	return e
}

// TestNodeOperations: each operation on an index node, done and refused.
func TestNodeOperations(t *testing.T) {
	const b = 0x10 + 0x20 // where the second entry is
	changed := func(at int, with ...byte) []byte {
		p := node('a', 'b')
		copy(p[at:], with)
		return p
	}
	tail := node('b')[0x10:]
	eight := []byte("12345678")
	for _, c := range []struct {
		op   uint16
		off  int
		data []byte
		want []byte // nil: refused
	}{
		{opAddEntryBlock, b, entry('x'), node('a', 'x', 'b')},
		{opAddEntryRoot, 0x10, entry('x'), node('x', 'a', 'b')},
		{opAddEntryBlock, b + 8, entry('x'), nil},
		{opAddEntryBlock, b, entry('x')[:0x18], nil},
		{opAddEntryBlock, 0x1000, entry('x'), nil},
		{opDeleteEntryBlock, b, nil, node('a')},
		{opDeleteEntryRoot, b + 0x20, nil, nil},
		{opSetVCNBlock, b, eight, changed(b+0x18, eight...)},
		{opSetVCNRoot, b + 0x20, eight, nil},
		{opSetVCNRoot, b, eight[:4], nil},
		{opUpdateNameBlock, b, eight, changed(b+0x18, eight...)},
		{opUpdateNameRoot, b, append(eight, 9), nil},
		{opUpdateDataRoot, b, eight, changed(b+0x10, eight...)},
		{opUpdateDataBlock, b, make([]byte, 0x20), nil},
		{opEndOfBlock, b, tail, node('a', 'b')},
		{opEndOfBlock, 0x10, tail, node('b')},
		{opEndOfBlock, 0x8, tail, nil},
		{opEndOfBlock, b, make([]byte, 0x200), nil},
	} {
		e := nodeEditor{p: node('a', 'b'), room: 0x100}
		err := e.do(c.op, c.off, c.data)
		if c.want == nil {
			require.Error(t, err, "%#x at %d", c.op, c.off)
			continue
		}
		require.NoError(t, err, "%#x at %d", c.op, c.off)
		require.Equal(t, c.want, e.p, "%#x at %d", c.op, c.off)
		require.NoError(t, checkNode(e.p))
	}
}

// TestRecordOperations: what the histories of the driver do not lead to.
func TestRecordOperations(t *testing.T) {
	s := newStateTB(t, sample(t, "clean"))
	r, err := s.w.readRecord(t.Context(), numberVolume)
	require.NoError(t, err)
	first := int(le.Uint16(r[0x14:]))
	for _, c := range []struct {
		op        uint16
		off, attr int
		data      []byte
		other     int
		ok        bool
	}{
		{opEndOfRecord, first, 0, []byte{0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0}, 0, true},
		{opEndOfRecord, first, 0, make([]byte, 2000), 0, false},
		{opEndOfRecord, 0x10, 0, nil, 0, false},
		{opFreeRecord, 0, 0, nil, 0, true},
		{opInitRecord, 0, 0, []byte("BAAD"), 0, false},
		{opDeleteAttribute, first + 8, 0, nil, 0, false},
		{opDeleteAttribute, first, 0, nil, 0, true},
		{opUpdateResident, first, 0x18, []byte("short"), 0x30, true},
		{opUpdateResident, first, 0x10, []byte("head"), 4, false},
		{opUpdateResident, first, 0x18, make([]byte, 4000), 8, false},
		{opUpdateResident, first, 0x18, make([]byte, 4000), 4000, false},
		{opUpdatePairs, first, 0x40, []byte{0}, 0, false},
		{opSetSizes, first, 0, make([]byte, 24), 0, false},
		{opAddEntryRoot, first, 0x28, entry('x'), 0, false},
		{opCreateAttribute, first, 0, make([]byte, 0x18), 0, false},
		{opCreateAttribute, first + 8, 0, append([]byte{0x10, 0, 0, 0, 0x18}, make([]byte, 0x13)...), 0, false},
	} {
		e := recordEditor{bytes.Clone(r)}
		err := e.do(c.op, c.off, c.attr, c.data, c.other)
		if !c.ok {
			require.Error(t, err, "%#x at %d", c.op, c.off)
			continue
		}
		require.NoError(t, err, "%#x at %d", c.op, c.off)
		require.NoError(t, e.whole(s.w.geometry), "%#x at %d", c.op, c.off)
	}
}

// TestOverlay: changes are seen across the borders of its pages, it is bounded, and what is as before is forgotten.
func TestOverlay(t *testing.T) {
	ctx := context.Background()
	raw := bytes.Repeat([]byte("0123456789abcdef"), 4096)
	o := newOverlay(&edited{raw: raw})
	want := bytes.Clone(raw)
	for _, off := range []int64{0, 4090, 8191, 65530} {
		p := []byte("change")
		require.NoError(t, o.write(ctx, p, off))
		copy(want[off:], p)
	}
	got := make([]byte, len(raw))
	_, err := o.ReadAt(ctx, got, 0)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
	require.NoError(t, o.write(ctx, raw[65530:], 65530))
	pages := len(o.pages)
	n, err := o.settle(ctx)
	require.NoError(t, err)
	require.Equal(t, pages-1, len(o.pages))
	require.Equal(t, int64(18), n)
	big := newOverlay(&edited{})
	require.ErrorIs(t, big.write(ctx, make([]byte, overlayMost+1), 0), errOverlayFull)
}

// TestCache: the oldest go first, and what is too heavy is not kept.
func TestCache(t *testing.T) {
	c := lru[int, string]{most: 10}
	for i := range 5 {
		c.put(i, "x", 4)
		_, _ = c.get(0)
	}
	_, first := c.get(0)
	_, second := c.get(3)
	_, last := c.get(4)
	require.Equal(t, []bool{true, false, true}, []bool{first, second, last})
	c.put(9, "heavy", 11)
	_, heavy := c.get(9)
	require.False(t, heavy)
}
