package stripe_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/storetest"
	"github.com/hikae/hikae/repo/store/stripe"
)

func newBlank(n int) (list []store.Store) {
	for range n {
		list = append(list, kept{memstore.New(nil)})
	}
	return list
}

// Two members are lost, each is rebuilt onto an empty store, and then two others may be lost.
func TestRebuildOntoNewStores(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	l := newLab(t, 6, 4, 2)
	held := objects(t, l.open(quick()))
	for _, i := range []int{2, 5} {
		st := l.open(quick(), i)
		fresh := memstore.New(nil)
		var last stripe.Progress
		done, err := st.Rebuild(ctx, labels(6)[i], &stripe.RebuildOptions{Store: kept{fresh}, Alone: true, Progress: func(p stripe.Progress) { last = p }})
		require.NoError(t, err)
		assert.Empty(t, done.Lost)
		assert.Equal(t, len(held), done.Objects)
		assert.Equal(t, last.Total, last.Objects)
		l.mems[i] = fresh
	}
	for a := range 6 {
		for b := range a {
			holds(t, l.open(quick(), a, b), held)
		}
	}
	l.clean(quick())
}

// clean has a scrub find nothing.
func (l *lab) clean(opts *stripe.Options) {
	l.t.Helper()
	report, err := l.open(opts).Scrub(l.t.Context(), nil)
	require.NoError(l.t, err)
	require.Empty(l.t, report.Damaged)
	require.Empty(l.t, report.Lost)
	require.Empty(l.t, report.Loose)
}

// A rebuild that dies at any call is called again, and writes only what is missing.
func TestRebuildDiesAnywhere(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	base := newLab(t, 4, 2, 1)
	held := objects(t, base.open(patient(false)))
	for n := 1; ; n += 2 {
		l := base.clone()
		fresh := memstore.New(nil)
		faulty, faults := l.faulty()
		faulty[2] = nil
		st := l.over(patient(false), faulty)
		into := storetest.NewFaulty(kept{fresh})
		for _, f := range append(faults, into) {
			f.Add(storetest.Fault{N: n, Sticky: true})
		}
		_, err := st.Rebuild(ctx, "c", &stripe.RebuildOptions{Store: into})
		if fired(append(faults, into)) == 0 {
			require.NoError(t, err)
			return
		}
		again := l.open(patient(false), 2)
		_, err = again.Rebuild(ctx, "c", &stripe.RebuildOptions{Store: kept{fresh}, Alone: true})
		require.NoError(t, err, "n=%d", n)
		l.mems[2] = fresh
		for i, st := range again.State().Members {
			if st.Standing != stripe.Current { // failed while the state was changed
				_, err := l.open(patient(false)).Rebuild(ctx, labels(4)[i], &stripe.RebuildOptions{Alone: true})
				require.NoError(t, err)
			}
		}
		holds(t, l.open(patient(false), n%4), held)
		l.clean(patient(false))
	}
}

// What is missing, flipped, cut, stale or swapped on a member is found by a scrub, does not harm a reader, and is made
// again by a rebuild of the member, which writes nothing else.
func TestDamageOnAMember(t *testing.T) {
	ctx := t.Context()
	l := newLab(t, 6, 4, 2)
	held := objects(t, l.open(quick()))
	mem := l.mems[3]
	found, err := storetest.Collect(mem.List(ctx, ""))
	require.NoError(t, err)
	var shards, records []string
	for name := range found {
		switch {
		case bytes.HasPrefix([]byte(name), []byte("hikae-stripe/shard/")):
			shards = append(shards, name)
		case bytes.HasPrefix([]byte(name), []byte("data/")):
			records = append(records, name)
		}
	}
	read := func(name string) []byte {
		b, err := store.ReadAll(ctx, mem, name, 1<<30)
		require.NoError(t, err)
		return b
	}
	a, b := read(shards[0]), read(shards[1])
	mem.Set(shards[0], b)
	mem.Set(shards[1], a)
	mem.Set(shards[2], nil)
	cut := read(shards[3])
	mem.Set(shards[3], cut[:len(cut)-1])
	flip := read(shards[4])
	flip[len(flip)/2] ^= 4
	mem.Set(shards[4], flip)
	mem.Set(records[0], read(records[1]))
	mem.Set(records[2], nil)
	torn := read(records[3])
	mem.Set(records[3], torn[:len(torn)-3])

	holds(t, l.open(quick()), held)
	holds(t, l.open(quick(), 0), held)
	report, err := l.open(quick()).Scrub(ctx, nil)
	require.NoError(t, err)
	assert.Len(t, report.Damaged, 8)
	assert.Empty(t, report.Lost)
	for _, d := range report.Damaged {
		assert.Equal(t, "d", d.Member)
	}
	done, err := l.open(quick()).Rebuild(ctx, "d", &stripe.RebuildOptions{Alone: true})
	require.NoError(t, err)
	assert.Equal(t, 5, done.Shards)
	assert.Equal(t, len(shards)-5, done.Right)
	assert.Equal(t, 3, done.Records)
	l.clean(quick())
	holds(t, l.open(quick(), 1, 2), held)
}

// Every byte of a striped object's shard and record on a member may flip: never a wrong byte.
func TestFlipEveryByte(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	l := newLab(t, 3, 2, 1)
	data := content(5, 4200)
	require.NoError(t, l.open(quick()).Create(ctx, "data/x", data))
	for _, mem := range l.mems {
		found, err := storetest.Collect(mem.List(ctx, ""))
		require.NoError(t, err)
		for name := range found {
			whole, err := store.ReadAll(ctx, mem, name, 1<<20)
			require.NoError(t, err)
			for at := 0; at < len(whole); at += 1 + at%7 {
				bad := bytes.Clone(whole)
				bad[at] ^= 1 << (at % 8)
				mem.Set(name, bad)
				st, err := stripe.Open(ctx, l.stores(), quick())
				require.NoError(t, err, "%s at %d", name, at)
				got, err := store.ReadAll(ctx, st, "data/x", 1<<20)
				require.NoError(t, err, "%s at %d", name, at)
				require.True(t, bytes.Equal(got, data), "%s at %d", name, at)
				require.NoError(t, st.Close())
			}
			mem.Set(name, whole)
		}
	}
}

// Degraded writes are recorded: who missed them is behind, is believed in nothing, and catches up by a rebuild.
func TestDegradedWrites(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	l := newLab(t, 6, 4, 2)
	held := objects(t, l.open(quick()))
	require.ErrorIs(t, l.open(quick(), 4).Create(ctx, "data/later", nil), stripe.ErrMissing)
	st := l.open(degraded(), 4, 5)
	held["data/later"] = content(9, 300_000)
	require.NoError(t, st.Create(ctx, "data/later", held["data/later"]))
	require.NoError(t, st.Remove(ctx, "data/00/0"))
	delete(held, "data/00/0")

	back := l.open(quick())
	holds(t, back, held)
	require.ErrorIs(t, back.Create(ctx, "data/more", nil), stripe.ErrMissing)
	for _, who := range []string{"e", "f"} {
		done, err := back.Rebuild(ctx, who, &stripe.RebuildOptions{Alone: true})
		require.NoError(t, err)
		assert.Equal(t, 1, done.Records)
	}
	require.NoError(t, back.Create(ctx, "data/more", nil))
	held["data/more"] = nil
	for a := range 6 {
		for b := range a {
			holds(t, l.open(quick(), a, b), held)
		}
	}
	l.clean(quick())
}

// A rebuild beside writers and removers misses nothing and brings nothing back.
func TestRebuildBesideWriters(t *testing.T) {
	ctx := t.Context()
	l := newLab(t, 6, 4, 2)
	held := objects(t, l.open(quick()))
	writer, mender := l.open(degraded(), 3), l.open(nil, 3)
	fresh := memstore.New(nil)
	require.NoError(t, writer.Create(ctx, "log/first", nil)) // marks the member as behind
	require.NoError(t, writer.Remove(ctx, "log/first"))
	all := append(l.stores(3), kept{fresh})
	writer = l.over(degraded(), all)

	var wg sync.WaitGroup
	stop, errs := make(chan struct{}), make([]error, 2)
	wg.Go(func() {
		defer close(stop)
		_, errs[0] = mender.Rebuild(ctx, "d", &stripe.RebuildOptions{Store: kept{fresh}})
	})
	made := map[string][]byte{}
	wg.Go(func() {
		for i := 0; errs[1] == nil; i++ {
			name := "data/beside/" + string(rune('a'+i%26)) + string(rune('a'+i/26%26))
			data := content(uint64(i), 5000+i)
			errs[1] = again(ctx, func() error { return writer.Create(ctx, name, data) })
			if made[name] = data; i%3 == 0 && errs[1] == nil {
				delete(made, name)
				errs[1] = again(ctx, func() error { return writer.Remove(ctx, name) })
			}
			select {
			case <-stop:
				return
			default:
			}
			if i == 600 {
				return
			}
		}
	})
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	for name, data := range made {
		held[name] = data
	}
	l.mems[3] = fresh
	holds(t, l.open(quick(), 0, 1), held)
	l.clean(quick())
}

// again tries again what failed because the set's state changed under it, as a repository's next call does.
func again(ctx context.Context, f func() error) error {
	for range 20 {
		err := f()
		if !errors.Is(err, stripe.ErrFenced) && !errors.Is(err, stripe.ErrTooFew) || ctx.Err() != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
	}
	return stripe.ErrFenced
}
