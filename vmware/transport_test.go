package vmware

import (
	"bytes"
	"context"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/vmware/nfc/nfctest"
	"github.com/hikae/hikae/vmware/vmwaretest"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// ranch is a fake vSphere with a client of it.
type ranch struct {
	*vmwaretest.Server
	client *Client
	notes  *notes
}

func newRanch(t *testing.T, opts *vmwaretest.Options) *ranch {
	t.Helper()
	s, err := vmwaretest.Start(opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	c, err := Connect(t.Context(), &url.URL{Scheme: "https", Host: s.URL().Host}, Login{User: s.User(), Password: s.Password()},
		&ConnectOptions{Thumbprint: s.Thumbprint(), Latency: LatencyOptions{Off: true}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close(context.WithoutCancel(t.Context()))) })
	return &ranch{s, c, &notes{}}
}

// pin makes a snapshot and returns what a transport is given of its disk, with what that holds.
func (r *ranch) pin(t *testing.T, name string, disk int) (*Pinned, []byte) {
	t.Helper()
	vm := r.VM(name)
	want, err := vm.Disk(disk).Read(0, int(vm.Disk(disk).Size()))
	require.NoError(t, err)
	res, err := methods.CreateSnapshot_Task(t.Context(), r.client.Vim(), &types.CreateSnapshot_Task{This: vm.Ref(), Name: "hikae test"})
	require.NoError(t, err)
	info, err := r.client.Wait(t.Context(), res.Returnval)
	require.NoError(t, err)
	snap := info.Result.(types.ManagedObjectReference)
	pc := property.DefaultCollector(r.client.Vim())
	var m mo.VirtualMachineSnapshot
	require.NoError(t, pc.RetrieveOne(t.Context(), snap, []string{"config"}, &m))
	p := r.describe(t, vm, DisksOf(&m.Config)[disk])
	p.Snapshot = snap
	return p, want
}

// live is a disk of a VM that is off, as it is.
func (r *ranch) live(t *testing.T, name string, disk int) *Pinned {
	t.Helper()
	vm := r.VM(name)
	var m mo.VirtualMachine
	require.NoError(t, property.DefaultCollector(r.client.Vim()).RetrieveOne(t.Context(), vm.Ref(), []string{"config"}, &m))
	return r.describe(t, vm, DisksOf(m.Config)[disk])
}

func (r *ranch) describe(t *testing.T, vm *vmwaretest.VM, d Disk) *Pinned {
	t.Helper()
	var m mo.VirtualMachine
	require.NoError(t, property.DefaultCollector(r.client.Vim()).RetrieveOne(t.Context(), vm.Ref(), []string{"runtime", "name"}, &m))
	return &Pinned{Client: r.client, VM: vm.Ref(), Host: *m.Runtime.Host, Name: m.Name, Disk: d, Journal: r.notes, Scratch: t.TempDir(),
		PoweredOn: m.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn}
}

func (r *ranch) unpin(t *testing.T, p *Pinned) {
	t.Helper()
	res, err := methods.RemoveSnapshot_Task(t.Context(), r.client.Vim(), &types.RemoveSnapshot_Task{This: p.Snapshot})
	require.NoError(t, err)
	_, err = r.client.Wait(t.Context(), res.Returnval)
	require.NoError(t, err)
}

func fill(t *testing.T, d *vmwaretest.Disk, seed uint64) {
	t.Helper()
	size := d.Size()
	img := pipetest.NewPattern(seed, size, pipetest.RandomLayout(seed, size, pipe.Zero, pipe.Data, pipe.Data)...)
	p := make([]byte, 1<<20)
	for e, err := range img.Extents(t.Context(), 0, size) {
		require.NoError(t, err)
		for off := e.Off; e.Kind == pipe.Data && off < e.End(); off += int64(len(p)) {
			q := p[:min(int64(len(p)), e.End()-off)]
			_, err := img.ReadAt(t.Context(), q, off)
			require.NoError(t, err)
			require.NoError(t, d.Write(off, q))
		}
	}
}

// readers are all transports that read a disk over the fake's own wires.
func (r *ranch) readers(t *testing.T, p *Pinned) []Transport {
	t.Helper()
	all := []Transport{newNFC(NBDSSL), newNFC(NBD), newHTTPS(), newExport()}
	var ds mo.Datastore
	require.NoError(t, property.DefaultCollector(r.client.Vim()).RetrieveOne(t.Context(), p.Disk.Datastore, []string{"summary"}, &ds))
	file, err := r.LocalFile(p.Disk.File)
	require.NoError(t, err)
	folder := filepath.Dir(filepath.Dir(file))
	return append(all, newNFS(map[string]string{ds.Summary.Name: folder}, newHTTPS()))
}

// TestTransportsAgree: every transport reads what the snapshot pinned, byte for byte, while the guest goes on writing; on a
// bare host as through vCenter, over deltas of both kinds and over snapshots of the VM's own (R108, R113).
func TestTransportsAgree(t *testing.T) {
	for name, opts := range some(t, 1, map[string]vmwaretest.Options{
		"vCenter, SESparse": {DiskBytes: 6 << 20, Deltas: vmwaretest.SESparse}, "ESXi, COWD": {DiskBytes: 6 << 20, Deltas: vmwaretest.COWD, ESX: true, DisksPerVM: 2},
	}) {
		t.Run(name, func(t *testing.T) {
			r := newRanch(t, &opts)
			n := max(1, opts.DisksPerVM) - 1
			disk := r.VM("web0").Disk(n)
			fill(t, disk, 61)
			_, err := r.VM("web0").CreateSnapshot("the user's own", "")
			require.NoError(t, err)
			require.NoError(t, disk.Write(1<<20, bytes.Repeat([]byte("delta"), 30_000)))
			p, want := r.pin(t, "web0", n)
			stop := guestWrites(t, disk)
			for _, tr := range r.readers(t, p) {
				require.NoError(t, tr.Check(t.Context(), p), tr.Name())
				img, err := tr.Open(t.Context(), p)
				require.NoError(t, err, tr.Name())
				pipetest.TestImage(t, img, pipetest.Bytes(want))
				require.NoError(t, img.Close(), tr.Name())
			}
			stop()
			require.Empty(t, r.notes.left())
			r.unpin(t, p)
		})
	}
}

// guestWrites writes to a disk until it is stopped.
func guestWrites(t *testing.T, disk *vmwaretest.Disk) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := int64(0); httpsPause(ctx, time.Millisecond) == nil; i++ {
			off := i * 77777 % (disk.Size() - 4096)
			if err := disk.Write(off, bytes.Repeat([]byte{byte(i)}, 4096)); err != nil {
				t.Errorf("the guest writes at %d: %v", off, err)
				return
			}
		}
	})
	stop = func() { cancel(); wg.Wait() }
	t.Cleanup(stop)
	return stop
}

// TestTransportsRefuseRunningDisks: a disk that a VM writes to is read by none.
func TestTransportsRefuseRunningDisks(t *testing.T) {
	r := newRanch(t, &vmwaretest.Options{DiskBytes: 2 << 20})
	p := r.live(t, "web0", 0)
	require.True(t, p.PoweredOn)
	for _, tr := range r.readers(t, p) {
		var unfit *UnfitError
		require.ErrorAs(t, tr.Check(t.Context(), p), &unfit, tr.Name())
		if w, ok := tr.(Writer); ok {
			require.ErrorAs(t, w.CheckTarget(t.Context(), p), &unfit, tr.Name())
		}
	}
}

// TestTransportsWrite: what is committed to a disk of a VM that is off is what the guest then reads.
func TestTransportsWrite(t *testing.T) {
	const size = 3 << 20
	r := newRanch(t, &vmwaretest.Options{DiskBytes: size, PoweredOff: true})
	for i, tr := range []Writer{newNFC(NBDSSL), newNFC(NBD), newHTTPS()} {
		for _, fresh := range []bool{false, true} {
			p := r.live(t, "web0", 0)
			p.Fresh = fresh && i == 0
			want := pipetest.NewPattern(uint64(70+i), size)
			require.NoError(t, tr.CheckTarget(t.Context(), p), tr.Name())
			target, err := tr.OpenTarget(t.Context(), p)
			require.NoError(t, err, tr.Name())
			_, err = pipe.Copy(t.Context(), target, want, nil)
			require.NoError(t, err, tr.Name())
			require.NoError(t, target.Commit(t.Context()), tr.Name())
			require.NoError(t, target.Close())
			got, err := r.VM("web0").Disk(0).Read(0, size)
			require.NoError(t, err)
			require.True(t, bytes.Equal(contentOfImage(t, want), got), tr.Name())
		}
	}
}

// TestFailoverOnTheWire: where a host's disk service dies in the middle, the disk goes on over HTTPS, and says so.
func TestFailoverOnTheWire(t *testing.T) {
	r := newRanch(t, &vmwaretest.Options{DiskBytes: 6 << 20})
	fill(t, r.VM("web0").Disk(0), 62)
	p, want := r.pin(t, "web0", 0)
	c, err := newChooser(&TransportOptions{Order: []string{NBDSSL, HTTPS}})
	require.NoError(t, err)
	r.DiskService().Fail(nfctest.Fault{Kind: nfctest.Drop, After: 1<<20 + 200<<10})
	img, choice, err := c.open(t.Context(), p)
	require.NoError(t, err)
	require.Equal(t, NBDSSL, choice.Transport)
	buf := make([]byte, 1<<20)
	_, err = img.ReadAt(t.Context(), buf, 0)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want[:1<<20], buf))
	r.Fail(vmwaretest.Fault{Method: "NfcGetVmFiles", Times: -1, Fault: &types.NoPermission{}})
	for off := int64(1 << 20); off < int64(len(want)); off += int64(len(buf)) {
		_, err = img.ReadAt(t.Context(), buf, off)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want[off:off+int64(len(buf))], buf), "at %d", off)
	}
	choice, _ = choiceOf(img)
	require.Equal(t, HTTPS, choice.Transport)
	require.Equal(t, int64(1<<20), choice.FailedOver()[0].Offset)
	require.NoError(t, img.Close())
	r.unpin(t, p)
}

// TestSessionEndsWhileReading: files are read on after the server forgot the session (bar 34).
func TestSessionEndsWhileReading(t *testing.T) {
	r := newRanch(t, &vmwaretest.Options{DiskBytes: 6 << 20})
	fill(t, r.VM("web0").Disk(0), 63)
	p, want := r.pin(t, "web0", 0)
	img, err := newHTTPS().Open(t.Context(), p)
	require.NoError(t, err)
	r.ExpireSessions()
	got := contentOfImage(t, img)
	require.True(t, bytes.Equal(want, got))
	require.NoError(t, img.Close())
	r.unpin(t, p)
}

// TestScratchIsGone: an export's file has no name while it is read.
func TestScratchIsGone(t *testing.T) {
	r := newRanch(t, &vmwaretest.Options{DiskBytes: 2 << 20})
	p, _ := r.pin(t, "web0", 0)
	img, err := newExport().Open(t.Context(), p)
	require.NoError(t, err)
	left, err := os.ReadDir(p.Scratch)
	require.NoError(t, err)
	require.Empty(t, left)
	require.NoError(t, img.Close())
	r.unpin(t, p)
}
