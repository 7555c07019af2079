//go:build unix

package kvm

import (
	"io/fs"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseURL(t *testing.T) {
	m, o, err := ParseURL("kvm:///run/vm/qmp.sock?agent=/run/vm/qga.sock&name=web1&scratch=/var/tmp")
	require.NoError(t, err)
	require.Equal(t, Machine{QMP: "/run/vm/qmp.sock", Agent: "/run/vm/qga.sock", Name: "web1"}, m)
	require.Equal(t, "/var/tmp", o.Scratch)
	m, _, err = ParseURL("kvm:///a%20b")
	require.NoError(t, err)
	require.Equal(t, Machine{QMP: "/a b"}, m)
	m, _, err = ParseURL("kvm:///q?disk=vda=/vm/a.qcow2&disk=vdb=raw:/vm/b=c,d:e")
	require.NoError(t, err)
	require.Equal(t, []DiskImage{{Key: "vda", Path: "/vm/a.qcow2"}, {Key: "vdb", Path: "/vm/b=c,d:e", Format: "raw"}}, m.Disks)
	for _, bad := range []string{
		"kvm:///q?disk=/vm/a", "kvm:///q?disk=vda=a", "kvm:///q?disk=vda=vmdk:/a", "kvm:///q?disk=a=/x&disk=a=/y", "kvm:///q?disk=a=/x&disk=b=/x", "kvm:///q?disk=../a=/x",
		"", "kvm:", "kvm://", "kvm:///", "kvm://host/run/qmp", "kvm:///q?agent=", "kvm:///q?agent=qga.sock", "kvm:///q?x=1",
		"kvm:///q?name=a&name=b", "kvm:q", "file:///q", "kvm:///q#f", "kvm://u@/q", "kvm:///q?name=%zz", "kvm:///q%00",
	} {
		_, _, err := ParseURL(bad)
		require.ErrorIs(t, err, fs.ErrInvalid, bad)
	}
}

func TestParseHostURL(t *testing.T) {
	h, o, err := ParseHostURL("kvm+libvirt:///system?vm=web1&vm=db1&scratch=/var/tmp&socket=/run/s")
	require.NoError(t, err)
	require.Equal(t, Host{Socket: "/run/s", URI: "qemu:///system", VMs: []string{"web1", "db1"}}, h)
	require.Equal(t, "/var/tmp", o.Scratch)
	h, _, err = ParseHostURL("kvm+libvirt://localhost/session")
	require.NoError(t, err)
	require.Equal(t, Host{URI: "qemu:///session"}, h)
	for _, bad := range []string{
		"kvm+libvirt:", "kvm+libvirt:///", "kvm+libvirt:///lxc", "kvm+libvirt://u@/system", "kvm+libvirt:///system?vm=", "kvm+libvirt:///system#f",
		"kvm+libvirt:///system?scratch=a", "kvm+libvirt:///system?socket=/a&socket=/b", "kvm+libvirt:///system?agent=/a", "kvm:///system?vm=web1",
	} {
		_, _, err := ParseHostURL(bad)
		require.ErrorIs(t, err, fs.ErrInvalid, bad)
	}
	_, _, err = ParseHostURL("kvm+libvirt://host7/system?vm=web1")
	require.ErrorContains(t, err, "run this on host7")
}
