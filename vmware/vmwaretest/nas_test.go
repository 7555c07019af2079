package vmwaretest

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

// What a server says may be wrong in every length: the host's client neither believes nor outgrows it.
func TestNASAnswers(t *testing.T) {
	for what, b := range map[string][]byte{
		"nothing":         nil,
		"another call":    xdr(nil).u32(8, 1, 0, 0, 0, 0),
		"denied":          xdr(nil).u32(7, 1, 1, 0, 0, 0),
		"a long verifier": xdr(nil).u32(7, 1, 0, 0, 1<<31, 0),
		"garbage":         xdr(nil).u32(7, 1, 0, 0, 0, 4),
	} {
		_, err := rpcAnswer(b, 7)
		require.ErrorIs(t, err, errNASAnswer, what)
	}
	u := &unx{b: xdr(nil).u32(5).u64(1)}
	require.Nil(t, u.bytes(4))
	require.True(t, u.bad)
	require.Zero(t, u.u64(), "nothing is read past an end")
	for code, want := range map[uint32]error{1: fs.ErrPermission, 2: fs.ErrNotExist, 13: fs.ErrPermission, 17: fs.ErrExist, 28: syscall.ENOSPC} {
		require.ErrorIs(t, &nasStatus{3, code}, want)
	}
	require.NoError(t, errors.Unwrap(&nasStatus{3, 70}))
}

// An answer that is longer than any ends the call, before it is held in memory.
func TestNASLongAnswer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	served := make(chan struct{})
	go func() {
		defer close(served)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		conn.Write(binary.BigEndian.AppendUint32(nil, 1<<31|nasMessage+1))
		conn.Read(make([]byte, 1024))
	}()
	conn, err := net.DialTimeout("tcp", l.Addr().String(), time.Second)
	require.NoError(t, err)
	c := &nasClient{conn: conn, stopping: make(chan struct{})}
	defer c.close()
	_, err = c.call(rpcNFS, nfsLookup, nil)
	require.ErrorIs(t, err, errNASAnswer)
	c.close()
	<-served
}

// A host mounts nothing that is not served, and says why; nothing is left of the try.
func TestNASMountFails(t *testing.T) {
	s, err := Start(&Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	host := s.reg.All("HostSystem")[0].(*simulator.HostSystem)
	system := *host.ConfigManager.DatastoreSystem
	good := types.HostNasVolumeSpec{RemoteHost: "127.0.0.1", RemotePath: "/hikae/x", LocalPath: "hikae-x", AccessMode: "readWrite", Type: "NFS"}
	s.AskPortMapper("127.0.0.1:9") // discard: nobody is there
	_, f := s.nases.mount(s.context(), &types.CreateNasDatastore{This: system, Spec: good})
	require.IsType(t, &types.PlatformConfigFault{}, f)
	for _, change := range []func(*types.HostNasVolumeSpec){
		func(spec *types.HostNasVolumeSpec) { spec.RemotePath = "" },
		func(spec *types.HostNasVolumeSpec) { spec.LocalPath = "a/b" },
		func(spec *types.HostNasVolumeSpec) { spec.Type = "CIFS" },
		func(spec *types.HostNasVolumeSpec) { spec.LocalPath = "LocalDS_0" },
	} {
		spec := good
		change(&spec)
		_, f := s.nases.mount(s.context(), &types.CreateNasDatastore{This: system, Spec: spec})
		require.NotNil(t, f)
	}
	require.NotNil(t, s.nases.unmount(s.context(), &types.RemoveDatastore{This: system, Datastore: s.datastore("LocalDS_0").Self}), "it is no mount")
	require.Empty(t, s.Leftovers())
}

// A question for a UUID that nobody has is answered, as is every other after it.
func TestFindByUUID(t *testing.T) {
	s, err := Start(&Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	vm := s.VM("web0").sim()
	c := &searchCalls{s.over("SearchIndex", "core")}
	yes := true
	find := func(uuid string) *types.ManagedObjectReference {
		res := c.FindByUuid(s.context(), &types.FindByUuid{Uuid: uuid, VmSearch: true, InstanceUuid: &yes})
		return res.(*methods.FindByUuidBody).Res.Returnval
	}
	require.Equal(t, vm.Self, *find(vm.Config.InstanceUuid))
	require.Nil(t, find("00000000-0000-0000-0000-000000000000"))
	require.Nil(t, find(""))
}
