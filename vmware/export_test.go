package vmware

import (
	"context"
	"errors"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/vmware/vmdk"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// notes is a journal in memory.
type notes struct {
	mu   sync.Mutex
	open map[string]hikae.Effect
	n    int
	fail error
}

func (j *notes) Intend(_ context.Context, e hikae.Effect) (func(context.Context) error, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.fail != nil && e.Facts["lease"] != "" {
		return nil, j.fail
	}
	if j.open == nil {
		j.open = map[string]hikae.Effect{}
	}
	j.n++
	e.ID = strings.Repeat("i", j.n)
	j.open[e.ID] = e
	return func(context.Context) error {
		j.mu.Lock()
		defer j.mu.Unlock()
		delete(j.open, e.ID)
		return nil
	}, nil
}

func (j *notes) left() []hikae.Effect {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []hikae.Effect
	for _, e := range j.open {
		out = append(out, e)
	}
	return out
}

// exporting is a snapshot whose leases look like those of a host: keys by controller, and a stream behind the addresses.
type exporting struct {
	*simulator.VirtualMachineSnapshot
	shop *exportShop
}

type exportShop struct {
	*shop
	pinned *Pinned
	notes  *notes
	serve  http.HandlerFunc
	lease  atomic.Pointer[simulator.HttpNfcLease]
	change func(l *simulator.HttpNfcLease)
	beats  atomic.Int64
	refuse atomic.Bool // of progress
}

func (e *exporting) ExportSnapshot(ctx *simulator.Context, req *types.ExportSnapshot) soap.HasFault {
	res := e.VirtualMachineSnapshot.ExportSnapshot(ctx, req)
	ref := res.(*methods.ExportSnapshotBody).Res.Returnval
	l := ctx.Session.Get(ref).(*simulator.HttpNfcLease)
	one := l.Info.DeviceUrl[0]
	urls := []types.HttpNfcLeaseDeviceUrl{one, one, one}
	urls[0].Key, urls[0].Disk = "/vm-42/VirtualLsiLogicController0:0", types.NewBool(true)
	urls[1].Key, urls[1].Disk = "/vm-42/VirtualLsiLogicController0:1", types.NewBool(true)
	urls[2].Key, urls[2].Disk = "/vm-42/nvram", types.NewBool(false)
	urls[1].Url = strings.Replace(urls[1].Url, "/nfc/", "/nfc/second/", 1)
	l.Info.DeviceUrl = urls
	e.shop.lease.Store(l)
	ctx.Session.Registry.Put(&beating{l, e.shop})
	if e.shop.change != nil {
		e.shop.change(l)
	}
	return res
}

// beating is a lease that counts its signs of life.
type beating struct {
	*simulator.HttpNfcLease
	shop *exportShop
}

func (b *beating) HttpNfcLeaseProgress(ctx *simulator.Context, req *types.HttpNfcLeaseProgress) soap.HasFault {
	b.shop.beats.Add(1)
	if b.shop.refuse.Load() {
		return &methods.HttpNfcLeaseProgressBody{Fault_: simulator.Fault("it timed out", &types.InvalidState{})}
	}
	return b.HttpNfcLease.HttpNfcLeaseProgress(ctx, req)
}

func newExportShop(t *testing.T, disk pipe.Image) *exportShop {
	t.Helper()
	s := &exportShop{shop: newShop(t, simulator.VPX()), notes: &notes{}}
	s.model.Map().Handler = func(ctx *simulator.Context, m *simulator.Method) (mo.Reference, types.BaseMethodFault) {
		if m.Name == "ExportSnapshot" && ctx.Session != nil {
			if snap, ok := ctx.Map.Get(m.This).(*simulator.VirtualMachineSnapshot); ok {
				ctx.Session.Registry.Put(&exporting{snap, s})
			}
		}
		return nil, nil
	}
	s.serve = func(w http.ResponseWriter, r *http.Request) {
		img := disk
		if strings.Contains(r.URL.Path, "/second/") {
			img = pipetest.NewPattern(99, disk.Size())
		}
		_, _ = vmdk.WriteStream(r.Context(), w, img, nil)
	}
	s.model.Service.ServeMux.HandleFunc("GET /nfc/", func(w http.ResponseWriter, r *http.Request) { s.serve(w, r) })
	task, err := object.NewVirtualMachine(s.client.Vim(), s.vm.Self).CreateSnapshot(t.Context(), "hikae 1", "", false, false)
	require.NoError(t, err)
	info, err := s.client.Wait(t.Context(), task.Reference())
	require.NoError(t, err)
	p := s.pin("web1/web1.vmdk", disk.Size())
	p.Snapshot, p.Disk.Slot, p.Disk.Device = info.Result.(types.ManagedObjectReference), "scsi0:0", 2000
	p.Journal, p.Scratch = s.notes, t.TempDir()
	s.pinned = p
	return s
}

// clean holds that nothing is left: no lease, no note, no file.
func (s *exportShop) clean(t *testing.T) {
	t.Helper()
	require.Empty(t, s.notes.left())
	left, err := os.ReadDir(s.pinned.Scratch)
	require.NoError(t, err)
	require.Empty(t, left)
	if l := s.lease.Load(); l != nil {
		var m mo.HttpNfcLease
		_, err := methods.RetrieveProperties(t.Context(), s.client.Vim(), &types.RetrieveProperties{This: s.client.Vim().ServiceContent.PropertyCollector,
			SpecSet: []types.PropertyFilterSpec{{ObjectSet: []types.ObjectSpec{{Obj: l.Self}}, PropSet: []types.PropertySpec{{Type: "HttpNfcLease", PathSet: []string{"state"}}}}}})
		require.True(t, isGone(err), "%v %v", m, err)
	}
}

// TestExport: the disk that was asked for, and not its neighbour of the same size, is here byte for byte when the lease is
// over.
func TestExport(t *testing.T) {
	const size = 6<<20 + 512
	want := pipetest.NewPattern(51, size, pipetest.RandomLayout(51, size, pipe.Zero, pipe.Data)...)
	s := newExportShop(t, want)
	tr := newExport()
	require.NoError(t, tr.Check(t.Context(), s.pinned))
	img, err := tr.Open(t.Context(), s.pinned)
	require.NoError(t, err)
	s.clean(t)
	pipetest.TestImage(t, img, pipetest.Bytes(contentOfImage(t, want)))
	require.NoError(t, img.Close())
	s.clean(t)
	s.pinned.Disk.Slot = "scsi0:1"
	img, err = tr.Open(t.Context(), s.pinned)
	require.NoError(t, err)
	pipetest.TestImage(t, img, pipetest.NewPattern(99, size))
	require.NoError(t, img.Close())
	s.clean(t)
}

func contentOfImage(t *testing.T, img pipe.Image) []byte {
	p := make([]byte, img.Size())
	_, err := img.ReadAt(t.Context(), p, 0)
	require.NoError(t, err)
	return p
}

// TestExportStaysAlive: while a stream is slow, the host hears of us.
func TestExportStaysAlive(t *testing.T) {
	want := pipetest.NewPattern(52, 1<<20)
	s := newExportShop(t, want)
	serve := s.serve
	s.serve = func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(150 * time.Millisecond)
		serve(w, r)
	}
	tr := newExport()
	tr.every = 20 * time.Millisecond
	img, err := tr.Open(t.Context(), s.pinned)
	require.NoError(t, err)
	require.NoError(t, img.Close())
	require.GreaterOrEqual(t, s.beats.Load(), int64(2))
	s.clean(t)
}

// TestExportFails: whatever goes wrong, the lease is ended, the notes are closed, and no file is left.
func TestExportFails(t *testing.T) {
	s := newExportShop(t, pipetest.NewPattern(53, 1<<20))
	for name, c := range map[string]struct {
		change func(s *exportShop)
		want   string
	}{
		"other disk": {func(s *exportShop) { s.pinned.Disk.Slot = "scsi1:0" }, "not told apart"},
		"two alike": {func(s *exportShop) {
			s.change = func(l *simulator.HttpNfcLease) { l.Info.DeviceUrl[1].Key = l.Info.DeviceUrl[0].Key }
		}, "not told apart"},
		"size": {func(s *exportShop) { s.pinned.Disk.Size += 512 }, "the configuration says"},
		"not found": {func(s *exportShop) {
			s.serve = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }
		}, "404"},
		"cut": {func(s *exportShop) {
			s.serve = func(w http.ResponseWriter, r *http.Request) {
				_, _ = vmdk.WriteStream(r.Context(), &cutWriter{w, 300 << 10}, pipetest.NewPattern(53, 1<<20), nil)
				panic(http.ErrAbortHandler)
			}
		}, "EOF"},
		"ends early": {func(s *exportShop) {
			s.serve = func(w http.ResponseWriter, r *http.Request) {
				_, _ = vmdk.WriteStream(r.Context(), &cutWriter{w, 300 << 10}, pipetest.NewPattern(53, 1<<20), nil)
			}
		}, "corrupt"},
		"garbage": {func(s *exportShop) {
			s.serve = func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 4096)) }
		}, "corrupt"},
		"lease fails": {func(s *exportShop) {
			s.change = func(l *simulator.HttpNfcLease) {
				l.State, l.Error = types.HttpNfcLeaseStateError, &types.LocalizedMethodFault{Fault: &types.FileFault{}, LocalizedMessage: "the file is in use"}
			}
		}, "the file is in use"},
		"plain http": {func(s *exportShop) {
			s.change = func(l *simulator.HttpNfcLease) {
				l.Info.DeviceUrl[0].Url = strings.Replace(l.Info.DeviceUrl[0].Url, "https", "http", 1)
			}
		}, "not https"},
		"journal": {func(s *exportShop) { s.notes.fail = errors.New("the disk is full") }, "the disk is full"},
	} {
		was, serve := *s.pinned, s.serve
		c.change(s)
		_, err := newExport().Open(t.Context(), s.pinned)
		require.ErrorContains(t, err, c.want, name)
		s.clean(t)
		*s.pinned, s.serve, s.change, s.notes.fail = was, serve, nil, nil
	}
}

type cutWriter struct {
	http.ResponseWriter
	left int
}

func (c *cutWriter) Write(p []byte) (int, error) {
	if c.left -= len(p); c.left < 0 {
		return 0, errors.New("cut")
	}
	return c.ResponseWriter.Write(p)
}

// TestExportLosesItsLease: a host that ended the lease is believed, and not waited for.
func TestExportLosesItsLease(t *testing.T) {
	s := newExportShop(t, pipetest.NewPattern(54, 1<<20))
	s.serve = func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	s.refuse.Store(true)
	tr := newExport()
	tr.every = 10 * time.Millisecond
	start := time.Now()
	_, err := tr.Open(t.Context(), s.pinned)
	require.True(t, isFault[*types.InvalidState](err), "%v", err)
	require.Less(t, time.Since(start), timeout)
	s.clean(t)
}

// TestExportIsCancelled: who gives up leaves nothing.
func TestExportIsCancelled(t *testing.T) {
	s := newExportShop(t, pipetest.NewPattern(55, 1<<20))
	ctx, cancel := context.WithCancel(t.Context())
	s.serve = func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	}
	_, err := newExport().Open(ctx, s.pinned)
	require.ErrorIs(t, err, context.Canceled)
	s.clean(t)
}

// TestUndoLease: a dead session's lease is ended; one that is over, or has no name, is no error; and nobody else's is
// touched.
func TestUndoLease(t *testing.T) {
	s := newExportShop(t, pipetest.NewPattern(56, 1<<20))
	tr := newExport()
	mine, err := tr.lease(t.Context(), s.pinned)
	require.NoError(t, err)
	other, err := tr.lease(t.Context(), s.pinned)
	require.NoError(t, err)
	left := s.notes.left()
	require.Len(t, left, 4, "each is written down before it is asked for, and with its name")
	for _, e := range left {
		if e.Facts["lease"] == other.ref.Value {
			continue
		}
		require.Equal(t, s.client.Address(), e.Facts["server"])
		for range 2 {
			require.NoError(t, undo(t.Context(), s.client, e, nil))
		}
	}
	require.Error(t, mine.ready(t.Context()))
	require.NoError(t, other.ready(t.Context()))
	require.NoError(t, other.end(t.Context(), true))
}

// TestSlotInKey: a key that merely ends alike is another disk's.
func TestSlotInKey(t *testing.T) {
	for _, c := range []struct {
		key, slot string
		want      bool
	}{
		{"/vm-42/VirtualLsiLogicController0:0", "scsi0:0", true},
		{"/vm-42/VirtualLsiLogicSASController1:15", "scsi1:15", true},
		{"/10/ParaVirtualSCSIController0:1", "scsi0:1", true},
		{"/vm-42/VirtualAHCIController0:1", "sata0:1", true},
		{"/vm-42/VirtualNVMEController2:0", "nvme2:0", true},
		{"/vm-42/VirtualIDEController1:0", "ide1:0", true},
		{"/vm-42/VirtualIDEController1:0", "scsi1:0", false},
		{"/vm-42/VirtualLsiLogicController10:1", "scsi0:1", false},
		{"/vm-42/VirtualLsiLogicController0:10", "scsi0:1", false},
		{"/vm-42/VirtualLsiLogicController0:1", "scsi0:10", false},
		{"", "scsi0:0", false}, {"/vm-42/VirtualLsiLogicController0:0", "", false}, {"0:0", "scsi0:0", false},
	} {
		require.Equal(t, c.want, slotInKey(c.key, c.slot), "%s %s", c.key, c.slot)
	}
}
