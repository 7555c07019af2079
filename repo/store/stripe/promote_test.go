package stripe_test

import (
	"context"
	"io/fs"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/storetest"
	"github.com/hikae/hikae/repo/store/stripe"
)

// Losing the arbiter stops what creates and removes, and nothing else, until another one is promoted.
func TestArbiterLost(t *testing.T) {
	ctx := t.Context()
	l := newLab(t, 6, 4, 2)
	held := objects(t, l.open(quick()))
	st := l.open(degraded(), 0)
	holds(t, st, held)
	require.ErrorIs(t, st.Create(ctx, "log/1", nil), stripe.ErrNoArbiter)
	require.ErrorIs(t, st.Remove(ctx, "data/00/0"), stripe.ErrNoArbiter)
	_, err := st.Stat(ctx, "log/1")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = st.Probe(ctx)
	require.ErrorIs(t, err, stripe.ErrNoArbiter)

	require.NoError(t, st.Promote(ctx, "c", nil))
	assert.Equal(t, st.State().Members[2].ID, st.State().Arbiter)
	require.NoError(t, st.Create(ctx, "log/1", []byte("one")))
	held["log/1"] = []byte("one")
	holds(t, st, held)
	require.ErrorIs(t, l.open(quick()).Create(ctx, "log/2", nil), stripe.ErrMissing, "the old arbiter is back, and behind")
	holds(t, l.open(quick()), held)
}

// Split brain: another arbiter is promoted in the very moment in which the old one decides. The create is not
// acknowledged; what it left may be there, whole, under the new arbiter, and then is there for everybody.
func TestOldArbiterIsFenced(t *testing.T) {
	for _, opts := range []*stripe.Options{quick(), degraded()} {
		ctx := t.Context()
		l := newLab(t, 6, 4, 2)
		list := l.stores()
		list[0] = &hooked{Store: list[0], name: "log/2", before: func() {
			require.NoError(t, l.open(quick(), 0).Promote(ctx, "b", nil))
		}}
		old := l.over(opts, list)
		require.NoError(t, old.Create(ctx, "log/1", []byte("one")))
		require.ErrorIs(t, old.Create(ctx, "log/2", []byte("by the old one")), stripe.ErrFenced)

		fresh := l.open(degraded())
		err := fresh.Create(ctx, "log/2", []byte("by the new one"))
		got, readErr := store.ReadAll(ctx, l.open(quick(), 0, 5), "log/2", 100)
		require.NoError(t, readErr)
		if err == nil {
			assert.Equal(t, "by the new one", string(got))
		} else {
			require.ErrorIs(t, err, fs.ErrExist)
			assert.Equal(t, "by the old one", string(got))
		}
	}
}

// hooked runs something before an object is created.
type hooked struct {
	store.Store
	name   string
	before func()
}

func (h *hooked) Create(ctx context.Context, name string, data []byte) error {
	if name == h.name {
		h.before()
	}
	return h.Store.Create(ctx, name, data)
}

// Who slept through a promotion and wakes up goes by the new arbiter, or, where it sees nobody but the old one, creates
// nothing.
func TestSleptThroughAPromotion(t *testing.T) {
	ctx := t.Context()
	l := newLab(t, 6, 4, 2)
	faulty, faults := l.faulty()
	strict, loose, alone := l.open(quick()), l.open(degraded()), l.over(degraded(), faulty)
	require.NoError(t, l.open(quick(), 0).Promote(ctx, "b", nil))
	for _, f := range faults[1:] {
		f.Add(storetest.Fault{Sticky: true})
	}
	require.ErrorIs(t, strict.Create(ctx, "log/1", nil), stripe.ErrMissing)
	require.Error(t, alone.Create(ctx, "log/1", []byte("alone")))
	require.NoError(t, loose.Create(ctx, "log/1", []byte("by b")))
	got, err := store.ReadAll(ctx, l.open(quick()), "log/1", 10)
	require.NoError(t, err)
	assert.Equal(t, "by b", string(got))
}

// Split brain: two halves that do not see each other cannot both have an arbiter.
func TestHalvesCannotBothPromote(t *testing.T) {
	ctx := t.Context()
	l := newLab(t, 4, 2, 2)
	left, right := l.open(quick(), 2, 3), l.open(quick(), 0, 1)
	require.ErrorIs(t, left.Promote(ctx, "a", nil), stripe.ErrTooFew)
	require.ErrorIs(t, right.Promote(ctx, "c", nil), stripe.ErrTooFew)
	require.NoError(t, right.Promote(ctx, "c", &stripe.PromoteOptions{Vouched: true}))
}

// A writer that was cut off from all but the arbiter cannot acknowledge.
func TestCutOffWithTheArbiter(t *testing.T) {
	ctx := t.Context()
	l := newLab(t, 6, 4, 2)
	faulty, faults := l.faulty()
	alone := l.over(degraded(), faulty)
	require.NoError(t, alone.Create(ctx, "log/1", nil))
	for _, f := range faults[1:] {
		f.Add(storetest.Fault{Sticky: true})
	}
	require.Error(t, alone.Create(ctx, "log/2", []byte("alone")))
	require.NoError(t, l.open(quick(), 0).Promote(ctx, "f", nil))
	faults[1].Heal()
	require.Error(t, alone.Create(ctx, "log/3", []byte("alone")))
}

// A promotion that dies at any call is done by calling it again, and nothing acknowledged is lost.
func TestPromotionDiesAnywhere(t *testing.T) {
	ctx := t.Context()
	base := newLab(t, 6, 4, 2)
	held := objects(t, base.open(quick()))
	for n := 1; ; n += 3 {
		l := base.clone()
		faulty, faults := l.faulty()
		st := l.over(quick(), faulty)
		for _, f := range faults {
			f.Add(storetest.Fault{N: n, Sticky: true})
		}
		err := st.Promote(ctx, "b", nil)
		if fired(faults) == 0 {
			require.NoError(t, err)
			return
		}
		again := l.open(quick())
		require.NoError(t, again.Promote(ctx, "b", nil), "n=%d", n)
		holds(t, again, held)
	}
}

func fired(faults []*storetest.Faulty) (n int) {
	for _, f := range faults {
		n += f.Fired()
	}
	return n
}

func (l *lab) clone() *lab {
	c := &lab{t: l.t}
	for _, m := range l.mems {
		c.mems = append(c.mems, m.Clone())
	}
	return c
}

// An arbiter that was put back as it had been earlier is found by the first create, before anything is acknowledged.
func TestStaleArbiter(t *testing.T) {
	ctx := t.Context()
	l := newLab(t, 6, 4, 2)
	st := l.open(quick())
	require.NoError(t, st.Create(ctx, "log/1", []byte("one")))
	earlier := l.mems[0].Clone()
	require.NoError(t, st.Create(ctx, "log/2", []byte("two")))
	require.NoError(t, st.Close())

	l.mems[0] = earlier
	st = l.open(quick())
	info, err := st.Stat(ctx, "log/2")
	require.NoError(t, err, "a copy proves it")
	require.EqualValues(t, 3, info.Size)
	require.ErrorIs(t, st.Create(ctx, "log/2", []byte("other")), stripe.ErrConflict)

	st = l.open(quick(), 0)
	require.NoError(t, st.Promote(ctx, "b", nil))
	st = l.open(quick())
	_, err = st.Rebuild(ctx, "a", nil)
	require.NoError(t, err)
	holds(t, l.open(quick(), 3, 5), map[string][]byte{"log/1": []byte("one"), "log/2": []byte("two")})
	require.NoError(t, l.open(quick()).Create(ctx, "log/3", nil))
}

// Members in another order, of another set, blank, and twice.
func TestWhoIsWho(t *testing.T) {
	ctx := t.Context()
	l := newLab(t, 3, 2, 1)
	held := objects(t, l.open(quick()))
	list := l.stores()
	list[0], list[1], list[2] = list[2], list[0], list[1]
	holds(t, l.over(quick(), list), held)

	foreign := newLab(t, 3, 2, 1)
	list = l.stores()
	list[1] = kept{foreign.mems[1]}
	holds(t, l.over(quick(), list), held)
	list[1] = kept{memstore.New(nil)}
	holds(t, l.over(quick(), list), held)
	list[1] = kept{l.mems[0].Clone()}
	_, err := stripe.Open(ctx, list, quick())
	require.ErrorIs(t, err, stripe.ErrConflict)
	_, err = stripe.Open(ctx, append(l.stores()[:1], foreign.stores()[:1]...), quick())
	require.ErrorIs(t, err, stripe.ErrConflict)
	_, err = stripe.Open(ctx, newBlank(3), quick())
	require.ErrorIs(t, err, stripe.ErrNotSet)
	_, err = stripe.Init(ctx, l.stores(), stripe.InitOptions{Data: 2, Parity: 1}, nil)
	require.ErrorContains(t, err, "not empty")
}
