package stripe_test

import (
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/storetest"
	"github.com/hikae/hikae/repo/store/stripe"
)

func TestStore(t *testing.T) {
	storetest.TestStore(t, func(t testing.TB) store.Store { return newLab(t, 6, 4, 2).open(patient(false)) })
}

func TestStoreMirrored(t *testing.T) {
	storetest.TestStore(t, func(t testing.TB) store.Store { return newLab(t, 3, 1, 2).open(nil) })
}

// Ability tests of the suite on a set that has lost as much as it may and is written to all the same.
func TestStoreDegraded(t *testing.T) {
	storetest.TestStore(t, func(t testing.TB) store.Store { return newLab(t, 6, 4, 2).open(patient(true), 3, 5) })
}

// Bar 14: any 2 of 6 are lost: everything is there, bit for bit, 15 of 15.
func TestAnyTwoLost(t *testing.T) {
	l := newLab(t, 6, 4, 2)
	held := objects(t, l.open(quick()))
	for a := range 6 {
		for b := range a {
			holds(t, l.open(quick(), a, b), held)
		}
	}
}

// Bar 14: any 3 of 6 are lost: a typed error soon, whether they were lost before or after the set was opened.
func TestAnyThreeLost(t *testing.T) {
	l := newLab(t, 6, 4, 2)
	held := objects(t, l.open(quick()))
	for a := range 6 {
		for b := range a {
			for c := range b {
				_, err := stripe.Open(t.Context(), l.stores(a, b, c), quick())
				require.ErrorIs(t, err, stripe.ErrTooFew)
				var lost *stripe.LostError
				require.ErrorAs(t, err, &lost)
				require.ElementsMatch(t, []string{labels(6)[a], labels(6)[b], labels(6)[c]}, lost.Members)

				faulty, faults := l.faulty()
				st := l.over(quick(), faulty)
				for _, i := range []int{a, b, c} {
					faults[i].Add(storetest.Fault{Sticky: true})
				}
				for name := range held {
					if held := len(held[name]); held <= 4096 || held > 1<<20 {
						continue
					}
					p := make([]byte, 10_000_000)
					n, err := st.ReadAt(t.Context(), name, p, 0)
					require.ErrorIs(t, err, stripe.ErrTooFew)
					require.NotErrorIs(t, err, fs.ErrNotExist)
					require.Zero(t, n)
					require.Equal(t, make([]byte, 100), p[:100], "nothing was given out")
				}
			}
		}
	}
}

func (l *lab) faulty() ([]store.Store, []*storetest.Faulty) {
	list, faults := l.stores(), make([]*storetest.Faulty, len(l.mems))
	for i, st := range list {
		faults[i] = storetest.NewFaulty(st)
		list[i] = faults[i]
	}
	return list, faults
}

// hang makes every call of members never answer.
func hang(faults []*storetest.Faulty, members ...int) {
	for _, i := range members {
		faults[i].Add(storetest.Fault{Sticky: true, Mode: storetest.Slow, Delay: time.Hour})
	}
}

// Bar 14: members that never answer count as lost after a deadline; with the default options three of them end in an
// error within 5 s.
func TestHungMembers(t *testing.T) {
	t.Parallel()
	l := newLab(t, 6, 4, 2)
	held := objects(t, l.open(quick()))
	faulty, faults := l.faulty()
	st := l.over(quick(), faulty)
	hang(faults, 0, 4)
	holds(t, st, held)

	t.Run("three", func(t *testing.T) {
		t.Parallel()
		faulty, faults := l.faulty()
		st := l.over(nil, faulty)
		hang(faults, 0, 2, 4)
		begin := time.Now()
		_, err := st.ReadAt(t.Context(), "data/01/400000", make([]byte, 400_000), 0)
		require.ErrorIs(t, err, stripe.ErrTooFew)
		assert.Less(t, time.Since(begin), 5*time.Second)
	})
	t.Run("three at open", func(t *testing.T) {
		t.Parallel()
		faulty, faults := l.faulty()
		hang(faults, 0, 2, 4)
		begin := time.Now()
		_, err := stripe.Open(t.Context(), faulty, nil)
		require.ErrorIs(t, err, stripe.ErrTooFew)
		assert.Less(t, time.Since(begin), 5*time.Second)
	})
}

// Who answers late is waited for now and then, and not at each of many reads.
func TestLateMembersHoldNobodyUp(t *testing.T) {
	t.Parallel()
	l := newLab(t, 6, 4, 2)
	held := objects(t, l.open(quick()))
	opts := quick()
	opts.Hedge, opts.ReadDeadline = 100*time.Millisecond, 5*time.Second
	faulty, faults := l.faulty()
	st := l.over(opts, faulty)
	for _, i := range []int{0, 4} {
		faults[i].Add(storetest.Fault{Op: storetest.Read, Sticky: true, Mode: storetest.Slow, Delay: time.Second})
	}
	begin := time.Now()
	reads := 0
	for name, data := range held {
		for off := 0; off < len(data); off += len(data)/8 + 1 {
			p := make([]byte, min(100, len(data)-off))
			_, err := st.ReadAt(t.Context(), name, p, int64(off))
			require.NoError(t, err)
			require.Equal(t, data[off:off+len(p)], p)
			reads++
		}
	}
	require.Greater(t, reads, 60)
	assert.Less(t, time.Since(begin), time.Duration(reads/4)*opts.Hedge, "of %d reads", reads)
}

// Ranges of every kind, with nothing, one and two members lost.
func TestRanges(t *testing.T) {
	t.Parallel()
	l := newLab(t, 7, 3, 2)
	data := content(1, 700_001)
	require.NoError(t, l.open(quick()).Create(t.Context(), "data/x", data))
	rng := rand.New(rand.NewPCG(1, 2))
	for _, lost := range [][]int{nil, {1}, {2, 5}, {0, 6}} {
		st := l.open(quick(), lost...)
		for range 100 {
			off := rng.IntN(len(data) + 2)
			p := make([]byte, 1+rng.IntN(300_000))
			n, err := st.ReadAt(t.Context(), "data/x", p, int64(off))
			want := data[min(off, len(data)):min(off+len(p), len(data))]
			require.Equal(t, len(want), n)
			require.True(t, string(want) == string(p[:n]))
			if n < len(p) {
				require.Equal(t, io.EOF, err)
			} else {
				require.NoError(t, err)
			}
		}
	}
}

// A small range costs one member one read of about its size.
func TestRangesAreCheap(t *testing.T) {
	l := newLab(t, 6, 4, 2)
	require.NoError(t, l.open(quick()).Create(t.Context(), "data/x", content(1, 16<<20)))
	list, counts := l.stores(), make([]*storetest.Recording, 6)
	for i := range list {
		counts[i] = storetest.NewCounting(list[i])
		list[i] = counts[i]
	}
	st := l.over(nil, list)
	_, err := st.Stat(t.Context(), "data/x")
	require.NoError(t, err)
	for i := range counts {
		counts[i].Reset()
	}
	_, err = st.ReadAt(t.Context(), "data/x", make([]byte, 100_000), 5_000_000)
	require.NoError(t, err)
	var calls int
	var bytes int64
	for i := range counts {
		calls += counts[i].Totals().Calls[storetest.Read]
		bytes += counts[i].Totals().ReadBytes
	}
	assert.Equal(t, 1, calls)
	assert.Less(t, bytes, int64(100_000+2*33_000))
}

// Every member gets about as many shards of data and of parity as every other.
func TestSpread(t *testing.T) {
	l := newLab(t, 8, 4, 2)
	st := l.open(quick())
	for i := range 400 {
		require.NoError(t, st.Create(t.Context(), "data/"+string(rune('a'+i%26))+"/"+time.Duration(i).String(), content(uint64(i), 5000)))
	}
	for i, m := range l.mems {
		found, err := storetest.Collect(m.List(t.Context(), "hikae-stripe/shard/"))
		require.NoError(t, err)
		assert.InDelta(t, 300, len(found), 60, "member %d", i)
	}
}

func TestReservedNames(t *testing.T) {
	st := newLab(t, 3, 2, 1).open(nil)
	require.ErrorIs(t, st.Create(t.Context(), "hikae-stripe/member", nil), store.ErrForeign)
	require.ErrorIs(t, st.Remove(t.Context(), "hikae-stripe/member"), store.ErrForeign)
	_, err := st.Stat(t.Context(), "hikae-stripe/member")
	require.ErrorIs(t, err, store.ErrForeign)
	require.False(t, errors.Is(err, fs.ErrNotExist))
}
