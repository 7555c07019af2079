package stripe_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store/storetest"
	"github.com/hikae/hikae/repo/store/stripe"
)

// putBack is a set whose arbiter was put back as it had been before all but the first object came.
func putBack(t *testing.T) (*lab, map[string][]byte) {
	l := newLab(t, 6, 4, 2)
	st := l.open(patient(false))
	held := map[string][]byte{"log/1": []byte("one"), "log/2": []byte("two"), "data/2": content(3, 300_000)}
	require.NoError(t, st.Create(t.Context(), "log/1", held["log/1"]))
	earlier := l.mems[0].Clone()
	require.NoError(t, st.Create(t.Context(), "log/2", held["log/2"]))
	require.NoError(t, st.Create(t.Context(), "data/2", held["data/2"]))
	l.mems[0] = earlier
	return l, held
}

// What was acknowledged before the arbiter was put back is not replaced by what it lets somebody create.
func TestConflictIsTakenBack(t *testing.T) {
	l, held := putBack(t)
	for _, name := range []string{"log/2", "data/2"} {
		require.ErrorIs(t, l.open(patient(false)).Create(t.Context(), name, content(8, 200_000)), stripe.ErrConflict)
	}
	holds(t, l.open(patient(false)), held)
	for i, mem := range l.mems {
		shards, err := storetest.Collect(mem.List(t.Context(), "hikae-stripe/shard/"))
		require.NoError(t, err)
		require.LessOrEqual(t, len(shards), 1, "member %d", i)
	}
}

// An arbiter that was put back takes nothing along: neither a rebuild of the others nor a sweep believes that what it does not
// know is not there.
func TestStaleArbiterTakesNothingAlong(t *testing.T) {
	t.Run("rebuild", func(t *testing.T) {
		l, held := putBack(t)
		for _, who := range []string{"b", "c", "d", "e", "f"} {
			_, err := l.open(patient(false)).Rebuild(t.Context(), who, &stripe.RebuildOptions{Alone: true})
			require.NoError(t, err)
		}
		holds(t, l.open(patient(false)), held)
	})
	t.Run("sweep", func(t *testing.T) {
		l, held := putBack(t)
		_, err := l.open(patient(false)).Sweep(t.Context(), true)
		require.NoError(t, err)
		holds(t, l.open(patient(false)), held)
	})
}

// Two members were put back as they had been. When one of them is rebuilt, the other one does not become current by that.
func TestRebuildOfOneRevivesNoOther(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	l := newLab(t, 6, 4, 2)
	e, f := l.mems[4].Clone(), l.mems[5].Clone()
	require.NoError(t, l.open(patient(true), 4, 5).Create(ctx, "log/1", []byte("one")))
	for _, who := range []string{"e", "f"} {
		_, err := l.open(patient(false)).Rebuild(ctx, who, nil)
		require.NoError(t, err)
	}
	require.NoError(t, l.open(patient(false)).Create(ctx, "log/2", []byte("two")))
	l.mems[4], l.mems[5] = e, f
	_, err := l.open(patient(false)).Rebuild(ctx, "e", nil)
	require.NoError(t, err)
	seats, _ := l.open(patient(false)).Seats()
	require.Equal(t, stripe.Current, seats[4].Standing)
	require.Equal(t, stripe.Behind, seats[5].Standing)
}

// A rebuild ends while an object is being written whose shards were cut before it began: the member gets its shard before the
// object is acknowledged.
func TestRebuildEndsWhileWriting(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	l := newLab(t, 4, 2, 2)
	require.NoError(t, l.open(patient(true), 3).Create(ctx, "log/1", nil)) // the last one is behind
	list := l.stores()
	list[0] = &hooked{Store: list[0], name: "data/x", before: func() {
		_, err := l.open(patient(false)).Rebuild(ctx, "d", nil)
		require.NoError(t, err)
	}}
	held := map[string][]byte{"log/1": nil, "data/x": content(3, 300_000)}
	require.NoError(t, l.over(patient(true), list).Create(ctx, "data/x", held["data/x"]))
	l.clean(patient(false))
	for a := range 4 {
		for b := range a {
			holds(t, l.open(patient(false), a, b), held)
		}
	}
}
