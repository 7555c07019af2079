package repo

import (
	"context"
	"io/fs"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
)

// meddled calls somebody else's step just before the first creation of one object by whoever has this view of the store.
type meddled struct {
	*memstore.Store
	name string
	step func()
	once sync.Once
}

func (m *meddled) Create(ctx context.Context, name string, data []byte) error {
	if name == m.name {
		m.once.Do(m.step)
	}
	return m.Store.Create(ctx, name, data)
}

func (m *meddled) Mend(ctx context.Context, name string, data []byte) error {
	if name == m.name {
		m.once.Do(m.step)
	}
	return m.Store.Mend(ctx, name, data)
}

var _ store.Mender = (*meddled)(nil)

func loseRecord(t *testing.T, st *memstore.Store, n uint64) {
	for _, place := range copiesOf(logName(n)) {
		require.NoError(t, st.Remove(t.Context(), place))
	}
}

func onState(state string) *OpenOptions { return &OpenOptions{StateDir: state} }

// A writer whose view of the log ends before a record that is lost creates that number, between the mender's look and its gap. What it
// was told is durable stays, or it is not told so.
func TestMendLogBesideAWriter(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	a := initInner(t, st)
	first := mustPoint(t, a, "vm", noiseDisk(1, 2))
	other, err := Open(ctx, st, innerKey, onState(t.TempDir()))
	require.NoError(t, err)
	_, err = other.signingKey(ctx)
	require.NoError(t, err)
	w, err := a.Begin(ctx, "vm", &pipe.PointOptions{})
	require.NoError(t, err)
	defer w.Close()
	known, _ := a.log.head()
	require.NoError(t, other.Hold(ctx, []string{first}, "one"))
	require.NoError(t, other.Unhold(ctx, []string{first}, "two"))
	require.NoError(t, other.Close())
	loseRecord(t, st, known+1)

	var id string
	var failed error
	view := &meddled{Store: st, name: logName(known + 1)}
	view.step = func() { id, failed = writePoint(ctx, w, "vm", noiseDisk(3, 4)) }
	m := openInner(t, view, onState(t.TempDir()))
	_, mended := m.MendLog(ctx, &MendLogOptions{Why: "test"})
	t.Log("the mender:", mended, "the writer:", failed)
	if mended != nil {
		_, mended = m.MendLog(ctx, &MendLogOptions{Why: "test"})
	}
	require.NoError(t, mended)
	again := openInner(t, st, onState(t.TempDir()))
	requireDisk(t, again, first, noiseDisk(1, 2))
	if failed == nil {
		requireDisk(t, again, id, noiseDisk(3, 4))
	}
	mustPoint(t, again, "vm", noiseDisk(5))
}

// A session goes on whose lease is lost with nothing that speaks of it, and that a person's gap stands for: nobody counts what it
// commits, and so it is not told that it did.
func TestCommitUnderALeaseThatIsLost(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	a := initInner(t, st)
	first := mustPoint(t, a, "vm", noiseDisk(1, 2))
	w, err := a.Begin(ctx, "vm", nil)
	require.NoError(t, err)
	defer w.Close()
	lease := w.(Leased).Lease()
	other, err := Open(ctx, st, innerKey, onState(t.TempDir()))
	require.NoError(t, err)
	require.NoError(t, other.Hold(ctx, []string{first}, "one"))
	require.NoError(t, other.Close())
	loseRecord(t, st, lease)

	stop, cancel := context.WithCancel(ctx)
	view := &meddled{Store: st, name: logName(lease), step: cancel} // the mender breaks off before the gap, of which it has told by then
	m := openInner(t, view, onState(t.TempDir()))
	rep, err := m.MendLog(stop, &MendLogOptions{Why: "test"})
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, rep.Gaps)
	_, err = a.Begin(ctx, "other", nil)
	require.ErrorAs(t, err, new(*ErrCorrupt), "who was open all the time does not write where the gap will be")
	m = openInner(t, st, onState(t.TempDir()))
	_, err = m.MendLog(ctx, nil)
	require.NoError(t, err)
	before, _ := m.log.head()
	_, err = m.MendLog(ctx, nil)
	require.NoError(t, err)
	whole := openInner(t, st, onState(t.TempDir()))
	_, err = whole.MendLog(ctx, nil)
	require.NoError(t, err)
	after, _ := whole.log.head()
	require.Equal(t, before, after, "a log that is whole, and of whose gaps everybody was told, is left alone")
	id, failed := writePoint(ctx, w, "vm", noiseDisk(3, 4))
	again := openInner(t, st, onState(t.TempDir()))
	t.Log("the writer:", failed)
	if failed == nil {
		requireDisk(t, again, id, noiseDisk(3, 4))
	}
	requireDisk(t, again, first, noiseDisk(1, 2))
	_, err = again.find(ctx, id)
	if failed != nil {
		require.ErrorIs(t, err, fs.ErrNotExist)
	}
	mustPoint(t, a, "vm", noiseDisk(5))
	requireDisk(t, again, mustPoint(t, again, "vm", noiseDisk(6)), noiseDisk(6))
}

// The last record is lost, and a gap ends the log there: a session that has read that record does not write another history behind it.
func TestWriterThatHasReadWhatAGapStandsFor(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	a := initInner(t, st)
	first := mustPoint(t, a, "vm", noiseDisk(1, 2))
	w, err := a.Begin(ctx, "vm", nil)
	require.NoError(t, err)
	defer w.Close()
	require.NoError(t, a.Hold(ctx, []string{first}, "one"))
	last, _ := a.log.head()
	for _, place := range copiesOf(logName(last)) {
		st.Set(place, []byte{})
	}
	m := openInner(t, st, onState(t.TempDir()))
	rep, err := m.MendLog(ctx, &MendLogOptions{Why: "test"})
	require.NoError(t, err)
	require.Len(t, rep.Gaps, 1)
	id, failed := writePoint(ctx, w, "vm", noiseDisk(3, 4))
	t.Log("the writer:", failed)
	again, err := Open(ctx, st, innerKey, onState(t.TempDir()))
	require.NoError(t, err)
	defer again.Close()
	require.NoError(t, again.log.damage())
	requireDisk(t, again, first, noiseDisk(1, 2))
	if failed == nil {
		requireDisk(t, again, id, noiseDisk(3, 4))
	}
	mustPoint(t, again, "vm", noiseDisk(5))
}
