package hyperv

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/cim"
	"github.com/hikae/hikae/hyperv/hypervtest"
)

const spaceCluster = "root/MSCluster"

// nodes are hosts that say that they are a cluster: CIM objects and nothing more, so that each answer can be a test's own.
type nodes struct {
	t     *testing.T
	hosts []*hypervtest.Host
	addrs map[string]string

	mu  sync.Mutex
	on  map[string][]string
	off map[string]bool
}

type nodeIs struct {
	name  string
	state uint32
	build string
}

func cluster(t *testing.T, level any, list ...nodeIs) *nodes {
	t.Helper()
	c := &nodes{t: t, addrs: map[string]string{}, on: map[string][]string{}, off: map[string]bool{}}
	for _, n := range list {
		h := fake(t, hypervtest.Options{Name: n.name, Before: c.before(n.name)})
		c.hosts, c.addrs[strings.ToLower(n.name)] = append(c.hosts, h), h.Addr()
	}
	for _, h := range c.hosts {
		h.Lock()
		h.Define(spaceCluster, hypervtest.Class{Name: "MSCluster_Cluster", Keys: []string{"Name"}})
		h.Define(spaceCluster, hypervtest.Class{Name: "MSCluster_Node", Keys: []string{"Name"}})
		h.Define(spaceCluster, hypervtest.Class{Name: "MSCluster_Resource", Keys: []string{"Id"}})
		about := hypervtest.NewObject("MSCluster_Cluster", "Name", "CL1", "SharedVolumesRoot", `C:\ClusterStorage`, "BackupInProgress", false)
		if level != nil {
			about.Set("ClusterFunctionalLevel", level)
		}
		h.Add(spaceCluster, about)
		for _, n := range list {
			o := hypervtest.NewObject("MSCluster_Node", "Name", n.name, "State", n.state)
			if n.build != "" {
				o.Set("BuildNumber", n.build)
			}
			h.Add(spaceCluster, o)
		}
		h.Unlock()
	}
	return c
}

// owner has every node say whose a VM is.
func (c *nodes) owner(vm, name string) {
	for _, h := range c.hosts {
		h.Lock()
		h.Add(spaceCluster, hypervtest.NewObject("MSCluster_Resource", "Id", vm, "Type", "Virtual Machine", "OwnerNode", name,
			"PrivateProperties", hypervtest.Embedded{Object: hypervtest.NewObject("MSCluster_Property_Virtual_Machine", "VmID", strings.ToUpper(vm))}))
		h.Unlock()
	}
}

// options lead names of nodes to where they listen.
func (c *nodes) options() *SiteOptions {
	return &SiteOptions{Host: Options{CIM: &cim.Options{Plain: true}}, Address: func(node, protocol string) string {
		if addr := c.addrs[strings.ToLower(node)]; addr != "" && protocol == ProtocolCIM {
			return addr
		}
		return "127.0.0.1:1" // nobody listens there
	}}
}

func (c *nodes) site(i int) *Site { return siteAt(c.t, c.hosts[i], c.options()) }

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

// put has a VM on some nodes and not on the others, as a query by its GUID answers.
func (c *nodes) put(vm string, names ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.on[strings.ToLower(vm)] = names
}

// away has a node answer nothing from now on, or again.
func (c *nodes) away(name string, gone bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off[name] = gone
}

func (c *nodes) before(name string) func(hypervtest.Seen) *hypervtest.Failure {
	return func(seen hypervtest.Seen) *hypervtest.Failure {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.off[name] {
			return &hypervtest.Failure{Cut: true}
		}
		for vm, names := range c.on {
			if strings.Contains(strings.ToLower(seen.Query), "where name = '"+vm) && !slices.Contains(names, name) {
				return &hypervtest.Failure{Subcode: "DestinationUnreachable", HRESULT: 0x80041002, Reason: "Not found"}
			}
		}
		return nil
	}
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
