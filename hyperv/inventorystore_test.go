package hyperv

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// R201, R203: the place of a disk has one name for all VMs that share it, whichever host tells it and however it writes it.
func TestStoreOfADisk(t *testing.T) {
	for path, want := range map[string]string{
		`C:\ClusterStorage\Volume1\web1\a.vhdx`: "volume1", `c:\clusterstorage\VOLUME1\b.vhdx`: "volume1", `C:\ClusterStorage\a.vhdx`: "",
		`\\Files\Share\x\a.vhdx`: `\\files\share`, `//files/share/a.vhdx`: `\\files\share`, `\\files\share`: "",
		`d:\vm\a.vhdx`: "D: of HV1", `D:/vm/a.vhdx`: "D: of HV1", "": "", "a.vhdx": "", `\\?\Volume{x}\a.vhdx`: `\\?\volume{x}`,
	} {
		d := Disk{Path: path}
		require.Equal(t, want, d.store(HostInfo{Name: "HV1"}), path)
		d.Physical = true
		require.Empty(t, d.store(HostInfo{Name: "HV1"}), path)
	}
}
