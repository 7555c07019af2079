package repo

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/blake3"
	"pgregory.net/rapid"

	"github.com/hikae/hikae/pipe"
)

// mapPages keeps pages in memory, as they would be stored.
type mapPages struct {
	m     map[pipe.ID][]byte
	loads int
}

func (p *mapPages) savePage(_ context.Context, b []byte) (pipe.ID, error) {
	id := pipe.ID(blake3.Sum256(b))
	p.m[id] = append([]byte(nil), b...)
	return id, nil
}

func (p *mapPages) loadPage(_ context.Context, id pipe.ID, level, entries int) (*page, error) {
	p.loads++
	return decodePage(p.m[id], level, entries)
}

// A tree against an array of entries: any order of blocks, marks and ranges kept from a base.
func TestTreeAgainstArray(t *testing.T) {
	ctx := context.Background()
	rapid.Check(t, func(t *rapid.T) {
		const bs = 64 << 10
		size := rapid.SampledFrom([]int64{0, 1, bs, bs + 1, 255 * bs, 256 * bs, 257 * bs, 600*bs - 3, 70000 * bs}).Draw(t, "size")
		store := &mapPages{m: map[pipe.ID][]byte{}}
		s := newShape(size, bs)
		var base *entry
		var baseModel []entry
		for round := range 2 {
			w := newTreeWriter(s, store, base)
			model := make([]entry, s.blocks)
			written := make([]bool, s.blocks)
			apply := func(lo, hi int64, e entry) {
				for i := lo; i < hi; i++ {
					model[i], written[i] = e, true
				}
			}
			steps := rapid.IntRange(0, 25).Draw(t, "steps")
			for range steps {
				if s.blocks == 0 {
					break
				}
				lo := rapid.Int64Range(0, s.blocks-1).Draw(t, "lo")
				hi := rapid.Int64Range(lo+1, s.blocks).Draw(t, "hi")
				switch op := rapid.IntRange(0, 3).Draw(t, "op"); {
				case op == 0:
					kind := rapid.SampledFrom([]pipe.Kind{pipe.Zero, pipe.Swap, pipe.Free}).Draw(t, "kind")
					require.NoError(t, w.mark(ctx, lo, hi, kind))
					apply(lo, hi, entry{kind: kind})
				case op == 1 && base != nil:
					require.NoError(t, w.keep(ctx, lo, hi))
					for i := lo; i < hi; i++ {
						model[i], written[i] = baseModel[i], true
					}
				default:
					hi = min(hi, lo+300)
					e := entry{kind: pipe.Data, id: pipe.ID{rapid.Byte().Draw(t, "id")}}
					for i := lo; i < hi; i++ {
						require.NoError(t, w.setBlock(ctx, i, e))
					}
					apply(lo, hi, e)
				}
			}
			for i := int64(0); i < s.blocks; {
				if written[i] {
					i++
					continue
				}
				j := i
				for j < s.blocks && !written[j] {
					j++
				}
				_, err := w.finish(ctx)
				require.ErrorIs(t, err, ErrIncomplete)
				require.NoError(t, w.mark(ctx, i, j, pipe.Zero))
				apply(i, j, entry{kind: pipe.Zero})
				i = j
			}
			root, err := w.finish(ctx)
			require.NoError(t, err)

			r := treeReader{shape: s, load: store.loadPage, root: root}
			next := int64(0)
			require.NoError(t, r.walk(ctx, 0, s.blocks, func(e entry, lo, hi int64) error {
				require.Equal(t, next, lo)
				for i := lo; i < hi; i++ { // require is too slow for each of 70,000 blocks
					if model[i].kind != e.kind || model[i].id != e.id {
						t.Fatalf("block %d is %v, not %v", i, e, model[i])
					}
				}
				next = hi
				return nil
			}))
			require.Equal(t, s.blocks, next)
			var want sums
			for _, e := range model {
				want[e.kind]++
			}
			require.Equal(t, want, r.total())
			if s.blocks > 0 {
				i := rapid.Int64Range(0, s.blocks-1).Draw(t, "probe")
				e, err := r.lookup(ctx, i)
				require.NoError(t, err)
				require.Equal(t, model[i].id, e.id)
				from, to := i, min(s.blocks, i+700)
				next = from
				require.NoError(t, r.walk(ctx, from, to, func(_ entry, lo, hi int64) error {
					require.Equal(t, next, lo)
					next = hi
					return nil
				}))
				require.Equal(t, to, next)
			}
			if round == 0 {
				base, baseModel = &root, model
			}
		}
	})
}

// An 8 TiB disk that is empty, or unchanged, costs a handful of pages, not a walk over its blocks.
func TestTreeHugeDisk(t *testing.T) {
	ctx := context.Background()
	store := &mapPages{m: map[pipe.ID][]byte{}}
	s := newShape(8<<40+5, 256<<10)
	w := newTreeWriter(s, store, nil)
	require.NoError(t, w.mark(ctx, 0, s.blocks, pipe.Zero))
	require.NoError(t, w.setBlock(ctx, s.blocks/2, entry{kind: pipe.Data, id: pipe.ID{1}}))
	root, err := w.finish(ctx)
	require.NoError(t, err)
	require.Less(t, len(store.m), 8)
	require.Equal(t, uint64(s.blocks-1), treeReader{shape: s, root: root}.total()[pipe.Zero])

	again := newTreeWriter(s, store, &root)
	store.loads = 0
	require.NoError(t, again.keep(ctx, 0, s.blocks))
	same, err := again.finish(ctx)
	require.NoError(t, err)
	require.Equal(t, root.id, same.id)
	require.LessOrEqual(t, store.loads, 1)
}

func FuzzPage(f *testing.F) {
	p := page{level: 1, entries: []entry{{kind: pipe.Zero}, {kind: pipe.Data, id: pipe.ID{1}}, {kind: pipe.Swap}}}
	f.Add(p.encode(nil), 1, 3)
	p = page{level: 0, entries: []entry{{kind: pipe.Data, id: pipe.ID{1}}, {kind: pipe.Data, id: pipe.ID{2}}}}
	f.Add(p.encode(nil), 0, 2)
	f.Fuzz(func(t *testing.T, b []byte, level, count int) {
		if count < 1 || count > fanout || level < 0 || level > 7 {
			return
		}
		if p, err := decodePage(b, level, count); err == nil {
			require.Equal(t, b, p.encode(nil)) // one encoding only
		}
	})
}

// What differs between two trees, by their pages alone, against a comparison block by block.
func TestDifferAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		store := &mapPages{m: map[pipe.ID][]byte{}}
		s := newShape(rapid.SampledFrom([]int64{0, 1, 5, 256, 257, 65_536, 65_537 + 300}).Draw(t, "blocks")*minBlockSize, minBlockSize)
		kinds := []pipe.Kind{pipe.Zero, pipe.Swap, pipe.Free, pipe.Bad}
		var base *entry
		var trees [2]treeReader
		var models [2][]entry
		for round := range 2 {
			w := newTreeWriter(s, store, base)
			model := make([]entry, s.blocks)
			if base != nil && s.blocks > 0 {
				require.NoError(t, w.keep(ctx, 0, s.blocks))
				copy(model, models[0])
			} else if s.blocks > 0 {
				require.NoError(t, w.mark(ctx, 0, s.blocks, pipe.Zero))
				for i := range model {
					model[i] = entry{kind: pipe.Zero}
				}
			}
			for range rapid.IntRange(0, 8).Draw(t, "changes") {
				if s.blocks == 0 {
					break
				}
				lo := rapid.Int64Range(0, s.blocks-1).Draw(t, "lo")
				hi := min(s.blocks, lo+rapid.SampledFrom([]int64{1, 3, 256, 70_000}).Draw(t, "n"))
				e := entry{kind: rapid.SampledFrom(kinds).Draw(t, "kind")}
				if hi-lo < 300 && rapid.Bool().Draw(t, "data") {
					e = entry{kind: pipe.Data, id: pipe.ID{rapid.ByteRange(0, 3).Draw(t, "id")}}
					for i := lo; i < hi; i++ {
						require.NoError(t, w.setBlock(ctx, i, e))
					}
				} else {
					require.NoError(t, w.mark(ctx, lo, hi, e.kind))
				}
				for i := lo; i < hi; i++ {
					model[i] = e
				}
			}
			root, err := w.finish(ctx)
			require.NoError(t, err)
			base, models[round] = &root, model
			trees[round] = treeReader{shape: s, load: store.loadPage, root: root}
		}
		next := int64(0)
		require.NoError(t, differ(ctx, trees[0], trees[1], func(same bool, lo, hi int64) error {
			require.Equal(t, next, lo)
			for i := lo; i < hi; i++ {
				a, b := models[0][i], models[1][i]
				if want := a.kind == b.kind && a.id == b.id; want != same {
					t.Fatalf("block %d: %v, not %v", i, same, want)
				}
			}
			next = hi
			return nil
		}))
		require.Equal(t, s.blocks, next)
	})
}
