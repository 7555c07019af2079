package hyperv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/cim"
	"github.com/hikae/hikae/hyperv/hypervtest"
)

// shelf is a store of names and of room.
type shelf struct {
	Store
	names map[string][]string
	free  int64
	err   error
}

func (s shelf) List(_ context.Context, name string) ([]string, error) { return s.names[name], s.err }
func (s shelf) Free(context.Context, string) (int64, error)           { return s.free, s.err }
func (s shelf) Close() error                                          { return nil }

// shelved is a site of one host whose files are a shelf.
func shelved(t *testing.T, f *hypervtest.Host, s *shelf) *Site {
	t.Helper()
	return siteAt(t, f, &SiteOptions{Host: Options{CIM: &cim.Options{Plain: true}}, Store: func(context.Context, string) (Store, error) { return s, nil }})
}

// names are those of findings, with their severities.
func names(p *Preflight) (list []string) {
	for _, f := range p.Findings {
		list = append(list, f.Severity.String()+" "+f.Name)
	}
	return list
}

func preflightOf(t *testing.T, s *Site, vm string, o *PreflightOptions) *Preflight {
	t.Helper()
	p, err := s.Preflight(t.Context(), vm, o)
	require.NoError(t, err)
	return p
}

func TestPreflightNothingFound(t *testing.T) {
	f := fake(t, hypervtest.Options{})
	id := f.AddVM(hypervtest.VM{Name: "web1", Version: "10.0", Disks: []hypervtest.Disk{{Path: `C:\VMs\web1\a.vhdx`, Size: 64 << 20}}})
	p := preflightOf(t, shelved(t, f, &shelf{free: 1 << 40, names: map[string][]string{`C:\VMs\web1`: {"a.vhdx", "other_5A1C3FDA-5DFE-4001-A6D7-EBE18195A85C.avhdx"}}}), id, nil)
	require.Empty(t, p.Findings)
	require.NoError(t, p.Err())
	require.Equal(t, Production, p.Plan.Procedure)
	require.True(t, p.Plan.Tracking)
	require.Len(t, p.Disks, 1)
	b, err := json.Marshal(p)
	require.NoError(t, err)
	require.Contains(t, string(b), `"ok":true`)
	require.Contains(t, p.String(), "procedure production, on-host")
}

// What a host can tell of a VM is found, each by its name: facts 5.1, 5.6, 5.8 to 5.13.
func TestPreflightFinds(t *testing.T) {
	disk := func(d hypervtest.Disk) []hypervtest.Disk {
		return []hypervtest.Disk{{Path: `C:\VMs\v\first.vhdx`, Size: 64 << 20}, d}
	}
	one := disk(hypervtest.Disk{Path: `C:\VMs\v\second.vhdx`, Size: 64 << 20, Slot: 1})
	for _, c := range []struct {
		what string
		vm   hypervtest.VM
		host hypervtest.Options
		o    PreflightOptions
		want []string
	}{
		{what: "passed through", vm: hypervtest.VM{Disks: disk(hypervtest.Disk{Path: `\\HV1\root\virtualization\v2:Msvm_DiskDrive.DeviceID="x"`, Slot: 1, Physical: true})}, want: []string{"stop pass-through"}},
		{what: "left out", vm: hypervtest.VM{Disks: disk(hypervtest.Disk{Path: `\\HV1\root\virtualization\v2:Msvm_DiskDrive.DeviceID="x"`, Slot: 1, Physical: true})},
			o: PreflightOptions{Backup: ProviderOptions{IgnoreDisks: []string{"scsi0-1"}}}, want: []string{"weak pass-through"}},
		{what: "shared", vm: hypervtest.VM{Disks: disk(hypervtest.Disk{Path: `C:\VMs\v\shared.vhdx`, Size: 64 << 20, Slot: 1, Shared: true})}, want: []string{"stop shared-disk"}},
		{what: "gone", vm: hypervtest.VM{Disks: disk(hypervtest.Disk{Path: `C:\VMs\v\gone.vhdx`, Slot: 1})}, want: []string{"stop unreadable"}},
		{what: "VHD", vm: hypervtest.VM{Disks: disk(hypervtest.Disk{Path: `C:\VMs\v\old.vhd`, Size: 64 << 20, Slot: 1})}, want: []string{"weak vhd"}},
		{what: "4K", vm: hypervtest.VM{Disks: disk(hypervtest.Disk{Path: `C:\VMs\v\four.vhdx`, Size: 64 << 20, Slot: 1, SectorSize: 4096})}, want: []string{"note sector-4k"}},
		{what: "shielded", vm: hypervtest.VM{Disks: one, TPM: true, Shielded: true}, want: []string{"weak shielded", "note vtpm"}},
		{what: "no integration", vm: hypervtest.VM{Disks: one, NoIntegration: true}, want: []string{"weak integration"}},
		{what: "no integration, required", vm: hypervtest.VM{Disks: one, NoIntegration: true}, o: PreflightOptions{Backup: ProviderOptions{Quiesce: RequireQuiesce}}, want: []string{"stop integration"}},
		{what: "no integration, not wanted", vm: hypervtest.VM{Disks: one, NoIntegration: true}, o: PreflightOptions{Backup: ProviderOptions{Quiesce: NoQuiesce}}},
		{what: "off", vm: hypervtest.VM{Disks: one, State: 3, NoIntegration: true}},
		{what: "saved", vm: hypervtest.VM{Disks: one, State: 6}, want: []string{"weak state"}},
		{what: "no disks", vm: hypervtest.VM{}, want: []string{"weak no-disk"}},
		{what: "configuration", vm: hypervtest.VM{Disks: one, Version: "5.0"}, o: PreflightOptions{Backup: ProviderOptions{Requester: anyRequester}}, want: []string{"weak procedure", "weak tracking"}},
		{what: "configuration, no helper", vm: hypervtest.VM{Disks: one, Version: "5.0"}, want: []string{"stop procedure"}},
		{what: "2012 R2", host: hypervtest.Options{Generation: "2012r2"}, vm: hypervtest.VM{Disks: one}, o: PreflightOptions{Backup: ProviderOptions{Requester: anyRequester}}, want: []string{"note tracking"}},
		{what: "2012 R2 without SCSI", host: hypervtest.Options{Generation: "2012r2"}, vm: hypervtest.VM{Generation: 1, Disks: []hypervtest.Disk{{Path: `C:\VMs\v\a.vhdx`, IDE: true, Size: 64 << 20}}},
			o: PreflightOptions{Backup: ProviderOptions{Requester: anyRequester}}, want: []string{"weak controller", "note tracking"}},
		{what: "off-host", vm: hypervtest.VM{Disks: one}, o: PreflightOptions{Backup: ProviderOptions{Mode: OffHost}}, want: []string{"stop mode"}},
		{what: "tracking off", vm: hypervtest.VM{Disks: one}, o: PreflightOptions{Backup: ProviderOptions{NoTracking: true}}, want: []string{"weak tracking"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			f := fake(t, c.host)
			c.vm.Name = "v"
			id := f.AddVM(c.vm)
			p := preflightOf(t, shelved(t, f, &shelf{free: 1 << 40}), id, &c.o)
			require.Equal(t, c.want, names(p), p.String())
			require.Equal(t, strings.HasPrefix(strings.Join(names(p), ""), "stop"), p.Err() != nil)
		})
	}
}

// look at a machine that was probed, with a part of a preflight alone.
func lookAt(m *Machine, part func(*preflight) error) []string {
	f := &preflight{probed: &probed{host: HostInfo{Name: "HV1", Build: 20348}, machine: m}, site: &Site{}, out: &Preflight{}}
	if err := part(f); err != nil {
		return []string{err.Error()}
	}
	return names(f.out)
}

// What the host is doing to a VM: facts 1.1.2.
func TestPreflightState(t *testing.T) {
	for status, want := range map[uint16]string{32768: "stop state", 32769: "stop state", 32770: "weak merging", 32771: "weak merging", 32772: "weak merging", 32773: "stop state", 32774: "weak migrating"} {
		require.Equal(t, []string{want}, lookAt(&Machine{State: Running, Status: []uint16{2, status}}, func(f *preflight) error { return f.state(t.Context()) }))
	}
	require.Equal(t, []string{"weak space"}, lookAt(&Machine{State: Running, Status: []uint16{5}}, func(f *preflight) error { return f.state(t.Context()) }))
	for state, want := range map[State]string{Paused: "weak state", 32768: "weak state", Stopping: "weak state"} {
		require.Equal(t, []string{want}, lookAt(&Machine{State: state}, func(f *preflight) error { return f.state(t.Context()) }))
	}
	for mode, want := range map[string][]string{"0": nil, "1": {"note replica"}, "2": {"weak replica"}, "3": {"note replica"}, "4": {"weak replica"}, "": nil} {
		require.Equal(t, want, lookAt(&Machine{}, func(f *preflight) error {
			f.replica(&cim.Instance{Properties: []cim.Property{{Name: "ReplicationMode", Value: mode}}})
			return nil
		}))
	}
}

// Files of checkpoints that nobody knows are told of by name: R069, facts 5.1, 5.2, 5.15. Those of other disks, and those that are known,
// are not.
func TestPreflightStrays(t *testing.T) {
	const guid = "_A1C3FDA5-5DFE-4001-A6D7-EBE18195A85C"
	for _, c := range []struct {
		path string
		file string
		proc Procedure
		want []string
	}{
		{`C:\v\disk_1.vhdx`, "disk_1" + guid + ".avhdx", Production, []string{"weak stray-file"}}, {`C:\v\disk_1.vhdx`, "DISK_1" + strings.ToLower(guid) + ".AVHDX", Production, []string{"weak stray-file"}},
		{`C:\v\disk_1` + guid + `.avhdx`, "disk_1" + strings.Replace(guid, "A1", "B2", 1) + ".avhdx", Production, []string{"weak stray-file"}},
		{`C:\v\disk_1` + guid + `.avhdx`, "disk_1" + guid + ".avhdx", Production, nil}, {`C:\v\disk_1.vhd`, "disk_1" + guid + ".avhd", Production, []string{"weak stray-file"}},
		{`C:\v\disk_1.vhdx`, "disk_1-AutoRecovery.avhdx", Writer2012R2, []string{"stop auto-recovery"}}, {`C:\v\disk_1.vhdx`, "disk_1-AutoRecovery.avhdx", Production, []string{"weak auto-recovery"}},
		{`C:\v\disk_1.vhdx`, "disk_2" + guid + ".avhdx", Production, nil}, {`C:\v\disk_1.vhdx`, "disk_1.vhdx", Production, nil}, {`C:\v\disk_1.vhdx`, "disk_1" + guid + ".avhdx.bak", Production, nil},
		{`C:\v\disk_1.vhdx`, ".avhdx", Production, nil}, {`C:\v\disk_1.vhdx`, "disk_10" + guid + ".avhdx", Production, nil},
	} {
		m := &Machine{State: Running, Disks: []Disk{{Path: c.path, Controller: "scsi"}}}
		look := func(f *preflight) error {
			f.out.Plan = &Plan{Procedure: c.proc}
			f.strays(f.places()[0], []string{c.file}, map[string]bool{strings.ToLower(c.path): true})
			return nil
		}
		require.Equal(t, c.want, lookAt(m, look), c)
		m.Status = []uint16{2, statusMerging}
		require.Empty(t, lookAt(m, look), "while the host merges they are its own")
	}
	require.Equal(t, "a, b, c, d, e and 2 more", listed([]string{"a", "b", "c", "d", "e", "f", "g"}))
}

func TestPreflightSpaceAndRights(t *testing.T) {
	f := fake(t, hypervtest.Options{})
	id := f.AddVM(hypervtest.VM{Name: "v", Disks: []hypervtest.Disk{{Path: `C:\VMs\v\a.vhdx`, Size: 64 << 20}, {Path: `C:\VMs\w\b.vhdx`, Size: 64 << 20, Slot: 1}}})
	off := f.AddVM(hypervtest.VM{Name: "w", State: 3, Disks: []hypervtest.Disk{{Path: `C:\VMs\v\c.vhdx`, Size: 64 << 20}}})
	full := &shelf{free: 1 << 20}
	s := shelved(t, f, full)
	require.Equal(t, []string{"stop space", "stop space"}, names(preflightOf(t, s, id, nil)))
	require.Empty(t, names(preflightOf(t, s, off, nil)), "nothing writes")
	require.Empty(t, names(preflightOf(t, s, id, &PreflightOptions{GrowBytes: 1 << 20})))
	full.free = 4 << 30
	require.Equal(t, []string{"weak space", "weak space"}, names(preflightOf(t, s, id, &PreflightOptions{GrowBytes: 5 << 30})))
	full.err = fmt.Errorf("C$: %w", fs.ErrPermission)
	p := preflightOf(t, s, id, nil)
	require.Equal(t, []string{"stop rights", "stop rights"}, names(p))
	require.Contains(t, p.Findings[0].Hint, "administrator")
	var stopped *PreflightError
	require.ErrorAs(t, p.Err(), &stopped)
	full.err = errors.New("no route")
	require.Equal(t, []string{"stop unknown", "stop unknown"}, names(preflightOf(t, s, id, nil)))
}

// Checkpoints of users, of another program, and ours are told apart; none is a reason to stop.
func TestPreflightCheckpoints(t *testing.T) {
	const mark = "abcdefghijklmnopqrstuvwxyz"
	set := func(kind, name string) *cim.Instance {
		return &cim.Instance{Class: settingClass, Properties: []cim.Property{{Name: "VirtualSystemType", Value: kind}, {Name: "ElementName", Value: name}}}
	}
	require.Len(t, ourCheckpoints([]*cim.Instance{set(recovery, "hikae s1 "+mark), set(recovery, "hikae s1"), set("Microsoft:Hyper-V:Snapshot:Realized", "hikae s1 "+mark)}), 1)
	f := fake(t, hypervtest.Options{})
	id := f.AddVM(hypervtest.VM{Name: "v", Disks: []hypervtest.Disk{{Path: `C:\VMs\v\a.vhdx`, Size: 64 << 20}}})
	_, err := f.VM(id).Checkpoint("before the update")
	require.NoError(t, err)
	s := shelved(t, f, &shelf{free: 1 << 40})
	require.Equal(t, []string{"note user-checkpoint"}, names(preflightOf(t, s, id, nil)))
	h, err := s.Owner(t.Context(), id)
	require.NoError(t, err)
	foreign(t, h, id)
	require.Equal(t, []string{"weak other-checkpoint", "note user-checkpoint"}, names(preflightOf(t, s, id, nil)))
}

// foreign makes a checkpoint as another backup program does.
func foreign(t *testing.T, h *Host, vm string) {
	t.Helper()
	service, err := h.service(t.Context(), "Msvm_VirtualSystemSnapshotService")
	require.NoError(t, err)
	ref, err := h.vmRef(t.Context(), vm)
	require.NoError(t, err)
	_, err = h.client.Run(t.Context(), service, "CreateSnapshot", []cim.Property{{Name: "AffectedSystem", Value: ref},
		{Name: "SnapshotSettings", Value: ""}, {Name: "SnapshotType", Value: uint16(32768)}}, nil)
	require.NoError(t, err)
}

// A cluster's volumes that disks lie on are looked at, others not.
func TestPreflightSharedVolumes(t *testing.T) {
	c := cluster(t, 0, "2022")
	f := c.Host("HV1")
	f.Lock()
	for i, fault := range []uint32{0, 1, 2, 4} {
		f.Add(hypervtest.ClusterNamespace, hypervtest.NewObject("MSCluster_ClusterSharedVolume", "Name", fmt.Sprintf(`C:\ClusterStorage\Volume%d`, i+2), "FaultState", fault))
	}
	f.Unlock()
	s := clusterSite(t, c, "HV1")
	for i, want := range [][]string{nil, {"weak shared-volume"}, {"stop shared-volume"}, {"stop shared-volume"}} {
		id := f.AddVM(hypervtest.VM{Name: "v", Disks: []hypervtest.Disk{{Path: fmt.Sprintf(`C:\ClusterStorage\volume%d\v%d\a.vhdx`, i+2, i), Size: 64 << 20}}})
		require.Equal(t, want, names(preflightOf(t, s, id, nil)), i)
	}
}

// Whichever call fails, what could not be looked at is a finding or an error, and never a clean bill.
func TestPreflightEveryCallFails(t *testing.T) {
	for at := 1; ; at++ {
		n, counting := 0, false
		f := fake(t, hypervtest.Options{Before: func(hypervtest.Seen) *hypervtest.Failure {
			if counting {
				if n++; n == at {
					return &hypervtest.Failure{Subcode: "AccessDenied", Code: 5, Reason: "Access is denied."}
				}
			}
			return nil
		}})
		id := f.AddVM(hypervtest.VM{Name: "v", Disks: []hypervtest.Disk{{Path: `C:\VMs\v\a.vhdx`, Size: 64 << 20}}})
		s := shelved(t, f, &shelf{free: 1 << 40})
		counting = true
		p, err := s.Preflight(t.Context(), id, nil)
		if n < at {
			require.NoError(t, err)
			require.Empty(t, p.Findings)
			require.Greater(t, at, 12)
			return
		}
		if err != nil {
			require.ErrorIs(t, err, fs.ErrPermission, "call %d", at)
		} else {
			require.True(t, slices.ContainsFunc(p.Findings, func(f Finding) bool { return f.Name == FindUnknown }), "call %d: %v", at, p)
		}
		require.Less(t, at, 60)
		require.NoError(t, s.Close())
		f.Close()
	}
}

func TestSeverity(t *testing.T) {
	for _, s := range []Severity{Note, Weak, Stop} {
		b, err := s.MarshalText()
		require.NoError(t, err)
		var back Severity
		require.NoError(t, back.UnmarshalText(b))
		require.Equal(t, s, back)
	}
	var s Severity
	require.Error(t, s.UnmarshalText([]byte("worse")))
	require.Equal(t, "severity(7)", Severity(7).String())
}
