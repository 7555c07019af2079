//go:build linux

package vmware

import (
	"bytes"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/vmware/vmwaretest"
)

// newProxyLab is a lab whose last VM is the one that this program runs in, as far as it can see.
func newProxyLab(t *testing.T, opts vmwaretest.Options, hot HotAddOptions) (*lab, *vmwaretest.Proxy) {
	t.Helper()
	opts.VMs = max(2, opts.VMs)
	l := newLab(t, opts)
	proxy := l.proxyVM()
	if opts.PoweredOff {
		require.NoError(t, proxy.PowerOn())
	}
	l.reconfigure(proxy, types.VirtualMachineConfigSpec{ExtraConfig: []types.BaseOptionValue{
		&types.OptionValue{Key: "disk.EnableUUID", Value: "TRUE"},
	}})
	view, err := l.server.Proxy(proxy.Name())
	if err != nil {
		t.Skipf("what a guest sees cannot be mounted: %v", err)
	}
	hot.Root = view.Root()
	if hot.Proxy == "" {
		hot.Proxy = proxy.Name()
	}
	l.opts.Transports = &TransportOptions{Order: []string{HotAdd}, HotAdd: &hot}
	return l, view
}

func (l *lab) proxyVM() *vmwaretest.VM {
	all := l.server.VMs()
	return all[len(all)-1]
}

// R108 to R111, R115, R116: disks are attached to the VM that this program runs in, read, detached, and then the snapshot goes.
// Through vCenter it is a linked clone where that is asked for, on a bare host the disk itself.
func TestHotAddCycle(t *testing.T) {
	for name, c := range map[string]struct {
		opts vmwaretest.Options
		hot  HotAddOptions
		view func(l *lab, view *vmwaretest.Proxy)
	}{
		"vCenter":           {opts: vmwaretest.Options{DisksPerVM: 2}},
		"bare host":         {opts: vmwaretest.Options{ESX: true, DisksPerVM: 2}},
		"linked clone":      {hot: HotAddOptions{LinkedClone: true}},
		"clone, bare host":  {opts: vmwaretest.Options{ESX: true}, hot: HotAddOptions{LinkedClone: true}},
		"old deltas, thick": {opts: vmwaretest.Options{Deltas: vmwaretest.COWD, Thick: true}},
		"SESparse backing":  {opts: vmwaretest.Options{SEBacking: true}},
		"other byte order":  {view: func(_ *lab, view *vmwaretest.Proxy) { view.SwapUUID(true) }},
		"has to be scanned": {view: func(_ *lab, view *vmwaretest.Proxy) { view.RequireScan(true) }},
		"the proxy's changes are tracked": {view: func(l *lab, _ *vmwaretest.Proxy) {
			require.NoError(l, l.client.setTracking(l.Context(), l.proxyVM().Ref(), true))
		}},
	} {
		quick := []string{"vCenter", "bare host", "linked clone", "has to be scanned"}
		if !allSteps() && !slices.Contains(quick, name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			c.opts.DiskBytes = 2 << 20
			l, view := newProxyLab(t, c.opts, c.hot)
			if c.view != nil {
				c.view(l, view)
			}
			before := l.proxyConfig()
			_, err := l.vm().CreateSnapshot("mine", "")
			require.NoError(t, err)
			first := l.point(nil)
			require.Equal(t, HotAdd, first.Disks[0].Transport, "%+v", first.Disks[0].Tried)
			l.scribbleAll(2)
			second := l.point(nil)
			require.Equal(t, HotAdd, second.Disks[0].Transport)
			require.Equal(t, before, l.proxyConfig(), "nothing of the proxy VM is changed")
		})
	}
}

// proxyConfig is what a proxy VM is made of: its devices and options, as XML.
func (l *lab) proxyConfig() string {
	l.Helper()
	m, err := l.client.machine(l.Context(), l.proxyVM().Ref())
	require.NoError(l, err)
	kept := types.VirtualMachineConfigInfo{Hardware: m.Config.Hardware}
	for _, o := range m.Config.ExtraConfig {
		if v := o.GetOptionValue(); strings.HasPrefix(v.Key, "scsi") && v.Value != "" {
			kept.ExtraConfig = append(kept.ExtraConfig, o)
		}
	}
	text, err := encodeConfig(&kept)
	require.NoError(l, err)
	return string(text)
}

// R110, R111: what is restored is written to the disks of the VM, attached for good and detached when all is durable.
func TestHotAddRestore(t *testing.T) {
	for name, opts := range map[string]vmwaretest.Options{"vCenter": {DisksPerVM: 2}, "bare host": {ESX: true}} {
		t.Run(name, func(t *testing.T) {
			opts.DiskBytes = 4 << 20
			l, _ := newProxyLab(t, opts, HotAddOptions{})
			require.NoError(t, l.vm().PowerOff())
			res, want, err := l.try(nil)
			require.NoError(t, err)
			l.scribbleAll(5)
			for _, o := range []job.RestoreOptions{{Name: "anew", Compare: true}, {InPlace: l.vm().Ref().Value, Compare: true}} {
				made, err := l.hotRestore(res.Point, o)
				require.NoError(t, err)
				for _, content := range want {
					require.True(t, holds(l.contents(l.server.VMByRef(types.ManagedObjectReference{Type: "VirtualMachine", Value: made.ID})), content))
				}
				require.Empty(t, l.leftovers())
			}
		})
	}
}

func (l *lab) hotRestore(point string, o job.RestoreOptions) (job.RestoreResult, error) {
	l.Helper()
	info, err := job.FindPoint(l.Context(), l.repo, point)
	require.NoError(l, err)
	r, err := NewRestorer(l.client, &RestorerOptions{Transports: l.opts.Transports})
	require.NoError(l, err)
	j, err := hikae.OpenFileJournal(l.journal)
	require.NoError(l, err)
	defer func() { require.NoError(l, j.Close()) }()
	o.Journal, o.Workers = j, 1
	return job.Restore(l.Context(), l.repo, info, r, &o)
}

// hotPinned is a snapshot of the first VM, and what a transport is given of its disk.
func (l *lab) hotPinned() (*Pinned, []byte) {
	l.Helper()
	r := &ranch{l.server, l.client, &notes{}}
	return r.pin(l.T, l.vm().Name(), 0)
}

// The image keeps the contract of all images, for reads of any alignment, and does not change while the guest writes on.
func TestHotAddImage(t *testing.T) {
	l, _ := newProxyLab(t, vmwaretest.Options{DiskBytes: 3<<20 + 1024}, HotAddOptions{})
	p, want := l.hotPinned()
	img, err := newHotAdd(l.opts.Transports.HotAdd).Open(t.Context(), p)
	require.NoError(t, err)
	l.scribbleAll(5)
	pipetest.TestImage(t, img, pipetest.Bytes(want))
	require.Len(t, p.Journal.(*notes).left(), 1)
	require.NoError(t, img.Close())
	require.NoError(t, img.Close())
	require.Empty(t, p.Journal.(*notes).left())
}

// A target has what the disk holds as its base, shows it while it is written, and what was written is there when it is detached.
func TestHotAddTarget(t *testing.T) {
	l, _ := newProxyLab(t, vmwaretest.Options{DiskBytes: 2 << 20, PoweredOff: true}, HotAddOptions{})
	r := &ranch{l.server, l.client, &notes{}}
	p := r.live(t, l.vm().Name(), 0)
	want := l.contents(l.vm())[p.Disk.Key]
	tr := newHotAdd(l.opts.Transports.HotAdd)
	require.NoError(t, tr.CheckTarget(t.Context(), p))
	target, err := tr.OpenTarget(t.Context(), p)
	require.NoError(t, err)
	for _, at := range []int{0, 513, 1<<20 - 7} {
		copy(want[at:], "written by the proxy")
		_, err := target.WriteAt(t.Context(), []byte("written by the proxy"), int64(at))
		require.NoError(t, err)
	}
	clear(want[1<<20 : 1<<20+8192])
	require.NoError(t, target.(pipe.ExtentTarget).Mark(t.Context(), pipe.Extent{Off: 1 << 20, Len: 8192, Kind: pipe.Zero}))
	is, ok := readableTarget(target)
	require.True(t, ok)
	got := make([]byte, len(want))
	_, err = is.ReadAt(t.Context(), got, 0)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
	require.NoError(t, target.Commit(t.Context()))
	require.NoError(t, target.Close())
	require.True(t, bytes.Equal(want, l.contents(l.vm())[p.Disk.Key]))
	require.Empty(t, r.notes.left())
	require.Empty(t, l.leftovers())
}

// R118: several sessions at once attach to one proxy VM.
func TestHotAddManyAtOnce(t *testing.T) {
	l, _ := newProxyLab(t, vmwaretest.Options{VMs: 4, DisksPerVM: 2, DiskBytes: 1 << 20}, HotAddOptions{})
	p := l.provider()
	var group sync.WaitGroup
	points, wants, errs := make([]job.Result, 3), make([]map[string][]byte, 3), make([]error, 3)
	for i, vm := range l.server.VMs()[:3] {
		group.Go(func() { points[i], wants[i], errs[i] = l.tryBy(t.Context(), p, vm, nil) })
	}
	group.Wait()
	for i := range points {
		require.NoError(t, errs[i])
		l.holds(points[i].Point, wants[i])
		require.Equal(t, HotAdd, points[i].Disks[0].Transport)
	}
	l.clean()
}

// What the server or the machine will not have is a reason for another transport, and leaves nothing behind.
func TestHotAddGivesWay(t *testing.T) {
	invalid := types.InvalidDeviceSpec{InvalidVmConfig: types.InvalidVmConfig{Property: "virtualDeviceSpec.device.unitNumber"}}
	reconfig := func(f vmwaretest.Fault) func(*lab) {
		return func(l *lab) {
			f.Method, f.Object = "ReconfigVM_Task", l.proxyVM().Ref().Value
			l.server.Fail(f)
		}
	}
	for name, c := range map[string]struct {
		hot  HotAddOptions
		do   func(l *lab)
		want string // the reason; empty: it attaches
	}{
		"the place was taken meanwhile": {do: reconfig(vmwaretest.Fault{Fault: &invalid, Times: 2})},
		"other work goes on":            {do: reconfig(vmwaretest.Fault{Fault: &types.TaskInProgress{}, Times: 2})},
		"the answer is lost":            {do: reconfig(vmwaretest.Fault{Cut: true, Lost: true})},
		"it failed and did it":          {do: reconfig(vmwaretest.Fault{InTask: true, After: true, Fault: &types.SystemError{}})},
		"the server refuses":            {do: reconfig(vmwaretest.Fault{Fault: &types.NoPermission{PrivilegeId: "VirtualMachine.Config.AddExistingDisk"}, Times: 3}), want: "NoPermission"},
		"the file is locked":            {do: reconfig(vmwaretest.Fault{Fault: &types.FileLocked{}, Times: 3}), want: "FileLocked"},
		"every place is taken":          {do: reconfig(vmwaretest.Fault{Fault: &invalid, Times: attachTries}), want: "InvalidDeviceSpec"},
		"no UUIDs are shown": {want: "do not tell their UUIDs", do: func(l *lab) {
			l.reconfigure(l.proxyVM(), types.VirtualMachineConfigSpec{ExtraConfig: []types.BaseOptionValue{&types.OptionValue{Key: "disk.EnableUUID", Value: "FALSE"}}})
		}},
		"another VM is named": {hot: HotAddOptions{Proxy: "web0"}, want: "it is another one"},
		"nobody is named so":  {hot: HotAddOptions{Proxy: "nobody"}, want: "nobody"},
		"no VM of VMware": {want: "no VM of VMware", do: func(l *lab) {
			l.opts.Transports.HotAdd.Root = l.TempDir()
		}},
		"it is its own disk": {want: "the VM that this program runs in", do: func(l *lab) {
			view, err := l.server.Proxy("web0")
			require.NoError(l, err)
			l.reconfigure(l.vm(), types.VirtualMachineConfigSpec{ExtraConfig: []types.BaseOptionValue{&types.OptionValue{Key: "disk.EnableUUID", Value: "TRUE"}}})
			l.opts.Transports.HotAdd.Root, l.opts.Transports.HotAdd.Proxy = view.Root(), "web0"
		}},
		"it is not shown": {want: "does not show it", hot: HotAddOptions{DeviceTimeout: 200 * time.Millisecond}, do: func(l *lab) {
			view, err := l.server.Proxy(l.proxyVM().Name())
			require.NoError(l, err)
			view.RequireScan(true)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			l, _ := newProxyLab(t, vmwaretest.Options{DiskBytes: 1 << 20}, c.hot)
			l.opts.Transports.Order = []string{HotAdd, NBDSSL}
			if c.do != nil {
				c.do(l)
			}
			before := l.proxyConfig()
			res, want, err := l.try(nil)
			require.NoError(t, err)
			l.holds(res.Point, want)
			l.server.Heal()
			l.clean()
			require.Equal(t, before, l.proxyConfig())
			if c.want == "" {
				require.Equal(t, HotAdd, res.Disks[0].Transport, "%+v", res.Disks[0].Tried)
				return
			}
			require.Equal(t, NBDSSL, res.Disks[0].Transport)
			require.Len(t, res.Disks[0].Tried, 1)
			require.Contains(t, res.Disks[0].Tried[0].Reason, c.want)
		})
	}
}

// What may not be attached is known before anything is touched.
func TestHotAddLegality(t *testing.T) {
	l, _ := newProxyLab(t, vmwaretest.Options{DiskBytes: 1 << 20, Hosts: 2, Datastores: 2}, HotAddOptions{})
	good, _ := l.hotPinned()
	tr := newHotAdd(l.opts.Transports.HotAdd)
	require.NoError(t, tr.Check(t.Context(), good))
	for want, change := range map[string]func(p *Pinned){
		"the VM runs":           func(p *Pinned) { p.Snapshot.Value = "" },
		"IDE":                   func(p *Pinned) { p.Disk.Slot = "ide0:0" },
		"raw device":            func(p *Pinned) { p.Disk.File = "" },
		"no UUID":               func(p *Pinned) { p.Disk.UUID = "" },
		"is encrypted":          func(p *Pinned) { p.Disk.Encrypted = true },
		"not known on which":    func(p *Pinned) { p.Disk.Datastore.Value = "" },
		"hangs on the proxy VM": func(p *Pinned) { p.Disk.UUID = l.proxyVM().Disk(0).Key() },
		"program runs in":       func(p *Pinned) { p.VM = l.proxyVM().Ref() },
		"of 511 bytes":          func(p *Pinned) { p.Disk.Size = 511 },
		"that it writes to":     func(p *Pinned) { p.Snapshot.Value = "" },
		"it is a raw device": func(p *Pinned) {
			v := *p.Disk.Virtual
			v.Backing = &types.VirtualDiskRawDiskMappingVer1BackingInfo{}
			p.Disk.Virtual = &v
		},
		"which datastore the disk": func(p *Pinned) { p.Disk.Datastore = types.ManagedObjectReference{} },
	} {
		p := *good
		change(&p)
		var unfit *UnfitError
		require.ErrorAs(t, tr.Check(t.Context(), &p), &unfit, want)
		require.Contains(t, unfit.Reason, want)
	}
	off := *good
	off.PoweredOn = true
	require.Error(t, tr.CheckTarget(t.Context(), &off))
	require.Empty(t, good.Journal.(*notes).left())
}

// A proxy VM takes so many disks and no more; nobody waits for a place.
func TestHotAddIsFull(t *testing.T) {
	l, _ := newProxyLab(t, vmwaretest.Options{DisksPerVM: 2, DiskBytes: 1 << 20}, HotAddOptions{MaxDisks: 1})
	tr := newHotAdd(l.opts.Transports.HotAdd)
	p, _ := l.hotPinned()
	m, err := l.client.machine(t.Context(), p.VM)
	require.NoError(t, err)
	img, err := tr.Open(t.Context(), p)
	require.NoError(t, err)
	second := *p
	second.Disk = m.disks[1]
	var unfit *UnfitError
	_, err = tr.Open(t.Context(), &second)
	require.ErrorAs(t, err, &unfit)
	require.Contains(t, unfit.Reason, "1 disks hang")
	require.NoError(t, img.Close())
}

// R115, R116: a disk that cannot be detached is an error, is tried again by whoever closes it again, and keeps its effect for a
// sweep until it is gone.
func TestHotAddDetachIsRepeated(t *testing.T) {
	l, _ := newProxyLab(t, vmwaretest.Options{DiskBytes: 1 << 20}, HotAddOptions{})
	p, _ := l.hotPinned()
	tr := newHotAdd(l.opts.Transports.HotAdd)
	img, err := tr.Open(t.Context(), p)
	require.NoError(t, err)
	l.server.Fail(vmwaretest.Fault{Method: "ReconfigVM_Task", Object: l.proxyVM().Ref().Value, Fault: &types.SystemError{}, Times: -1})
	require.ErrorContains(t, img.Close(), "stays attached")
	require.Len(t, p.Journal.(*notes).left(), 1)
	l.server.Heal()
	require.NoError(t, img.Close())
	require.Empty(t, p.Journal.(*notes).left())
	_, err = img.ReadAt(t.Context(), make([]byte, 1), 0)
	require.Error(t, err)
	require.NotEqual(t, io.EOF, err)
}

// R115: a disk that could not be detached counts among those that hang on the proxy VM, and no longer when a sweep has taken it
// away.
func TestHotAddPlaceComesBack(t *testing.T) {
	l, _ := newProxyLab(t, vmwaretest.Options{DisksPerVM: 2, DiskBytes: 1 << 20}, HotAddOptions{MaxDisks: 1})
	tr := newHotAdd(l.opts.Transports.HotAdd)
	p, _ := l.hotPinned()
	img, err := tr.Open(t.Context(), p)
	require.NoError(t, err)
	l.server.Fail(vmwaretest.Fault{Method: "ReconfigVM_Task", Object: l.proxyVM().Ref().Value, Fault: &types.SystemError{}, Times: -1})
	require.ErrorContains(t, img.Close(), "stays attached")
	l.server.Heal()
	m, err := l.client.machine(t.Context(), p.VM)
	require.NoError(t, err)
	second := *p
	second.Disk = m.disks[1]
	var unfit *UnfitError
	_, err = tr.Open(t.Context(), &second)
	require.ErrorAs(t, err, &unfit, "it hangs there still")
	left := p.Journal.(*notes).left()
	require.Len(t, left, 1)
	require.NoError(t, undoHotAdd(t.Context(), l.client, left[0], nil))
	other, err := tr.Open(t.Context(), p)
	require.NoError(t, err)
	_, err = tr.Open(t.Context(), &second)
	require.ErrorAs(t, err, &unfit, "the place is taken again")
	require.NoError(t, other.Close())
	require.NoError(t, img.Close(), "closed late, it finds nothing to do")
	require.Empty(t, p.Journal.(*notes).left())
}

// R188: a session is killed at its steps, those about the proxy VM among them. One sweep detaches what is ours, before the
// snapshot goes.
func TestHotAddKilled(t *testing.T) {
	for name, hot := range map[string]HotAddOptions{"file": {}, "linked clone": {LinkedClone: true}} {
		t.Run(name, func(t *testing.T) {
			l, _ := newProxyLab(t, vmwaretest.Options{DiskBytes: 1 << 20}, hot)
			l.point(nil)
			foreign := l.attachForeign()
			count := l.hotSteps()
			var steps []killStep
			for i := range count {
				steps = append(steps, killStep{i + 1, false}, killStep{i + 1, true})
			}
			if !allSteps() {
				rand.Shuffle(len(steps), func(i, j int) { steps[i], steps[j] = steps[j], steps[i] })
				steps = steps[:5]
			}
			for _, s := range steps {
				l.hotKillAt(s, foreign)
			}
			t.Logf("figure: killed at %d steps of %d", len(steps), 2*count)
		})
	}
}

// attachForeign gives the proxy VM a disk that is none of ours, and returns what it is.
func (l *lab) attachForeign() Disk {
	l.Helper()
	vm := l.server.VMs()[len(l.server.VMs())-1]
	unit := int32(14)
	m, err := l.client.machine(l.Context(), vm.Ref())
	require.NoError(l, err)
	_, err = l.vm().CreateSnapshot("another product's", "")
	require.NoError(l, err)
	spec := types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{&types.VirtualDeviceConfigSpec{
		Operation: types.VirtualDeviceConfigSpecOperationAdd,
		Device: &types.VirtualDisk{VirtualDevice: types.VirtualDevice{Key: -1, ControllerKey: m.disks[0].Virtual.ControllerKey, UnitNumber: &unit,
			Backing: &types.VirtualDiskFlatVer2BackingInfo{DiskMode: "independent_nonpersistent",
				VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: l.foreignFile()}}}},
	}}}
	l.reconfigure(vm, spec)
	m, err = l.client.machine(l.Context(), vm.Ref())
	require.NoError(l, err)
	for _, d := range m.disks {
		if strings.HasSuffix(d.Slot, ":14") {
			return d
		}
	}
	require.Fail(l, "it is not attached")
	return Disk{}
}

// foreignFile is a disk file that no VM has.
func (l *lab) foreignFile() string {
	l.Helper()
	m, err := l.client.machine(l.Context(), l.proxyVM().Ref())
	require.NoError(l, err)
	name := strings.TrimSuffix(m.Config.Files.VmPathName, ".vmx") + "-foreign.vmdk"
	req := types.CreateVirtualDisk_Task{This: *l.client.vim.ServiceContent.VirtualDiskManager, Name: name,
		Spec: &types.FileBackedVirtualDiskSpec{VirtualDiskSpec: types.VirtualDiskSpec{DiskType: "thin", AdapterType: "lsiLogic"}, CapacityKb: 1024}}
	dc, err := l.client.datacenterRef(l.Context(), l.proxyVM().Ref())
	require.NoError(l, err)
	req.Datacenter = dc
	res, err := methods.CreateVirtualDisk_Task(l.Context(), l.client.vim, &req)
	require.NoError(l, err)
	_, err = l.client.Wait(l.Context(), res.Returnval)
	require.NoError(l, err)
	return name
}

func (l *lab) hotSteps() int {
	l.Helper()
	c, m := l.victim(0, false)
	p, err := New(c, l.refs(), &l.opts)
	require.NoError(l, err)
	_, _, err = l.tryBy(l.Context(), p, l.vm(), nil)
	require.NoError(l, err)
	return len(m.calls)
}

func (l *lab) hotKillAt(s killStep, foreign Disk) {
	l.Helper()
	c, m := l.victim(s.at, s.after)
	p, err := New(c, l.refs(), &l.opts)
	require.NoError(l, err)
	_, _, err = l.tryBy(l.Context(), p, l.vm(), nil)
	at := m.calls[max(0, min(s.at, len(m.calls))-1)]
	l.sweep()
	require.Zero(l, l.sweep())
	now, lookErr := l.client.machine(l.Context(), l.proxyVM().Ref())
	require.NoError(l, lookErr)
	require.Len(l, now.disks, 2, "killed at call %d (%s): %v", s.at, at, err)
	require.Equal(l, foreign.File, now.disks[1].File)
	for _, text := range l.leftovers() {
		require.Contains(l, text, "foreign", "killed at call %d (%s): %v", s.at, at, err)
	}
	res, want, err := l.try(nil)
	require.NoError(l, err, "killed at call %d (%s)", s.at, at)
	l.holds(res.Point, want)
}

// A sweep compares place, file, mode and UUID: what differs in one is left alone; and what it undid it may undo again.
func TestHotAddUndoTouchesNothingForeign(t *testing.T) {
	l, _ := newProxyLab(t, vmwaretest.Options{DiskBytes: 1 << 20}, HotAddOptions{})
	p, _ := l.hotPinned()
	img, err := newHotAdd(l.opts.Transports.HotAdd).Open(t.Context(), p)
	require.NoError(t, err)
	effect := p.Journal.(*notes).left()[0]
	for fact, other := range map[string]string{"slot": "scsi0:9", "file": "[LocalDS_0] other/other.vmdk", "disk": "6000c290-0000-0000-0000-000000000000", "mode": "persistent"} {
		e := effect
		e.Facts = map[string]string{}
		for k, v := range effect.Facts {
			e.Facts[k] = v
		}
		e.Facts[fact] = other
		require.NoError(t, undo(t.Context(), l.client, e, nil))
		m, err := l.client.machine(t.Context(), l.proxyVM().Ref())
		require.NoError(t, err)
		require.Len(t, m.disks, 2, fact)
	}
	for _, fact := range []string{"slot", "file", "mode", "disk"} {
		e := effect
		e.Facts = map[string]string{"uuid": effect.Facts["uuid"], "made": "[x] y/not-ours.vmdk"}
		for _, k := range []string{"slot", "file", "mode", "disk"} {
			if k != fact {
				e.Facts[k] = effect.Facts[k]
			}
		}
		require.Error(t, undo(t.Context(), l.client, e, nil), fact)
	}
	for range 2 {
		require.NoError(t, undo(t.Context(), l.client, effect, nil))
	}
	m, err := l.client.machine(t.Context(), l.proxyVM().Ref())
	require.NoError(t, err)
	require.Len(t, m.disks, 1)
	require.NoError(t, img.Close())
}

// Preflight says what a proxy VM lacks, and which disks it could not have.
func TestPreflightOfProxy(t *testing.T) {
	l, _ := newProxyLab(t, vmwaretest.Options{DiskBytes: 1 << 20}, HotAddOptions{})
	look := func(vm *vmwaretest.VM) string {
		f, err := l.client.Preflight(t.Context(), l.vm().Ref(), &PreflightOptions{Proxy: vm.Ref()})
		require.NoError(t, err)
		var texts []string
		for _, f := range f.Findings {
			texts = append(texts, f.String())
		}
		return strings.Join(texts, "\n")
	}
	require.NotContains(t, look(l.proxyVM()), "attached")
	require.Contains(t, look(l.vm()), "disks cannot be attached to it: its disks do not tell their UUIDs (set disk.EnableUUID")
	require.Contains(t, look(l.vm()), "it cannot be attached: it is a disk of the VM that this program runs in")
}
