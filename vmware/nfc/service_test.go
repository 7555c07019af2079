package nfc_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/vmware/nfc"
	"github.com/hikae/hikae/vmware/nfc/nfctest"
)

// service is a disk service that keeps the rules, made by others from the same sources: what both understand is at least
// not one hand's mistake.
type service struct {
	*nfctest.Server
	t    testing.TB
	next atomic.Int64
}

const vmdk = "[datastore1] web0/web0.vmdk"

// serve offers one disk.
func serve(t testing.TB, disk nfctest.Disk, opts nfctest.Options) *service {
	opts.Open = func(_ context.Context, _, path string, write bool) (nfctest.Disk, error) {
		if path != vmdk {
			return nil, fs.ErrNotExist
		}
		return keep{disk}, nil
	}
	ss, err := nfctest.Listen("127.0.0.1:0", &opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, ss.Close()) })
	return &service{Server: ss, t: t}
}

// keep is a disk that outlives its sessions.
type keep struct{ nfctest.Disk }

func (k keep) Close() error       { return nil }
func (k keep) Unwrap() pipe.Image { return k.Disk }
func (k keep) Key(name string) (string, bool) {
	return "60 00 C2 9d", name == "uuid"
}

func (s *service) ticket(write bool) nfc.Ticket {
	id := fmt.Sprintf("52f3a1-%d", s.next.Add(1))
	require.NoError(s.t, s.AddTicket(nfctest.Ticket{Session: id, Write: write}))
	return nfc.Ticket{Host: "127.0.0.1", Port: s.Addr().Port, Service: "vpxa-nfc", SessionID: id, Thumbprint: s.Thumbprint()}
}

func (s *service) open(t testing.TB, write bool, opts nfc.Options) *nfc.Disk {
	c, err := nfc.Dial(t.Context(), s.ticket(write), &opts)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	d, err := c.Open(t.Context(), vmdk, write)
	require.NoError(t, err)
	return d
}

// clean waits until nothing of ours is left on the service.
func (s *service) clean(t testing.TB) {
	t.Helper()
	require.Eventually(t, func() bool { return len(s.Leftovers()) == 0 }, 5*time.Second, 2*time.Millisecond, "%v", s.Leftovers())
}

// filled is a disk with content, zeros that are told of and zeros that are not.
func filled(t testing.TB, size int64) *pipe.Memory {
	m := pipe.NewMemory(size)
	src := pipetest.NewPattern(uint64(size), size, pipetest.RandomLayout(uint64(size), size, pipe.Data, pipe.Zero)...)
	_, err := pipe.Copy(t.Context(), m, src, nil)
	require.NoError(t, err)
	return m
}

// The suite for images against the service, in every mode (R113), and nothing stays behind.
func TestServiceImage(t *testing.T) {
	disk := filled(t, 3<<20+512)
	for name, c := range map[string]struct {
		client nfc.Options
		host   nfctest.Options
	}{
		"nbdssl": {}, "nbd": {client: nfc.Options{Clear: true}}, "TLS 1.2": {host: nfctest.Options{MaxTLS: tls.VersionTLS12}},
		"nbd, TLS 1.2":  {client: nfc.Options{Clear: true}, host: nfctest.Options{MaxTLS: tls.VersionTLS12}},
		"64 KiB":        {client: nfc.Options{Buffer: 64 << 10}},
		"2 MiB":         {client: nfc.Options{Buffer: 2 << 20}},
		"many pieces":   {client: nfc.Options{InFlight: 16}, host: nfctest.Options{FragmentBytes: 4096}},
		"one at a time": {client: nfc.Options{InFlight: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, disk, c.host)
			c.client.Size = disk.Size()
			d := s.open(t, false, c.client)
			pipetest.TestImage(t, d, disk)
			uuid, err := d.Property(t.Context(), "uuid")
			require.NoError(t, err)
			require.Equal(t, "60 00 C2 9d", uuid)
			_, err = d.Property(t.Context(), "isDigest")
			require.ErrorIs(t, err, fs.ErrNotExist)
			require.NoError(t, d.Close())
			s.clean(t)
			require.NoError(t, d.Untold())
		})
	}
}

// What the service tells of allocated blocks is what the disk holds.
func TestServiceExtents(t *testing.T) {
	disk := filled(t, 8<<20)
	s := serve(t, disk, nfctest.Options{})
	d := s.open(t, false, nfc.Options{})
	zero := int64(0)
	for e, err := range d.Extents(t.Context(), 0, d.Size()) {
		require.NoError(t, err)
		if e.Kind == pipe.Zero {
			zero += e.Len
		}
	}
	require.Greater(t, zero, int64(1<<20))
	copied := pipe.NewMemory(disk.Size())
	stats, err := pipe.Copy(t.Context(), copied, d, nil)
	require.NoError(t, err)
	require.NotNil(t, stats)
	diff, err := pipe.Compare(t.Context(), copied, disk, nil)
	require.NoError(t, err)
	require.Empty(t, diff)
}

// The suite for targets against the service, on disks that are rounded up to whole sectors. What a disk that is not fresh
// held before is written over by marks.
func TestServiceTarget(t *testing.T) {
	pipetest.TestTarget(t, func(t testing.TB, size int64) (pipe.Target, func() pipe.Image) {
		disk, fresh := pipe.NewMemory((size+511)/512*512), size%2 == 0
		s := serve(t, disk, nfctest.Options{})
		target, err := s.open(t, true, nfc.Options{Buffer: 256 << 10}).Target(&nfc.TargetOptions{Fresh: fresh})
		require.NoError(t, err)
		t.Cleanup(func() { target.Close() })
		return trimmed{target, size}, func() pipe.Image {
			require.NoError(t, target.Close())
			s.clean(t)
			img, err := pipe.Section(disk, 0, size)
			require.NoError(t, err)
			return img
		}
	})
}

// trimmed is a disk without the end of its last sector: virtual disks are whole sectors, the suite's are not.
type trimmed struct {
	*nfc.Target
	size int64
}

func (s trimmed) Size() int64 { return s.size }

func (s trimmed) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off >= 0 && off < s.Target.Size() && off+int64(len(p)) > s.size {
		return 0, fs.ErrInvalid
	}
	return s.Target.WriteAt(ctx, p, off)
}

func (s trimmed) Mark(ctx context.Context, e pipe.Extent) error {
	if e.Off >= 0 && e.Off < s.Target.Size() && e.End() > s.size {
		return fs.ErrInvalid
	}
	return s.Target.Mark(ctx, e)
}

// Each fault of the service is an error of its kind, or made good by a new connection, and never wrong bytes.
func TestServiceFaults(t *testing.T) {
	disk := filled(t, 1<<20)
	broke := func(err error) bool { _, is := errors.AsType[*nfc.ProtocolError](err); return is }
	refused := func(err error) bool { _, is := errors.AsType[*nfc.HostError](err); return is }
	lost := func(err error) bool { return errors.Is(err, nfc.ErrLost) }
	for name, c := range map[string]struct {
		fault  nfctest.Fault
		want   func(error) bool // nil: the read succeeds
		redial bool             // a new connection makes it good
	}{
		"refuse":          {fault: nfctest.Fault{Kind: nfctest.Refuse, Code: 13}, want: refused},
		"a short stall":   {fault: nfctest.Fault{Kind: nfctest.Stall, Delay: 50 * time.Millisecond}},
		"a long stall":    {fault: nfctest.Fault{Kind: nfctest.Stall, Delay: 2 * time.Second}, want: lost, redial: true},
		"wrong length":    {fault: nfctest.Fault{Kind: nfctest.WrongLength}, want: broke},
		"reversed":        {fault: nfctest.Fault{Kind: nfctest.Reversed}},
		"duplicate":       {fault: nfctest.Fault{Kind: nfctest.Duplicate}, want: broke},
		"short":           {fault: nfctest.Fault{Kind: nfctest.Short}, want: lost, redial: true},
		"oversized":       {fault: nfctest.Fault{Kind: nfctest.Oversized}, want: broke},
		"stray":           {fault: nfctest.Fault{Kind: nfctest.Stray}, want: broke},
		"refused opening": {fault: nfctest.Fault{Kind: nfctest.Refuse, Type: 4, Code: 4}},
	} {
		for _, redial := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, redial %v", name, redial), func(t *testing.T) {
				t.Parallel()
				s := serve(t, disk, nfctest.Options{FragmentBytes: 64 << 10})
				opts := nfc.Options{Timeout: 400 * time.Millisecond}
				if redial {
					opts.Redial = func(context.Context) (nfc.Ticket, error) { return s.ticket(false), nil }
				}
				d := s.open(t, false, opts)
				s.Fail(c.fault)
				got := make([]byte, 512<<10)
				_, err := d.ReadAt(t.Context(), got, 128<<10)
				if c.want == nil || redial && c.redial {
					require.NoError(t, err)
					want := make([]byte, len(got))
					_, err = disk.ReadAt(t.Context(), want, 128<<10)
					require.NoError(t, err)
					require.Equal(t, want, got)
				} else {
					require.True(t, c.want(err), "%v", err)
				}
				require.NoError(t, d.Close())
				s.ClearFaults()
				s.clean(t)
			})
		}
	}
}

// A connection that ends at any place of what the service sends: with new tickets the copy is the disk.
func TestServiceDrops(t *testing.T) {
	disk := filled(t, 2<<20)
	for _, after := range []int64{0, 100, 700, 1500, 70_000, 300_001} {
		s := serve(t, disk, nfctest.Options{})
		opts := nfc.Options{Buffer: 128 << 10, Timeout: 300 * time.Millisecond}
		opts.Redial = func(context.Context) (nfc.Ticket, error) { return s.ticket(false), nil }
		d := s.open(t, false, opts)
		s.Fail(nfctest.Fault{Kind: nfctest.Stall, Delay: time.Second})    // ends this connection
		s.Fail(nfctest.Fault{Kind: nfctest.Drop, After: after, Times: 2}) // and the next two
		copied := pipe.NewMemory(disk.Size())
		_, err := pipe.Copy(t.Context(), copied, pipe.Retry(d, &pipe.RetryOptions{Wait: time.Millisecond}), nil)
		require.NoError(t, err)
		diff, err := pipe.Compare(t.Context(), copied, disk, nil)
		require.NoError(t, err)
		require.Empty(t, diff)
		require.NoError(t, d.Close())
		least := int64(2)
		if after <= 1500 { // before any piece of the disk is whole
			least = 4
		}
		require.GreaterOrEqual(t, s.Stats().Connections, least)
	}
}

// What the service refuses has a type, and says where.
func TestServiceRefusals(t *testing.T) {
	disk := filled(t, 1<<20)
	s := serve(t, disk, nfctest.Options{BufferMemory: 6 << 20})
	ticket := s.ticket(false)
	c, err := nfc.Dial(t.Context(), ticket, nil)
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Open(t.Context(), "[datastore1] other.vmdk", false)
	var host *nfc.HostError
	require.ErrorAs(t, err, &host)
	_, err = c.Open(t.Context(), vmdk, true)
	require.ErrorIs(t, err, fs.ErrPermission, "a ticket for reading")
	_, err = nfc.Dial(t.Context(), ticket, nil)
	var refused *nfc.RefusedError
	require.ErrorAs(t, err, &refused, "a spent ticket")
	require.NotContains(t, err.Error(), ticket.SessionID)
	_, err = nfc.Dial(t.Context(), s.ticket(false), nil)
	require.ErrorAs(t, err, &host, "no memory for more buffers")
	require.EqualValues(t, nfctest.CodeMemory, host.Code)
	require.NoError(t, c.Close())
	s.clean(t)
}
