//go:build linux

package kvmtest

import (
	"bufio"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// libraryDirs are where Debian's dynamic linker looks, on amd64.
var libraryDirs = []string{"lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib64", "usr/lib64"}

const linker = "lib64/ld-linux-x86-64.so.2"

// writeLVMTools packs what an initramfs needs to find volume groups: Debian's own program with its libraries out of an
// unpacked tree, whatever is installed here, and its settings.
func writeLVMTools(to, tree string) error {
	files := map[string]string{"sbin/lvm": filepath.Join(tree, "sbin/lvm"), linker: filepath.Join(tree, linker)}
	if err := addLibraries(files, tree, files["sbin/lvm"]); err != nil {
		return err
	}
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	w := &cpio{w: bufio.NewWriter(f), dirs: map[string]bool{}}
	for name, from := range files {
		w.file("/"+name, from)
	}
	w.add("/etc/lvm/lvm.conf", 0o100644, []byte(lvmConfig))
	w.add("TRAILER!!!", 0, nil)
	return errors.Join(w.err, w.w.Flush(), f.Close())
}

// addLibraries adds what a program is linked with, and what that is linked with.
func addLibraries(files map[string]string, tree, program string) error {
	f, err := elf.Open(program)
	if err != nil {
		return err
	}
	names, err := f.ImportedLibraries()
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("%s: %w", program, err)
	}
	for _, name := range names {
		at := findLibrary(tree, name)
		if at == "" {
			return &UnavailableError{What: "library " + name + " is in none of the packages"}
		}
		if _, known := files[at]; known {
			continue
		}
		files[at] = filepath.Join(tree, at)
		if err := addLibraries(files, tree, files[at]); err != nil {
			return err
		}
	}
	return nil
}

func findLibrary(tree, name string) string {
	for _, dir := range libraryDirs {
		if at := filepath.Join(dir, name); exists(filepath.Join(tree, at)) {
			return at
		}
	}
	return ""
}
