package pipe_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

// disk is a new disk of a new point in a memory backend, with what is needed to read it again.
type disk struct {
	pipe.BlockTarget
	backend pipe.Backend
	writer  pipe.PointWriter
}

type fataler interface {
	require.TestingT
	Helper()
	Cleanup(func())
}

func newDisk(t fataler, blockSize int, size int64) *disk {
	t.Helper()
	return nextDisk(t, pipetest.NewBackend(blockSize), "", size)
}

// nextDisk is the disk in a further point on top of base.
func nextDisk(t fataler, b pipe.Backend, base string, size int64) *disk {
	t.Helper()
	w, err := b.Begin(context.Background(), "vm", &pipe.PointOptions{Base: base})
	require.NoError(t, err)
	target, err := w.Disk(context.Background(), "disk0", size)
	require.NoError(t, err)
	return &disk{target.(pipe.BlockTarget), b, w}
}

// commit makes the point and opens its disk.
func (d *disk) commit(t fataler) (id string, img pipe.Image) {
	t.Helper()
	require.NoError(t, d.Commit(context.Background()))
	id, err := d.writer.Commit(context.Background(), nil)
	require.NoError(t, err)
	img, err = d.backend.Open(context.Background(), id, "disk0")
	require.NoError(t, err)
	return id, img
}

// plain hides every ability of a target.
type plain struct{ pipe.Target }

// requireSame compares all bytes, also where extents say zero.
func requireSame(t fataler, want, got pipe.Image) {
	t.Helper()
	require.Equal(t, want.Size(), got.Size())
	a, b := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); off < want.Size(); off += int64(len(a)) {
		n := min(int64(len(a)), want.Size()-off)
		for i, img := range []pipe.Image{want, got} {
			m, err := img.ReadAt(context.Background(), [][]byte{a[:n], b[:n]}[i], off)
			require.True(t, int64(m) == n && (err == nil || err == io.EOF), "%d %v", m, err)
		}
		if !bytes.Equal(a[:n], b[:n]) {
			for i := range n {
				if a[i] != b[i] {
					require.Failf(t, "content differs", "first at byte %d", off+i)
				}
			}
		}
	}
}

// requireSettled: every byte of the image is in exactly one account.
func requireSettled(t fataler, s pipe.Stats) {
	t.Helper()
	sum := s.Moved
	for _, n := range s.Skipped {
		sum += n
	}
	if len(s.Stages) > 3 { // blocks: moved and deduplicated may both count one that was sent twice
		require.LessOrEqual(t, s.Size, sum+s.Deduplicated)
		return
	}
	require.Equal(t, s.Size, sum)
}

// Any layout, any target, any options: the copy holds what the image holds (R006, R007, R015, R016, R019–R023).
func TestCopyAnyLayoutToAnyTarget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bs := 1 << rapid.IntRange(12, 16).Draw(t, "block bits")
		size := rapid.Int64Range(0, 600_000).Draw(t, "size")
		if rapid.Bool().Draw(t, "whole blocks") {
			size = size / int64(bs) * int64(bs)
		}
		kinds := []pipe.Kind{pipe.Data, pipe.Zero, pipe.Free, pipe.Swap, pipe.Excluded, pipe.Bad}
		src := pipetest.NewPattern(rapid.Uint64().Draw(t, "seed"), size,
			pipetest.RandomLayout(rapid.Uint64().Draw(t, "layout"), size, kinds...)...)
		opts := &pipe.CopyOptions{
			Compression: rapid.SampledFrom([]pipe.Compression{pipe.None, pipe.Fast, pipe.Default, pipe.Better}).Draw(t, "compression"),
			Workers:     rapid.IntRange(0, 5).Draw(t, "workers"),
			BufferBytes: rapid.SampledFrom([]int64{0, 1, 200_000, 1 << 20}).Draw(t, "buffer"),
		}
		switch rapid.SampledFrom([]string{"blocks", "extents", "plain"}).Draw(t, "target") {
		case "blocks":
			d := newDisk(t, bs, size)
			stats, err := pipe.Copy(context.Background(), d, src, opts)
			require.NoError(t, err)
			requireSettled(t, stats)
			_, got := d.commit(t)
			requireSame(t, blocky{src, int64(bs)}, got)
		case "extents":
			m := pipe.NewMemory(size)
			stats, err := pipe.Copy(context.Background(), m, src, opts)
			require.NoError(t, err)
			requireSettled(t, stats)
			requireSame(t, src.Blank(), m)
			layout := map[pipe.Kind]int64{}
			for _, e := range src.Layout() {
				layout[e.Kind] += e.Len
			}
			for _, k := range []pipe.Kind{pipe.Free, pipe.Swap, pipe.Excluded, pipe.Bad} {
				require.Equal(t, layout[k], stats.Skipped[k])
			}
		case "plain":
			m := pipe.NewMemory(size)
			stats, err := pipe.Copy(context.Background(), plain{m}, src, opts)
			require.NoError(t, err)
			requireSettled(t, stats)
			requireSame(t, src.Blank(), m)
		}
	})
}

// blocky is what a copy by blocks holds of a pattern: a block is whole as soon as a byte of it is data.
type blocky struct {
	*pipetest.Pattern
	bs int64
}

func (b blocky) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	n, err := b.Pattern.ReadAt(ctx, p, off)
	for at := off / b.bs * b.bs; at < off+int64(n); at += b.bs {
		some := false
		for _, e := range b.Layout() {
			some = some || (e.Kind == pipe.Data && e.Off < at+b.bs && at < e.End())
		}
		if !some {
			clear(p[max(0, at-off):min(int64(n), at+b.bs-off)])
		}
	}
	return n, err
}

// A range that changed and is now zero must be stored as zero: skipping it, as a peer does, restores what the base has
// there (facts/kvm.md §2; R014, R016).
func TestChangedRangeThatBecameZeroIsStoredAsZero(t *testing.T) {
	const bs, size = 64 << 10, 1 << 20
	ctx := t.Context()
	ones := bytes.Repeat([]byte{1}, size)
	first := newDisk(t, bs, size)
	_, err := pipe.Copy(ctx, first, pipetest.Bytes(ones), nil)
	require.NoError(t, err)
	base, _ := first.commit(t)

	now := bytes.Clone(ones)
	clear(now[2*bs : 5*bs])             // zeroed, and told so by the image: a hole
	clear(now[8*bs : 10*bs])            // zeroed, found by reading
	clear(now[12*bs+100 : 12*bs+99+bs]) // zeroed in parts of blocks
	img := pipetest.WithExtents(pipetest.Bytes(now),
		pipe.Extent{Off: 0, Len: 2 * bs, Kind: pipe.Data}, pipe.Extent{Off: 2 * bs, Len: 3 * bs, Kind: pipe.Zero},
		pipe.Extent{Off: 5 * bs, Len: size - 5*bs, Kind: pipe.Data})
	list := []pipe.Extent{
		{Off: 0, Len: 2 * bs, Kind: pipe.Unchanged}, {Off: 2 * bs, Len: 3 * bs, Kind: pipe.Data},
		{Off: 5 * bs, Len: 3 * bs, Kind: pipe.Unchanged}, {Off: 8 * bs, Len: 2 * bs, Kind: pipe.Data},
		{Off: 10 * bs, Len: 2 * bs, Kind: pipe.Unchanged}, {Off: 12 * bs, Len: 2 * bs, Kind: pipe.Data},
		{Off: 14 * bs, Len: 2 * bs, Kind: pipe.Unchanged},
	}
	d := nextDisk(t, first.backend, base, size)
	stats, err := pipe.Copy(ctx, d, pipe.Changed(img, sequence(list...)), nil)
	require.NoError(t, err)
	require.Equal(t, map[pipe.Kind]int64{pipe.Unchanged: 9 * bs, pipe.Zero: 5 * bs}, stats.Skipped)
	require.Equal(t, int64(4*bs), stats.Read, "only what changed is read (R014)")
	_, got := d.commit(t)
	requireSame(t, pipetest.Bytes(now), got)
}

// A sparse disk costs what its extents cost, never what its blocks cost.
func TestSparseDiskOfEightTiBCostsMilliseconds(t *testing.T) {
	const size = 8 << 40
	src := pipetest.NewPattern(1, size, pipe.Extent{Len: size, Kind: pipe.Zero},
		pipe.Extent{Off: 5 << 40, Len: 1 << 20, Kind: pipe.Data}, pipe.Extent{Off: 7<<40 + 5, Len: 1, Kind: pipe.Free})
	var log pipetest.Log
	d := newDisk(t, 256<<10, size)
	stats, err := pipe.Copy(t.Context(), pipetest.HookTarget(d, log.Hook), src, nil)
	require.NoError(t, err)
	require.Less(t, stats.Duration, 2*time.Second)
	require.LessOrEqual(t, len(log.Ops("mark")), 4+4, "one mark for each run: four told, the rest found in the 4 blocks")
	_, got := d.commit(t)
	p := make([]byte, 1<<20)
	q := make([]byte, 1<<20)
	_, err = src.ReadAt(t.Context(), p, 5<<40)
	require.NoError(t, err)
	_, err = got.ReadAt(t.Context(), q, 5<<40)
	require.NoError(t, err)
	require.True(t, bytes.Equal(p, q))
}

func TestCopyMergesMarks(t *testing.T) {
	const bs = 4096
	var layout []pipe.Extent
	for i := range int64(64) { // many short extents of few kinds, in parts of blocks
		layout = append(layout, pipe.Extent{Off: i * 1024, Len: 1024, Kind: []pipe.Kind{pipe.Zero, pipe.Free}[i/32]})
	}
	var log pipetest.Log
	d := newDisk(t, bs, 64<<10)
	img := pipetest.WithExtents(pipetest.Bytes(make([]byte, 64<<10)), layout...)
	_, err := pipe.Copy(t.Context(), pipetest.HookTarget(d, log.Hook), img, nil)
	require.NoError(t, err)
	marks := log.Ops("mark")
	require.Len(t, marks, 2)
	require.Equal(t, pipe.Extent{Off: 0, Len: 32 << 10, Kind: pipe.Zero}, marks[0].Extent)
	require.Equal(t, pipe.Extent{Off: 32 << 10, Len: 32 << 10, Kind: pipe.Free}, marks[1].Extent)
}

// sequence yields extents as they are.
func sequence(list ...pipe.Extent) func(context.Context) seq {
	return func(context.Context) seq {
		return func(yield func(pipe.Extent, error) bool) {
			for _, e := range list {
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

type seq = iter.Seq2[pipe.Extent, error]

// Extents are checked, never trusted.
func TestCopyRefusesWrongExtents(t *testing.T) {
	const size = 100_000
	img := pipetest.NewPattern(1, size)
	for name, list := range map[string][]pipe.Extent{
		"none":         {},
		"a gap":        {{0, 10, pipe.Data}, {11, size - 11, pipe.Data}},
		"an overlap":   {{0, 10, pipe.Data}, {9, size - 9, pipe.Data}},
		"too short":    {{0, size - 1, pipe.Zero}},
		"too long":     {{0, size + 1, pipe.Zero}},
		"overflow":     {{0, 10, pipe.Zero}, {10, 1<<63 - 1, pipe.Zero}},
		"beyond":       {{0, size, pipe.Zero}, {size, 1, pipe.Zero}},
		"empty":        {{0, 0, pipe.Zero}, {0, size, pipe.Zero}},
		"negative":     {{0, -5, pipe.Zero}, {0, size, pipe.Zero}},
		"later start":  {{1, size - 1, pipe.Data}},
		"back":         {{0, 50, pipe.Data}, {0, 50, pipe.Data}, {50, size - 50, pipe.Data}},
		"unknown kind": {{0, size, 7}},
	} {
		t.Run(name, func(t *testing.T) {
			wrong := pipetest.WithExtents(img, list...)
			for _, target := range []pipe.Target{newDisk(t, 4096, size), pipe.NewMemory(size), plain{pipe.NewMemory(size)}} {
				_, err := pipe.Copy(t.Context(), target, wrong, nil)
				require.ErrorIs(t, err, pipe.ErrExtents)
				var where *pipe.RangeError
				require.ErrorAs(t, err, &where)
			}
			_, err := pipe.Compare(t.Context(), wrong, img, &pipe.CompareOptions{Limit: 1 << 30})
			require.ErrorIs(t, err, pipe.ErrExtents)
		})
	}
}

func TestCopyFailsBeforeItWrites(t *testing.T) {
	var log pipetest.Log
	img := pipetest.NewPattern(1, 100_000, pipe.Extent{Off: 99_000, Len: 10, Kind: pipe.Unchanged})
	target := pipetest.HookTarget(plain{pipe.NewMemory(100_000)}, log.Hook)
	_, err := pipe.Copy(t.Context(), target, img, nil)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	var where *pipe.RangeError
	require.ErrorAs(t, err, &where)
	require.Equal(t, int64(99_000), where.Off)
	require.Empty(t, log.Ops("writeat"))

	_, err = pipe.Copy(t.Context(), pipe.NewMemory(5), img, nil)
	require.ErrorIs(t, err, pipe.ErrSizeMismatch)
	_, err = pipe.Copy(t.Context(), target, img, &pipe.CopyOptions{Compression: "strong"})
	require.Error(t, err)
	_, err = pipe.Copy(t.Context(), target, img, &pipe.CopyOptions{Workers: -1})
	require.Error(t, err)
	for _, bs := range []int{-1, 3, 100_000, 8 << 20} {
		_, err = pipe.Copy(t.Context(), pipe.NewNull(100_000, bs), img, nil)
		require.ErrorContains(t, err, "block size", "%d", bs)
	}
	require.Empty(t, log.Ops("writeat"))
}

// An image that has shrunk or answers less than it must is an error, never padding; a policy for bad sectors does not
// change that.
func TestCopyFailsOnShortReads(t *testing.T) {
	img := pipetest.NewPattern(1, 3<<20)
	for _, answer := range []error{io.EOF, nil, io.ErrUnexpectedEOF} {
		for _, policy := range []func(pipe.Extent, error) error{nil, func(pipe.Extent, error) error { return nil }} {
			_, err := pipe.Copy(t.Context(), newDisk(t, 0, img.Size()), pipetest.ShortReads(img, 2_000_000, answer),
				&pipe.CopyOptions{OnReadError: policy})
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			var where *pipe.RangeError
			require.ErrorAs(t, err, &where)
			require.Equal(t, int64(2_000_000), where.Off)
			require.Equal(t, "read", where.Op)
		}
	}
}

// What cannot be read fails the copy and is named; or, where the policy allows it, exactly those sectors are Bad and
// all else is copied.
func TestCopyNarrowsReadErrorsToSectors(t *testing.T) {
	const size, bs = 2<<20 + 100, 64 << 10
	img := pipetest.Bytes(bytes.Repeat([]byte{7}, size))
	bad := []pipe.Extent{
		{Off: 1000, Len: 1}, {Off: 512 * 100, Len: 512 * 3}, {Off: 2 * bs, Len: 2 * bs}, {Off: 1<<20 - 512, Len: 1024}, {Off: size - 1, Len: 1},
	}
	want := []pipe.Extent{
		{512, 512, pipe.Bad}, {512 * 100, 512 * 3, pipe.Bad}, {2 * bs, 2 * bs, pipe.Bad}, {1<<20 - 512, 1024, pipe.Bad}, {size &^ 511, 100, pipe.Bad},
	}
	holes := bytes.Repeat([]byte{7}, size)
	for _, e := range want {
		clear(holes[e.Off:e.End()])
	}
	broken := pipetest.BadSectors(img, bad...)

	_, err := pipe.Copy(t.Context(), newDisk(t, bs, size), broken, nil)
	require.ErrorIs(t, err, pipetest.ErrFault)
	var where *pipe.RangeError
	require.ErrorAs(t, err, &where)
	require.Equal(t, "read", where.Op)

	var asked []pipe.Extent
	allow := func(e pipe.Extent, err error) error {
		require.ErrorIs(t, err, pipetest.ErrFault)
		asked = append(asked, e) // never called twice at once, or the race detector tells
		return nil
	}
	d := newDisk(t, bs, size)
	stats, err := pipe.Copy(t.Context(), d, broken, &pipe.CopyOptions{OnReadError: allow})
	require.NoError(t, err)
	require.Equal(t, want, stats.Bad)
	require.Len(t, asked, 6, "one range is in two reads")
	require.Equal(t, map[pipe.Kind]int64{pipe.Bad: 2*bs + 100}, stats.Skipped, "blocks that are wholly bad")
	_, got := d.commit(t)
	requireSame(t, pipetest.Bytes(holes), got)

	for _, target := range []pipe.Target{pipe.NewMemory(size), plain{pipe.NewMemory(size)}} {
		stats, err = pipe.Copy(t.Context(), target, broken, &pipe.CopyOptions{OnReadError: allow})
		require.NoError(t, err)
		require.Equal(t, want, stats.Bad)
		requireSettled(t, stats)
	}

	_, err = pipe.Copy(t.Context(), newDisk(t, bs, size), broken, &pipe.CopyOptions{
		OnReadError: func(e pipe.Extent, err error) error { return fmt.Errorf("no: %w", err) },
	})
	require.ErrorIs(t, err, pipetest.ErrFault)
}

// EIO at random sectors, once and for good: with the policy to go on, nothing is silently zero (RELIABILITY bar 30).
func TestCopyOfAFailingDiskIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(1, 300_000).Draw(t, "size")
		var bad []pipe.Extent
		hit := map[int64]bool{}
		for range rapid.IntRange(0, 6).Draw(t, "bad") {
			sector := rapid.Int64Range(0, (size-1)/512).Draw(t, "sector")
			bad = append(bad, pipe.Extent{Off: sector * 512, Len: min(512, size-sector*512)})
			hit[sector] = true
		}
		content := bytes.Repeat([]byte{9}, int(size))
		d := newDisk(t, 1<<rapid.IntRange(9, 15).Draw(t, "block"), size)
		stats, err := pipe.Copy(context.Background(), d, pipetest.BadSectors(pipetest.Bytes(content), bad...),
			&pipe.CopyOptions{OnReadError: func(pipe.Extent, error) error { return nil }})
		require.NoError(t, err)
		listed := map[int64]bool{}
		for _, e := range stats.Bad {
			clear(content[e.Off:e.End()])
			for s := e.Off / 512; s*512 < e.End(); s++ {
				listed[s] = true
			}
		}
		require.Equal(t, hit, listed)
		_, got := d.commit(t)
		requireSame(t, pipetest.Bytes(content), got)
	})
}

// Fail operation 1, 2, 3 … until the run succeeds, on both sides, once and for good. Each failure ends the copy with
// that error and leaves no goroutine.
func TestCopyFailsAtEveryOperation(t *testing.T) {
	const size = 6*4096 + 100
	layout := []pipe.Extent{{0, 5000, pipe.Data}, {5000, 10_000, pipe.Zero}, {15_000, size - 15_000, pipe.Data}}
	src := pipetest.WithExtents(pipetest.Bytes(randomBytes(size)), layout...)
	targets := map[string]func() pipe.Target{
		"blocks":  func() pipe.Target { return newDisk(t, 4096, size).BlockTarget },
		"extents": func() pipe.Target { return pipe.NewMemory(size) },
		"plain":   func() pipe.Target { return plain{pipe.NewMemory(size)} },
	}
	for name, target := range targets {
		for _, sticky := range []bool{false, true} {
			for _, side := range []string{"image", "target"} {
				for n := int64(1); ; n++ {
					fault := pipetest.FailNth(n, sticky)
					img, to := pipe.Image(src), target()
					if side == "image" {
						img = pipetest.HookImage(img, fault.Hook)
					} else {
						to = pipetest.HookTarget(to, fault.Hook)
					}
					before := goleak.IgnoreCurrent()
					_, err := pipe.Copy(t.Context(), to, img, &pipe.CopyOptions{BufferBytes: 8192})
					require.NoError(t, goleak.Find(before), "%s %s %d", name, side, n)
					if !fault.Fired() {
						require.NoError(t, err)
						require.Greater(t, n, int64(2), "%s %s", name, side)
						break
					}
					require.ErrorIs(t, err, pipetest.ErrFault, "%s %s %d", name, side, n)
				}
			}
		}
	}
}

// A copy that is cancelled at any operation ends with the context's error, at once and whole.
func TestCopyCancelledAnywhere(t *testing.T) {
	const size = 2 << 20
	src := pipetest.NewPattern(5, size, pipetest.RandomLayout(5, size, pipe.Data, pipe.Zero)...)
	for n := int64(1); ; n += 1 + n/8 {
		ctx, cancel := context.WithCancel(t.Context())
		var seen atomic.Int64
		hook := func(context.Context, *pipetest.Op) error {
			if seen.Add(1) == n {
				cancel()
			}
			return nil
		}
		before := goleak.IgnoreCurrent()
		d := newDisk(t, 16<<10, size)
		_, err := pipe.Copy(ctx, pipetest.HookTarget(d, hook), pipetest.HookImage(src, hook), &pipe.CopyOptions{BufferBytes: 200_000})
		require.NoError(t, goleak.Find(before))
		cancel()
		if seen.Load() < n {
			require.NoError(t, err)
			break
		}
		if err != nil { // the last operations may all have gone well
			require.ErrorIs(t, err, context.Canceled)
		}
	}
}

// A target that waits for ever, but for its context, does not hold up the end.
func TestCopyEndsWhileTheTargetWaits(t *testing.T) {
	d := newDisk(t, 16<<10, 4<<20)
	boom := errors.New("boom")
	var puts atomic.Int32
	stuck := pipetest.HookTarget(d, func(ctx context.Context, op *pipetest.Op) error {
		if op.Name != "putblock" {
			return nil
		}
		if puts.Add(1) == 3 {
			return boom
		}
		<-ctx.Done()
		return ctx.Err()
	})
	_, err := pipe.Copy(t.Context(), stuck, pipetest.NewPattern(1, 4<<20), nil)
	require.ErrorIs(t, err, boom)
}

// What is changed between fingerprint and write is caught by the target, which recomputes (RELIABILITY bar 17).
func TestFlipBetweenStagesIsCaught(t *testing.T) {
	const size = 1 << 20
	src := pipetest.NewPattern(8, size)
	for n := int64(1); ; n++ {
		for _, level := range []pipe.Compression{pipe.None, pipe.Fast, pipe.Default} {
			d := newDisk(t, 64<<10, size)
			_, err := pipe.Copy(t.Context(), pipetest.HookTarget(d, pipetest.FlipBlock(n)), src, &pipe.CopyOptions{Compression: level})
			if err == nil {
				require.Greater(t, n, int64(5))
				return
			}
			require.ErrorIs(t, err, pipe.ErrBlockMismatch)
			var where *pipe.RangeError
			require.ErrorAs(t, err, &where)
			require.Equal(t, "put", where.Op)
		}
	}
}

// One content many times over is sent once, even where it is in flight many times (R020).
func TestCopySendsABlockOnce(t *testing.T) {
	const bs, count = 4096, 200
	content := bytes.Repeat(bytes.Repeat([]byte("same"), bs/4), count)
	var log pipetest.Log
	slow := func(_ context.Context, op *pipetest.Op) error {
		if op.Name == "putblock" && len(op.Data) > 0 {
			time.Sleep(20 * time.Millisecond)
		}
		return nil
	}
	d := newDisk(t, bs, bs*count)
	stats, err := pipe.Copy(t.Context(), pipetest.HookTarget(d, pipetest.Hooks(log.Hook, slow)), pipetest.Bytes(content), nil)
	require.NoError(t, err)
	sent := 0
	for _, op := range log.Ops("putblock") {
		if op.Data != nil {
			sent++
		}
	}
	require.Len(t, log.Ops("putblock"), count)
	require.Equal(t, 1, sent)
	require.Equal(t, int64(bs), stats.Moved)
	require.Equal(t, int64(bs*(count-1)), stats.Deduplicated)
	_, got := d.commit(t)
	requireSame(t, pipetest.Bytes(content), got)
}

// forgetful answers that it has every block, and has none.
type forgetful struct{ pipe.BlockTarget }

func (f forgetful) Missing(_ context.Context, ids []pipe.ID) ([]bool, error) {
	return make([]bool, len(ids)), nil
}

func TestCopyPutsAgainWhatTheTargetLost(t *testing.T) {
	src := pipetest.NewPattern(4, 1<<20)
	d := newDisk(t, 64<<10, src.Size())
	stats, err := pipe.Copy(t.Context(), forgetful{d}, src, nil)
	require.NoError(t, err)
	require.Positive(t, stats.Moved)
	_, got := d.commit(t)
	requireSame(t, src, got)

	_, err = pipe.Copy(t.Context(), liar{d}, src, nil)
	require.ErrorContains(t, err, "answers")
}

// liar gives too few answers.
type liar struct{ pipe.BlockTarget }

func (l liar) Missing(context.Context, []pipe.ID) ([]bool, error) { return nil, nil }

// BufferBytes bounds what is in flight, whatever the disk size.
func TestCopyKeepsToItsBuffers(t *testing.T) {
	const size, budget = 24 << 20, 2 << 20
	var mu sync.Mutex
	var ahead, most int64
	count := func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		ahead += n
		most = max(most, ahead)
	}
	src := pipetest.HookImage(pipetest.WithExtents(pipetest.Bytes(randomBytes(size))), func(_ context.Context, op *pipetest.Op) error {
		if op.Name == "readat" {
			count(op.Len)
		}
		return nil
	})
	src = onlyReads{src}
	d := pipetest.HookTarget(pipe.NewNull(size, 64<<10), func(_ context.Context, op *pipetest.Op) error {
		if op.Name == "putblock" {
			runtime.Gosched()
			count(-op.Len)
		}
		return nil
	})
	_, err := pipe.Copy(t.Context(), d, src, &pipe.CopyOptions{BufferBytes: budget})
	require.NoError(t, err)
	require.Zero(t, ahead)
	require.LessOrEqual(t, most, int64(budget))
	require.Greater(t, most, int64(budget/4), "and uses them")
}

// onlyReads hides extents.
type onlyReads struct{ img pipe.Image }

func (o onlyReads) Size() int64  { return o.img.Size() }
func (o onlyReads) Close() error { return o.img.Close() }
func (o onlyReads) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	return o.img.ReadAt(ctx, p, off)
}

func randomBytes(n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(p)
	return p
}

// Neighbouring blocks are read by one large read.
func TestCopyReadsInLargePieces(t *testing.T) {
	var log pipetest.Log
	src := pipetest.HookImage(pipetest.NewPattern(1, 8<<20), log.Hook)
	_, err := pipe.Copy(t.Context(), pipe.NewNull(8<<20, 64<<10), src, nil)
	require.NoError(t, err)
	require.Len(t, log.Ops("readat"), 8)
}

func TestCopyTellsProgressAndStats(t *testing.T) {
	const size = 4 << 20
	src := pipetest.HookImage(pipetest.NewPattern(2, size, pipe.Extent{Off: 1 << 20, Len: 1 << 20, Kind: pipe.Swap}),
		func(_ context.Context, op *pipetest.Op) error {
			if op.Name == "readat" {
				time.Sleep(150 * time.Millisecond)
			}
			return nil
		})
	var told []pipe.Progress
	stats, err := pipe.Copy(t.Context(), newDisk(t, 64<<10, size), src, &pipe.CopyOptions{
		BufferBytes: 1 << 20, // few buffers, so that the slow source shows
		Progress:    func(p pipe.Progress) { told = append(told, p) },
	})
	require.NoError(t, err)
	require.Greater(t, len(told), 1)
	last := told[len(told)-1]
	require.Equal(t, int64(size), last.Done)
	require.Equal(t, stats, last.Stats)
	for i, p := range told {
		require.Equal(t, int64(size), p.Total)
		require.True(t, i == 0 || p.Done >= told[i-1].Done)
	}
	require.Equal(t, int64(size), stats.Size)
	require.Equal(t, int64(3<<20), stats.Read)
	require.Equal(t, int64(1<<20), stats.Skipped[pipe.Swap])
	require.Equal(t, "source", stats.Bottleneck(), "%+v", stats.Stages)
	var names []string
	for _, s := range stats.Stages {
		names = append(names, s.Name)
		require.True(t, s.Busy >= 0 && s.Busy <= 1, "%+v", s)
	}
	require.Equal(t, []string{"read", "exclude", "fingerprint", "deduplicate", "compress", "write"}, names)

	text, err := json.Marshal(stats)
	require.NoError(t, err)
	require.Contains(t, string(text), `"swap":1048576`)
	var back pipe.Stats
	require.NoError(t, json.Unmarshal(text, &back))
	require.Equal(t, stats, back)
}

func TestBottleneckNamesTheBusiestSide(t *testing.T) {
	stage := func(side string, busy float64) pipe.StageStat { return pipe.StageStat{Side: side, Busy: busy} }
	for want, stages := range map[string][]pipe.StageStat{
		"":        nil,
		"source":  {stage("source", 0.9), stage("pipe", 0.4), stage("pipe", 0.4), stage("target", 0.5), stage("target", 0.5)},
		"pipe":    {stage("source", 0.9), stage("pipe", 0.5), stage("pipe", 0.45), stage("target", 0.5), stage("target", 0.5)},
		"target":  {stage("source", 0.2), stage("pipe", 0.1), stage("network", 0.5), stage("target", 0.05), stage("target", 0.6)},
		"network": {stage("source", 0.2), stage("pipe", 0.6), stage("network", 0.9), stage("target", 0.05), stage("target", 0.95)},
	} {
		require.Equal(t, want, (&pipe.Stats{Stages: stages}).Bottleneck())
	}
}

// The bottleneck is where the time goes, also when the target is slow.
func TestSlowTargetIsTheBottleneck(t *testing.T) {
	src := pipetest.NewPattern(3, 2<<20)
	slow := pipetest.HookTarget(pipe.NewMemory(src.Size()), func(_ context.Context, op *pipetest.Op) error {
		time.Sleep(50 * time.Millisecond)
		return nil
	})
	stats, err := pipe.Copy(t.Context(), slow, src, &pipe.CopyOptions{BufferBytes: 256 << 10})
	require.NoError(t, err)
	require.Equal(t, "target", stats.Bottleneck(), "%+v", stats.Stages)
	require.Len(t, stats.Stages, 3)
}
