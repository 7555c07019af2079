//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// bootLVM leaves the initramfs for a root on a logical volume, as an installed system does: its own tools find the volume
// group, mount what its /etc/fstab says, and take its swap areas into use. Then it is a server without databases.
func bootLVM(group, device string) error {
	loadModules("/mod/server")
	loadModules("/mod/lvm")
	if !waitFor("/dev/vda", 5*time.Second) {
		return errors.New("no /dev/vda")
	}
	if script := parameter("fx.script"); script != "" {
		return makeLVM(device, script)
	}
	for _, dir := range []string{"/run/lock/lvm", "/run/lvm"} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	if err := aloud("/sbin/lvm", "vgchange", "-q", "-ay", "--sysinit", group); err != nil {
		return err
	}
	if !waitFor(device, 5*time.Second) {
		return fmt.Errorf("no %s in group %s", device, group)
	}
	mount(device, newRoot, "ext4")
	for dir, kind := range map[string]string{"/proc": "proc", "/sys": "sysfs", "/dev": "devtmpfs", "/run": "tmpfs"} {
		mount(kind, newRoot+dir, kind)
	}
	if err := bringAlong(); err != nil {
		return err
	}
	if err := enterRoot(); err != nil {
		return err
	}
	if err := os.Mkdir(logDir, 0o755); err != nil {
		return err
	}
	if err := errors.Join(aloud("/bin/mount", "-a"), aloud("/sbin/swapon", "-a")); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(rootJournal), 0o755); err != nil {
		return err
	}
	return serve()
}

// makeLVM is the first boot, from a disk that has all files but no volume group: a script makes it. Then the machine ends,
// also where the script failed.
func makeLVM(device, script string) error {
	if !waitFor(device, 5*time.Second) {
		return fmt.Errorf("no %s", device)
	}
	mount(device, newRoot, "ext4")
	for dir, kind := range map[string]string{"/proc": "proc", "/sys": "sysfs", "/dev": "devtmpfs", "/run": "tmpfs"} {
		mount(kind, newRoot+dir, kind)
	}
	if err := enterRoot(); err != nil {
		return err
	}
	if err := aloud("/bin/sh", "-e", script); err != nil {
		fmt.Println("FX lvm", err)
	} else {
		fmt.Println("FX-PROVISIONED")
	}
	syscall.Sync()
	return syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
}

// aloud runs a program that says on the console what it has to say.
func aloud(path string, args ...string) error {
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %v: %w", path, args, err)
	}
	return nil
}
