package hyperv_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv"
	"github.com/hikae/hikae/hyperv/hypervtest"
)

// A shadow copy is asked for by the GUID of a volume. Where two volumes of a host have one, as those of a disk and its clone, what lies on the one
// that the GUID does not mean is refused by name: on both there are files of the same names, and its bytes would be the other's. What lies on
// the one that it means is backed up. R048, R076, R100.
func TestTwinVolumes(t *testing.T) {
	for _, c := range []struct {
		generation string
		procedure  hyperv.Procedure
	}{{"2012", hyperv.Writer2012}, {"2012r2", hyperv.Writer2012R2}, {"2022", hyperv.Requested}} {
		t.Run(c.generation, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, c.generation, "windows")
			require.NoError(t, os.MkdirAll(filepath.Join(l.h.Dir(), "D"), 0o755))
			l.addVM("web1", "windows", `D:\VMs\web1`)
			l.h.SetVSS(hypervtest.VSSOptions{Clones: map[string]string{`D:\`: `C:\`}})
			p := l.provider(hyperv.ProviderOptions{Procedure: c.procedure})
			meant, clone := l.guests[0], l.guests[1]
			require.Equal(t, meant.Tip(0)[2:], clone.Tip(0)[2:], "the files have the same names")

			for _, ids := range [][]string{{clone.ID()}, l.ids()} {
				snaps, err := p.SnapshotGroup(t.Context(), ids, nil)
				require.ErrorContains(t, err, "two volumes have the same GUID")
				require.ErrorContains(t, err, `D:\`)
				require.Empty(t, snaps)
				l.clean()
			}
			s, err := p.Snapshot(t.Context(), meant.ID(), nil)
			require.NoError(t, err)
			frozen(t, s, meant)
			require.NoError(t, s.Release(t.Context()))
			l.clean()

			l.h.SetVSS(hypervtest.VSSOptions{})
			s, err = p.Snapshot(t.Context(), clone.ID(), nil)
			require.NoError(t, err)
			frozen(t, s, clone)
			require.NoError(t, s.Release(t.Context()))
			l.clean()
		})
	}
}
