package hyperv

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// R037, R036: VMs on shares. Every host, procedure and mode either is planned, or refused by a condition that has a name: no host before 2012
// has such VMs, and a share's shadow copy that a host's writer works in is read by that host alone.
func TestPlanShares(t *testing.T) {
	for _, build := range []int{7601, 9200, 9600, 17763} {
		for _, procedure := range Procedures {
			for _, mode := range []Mode{OnHost, OffHost} {
				f := probed{host: HostInfo{Name: "HV1", Build: build}, machine: &Machine{ID: someVM, Name: "web1", ConfigVersion: "9.0",
					Disks: []Disk{{Key: "k", Controller: "scsi", Format: FormatVHDX, Path: `C:\a.vhdx`}}}}
				o := ProviderOptions{Procedure: procedure, Mode: mode, Requester: anyRequester, Volumes: []VolumeSnapshotter{pins{}}}
				_, without := f.choose(&o)
				f.machine.Disks = append(f.machine.Disks, Disk{Key: "l", Controller: "scsi", Slot: 1, Format: FormatVHDX, Path: `\\FS1\vms\b.vhdx`})
				_, err := f.choose(&o)
				what := fmt.Sprintf("build %d, %s, %s: %v", build, procedure, mode, err)
				if without != nil {
					require.Error(t, err, what)
					continue
				}
				var refused *PlanError
				switch {
				case build < build2012:
					require.ErrorAs(t, err, &refused, what)
					require.Equal(t, aboutDisks, refused.Unmet[0].About, what)
					require.Contains(t, refused.Unmet[0].Found, `2008 R2 (build 7601); \\fs1\vms`, what)
					require.NotEmpty(t, refused.Unmet[0].Hint, what)
				case mode == OffHost && procedure != Production:
					require.ErrorAs(t, err, &refused, what)
					require.Len(t, refused.Unmet, 1, what)
					require.Contains(t, refused.Unmet[0].Rule, "no disk lies on a share", what)
				default:
					require.NoError(t, err, what)
				}
			}
		}
	}
}
