package hyperv

import (
	"io/fs"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/hypervtest"
)

// A node that does not answer takes its own VMs away, and nobody else's: what is read is taken by names that the others know, and what is
// written over is not.
func TestSelectReachable(t *testing.T) {
	c := cluster(t, 0, "2022", "2022")
	here := c.AddVM("HV1", hypervtest.VM{Name: "web1"})
	c.AddVM("HV2", hypervtest.VM{Name: "web2"})
	s := clusterSite(t, c, "HV1")
	ids, lost, err := s.SelectReachable(t.Context(), Selection{Patterns: []string{"web*"}})
	require.NoError(t, err)
	require.NoError(t, lost)
	require.Len(t, ids, 2)
	c.Host("HV2").Fail(hypervtest.Fault{Call: "Enumerate", Failure: &hypervtest.Failure{Cut: true}, Times: -1})
	for _, sel := range []Selection{{Patterns: []string{"web*"}}, {VMs: []string{"web1"}}} {
		ids, lost, err = s.SelectReachable(t.Context(), sel)
		require.NoError(t, err)
		require.ErrorContains(t, lost, "HV2")
		require.Equal(t, []string{strings.ToLower(here)}, ids)
		_, err = s.Select(t.Context(), sel)
		require.ErrorContains(t, err, "not every host can be asked")
	}
	ids, lost, err = s.SelectReachable(t.Context(), Selection{VMs: []string{"web2"}})
	require.NoError(t, err)
	require.Empty(t, ids)
	require.ErrorContains(t, lost, `"web2" is on none of the hosts that answer`)
	require.NotErrorIs(t, lost, fs.ErrNotExist)
}
