package vmware

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/vmware/internal/nfcsoap"
	"github.com/hikae/hikae/vmware/nfc"
	"github.com/hikae/hikae/vmware/nfc/nfctest"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// counter is a simulator whose server hands out tickets of a disk service that is really there.
type counter struct {
	*shop
	service *nfctest.Server
	object  *ticketObject
	disk    *memoryDisk
	pinned  *Pinned
}

// ticketObject is the managed object that the simulator lacks.
type ticketObject struct {
	Self    types.ManagedObjectReference
	service *nfctest.Server
	issued  atomic.Int64
	blank   bool // it leaves out what a bare host leaves out
	refuse  atomic.Bool
	mu      sync.Mutex
	asked   []any
}

func (o *ticketObject) Reference() types.ManagedObjectReference { return o.Self }

func (o *ticketObject) answer(req any, write bool) (*nfcsoap.TicketResponse, *soap.Fault) {
	if o.refuse.Load() {
		return nil, simulator.Fault("not now", &types.NoPermission{})
	}
	o.mu.Lock()
	o.asked = append(o.asked, req)
	o.mu.Unlock()
	id := fmt.Sprintf("session-%d", o.issued.Add(1))
	if err := o.service.AddTicket(nfctest.Ticket{Session: id, Service: "vpxa-nfc", Write: write}); err != nil {
		return nil, simulator.Fault(err.Error(), &types.RuntimeFault{})
	}
	at := o.service.Addr()
	t := types.HostServiceTicket{Host: at.IP.String(), Port: int32(at.Port), Service: "vpxa-nfc", SessionId: id, SslThumbprint: o.service.Thumbprint()}
	if o.blank {
		t.Host = ""
	}
	return &nfcsoap.TicketResponse{Returnval: t}, nil
}

func (o *ticketObject) NfcGetVmFiles(req *nfcsoap.NfcGetVmFiles) soap.HasFault {
	res, fault := o.answer(req, false)
	return &nfcsoap.NfcGetVmFilesBody{Res: res, Fault_: fault}
}

func (o *ticketObject) NfcRandomAccessOpenDisk(req *nfcsoap.NfcRandomAccessOpenDisk) soap.HasFault {
	res, fault := o.answer(req, true)
	return &nfcsoap.NfcRandomAccessOpenDiskBody{Res: res, Fault_: fault}
}

// memoryDisk is a disk that is kept in memory.
type memoryDisk struct {
	mu sync.Mutex
	p  []byte
}

func (d *memoryDisk) Size() int64  { return int64(len(d.p)) }
func (d *memoryDisk) Close() error { return nil }

func (d *memoryDisk) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return pipetest.Bytes(d.p).ReadAt(ctx, p, off)
}

func (d *memoryDisk) WriteAt(_ context.Context, p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return copy(d.p[off:], p), nil
}

func newCounter(t *testing.T, model *simulator.Model, size int64) *counter {
	t.Helper()
	c := &counter{shop: newShop(t, model), disk: &memoryDisk{p: contentOf(t, 81, size)}}
	c.pinned = c.pin("web1/web1.vmdk", size)
	service, err := nfctest.Listen("127.0.0.1:0", &nfctest.Options{
		Open: func(_ context.Context, _, path string, write bool) (nfctest.Disk, error) {
			if path != c.pinned.Disk.File {
				return nil, fs.ErrNotExist
			}
			if write {
				return c.disk, nil
			}
			return nfctest.ReadOnly(c.disk), nil
		}})
	require.NoError(t, err)
	c.service = service
	t.Cleanup(func() { require.NoError(t, service.Close()) })
	ref := nfcsoap.OfVCenter
	if !c.client.IsVCenter() {
		ref = types.ManagedObjectReference{Type: nfcsoap.Service, Value: "NfcService"}
	}
	c.object = &ticketObject{Self: ref, service: service}
	model.Map().Put(c.object)
	return c
}

func (c *counter) clean(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool { return len(c.service.Leftovers()) == 0 }, timeout, tick, "%v", c.service.Leftovers())
}

// TestNBD: the disk that the snapshot pinned, encrypted and in the clear, through vCenter and on a bare host (R113).
func TestNBD(t *testing.T) {
	const size = 5<<20 + 512
	for _, c := range []*counter{newCounter(t, simulator.VPX(), size), newCounter(t, simulator.ESX(), size)} {
		c.object.blank = !c.client.IsVCenter()
		for _, name := range []string{NBDSSL, NBD} {
			tr := newNFC(name)
			require.NoError(t, tr.Check(t.Context(), c.pinned))
			img, err := tr.Open(t.Context(), c.pinned)
			require.NoError(t, err)
			pipetest.TestImage(t, img, pipetest.Bytes(c.disk.p))
			require.NoError(t, img.Close())
			c.clean(t)
		}
		require.Equal(t, &nfcsoap.NfcGetVmFiles{This: c.object.Self, Vm: c.pinned.VM, Host: &c.pinned.Host}, c.object.asked[0])
	}
}

// TestNBDReconnects: each connection wants a ticket of its own; one that breaks is replaced, and no byte is lost.
func TestNBDReconnects(t *testing.T) {
	const size = 4 << 20
	c := newCounter(t, simulator.VPX(), size)
	c.service.Fail(nfctest.Fault{Kind: nfctest.Drop, After: 300 << 10})
	img, err := newNFC(NBDSSL).Open(t.Context(), c.pinned)
	require.NoError(t, err)
	require.Equal(t, c.disk.p, contentOfImage(t, img))
	require.Equal(t, int64(2), c.object.issued.Load())
	require.NoError(t, img.Close())
	c.clean(t)
}

// TestNBDFailsOver: a host that hands out no more tickets is left for another transport, and what was read still holds.
func TestNBDFailsOver(t *testing.T) {
	const size = 4 << 20
	c := newCounter(t, simulator.VPX(), size)
	b := &standing{name: "b", img: func() pipe.Image { return pipetest.Bytes(c.disk.p) }}
	by, err := newChooser(&TransportOptions{Order: []string{NBDSSL, "b"}, More: []Transport{b}})
	require.NoError(t, err)
	c.service.Fail(nfctest.Fault{Kind: nfctest.Drop, After: 1<<20 + 200<<10})
	img, choice, err := by.open(t.Context(), c.pinned)
	require.NoError(t, err)
	require.Equal(t, NBDSSL, choice.Transport)
	buf := make([]byte, 1<<20)
	_, err = img.ReadAt(t.Context(), buf, 0)
	require.NoError(t, err)
	c.object.refuse.Store(true)
	for off := int64(1 << 20); off < size; off += 1 << 20 {
		_, err = img.ReadAt(t.Context(), buf, off)
		require.NoError(t, err)
		require.Equal(t, c.disk.p[off:off+1<<20], buf)
	}
	choice, _ = choiceOf(img)
	require.Equal(t, "b", choice.Transport)
	require.Equal(t, int64(1<<20), choice.FailedOver()[0].Offset)
	require.NoError(t, img.Close())
	c.clean(t)
}

// TestNBDRefuses: what the host will not do is told before it is asked.
func TestNBDRefuses(t *testing.T) {
	c := newCounter(t, simulator.VPX(), 1<<20)
	tr := newNFC(NBDSSL)
	var unfit *UnfitError
	p := *c.pinned
	p.Snapshot = types.ManagedObjectReference{}
	require.ErrorAs(t, tr.Check(t.Context(), &p), &unfit)
	require.ErrorAs(t, tr.CheckTarget(t.Context(), &p), &unfit)
	p = *c.pinned
	p.Disk.Size += 512
	_, err := tr.Open(t.Context(), &p)
	require.ErrorIs(t, err, nfc.ErrChanged)
	p = *c.pinned
	p.Disk.File = "[LocalDS_0] web1/none.vmdk"
	_, err = tr.Open(t.Context(), &p)
	var host *nfc.HostError
	require.ErrorAs(t, err, &host)
	c.object.refuse.Store(true)
	_, err = tr.Open(t.Context(), c.pinned)
	require.True(t, isFault[*types.NoPermission](err), "%v", err)
	c.clean(t)
}

// TestNBDIsNotImpersonated: a host with another certificate than the ticket's gets nothing.
func TestNBDIsNotImpersonated(t *testing.T) {
	c := newCounter(t, simulator.VPX(), 1<<20)
	other, err := nfctest.Listen("127.0.0.1:0", &nfctest.Options{Open: func(context.Context, string, string, bool) (nfctest.Disk, error) {
		return nil, errors.New("nobody comes here")
	}})
	require.NoError(t, err)
	defer other.Close()
	ticket, err := newNFC(NBDSSL).ticket(t.Context(), c.pinned, false)
	require.NoError(t, err)
	ticket.Port = other.Addr().Port
	_, err = nfc.Dial(t.Context(), ticket, nil)
	var trust *nfc.TrustError
	require.ErrorAs(t, err, &trust)
	require.Zero(t, other.Stats().Sessions)
}

// TestNBDWrites: what is committed is on the disk, over what it held; and it can be read over the same connection.
func TestNBDWrites(t *testing.T) {
	const size = 3 << 20
	c := newCounter(t, simulator.VPX(), size)
	c.pinned.PoweredOn, c.pinned.Snapshot = false, types.ManagedObjectReference{}
	by, err := newChooser(&TransportOptions{Order: []string{NBDSSL}})
	require.NoError(t, err)
	target, choice, err := by.openTarget(t.Context(), c.pinned)
	require.NoError(t, err)
	require.Equal(t, NBDSSL, choice.Transport)
	want := append([]byte(nil), c.disk.p...)
	img, ok := readableTarget(target)
	require.True(t, ok)
	require.Equal(t, want, contentOfImage(t, img))
	require.NoError(t, img.Close())
	copy(want[1<<20:], contentOf(t, 82, 512<<10))
	clear(want[2<<20:])
	marks := target.(pipe.ExtentTarget)
	_, err = target.WriteAt(t.Context(), want[1<<20:1<<20+512<<10], 1<<20)
	require.NoError(t, err)
	require.NoError(t, marks.Mark(t.Context(), pipe.Extent{Off: 0, Len: 1 << 20, Kind: pipe.Unchanged}))
	require.NoError(t, marks.Mark(t.Context(), pipe.Extent{Off: 2 << 20, Len: 1 << 20, Kind: pipe.Free}))
	require.NoError(t, target.Commit(t.Context()))
	require.NoError(t, target.Close())
	require.Equal(t, want, c.disk.p)
	require.IsType(t, &nfcsoap.NfcRandomAccessOpenDisk{}, c.object.asked[0])
	c.clean(t)
}
