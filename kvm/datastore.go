package kvm

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hikae/hikae"
)

// datastoreFact begins the name of the fact that says where a disk lies; the disk's key follows.
const datastoreFact = "datastore."

// placesWithin bounds the look at where images lie: a share that is away answers nothing, and the VM is listed all the same.
const placesWithin = 10 * time.Second

// tellPlaces adds to a VM's facts where its images lie, by their keys: two names that are the same are one place for the VMs that share it.
// What cannot be found out, or not in time, is left out.
func tellPlaces(ctx context.Context, vm hikae.VM, images map[string]string) {
	ctx, cancel := context.WithTimeout(ctx, placesWithin)
	defer cancel()
	type place struct{ key, name string }
	found := make(chan place, len(images)) // nobody may be there any more to take what is found
	go func() {
		defer close(found)
		for key, image := range images {
			found <- place{key, placeOf(image)}
		}
	}()
	for {
		select {
		case p, more := <-found:
			if !more {
				return
			}
			if p.name != "" {
				vm.Facts[datastoreFact+p.key] = p.name
			}
		case <-ctx.Done():
			return
		}
	}
}

// placeOf is where an image lies: the folder in which its file system is mounted, or a device's group. Empty: it is no file or device of this
// machine, such as what QEMU reads by a network.
func placeOf(image string) string {
	if !filepath.IsAbs(image) {
		return ""
	}
	info, err := os.Stat(image)
	switch {
	case err != nil:
		return ""
	case info.Mode()&os.ModeDevice != 0:
		return deviceGroup(image)
	}
	real, err := filepath.EvalSymlinks(image)
	if err != nil {
		return ""
	}
	return mountOf(real)
}

// deviceGroup is the folder of a device, which is the volume group of LVM (/dev/vg0/web1) and the pool of ZFS (/dev/zvol/tank/web1). In
// some folders devices of all kinds lie together: each is a place of its own.
func deviceGroup(device string) string {
	dir := filepath.Dir(filepath.Clean(device))
	if dir == "/dev" || dir == "/dev/mapper" || strings.HasPrefix(dir, "/dev/disk") || !strings.HasPrefix(dir, "/dev/") {
		return filepath.Clean(device)
	}
	return dir
}

// mountOf goes up from a file for as long as the file system is the same. Its end is the folder in which it is mounted, also for a file that
// is seen by a bind mount of a part of it.
func mountOf(file string) string {
	own, err := fileSystemOf(file)
	if err != nil {
		return ""
	}
	dir := filepath.Dir(file)
	for dir != filepath.Dir(dir) {
		above, err := fileSystemOf(filepath.Dir(dir))
		if err != nil || above != own {
			break
		}
		dir = filepath.Dir(dir)
	}
	return dir
}
