package vmware

import (
	"context"
	"crypto/tls"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/vmware/vmdk"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

const secretWord = "pass=word with $ and 'quotes'"

// simulated is a client of govmomi's own simulator, which has no disks with content: enough where only a server is needed.
func simulated(t *testing.T, model *simulator.Model) *Client {
	t.Helper()
	require.NoError(t, model.Create())
	model.Service.TLS = new(tls.Config)
	server := model.Service.NewServer()
	t.Cleanup(func() { server.Close(); model.Remove() })
	pin := colons(thumbprintOf(server.Certificate(), 32))
	c, err := Connect(t.Context(), &url.URL{Scheme: "https", Host: server.URL.Host}, Login{User: "user", Password: secretWord}, &ConnectOptions{Thumbprint: pin})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close(context.WithoutCancel(t.Context()))) })
	return c
}

// shop is a simulator whose datastore holds real disk files.
type shop struct {
	client *Client
	model  *simulator.Model
	dir    string // the datastore's folder
	vm     *simulator.VirtualMachine
	store  string // the datastore's name
}

func newShop(t *testing.T, model *simulator.Model) *shop {
	t.Helper()
	s := &shop{client: simulated(t, model), model: model}
	s.vm = model.Map().Any("VirtualMachine").(*simulator.VirtualMachine)
	d := model.Map().Get(s.vm.Datastore[0]).(*simulator.Datastore)
	s.dir, s.store = d.Summary.Url, d.Name
	return s
}

// put makes a disk of the datastore, and its pinned description.
func (s *shop) put(t *testing.T, file string, kind vmdk.Type, content *pipetest.Pattern) *Pinned {
	t.Helper()
	at := filepath.Join(s.dir, filepath.FromSlash(file))
	require.NoError(t, os.MkdirAll(filepath.Dir(at), 0o700))
	target, err := vmdk.Create(t.Context(), at, content.Size(), &vmdk.CreateOptions{Type: kind, DDB: map[string]string{"uuid": diskUUID}})
	require.NoError(t, err)
	_, err = pipe.Copy(t.Context(), target, content, nil)
	require.NoError(t, err)
	require.NoError(t, target.Commit(t.Context()))
	return s.pin(file, content.Size())
}

const diskUUID = "60 00 C2 93 7d 4a 5c c3-0b c8 1e 21 9b 8a 41 5f"

func (s *shop) pin(file string, size int64) *Pinned {
	p := pinnedOf(size)
	p.Client, p.VM, p.Host, p.PoweredOn = s.client, s.vm.Self, *s.vm.Runtime.Host, true
	p.Snapshot = types.ManagedObjectReference{Type: "VirtualMachineSnapshot", Value: "snapshot-1"}
	p.Disk.File = (&object.DatastorePath{Datastore: s.store, Path: file}).String()
	p.Disk.Device, p.Disk.Datastore, p.Disk.UUID = 1, s.vm.Datastore[0], "6000c293-7d4a-5cc3-0bc8-1e219b8a415f"
	return p
}

// qemu runs qemu-img in a folder of the datastore.
func (s *shop) qemu(t *testing.T, folder string, args ...string) {
	t.Helper()
	runIn(t, filepath.Join(s.dir, folder), "qemu-img", args...)
}
