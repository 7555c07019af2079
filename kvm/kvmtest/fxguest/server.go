//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Where things are in the server. All that is written while file systems are frozen lies in memory, below /run.
const (
	newRoot    = "/sysroot"
	swapDevice = "/dev/vda1"
	dataDevice = "/dev/vdb"
	logDir     = "/run/log"
	serverFlag = "/run/server"

	postgresUser = 105
	postgresBin  = "/usr/lib/postgresql/15/bin/"
	postgresData = dataDir + "/postgres"
	sqlitePath   = "/var/lib/fx/ledger.sqlite"
	rootJournal  = "/var/lib/fx/journal"
	dataJournal  = dataDir + "/journal"
)

// bootServer leaves the initramfs for a root on a disk, and starts what runs there: the agent with its hook, a meter for
// each file system, PostgreSQL, and the writers that fx.write names.
func bootServer(device string) error {
	loadModules("/mod/server")
	if !waitFor(device, 5*time.Second) || !waitFor(dataDevice, 5*time.Second) {
		return fmt.Errorf("no %s or no %s", device, dataDevice)
	}
	mount(device, newRoot, "ext4")
	mount(dataDevice, newRoot+dataDir, "xfs")
	for dir, kind := range map[string]string{"/proc": "proc", "/sys": "sysfs", "/dev": "devtmpfs", "/tmp": "tmpfs", "/run": "tmpfs"} {
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
	if err := swapOn(); err != nil {
		fmt.Println("FX swap", err)
	}
	if parameter("fx.first") != "" {
		return provision()
	}
	return serve()
}

// bringAlong puts this program where the server looks for it, without a trace on the disk.
func bringAlong() error {
	self, err := os.ReadFile("/bin/fx")
	if err != nil {
		return err
	}
	program := newRoot + "/run/fx"
	if err := os.WriteFile(program, self, 0o755); err != nil {
		return err
	}
	for _, place := range []string{"/bin/fx", "/sbin/shutdown", "/etc/qemu/fsfreeze-hook"} {
		if err := syscall.Mount(program, newRoot+place, "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("%s: %w", place, err)
		}
	}
	return os.WriteFile(newRoot+serverFlag, nil, 0o644)
}

// enterRoot makes the disk's file system the root.
func enterRoot() error {
	if err := os.Chdir(newRoot); err != nil {
		return err
	}
	if err := syscall.Mount(".", "/", "", syscall.MS_MOVE, ""); err != nil {
		return err
	}
	if err := syscall.Chroot("."); err != nil {
		return err
	}
	return os.Chdir("/")
}

// closeRoot leaves the root's file system clean.
func closeRoot() {
	swapOff()
	syscall.Unmount("/boot", 0) // where it is a file system of its own
	for range 50 {
		if syscall.Mount("", "/", "", syscall.MS_REMOUNT|syscall.MS_RDONLY, "") == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func swapOn() error { return byName(unix.SYS_SWAPON, swapDevice) }

func swapOff() {
	areas, err := swapAreas()
	if err != nil {
		fmt.Println("FX", err)
	}
	for name := range areas {
		byName(unix.SYS_SWAPOFF, name)
	}
}

// byName is a system call that takes a name and no flags.
func byName(call uintptr, name string) error {
	p, err := unix.BytePtrFromString(name)
	if err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(call, uintptr(unsafe.Pointer(p)), 0, 0); errno != 0 {
		return fmt.Errorf("%s: %w", name, errno)
	}
	return nil
}

// provision is the first boot: it makes a database cluster, and ends the machine.
func provision() error {
	for _, dir := range []string{postgresData, filepath.Dir(sqlitePath)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	if err := os.Chown(postgresData, postgresUser, postgresUser); err != nil {
		return err
	}
	run := asPostgres(postgresBin+"initdb", "-D", postgresData, "-A", "trust", "-E", "UTF8", "--no-locale", "-k", "--wal-segsize=1", "-N")
	if out, err := run.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	settings := "listen_addresses = ''\nunix_socket_directories = '/run/postgresql'\nmax_connections = 10\nshared_buffers = 8MB\n" +
		"min_wal_size = 2MB\nmax_wal_size = 16MB\njit = off\nlog_destination = stderr\n"
	f, err := os.OpenFile(postgresData+"/postgresql.conf", os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(settings); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	fmt.Println("FX-PROVISIONED")
	return shutdown()
}

// serve starts what fx.write names: the writers journal, xfsjournal, sqlite and postgres; fx.quiet keeps writers from
// being started, but not PostgreSQL.
func serve() error {
	startAgent("-F/etc/qemu/fsfreeze-hook")
	start("/bin/fx", "meter", "root", "/var/lib/fx")
	start("/bin/fx", "meter", "data", dataDir)
	writers := strings.FieldsFunc(parameter("fx.write"), func(r rune) bool { return r == ',' })
	var errs []error
	for _, name := range writers {
		if name == "postgres" {
			errs = append(errs, startPostgres())
		}
	}
	if parameter("fx.quiet") == "" {
		for _, name := range writers {
			start("/bin/fx", "write", name)
		}
	}
	return errors.Join(errs...)
}

// asPostgres is a program that runs as the user that the database belongs to.
func asPostgres(path string, args ...string) *exec.Cmd {
	cmd := exec.Command(path, args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: postgresUser, Gid: postgresUser}}
	return cmd
}

// startPostgres returns when the server accepts connections: after a restore that is after its recovery.
func startPostgres() error {
	if err := os.MkdirAll("/run/postgresql", 0o777); err != nil {
		return err
	}
	if err := os.Chown("/run/postgresql", postgresUser, postgresUser); err != nil {
		return err
	}
	log, err := os.Create(logDir + "/postgres")
	if err != nil {
		return err
	}
	cmd := asPostgres(postgresBin+"postgres", "-D", postgresData)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	if !waitFor("/run/postgresql/.s.PGSQL.5432", time.Minute) {
		text, _ := os.ReadFile(logDir + "/postgres")
		return fmt.Errorf("postgres does not listen: %s", text)
	}
	var last error
	for range 300 {
		c, err := openClient(postgresClient())
		if err == nil {
			return c.close()
		}
		last = err
		time.Sleep(100 * time.Millisecond)
	}
	return last
}
