//go:build linux

package kvmtest

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
)

// kernel is Debian's cloud kernel: ext4 and PVH boot are built in, virtio comes as modules.
type kernel struct{ dir string }

// modules, in the order in which they are loaded. Those that a kernel has built in are not there, and not missed.
var modules = []string{
	"virtio_ring.ko", "virtio.ko", "virtio_pci_legacy_dev.ko", "virtio_pci_modern_dev.ko", "virtio_pci.ko",
	"virtio_blk.ko", "virtio_console.ko", "crc32c_generic.ko", "crc16.ko", "mbcache.ko", "jbd2.ko", "ext4.ko",
}

// serverModules come after them, in a server alone.
var serverModules = []string{"libcrc32c.ko", "xfs.ko"}

// lvmModules come after those, where the root is a logical volume.
var lvmModules = []string{"dm-mod.ko"}

func (k *kernel) build(ctx context.Context) error {
	return once(k.dir, func(to string) error {
		if err := os.MkdirAll(to, 0o755); err != nil {
			return err
		}
		return (&kernel{dir: to}).fetch(ctx)
	})
}

var kernelPackage = regexp.MustCompile(`Depends: (linux-image-\S+)`)

func (k *kernel) fetch(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "apt-cache", "depends", "linux-image-cloud-amd64").CombinedOutput()
	m := kernelPackage.FindSubmatch(out)
	if err != nil || m == nil {
		return &UnavailableError{What: "apt knows no linux-image-cloud-amd64: " + lastLine(out), Err: err}
	}
	deb, err := fetchPackage(ctx, k.dir, string(m[1]))
	if err != nil {
		return err
	}
	defer os.Remove(deb)
	want := func(name string) bool {
		return path.Dir(name) == "boot" && bytes.HasPrefix([]byte(path.Base(name)), []byte("vmlinuz-")) ||
			slices.Contains(slices.Concat(modules, serverModules, lvmModules), path.Base(name))
	}
	err = unpack(ctx, deb, want, func(name string, r io.Reader) error {
		if path.Dir(name) == "boot" {
			return save(k.compressed(), r, 0o644)
		}
		return save(filepath.Join(k.dir, path.Base(name)), r, 0o644)
	})
	if err != nil {
		return err
	}
	return k.decompress(ctx)
}

func (k *kernel) compressed() string { return filepath.Join(k.dir, "vmlinuz") }

// image is what QEMU is given: the plain kernel where there is one.
func (k *kernel) image() string {
	plain := filepath.Join(k.dir, "vmlinux")
	if _, err := os.Stat(plain); err == nil {
		return plain
	}
	return k.compressed()
}

// decompress takes the plain kernel out, which QEMU boots directly: to decompress it under emulation takes more than a
// second of every boot. Without a program for that the compressed one serves too.
func (k *kernel) decompress(ctx context.Context) error {
	image, err := os.ReadFile(k.compressed())
	if err != nil {
		return err
	}
	payload, err := payloadOf(image)
	if err != nil {
		return err
	}
	for magic, program := range map[string]string{"\x02\x21\x4c\x18": "lz4", "\xfd7zX": "xz", "\x28\xb5\x2f\xfd": "zstd", "\x1f\x8b": "gzip"} {
		if !bytes.HasPrefix(payload, []byte(magic)) {
			continue
		}
		if _, err := exec.LookPath(program); err != nil {
			return nil
		}
		cmd := exec.CommandContext(ctx, program, "-dc")
		cmd.Stdin = bytes.NewReader(payload)
		plain, _ := cmd.Output() // the size that follows the payload makes all of them complain
		if !bytes.HasPrefix(plain, []byte("\x7fELF")) {
			return nil
		}
		return os.WriteFile(filepath.Join(k.dir, "vmlinux"), plain, 0o644)
	}
	return nil
}

// payloadOf finds the compressed kernel by the setup header of the x86 boot protocol.
func payloadOf(image []byte) ([]byte, error) {
	if len(image) < 0x250 {
		return nil, fmt.Errorf("a kernel of %d bytes", len(image))
	}
	sectors := int(image[0x1f1])
	if sectors == 0 {
		sectors = 4
	}
	from := int64(sectors+1)*512 + int64(binary.LittleEndian.Uint32(image[0x248:]))
	to := from + int64(binary.LittleEndian.Uint32(image[0x24c:]))
	if to > int64(len(image)) {
		return nil, fmt.Errorf("a kernel of %d bytes whose payload ends at %d", len(image), to)
	}
	return image[from:to], nil
}
