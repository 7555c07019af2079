package kvm

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/hikae/hikae"
)

// otherFileSystem is a folder that is not on the file system of temporary files.
func otherFileSystem(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "hikae")
	if err != nil {
		t.Skip("needs /dev/shm: ", err)
	}
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	here, err := fileSystemOf(t.TempDir())
	require.NoError(t, err)
	there, err := fileSystemOf(dir)
	require.NoError(t, err)
	if here == there {
		t.Skip("/dev/shm is the file system of temporary files")
	}
	return dir
}

// R201: limits know where disks lie: images on one file system are on one place, whatever the folder, and those on another are not.
func TestDatastoresOfAVMThatIsOff(t *testing.T) {
	here, there := t.TempDir(), otherFileSystem(t)
	m := Machine{QMP: here + "/none", Name: "web1"}
	require.NoError(t, os.Mkdir(here+"/below", 0o700))
	for key, path := range map[string]string{"a": here + "/a.raw", "b": here + "/below/b.raw", "c": there + "/c.raw"} {
		require.NoError(t, os.WriteFile(path, make([]byte, 4096), 0o600))
		m.Disks = append(m.Disks, DiskImage{Key: key, Path: path, Format: formatRaw})
	}
	link := here + "/link.raw"
	require.NoError(t, os.WriteFile(there+"/d.raw", make([]byte, 4096), 0o600))
	require.NoError(t, os.Symlink(there+"/d.raw", link))
	m.Disks = append(m.Disks, DiskImage{Key: "d", Path: link, Format: formatRaw})
	for vm, err := range New([]Machine{m}, nil).VMs(t.Context()) {
		require.NoError(t, err)
		require.Equal(t, "/dev/shm", vm.Facts["datastore.c"])
		require.Equal(t, "/dev/shm", vm.Facts["datastore.d"], "where a link leads to")
		require.Equal(t, vm.Facts["datastore.a"], vm.Facts["datastore.b"])
		place := vm.Facts["datastore.a"]
		require.True(t, filepath.IsAbs(place) && place != "/dev/shm", place)
		var mounted, file unix.Statfs_t
		require.NoError(t, unix.Statfs(place, &mounted))
		require.NoError(t, unix.Statfs(here+"/a.raw", &file))
		require.Equal(t, mounted.Fsid, file.Fsid)
	}
}

// R201: what a QEMU that runs has its disks on, also where it names them by the folder it was started in.
func TestDatastoresOfInventory(t *testing.T) {
	here, there := t.TempDir(), otherFileSystem(t)
	require.NoError(t, os.WriteFile(there+"/c.raw", nil, 0o600))
	require.NoError(t, os.WriteFile(here+"/a.raw", nil, 0o600))
	t.Chdir(there)
	inv := &inventory{disks: []disk{{Key: "a", image: here + "/a.raw"}, {Key: "c", image: "c.raw"}, {Key: "n", image: "nbd://127.0.0.1/x"},
		{Key: "j", image: `json:{"driver":"rbd"}`}, {Key: "gone", image: there + "/gone"}, {Key: "none"}}}
	vm := inv.vm(Machine{QMP: "/none"})
	tellPlaces(t.Context(), vm, inv.images(processed{nil, os.Getpid()}))
	require.Equal(t, "/dev/shm", vm.Facts["datastore.c"])
	require.NotEmpty(t, vm.Facts["datastore.a"])
	for _, key := range []string{"n", "j", "gone", "none"} {
		require.NotContains(t, vm.Facts, "datastore."+key)
	}
}

// Devices of one volume group are on one place.
func TestDatastoresOfDevices(t *testing.T) {
	for device, place := range map[string]string{"/dev/vg0/web1": "/dev/vg0", "/dev/zvol/tank/web1": "/dev/zvol/tank", "/dev/sdb": "/dev/sdb",
		"/dev/mapper/vg0-web1": "/dev/mapper/vg0-web1", "/dev/disk/by-id/x": "/dev/disk/by-id/x", "/vm/device": "/vm/device"} {
		require.Equal(t, place, deviceGroup(device))
	}
	require.Equal(t, "/dev/null", placeOf("/dev/null"))
	vm := hikae.VM{Facts: map[string]string{}}
	tellPlaces(t.Context(), vm, nil)
	require.Empty(t, vm.Facts)
}
