package hyperv

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func anyRequester(context.Context, *Host) (Requester, error) {
	return nil, errors.New("not asked here")
}

// pins is a snapshotter that is only there.
type pins struct{ SetTransporter }

func (pins) Name() string { return "array" }

// expected is the rule in its shortest form, stated apart from the code that is tested: R037 by the host, R085 to R089 on late ones.
func expected(build int, version string, nodes []int, level int) Procedure {
	switch {
	case build < 9600:
		return Writer2012
	case build < 14393:
		return Writer2012R2
	}
	all := slices.Contains([]string{"8.0", "8.3", "9.0", "10.0", "12.0"}, version) // R085
	for _, n := range nodes {
		all = all && n >= 14393 // R087
	}
	if nodes != nil {
		all = all && level >= 9 // R088
	}
	if all {
		return Production
	}
	return Writer2012R2 // R089
}

// Every combination of host, configuration, nodes and level leads to the procedure of the requirement rows: R037, R085, R086, R087, R088,
// R089. That of the VMs that go by their host's writer needs somebody who asks it; all need a way to read off-host where that is wanted.
func TestPlanTable(t *testing.T) {
	builds := []int{7601, 9200, 9600, 10240, 14392, 14393, 17763, 20348, 26100}
	versions := []string{"", "1.0", "5.0", "6.2", "7.0", "7.99", "8", "8.0", "8.3", "9.0", "10.0", "12.0", "08.x", "-8.0", "x"}
	clusters := []struct {
		nodes []int
		level int
	}{{nil, 0}, {[]int{14393, 17763}, 9}, {[]int{14393, 9600}, 8}, {[]int{14393, 9600}, 9}, {[]int{14393, 14393}, 8}, {[]int{20348, 20348}, 0}, {[]int{26100}, 12}, {[]int{26100}, 99}}
	count := 0
	for _, build := range builds {
		for _, version := range versions {
			for _, c := range clusters {
				for _, helper := range []bool{false, true} {
					for _, mode := range []Mode{"", OnHost, OffHost} {
						for _, array := range []bool{false, true} {
							count++
							f := probed{host: HostInfo{Name: "HV1", Build: build}, machine: &Machine{ID: someVM, Name: "web1", ConfigVersion: version,
								Disks: []Disk{{Key: "k", Controller: "scsi", Format: FormatVHDX, Path: `C:\a.vhdx`}}}}
							if c.nodes != nil {
								f.cluster = &Cluster{Name: "CL", Level: c.level}
								for i, n := range c.nodes {
									f.cluster.Nodes = append(f.cluster.Nodes, Node{Name: fmt.Sprint("N", i), Build: n})
								}
							}
							o := ProviderOptions{Mode: mode}
							if helper {
								o.Requester = anyRequester
							}
							if array {
								o.Volumes = []VolumeSnapshotter{pins{}}
							}
							want := expected(build, version, c.nodes, c.level)
							if version == "8" {
								want = expected(build, "8.0", c.nodes, c.level)
							}
							got, err := f.choose(&o)
							what := fmt.Sprintf("build %d version %q cluster %v helper %v mode %q array %v: %v", build, version, c, helper, mode, array, err)
							if want != Production && !helper || mode == OffHost && !array {
								var refused *PlanError
								require.ErrorAs(t, err, &refused, what)
								require.NotEmpty(t, refused.Unmet, what)
								continue
							}
							require.NoError(t, err, what)
							require.Equal(t, want, got.Procedure, what)
							require.Equal(t, want == Production, got.Tracking, what)
							require.Equal(t, mode == OffHost, got.Mode == OffHost, what)
							check(t, got, f.cluster != nil)
						}
					}
				}
			}
		}
	}
	require.Greater(t, count, 10_000)
}

// check: each condition stands in the plan, met or not, and a late host's are all there.
func check(t *testing.T, p *Plan, clustered bool) {
	t.Helper()
	var rules []string
	unmet := 0
	for _, r := range p.Reasons {
		require.NotEmpty(t, r.Found)
		require.NotEmpty(t, r.About)
		if r.About == aboutProcedure {
			rules = append(rules, r.Rule)
			if !r.Met {
				unmet++
				require.NotEmpty(t, r.Hint, r.Rule)
			}
		}
	}
	if p.Procedure == Production {
		require.Zero(t, unmet)
		want := []string{"its host is 2016 or later", "configuration version at least 8.0", "all nodes of the cluster are 2016 or later", "the cluster's functional level is that of 2016 or later"}
		if !clustered {
			want = append(want[:2], "in a cluster: all nodes 2016 or later, functional level raised")
		}
		require.Equal(t, want, rules)
	}
}

// A procedure that is asked for is taken only where its own conditions hold.
func TestPlanAsked(t *testing.T) {
	late := func(version string) probed {
		return probed{host: HostInfo{Name: "HV1", Build: 17763}, machine: &Machine{ID: someVM, Name: "web1", ConfigVersion: version}}
	}
	of := func(build int) probed { f := late("5.0"); f.host.Build = build; return f }
	for _, c := range []struct {
		f    probed
		ask  Procedure
		fine bool
		says string
	}{
		{late("9.0"), Production, true, ""}, {late("5.0"), Production, false, "configuration version at least 8.0 (5.0)"}, {of(9600), Production, false, "2016 or later (2012 R2 (build 9600))"},
		{late("9.0"), Requested, true, ""}, {of(7601), Requested, true, ""}, {of(6001), Requested, false, "2008 R2 or later (before 2008 R2"},
		{late("5.0"), Writer2012R2, true, ""}, {late("9.0"), Writer2012R2, false, "all are of 2019"}, {of(9600), Writer2012R2, true, ""}, {of(9200), Writer2012R2, false, "2012 R2"},
		{of(9200), Writer2012, true, ""}, {of(7601), Writer2012, true, ""}, {of(9600), Writer2012, false, "2008 R2 or 2012"}, {late("9.0"), Writer2012, false, "2008 R2 or 2012"},
		{late("9.0"), "guess", false, "use one of"},
	} {
		p, err := c.f.choose(&ProviderOptions{Procedure: c.ask, Requester: anyRequester})
		if c.fine {
			require.NoError(t, err, c.ask)
			require.Equal(t, c.ask, p.Procedure)
			continue
		}
		var refused *PlanError
		require.ErrorAs(t, err, &refused, c.ask)
		require.Equal(t, someVM, refused.VM)
		require.Contains(t, refused.Error()+refused.Unmet[0].Hint, c.says)
	}
}

// R087: a node that tells nothing is taken only where the level keeps older ones out.
func TestPlanNodeUnknown(t *testing.T) {
	c := &Cluster{Name: "CL", Level: 9, Nodes: []Node{{Name: "A", Build: 14393}, {Name: "B", State: NodeDown}}}
	found, met := c.nodesFound()
	require.True(t, met)
	require.Equal(t, "CL: A 2016 (build 14393), B not known", found)
	c.Level = 8
	_, met = c.nodesFound()
	require.False(t, met)
	_, met = (&Cluster{Name: "CL", Level: 12}).nodesFound()
	require.False(t, met, "a cluster without nodes")
}

// Facts 5.8 and 5.10: what nothing pins is refused, or left out by name and said so; a VM of a guest cluster is refused whatever is named.
func TestPlanDisks(t *testing.T) {
	f := probed{host: HostInfo{Name: "HV1", Build: 20348}, machine: &Machine{ID: someVM, ConfigVersion: "10.0", Disks: []Disk{
		{Key: "system", Controller: "scsi", Format: FormatVHDX}, {Key: "SCSI0-1", Controller: "scsi", Slot: 1, Physical: true},
		{Key: "shared", Controller: "scsi", Slot: 2, Format: FormatVHDX, Shared: true}, {Key: "set", Controller: "scsi", Slot: 3, Format: FormatVHDSet},
		{Key: "bad", Controller: "scsi", Slot: 4, Problem: "the host cannot read its file"}, {Key: "old", Controller: "ide", Format: FormatVHD, Path: `C:\old.vhd`},
	}}}
	var o ProviderOptions
	for left := 4; left > 0; left-- {
		_, err := f.choose(&o)
		var refused *PlanError
		require.ErrorAs(t, err, &refused)
		require.Len(t, refused.Unmet, left)
		o.IgnoreDisks = append(o.IgnoreDisks, []string{"scsi0-1", "SHARED", "scsi0-3", "bad"}[4-left])
	}
	p, err := f.choose(&o)
	require.NoError(t, err)
	require.True(t, p.Tracking)
	var text []string
	for _, r := range p.Reasons {
		text = append(text, r.String())
	}
	require.Contains(t, strings.Join(text, "\n"), "not met: disk ide0-0 is a VHDX")
	require.Equal(t, 4, strings.Count(strings.Join(text, "\n"), "it is left out"))

	f.machine.Disks = f.machine.Disks[5:]
	p, err = f.choose(&o)
	require.NoError(t, err)
	require.False(t, p.Tracking, "VHD alone")
	f.collections = []string{"sql"}
	_, err = f.choose(&o)
	require.ErrorContains(t, err, "it is in sql")
}

func TestPlanTrackingOff(t *testing.T) {
	f := probed{host: HostInfo{Build: 20348}, machine: &Machine{ID: someVM, ConfigVersion: "10.0", Disks: []Disk{{Key: "a", Controller: "scsi", Format: FormatVHDX}}}}
	p, err := f.choose(&ProviderOptions{NoTracking: true})
	require.NoError(t, err)
	require.False(t, p.Tracking)
	require.Contains(t, p.Reasons[len(p.Reasons)-1].String(), "it was turned off")
}
