package selftest

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/dirstore"
	"github.com/hikae/hikae/vmware"
	"github.com/hikae/hikae/vmware/vmwaretest"
)

func long() bool {
	tier := os.Getenv("HIKAE_TEST_TIER")
	return tier == "long" || tier == "release"
}

// R188: a session is killed after each of its steps: effects in the journal, answers of the server, reads of disks. The next start
// takes away what it left, touches nothing of others, and the next increment is right. A few of the steps in the fast tier.
func TestKilled(t *testing.T) {
	for _, way := range []string{"network", "hotadd"} {
		t.Run(way, func(t *testing.T) {
			if way == "hotadd" && !long() {
				t.Skip("a session over the network stands for it: needs HIKAE_TEST_TIER=long")
			}
			k := newKillLab(t, way == "hotadd")
			k.sound(k.next())
			names := k.steps()
			require.Greater(t, len(names), 30)
			for _, name := range []string{"intend vmware.snapshot", "CreateSnapshot_Task", "QueryChangedDiskAreas", "read", "RemoveSnapshot_Task", "done vmware.snapshot"} {
				require.Contains(t, names, name)
			}
			t.Logf("a session has %d steps", len(names))
			count := len(names)
			if !long() {
				count = 6
			}
			slowest := time.Duration(0)
			for i := range count {
				from, to := i*len(names)/count, (i+1)*len(names)/count
				slowest = max(slowest, k.killedAt(from+1+rand.IntN(to-from)))
			}
			t.Logf("figure: killed after %d of %d steps, %d sessions dead, %d effects undone; slowest sweep %v", count, len(names), k.dead, k.swept, slowest.Round(time.Millisecond))
			require.NotZero(t, k.swept, "no session had left anything")
		})
	}
}

// killLab is a server with a VM to back up, and with things of others that must be left alone: a snapshot of the same VM, and a
// disk that hangs on another one.
type killLab struct {
	*lab
	*testing.T
	plan   plan
	mine   types.ManagedObjectReference // the user's snapshot
	others int                          // devices of the VM that the foreign disk hangs on
	rnd    *rand.Rand
	before []string // what the server says that is left, with nothing of ours

	dead, swept int // sessions that were killed, and effects that were undone
}

func newKillLab(t *testing.T, hot bool) *killLab {
	t.Helper()
	l := newLabOf(t, &vmwaretest.Options{VMs: 4, DisksPerVM: 2, DiskBytes: 2 << 20})
	dir := t.TempDir()
	k := &killLab{lab: l, T: t, rnd: rand.New(rand.NewPCG(1, 2))}
	k.plan = plan{Server: l.URL().String(), User: l.User(), Password: l.Password(), Thumbprint: l.Thumbprint(), VM: l.vm().Value,
		Repo: filepath.Join(dir, "repo"), State: filepath.Join(dir, "state"), Journal: filepath.Join(dir, "journal")}
	l.tools(t)
	if hot {
		k.plan.Proxy = "web3"
		require.NoError(t, l.reconfigure(l.VM("web3").Ref(), types.VirtualMachineConfigSpec{ExtraConfig: []types.BaseOptionValue{
			&types.OptionValue{Key: "disk.EnableUUID", Value: "TRUE"}}}))
		view, err := l.Proxy("web3")
		if err != nil {
			t.Skipf("what a guest sees cannot be mounted: %v", err)
		}
		k.plan.ProxyRoot = view.Root()
	}
	st, err := dirstore.Init(k.plan.Repo)
	require.NoError(t, err)
	r, err := repo.Init(t.Context(), st, nil, &repo.InitOptions{BlockSize: 64 << 10, NoEncryption: true}, &repo.OpenOptions{StateDir: k.plan.State})
	require.NoError(t, err)
	require.NoError(t, r.Close())
	k.sound(k.next()) // tracking begins, which it must not while there are snapshots
	k.foreign()
	return k
}

// foreign puts things of others there. The snapshot is another VM's: one that stands on a snapshot is read in full each time.
func (k *killLab) foreign() {
	k.Helper()
	var err error
	k.mine, err = k.VM("web1").CreateSnapshot("before the update", "mine")
	require.NoError(k, err)
	require.NoError(k, k.VM("web2").PowerOff())
	var unit int32 = 5
	add := types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{&types.VirtualDeviceConfigSpec{
		Operation: types.VirtualDeviceConfigSpecOperationAdd,
		Device: &types.VirtualDisk{VirtualDevice: types.VirtualDevice{Key: -1, ControllerKey: k.controller("web1"), UnitNumber: &unit,
			Backing: &types.VirtualDiskFlatVer2BackingInfo{DiskMode: string(types.VirtualDiskModeIndependent_nonpersistent),
				VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: "[LocalDS_0] web2/web2_1.vmdk"}}}},
	}}}
	require.NoError(k, k.reconfigure(k.VM("web1").Ref(), add))
	k.others = k.disks("web1")
	require.Equal(k, 3, k.others)
	k.before = k.strange()
}

func (k *killLab) devices(vm string) []types.BaseVirtualDevice {
	k.Helper()
	var m mo.VirtualMachine
	require.NoError(k, property.DefaultCollector(k.client.Vim()).RetrieveOne(k.Context(), k.VM(vm).Ref(), []string{"config.hardware.device"}, &m))
	return m.Config.Hardware.Device
}

func (k *killLab) controller(vm string) int32 {
	for _, d := range k.devices(vm) {
		if c, ok := d.(types.BaseVirtualSCSIController); ok {
			return c.GetVirtualSCSIController().Key
		}
	}
	return 0
}

func (k *killLab) disks(vm string) (n int) {
	for _, d := range k.devices(vm) {
		if _, ok := d.(*types.VirtualDisk); ok {
			n++
		}
	}
	return n
}

// strange is what the server says that is left, but for sessions: those of the dead end by themselves.
func (k *killLab) strange() []string { return k.left() }

// victim runs a backup in a process of its own, and returns what it said.
func (k *killLab) victim(at int) ([]byte, error) {
	k.Helper()
	require.Empty(k, os.Getenv(victimEnv), "a victim starts no other")
	p := k.plan
	p.At = at
	text, err := json.Marshal(p)
	require.NoError(k, err)
	ctx, cancel := context.WithTimeout(k.Context(), 90*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), victimEnv+"="+string(text))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil && at == 0 {
		k.Log(stderr.String())
	}
	return out, err
}

// steps are those of an increment that nobody kills.
func (k *killLab) steps() (names []string) {
	k.Helper()
	k.scribble()
	out, err := k.victim(0)
	require.NoError(k, err)
	require.NoError(k, json.Unmarshal(out, &names))
	return names
}

// killedAt kills a session after a step, and sees that all is well again. It returns how long the sweep took.
func (k *killLab) killedAt(at int) time.Duration {
	k.Helper()
	k.scribble()
	_, err := k.victim(at)
	if err != nil {
		require.ErrorContains(k, err, "killed", "step %d", at)
		k.dead++
	}
	begun := time.Now()
	k.sweep(at)
	took := time.Since(begun)
	require.Less(k, took, time.Minute)
	require.Equal(k, k.before, k.strange(), "step %d", at)
	require.Equal(k, k.mine, k.VM("web1").Snapshots()[0].Ref)
	require.Equal(k, k.others, k.disks("web1"), "step %d", at)
	k.scribble()
	res, want := k.next()
	for _, d := range res.Disks {
		require.Equal(k, job.Changed, d.Method, "step %d: %v", at, res.Fallbacks)
	}
	k.sound(res, want)
	require.Equal(k, k.before, k.strange(), "step %d", at)
	return took
}

// sweep is what a new start does first.
func (k *killLab) sweep(at int) {
	k.Helper()
	r, j, err := k.plan.open(k.Context())
	require.NoError(k, err)
	defer func() { require.NoError(k, r.Close()) }()
	defer func() { require.NoError(k, j.Close()) }()
	s := &vmware.Sweeper{Connect: func(ctx context.Context, _ string) (*vmware.Client, error) { return k.plan.connect(ctx) }}
	defer func() { require.NoError(k, s.Close(k.Context())) }()
	keep, err := job.KeepIDs(k.Context(), r)
	require.NoError(k, err)
	ctx, cancel := context.WithTimeout(k.Context(), time.Minute)
	defer cancel()
	undone, err := j.Sweep(ctx, map[string]hikae.Sweeper{"vmware.": s}, keep)
	require.NoError(k, err, "step %d", at)
	k.swept += undone
	again, err := j.Sweep(ctx, map[string]hikae.Sweeper{"vmware.": s}, keep)
	require.NoError(k, err)
	require.Zero(k, again)
}

func (k *killLab) scribble() {
	k.Helper()
	for _, d := range k.VM("web0").Disks() {
		p := make([]byte, 1+k.rnd.IntN(50_000))
		for i := range p {
			p[i] = byte(k.rnd.Uint32())
		}
		require.NoError(k, d.Write(k.rnd.Int64N(d.Size()-int64(len(p))), p))
	}
}

// next makes a point.
func (k *killLab) next() (job.Result, map[string][]byte) {
	k.Helper()
	r, j, err := k.plan.open(k.Context())
	require.NoError(k, err)
	defer func() { require.NoError(k, r.Close()) }()
	defer func() { require.NoError(k, j.Close()) }()
	p, err := vmware.New(k.client, []types.ManagedObjectReference{k.vm()}, k.plan.options())
	require.NoError(k, err)
	want := contents(k.T, k.VM("web0"))
	res, err := job.Backup(k.Context(), p, k.plan.VM, r, &job.BackupOptions{Name: "web0", Workers: 1, Journal: j})
	require.NoError(k, err)
	return res, want
}

// sound compares a point with what the guest had.
func (k *killLab) sound(res job.Result, want map[string][]byte) {
	k.Helper()
	r, j, err := k.plan.open(k.Context())
	require.NoError(k, err)
	defer func() { require.NoError(k, r.Close()) }()
	require.NoError(k, j.Close())
	same(k.T, r, res.Point, want)
}

func contents(t *testing.T, vm *vmwaretest.VM) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for _, d := range vm.Disks() {
		p, err := d.Read(0, int(d.Size()))
		require.NoError(t, err)
		out[d.Key()] = p
	}
	return out
}

// same holds a point against what the guest had, byte for byte.
func same(t *testing.T, r *repo.Repository, point string, want map[string][]byte) {
	t.Helper()
	for key, content := range want {
		img, err := r.Open(t.Context(), point, key)
		require.NoError(t, err)
		got := make([]byte, len(content))
		if _, err = img.ReadAt(t.Context(), got, 0); err != io.EOF {
			require.NoError(t, err)
		}
		require.NoError(t, img.Close())
		require.True(t, bytes.Equal(content, got), "disk %s of point %s", key, point)
	}
}

func (l *lab) reconfigure(vm types.ManagedObjectReference, spec types.VirtualMachineConfigSpec) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	res, err := methods.ReconfigVM_Task(ctx, l.client.Vim(), &types.ReconfigVM_Task{This: vm, Spec: spec})
	if err == nil {
		_, err = l.client.Wait(ctx, res.Returnval)
	}
	return err
}
