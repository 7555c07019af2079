//go:build linux

package kvmtest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// LVM is what a guest is made from whose disk is laid out as an installer does it: a GPT with /boot on ext2 and a physical
// volume, and in its volume group an ext4 root (in two pieces), swap space, and XFS on /data; on the root lies a swap
// file. All of it is Debian's and made by Debian's tools in a guest, so that this machine needs no device mapper. It is
// shared by all tests of a machine and never changes.
type LVM struct {
	fixture Fixture // with an initramfs that knows volume groups
	image   string
}

// What an LVM guest's file systems and swap areas are called.
const (
	LVMGroup    = "vg0"
	LVMBootUUID = "3d1a4f5e-0a53-4c0b-9a0e-7f6d6f1c0b01"
	LVMRootUUID = "3d1a4f5e-0a53-4c0b-9a0e-7f6d6f1c0b02"
	LVMDataUUID = "3d1a4f5e-0a53-4c0b-9a0e-7f6d6f1c0b03"
	LVMSwapUUID = "3d1a4f5e-0a53-4c0b-9a0e-7f6d6f1c0b04"
	LVMFileUUID = "3d1a4f5e-0a53-4c0b-9a0e-7f6d6f1c0b05" // of the swap file
)

const (
	lvmSize     = 736 << 20
	lvmTreeSize = 320 << 20 // of the disk that all files come from
	lvmMemory   = serverMemory
)

// lvmPackages are unpacked with all that they depend on.
var lvmPackages = []string{"lvm2", "xfsprogs", "e2fsprogs", "util-linux", "mount", "fdisk", "coreutils", "findutils", "qemu-guest-agent", "dash"}

// lvmUnwanted are packages that they can run without, beside those that a server can run without.
var lvmUnwanted = []string{"libicu", "python3", "libpython3", "dmeventd", "debconf", "tzdata", "mime-support", "media-types"}

// lvmConfig is for a guest without udev.
const lvmConfig = `devices { obtain_device_list_from_udev=0 external_device_info_source="none" use_devicesfile=0 }
activation { udev_sync=0 udev_rules=0 monitoring=0 }
global { use_lvmpolld=0 event_activation=0 }
backup { backup=0 archive=0 }
`

const lvmFstab = "UUID=" + LVMRootUUID + " / ext4 errors=remount-ro 0 1\n" +
	"UUID=" + LVMBootUUID + " /boot ext2 defaults 0 2\n" +
	"UUID=" + LVMDataUUID + " /data xfs defaults 0 0\n" +
	"UUID=" + LVMSwapUUID + " none swap sw,pri=1 0 0\n" +
	"/swapfile none swap sw,pri=1 0 0\n"

// lvmScript runs in the guest, on a root that has all files. The root's volume grows after others were made, so that it
// lies in two places.
const lvmScript = `
sfdisk -q /dev/vda <<END
label: gpt
start=2048, size=65536, type=L
type=E6D6D379-F507-44C2-A23C-238F2A3DF928
END
mkdir -p /run/lock/lvm /run/lvm
pvcreate -q /dev/vda2
vgcreate -q ` + LVMGroup + ` /dev/vda2
lvcreate -q -y -L 160m -n root ` + LVMGroup + `
lvcreate -q -y -L 64m -n swap ` + LVMGroup + `
lvcreate -q -y -L 320m -n data ` + LVMGroup + `
lvextend -q -L 272m ` + LVMGroup + `/root
mke2fs -q -t ext2 -L boot -U ` + LVMBootUUID + ` /dev/vda1
mke2fs -q -t ext4 -L root -U ` + LVMRootUUID + ` /dev/` + LVMGroup + `/root
mkfs.xfs -q -L data -m uuid=` + LVMDataUUID + ` /dev/` + LVMGroup + `/data
mkswap -q -U ` + LVMSwapUUID + ` /dev/` + LVMGroup + `/swap
mount -t ext4 /dev/` + LVMGroup + `/root /mnt
mkdir /mnt/boot
mount -t ext2 /dev/vda1 /mnt/boot
cp -ax /. /mnt
rm /mnt/make.sh
dd if=/dev/zero of=/mnt/swapfile bs=1M count=32 status=none
chmod 600 /mnt/swapfile
mkswap -q -U ` + LVMFileUUID + ` /mnt/swapfile
umount /mnt/boot /mnt
`

// BuildLVM makes the guest's disk, or finds the one that was made before, as [Build] does. The first time it downloads
// about 20 MB and boots it once.
func BuildLVM(ctx context.Context) (*LVM, error) {
	for _, name := range []string{"qemu-img", "tar"} {
		if _, err := exec.LookPath(name); err != nil {
			return nil, &UnavailableError{What: name + " is not installed"}
		}
	}
	f, err := Build(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := cacheDir()
	if err != nil {
		return nil, err
	}
	unlock, err := lock(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()
	recipe := sha256.Sum256(fmt.Append(nil, lvmPackages, lvmUnwanted, unwantedPackages, unwantedPaths, lvmConfig, lvmFstab, lvmScript, lvmSize, lvmTreeSize))
	made := filepath.Join(dir, fmt.Sprintf("lvm-%x", recipe[:8]))
	if err := once(made, func(to string) error { return buildLVM(ctx, f, to) }); err != nil {
		return nil, err
	}
	l := &LVM{image: filepath.Join(made, "disk.qcow2")}
	l.fixture, err = withLVM(f, filepath.Join(made, "lvm.cpio"))
	return l, errors.Join(err, os.Chtimes(made, time.Time{}, time.Now()))
}

// withLVM is a fixture whose initramfs is followed by a second one, which the kernel unpacks too.
func withLVM(f *Fixture, second string) (Fixture, error) {
	sum := sha256.Sum256([]byte(f.initramfs + second))
	out := Fixture{f.kernel, filepath.Join(filepath.Dir(f.initramfs), fmt.Sprintf("guest-lvm-%x.cpio", sum[:8]))}
	return out, once(out.initramfs, func(to string) error {
		var all []byte
		for _, name := range []string{f.initramfs, second} {
			part, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			all = append(all, part...)
		}
		return os.WriteFile(to, all, 0o644)
	})
}

func buildLVM(ctx context.Context, f *Fixture, to string) error {
	work, err := os.MkdirTemp("", "hikae") // short, for sockets
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	tree := filepath.Join(work, "tree")
	if err := makeLVMTree(ctx, f, work, tree); err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	tools := filepath.Join(to, "lvm.cpio")
	if err := writeLVMTools(tools, tree); err != nil {
		return err
	}
	booted, err := withLVM(f, tools)
	if err != nil {
		return err
	}
	defer os.Remove(booted.initramfs) // it is called after a place that will have another name
	files, disk := filepath.Join(work, "files"), filepath.Join(work, "disk")
	if err := run(ctx, "mke2fs", "-q", "-t", "ext4", "-E", "root_owner=0:0", "-d", tree, files, strconv.Itoa(lvmTreeSize>>10)+"k"); err != nil {
		return err
	}
	if err := makeSparse(disk, lvmSize); err != nil {
		return err
	}
	if err := firstBoot(ctx, &booted, work, disk, files); err != nil {
		return err
	}
	return run(ctx, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk, filepath.Join(to, "disk.qcow2"))
}

// makeLVMTree unpacks packages and adds what their scripts and an installer would have made.
func makeLVMTree(ctx context.Context, f *Fixture, work, tree string) error {
	debs, err := fetchClosure(ctx, filepath.Join(work, "debs"), lvmPackages)
	if err != nil {
		return err
	}
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	for _, deb := range debs {
		if name := filepath.Base(deb); unwanted(name) || hasPrefix(name, lvmUnwanted) {
			continue
		}
		if err := unpackAll(ctx, deb, tree, unwantedPaths); err != nil {
			return err
		}
	}
	for _, dir := range []string{"proc", "sys", "dev", "run", "tmp", "var/tmp", "data", "mnt", "boot", "root", "srv", "etc/qemu", "etc/lvm", "var/lib/fx", "bin", "sbin"} {
		if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
			return err
		}
	}
	kernel, err := os.ReadFile((&kernel{dir: filepath.Dir(f.kernel)}).compressed())
	if err != nil {
		return err
	}
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0::/root:/bin/sh\n", "etc/group": "root:x:0:\n", "etc/hostname": "installed\n",
		"etc/fstab": lvmFstab, "etc/lvm/lvmlocal.conf": lvmConfig, "make.sh": lvmScript, "boot/vmlinuz": string(kernel),
		"bin/fx": "", "sbin/shutdown": "", "etc/qemu/fsfreeze-hook": "", // the init puts its program over them
	} {
		path := filepath.Join(tree, name)
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			return err
		}
	}
	return nil
}

func hasPrefix(name string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// firstBoot lets the guest make its disk.
func firstBoot(ctx context.Context, f *Fixture, work, disk, files string) error {
	g, err := f.launch(work, lvmMemory, "fx.group="+LVMGroup+" fx.root=/dev/vdb fx.script=/make.sh", []GuestDisk{
		{Path: disk, Format: "raw", ID: "vd0"}, {Path: files, Format: "raw", ID: "vd1"}})
	if err != nil {
		return err
	}
	defer g.Kill()
	ctx, cancel := context.WithTimeout(ctx, provisionTime)
	defer cancel()
	if err := g.Wait(ctx); err != nil || !strings.Contains(g.Console(), "FX-PROVISIONED") {
		return fmt.Errorf("the first boot of the guest with logical volumes: %w: its console: %s", cmpErr(err, errors.New("it ended early")), g.Console())
	}
	return nil
}

// Disk makes the disk of a guest of one's own: a raw file.
func (l *LVM) Disk(ctx context.Context, path string) (GuestDisk, error) {
	return GuestDisk{Path: path, Format: "raw", ID: "vd0", Serial: "lvm-0001"}, run(ctx, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", l.image, path)
}

// Start boots the guest on its disk, and others after it, and waits until it runs, at most 2 minutes. Its ledgers may be
// [Journal] and [XFSJournal]. The path of dir must be short. The caller kills the guest.
func (l *LVM) Start(ctx context.Context, dir string, disks []GuestDisk, opts *ServerOptions) (*Guest, error) {
	line := "fx.group=" + LVMGroup + " fx.root=/dev/mapper/" + LVMGroup + "-root" + opts.line()
	g, err := l.fixture.launch(dir, lvmMemory, line, disks)
	if err != nil {
		return nil, err
	}
	return g, g.awaitReady(ctx)
}
