//go:build linux

package kvmtest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// UnavailableError says why there can be no guest on this machine.
type UnavailableError struct {
	What string
	Err  error // nil: a program is missing
}

func (e *UnavailableError) Error() string {
	if e.Err == nil {
		return "no test guest: " + e.What
	}
	return fmt.Sprintf("no test guest: %s: %v", e.What, e.Err)
}

func (e *UnavailableError) Unwrap() error { return e.Err }

// Fixture is what a guest boots from. It is shared by all tests of a machine and never changes.
type Fixture struct {
	kernel, initramfs string
}

// programs are what Build and Start run.
var programs = []string{"qemu-system-x86_64", "apt-get", "apt-cache", "dpkg-deb", "ldd", "mke2fs", "go"}

// Build makes the fixture, or finds the one that was made before. Several processes may call it at once: one builds.
// What this machine lacks is an *UnavailableError.
func Build(ctx context.Context) (*Fixture, error) {
	if runtime.GOARCH != "amd64" {
		return nil, &UnavailableError{What: "the guest is made for amd64, this is " + runtime.GOARCH}
	}
	for _, name := range programs {
		if _, err := exec.LookPath(name); err != nil {
			return nil, &UnavailableError{What: name + " is not installed"}
		}
	}
	dir, err := cacheDir()
	if err != nil {
		return nil, &UnavailableError{What: "a place to keep it", Err: err}
	}
	unlock, err := lock(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()
	return build(ctx, dir)
}

func cacheDir() (string, error) {
	base := os.Getenv("HIKAE_FIXTURE_DIR")
	if base == "" {
		var err error
		if base, err = os.UserCacheDir(); err != nil {
			base = os.TempDir()
		}
	}
	dir := filepath.Join(base, "hikae-fixture")
	return dir, os.MkdirAll(dir, 0o755)
}

// lock waits its turn. The lock dies with the process.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if err != syscall.EWOULDBLOCK {
			f.Close()
			return nil, err
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("%s: %w", path, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// build makes what is missing. The kernel is kept for good; the initramfs follows the guest's program.
func build(ctx context.Context, dir string) (*Fixture, error) {
	k := &kernel{dir: filepath.Join(dir, "kernel-3")}
	if err := k.build(ctx); err != nil {
		return nil, err
	}
	agent := filepath.Join(dir, "qemu-ga")
	if err := once(agent, func(to string) error { return fetchAgent(ctx, to) }); err != nil {
		return nil, err
	}
	program := filepath.Join(dir, "fxguest")
	if err := compileGuest(ctx, program); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(append(data, k.dir...))
	f := &Fixture{kernel: k.image(), initramfs: filepath.Join(dir, fmt.Sprintf("guest-%x.cpio", sum[:8]))}
	err = once(f.initramfs, func(to string) error {
		forget(dir)
		return writeInitramfs(ctx, to, k, agent, program)
	})
	return f, err
}

// keepFor is how long what was built by another version of this package is kept, for trees that still use it.
const keepFor = 14 * 24 * time.Hour

// forget removes guests and servers that were built, or for a server last used, long ago. Where another tree still needs
// one, it builds it again.
func forget(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		made := strings.HasPrefix(e.Name(), "guest-") || strings.HasPrefix(e.Name(), "server-") || strings.HasPrefix(e.Name(), "lvm-")
		info, err := e.Info()
		if made && err == nil && time.Since(info.ModTime()) > keepFor {
			os.RemoveAll(filepath.Join(dir, e.Name()))
		}
	}
}

// once makes a file unless it is there, whole or not at all.
func once(path string, make func(to string) error) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	temp := path + ".new"
	if err := os.RemoveAll(temp); err != nil {
		return err
	}
	if err := make(temp); err != nil {
		os.RemoveAll(temp)
		return err
	}
	return os.Rename(temp, path)
}

// compileGuest builds the guest's program; the build cache makes that quick the second time.
func compileGuest(ctx context.Context, to string) error {
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		return &UnavailableError{What: "the source of the guest's program cannot be found"}
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", to, "./fxguest")
	cmd.Dir = filepath.Dir(file)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=-buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		return &UnavailableError{What: "building the guest's program: " + strings.TrimSpace(string(out)), Err: err}
	}
	return nil
}
