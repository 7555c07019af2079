package hyperv

import (
	"io/fs"
	"strings"
	"testing"

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

// On its way a VM is on two hosts. The cluster says whose it is, and where it does not nobody guesses.
func TestClusterArbitrates(t *testing.T) {
	c := cluster(t, 0, "2019", "2019", "2019")
	lone := hypervtest.VM{ID: "a0a00000-0000-4000-8000-0000000000bb", Name: "lone"}
	moving := hypervtest.VM{ID: movingVM, Name: "web1"}
	c.AddVM("HV3", moving)
	c.Host("HV1").AddVM(moving)
	c.Host("HV1").AddVM(lone)
	s := clusterSite(t, c, "HV2")
	h, err := s.Owner(t.Context(), movingVM)
	require.NoError(t, err)
	require.Equal(t, "HV3", h.Info().Name)
	h, err = s.Owner(t.Context(), lone.ID)
	require.NoError(t, err, "a VM that is no role of the cluster")
	require.Equal(t, "HV1", h.Info().Name)
	c.Host("HV2").AddVM(hypervtest.VM{ID: "a0a00000-0000-4000-8000-0000000000cc", Name: "twice"})
	c.Host("HV3").AddVM(hypervtest.VM{ID: "a0a00000-0000-4000-8000-0000000000cc", Name: "twice"})
	_, err = s.Owner(t.Context(), "a0a00000-0000-4000-8000-0000000000cc")
	require.ErrorIs(t, err, cim.ErrBusy)
	_, err = s.Owner(t.Context(), "a0a00000-0000-4000-8000-0000000000ff")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, c.SetDown("HV3", true))
	hosts, err := s.Hosts(t.Context())
	require.NoError(t, err)
	require.Len(t, hosts, 2, "the node that is down is not asked")
}

// A node that does not answer hides what it has: then a VM that nobody else has is not called gone. What the others have goes on, and
// where the node that was connected to goes, any other speaks for the cluster.
func TestClusterNodeAway(t *testing.T) {
	c := cluster(t, 0, "2019", "2019")
	c.AddVM("HV2", hypervtest.VM{ID: movingVM, Name: "web1"})
	s := clusterSite(t, c, "HV1")
	away(c, "HV2")
	_, err := s.Owner(t.Context(), movingVM)
	require.ErrorContains(t, err, "not every host could be asked")
	require.NotErrorIs(t, err, fs.ErrNotExist)
	_, err = s.Select(t.Context(), Selection{VMs: []string{"web1"}})
	require.ErrorContains(t, err, "not every host can be asked")
	c.Host("HV2").Heal()
	h, err := s.Owner(t.Context(), movingVM)
	require.NoError(t, err)
	away(c, "HV1")
	require.NoError(t, s.anyone(t.Context(), func(other *Host) error {
		_, err := other.cluster(t.Context())
		require.True(t, err != nil || other == h)
		return err
	}))
	h, err = s.Owner(t.Context(), movingVM)
	require.NoError(t, err)
	require.Equal(t, "HV2", h.Info().Name)
}

// Whoever answers at a node's address has to be that node.
func TestClusterNodeOfAnotherName(t *testing.T) {
	c := cluster(t, 0, "2019", "2019")
	o := clusterOptions(c)
	o.Address = func(_, protocol string) string { return c.Address("HV1", protocol) }
	_, err := siteAt(t, c.Host("HV1"), o).HostNamed(t.Context(), "HV2")
	require.ErrorContains(t, err, "HV1 answers in its place")
}

// What a cluster says is not believed where it cannot be: and one that may not be asked is not taken for none (R087, R088).
func TestClusterHostile(t *testing.T) {
	for _, name := range []string{"hv1", ""} {
		c := cluster(t, 0, "2019")
		f := c.Host("HV1")
		f.Lock()
		f.Add(hypervtest.ClusterNamespace, hypervtest.NewObject("MSCluster_Node", "Name", name))
		f.Unlock()
		_, err := ConnectSite(t.Context(), f.Addr(), cim.Login{User: "eva", Password: "pw"}, clusterOptions(c))
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
	c := cluster(t, 0, "2019", "2019")
	one, two := c.Host("HV1"), c.Host("HV2")
	a := one.AddVM(hypervtest.VM{ID: "a0a00000-0000-4000-8000-00000000000a", Name: "db1"})
	b := two.AddVM(hypervtest.VM{ID: "a0a00000-0000-4000-8000-00000000000b", Name: "DB2"})
	twin := two.AddVM(hypervtest.VM{ID: "a0a00000-0000-4000-8000-00000000000c", Name: "web1"})
	for _, h := range c.Hosts() {
		h.AddVM(hypervtest.VM{ID: movingVM, Name: "web1"})
	}
	s := clusterSite(t, c, "HV1")
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

// R085 to R089 asked of a cluster, and not of a table: a late VM on a late node goes by the whole cluster, whichever node is asked.
func TestSitePlans(t *testing.T) {
	for _, o := range []struct {
		second string
		level  int
		want   Procedure
	}{{"2022", 0, Production}, {"2016", 9, Production}, {"2022", 8, Writer2012R2}, {"2012r2", 8, Writer2012R2}, {"2012r2", 9, Writer2012R2}} {
		c := cluster(t, o.level, "2022", o.second)
		id := c.AddVM("HV1", hypervtest.VM{Name: "web1", Version: "9.0"})
		for _, by := range []string{"HV1", "HV2"} {
			p, err := clusterSite(t, c, by).plan(t.Context(), id, &ProviderOptions{Requester: anyRequester})
			require.NoError(t, err)
			require.Equal(t, o.want, p.plan.Procedure, o)
			require.Equal(t, "HV1", p.plan.Host)
			require.Equal(t, "web1", p.machine.Name)
		}
	}
}
