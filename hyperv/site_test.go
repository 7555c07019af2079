package hyperv

import (
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/cim"
	"github.com/hikae/hikae/hyperv/hypervtest"
)

const movingVM = "a0a00000-0000-4000-8000-0000000000aa"

// A host by itself is a site of one, by whatever address.
func TestSiteOfOne(t *testing.T) {
	f := fake(t, hypervtest.Options{})
	id := f.AddVM(hypervtest.VM{Name: "web1"})
	s := siteAt(t, f, nil)
	require.Equal(t, f.Addr(), s.Address())
	c, err := s.Cluster(t.Context())
	require.NoError(t, err)
	require.Nil(t, c)
	h, err := s.Owner(t.Context(), strings.ToUpper(id))
	require.NoError(t, err)
	require.Equal(t, "HV1", h.Info().Name)
	again, err := s.HostNamed(t.Context(), "hv1.example.org")
	require.NoError(t, err)
	require.Same(t, h, again)
	hosts, err := s.Hosts(t.Context())
	require.NoError(t, err)
	require.Equal(t, []*Host{h}, hosts)
	_, err = s.HostNamed(t.Context(), "HV2")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = s.Owner(t.Context(), "a0a00000-0000-4000-8000-0000000000ff")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = s.Owner(t.Context(), "web1")
	require.ErrorIs(t, err, cim.ErrArgument)
	require.NoError(t, s.Close())
	_, err = s.Owner(t.Context(), id)
	require.ErrorIs(t, err, errClosed)
	_, err = s.Store(t.Context(), h)
	require.ErrorIs(t, err, errClosed)
}

// A cluster is one site by whichever node, and its owner of a VM is asked anew: facts 5.3.
func TestClusterOwnerMoves(t *testing.T) {
	c := cluster(t, uint32(10), nodeIs{"HV1", NodeUp, "17763"}, nodeIs{"HV2", NodeUp, "17763"}, nodeIs{"HV3", NodePaused, "17763"}, nodeIs{"HV4", NodeDown, ""})
	for _, h := range c.hosts {
		h.AddVM(hypervtest.VM{ID: movingVM, Name: "web1"})
	}
	s := c.site(1)
	require.Equal(t, "cl1", s.Address())
	about, err := s.Cluster(t.Context())
	require.NoError(t, err)
	require.Equal(t, &Cluster{Name: "CL1", Level: 10, Root: `C:\ClusterStorage`, Nodes: []Node{{"HV1", NodeUp, 17763}, {"HV2", NodeUp, 17763},
		{"HV3", NodePaused, 17763}, {"HV4", NodeDown, 0}}}, about)
	for _, on := range []string{"HV2", "HV1", "HV1", "HV3", "HV2"} {
		c.put(movingVM, on)
		h, err := s.Owner(t.Context(), movingVM)
		require.NoError(t, err)
		require.Equal(t, on, h.Info().Name)
	}
	hosts, err := s.Hosts(t.Context())
	require.NoError(t, err)
	require.Len(t, hosts, 3, "the node that is down is not asked")
	c.put(movingVM)
	_, err = s.Owner(t.Context(), movingVM)
	require.ErrorIs(t, err, fs.ErrNotExist)

	// On its way it is on two hosts. The cluster says whose it is, and where that is neither nobody guesses.
	c.put(movingVM, "HV1", "HV3")
	_, err = s.Owner(t.Context(), movingVM)
	require.ErrorIs(t, err, cim.ErrBusy)
	c.owner(movingVM, "HV3")
	h, err := s.Owner(t.Context(), movingVM)
	require.NoError(t, err)
	require.Equal(t, "HV3", h.Info().Name)
}

// A node that does not answer hides what it has: then a VM that nobody else has is not called gone. What the others have goes on.
func TestClusterNodeAway(t *testing.T) {
	c := cluster(t, uint32(10), nodeIs{"HV1", NodeUp, "17763"}, nodeIs{"HV2", NodeUp, "17763"})
	for _, h := range c.hosts {
		h.AddVM(hypervtest.VM{ID: movingVM, Name: "web1"})
	}
	s := c.site(0)
	c.put(movingVM)
	c.away("HV2", true)
	_, err := s.Owner(t.Context(), movingVM)
	require.ErrorContains(t, err, "not every host could be asked")
	require.NotErrorIs(t, err, fs.ErrNotExist)
	hosts, err := s.Hosts(t.Context())
	require.ErrorContains(t, err, "node HV2")
	require.Len(t, hosts, 1)
	_, err = s.Select(t.Context(), Selection{VMs: []string{"web1"}})
	require.ErrorContains(t, err, "not every host can be asked")
	c.put(movingVM, "HV1")
	_, err = s.Owner(t.Context(), movingVM)
	require.NoError(t, err)
	c.away("HV2", false)
	hosts, err = s.Hosts(t.Context())
	require.NoError(t, err)
	require.Len(t, hosts, 2)

	// The node that was connected to goes: any other speaks for the cluster, and has the VM.
	c.away("HV1", true)
	c.put(movingVM, "HV2")
	h, err := s.Owner(t.Context(), movingVM)
	require.NoError(t, err)
	require.Equal(t, "HV2", h.Info().Name)
}

// Whoever answers at a node's address has to be that node.
func TestNodeOfAnotherName(t *testing.T) {
	c := cluster(t, uint32(10), nodeIs{"HV1", NodeUp, "17763"}, nodeIs{"HV2", NodeUp, "17763"})
	c.addrs["hv2"] = c.addrs["hv1"]
	_, err := c.site(0).HostNamed(t.Context(), "HV2")
	require.ErrorContains(t, err, "HV1 answers in its place")
}

// What a cluster says is not believed where it cannot be: and one that may not be asked is not taken for none (R087, R088).
func TestClusterHostile(t *testing.T) {
	for _, list := range [][]nodeIs{{{"HV1", 0, ""}, {"hv1", 0, ""}}, {{"HV1", 0, ""}, {"", 0, ""}}} {
		f := fake(t, hypervtest.Options{})
		f.Lock()
		f.Define(spaceCluster, hypervtest.Class{Name: "MSCluster_Cluster", Keys: []string{"Name"}})
		f.Define(spaceCluster, hypervtest.Class{Name: "MSCluster_Node", Keys: []string{"Name"}})
		f.Add(spaceCluster, hypervtest.NewObject("MSCluster_Cluster", "Name", "CL"))
		for _, n := range list {
			f.Add(spaceCluster, hypervtest.NewObject("MSCluster_Node", "Name", n.name))
		}
		f.Unlock()
		_, err := ConnectSite(t.Context(), f.Addr(), cim.Login{User: "eva", Password: "pw"}, &SiteOptions{Host: Options{CIM: &cim.Options{Plain: true}}})
		require.ErrorIs(t, err, cim.ErrMalformed)
	}
	f := fake(t, hypervtest.Options{Before: func(c hypervtest.Seen) *hypervtest.Failure {
		if strings.Contains(c.Query, "MSCluster_") {
			return &hypervtest.Failure{Subcode: "AccessDenied", Code: 5, Reason: "Access is denied."}
		}
		return nil
	}})
	_, err := ConnectSite(t.Context(), f.Addr(), cim.Login{User: "eva", Password: "pw"}, &SiteOptions{Host: Options{CIM: &cim.Options{Plain: true}}})
	require.ErrorIs(t, err, fs.ErrPermission)
}

// Where the feature is there and no cluster was made, its classes fail and its service does not run.
func TestClusterNotMade(t *testing.T) {
	for state, one := range map[string]bool{"Stopped": true, "Running": false} {
		f := fake(t, hypervtest.Options{Before: func(c hypervtest.Seen) *hypervtest.Failure {
			if strings.Contains(c.Query, "MSCluster_") {
				return &hypervtest.Failure{Subcode: "InternalError", HRESULT: 0x80041001, Reason: "Generic failure"}
			}
			return nil
		}})
		f.Lock()
		f.Define(hypervtest.CIMV2, hypervtest.Class{Name: "Win32_Service", Keys: []string{"Name"}})
		f.Add(hypervtest.CIMV2, hypervtest.NewObject("Win32_Service", "Name", "ClusSvc", "State", state))
		f.Unlock()
		s, err := ConnectSite(t.Context(), f.Addr(), cim.Login{User: "eva", Password: "pw"}, &SiteOptions{Host: Options{CIM: &cim.Options{Plain: true}}})
		if require.Equal(t, one, err == nil, "%v", err); err == nil {
			require.NoError(t, s.Close())
		}
	}
}

// A store is opened when it is needed, once for each host, and closed with the site.
func TestSiteStores(t *testing.T) {
	f := fake(t, hypervtest.Options{})
	var opened []string
	closed := 0
	s := siteAt(t, f, &SiteOptions{Host: Options{CIM: &cim.Options{Plain: true}}, Store: stores(&opened, &closed)})
	h, err := s.HostNamed(t.Context(), "HV1")
	require.NoError(t, err)
	_, err = s.Store(t.Context(), h)
	require.ErrorContains(t, err, "files of HV1: the first is refused")
	for range 3 {
		_, err = s.Store(t.Context(), h)
		require.NoError(t, err)
	}
	require.Equal(t, []string{"HV1", "HV1"}, opened)
	require.NoError(t, s.Close())
	require.Equal(t, 1, closed)
}

func TestWhereNodesAre(t *testing.T) {
	for _, c := range []struct{ addr, node, want string }{
		{"hv1", "HV2", "HV2"}, {"hv1.example.org", "HV2", "HV2.example.org"}, {"hv1.example.org:5985", "HV2", "HV2.example.org:5985"},
		{"10.0.0.1:5985", "HV2", "HV2:5985"}, {"[::1]:7", "HV2", "HV2:7"}, {"cl1.example.org", "hv2.other.org", "hv2.other.org"},
	} {
		require.Equal(t, c.want, (&Site{addr: c.addr}).where(c.node), c.addr)
	}
	for pair, same := range map[[2]string]bool{{"HV1", "hv1.example.org"}: true, {"hv1.a", "HV1.A"}: true, {"hv1.a", "hv1.b"}: false, {"", "hv1"}: false, {"hv1", "hv10"}: false} {
		require.Equal(t, same, sameMachine(pair[0], pair[1]), pair)
	}
	s := &Site{opts: SiteOptions{Host: Options{CIM: &cim.Options{Plain: true}}}}
	require.Equal(t, "hv1:5985", s.withPort("HV1"))
	require.Equal(t, "[::1]:5986", (&Site{}).withPort("[::1]"))
}

// Names are taken where they are unique, and refused with all GUIDs where they are not. One that moves is on two hosts, and one.
func TestSelect(t *testing.T) {
	c := cluster(t, uint32(10), nodeIs{"HV1", NodeUp, "17763"}, nodeIs{"HV2", NodeUp, "17763"})
	a := c.hosts[0].AddVM(hypervtest.VM{ID: "a0a00000-0000-4000-8000-00000000000a", Name: "db1"})
	b := c.hosts[1].AddVM(hypervtest.VM{ID: "a0a00000-0000-4000-8000-00000000000b", Name: "DB2"})
	twin := c.hosts[1].AddVM(hypervtest.VM{ID: "a0a00000-0000-4000-8000-00000000000c", Name: "web1"})
	for _, h := range c.hosts {
		h.AddVM(hypervtest.VM{ID: movingVM, Name: "web1"})
	}
	s := c.site(0)
	pick := func(sel Selection) []string {
		ids, err := s.Select(t.Context(), sel)
		require.NoError(t, err)
		return ids
	}
	require.Nil(t, pick(Selection{}))
	require.Equal(t, []string{a}, pick(Selection{VMs: []string{"db1", strings.ToUpper(a)}}))
	require.Equal(t, []string{b, a}, pick(Selection{VMs: []string{b}, Patterns: []string{"db?"}}))
	require.Len(t, pick(Selection{Patterns: []string{"web*"}}), 2)
	var several *AmbiguousError
	_, err := s.Select(t.Context(), Selection{VMs: []string{"web1"}})
	require.ErrorAs(t, err, &several)
	require.ErrorIs(t, err, fs.ErrInvalid)
	require.Equal(t, []string{twin, movingVM}, several.IDs)
	for _, none := range []Selection{{VMs: []string{"nobody"}}, {Patterns: []string{"x*"}}, {VMs: []string{"HV1"}}} {
		_, err = s.Select(t.Context(), none)
		require.ErrorIs(t, err, fs.ErrNotExist)
	}
}

// R085 to R089 asked of a host and a cluster, and not of a table: the plan of the first VM is that of a late cluster, until an old node
// is in it.
func TestSitePlans(t *testing.T) {
	for _, o := range []struct {
		build string
		level any
		want  Procedure
	}{{"20348", uint32(11), Production}, {"20348", uint32(8), Writer2012R2}, {"9600", uint32(8), Writer2012R2}, {"20348", nil, Writer2012R2}, {"9600", nil, Writer2012R2}} {
		c := cluster(t, o.level, nodeIs{"HV1", NodeUp, "20348"}, nodeIs{"HV2", NodeUp, o.build})
		id := c.hosts[0].AddVM(hypervtest.VM{Name: "web1", Version: "9.0"})
		start := time.Now()
		p, err := c.site(0).plan(t.Context(), id, &ProviderOptions{Requester: anyRequester})
		require.NoError(t, err)
		require.Equal(t, o.want, p.plan.Procedure, o)
		require.Equal(t, "HV1", p.plan.Host)
		require.Equal(t, "web1", p.machine.Name)
		require.Less(t, time.Since(start), 20*time.Second)
	}
}
