package stripe_test

import (
	"context"
	"errors"
	"io/fs"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/storetest"
	"github.com/hikae/hikae/repo/store/stripe"
)

// The Nth call of a member fails, once and from then on, before it is carried out and after: what was acknowledged is
// there with any m members lost, what was not is there whole or not at all, and leftovers are swept.
func TestEveryCallFails(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	base := newLab(t, 4, 2, 1)
	require.NoError(t, base.open(quick()).Create(ctx, "data/old", content(1, 20_000)))
	for _, opts := range []*stripe.Options{quick(), degraded()} {
		for member := range 4 {
			for _, mode := range []storetest.Mode{storetest.Before, storetest.After} {
				for _, sticky := range []bool{false, true} {
					sweepFaults(t, base, opts, member, storetest.Fault{Mode: mode, Sticky: sticky})
				}
			}
		}
	}
}

func sweepFaults(t *testing.T, base *lab, opts *stripe.Options, member int, fault storetest.Fault) {
	ctx := t.Context()
	for n := 1; ; n++ {
		l := base.clone()
		faulty, faults := l.faulty()
		st := l.over(opts, faulty)
		fault.N = n
		faults[member].Add(fault)
		data, log := content(2, 30_000), []byte("a record")
		made := map[string][]byte{"data/new": data, "log/1": log}
		errs := map[string]error{"data/new": st.Create(ctx, "data/new", data), "log/1": st.Create(ctx, "log/1", log)}
		gone := st.Remove(ctx, "data/old")
		faults[member].Heal()
		require.NoError(t, st.Close())

		for lost := -1; lost < 4; lost++ {
			without := []int{lost}
			if lost < 0 {
				without = nil
			}
			st, err := stripe.OpenAnyway(ctx, l.stores(without...), quick())
			require.NoError(t, err)
			if lost >= 0 && behind(st) > 0 && st.State().Members[lost].Standing == stripe.Current {
				continue // one is lost already: who is behind
			}
			for name, err := range errs {
				got, readErr := store.ReadAll(ctx, st, name, 1<<20)
				switch {
				case err == nil || readErr == nil:
					require.NoError(t, readErr, "%s, member %d, n=%d, lost %d, %+v", name, member, n, lost, fault)
					require.Equal(t, made[name], got)
				default:
					require.True(t, errors.Is(readErr, fs.ErrNotExist), "%v", readErr)
				}
			}
			_, err = st.Stat(ctx, "data/old")
			if gone == nil {
				require.ErrorIs(t, err, fs.ErrNotExist, "member %d, n=%d, lost %d, %+v", member, n, lost, fault)
			}
			require.NoError(t, st.Close())
		}
		if faults[member].Fired() == 0 {
			require.NoError(t, errors.Join(errs["data/new"], errs["log/1"], gone))
			return
		}
	}
}

func behind(st *stripe.Store) (n int) {
	for _, m := range st.State().Members {
		if m.Standing != stripe.Current {
			n++
		}
	}
	return n
}

// A creator that dies at any call of any member leaves nothing or a whole object; its shards are swept.
func TestCreatorDies(t *testing.T) {
	ctx := t.Context()
	base := newLab(t, 4, 2, 1)
	data := content(2, 30_000)
	for n := 1; ; n++ {
		l := base.clone()
		faulty, faults := l.faulty()
		st := l.over(quick(), faulty)
		for _, f := range faults {
			f.Add(storetest.Fault{N: n, Sticky: true}) // removes what was done as little as a dead process does
		}
		err := st.Create(ctx, "data/x", data)
		alive := l.open(quick())
		swept, sweepErr := alive.Sweep(ctx, true)
		require.NoError(t, sweepErr)
		got, readErr := store.ReadAll(ctx, alive, "data/x", 1<<20)
		if readErr == nil {
			assert.Equal(t, data, got)
			require.NoError(t, alive.Settle(ctx, "data/"))
			holds(t, l.open(quick(), n%4), map[string][]byte{"data/x": data})
		} else {
			require.ErrorIs(t, readErr, fs.ErrNotExist)
			require.NoError(t, alive.Create(ctx, "data/x", data), "the name is free")
		}
		l.clean(quick())
		if fired(faults) == 0 {
			require.NoError(t, err)
			assert.Zero(t, swept.Removed)
			return
		}
	}
}

// A member that never answers holds a write up until its deadline: then it is an error, or the member is behind.
func TestHungWhileWriting(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	l := newLab(t, 6, 4, 2)
	faulty, faults := l.faulty()
	strict, loose := l.over(quick(), faulty), l.over(degraded(), faulty)
	hang(faults, 4)
	require.ErrorIs(t, strict.Create(ctx, "data/strict", content(1, 50_000)), stripe.ErrMissing)
	data := content(2, 50_000)
	require.NoError(t, loose.Create(ctx, "data/loose", data))
	require.NoError(t, loose.Create(ctx, "log/1", nil))
	assert.Equal(t, stripe.Behind, loose.State().Members[4].Standing)
	got, err := store.ReadAll(ctx, l.open(quick(), 0), "data/loose", 1<<20)
	require.NoError(t, err)
	assert.Equal(t, data, got)
	hang(faults, 0) // the arbiter
	require.Error(t, loose.Create(ctx, "log/2", nil))
}

// A sweep that is not told that it is alone removes nothing.
func TestSweepBesideOthers(t *testing.T) {
	ctx := t.Context()
	l := newLab(t, 3, 2, 1)
	faulty, faults := l.faulty()
	st := l.over(quick(), faulty)
	faults[0].Add(storetest.Fault{Op: storetest.Create, Prefix: "data/"})
	for _, f := range faults {
		f.Add(storetest.Fault{Op: storetest.Remove, Sticky: true})
	}
	require.Error(t, st.Create(ctx, "data/x", content(1, 10_000)))
	swept, err := l.open(quick()).Sweep(ctx, false)
	require.NoError(t, err)
	assert.Equal(t, store.Swept{Kept: 1}, swept)
	swept, err = l.open(quick()).Sweep(ctx, true)
	require.NoError(t, err)
	assert.Equal(t, 3, swept.Removed)
}

// The weakest member decides what a set can do.
func TestAbilities(t *testing.T) {
	ctx := t.Context()
	l := newLab(t, 3, 2, 1)
	can, err := l.open(quick()).Probe(ctx)
	require.NoError(t, err)
	assert.True(t, can.Shared())

	weak := &lab{t: t, mems: []*memstore.Store{memstore.New(nil), memstore.New(&memstore.Options{Less: store.Abilities{FreshReads: true}}), memstore.New(nil)}}
	st, err := stripe.Init(ctx, weak.stores(), stripe.InitOptions{Data: 2, Parity: 1}, nil)
	require.NoError(t, err)
	can, err = st.Probe(ctx)
	require.NoError(t, err)
	assert.Equal(t, store.Abilities{ExclusiveCreate: true, DurableNames: true}, can)
	free, err := st.Free(ctx)
	require.NoError(t, err)
	assert.Greater(t, free, int64(1<<40))
	require.NoError(t, st.Close())
}

// met is an arbiter that tries again by itself, meets what it has just made, and can then not be read.
type met struct {
	store.Store
	mute bool
}

func (m *met) Create(ctx context.Context, name string, data []byte) error {
	err := m.Store.Create(ctx, name, data)
	if err == nil && name == "data/x" {
		m.mute = true
		return m.Store.Create(ctx, name, data)
	}
	return err
}

func (m *met) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	if m.mute && name == "data/x" {
		return 0, errors.New("busy")
	}
	return m.Store.ReadAt(ctx, name, p, off)
}

// A record that may be this call's own keeps its shards.
func TestOwnRecordMetAgain(t *testing.T) {
	ctx := t.Context()
	l := newLab(t, 6, 4, 2)
	list := l.stores()
	list[0] = &met{Store: list[0]}
	data := content(3, 300_000)
	err := l.over(quick(), list).Create(ctx, "data/x", data)
	require.Error(t, err)
	require.NotErrorIs(t, err, fs.ErrExist, "nobody knows whose it is")
	got, err := store.ReadAll(ctx, l.open(quick()), "data/x", 1<<20)
	require.NoError(t, err)
	require.Equal(t, data, got)
}
