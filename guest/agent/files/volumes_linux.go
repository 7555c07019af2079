package files

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hikae/hikae/guest/agent/freeze"
	"github.com/hikae/hikae/guest/index/list"
)

// local are types of file systems on a machine's own disks.
var local = map[string]bool{
	"ext2": true, "ext3": true, "ext4": true, "xfs": true, "btrfs": true, "bcachefs": true, "f2fs": true, "jfs": true,
	"nilfs2": true, "reiserfs": true, "zfs": true, "vfat": true, "msdos": true, "exfat": true, "ntfs": true, "ntfs3": true,
	"hfs": true, "hfsplus": true, "ufs": true, "minix": true, "udf": true, "fuseblk": true,
}

// manyTrees are types where one device has several trees, each with a device number of its own that the table of mounts
// does not say.
var manyTrees = map[string]bool{"btrfs": true, "bcachefs": true, "zfs": true}

// volumes are the file systems on the guest's own disks, each once.
func (s *session) volumes() ([]volume, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	defer f.Close()
	mounts, err := freeze.Mounts(f)
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	ids, labels := names("/dev/disk/by-uuid"), names("/dev/disk/by-label")
	var out []volume
	for _, m := range once(mounts) {
		v := volume{Volume: list.Volume{Mount: m.Point, Kind: m.Type, Device: m.Source, System: list.POSIX}}
		if !manyTrees[m.Type] {
			v.device = unix.Mkdev(m.Device.Major, m.Device.Minor)
		}
		real, err := filepath.EvalSymlinks(m.Source)
		if err == nil {
			v.ID, v.Label = ids[real], labels[real]
		}
		out = append(out, v)
	}
	return out, nil
}

// once are the mounts of local file systems, without those that show a part of another one: a folder that is mounted a
// second time, as containers have them, would be listed twice.
func once(mounts []freeze.Mount) []freeze.Mount {
	var kept []freeze.Mount
	all := slices.Clone(mounts)
	// What shows most comes first; of the same, what has the shorter path.
	slices.SortStableFunc(all, func(a, b freeze.Mount) int {
		return cmp.Or(cmp.Compare(len(a.Root), len(b.Root)), cmp.Compare(len(a.Point), len(b.Point)), cmp.Compare(a.Point, b.Point))
	})
	for _, m := range all {
		if local[m.Type] && !slices.ContainsFunc(kept, func(k freeze.Mount) bool { return shows(k, m) }) {
			kept = append(kept, m)
		}
	}
	slices.SortStableFunc(kept, func(a, b freeze.Mount) int { return list.Compare(a.Point, b.Point) })
	return kept
}

// shows reports whether all that a mount shows is in another one, too.
func shows(k, m freeze.Mount) bool {
	if k.Device != m.Device {
		return false
	}
	// The walk stays on one tree: a subvolume that lies in another one is not listed with it.
	return k.Root == m.Root || !manyTrees[m.Type] && below(m.Root, k.Root)
}

// maxNames bounds how many links of a folder of devices are read.
const maxNames = 4096

// names are what a folder of links calls devices.
func names(dir string) map[string]string {
	out := map[string]string{}
	d, err := os.Open(dir)
	if err != nil {
		return out
	}
	defer d.Close()
	links, _ := d.Readdirnames(maxNames)
	for _, name := range links {
		if device, err := filepath.EvalSymlinks(filepath.Join(dir, name)); err == nil {
			out[device] = udevName(name)
		}
	}
	return out
}

// udevName undoes what udev does to bytes that a name should not have: \x20.
func udevName(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		var c byte
		if n, err := fmt.Sscanf(s[i:min(i+4, len(s))], `\x%02x`, &c); err == nil && n == 1 {
			b.WriteByte(c)
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
