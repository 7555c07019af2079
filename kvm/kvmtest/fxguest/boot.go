//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const dataDir = "/data"

// boot is the life of process 1.
func boot() {
	os.Setenv("PATH", "/bin:/sbin:/usr/bin:/usr/sbin")
	mount("proc", "/proc", "proc")
	mount("sys", "/sys", "sysfs")
	mount("dev", "/dev", "devtmpfs")
	loadModules("/mod/order")
	device, group := parameter("fx.root"), parameter("fx.group")
	switch {
	case device == "":
		bootSmall()
	case group != "":
		if err := bootLVM(group, device); err != nil {
			fmt.Println("FX lvm", err)
		}
	default:
		if err := bootServer(device); err != nil {
			fmt.Println("FX server", err)
		}
	}
	fmt.Println("FX-READY")
	for { // whoever has no parent any more is ours to bury
		var status syscall.WaitStatus
		if _, err := syscall.Wait4(-1, &status, 0, nil); err != nil {
			time.Sleep(100 * time.Millisecond)
		}
	}
}

// bootSmall mounts the first disk and begins to write on it.
func bootSmall() {
	mount("tmp", "/tmp", "tmpfs")
	mount("run", "/run", "tmpfs")
	if waitFor("/dev/vda", 5*time.Second) {
		mount("/dev/vda", dataDir, "ext4")
		start("/bin/fx", "journal")
		waitFor(statePath, 30*time.Second)
	}
	startAgent()
}

func startAgent(more ...string) {
	if port := agentPort(); port != "" {
		start("/usr/sbin/qemu-ga", append([]string{"-m", "virtio-serial", "-p", port, "-t", "/run", "-f", "/run/qga.pid", "-l", "/tmp/ga.log"}, more...)...)
	}
}

// parameter is a word KEY=VALUE of the kernel's command line, empty where there is none.
func parameter(key string) string {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		fmt.Println("FX", err)
	}
	for _, word := range strings.Fields(string(line)) {
		if value, ok := strings.CutPrefix(word, key+"="); ok {
			return value
		}
	}
	return ""
}

func mount(source, dir, kind string) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		fmt.Println("FX", err)
	}
	if err := syscall.Mount(source, dir, kind, 0, ""); err != nil {
		fmt.Println("FX mount", source, err)
	}
}

// loadModules loads what the initramfs brings, in the order of a list.
func loadModules(order string) {
	list, err := os.ReadFile(order)
	if err != nil {
		fmt.Println("FX", err)
	}
	for _, name := range strings.Fields(string(list)) {
		if err := loadModule(filepath.Join("/mod", name)); err != nil {
			fmt.Println("FX module", name, err)
		}
	}
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return finitModule(f.Fd())
}

func waitFor(path string, limit time.Duration) bool {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return true
		}
	}
	return false
}

// agentPort finds the guest agent's serial port by the name that QEMU gave it.
func agentPort() string {
	for range 100 {
		names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, name := range names {
			text, _ := os.ReadFile(name)
			if strings.TrimSpace(string(text)) == "org.qemu.guest_agent.0" {
				return "/dev/" + filepath.Base(filepath.Dir(name))
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	return ""
}

func start(path string, args ...string) {
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		fmt.Println("FX start", path, err)
	}
}

// shutdown is what the guest agent runs to power the machine off.
func shutdown() error {
	syscall.Kill(-1, syscall.SIGKILL) // all but process 1 and this one
	syscall.Sync()
	for range 50 {
		if syscall.Unmount(dataDir, 0) == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if _, err := os.Stat(serverFlag); err == nil {
		closeRoot()
	}
	syscall.Sync()
	return syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
}
