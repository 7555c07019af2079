package vmware

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/vmware/vmwaretest"
)

// restoreBy brings a point back with the transports that are named.
func (l *lab) restoreBy(transport, point string, o job.RestoreOptions) (job.RestoreResult, error) {
	l.Helper()
	info, err := job.FindPoint(l.Context(), l.repo, point)
	require.NoError(l, err)
	r, err := NewRestorer(l.client, &RestorerOptions{Transports: &TransportOptions{Order: []string{transport}}})
	require.NoError(l, err)
	j, err := hikae.OpenFileJournal(l.journal)
	require.NoError(l, err)
	defer func() { require.NoError(l, j.Close()) }()
	o.Journal, o.Workers = j, 1
	return job.Restore(l.Context(), l.repo, info, r, &o)
}

// R104, R113: on the fake vSphere, by the transports of this package: a point comes back into a new VM and into the VM that it
// is of, byte for byte, and the fake has nothing left of it.
func TestRestoreOnTheFake(t *testing.T) {
	for _, transport := range []string{NBDSSL, HTTPS} {
		t.Run(transport, func(t *testing.T) {
			l := newLab(t, vmwaretest.Options{VMs: 1, DisksPerVM: 2})
			vm := l.vm()
			require.NoError(t, vm.PowerOff())
			res, want, err := l.try(nil)
			require.NoError(t, err)
			l.scribbleAll(5)

			made, err := l.restoreBy(transport, res.Point, job.RestoreOptions{Name: "anew", Compare: true})
			require.NoError(t, err)
			again := l.server.VM("anew")
			require.Equal(t, made.ID, again.Ref().Value)
			got := l.contents(again)
			for _, content := range want {
				require.True(t, holds(got, content))
			}

			_, err = l.restoreBy(transport, res.Point, job.RestoreOptions{InPlace: vm.Ref().Value, Compare: true})
			require.NoError(t, err)
			for key, content := range l.contents(vm) {
				require.True(t, bytes.Equal(want[key], content), key)
			}
			left := slices.DeleteFunc(l.server.Leftovers(), func(what string) bool { return strings.HasPrefix(what, "session of ") })
			require.Empty(t, left, "but the client's own session")
		})
	}
}

func holds(disks map[string][]byte, content []byte) bool {
	for _, d := range disks {
		if bytes.Equal(d, content) {
			return true
		}
	}
	return false
}
