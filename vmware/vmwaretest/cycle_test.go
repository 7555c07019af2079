package vmwaretest

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"testing"
	"time"

	"github.com/hikae/hikae/vmware/vmdk"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// rig is a server and a session of the user who may do everything.
type rig struct {
	t   *testing.T
	s   *Server
	ctx context.Context
	c   *vim25.Client
}

func newRig(t *testing.T, opts *Options) *rig {
	t.Helper()
	s, err := Start(opts)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	r := &rig{t: t, s: s, ctx: ctx}
	r.c = r.login(s.User(), s.Password())
	return r
}

// login opens a session, and ends it with the test.
func (r *rig) login(user, password string) *vim25.Client {
	r.t.Helper()
	c, err := dial(r.ctx, r.s, user, password)
	require.NoError(r.t, err)
	r.t.Cleanup(func() {
		_ = c.Logout(context.Background()) // it may have been ended by the test
		c.Client.CloseIdleConnections()
	})
	return c.Client
}

func dial(ctx context.Context, s *Server, user, password string) (*govmomi.Client, error) {
	u := s.URL()
	u.User = nil
	c, err := govmomi.NewClient(ctx, u, true)
	if err != nil {
		return nil, err
	}
	return c, c.Login(ctx, userInfo(user, password))
}

func (r *rig) wait(ref types.ManagedObjectReference, err error) (*types.TaskInfo, error) {
	r.t.Helper()
	require.NoError(r.t, err)
	return object.NewTask(r.c, ref).WaitForResult(r.ctx)
}

func (r *rig) create(v *VM, quiesce bool) types.ManagedObjectReference {
	r.t.Helper()
	res, err := methods.CreateSnapshot_Task(r.ctx, r.c, &types.CreateSnapshot_Task{This: v.Ref(), Name: "s", Quiesce: quiesce})
	require.NoError(r.t, err)
	info, err := r.wait(res.Returnval, nil)
	require.NoError(r.t, err)
	return info.Result.(types.ManagedObjectReference)
}

func (r *rig) remove(ref types.ManagedObjectReference, children bool) error {
	r.t.Helper()
	res, err := methods.RemoveSnapshot_Task(r.ctx, r.c, &types.RemoveSnapshot_Task{This: ref, RemoveChildren: children})
	require.NoError(r.t, err)
	_, err = r.wait(res.Returnval, nil)
	return err
}

func (r *rig) reconfigure(v *VM, spec types.VirtualMachineConfigSpec) error {
	r.t.Helper()
	res, err := methods.ReconfigVM_Task(r.ctx, r.c, &types.ReconfigVM_Task{This: v.Ref(), Spec: spec})
	require.NoError(r.t, err)
	_, err = r.wait(res.Returnval, nil)
	return err
}

// track enables tracking and makes it work by a cycle of a snapshot.
func (r *rig) track(v *VM) {
	r.t.Helper()
	require.NoError(r.t, r.reconfigure(v, types.VirtualMachineConfigSpec{ChangeTrackingEnabled: types.NewBool(true)}))
	require.NoError(r.t, r.remove(r.create(v, false), false))
	require.True(r.t, v.Tracked())
}

func (r *rig) vm(v *VM, props ...string) (out mo.VirtualMachine) {
	r.t.Helper()
	require.NoError(r.t, property.DefaultCollector(r.c).RetrieveOne(r.ctx, v.Ref(), props, &out))
	return out
}

func (r *rig) snapshot(ref types.ManagedObjectReference) (out mo.VirtualMachineSnapshot) {
	r.t.Helper()
	require.NoError(r.t, property.DefaultCollector(r.c).RetrieveOne(r.ctx, ref, nil, &out))
	return out
}

// backing is a disk as a configuration has it.
func backing(config *types.VirtualMachineConfigInfo, key int32) *types.VirtualDiskFlatVer2BackingInfo {
	d := object.VirtualDeviceList(config.Hardware.Device).FindByKey(key)
	if d == nil {
		return nil
	}
	b, _ := d.GetVirtualDevice().Backing.(*types.VirtualDiskFlatVer2BackingInfo)
	return b
}

func content(t *testing.T, path string) []byte {
	t.Helper()
	img, err := vmdk.Open(context.Background(), path, nil)
	require.NoError(t, err)
	defer func() { require.NoError(t, img.Close()) }()
	p := make([]byte, img.Size())
	_, err = img.ReadAt(context.Background(), p, 0)
	require.NoError(t, err)
	return p
}

// converted is the disk as qemu-img reads it.
func converted(t *testing.T, path string) []byte {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("qemu-img is not installed")
	}
	out := t.TempDir() + "/raw"
	text, err := exec.Command("qemu-img", "convert", "-f", "vmdk", "-O", "raw", path, out).CombinedOutput()
	require.NoError(t, err, "%s", text)
	return readFile(t, out)
}

func TestCycle(t *testing.T) {
	for _, o := range []Options{{DiskBytes: 4 << 20, DisksPerVM: 2}, {ESX: true, DiskBytes: 4 << 20, Deltas: COWD}} {
		t.Run(fmt.Sprintf("esx=%v", o.ESX), func(t *testing.T) {
			r := newRig(t, &o)
			v := r.s.VM("web0")
			d := v.Disk(0)
			require.NoError(t, d.Write(70000, []byte("before")))
			r.track(v)

			first := r.create(v, false)
			info := r.snapshot(first)
			pinned := backing(&info.Config, d.Device())
			require.NotNil(t, pinned)
			assert.NotEmpty(t, pinned.ChangeId)
			assert.Equal(t, d.Key(), pinned.Uuid)
			live := backing(r.vm(v, "config").Config, d.Device())
			assert.NotEqual(t, pinned.FileName, live.FileName)
			assert.Equal(t, pinned.FileName, live.Parent.FileName)

			was, err := d.Read(0, int(d.Size()))
			require.NoError(t, err)
			require.NoError(t, d.Write(1<<20+5, bytes.Repeat([]byte("x"), 70000)))
			pin, err := r.s.LocalFile(pinned.FileName)
			require.NoError(t, err)
			assert.Equal(t, was, content(t, pin), "what the snapshot holds stays")
			now, err := d.Read(0, int(d.Size()))
			require.NoError(t, err)
			assert.Equal(t, now, content(t, d.Chain()[0]))
			assert.Equal(t, now, converted(t, d.Chain()[0]))

			require.NoError(t, r.remove(first, false))
			assert.Len(t, d.Chain(), 1)
			assert.Equal(t, now, content(t, d.Chain()[0]))

			second := r.create(v, false)
			res, err := methods.QueryChangedDiskAreas(r.ctx, r.c, &types.QueryChangedDiskAreas{
				This: v.Ref(), Snapshot: &second, DeviceKey: d.Device(), ChangeId: pinned.ChangeId,
			})
			require.NoError(t, err)
			assert.Equal(t, []types.DiskChangeExtent{{Start: 1 << 20, Length: 2 * trackGrain}}, res.Returnval.ChangedArea)
			assert.Equal(t, d.Size(), res.Returnval.Length)
			require.NoError(t, r.remove(second, false))
			require.NoError(t, methodsLogout(r))
			assert.Empty(t, r.s.Leftovers())
		})
	}
}
