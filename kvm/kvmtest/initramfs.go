//go:build linux

package kvmtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// writeInitramfs packs the guest: its program, the agent with its libraries, the modules. It is not compressed: to
// unpack it under emulation costs more than to read it.
func writeInitramfs(ctx context.Context, to string, k *kernel, agent, program string) (err error) {
	libs, err := libraries(ctx, agent)
	if err != nil {
		return err
	}
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	w := &cpio{w: bufio.NewWriter(f), dirs: map[string]bool{}}
	w.file("/init", program)
	w.file("/bin/fx", program)
	w.file("/sbin/shutdown", program)
	w.file("/usr/sbin/qemu-ga", agent)
	for _, lib := range libs {
		w.file(lib, lib)
	}
	w.modules("/mod/order", k.dir, modules)
	w.modules("/mod/server", k.dir, serverModules)
	w.modules("/mod/lvm", k.dir, lvmModules)
	w.dir("/dev")
	w.add("TRAILER!!!", 0, nil)
	return errors.Join(w.err, w.w.Flush(), f.Close())
}

// modules adds those that the kernel did not build in, and the list of them.
func (c *cpio) modules(list, from string, names []string) {
	var order []string
	for _, name := range names {
		if path := filepath.Join(from, name); exists(path) {
			c.file("/mod/"+name, path)
			order = append(order, name)
		}
	}
	c.add(list, 0o100644, []byte(strings.Join(order, "\n")))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// cpio writes the "newc" format, which is what the kernel unpacks.
type cpio struct {
	w     *bufio.Writer
	dirs  map[string]bool
	inode int
	err   error
}

func (c *cpio) file(name, from string) {
	data, err := os.ReadFile(from)
	if err != nil {
		c.err = errors.Join(c.err, err)
		return
	}
	c.add(name, 0o100755, data)
}

// dir adds a folder after those above it.
func (c *cpio) dir(name string) {
	if name == "/" || name == "." || c.dirs[name] {
		return
	}
	c.dirs[name] = true
	c.dir(filepath.Dir(name))
	c.entry(name, 0o040755, nil)
}

func (c *cpio) add(name string, mode int, data []byte) {
	c.dir(filepath.Dir(name))
	c.entry(name, mode, data)
}

func (c *cpio) entry(name string, mode int, data []byte) {
	c.inode++
	name = strings.TrimPrefix(name, "/")
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		c.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
	c.padded(append([]byte(header+name), 0))
	c.padded(data)
}

// padded writes to a multiple of four bytes, as the format wants it after a name and after a content.
func (c *cpio) padded(data []byte) {
	_, err := c.w.Write(data)
	if n := len(data) % 4; err == nil && n != 0 {
		_, err = c.w.Write(make([]byte, 4-n))
	}
	c.err = errors.Join(c.err, err)
}
