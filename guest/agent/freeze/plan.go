package freeze

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/hikae/hikae/guest/agent/wire"
)

// Bounds of a freeze.
const (
	maxTargets = 512 // file systems
	maxSkipped = 256 // that are named
)

// target is a file system that can be frozen.
type target struct {
	Device Device
	Mounts []Mount // where it is mounted, the best place to open it first
}

func (t *target) point() string { return t.Mounts[0].Point }

// has says whether it is mounted there.
func (t *target) has(point string) bool {
	return slices.ContainsFunc(t.Mounts, func(m Mount) bool { return m.Point == point })
}

// Why a file system is left out. These are words of the protocol: what a snapshot is good for is read off them.
const (
	skipReadOnly = "read-only"
	skipNetwork  = "lives on another machine"
	skipProgram  = "served by a program in the guest, which would stand still"
	skipOverlay  = "an overlay: its layers lie on other file systems"
	skipMemory   = "in memory"
	skipZFS      = "ZFS does not freeze; what is on its disks is whole at any moment"
	skipAuto     = "mounted on demand"
	skipDevice   = "no block device"
)

// virtual are file systems without content of anybody's: they are not even named.
var virtual = setOf("proc", "sysfs", "cgroup", "cgroup2", "devpts", "devtmpfs", "mqueue", "debugfs", "tracefs", "securityfs",
	"bpf", "configfs", "pstore", "hugetlbfs", "fusectl", "efivarfs", "nsfs", "rpc_pipefs", "binfmt_misc", "rootfs", "selinuxfs",
	"binder", "nfsd", "pipefs", "sockfs", "anon_inodefs", "cpuset", "resctrl", "smackfs", "xenfs", "functionfs")

// reasons are for types that are left out, whatever device they name.
var reasons = map[string]string{
	"overlay": skipOverlay, "overlayfs": skipOverlay, "aufs": skipOverlay, "ecryptfs": skipOverlay, "unionfs": skipOverlay,
	"nfs": skipNetwork, "nfs4": skipNetwork, "cifs": skipNetwork, "smb3": skipNetwork, "smbfs": skipNetwork, "9p": skipNetwork,
	"virtiofs": skipNetwork, "ceph": skipNetwork, "afs": skipNetwork, "ncpfs": skipNetwork, "lustre": skipNetwork,
	"gfs2": skipNetwork, "ocfs2": skipNetwork, "vboxsf": skipNetwork, "prl_fs": skipNetwork, "beegfs": skipNetwork,
	"tmpfs": skipMemory, "ramfs": skipMemory, "autofs": skipAuto, "zfs": skipZFS,
}

// anonymous are types on block devices whose device number the kernel makes up.
var anonymous = setOf("btrfs", "bcachefs")

func setOf(words ...string) map[string]bool {
	set := map[string]bool{}
	for _, w := range words {
		set[w] = true
	}
	return set
}

// skip says why a mount's file system is left out; empty where it is not.
func skip(m Mount) string {
	switch {
	case reasons[m.Type] != "":
		return reasons[m.Type]
	case m.Type == "fuse", m.Type == "fuseblk", strings.HasPrefix(m.Type, "fuse."):
		return skipProgram
	case m.Device.Major == 0 && !anonymous[m.Type]:
		return skipDevice
	case m.ReadOnly:
		return skipReadOnly
	}
	return ""
}

// choose sorts mounts into file systems that can be frozen and those that are left out, each once.
func choose(mounts []Mount) (targets []*target, skipped []wire.Volume, err error) {
	known := map[Device]*target{}
	left := map[Device]bool{}
	unnamed, unnamedDisks := 0, 0
	for _, m := range mounts {
		if virtual[m.Type] {
			continue
		}
		why := skip(m)
		switch t := known[m.Device]; {
		case why == "" && t != nil:
			t.Mounts = append(t.Mounts, m)
		case why == "":
			t = &target{Device: m.Device, Mounts: []Mount{m}}
			known[m.Device], targets = t, append(targets, t)
		case left[m.Device]:
		case len(skipped) == maxSkipped && onDisk(m):
			unnamedDisks++
		case len(skipped) == maxSkipped:
			unnamed++
		default:
			left[m.Device] = true
			skipped = append(skipped, volume(m, why))
		}
	}
	if len(targets) > maxTargets {
		return nil, nil, fmt.Errorf("%d file systems to freeze: at most %d", len(targets), maxTargets)
	}
	if unnamed > 0 {
		skipped = append(skipped, wire.Volume{Skip: fmt.Sprintf("%d more mounts of such kinds", unnamed)})
	}
	if unnamedDisks > 0 {
		skipped = append(skipped, wire.Volume{Skip: fmt.Sprintf("%d more that cannot be frozen", unnamedDisks)})
	}
	for _, t := range targets {
		slices.SortStableFunc(t.Mounts, betterMount)
	}
	return targets, skipped, nil
}

// onDisk reports whether what is left out may be written to on a disk of this machine.
func onDisk(m Mount) bool { return m.Type == "zfs" || m.Type == "fuseblk" }

// betterMount prefers the whole file system to a part of it that is mounted elsewhere, then short paths.
func betterMount(a, b Mount) int {
	part := func(m Mount) int {
		if m.Root == "/" {
			return 0
		}
		return 1
	}
	return cmp.Or(cmp.Compare(part(a), part(b)), cmp.Compare(depth(a.Point), depth(b.Point)))
}

func depth(point string) int {
	if point == "/" {
		return 0
	}
	return strings.Count(point, "/")
}

func volume(m Mount, why string) wire.Volume {
	return wire.Volume{Mount: m.Point, Device: m.Source, Type: m.Type, Skip: why}
}

// order puts targets into the order in which they freeze. under are, for a device, the devices of the file systems that
// hold its bytes.
func order(targets []*target, under func(*target) []Device) []*target {
	byDepth := slices.Clone(targets)
	slices.SortStableFunc(byDepth, func(a, b *target) int {
		return cmp.Or(cmp.Compare(depth(b.point()), depth(a.point())), cmp.Compare(b.point(), a.point()))
	})
	waits := map[Device]int{} // for how many that lie on it
	below := map[Device][]Device{}
	for _, t := range byDepth {
		for _, d := range under(t) {
			if d != t.Device && !slices.Contains(below[t.Device], d) {
				below[t.Device] = append(below[t.Device], d)
				waits[d]++
			}
		}
	}
	var out []*target
	for len(byDepth) > 0 {
		i := slices.IndexFunc(byDepth, func(t *target) bool { return waits[t.Device] == 0 })
		i = max(i, 0) // a ring cannot be built; if it were, some order is as good as any
		for _, d := range below[byDepth[i].Device] {
			waits[d]--
		}
		out = append(out, byDepth[i])
		byDepth = slices.Delete(byDepth, i, i+1)
	}
	return out
}

// holder is the mount that a path lies on.
func holder(mounts []Mount, file string) (Mount, bool) {
	best, found := Mount{}, false
	for _, m := range mounts {
		inside := m.Point == "/" || file == m.Point || strings.HasPrefix(file, m.Point+"/")
		if inside && (!found || len(m.Point) >= len(best.Point)) { // the later one lies on top
			best, found = m, true
		}
	}
	return best, found && path.IsAbs(file)
}

// pick keeps the targets that are mounted at points. One that is not there, or is left out, is a failure: a name that
// nothing was frozen for must not look like a freeze.
func pick(targets []*target, skipped []wire.Volume, points []string) ([]*target, error) {
	if len(points) == 0 {
		return targets, nil
	}
	var out []*target
	for _, point := range points {
		i := slices.IndexFunc(targets, func(t *target) bool { return t.has(path.Clean(point)) })
		if i < 0 {
			return nil, notThere(point, skipped)
		}
		if !slices.Contains(out, targets[i]) {
			out = append(out, targets[i])
		}
	}
	return out, nil
}

func notThere(point string, skipped []wire.Volume) error {
	for _, v := range skipped {
		if v.Mount == path.Clean(point) {
			return &wire.Failure{Code: wire.CodeInvalid, Message: fmt.Sprintf("%s cannot be frozen: %s", point, v.Skip)}
		}
	}
	return &wire.Failure{Code: wire.CodeMissing, Message: fmt.Sprintf("%.200q: no file system is mounted there", point)}
}
