package vss

import (
	"context"
	"fmt"
	"strings"

	"golang.org/x/sys/windows"

	"github.com/hikae/hikae/guest/agent"
	"github.com/hikae/hikae/guest/agent/wire"
)

// Flusher is the [agent.Freezer] of Windows. It freezes nothing, for nothing outside the kernel can: it has volumes
// write out what they hold in memory, and names each of them as skipped. The hypervisor's own agent freezes.
type Flusher struct{}

var _ agent.Freezer = Flusher{}

// Volumes lists the volumes of this guest.
func (Flusher) Volumes(ctx context.Context) ([]wire.Volume, error) {
	names, err := volumeNames()
	if err != nil {
		return nil, err
	}
	var all []wire.Volume
	for _, name := range names {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		all = append(all, volume(name))
	}
	return all, nil
}

// Ready flushes volumes, each one until the context ends.
func (f Flusher) Ready(ctx context.Context, args wire.FreezeArgs) (agent.Ready, error) {
	all, err := f.Volumes(ctx)
	if err != nil {
		return nil, err
	}
	var answer wire.FreezeAnswer
	for _, v := range all {
		if len(args.Mounts) > 0 && !listed(args.Mounts, v.Mount) {
			continue
		}
		if v.Skip == unfrozen {
			v.Skip = "flushed, not frozen: " + unfrozen
			if err := flush(ctx, v.Device); err != nil {
				v.Skip = "not flushed: " + err.Error()
			}
		}
		answer.Skipped = append(answer.Skipped, v)
	}
	return flushed{answer}, nil
}

func listed(mounts []string, mount string) bool {
	for _, m := range mounts {
		if strings.EqualFold(strings.TrimSuffix(m, `\`), strings.TrimSuffix(mount, `\`)) {
			return true
		}
	}
	return false
}

// unfrozen is why the volumes of Windows are left out of a freeze.
const unfrozen = "Windows freezes by VSS, in the hands of the hypervisor's own agent"

// flushed is a freeze that holds nothing.
type flushed struct{ answer wire.FreezeAnswer }

// Freeze implements [agent.Ready]: there is nothing more to do.
func (f flushed) Freeze(context.Context) (agent.Frozen, error) { return f, nil }

// Close implements [agent.Ready].
func (f flushed) Close() error { return nil }

func (f flushed) Answer() wire.FreezeAnswer { return f.answer }

// Thaw says that nothing was held: an image made meanwhile is as consistent as the hypervisor's agent made it.
func (f flushed) Thaw(context.Context) ([]string, bool, error) { return nil, false, nil }

// flush writes a volume's cached data out. The call cannot be interrupted; its end is not waited for past the context.
func flush(ctx context.Context, device string) error {
	done := make(chan error, 1)
	go func() {
		name, err := windows.UTF16PtrFromString(strings.TrimSuffix(device, `\`))
		if err != nil {
			done <- err
			return
		}
		h, err := windows.CreateFile(name, windows.GENERIC_READ|windows.GENERIC_WRITE,
			windows.FILE_SHARE_READ|windows.FILE_SHARE_WRITE, nil, windows.OPEN_EXISTING, 0, 0)
		if err != nil {
			done <- err
			return
		}
		defer windows.CloseHandle(h)
		done <- windows.FlushFileBuffers(h)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// maxVolumes bounds the list.
const maxVolumes = 4096

// volumeNames are of all volumes, as \\?\Volume{…}\.
func volumeNames() ([]string, error) {
	var name [windows.MAX_PATH + 1]uint16
	h, err := windows.FindFirstVolume(&name[0], uint32(len(name)))
	if err != nil {
		return nil, fmt.Errorf("list the volumes: %w", err)
	}
	defer windows.FindVolumeClose(h)
	var all []string
	for len(all) < maxVolumes {
		all = append(all, windows.UTF16ToString(name[:]))
		err := windows.FindNextVolume(h, &name[0], uint32(len(name)))
		if err == windows.ERROR_NO_MORE_FILES {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list the volumes: %w", err)
		}
	}
	return nil, fmt.Errorf("more than %d volumes", maxVolumes)
}

// volume is what there is to know of one volume.
func volume(device string) wire.Volume {
	v := wire.Volume{Device: device, Skip: unfrozen}
	root := windows.StringToUTF16Ptr(device)
	var paths [32768]uint16
	var n uint32
	if windows.GetVolumePathNamesForVolumeName(root, &paths[0], uint32(len(paths)), &n) == nil {
		v.Mount = windows.UTF16ToString(paths[:]) // the first
	}
	switch driveType(device, v.Mount) {
	case windows.DRIVE_FIXED:
	case windows.DRIVE_CDROM:
		v.Skip = "a CD-ROM"
		return v
	case windows.DRIVE_REMOVABLE:
		v.Skip = "removable"
		return v
	default:
		v.Skip = "not a local disk"
		return v
	}
	var kind [windows.MAX_PATH + 1]uint16
	if err := windows.GetVolumeInformation(root, nil, 0, nil, nil, nil, &kind[0], uint32(len(kind))); err != nil {
		v.Skip = "no file system: " + err.Error()
		return v
	}
	v.Type = windows.UTF16ToString(kind[:])
	var free, size uint64
	if windows.GetDiskFreeSpaceEx(root, nil, &size, &free) == nil {
		v.Size, v.Free = int64(size), int64(free)
	}
	return v
}

// driveType asks by the place where a volume is mounted where its own name says nothing.
func driveType(names ...string) uint32 {
	for _, name := range names {
		if p, err := windows.UTF16PtrFromString(name); err == nil && name != "" {
			if t := windows.GetDriveType(p); t > windows.DRIVE_NO_ROOT_DIR {
				return t
			}
		}
	}
	return windows.DRIVE_UNKNOWN
}
