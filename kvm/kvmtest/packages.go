//go:build linux

package kvmtest

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// fetchPackage downloads a Debian package without installing it.
func fetchPackage(ctx context.Context, dir, name string) (string, error) {
	cmd := exec.CommandContext(ctx, "apt-get", "download", name)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", &UnavailableError{What: "package " + name + " cannot be had: " + lastLine(out), Err: err}
	}
	found, err := filepath.Glob(filepath.Join(dir, name+"_*.deb"))
	if err != nil || len(found) != 1 {
		return "", &UnavailableError{What: fmt.Sprintf("package %s: %d files came", name, len(found)), Err: err}
	}
	return found[0], nil
}

// fetchClosure downloads packages with all that they depend on, whatever is installed here, and returns their files.
func fetchClosure(ctx context.Context, dir string, names []string) ([]string, error) {
	if err := os.MkdirAll(filepath.Join(dir, "partial"), 0o755); err != nil {
		return nil, err
	}
	args := append([]string{"-y", "-q", "-o", "Debug::NoLocking=1", "-o", "Dir::State::status=/dev/null", "-o", "APT::Install-Recommends=false",
		"-o", "APT::Sandbox::User=", "-o", "Dir::Cache::archives=" + dir, "--download-only", "install"}, names...)
	if out, err := exec.CommandContext(ctx, "apt-get", args...).CombinedOutput(); err != nil {
		return nil, &UnavailableError{What: fmt.Sprintf("packages %v cannot be had: %s", names, lastLine(out)), Err: err}
	}
	return filepath.Glob(filepath.Join(dir, "*.deb"))
}

func lastLine(text []byte) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}

// unpack hands the regular files of a package that want accepts to take.
func unpack(ctx context.Context, deb string, want func(name string) bool, take func(name string, r io.Reader) error) (err error) {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		if waited := cmd.Wait(); err == nil {
			err = waited
		}
	}()
	for r := tar.NewReader(out); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			_, err = io.Copy(io.Discard, out)
			return err
		}
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(h.Name, "./")
		if h.Typeflag != tar.TypeReg || !want(name) {
			continue
		}
		if err := take(name, r); err != nil {
			return err
		}
	}
}

func save(path string, r io.Reader, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

// fetchAgent takes the stock guest agent out of its package.
func fetchAgent(ctx context.Context, to string) error {
	dir, err := os.MkdirTemp(filepath.Dir(to), "fetch")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	deb, err := fetchPackage(ctx, dir, "qemu-guest-agent")
	if err != nil {
		return err
	}
	return unpack(ctx, deb, func(name string) bool { return name == "usr/sbin/qemu-ga" },
		func(_ string, r io.Reader) error { return save(to, r, 0o755) })
}

var library = regexp.MustCompile(`(?m)^\s*(?:\S+ => )?(/\S+) \(0x`)

// libraries are the files that a program is linked with.
func libraries(ctx context.Context, program string) ([]string, error) {
	out, err := exec.CommandContext(ctx, "ldd", program).CombinedOutput()
	if err != nil || strings.Contains(string(out), "not found") {
		return nil, &UnavailableError{What: "libraries of the guest agent are missing: " + lastLine(out), Err: err}
	}
	var paths []string
	for _, m := range library.FindAllStringSubmatch(string(out), -1) {
		paths = append(paths, m[1])
	}
	return paths, nil
}
