package pipetest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"testing"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/stretchr/testify/require"
)

// TestBackend holds a backend to the contract of pipe.Backend. open returns a new, empty one each time.
//
// Where the backend's disks are block targets, the suite also puts blocks by hand: right ones, known ones, and ones
// that do not match their id.
func TestBackend(t *testing.T, open func(t testing.TB) pipe.Backend) {
	s := suite{open: open}
	for _, test := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"a point comes back", s.comesBack},
		{"points appear at once or not at all", s.atomic},
		{"points are listed in order, by VM", s.listed},
		{"blobs byte for byte", s.blobs},
		{"what does not exist", s.missing},
		{"sizes at the edges of blocks", s.sizes},
		{"an increment shares its base", s.increment},
		{"a changed range that became zero is zero (R014)", s.becameZero},
		{"no base, no Unchanged", s.noBase},
		{"identical disks are stored once (R022)", s.dedup},
		{"several disks at once", s.concurrent},
		{"reasons for what is absent", s.reasons},
		{"a forgotten range fails the disk", s.uncovered},
		{"a disk that is not committed fails the point", s.uncommitted},
		{"after the end", s.ended},
		{"blocks by hand", s.blocks},
		{"cancelled", s.cancelled},
	} {
		t.Run(test.name, test.run)
	}
}

type suite struct {
	open func(testing.TB) pipe.Backend
}

// diskSize is not a whole number of blocks of any usual size.
const diskSize = 1<<20 + 300<<10 + 5*512 + 1

// write makes a point of one VM from disks.
func write(t testing.TB, b pipe.Backend, vm string, opts *pipe.PointOptions, disks map[string]pipe.Image) (id string, stats pipe.Stats) {
	t.Helper()
	w, err := b.Begin(t.Context(), vm, opts)
	require.NoError(t, err)
	defer w.Close()
	for key, img := range disks {
		stats = writeDisk(t, w, key, img)
	}
	id, err = w.Commit(t.Context(), nil)
	require.NoError(t, err)
	require.NotEmpty(t, id)
	return id, stats
}

func writeDisk(t testing.TB, w pipe.PointWriter, key string, img pipe.Image) pipe.Stats {
	t.Helper()
	target, err := w.Disk(t.Context(), key, img.Size())
	require.NoError(t, err)
	defer target.Close()
	stats, err := pipe.Copy(t.Context(), target, img, nil)
	require.NoError(t, err)
	require.NoError(t, target.Commit(t.Context()))
	return stats
}

// requireDisk reads a disk of a point and compares it with what it must hold.
func requireDisk(t testing.TB, b pipe.Backend, id, key string, want pipe.Image) {
	t.Helper()
	img, err := b.Open(t.Context(), id, key)
	require.NoError(t, err)
	defer img.Close()
	TestImage(t, img, want)
	_, ok := pipe.As[pipe.ExtentImage](img)
	require.True(t, ok, "a disk of a point knows its extents")
	for e, err := range pipe.Extents(t.Context(), img, 0, img.Size()) {
		require.NoError(t, err)
		require.NotEqual(t, pipe.Unchanged, e.Kind, "Unchanged stands in a restore point")
	}
}

func points(t testing.TB, b pipe.Backend, vm string) (list []pipe.PointInfo) {
	t.Helper()
	for p, err := range b.Points(t.Context(), vm) {
		require.NoError(t, err)
		list = append(list, p)
	}
	return list
}

func (s suite) comesBack(t *testing.T) {
	b := s.open(t)
	boot, data := NewPattern(1, diskSize), NewPattern(2, 1<<20, RandomLayout(2, 1<<20, pipe.Data, pipe.Zero)...)
	w, err := b.Begin(t.Context(), "web1", &pipe.PointOptions{
		Time: time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC), Consistency: "application", Facts: map[string]string{"os": "Debian"},
	})
	require.NoError(t, err)
	defer w.Close()
	writeDisk(t, w, "disk0", boot)
	writeDisk(t, w, "disk1", data)
	require.NoError(t, w.Blob(t.Context(), "vm.xml", bytes.NewReader([]byte("<domain/>"))))
	id, err := w.Commit(t.Context(), map[string]string{"disk0": "change 17"})
	require.NoError(t, err)

	requireDisk(t, b, id, "disk0", boot)
	requireDisk(t, b, id, "disk1", data)
	list := points(t, b, "web1")
	require.Len(t, list, 1)
	p := list[0]
	require.Equal(t, id, p.ID)
	require.Equal(t, "web1", p.VM)
	require.True(t, p.Time.Equal(time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC)), "%v", p.Time)
	require.Equal(t, "application", p.Consistency)
	require.Equal(t, map[string]string{"os": "Debian"}, p.Facts)
	require.Equal(t, map[string]string{"disk0": "change 17"}, p.Tracking)
	require.Equal(t, []pipe.BlobInfo{{Name: "vm.xml", Size: 9}}, p.Blobs)
	require.Positive(t, p.New)
	sizes := map[string]int64{}
	for _, d := range p.Disks {
		sizes[d.Key] = d.Size
		absent := int64(0)
		for _, n := range d.Absent {
			absent += n
		}
		require.Equal(t, d.Size, d.Data+absent, "disk %s: data and absent make the disk", d.Key)
	}
	require.Equal(t, map[string]int64{"disk0": diskSize, "disk1": 1 << 20}, sizes)
}

func (s suite) atomic(t *testing.T) {
	b := s.open(t)
	w, err := b.Begin(t.Context(), "vm", nil)
	require.NoError(t, err)
	defer w.Close()
	require.Empty(t, points(t, b, ""), "after Begin")
	writeDisk(t, w, "disk0", NewPattern(1, 300_000))
	require.NoError(t, w.Blob(t.Context(), "config", bytes.NewReader([]byte("x"))))
	require.Empty(t, points(t, b, ""), "before Commit")
	id, err := w.Commit(t.Context(), nil)
	require.NoError(t, err)
	require.Len(t, points(t, b, ""), 1)
	require.NoError(t, w.Close())
	require.Len(t, points(t, b, ""), 1, "Close after Commit takes nothing back")

	abandoned, err := b.Begin(t.Context(), "vm", &pipe.PointOptions{Base: id})
	require.NoError(t, err)
	writeDisk(t, abandoned, "disk0", NewPattern(2, 300_000))
	require.NoError(t, abandoned.Close())
	require.NoError(t, abandoned.Close(), "Close again")
	require.Len(t, points(t, b, ""), 1, "an abandoned writer leaves nothing")
	requireDisk(t, b, id, "disk0", NewPattern(1, 300_000))
	next, _ := write(t, b, "vm", nil, map[string]pipe.Image{"disk0": NewPattern(2, 300_000)})
	requireDisk(t, b, next, "disk0", NewPattern(2, 300_000)) // what the abandoned one stored is not relied on
}

func (s suite) listed(t *testing.T) {
	b := s.open(t)
	var all, ofA []string
	for i, vm := range []string{"a", "b", "a", "c", "a"} {
		id, _ := write(t, b, vm, nil, map[string]pipe.Image{"disk0": NewPattern(uint64(i), 5000)})
		require.NotContains(t, all, id)
		all = append(all, id)
		if vm == "a" {
			ofA = append(ofA, id)
		}
	}
	ids := func(list []pipe.PointInfo) (ids []string) {
		for _, p := range list {
			ids = append(ids, p.ID)
		}
		return ids
	}
	require.Equal(t, all, ids(points(t, b, "")))
	require.Equal(t, ofA, ids(points(t, b, "a")))
	require.Empty(t, points(t, b, "nobody"))
	for range b.Points(t.Context(), "") {
		break // a reader may stop early
	}
}

func (s suite) blobs(t *testing.T) {
	b := s.open(t)
	w, err := b.Begin(t.Context(), "vm", nil)
	require.NoError(t, err)
	defer w.Close()
	want := map[string][]byte{
		"empty": {}, "one": {0}, "vm.vmx": []byte("a = \"b\"\r\nc\x00d\xff"), "folder/with space-é.xml": bytes.Repeat([]byte("<x/>"), 1000),
	}
	large := make([]byte, 700_001)
	_, err = NewPattern(9, int64(len(large))).ReadAt(t.Context(), large, 0)
	require.NoError(t, err)
	want["large"] = large
	for name, data := range want {
		require.NoError(t, w.Blob(t.Context(), name, bytes.NewReader(data)), name)
	}
	require.Error(t, w.Blob(t.Context(), "broken", io.MultiReader(bytes.NewReader([]byte("x")), brokenReader{})))
	id, err := w.Commit(t.Context(), nil)
	require.NoError(t, err)
	for name, data := range want {
		r, err := b.OpenBlob(t.Context(), id, name)
		require.NoError(t, err, name)
		got, err := io.ReadAll(r)
		require.NoError(t, err, name)
		require.NoError(t, r.Close())
		require.True(t, bytes.Equal(data, got), name)
	}
	_, err = b.OpenBlob(t.Context(), id, "broken")
	require.ErrorIs(t, err, fs.ErrNotExist, "half a blob is none")
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, ErrFault }

func (s suite) missing(t *testing.T) {
	b := s.open(t)
	id, _ := write(t, b, "vm", nil, map[string]pipe.Image{"disk0": NewPattern(1, 1000)})
	for _, unknown := range []string{"", "no such point", "../x", id + "0", "0123456789abcdef0123456789abcdef"} {
		_, err := b.Open(t.Context(), unknown, "disk0")
		require.ErrorIs(t, err, fs.ErrNotExist, "point %q", unknown)
		_, err = b.OpenBlob(t.Context(), unknown, "x")
		require.ErrorIs(t, err, fs.ErrNotExist, "point %q", unknown)
	}
	_, err := b.Open(t.Context(), id, "disk1")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = b.OpenBlob(t.Context(), id, "x")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = b.Begin(t.Context(), "vm", &pipe.PointOptions{Base: "no such point"})
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func (s suite) sizes(t *testing.T) {
	b := s.open(t)
	sizes := []int64{0, 1, 511, 512}
	if bs := blockSizeOf(t, b); bs > 0 {
		sizes = append(sizes, bs-1, bs, bs+1, 2*bs+513)
	}
	disks := map[string]pipe.Image{}
	for _, size := range sizes {
		disks[fmt.Sprintf("data%d", size)] = NewPattern(4, size)
		disks[fmt.Sprintf("zero%d", size)] = NewPattern(4, size, pipe.Extent{Len: size, Kind: pipe.Zero})
		disks[fmt.Sprintf("told%d", size)] = Bytes(make([]byte, size)) // zeros found by reading
	}
	id, _ := write(t, b, "vm", nil, disks)
	for key, want := range disks {
		requireDisk(t, b, id, key, want)
	}
}

// blockSizeOf is the block size of the backend's disks, or 0 where they take no blocks.
func blockSizeOf(t testing.TB, b pipe.Backend) int64 {
	t.Helper()
	w, err := b.Begin(t.Context(), "probe", nil)
	require.NoError(t, err)
	defer w.Close()
	target, err := w.Disk(t.Context(), "probe", 1)
	require.NoError(t, err)
	defer target.Close()
	if blocks, ok := target.(pipe.BlockTarget); ok {
		return int64(blocks.BlockSize())
	}
	return 0
}

// changed is a disk at a later time: another pattern in some ranges, and a list that tells which.
func changed(old pipe.Image, later pipe.Image, ranges ...pipe.Extent) pipe.Image {
	m := pipe.NewMemory(old.Size())
	ctx := context.Background()
	if _, err := pipe.Copy(ctx, m, old, nil); err != nil {
		panic("pipetest: " + err.Error())
	}
	layout := cover{}
	layout.set(pipe.Extent{Len: old.Size(), Kind: pipe.Unchanged})
	for _, e := range ranges {
		e.Kind = pipe.Data
		layout.set(e)
		p := make([]byte, e.Len)
		if _, err := later.ReadAt(ctx, p, e.Off); err != nil && err != io.EOF {
			panic("pipetest: " + err.Error())
		}
		if _, err := m.WriteAt(ctx, p, e.Off); err != nil {
			panic("pipetest: " + err.Error())
		}
	}
	return &told{Image: m, layout: layout}
}

// sizeFor is a size of several blocks and a part of one, whatever the block size.
func sizeFor(t testing.TB, b pipe.Backend) int64 { return max(diskSize, 6*blockSizeOf(t, b)+5*512+1) }

func (s suite) increment(t *testing.T) {
	b := s.open(t)
	size := sizeFor(t, b)
	first := NewPattern(1, size)
	base, full := write(t, b, "vm", nil, map[string]pipe.Image{"disk0": first})
	second := changed(first, NewPattern(5, size), pipe.Extent{Off: 300_000, Len: 1000}, pipe.Extent{Off: size - 10, Len: 10})
	next, stats := write(t, b, "vm", &pipe.PointOptions{Base: base}, map[string]pipe.Image{"disk0": second})
	requireDisk(t, b, base, "disk0", first)
	requireDisk(t, b, next, "disk0", second.(*told).Image)
	require.Less(t, stats.Read, full.Read/2, "only what changed is read")
	require.Positive(t, stats.Skipped[pipe.Unchanged])
	again, _ := write(t, b, "vm", &pipe.PointOptions{Base: next}, map[string]pipe.Image{
		"disk0": &told{Image: second.(*told).Image, layout: cover{{Len: size, Kind: pipe.Unchanged}}},
	})
	requireDisk(t, b, again, "disk0", second.(*told).Image)
}

func (s suite) becameZero(t *testing.T) {
	b := s.open(t)
	size := sizeFor(t, b)
	first := NewPattern(3, size)
	base, _ := write(t, b, "vm", nil, map[string]pipe.Image{"disk0": first})
	bs := max(blockSizeOf(t, b), 4096)
	gone := pipe.Extent{Off: bs, Len: 2*bs + 100}
	later := changed(first, Bytes(make([]byte, size)), gone).(*told)
	// Found by reading: the list says changed, the image does not know that it is zero.
	next, _ := write(t, b, "vm", &pipe.PointOptions{Base: base}, map[string]pipe.Image{"disk0": later})
	requireDisk(t, b, next, "disk0", later.Image)
	// Told by extents: changed, and a hole.
	later.layout.set(pipe.Extent{Off: gone.Off, Len: gone.Len, Kind: pipe.Zero})
	next, _ = write(t, b, "vm", &pipe.PointOptions{Base: base}, map[string]pipe.Image{"disk0": later})
	requireDisk(t, b, next, "disk0", later.Image)
}

func (s suite) noBase(t *testing.T) {
	b := s.open(t)
	base, _ := write(t, b, "vm", nil, map[string]pipe.Image{"disk0": NewPattern(1, 1<<20)})
	for name, test := range map[string]struct {
		base, key string
		size      int64
	}{
		"no base at all": {"", "disk0", 1 << 20}, "another disk": {base, "disk1", 1 << 20}, "another size": {base, "disk0", 2 << 20},
	} {
		w, err := b.Begin(t.Context(), "vm", &pipe.PointOptions{Base: test.base})
		require.NoError(t, err)
		target, err := w.Disk(t.Context(), test.key, test.size)
		require.NoError(t, err, name)
		img := NewPattern(1, test.size, pipe.Extent{Len: test.size, Kind: pipe.Unchanged})
		_, err = pipe.Copy(t.Context(), target, img, nil)
		require.Error(t, err, name)
		require.NoError(t, target.Close())
		require.NoError(t, w.Close())
	}
}

func (s suite) dedup(t *testing.T) {
	b := s.open(t)
	img := NewPattern(6, 3<<20)
	write(t, b, "vm", nil, map[string]pipe.Image{"disk0": img})
	_, stats := write(t, b, "other vm", nil, map[string]pipe.Image{"sda": img})
	if blockSizeOf(t, b) == 0 {
		t.Skip("the backend does not deduplicate")
	}
	require.Zero(t, stats.Moved, "nothing is sent that is there")
	require.Zero(t, stats.Stored)
	require.Equal(t, stats.Size, stats.Deduplicated+stats.Skipped[pipe.Zero])
	list := points(t, b, "other vm")
	require.Less(t, list[0].New, int64(1<<20))
}

func (s suite) concurrent(t *testing.T) {
	b := s.open(t)
	w, err := b.Begin(t.Context(), "vm", nil)
	require.NoError(t, err)
	defer w.Close()
	var group sync.WaitGroup
	disks := map[string]pipe.Image{}
	for i := range 4 {
		img := NewPattern(uint64(i%2), 1<<20+int64(i/2)) // pairs share most blocks, in flight at the same time
		key := fmt.Sprintf("disk%d", i)
		disks[key] = img
		group.Go(func() {
			target, err := w.Disk(t.Context(), key, img.Size())
			if err == nil {
				defer target.Close()
				_, err = pipe.Copy(t.Context(), target, img, nil)
			}
			if err == nil {
				err = target.Commit(t.Context())
			}
			if err != nil {
				t.Errorf("%s: %v", key, err)
			}
		})
	}
	group.Wait()
	id, err := w.Commit(t.Context(), nil)
	require.NoError(t, err)
	for key, want := range disks {
		requireDisk(t, b, id, key, want)
	}
}

func (s suite) reasons(t *testing.T) {
	b := s.open(t)
	step := max(blockSizeOf(t, b), 4096)
	kinds := []pipe.Kind{pipe.Data, pipe.Zero, pipe.Free, pipe.Swap, pipe.Excluded, pipe.Bad}
	var layout []pipe.Extent
	want := map[string]int64{}
	for i, k := range kinds {
		layout = append(layout, pipe.Extent{Off: int64(i) * step, Len: step, Kind: k})
		if k != pipe.Data {
			want[k.String()] = step
		}
	}
	// The data must not be zero, or the block would be Zero.
	img := &told{Image: Bytes(bytes.Repeat([]byte{7}, int(step)*len(kinds))), layout: layout}
	id, _ := write(t, b, "vm", nil, map[string]pipe.Image{"disk0": img})
	got, err := b.Open(t.Context(), id, "disk0")
	require.NoError(t, err)
	defer got.Close()
	list, err := collect(t.Context(), got, 0, got.Size())
	require.NoError(t, err)
	require.Equal(t, layout, list)
	info := points(t, b, "vm")[0].Disks[0]
	require.Equal(t, step, info.Data)
	require.Equal(t, want, info.Absent)
	zero := make([]byte, step*int64(len(kinds)-1))
	p := bytes.Clone(zero)
	p[0] = 1
	_, err = got.ReadAt(t.Context(), p, step)
	require.True(t, err == nil || err == io.EOF, "%v", err)
	require.True(t, bytes.Equal(zero, p), "what is absent reads as zero")
}

func (s suite) uncovered(t *testing.T) {
	b := s.open(t)
	w, err := b.Begin(t.Context(), "vm", nil)
	require.NoError(t, err)
	defer w.Close()
	size := sizeFor(t, b)
	target, err := w.Disk(t.Context(), "disk0", size)
	require.NoError(t, err)
	defer target.Close()
	blocks, ok := target.(pipe.BlockTarget)
	if !ok {
		t.Skip("the target takes no blocks; what is not written is zero")
	}
	bs := int64(blocks.BlockSize())
	require.NoError(t, blocks.Mark(t.Context(), pipe.Extent{Off: bs, Len: size - bs, Kind: pipe.Zero}))
	require.Error(t, target.Commit(t.Context()), "the first block is neither put nor marked")
	_, err = w.Commit(t.Context(), nil)
	require.Error(t, err)
	require.NoError(t, w.Close())
	require.Empty(t, points(t, b, ""))
}

func (s suite) uncommitted(t *testing.T) {
	b := s.open(t)
	w, err := b.Begin(t.Context(), "vm", nil)
	require.NoError(t, err)
	defer w.Close()
	writeDisk(t, w, "disk0", NewPattern(1, 1000))
	target, err := w.Disk(t.Context(), "disk1", 1000)
	require.NoError(t, err)
	require.NoError(t, target.Close())
	_, err = w.Commit(t.Context(), nil)
	require.Error(t, err)
	require.NoError(t, w.Close())
	require.Empty(t, points(t, b, ""))
}

func (s suite) ended(t *testing.T) {
	b := s.open(t)
	w, err := b.Begin(t.Context(), "vm", nil)
	require.NoError(t, err)
	target, err := w.Disk(t.Context(), "disk0", 1000)
	require.NoError(t, err)
	_, err = pipe.Copy(t.Context(), target, NewPattern(1, 1000), nil)
	require.NoError(t, err)
	require.NoError(t, target.Commit(t.Context()))
	require.NoError(t, target.Close(), "Close after Commit")
	_, err = target.WriteAt(t.Context(), make([]byte, 1000), 0)
	require.Error(t, err, "a write after Commit")
	id, err := w.Commit(t.Context(), nil)
	require.NoError(t, err)
	_, err = w.Commit(t.Context(), nil)
	require.Error(t, err, "a second Commit")
	require.Error(t, w.Blob(t.Context(), "late", bytes.NewReader(nil)), "a blob after Commit")
	_, err = w.Disk(t.Context(), "late", 1)
	require.Error(t, err, "a disk after Commit")
	require.NoError(t, w.Close())
	require.Len(t, points(t, b, ""), 1)
	requireDisk(t, b, id, "disk0", NewPattern(1, 1000))
}

// blocks puts blocks as Copy does, and as it never does.
func (s suite) blocks(t *testing.T) {
	b := s.open(t)
	w, err := b.Begin(t.Context(), "vm", nil)
	require.NoError(t, err)
	defer w.Close()
	bs := blockSizeOf(t, b)
	if bs == 0 {
		t.Skip("the target takes no blocks")
	}
	size := 3*bs + 5
	target, err := w.Disk(t.Context(), "disk0", size)
	require.NoError(t, err)
	defer target.Close()
	blocks, ctx := target.(pipe.BlockTarget), t.Context()
	want := bytes.Repeat([]byte("block"), int(size/5)+1)[:size]
	one := want[:bs]
	id := blocks.Fingerprint(one)
	require.NotEqual(t, id, blocks.Fingerprint(want[1:bs+1]))
	require.Equal(t, id, blocks.Fingerprint(bytes.Clone(one)))

	missing, err := blocks.Missing(ctx, []pipe.ID{id, id})
	require.NoError(t, err)
	require.Equal(t, []bool{true, true}, missing)
	_, err = blocks.PutBlock(ctx, 0, id, len(one), pipe.Plain, nil)
	require.ErrorIs(t, err, pipe.ErrNeedBlock)
	broken := bytes.Clone(one)
	broken[len(broken)/2] ^= 0x10
	_, err = blocks.PutBlock(ctx, 0, id, len(one), pipe.Plain, broken)
	require.ErrorIs(t, err, pipe.ErrBlockMismatch)
	for codec, data := range map[pipe.Codec][]byte{pipe.S2: one, pipe.Zstd: one, 99: one, pipe.Plain: one[:len(one)-1]} {
		_, err = blocks.PutBlock(ctx, 0, id, len(one), codec, data)
		require.Error(t, err, "%v", codec)
	}
	for _, off := range []int64{-bs, 1, bs / 2, 3 * bs, 4 * bs} { // before, unaligned, where a short block stands, beyond
		_, err = blocks.PutBlock(ctx, off, id, len(one), pipe.Plain, one)
		require.Error(t, err, "put at %d", off)
	}
	missing, err = blocks.Missing(ctx, []pipe.ID{id})
	require.NoError(t, err)
	require.Equal(t, []bool{true}, missing, "nothing of the refused was kept")

	for i, level := range []pipe.Compression{pipe.Fast, pipe.Default, pipe.None} {
		enc, err := pipe.NewEncoder(level, int(bs))
		require.NoError(t, err)
		p := want[int64(i)*bs:][:bs]
		data, codec := enc.Encode(nil, p)
		res, err := blocks.PutBlock(ctx, int64(i)*bs, blocks.Fingerprint(p), len(p), codec, data)
		require.NoError(t, err)
		require.Positive(t, res.Stored+res.Deduplicated)
		clear(data[:1]) // the target keeps no reference
		copy(p, bytes.Repeat([]byte("block"), int(size/5)+1)[int64(i)*bs:])
	}
	tail := want[3*bs:]
	_, err = blocks.PutBlock(ctx, 3*bs, blocks.Fingerprint(tail), len(tail), pipe.Plain, tail)
	require.NoError(t, err)
	missing, err = blocks.Missing(ctx, []pipe.ID{id})
	require.NoError(t, err)
	if !missing[0] {
		res, err := blocks.PutBlock(ctx, 0, id, len(one), pipe.Plain, nil)
		require.NoError(t, err)
		require.Equal(t, pipe.PutResult{Deduplicated: bs}, res)
	}
	require.NoError(t, target.Commit(ctx))
	point, err := w.Commit(ctx, nil)
	require.NoError(t, err)
	requireDisk(t, b, point, "disk0", Bytes(want))
}

func (s suite) cancelled(t *testing.T) {
	b := s.open(t)
	ctx, cancel := context.WithCancel(t.Context())
	w, err := b.Begin(ctx, "vm", nil)
	require.NoError(t, err)
	defer w.Close()
	target, err := w.Disk(ctx, "disk0", diskSize)
	require.NoError(t, err)
	defer target.Close()
	img := NewPattern(1, diskSize)
	_, err = pipe.Copy(ctx, target, HookImage(img, func(_ context.Context, op *Op) error {
		if op.Name == "readat" {
			cancel()
		}
		return nil
	}), nil)
	require.ErrorIs(t, err, context.Canceled)
	require.Error(t, target.Commit(ctx))
	_, err = w.Commit(ctx, nil)
	require.Error(t, err)
	require.NoError(t, w.Close())
	require.Empty(t, points(t, b, ""))
	id, _ := write(t, b, "vm", nil, map[string]pipe.Image{"disk0": img})
	requireDisk(t, b, id, "disk0", img)
}
