package repo

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/cell"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/storetest"
)

// What a sweep makes sure of right before something goes for good.

// twice is a repository that has all of a disk in two packs' worth of places, because two sessions did not know of each other. The
// second session, whose packs a prune would rather keep, is open.
func twice(t testing.TB, st store.Store, img pipe.Image) (r *Repository, point string, second pipe.PointWriter) {
	t.Helper()
	ctx := t.Context()
	r = smallPacks(t, st)
	first, err := r.Begin(ctx, "vm", nil)
	require.NoError(t, err)
	second, err = openInner(t, st, nil).Begin(ctx, "vm", nil)
	require.NoError(t, err)
	point, err = writePoint(ctx, first, "vm", img)
	require.NoError(t, err)
	d, err := second.Disk(ctx, "disk0", img.Size())
	require.NoError(t, err)
	_, err = pipe.Copy(ctx, d, img, nil)
	require.NoError(t, err)
	require.NoError(t, d.Commit(ctx))
	require.NoError(t, second.(pipe.Settler).Settle(ctx))
	return r, point, second
}

// settler notes of what the names were made durable.
type settler struct {
	store.Store
	mu   sync.Mutex
	seen map[string]bool
}

func (s *settler) Unwrap() store.Store { return s.Store }

func (s *settler) Settle(_ context.Context, prefix string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[prefix] = true
	return nil
}

// The packs of a session that died may be there and have no durable names: before a durable one goes because of them, they get some.
func TestSweepSettlesWhatStays(t *testing.T) {
	st := &settler{Store: memstore.New(nil), seen: map[string]bool{}}
	img := noiseDisk(seq(1, 20)...)
	r, point, dead := twice(t, st, img)
	of := fmt.Sprintf("data/%016x/", dead.(*pointWriter).s.lease.n)
	require.NoError(t, dead.Close())
	clear(st.seen)
	require.Positive(t, mustPrune(t, r, nil).Freed)
	require.Positive(t, countOf(t, st, of), "they are what stays")
	require.True(t, st.seen[of])
	requireDisk(t, openInner(t, st, nil), point, img)
}

// A repair finds damaged what a prune keeps, between the prune's decision and its sweep record: the other copy does not go.
func TestDamageFoundBeforeTheSweepRecord(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	img := noiseDisk(seq(1, 20)...)
	r, point, dead := twice(t, st, img)
	require.NoError(t, dead.Close())
	g := newGate(st, nthRecord(3))
	pruner := openInner(t, g, nil)
	ended := make(chan error, 1)
	go func() {
		_, err := pruner.Prune(ctx, &PruneOptions{Wait: -1})
		ended <- err
	}()
	<-g.met
	require.NoError(t, r.log.refresh(ctx))
	doomed := map[packRef]bool{}
	r.log.view(func(l *ledger) {
		for ref := range l.tombs {
			doomed[ref] = true
		}
	})
	require.NotEmpty(t, doomed)
	packs, err := r.packs(ctx)
	require.NoError(t, err)
	var bad []hash
	for ref, size := range packs {
		if doomed[ref] || ref.Kind != kindData {
			continue
		}
		table, err := r.readTable(ctx, ref, size)
		require.NoError(t, err)
		for _, e := range table {
			bad = append(bad, hash(e.ID))
		}
		st.Set(ref.name(), make([]byte, size))
	}
	require.NotEmpty(t, bad)
	key, err := r.signingKey(ctx)
	require.NoError(t, err)
	says(t, r, key, record{Kind: recordBad, IDs: bad})
	close(g.opened)
	require.NoError(t, <-ended)
	requireDisk(t, openInner(t, st, nil), point, img)
}

// late is a store whose listings lack packs.
type late struct {
	store.Store
	hide map[string]bool
}

func (s *late) Unwrap() store.Store { return s.Store }

func (s *late) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		for info, err := range s.Store.List(ctx, prefix) {
			if !s.hide[info.Name] && !yield(info, err) {
				return
			}
		}
	}
}

// A pack that was to go and is needed again is not in a listing, and a person has said to go on although content is lost: it was not
// removed for that.
func TestPackThatIsListedLate(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := smallPacks(t, st)
	img := noiseDisk(seq(1, 20)...)
	forget(t, r, mustPoint(t, r, "vm", img))
	w, err := openInner(t, st, nil).Begin(ctx, "vm", nil)
	require.NoError(t, err)
	d, err := w.Disk(ctx, "disk0", img.Size())
	require.NoError(t, err)
	_, err = pipe.Copy(ctx, d, img, nil)
	require.NoError(t, err)
	require.NoError(t, d.Commit(ctx))
	require.Positive(t, mustPrune(t, r, nil).Deferred)
	point, err := w.Commit(ctx, nil)
	require.NoError(t, err)
	slow := &late{Store: st, hide: map[string]bool{}}
	for info := range st.List(ctx, "data/") {
		slow.hide[info.Name] = true
	}
	packs := len(slow.hide)
	require.Positive(t, packs)
	_, err = openInner(t, slow, nil).Prune(ctx, &PruneOptions{Wait: -1, Lost: true})
	require.NoError(t, err)
	require.Equal(t, packs, countOf(t, st, "data/"))
	mustPrune(t, openInner(t, st, nil), nil)
	requireDisk(t, openInner(t, st, nil), point, img)
}

// What a prune keeps of content that stands twice is read before the other copy goes: a copy that went bad, and of which nobody knows, is
// none (law 3).
func TestKeptCopyIsReadBeforeTheOtherGoes(t *testing.T) {
	ctx := t.Context()
	for _, opts := range []*PruneOptions{{Wait: -1}, {Wait: -1, MaxUnused: -1}} {
		st := memstore.New(nil)
		img := noiseDisk(seq(1, 20)...)
		r, point, dead := twice(t, st, img)
		of := fmt.Sprintf("data/%016x/", dead.(*pointWriter).s.lease.n)
		require.NoError(t, dead.Close())
		for _, name := range namesUnder(t, st, of) {
			b, err := store.ReadAll(ctx, st, name, maxPackFile)
			require.NoError(t, err)
			if len(b) > 100*cell.Size { // not the last one
				clear(b[3*cell.Size : 30*cell.Size]) // more than the parity is good for
				st.Set(name, b)
			}
		}
		notes := new(warnings)
		o := onState(t.TempDir())
		o.Warn = notes.add
		other, err := Open(ctx, st, innerKey, o)
		require.NoError(t, err)
		rep := mustPrune(t, other, opts)
		require.NotZero(t, rep.Deleted, "of the blocks that are good in both places one copy went")
		require.True(t, notes.have("other copies stay"), "%v", notes.list)
		require.NoError(t, other.Close())
		requireDisk(t, r, point, img)
		requireDisk(t, openInner(t, st, nil), point, img)
	}
}

// What was buried and has to wait goes with a later prune, also where nothing can be read of it any more; and what a store cannot read just
// then stays.
func TestBuriedAndRuined(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := smallPacks(t, st)
	gone := mustPoint(t, r, "vm", noiseDisk(seq(1, 40)...))
	of := namesUnder(t, st, "data/")
	kept := mustPoint(t, r, "vm", noiseDisk(seq(50, 60)...))
	w, err := r.Begin(ctx, "vm", nil) // who knows what it builds on
	require.NoError(t, err)
	require.NoError(t, r.Forget(ctx, []string{gone}, ""))
	rep := mustPrune(t, openInner(t, st, nil), &PruneOptions{Wait: -1})
	require.Equal(t, len(of), rep.Deferred-1, "the packs and the manifest")
	require.NoError(t, w.Close())
	require.Greater(t, len(of), 2)
	info, err := st.Stat(ctx, of[0])
	require.NoError(t, err)
	st.Set(of[0], make([]byte, info.Size))
	for _, name := range namesUnder(t, st, "index/") { // what was in it, nobody knows
		require.NoError(t, st.Remove(ctx, name))
	}
	require.NoError(t, r.Close())

	faulty := storetest.NewFaulty(st)
	late, err := Open(ctx, faulty, innerKey, onState(t.TempDir()))
	require.NoError(t, err)
	faulty.Add(storetest.Fault{Op: storetest.Read, Prefix: of[0], Sticky: true})
	_, err = late.Prune(ctx, &PruneOptions{Wait: -1})
	require.ErrorIs(t, err, storetest.ErrInjected)
	_, statErr := st.Stat(ctx, of[0])
	require.NoError(t, statErr)
	faulty.Heal()
	require.NoError(t, late.Close())

	after := openInner(t, st, nil)
	endAll(t, after)
	mustPrune(t, after, &PruneOptions{Wait: -1})
	left := namesUnder(t, st, "data/")
	for _, name := range of {
		require.NotContains(t, left, name)
	}
	requireDisk(t, after, kept, noiseDisk(seq(50, 60)...))
}
