package vmware

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
)

// rack is a transport that keeps the content of disks in memory, by their files: govmomi's simulator has none. replaces makes
// it one that puts disks there whole, as HTTPS does.
type rack struct {
	mu       sync.Mutex
	disks    map[string]*pipe.Memory
	replaces bool
	fresh    atomic.Bool  // the last disk that was opened for writing was a new one
	sent     atomic.Int64 // bytes written
	opened   atomic.Int64 // images and targets that are open
	failAt   atomic.Int64 // the write that fails; zero: none
	writes   atomic.Int64
}

func newRack() *rack { return &rack{disks: map[string]*pipe.Memory{}} }

func (s *rack) Name() string { return "rack" }

func (s *rack) Check(context.Context, *Pinned) error { return nil }

func (s *rack) CheckTarget(context.Context, *Pinned) error { return nil }

func (s *rack) disk(p *Pinned) *pipe.Memory {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.disks[p.Disk.File] == nil {
		s.disks[p.Disk.File] = pipe.NewMemory(p.Disk.Size)
	}
	return s.disks[p.Disk.File]
}

func (s *rack) Open(_ context.Context, p *Pinned) (pipe.Image, error) {
	s.opened.Add(1)
	return &rackImage{Image: s.disk(p), rack: s}, nil
}

func (s *rack) OpenTarget(_ context.Context, p *Pinned) (pipe.Target, error) {
	s.opened.Add(1)
	s.fresh.Store(p.Fresh)
	t := &rackTarget{Memory: s.disk(p), rack: s}
	if s.replaces {
		t.Memory, t.of = pipe.NewMemory(p.Disk.Size), p
	}
	return t, nil
}

type rackImage struct {
	pipe.Image
	rack *rack
}

func (i *rackImage) Close() error {
	i.rack.opened.Add(-1)
	return nil
}

type rackTarget struct {
	*pipe.Memory
	rack  *rack
	of    *Pinned // replaced at Commit
	ended bool
}

var errRack = errors.New("the rack broke")

func (t *rackTarget) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if n := t.rack.writes.Add(1); n == t.rack.failAt.Load() {
		return 0, errRack
	}
	t.rack.sent.Add(int64(len(p)))
	return t.Memory.WriteAt(ctx, p, off)
}

func (t *rackTarget) Mark(ctx context.Context, e pipe.Extent) error {
	if e.Kind == pipe.Unchanged && t.of == nil {
		return nil
	}
	if n := t.rack.writes.Add(1); n == t.rack.failAt.Load() {
		return errRack
	}
	t.rack.sent.Add(e.Len)
	return t.Memory.Mark(ctx, e)
}

func (t *rackTarget) Commit(context.Context) error {
	if t.of != nil {
		t.rack.mu.Lock()
		t.rack.disks[t.of.Disk.File] = t.Memory
		t.rack.mu.Unlock()
	}
	return t.Close()
}

func (t *rackTarget) Close() error {
	if !t.ended {
		t.rack.opened.Add(-1)
	}
	t.ended = true
	return nil
}

// bench is a simulator, a point of one of its VMs, and all that a restore of it needs.
type bench struct {
	*testing.T
	front   *front
	client  *Client
	rack    *rack
	backend *pipetest.Backend
	journal string
	config  *types.VirtualMachineConfigInfo
	point   pipe.PointInfo
	content map[string][]byte // by key
	opts    RestorerOptions
}

const benchDisk = 4 << 20

func newBench(t *testing.T, model *simulator.Model) *bench {
	t.Helper()
	b := &bench{T: t, front: newFront(t, model), rack: newRack(), backend: pipetest.NewBackend(64 << 10), journal: filepath.Join(t.TempDir(), "journal"), content: map[string][]byte{}}
	b.client = b.front.connect(t, ConnectOptions{Latency: LatencyOptions{Off: true}})
	b.opts.Transports = &TransportOptions{Order: []string{"rack"}, More: []Transport{b.rack}}
	vm := b.someVM()
	b.config = vm.Config
	for _, d := range vm.disks { // those of the simulator have 10 GiB
		d.Virtual.CapacityInBytes, d.Virtual.CapacityInKB = benchDisk, benchDisk>>10
	}
	b.config.Annotation = "the web server"
	b.config.ExtraConfig = append(b.config.ExtraConfig, &types.OptionValue{Key: "guestinfo.userdata", Value: "I2Nsb3Vk"}, &types.OptionValue{Key: keyRestored, Value: "x"})
	b.config.Hardware.Device = append(b.config.Hardware.Device, moreDevices(b.config)...)
	b.addPoint(b.config, DisksOf(b.config))
	return b
}

func (b *bench) someVM() *machine {
	b.Helper()
	m, err := b.client.machine(b.Context(), b.client.someVM(b.T))
	require.NoError(b, err)
	return m
}

// moreDevices are a second controller with a disk of its own, and what cannot be brought back.
func moreDevices(config *types.VirtualMachineConfigInfo) []types.BaseVirtualDevice {
	scsi := &types.ParaVirtualSCSIController{}
	scsi.Key, scsi.BusNumber, scsi.ControllerKey, scsi.UnitNumber = 1001, 1, 100, new(int32)
	scsi.SharedBus = types.VirtualSCSISharingNoSharing
	*scsi.UnitNumber = 4
	disk := &types.VirtualDisk{CapacityInBytes: benchDisk, CapacityInKB: benchDisk >> 10}
	disk.Key, disk.ControllerKey, disk.UnitNumber = 2016, 1001, new(int32)
	*disk.UnitNumber = 3
	yes := true
	disk.Backing = &types.VirtualDiskFlatVer2BackingInfo{
		VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: "[" + datastoreOf(config.Files.VmPathName) + "] old/old_1.vmdk"},
		DiskMode:                     "persistent", ThinProvisioned: &yes, Uuid: "6000C299-AAAA-BBBB-CCCC-000000000001",
	}
	tpm := &types.VirtualTPM{}
	tpm.Key = 11000
	return []types.BaseVirtualDevice{scsi, disk, tpm}
}

// addPoint makes a point with a record, and disks with something in them.
func (b *bench) addPoint(config *types.VirtualMachineConfigInfo, disks []Disk) {
	b.Helper()
	w, err := b.backend.Begin(b.Context(), "web", &pipe.PointOptions{Facts: map[string]string{"hypervisor": "vmware"}})
	require.NoError(b, err)
	defer w.Close()
	for i, d := range disks {
		content := make([]byte, d.Size)
		for _, off := range []int64{0, 300_000, d.Size - 100} {
			copy(content[off:], fmt.Sprintf("disk %d at %d, point %s", i, off, b.point.ID))
		}
		b.content[d.Key] = content
		target, err := w.Disk(b.Context(), d.Key, d.Size)
		require.NoError(b, err)
		_, err = pipe.Copy(b.Context(), target, pipetest.Bytes(content), nil)
		require.NoError(b, err)
		require.NoError(b, target.Commit(b.Context()))
	}
	if config != nil {
		text, err := encodeConfig(config)
		require.NoError(b, err)
		require.NoError(b, w.Blob(b.Context(), configXML, bytes.NewReader(text)))
		require.NoError(b, w.Blob(b.Context(), "web.nvram", strings.NewReader("variables of a firmware")))
	}
	id, err := w.Commit(b.Context(), nil)
	require.NoError(b, err)
	b.point, err = job.FindPoint(b.Context(), b.backend, id)
	require.NoError(b, err)
}

func (b *bench) restorer() *Restorer {
	b.Helper()
	r, err := NewRestorer(b.client, &b.opts)
	require.NoError(b, err)
	return r
}

func (b *bench) restore(o job.RestoreOptions) (job.RestoreResult, error) {
	b.Helper()
	j, err := hikae.OpenFileJournal(b.journal)
	require.NoError(b, err)
	defer func() { require.NoError(b, j.Close()) }()
	o.Journal, o.Workers = j, 1
	return job.Restore(b.Context(), b.backend, b.point, b.restorer(), &o)
}

// sweep is what the next start does.
func (b *bench) sweep() (int, error) {
	b.Helper()
	j, err := hikae.OpenFileJournal(b.journal)
	require.NoError(b, err)
	defer func() { require.NoError(b, j.Close()) }()
	p, err := New(b.client, nil, nil)
	require.NoError(b, err)
	return j.Sweep(b.Context(), map[string]hikae.Sweeper{"vmware.": p}, nil)
}

func (b *bench) vms() (names []string) {
	b.Helper()
	found, err := b.client.Find(b.Context(), Selection{})
	require.NoError(b, err)
	for _, f := range found {
		names = append(names, f.Name)
	}
	return names
}

func (b *bench) machine(id string) *machine {
	b.Helper()
	m, err := b.client.machine(b.Context(), types.ManagedObjectReference{Type: "VirtualMachine", Value: id})
	require.NoError(b, err)
	return m
}

func (b *bench) requireDisk(d Disk, key string) {
	b.Helper()
	got := make([]byte, d.Size)
	_, err := b.rack.disk(&Pinned{Disk: d}).ReadAt(b.Context(), got, 0)
	require.NoError(b, err)
	require.True(b, bytes.Equal(b.content[key], got), key)
}

func (b *bench) power(id string, on bool) {
	b.Helper()
	vm := object.NewVirtualMachine(b.client.Vim(), types.ManagedObjectReference{Type: "VirtualMachine", Value: id})
	do := vm.PowerOff
	if on {
		do = vm.PowerOn
	}
	task, err := do(b.Context())
	require.NoError(b, err)
	require.NoError(b, task.Wait(b.Context()))
}

func quickModel() *simulator.Model {
	m := small()
	m.Autostart = false
	return m
}

// A VM is made again from its record, byte for byte, on a vCenter Server and on a single host; what cannot be brought back is
// told, and nothing of the session stays.
func TestRestoreCreates(t *testing.T) {
	for name, model := range map[string]func() *simulator.Model{"vcenter": quickModel, "host": func() *simulator.Model {
		m := simulator.ESX()
		m.Machine, m.Autostart = 1, false
		return m
	}} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, model())
			res, err := b.restore(job.RestoreOptions{Name: "web-again", Compare: true})
			require.NoError(t, err)
			m := b.machine(res.ID)
			require.Equal(t, "web-again", m.Name)
			require.NoError(t, unfinished(m.Name, m.Config))
			require.Equal(t, "the web server", m.Config.Annotation)
			require.Equal(t, "I2Nsb3Vk", settingOf(m.Config, "guestinfo.userdata"))
			require.Empty(t, settingOf(m.Config, keyRestored))
			require.NotEqual(t, b.config.InstanceUuid, m.Config.InstanceUuid)
			require.NotEqual(t, b.config.Uuid, m.Config.Uuid)
			require.Equal(t, types.VirtualMachinePowerStatePoweredOff, m.Runtime.PowerState)
			was := DisksOf(b.config)
			require.Len(t, m.disks, len(was))
			for i, d := range m.disks {
				require.Equal(t, was[i].Slot, d.Slot)
				require.NotEqual(t, was[i].Key, d.Key)
				b.requireDisk(d, was[i].Key)
			}
			require.True(t, m.disks[1].Thin)
			notes := strings.Join(res.Notes, "\n")
			require.Contains(t, notes, "bound to the old VM", "the TPM")
			require.NotContains(t, notes, "firmware's variables")
			require.Equal(t, "web-again.nvram", settingOf(m.Config, "nvram"))
			require.Zero(t, b.rack.opened.Load())
			require.True(t, b.rack.fresh.Load())
			require.Less(t, b.rack.sent.Load(), int64(2<<20), "zeros of a new disk are not sent")
			n, err := b.sweep()
			require.NoError(t, err)
			require.Zero(t, n)

			_, err = b.restore(job.RestoreOptions{Name: "web-again", Overwrite: true})
			require.ErrorIs(t, err, fs.ErrExist)
			require.Len(t, b.vms(), 2)
		})
	}
}

// Options: identity, provisioning, networks, disks that are not restored, power.
func TestRestoreCreatesAsAsked(t *testing.T) {
	b := newBench(t, quickModel())
	b.opts.KeepIdentity, b.opts.Provisioning, b.opts.EmptyDisks, b.opts.PowerOn = true, Eager, true, true
	b.opts.Networks = map[string]string{"ethernet-0": NoCard}
	keys := []string{DisksOf(b.config)[1].Key}
	res, err := b.restore(job.RestoreOptions{Name: "one", Disks: keys})
	require.NoError(t, err)
	m := b.machine(res.ID)
	require.Equal(t, b.config.Uuid, m.Config.Uuid)
	require.NotEqual(t, b.config.InstanceUuid, m.Config.InstanceUuid, "the old VM has it still")
	require.Equal(t, types.VirtualMachinePowerStatePoweredOn, m.Runtime.PowerState)
	require.Len(t, m.disks, 2)
	require.True(t, m.disks[0].Eager)
	require.True(t, m.disks[1].Eager)
	notes := strings.Join(res.Notes, "\n")
	require.Contains(t, notes, "was made empty")
	require.Contains(t, notes, "ethernet-0 was left out, as asked")
	require.Empty(t, cardKeys(m.Config))

	b.opts = RestorerOptions{Transports: b.opts.Transports}
	res, err = b.restore(job.RestoreOptions{Name: "two", Disks: keys})
	require.NoError(t, err)
	m = b.machine(res.ID)
	require.Len(t, m.disks, 1)
	require.Contains(t, strings.Join(res.Notes, "\n"), "was left out")
	require.Len(t, cardKeys(m.Config), 1)
}

// What is not there is named, with what is, before anything is touched.
func TestRestoreSaysWhatIsAbsent(t *testing.T) {
	m := quickModel()
	m.Datacenter = 2
	b := newBench(t, m)
	base := RestorerOptions{Transports: b.opts.Transports, Datacenter: "DC0"}
	for what, set := range map[string]func(o *RestorerOptions){
		"datacenter": func(o *RestorerOptions) { o.Datacenter = "DC9" },
		"folder":     func(o *RestorerOptions) { o.Folder = "nowhere" },
		"pool":       func(o *RestorerOptions) { o.Pool = "nowhere" },
		"host":       func(o *RestorerOptions) { o.Host = "nowhere" },
		"datastore":  func(o *RestorerOptions) { o.Datastore = "nowhere" },
		"network":    func(o *RestorerOptions) { o.Networks = map[string]string{"ethernet-0": "nowhere"} },
	} {
		b.opts = base
		set(&b.opts)
		_, err := b.restore(job.RestoreOptions{Name: "x"})
		var absent *AbsentError
		require.ErrorAs(t, err, &absent, what)
		require.Equal(t, what, absent.What)
		require.ErrorIs(t, err, fs.ErrNotExist)
		if what != "folder" {
			require.NotEmpty(t, absent.There, what)
		}
	}
	b.opts = base
	b.opts.Provisioning = Thick
	b.opts.Datastore = "LocalDS_0"
	var free []int64
	stores := b.front.model.Map().All("Datastore")
	for _, ds := range stores {
		d := ds.(*simulator.Datastore)
		free = append(free, d.Summary.FreeSpace)
		d.Summary.FreeSpace = benchDisk
	}
	_, err := b.restore(job.RestoreOptions{Name: "x"})
	var room *RoomError
	require.ErrorAs(t, err, &room)
	require.Equal(t, int64(benchDisk), room.Free)
	for i, ds := range stores {
		ds.(*simulator.Datastore).Summary.FreeSpace = free[i]
	}
	for _, name := range []string{strings.Repeat("n", 81), "a\x00b"} {
		_, err = b.restore(job.RestoreOptions{Name: name})
		require.ErrorIs(t, err, fs.ErrInvalid)
	}
	require.Len(t, b.vms(), 2)
	n, err := b.sweep()
	require.NoError(t, err)
	require.Zero(t, n)
	require.Zero(t, b.front.count("CreateVM_Task"))
}

// A machine that no vSphere recorded gets plain hardware, and that is shown.
func TestRestoreOfAnotherHypervisor(t *testing.T) {
	b := newBench(t, quickModel())
	var disks []Disk
	for i := range 33 {
		disks = append(disks, Disk{Disk: hikae.Disk{Key: fmt.Sprintf("virtio%d", i), Size: 1 << 20}})
	}
	b.addPoint(nil, disks)
	b.opts.Plain = PlainHardware{CPUs: 3, Network: b.someNetwork()}
	res, err := b.restore(job.RestoreOptions{Name: "kvm", Compare: true})
	require.NoError(t, err)
	m := b.machine(res.ID)
	require.Equal(t, int32(3), m.Config.Hardware.NumCPU)
	require.Len(t, m.disks, 33)
	require.Len(t, cardKeys(m.Config), 1)
	slots := map[string]string{}
	for _, d := range m.disks {
		slots[d.Slot] = d.File
	}
	for i, d := range b.point.Disks {
		want := fmt.Sprintf("sata%d:%d", i/30, i%30)
		require.Contains(t, slots, want)
		b.requireDisk(Disk{File: slots[want], Disk: hikae.Disk{Size: d.Size}}, d.Key)
	}
	require.Contains(t, res.Notes[0], "no vSphere recorded this machine")
}

// R188: whatever fails, and whenever, nothing of a new VM is left after one sweep, and nothing else was touched.
func TestRestoreCreatesNothingHalf(t *testing.T) {
	b := newBench(t, quickModel())
	before := b.vms()
	for nth := 1; ; nth++ {
		require.Less(t, nth, 200)
		seen := 0
		b.front.on(func(w http.ResponseWriter, call string, _ int) bool {
			if isReading(call) {
				return false
			}
			seen++
			if seen != nth {
				return false
			}
			http.Error(w, "no", http.StatusInternalServerError)
			return true
		})
		_, err := b.restore(job.RestoreOptions{Name: "half"})
		b.front.on(nil)
		_, sweepErr := b.sweep()
		require.NoError(t, sweepErr, nth)
		require.Zero(t, b.rack.opened.Load())
		if err == nil {
			require.Contains(t, b.vms(), "half")
			if seen < nth {
				require.GreaterOrEqual(t, nth, 5)
				break
			}
			b.destroy("half") // a call failed that a VM can do without
			continue
		}
		require.Equal(t, before, b.vms(), "call %d: %v", nth, err)
	}

	b.destroy("half")
	b.rack.failAt.Store(b.rack.writes.Load() + 2)
	_, err := b.restore(job.RestoreOptions{Name: "half"})
	require.ErrorIs(t, err, errRack)
	require.Equal(t, before, b.vms())
}

func isReading(call string) bool {
	return !strings.HasSuffix(call, "_Task") && !strings.HasPrefix(call, "/folder/")
}

func (b *bench) destroy(name string) {
	b.Helper()
	found, err := b.client.Find(b.Context(), Selection{VMs: []string{name}})
	require.NoError(b, err)
	task, err := object.NewVirtualMachine(b.client.Vim(), found[0].Ref).Destroy(b.Context())
	require.NoError(b, err)
	require.NoError(b, task.Wait(b.Context()))
}

// A session that died in the middle leaves a VM that says that it is not whole. A sweep destroys it, and no disk that somebody
// attached to it meanwhile.
func TestRestoreKilled(t *testing.T) {
	b := newBench(t, quickModel())
	before := b.vms()
	j, err := hikae.OpenFileJournal(b.journal)
	require.NoError(t, err)
	vm := b.description()
	d, err := b.restorer().Create(t.Context(), vm, &hikae.RestoreOptions{Journal: j, Name: "dead"})
	require.NoError(t, err)
	require.NoError(t, j.Close()) // and nothing else: the process is gone
	made := d.(*newVM)
	m := b.machine(made.ref.Value)
	var incomplete *IncompleteError
	require.ErrorAs(t, unfinished(m.Name, m.Config), &incomplete)
	require.True(t, incomplete.New)
	require.Contains(t, m.Config.Annotation, "Do not start it")

	victim := b.someVM()
	foreign := *victim.disks[0].Virtual
	foreign.Key, foreign.UnitNumber = -1, new(int32)
	*foreign.UnitNumber = 9
	for _, dev := range m.Config.Hardware.Device {
		if c, ok := dev.(types.BaseVirtualSCSIController); ok {
			foreign.ControllerKey = c.GetVirtualSCSIController().Key
		}
	}
	require.NoError(t, b.client.reconfigure(t.Context(), m.Self, types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{
		&types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: &foreign}}}))
	require.Len(t, b.machine(made.ref.Value).disks, 3)

	b.power(made.ref.Value, true)
	_, err = b.sweep()
	var busy *hikae.BusyError
	require.ErrorAs(t, err, &busy, "somebody started it")
	b.power(made.ref.Value, false)
	var removed []string
	b.front.on(func(_ http.ResponseWriter, call string, _ int) bool { removed = append(removed, call); return false })
	n, err := b.sweep()
	require.NoError(t, err)
	require.Equal(t, 1, n)
	b.front.on(nil)
	require.Equal(t, before, b.vms())
	require.Less(t, slices.Index(removed, "ReconfigVM_Task"), slices.Index(removed, "Destroy_Task"))
	require.GreaterOrEqual(t, slices.Index(removed, "ReconfigVM_Task"), 0, "the foreign disk was detached first")
	require.NoError(t, d.Close())
}

// description is what a session hands to a restorer.
func (b *bench) description() hikae.VM {
	b.Helper()
	text, err := encodeConfig(b.config)
	require.NoError(b, err)
	vm := hikae.VM{Name: "web", Facts: map[string]string{}, Config: map[string][]byte{configXML: text}}
	for _, d := range DisksOf(b.config) {
		vm.Disks = append(vm.Disks, d.Disk)
	}
	return vm
}

// A sweep never destroys a VM that does not bear the mark, wherever the effect points.
func TestRestoreUndoTouchesNothingElse(t *testing.T) {
	b := newBench(t, quickModel())
	vm := b.someVM()
	facts := map[string]string{"what": restoresNew, "mark": newMark(), "uuid": vm.Config.InstanceUuid, "folder": vm.Parent.Value, "name": vm.Name}
	require.NoError(t, undo(t.Context(), b.client, b.client.effect(kindRestore, "web", facts), nil))
	facts["uuid"] = newInstance()
	require.NoError(t, undo(t.Context(), b.client, b.client.effect(kindRestore, "web", facts), nil))
	for key, bad := range map[string]string{"mark": "x", "what": "else", "uuid": "", "folder": ""} {
		was := facts[key]
		facts[key] = bad
		require.ErrorIs(t, undo(t.Context(), b.client, b.client.effect(kindRestore, "web", facts), nil), fs.ErrInvalid, key)
		facts[key] = was
	}
	facts["folder"] = "group-v999999"
	require.NoError(t, undo(t.Context(), b.client, b.client.effect(kindRestore, "web", facts), nil), "the folder is gone")
	require.Len(t, b.vms(), 1)
	require.Zero(t, b.front.count("Destroy_Task"))
}

// A context that ends in the middle leaves nothing either.
func TestRestoreCancelled(t *testing.T) {
	b := newBench(t, quickModel())
	for _, at := range []string{"CreateVM_Task", "ReconfigVM_Task"} {
		ctx, cancel := context.WithCancel(t.Context())
		b.front.on(func(_ http.ResponseWriter, call string, _ int) bool {
			if call == at {
				cancel()
				time.Sleep(50 * time.Millisecond)
			}
			return false
		})
		j, err := hikae.OpenFileJournal(b.journal)
		require.NoError(t, err)
		_, err = job.Restore(ctx, b.backend, b.point, b.restorer(), &job.RestoreOptions{Name: "half", Journal: j})
		require.Error(t, err)
		require.NoError(t, j.Close())
		b.front.on(nil)
		cancel()
		_, err = b.sweep()
		require.NoError(t, err)
		require.Len(t, b.vms(), 1, at)
	}
}

// someNetwork is one that the host reaches.
func (b *bench) someNetwork() string {
	b.Helper()
	in, err := b.client.inventory(b.Context())
	require.NoError(b, err)
	nets := in.of("Network")
	require.NotEmpty(b, nets)
	return nets[0].name
}
