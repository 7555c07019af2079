package vmwaretest

import (
	"bytes"
	"errors"
	"testing"

	"github.com/hikae/hikae/vmware/internal/nfcsoap"
	"github.com/hikae/hikae/vmware/nfc"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/vim25/types"
)

func clientTicket(r *rig, t *types.HostServiceTicket) nfc.Ticket {
	out := nfc.Ticket{Host: t.Host, Port: int(t.Port), Service: t.Service, SessionID: t.SessionId, Thumbprint: t.SslThumbprint}
	if out.Host == "" {
		out.Host = r.s.URL().Hostname()
	}
	return out
}

// openedDisk is a disk with its connection.
type openedDisk struct {
	*nfc.Disk
	conn *nfc.Conn
}

func (d openedDisk) Close() error { return errors.Join(d.Disk.Close(), d.conn.Close()) }

func openDisk(r *rig, ticket nfc.Ticket, file string) (openedDisk, error) {
	conn, err := nfc.Dial(r.ctx, ticket, nil)
	if err != nil {
		return openedDisk{}, err
	}
	img, err := conn.Open(r.ctx, file, false)
	if err != nil {
		return openedDisk{}, errors.Join(err, conn.Close())
	}
	return openedDisk{img, conn}, nil
}

// TestDiskService: a ticket opens what it is for, over the wire, on vCenter and on a host alone.
func TestDiskService(t *testing.T) {
	for _, esx := range []bool{false, true} {
		r := newRig(t, &Options{ESX: esx, VMs: 2, DiskBytes: 1 << 20})
		v := r.s.VM("web0")
		want := pattern(1<<20, 3)
		require.NoError(t, v.Disk(0).Write(0, want))
		file := v.Disk(0).File()
		service, err := nfcsoap.Find(r.ctx, r.c)
		require.NoError(t, err)
		if esx {
			require.Equal(t, nfcsoap.OfHost, service)
		}
		ticket := func() nfc.Ticket {
			got, err := nfcsoap.GetVMFiles(r.ctx, r.c, service, v.Ref(), types.ManagedObjectReference{})
			require.NoError(t, err)
			return clientTicket(r, got)
		}
		_, err = openDisk(r, ticket(), file)
		require.Error(t, err, "a running VM's disk cannot be opened")
		snap := r.create(v, false)
		require.NoError(t, v.Disk(0).Write(0, pattern(4096, 4)))
		img, err := openDisk(r, ticket(), file)
		require.NoError(t, err)
		got := make([]byte, 1<<20)
		_, err = img.ReadAt(r.ctx, got, 0)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got))
		require.NoError(t, img.Close())
		_, err = openDisk(r, ticket(), r.s.VM("web1").Disk(0).File())
		require.Error(t, err, "another VM's disk")
		_, err = nfcsoap.OpenDisk(r.ctx, r.c, service, v.Ref(), 4711, types.ManagedObjectReference{})
		require.True(t, fault.Is(err, &types.InvalidArgument{}), "%v", err)
		require.NoError(t, r.remove(snap, false))
	}
}
