package mover

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
)

// shelfLife is a writer whose durability a test sets.
type shelfLife struct{ stamp, durable uint64 }

func (s *shelfLife) Stamp() uint64   { return s.stamp }
func (s *shelfLife) Durable() uint64 { return s.durable }

func TestProgress(t *testing.T) {
	t.Parallel()
	w := &shelfLife{}
	p := newProgress(w, false)
	news := func(frontier, want uint64) {
		t.Helper()
		below, _ := p.news(frontier)
		require.Equal(t, want, below)
	}
	news(1, 1)
	p.begin(1)
	p.begin(2)
	news(3, 1)
	w.stamp = 1
	p.end(2)
	news(3, 1) // 1 is under way
	w.stamp = 2
	p.end(1)
	news(3, 1) // nothing is durable
	w.durable = 1
	news(3, 1)
	w.durable = 2
	news(3, 3)
	news(9, 9) // calls of other kinds
	for call := uint64(9); call < 1000; call++ {
		p.begin(call)
		p.end(call)
	}
	require.Len(t, p.placed, 1, "blocks that are there already take no memory")
	news(1000, 1000)

	d := new(disk)
	p.begin(1000)
	p.begin(1001)
	p.hold(1001, d)
	p.hold(1000, d)
	w.stamp = 3
	news(1002, 1000)
	p.sealed(d)
	news(1002, 1000)
	w.durable = 3
	news(1002, 1002)
	_, grown := p.news(1002)
	require.False(t, grown)
}

func TestFrontier(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		f := &frontier{}
		require.EqualValues(t, 1, f.at())
		for _, n := range []uint64{2, 4, 3, 6} {
			require.True(t, f.saw(n))
			require.EqualValues(t, 1, f.at())
		}
		require.True(t, f.saw(1))
		require.EqualValues(t, 5, f.at())
		require.False(t, f.saw(3))
		next := uint64(7)
		pass := func(d time.Duration) { // with a call now and then
			for ; d > 0; d -= 20 * time.Second {
				time.Sleep(20 * time.Second)
				require.True(t, f.saw(next))
				next++
			}
		}
		pass(overdue)
		require.EqualValues(t, 5, f.at())
		time.Sleep(7 * time.Minute) // an outage: what is missing may have been on its way
		require.EqualValues(t, 5, f.at())
		pass(overdue)
		require.EqualValues(t, 5, f.at(), "its time begins anew")
		pass(time.Minute)
		require.EqualValues(t, next, f.at(), "a call that never comes must not hold up what is told for ever")
		require.False(t, f.saw(5), "and should it come, it is refused")
		require.True(t, f.saw(next))
		require.EqualValues(t, next+1, f.at())
		require.Empty(t, f.ahead)
	})
}

// Against a plain list, in every order that chance makes; and never more gaps than are waited for.
func TestFrontierIsTheLowestThatIsMissing(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(4, 4))
	for range 200 {
		f, seen := &frontier{}, map[uint64]bool{}
		for _, i := range r.Perm(60) {
			n := uint64(i + 1)
			require.True(t, f.saw(n))
			require.Equal(t, n >= f.at(), f.saw(n), "a call that came again")
			seen[n] = true
			lowest := uint64(1)
			for seen[lowest] {
				lowest++
			}
			require.Equal(t, lowest, f.at())
		}
		require.Empty(t, f.ahead)
	}
	f := &frontier{}
	for n := uint64(2); n < 6*maxSpans; n += 2 {
		f.saw(n)
	}
	require.Len(t, f.ahead, maxSpans)
}
