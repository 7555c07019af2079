package repo

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/storetest"
)

// nthCall does something once, before the n-th call by whoever has this view of the store.
type nthCall struct {
	*memstore.Store
	left atomic.Int64
	do   func()
}

func (c *nthCall) call() { // copies are made side by side
	if c.left.Add(-1) == 0 {
		c.do()
	}
}

func (c *nthCall) Create(ctx context.Context, name string, data []byte) error {
	c.call()
	return c.Store.Create(ctx, name, data)
}

func (c *nthCall) Mend(ctx context.Context, name string, data []byte) error {
	c.call()
	return c.Store.Mend(ctx, name, data)
}

func (c *nthCall) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	c.call()
	return c.Store.ReadAt(ctx, name, p, off)
}

func (c *nthCall) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	c.call()
	return c.Store.List(ctx, prefix)
}

var _ store.Mender = (*nthCall)(nil)

// A session commits, by a view of the log that has what is lost, at any moment of a mending: before any call that the mender makes. What it
// was told is committed stays, and nobody is kept from going on.
func TestCommitAtAnyMomentOfAMending(t *testing.T) {
	for name, lose := range map[string]func(t *testing.T, st *memstore.Store, lease, hold uint64){
		"its lease":          func(t *testing.T, st *memstore.Store, lease, _ uint64) { loseRecord(t, st, lease) },
		"its lease, damaged": func(_ *testing.T, st *memstore.Store, lease, _ uint64) { spoilRecord(st, lease) },
		"its lease and what it saw": func(_ *testing.T, st *memstore.Store, lease, hold uint64) {
			spoilRecord(st, lease)
			spoilRecord(st, hold)
		},
		"another record": func(t *testing.T, st *memstore.Store, _, hold uint64) { loseRecord(t, st, hold) },
		"the end":        func(_ *testing.T, st *memstore.Store, _, hold uint64) { spoilRecord(st, hold+1) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			told := map[bool]int{}
			n, step := 1, 1
			if tierOf() == "" {
				step = 4
				n += rand.IntN(step)
			}
			t.Logf("calls %d, %d, …", n, n+step)
			for ; commitAtCall(t, n, lose, told); n += step {
				require.Less(t, n, 2000)
			}
			t.Logf("committed %d times, refused %d times", told[true], told[false])
			require.NotZero(t, told[false]+told[true])
		})
	}
}

func spoilRecord(st *memstore.Store, n uint64) {
	for _, place := range copiesOf(logName(n)) {
		st.Set(place, []byte{})
	}
}

func commitAtCall(t *testing.T, n int, lose func(t *testing.T, st *memstore.Store, lease, hold uint64), told map[bool]int) (reached bool) {
	ctx := t.Context()
	st := memstore.New(nil)
	a := initInner(t, st)
	defer a.Close()
	first := mustPoint(t, a, "vm", noiseDisk(1, 2))
	w, err := a.Begin(ctx, "vm", nil)
	require.NoError(t, err)
	defer w.Close()
	lease := w.(Leased).Lease()
	require.NoError(t, a.Hold(ctx, []string{first}, "one"))
	hold, _ := a.log.head()
	require.NoError(t, a.Unhold(ctx, []string{first}, "two"))
	m, err := Open(ctx, st, innerKey, onState(t.TempDir()))
	require.NoError(t, err)
	require.NoError(t, m.Close())
	lose(t, st, lease, hold)

	var id string
	var failed error
	view := &nthCall{Store: st}
	m, err = Open(ctx, view, innerKey, onState(t.TempDir()))
	require.NoError(t, err)
	defer m.Close()
	view.left.Store(int64(n))
	view.do = func() {
		reached = true
		id, failed = writePoint(ctx, w, "vm", noiseDisk(3, 4))
	}
	_, mended := m.MendLog(ctx, &MendLogOptions{Why: "test"})
	if !reached {
		require.NoError(t, mended)
		return false
	}
	told[failed == nil]++
	if mended != nil {
		_, mended = m.MendLog(ctx, &MendLogOptions{Why: "test"})
	}
	require.NoError(t, mended, "call %d", n)

	again, err := Open(ctx, st, innerKey, onState(t.TempDir()))
	require.NoError(t, err)
	defer again.Close()
	require.NoError(t, again.log.damage(), "call %d", n)
	requireDisk(t, again, first, noiseDisk(1, 2))
	switch _, err = again.find(ctx, id); {
	case failed == nil:
		require.NoError(t, err, "call %d: told as committed, and nobody counts it", n)
		requireDisk(t, again, id, noiseDisk(3, 4))
	case id != "" && !errors.Is(err, fs.ErrNotExist):
		require.NoError(t, err)
	}
	mustPoint(t, again, "vm", noiseDisk(5))
	return true
}

// Any call of the store fails while a log is mended, once or from then on, before it was carried out or after. Doing it again does it, all
// that was committed is there, and nothing is left to be told.
func TestMendLogThatIsCutOff(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	origin := memstore.New(nil)
	a := initInner(t, origin)
	first := mustPoint(t, a, "vm", noiseDisk(1, 2))
	lost, _ := a.log.head()
	second := mustPoint(t, a, "other", noiseDisk(3, 4))
	require.NoError(t, a.Close())
	spoilRecord(origin, lost) // the commit of the first: its manifest proves it

	step := figureOf(11, 2, 1)
	for _, f := range []storetest.Fault{{Op: storetest.Any}, {Op: storetest.Any, Mode: storetest.After}, {Op: storetest.Any, Sticky: true}} {
		for f.N = 1 + rand.IntN(step); ; f.N += step {
			st := origin.Clone()
			faulty := storetest.NewFaulty(st, f)
			if r, err := Open(ctx, faulty, innerKey, onState(t.TempDir())); err == nil {
				_, _ = r.MendLog(ctx, &MendLogOptions{Why: "test"})
				_ = r.Close()
			}
			r, err := Open(ctx, st, innerKey, onState(t.TempDir()))
			require.NoError(t, err, "%+v", f)
			_, err = r.MendLog(ctx, &MendLogOptions{Why: "test"})
			require.NoError(t, err, "%+v", f)
			before, _ := r.log.head()
			_, err = r.MendLog(ctx, nil)
			require.NoError(t, err, "%+v", f)
			after, _ := r.log.head()
			require.Equal(t, before, after, "%+v", f)
			requireDisk(t, r, first, noiseDisk(1, 2))
			requireDisk(t, r, second, noiseDisk(3, 4))
			mustPoint(t, r, "vm", noiseDisk(5))
			_, err = r.Verify(ctx, &VerifyOptions{Repair: true}) // copies of the gap
			require.NoError(t, err, "%+v", f)
			requireSound(t, r)
			require.NoError(t, r.Close())
			if faulty.Fired() == 0 {
				break
			}
		}
	}
}
