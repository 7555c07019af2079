package repo

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/object"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
)

const asmBlock = 64 << 10

func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}).Read(b)
	return b
}

// movedBy puts the start of some content behind n new bytes.
func movedBy(seed uint64, n int, content []byte) []byte {
	return append(noise(seed, n), content[:len(content)-n]...)
}

// readHook is a store that can be told to fail the reads of data packs.
type readHook struct {
	store.Store
	reads atomic.Int64
	limit atomic.Int64 // data reads that go well; negative: all
}

func (h *readHook) Unwrap() store.Store { return h.Store }

func (h *readHook) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	if strings.HasPrefix(name, "data/") {
		if n, limit := h.reads.Add(1), h.limit.Load(); limit >= 0 && n > limit {
			return 0, errors.New("the store is gone")
		}
	}
	return h.Store.ReadAt(ctx, name, p, off)
}

func initAssembling(t *testing.T, st store.Store, blockSize int) *Repository {
	t.Helper()
	r, err := Init(t.Context(), st, KeyFile([32]byte{1}), &InitOptions{BlockSize: blockSize}, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

func dataOf(t *testing.T, r *Repository, lease uint64) (names []string) {
	t.Helper()
	sizes, err := r.packs(t.Context())
	require.NoError(t, err)
	for p := range sizes {
		if p.Kind == kindData && (lease == 0 || p.Lease == lease) {
			names = append(names, p.name())
		}
	}
	slices.Sort(names)
	require.NotEmpty(t, names)
	return names
}

func requireRestored(t *testing.T, r *Repository, point string, want []byte) {
	t.Helper()
	got, err := restoreBytes(r, point)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got), "the restored disk differs")
}

// An assembled block whose source is lost is not deduplicated against, and an increment does not refer to it (hazard
// H28).
func TestLostSourceIsStoredAgain(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for _, how := range []string{"lost", "empty", "zeroed, found by verify", "zeroed, found by a restore"} {
		t.Run(how, func(t *testing.T) {
			st := memstore.New(nil)
			r := initAssembling(t, st, asmBlock)
			content := noise(1, 8*asmBlock)
			shifted := movedBy(2, anchorCell, content)
			backupBytes(t, r, "one", content)
			source := dataOf(t, r, 0)
			two, stats := backupBytes(t, r, "two", shifted)
			require.Less(t, stats.Stored, stats.Size/4)
			require.Len(t, source, 1)
			switch how {
			case "lost":
				require.NoError(t, st.Remove(ctx, source[0]))
			case "empty":
				st.Set(source[0], nil)
			default:
				info, err := st.Stat(ctx, source[0])
				require.NoError(t, err)
				st.Set(source[0], make([]byte, info.Size))
			}
			damaged := openTest(t, st)
			switch how {
			case "zeroed, found by verify":
				rep, err := damaged.Verify(ctx, &VerifyOptions{DataPercent: 100})
				require.NoError(t, err)
				require.False(t, rep.OK)
			case "zeroed, found by a restore":
				for off := int64(0); off < int64(len(shifted)); off += asmBlock { // every block, whatever the others say
					img, err := damaged.Open(ctx, two, "disk0")
					require.NoError(t, err)
					_, _ = img.ReadAt(ctx, make([]byte, asmBlock), off)
					require.NoError(t, img.Close())
				}
			}
			w, err := damaged.Begin(ctx, "two", &pipe.PointOptions{Base: two})
			require.NoError(t, err)
			d, err := w.Disk(ctx, "disk0", int64(len(shifted)))
			require.NoError(t, err)
			err = d.(pipe.ExtentTarget).Mark(ctx, pipe.Extent{Len: d.Size(), Kind: pipe.Unchanged})
			var corrupt *ErrCorrupt
			require.ErrorAs(t, err, &corrupt)
			require.NoError(t, w.Close())

			three, stats := backupBytes(t, damaged, "two", shifted)
			require.Equal(t, stats.Size, stats.Deduplicated+stats.Moved)
			requireRestored(t, damaged, three, shifted)
			for range 4 {
				later := openTest(t, st)
				requireRestored(t, later, three, shifted)
				requireRestored(t, later, two, shifted)
			}
		})
	}
}

// A block may be stored whole by one session and assembled by another that knew nothing of it. What needs it finds the
// whole one, whichever the index names first, and two recipes that name each other's blocks end.
func TestBlockThatIsWholeAndAssembled(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	st := memstore.New(nil)
	r := initAssembling(t, st, asmBlock)
	x := noise(3, asmBlock)
	y := append(slices.Clone(x[anchorCell:]), noise(4, anchorCell)...)
	idX, idY := r.keys.id(object.TypeBlock, x), r.keys.id(object.TypeBlock, y)
	point, _ := backupBytes(t, r, "vm", append(slices.Clone(x), y...))
	whole := dataOf(t, r, 0)
	const rest = asmBlock - anchorCell
	recipes := []struct {
		id pipe.ID
		r  recipe
	}{
		{idX, recipe{literal: x[:anchorCell], plain: anchorCell, pieces: []piece{{length: anchorCell}, {length: rest, copied: true, from: idY}}}},
		{idY, recipe{literal: y[rest:], plain: anchorCell, pieces: []piece{{length: rest, copied: true, from: idX, offset: anchorCell}, {length: anchorCell}}}},
	}
	for range 3 { // as many as the index remembers
		for _, rec := range recipes {
			s, err := r.newSession(ctx, nil)
			require.NoError(t, err)
			encoded := rec.r.encode()
			_, err = s.write(ctx, &frame{typ: object.TypeBlock, id: rec.id, plain: asmBlock, codec: codecAssembled, data: encoded, sum: xxhash.Sum64(encoded)})
			require.NoError(t, err)
			require.NoError(t, s.flush(ctx))
			require.NoError(t, s.close(ctx))
		}
	}
	for _, name := range namesUnder(t, st, "index/") { // so that the packs are loaded in any order
		require.NoError(t, st.Remove(ctx, name))
	}
	for range 5 {
		later := openTest(t, st)
		requireRestored(t, later, point, append(slices.Clone(x), y...))
		for _, percent := range []float64{0, 50, 100} {
			rep, err := later.Verify(ctx, &VerifyOptions{DataPercent: percent})
			require.NoError(t, err)
			require.True(t, rep.OK, "%+v", rep)
		}
	}
	for _, name := range whole {
		require.NoError(t, st.Remove(ctx, name))
	}
	damaged := openTest(t, st)
	rep, err := damaged.Verify(ctx, nil)
	require.NoError(t, err)
	require.Len(t, rep.Affected, 1)
	require.EqualValues(t, 2*asmBlock, rep.Affected[0].Length)
	_, err = restoreBytes(damaged, point)
	require.Error(t, err)
	again, _ := backupBytes(t, damaged, "vm", append(slices.Clone(x), y...))
	requireRestored(t, damaged, again, append(slices.Clone(x), y...))
	requireRestored(t, openTest(t, st), point, append(slices.Clone(x), y...))
}

func namesUnder(t *testing.T, st store.Store, prefix string) (names []string) {
	for info, err := range st.List(t.Context(), prefix) {
		require.NoError(t, err)
		names = append(names, info.Name)
	}
	return names
}

// A store that fails while a block is assembled costs the gain, not the backup. 4 MiB blocks: the sources do not all
// fit in the cache, so they are read again when the recipe is proven.
func TestSourceFailsWhileAssembling(t *testing.T) {
	t.Parallel()
	const size = 4 << 20
	content := noise(5, 3*size)
	st := memstore.New(nil)
	initial := initAssembling(t, st, size)
	backupBytes(t, initial, "one", content)
	var mixed []byte
	for i := range 3 {
		mixed = append(mixed, content[i*size+anchorCell:][:size/3&^(anchorCell-1)]...)
	}
	mixed = append(mixed, noise(6, size-len(mixed))...)
	hook := &readHook{Store: st}
	hook.limit.Store(-1)
	r := openTest(t, hook)
	s, err := r.newSession(t.Context(), nil)
	require.NoError(t, err)
	defer s.close(t.Context())
	hook.reads.Store(0)
	_, ok, err := s.assemble(t.Context(), r.keys.id(object.TypeBlock, mixed), mixed)
	require.NoError(t, err)
	require.True(t, ok)
	reads := hook.reads.Load()
	for _, k := range []int64{0, reads - 1} {
		r := openTest(t, hook)
		s, err := r.newSession(t.Context(), nil)
		require.NoError(t, err)
		hook.reads.Store(0)
		hook.limit.Store(k)
		_, _, err = s.assemble(t.Context(), r.keys.id(object.TypeBlock, mixed), mixed)
		hook.limit.Store(-1)
		require.NoError(t, err, "after %d reads", k)
		require.NoError(t, s.close(t.Context()))
	}
}

// A pack that is whole is not read whole for a recipe in it whose source is lost.
func TestLostSourceIsNamed(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	hook := &readHook{Store: memstore.New(nil)}
	hook.limit.Store(-1)
	r := initAssembling(t, hook, asmBlock)
	content := noise(7, 16*asmBlock)
	backupBytes(t, r, "one", content)
	source := dataOf(t, r, 0)[0]
	two, _ := backupBytes(t, r, "two", movedBy(8, anchorCell, content))
	info, err := hook.Stat(ctx, source)
	require.NoError(t, err)
	hook.Store.(*memstore.Store).Set(source, make([]byte, info.Size))
	damaged := openTest(t, hook)
	img, err := damaged.Open(ctx, two, "disk0")
	require.NoError(t, err)
	defer img.Close()
	lost := 0
	for i := int64(1); i < 16; i++ {
		_, err := img.ReadAt(ctx, make([]byte, asmBlock), i*asmBlock)
		if err == nil {
			continue // stored whole: it has no anchor
		}
		lost++
		var corrupt *ErrCorrupt
		require.ErrorAs(t, err, &corrupt)
		require.Equal(t, source, corrupt.Object)
	}
	require.Greater(t, lost, 10)
	for _, name := range dataOf(t, r, 0) {
		if p, ok := parsePack(name); ok && name != source {
			require.NoError(t, damaged.lost.get(p))
		}
	}
	rep, err := openTest(t, hook).Verify(ctx, &VerifyOptions{DataPercent: 100})
	require.NoError(t, err)
	for _, d := range rep.Damaged {
		require.Equal(t, source, d.Object)
	}
}

// Cells whose hashes a guest has chosen to meet in one slot cost a bounded search, and so do cells that all lead to
// other blocks which are not the same after all.
func TestChosenCellsCostABoundedSearch(t *testing.T) {
	t.Parallel()
	table := newAnchorTable(0)
	for i := range uint64(100_000) {
		table.add(i<<42|1, uint32(i), 0)
	}
	require.LessOrEqual(t, table.n, maxProbes)
	_, _, ok := table.get(1)
	require.True(t, ok)

	hook := &readHook{Store: memstore.New(nil)}
	hook.limit.Store(-1)
	const size = 256 << 10
	first := initAssembling(t, hook, size)
	content := noise(9, 32*size)
	backupBytes(t, first, "one", content)
	r := openTest(t, hook)
	s, err := r.newSession(t.Context(), nil)
	require.NoError(t, err)
	defer s.close(t.Context())
	require.True(t, s.loadAnchors(t.Context()))
	block, hashes := noise(10, size), make([]uint64, 0, 64)
	for i := range 32 {
		hash := uint64(i+1)<<42 | uint64(i)<<8 | 1
		id := r.keys.id(object.TypeBlock, content[i*size:][:size])
		rec, ok, err := r.indexes[scope{}].idx.recordOf(id)
		require.NoError(t, err)
		require.True(t, ok)
		s.anchors.add(hash, rec, 0)
		hashes = append(hashes, hash)
	}
	hook.reads.Store(0)
	require.Empty(t, s.findMatches(t.Context(), block, hashes))
	require.LessOrEqual(t, hook.reads.Load(), int64(maxTries+4))
}

// Zeros beside content that is there already do not keep a block from being assembled.
func TestZerosDoNotHideAGain(t *testing.T) {
	t.Parallel()
	st := memstore.New(nil)
	r := initAssembling(t, st, 256<<10)
	content := noise(11, 256<<10)
	backupBytes(t, r, "one", content)
	half := make([]byte, 256<<10)
	copy(half[anchorCell:], content[:128<<10])
	two, stats := backupBytes(t, r, "two", half)
	require.Less(t, stats.Stored, int64(4<<10))
	requireRestored(t, openTest(t, st), two, half)
}

// Several disks of several sessions look for the same blocks at once, with blobs beside them; one gives up on the way.
func TestManyAssembleAtOnce(t *testing.T) {
	t.Parallel()
	st := memstore.New(nil)
	r := initAssembling(t, st, asmBlock)
	content := noise(12, 12*asmBlock+100)
	backupBytes(t, r, "base", content)
	r = openTest(t, st)
	var all sync.WaitGroup
	for i := range uint64(3) {
		all.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			w, err := r.Begin(ctx, "vm", nil)
			if !assert.NoError(t, err) {
				return
			}
			defer w.Close()
			var disks sync.WaitGroup
			for _, key := range []string{"a", "b"} {
				disks.Go(func() {
					shifted := movedBy(20+i, int(i+1)*anchorCell, content)
					d, err := w.Disk(ctx, key, int64(len(shifted)))
					if assert.NoError(t, err) {
						_, err = pipe.Copy(ctx, d, pipe.FromReaderAt(bytes.NewReader(shifted), d.Size()), nil)
						assert.True(t, err == nil && d.Commit(ctx) == nil || i == 2, "%v", err)
					}
				})
			}
			assert.True(t, w.Blob(ctx, "log", bytes.NewReader(noise(30+i, 3*asmBlock))) == nil || i == 2)
			if i == 2 {
				cancel()
			}
			disks.Wait()
			if i == 2 {
				return
			}
			point, err := w.Commit(ctx, nil)
			if !assert.NoError(t, err) {
				return
			}
			for _, key := range []string{"a", "b"} {
				img, err := r.Open(ctx, point, key)
				if assert.NoError(t, err) {
					got := make([]byte, img.Size())
					_, err = img.ReadAt(ctx, got, 0)
					assert.NoError(t, err)
					assert.True(t, bytes.Equal(movedBy(20+i, int(i+1)*anchorCell, content), got))
					assert.NoError(t, img.Close())
				}
			}
		})
	}
	all.Wait()
	rep, err := openTest(t, st).Verify(t.Context(), &VerifyOptions{DataPercent: 100})
	require.NoError(t, err)
	require.True(t, rep.OK, "%+v", rep)
}

// Random edits of a disk, backed up by several processes one after the other, give back what they were given.
func TestAssembledDisksAgainstTheirContent(t *testing.T) {
	t.Parallel()
	tried := 0
	rapid.Check(t, func(rt *rapid.T) {
		if tried++; tried > 3 { // each makes a repository, and verifies it three times
			return
		}
		st := memstore.New(nil)
		r := initAssembling(t, st, asmBlock)
		content := noise(rapid.Uint64().Draw(rt, "seed"), 10*asmBlock+rapid.IntRange(0, asmBlock).Draw(rt, "tail"))
		points := map[string][]byte{}
		for i := range 3 {
			id, stats := backupBytes(t, r, []string{"a", "b"}[i%2], content)
			skipped := int64(0)
			for _, n := range stats.Skipped {
				skipped += n
			}
			require.Equal(rt, stats.Size, skipped+stats.Deduplicated+stats.Moved)
			points[id] = content
			content = edited(rt, content)
			r = openTest(t, st)
		}
		for id, want := range points {
			requireRestored(t, r, id, want)
		}
		for _, percent := range []float64{0, 50, 100} {
			rep, err := r.Verify(t.Context(), &VerifyOptions{DataPercent: percent})
			require.NoError(rt, err)
			require.True(rt, rep.OK, "%+v", rep)
		}
	})
}

func edited(rt *rapid.T, content []byte) []byte {
	size := len(content)
	b := slices.Clone(content)
	for range rapid.IntRange(1, 6).Draw(rt, "edits") {
		at := rapid.IntRange(0, len(b)/anchorCell-1).Draw(rt, "at") * anchorCell
		n := min(rapid.IntRange(1, 40).Draw(rt, "cells")*anchorCell, len(b)-at)
		run := slices.Clone(b[at : at+n])
		switch rapid.IntRange(0, 4).Draw(rt, "edit") {
		case 0:
			b = slices.Insert(b, at, noise(rapid.Uint64().Draw(rt, "new"), n)...)
		case 1:
			b = append(append(slices.Delete(b, at, at+n), run...), run...)
		case 2:
			to := rapid.IntRange(0, len(b)-1).Draw(rt, "to") // of any alignment
			copy(b[to:], run)
		case 3:
			clear(b[at : at+n])
		case 4:
			b[at+rapid.IntRange(0, n-1).Draw(rt, "byte")]++
		}
		for len(b) < size {
			b = append(b, run...)
		}
		b = b[:size]
	}
	return b
}
