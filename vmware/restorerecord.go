package vmware

import (
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
)

const (
	recordBlob  = configXML
	maxDevices  = 1024
	maxNVRAM    = 16 << 20 // bytes; a firmware's variables have some hundred KiB
	nvramEnding = ".nvram"
)

// readRecord finds the VM's configuration, as its server described it, in that of a point; nil where the point holds none:
// it is of another hypervisor. What stands there may have been damaged or made up.
func readRecord(config map[string][]byte) (*types.VirtualMachineConfigInfo, error) {
	text, ok := config[recordBlob]
	if !ok {
		return nil, nil
	}
	info, err := ParseConfig(text)
	if err != nil {
		return nil, err
	}
	return info, checkRecord(info)
}

func checkRecord(info *types.VirtualMachineConfigInfo) error {
	if n := len(info.Hardware.Device); n > maxDevices {
		return fmt.Errorf("%s: %w: %d devices", recordBlob, fs.ErrInvalid, n)
	}
	if info.Hardware.NumCPU < 1 || info.Hardware.MemoryMB < 1 {
		return fmt.Errorf("%s: %w: a machine of %d processors and %d MiB", recordBlob, fs.ErrInvalid, info.Hardware.NumCPU, info.Hardware.MemoryMB)
	}
	for i, d := range info.Hardware.Device {
		if d == nil {
			return fmt.Errorf("%s: %w: device %d is nothing", recordBlob, fs.ErrInvalid, i)
		}
	}
	return nil
}

// recordedNVRAM is the content of the firmware's variables, nil where the point holds none.
func recordedNVRAM(config map[string][]byte) []byte {
	var found []byte
	for name, content := range config {
		if strings.HasSuffix(name, nvramEnding) && path.Base(name) == name && len(content) <= maxNVRAM && len(content) > 0 {
			if found != nil {
				return nil // of which of them nobody knows
			}
			found = content
		}
	}
	return found
}

// slotsByKey are where the disks of a record hung, by key.
func slotsByKey(info *types.VirtualMachineConfigInfo) map[string]Disk {
	out := map[string]Disk{}
	if info == nil {
		return out
	}
	for _, d := range DisksOf(info) {
		out[d.Key] = d
	}
	return out
}

// datastoreOf is the name in "[name] folder/file"; empty where there is none.
func datastoreOf(file string) string {
	rest, ok := strings.CutPrefix(file, "[")
	name, _, closed := strings.Cut(rest, "]")
	if !ok || !closed {
		return ""
	}
	return name
}

// checkDisks looks at the disks that a new VM is asked for.
func checkDisks(vm hikae.VM) error {
	seen := map[string]bool{}
	for _, d := range vm.Disks {
		switch {
		case d.Key == "" || len(d.Key) > 200 || seen[d.Key]:
			return fmt.Errorf("disk %.200q of %s: %w: its key is empty, too long or there twice", d.Key, vm.Name, fs.ErrInvalid)
		case d.Size <= 0 || d.Size > maxDiskBytes:
			return fmt.Errorf("disk %s of %s: %w: %d bytes", d.Key, vm.Name, fs.ErrInvalid, d.Size)
		case d.Size%1024 != 0:
			return fmt.Errorf("disk %s of %s: %w: %d bytes, and vSphere makes disks of whole KiB", d.Key, vm.Name, fs.ErrInvalid, d.Size)
		}
		seen[d.Key] = true
	}
	return nil
}

const maxDiskBytes = 62 << 40 // the largest disk that vSphere makes
