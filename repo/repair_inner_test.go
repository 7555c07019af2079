package repo

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store/memstore"
)

// What stands three times, and is lost in all three places, is taken from a copy of the repository, and from nothing else: the log says what
// it must be.
func TestRepairOfVitalObjectsFromACopy(t *testing.T) {
	ctx := t.Context()
	for _, damaged := range []bool{false, true} {
		st := memstore.New(nil)
		r := initInner(t, st)
		point := mustPoint(t, r, "vm", noiseDisk(1, 2))
		other := mustPoint(t, r, "other", noiseDisk(3))
		copied := openInner(t, st.Clone(), onState(t.TempDir()))
		m, err := r.find(ctx, point)
		require.NoError(t, err)
		o, err := r.find(ctx, other)
		require.NoError(t, err)
		name := manifestName(m.Lease, m.Point)
		for _, place := range copiesOf(name) {
			if damaged {
				st.Set(place, []byte("nothing"))
			} else {
				require.NoError(t, st.Remove(ctx, place))
			}
		}
		swapped := openInner(t, st.Clone(), onState(t.TempDir())) // a copy that has another point's in its place
		b, err := readAll(ctx, st, manifestName(o.Lease, o.Point), maxVital)
		require.NoError(t, err)
		swapped.st.(*memstore.Store).Set(name, b)

		rep, err := r.Repair(ctx, &RepairOptions{From: []*Repository{swapped}})
		require.NoError(t, err)
		require.False(t, rep.OK)
		rep, err = r.Repair(ctx, &RepairOptions{From: []*Repository{swapped, copied}})
		require.NoError(t, err)
		require.True(t, rep.OK, "%+v", rep)
		for _, place := range copiesOf(name) {
			require.Contains(t, rep.Repaired, place)
		}
		fresh := openInner(t, st, onState(t.TempDir()))
		requireDisk(t, fresh, point, noiseDisk(1, 2))
		requireSound(t, fresh)
	}
}
