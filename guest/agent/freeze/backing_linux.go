package freeze

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Bounds of a stack of devices: partitions, device mapper, RAID and loop devices upon each other.
const (
	maxStack   = 16
	maxDevices = 1024
)

// stacks finds out which file systems hold the bytes of others.
type stacks struct {
	mounts []Mount
	left   int // devices that may still be looked at
}

// under are the file systems that a target's bytes lie on.
func (s *stacks) under(t *target) (out []Device) {
	for _, d := range devices(t) {
		for _, file := range s.files(d, 0) {
			if m, ok := holder(s.mounts, file); ok {
				out = append(out, m.Device)
			}
		}
	}
	return out
}

// devices are the block devices of a file system. Btrfs has a number that leads nowhere, and several devices.
func devices(t *target) []Device {
	if t.Device.Major != 0 {
		return []Device{t.Device}
	}
	var st unix.Stat_t
	if unix.Stat(t.Mounts[0].Source, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return nil
	}
	own := Device{unix.Major(st.Rdev), unix.Minor(st.Rdev)}
	out := []Device{own}
	pools, _ := filepath.Glob("/sys/fs/btrfs/*/devices")
	for _, pool := range pools {
		var all []Device
		mine := false
		members, _ := filepath.Glob(pool + "/*")
		for _, member := range members {
			if d, err := readDevice(member + "/dev"); err == nil {
				all, mine = append(all, d), mine || d == own
			}
		}
		if mine {
			out = append(out, all...)
		}
	}
	return out
}

// files are those that a device's bytes lie in, through whatever is between.
func (s *stacks) files(d Device, deep int) (out []string) {
	if s.left--; s.left < 0 || deep > maxStack {
		return nil
	}
	dir := fmt.Sprintf("/sys/dev/block/%s", d)
	if _, err := os.Stat(dir + "/partition"); err == nil { // the whole disk's folder holds the partition's
		if link, err := filepath.EvalSymlinks(dir); err == nil {
			dir = filepath.Dir(link)
		}
	}
	if text, err := readSmall(dir + "/loop/backing_file"); err == nil {
		out = append(out, strings.TrimSuffix(text, " (deleted)"))
	}
	slaves, _ := filepath.Glob(dir + "/slaves/*")
	for _, slave := range slaves {
		if lower, err := readDevice(slave + "/dev"); err == nil {
			out = append(out, s.files(lower, deep+1)...)
		}
	}
	return out
}

func readDevice(name string) (Device, error) {
	text, err := readSmall(name)
	if err != nil {
		return Device{}, err
	}
	return parseDevice(text)
}

// readSmall reads a line of the kernel's.
func readSmall(name string) (string, error) {
	text, err := os.ReadFile(name)
	return strings.TrimSuffix(string(text), "\n"), err
}
