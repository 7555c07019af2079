package hyperv

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/cim"
	"github.com/hikae/hikae/hyperv/hypervtest"
)

// cluster starts a fake one. Nodes are HV1, HV2 … of these generations.
func cluster(t *testing.T, level int, generations ...string) *hypervtest.Cluster {
	t.Helper()
	c, err := hypervtest.StartCluster(&hypervtest.ClusterOptions{Name: "CL1", Nodes: len(generations), Generations: generations, Level: level, Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// clusterOptions lead names of nodes to where they listen, and to their files on this machine.
func clusterOptions(c *hypervtest.Cluster) *SiteOptions {
	return &SiteOptions{Host: Options{CIM: &cim.Options{Plain: true}}, Address: c.Address,
		Store: func(_ context.Context, machine string) (Store, error) { return c.Host(machine).LocalFiles(), nil }}
}

func clusterSite(t *testing.T, c *hypervtest.Cluster, node string) *Site {
	t.Helper()
	return siteAt(t, c.Host(node), clusterOptions(c))
}

// away has a node answer nothing, until it is healed.
func away(c *hypervtest.Cluster, node string) {
	c.Host(node).Fail(hypervtest.Fault{Call: "Enumerate", Times: -1, Failure: &hypervtest.Failure{Cut: true}})
}

func siteAt(t *testing.T, h *hypervtest.Host, o *SiteOptions) *Site {
	t.Helper()
	if o == nil {
		o = &SiteOptions{Host: Options{CIM: &cim.Options{Plain: true}}}
	}
	s, err := ConnectSite(t.Context(), h.Addr(), cim.Login{User: "eva", Password: "pw"}, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// storeOf is a store that only counts.
type storeOf struct {
	Store
	machine string
	closed  *int
}

func (s storeOf) Close() error { *s.closed++; return nil }

func stores(opened *[]string, closed *int) func(context.Context, string) (Store, error) {
	return func(_ context.Context, machine string) (Store, error) {
		if *opened = append(*opened, machine); len(*opened) == 1 {
			return nil, fmt.Errorf("the first is refused")
		}
		return storeOf{machine: machine, closed: closed}, nil
	}
}
