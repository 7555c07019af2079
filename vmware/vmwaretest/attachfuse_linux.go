package vmwaretest

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"path"
	"syscall"
	"time"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// mountGuest mounts a guest's tree at dir. What is shown is asked for at every look, so that disks come and go as they do in a
// guest.
func mountGuest(dir string, g guestTree) (unmount func() error, err error) {
	zero := time.Duration(0)
	server, err := fusefs.Mount(dir, &guestNode{tree: g}, &fusefs.Options{
		EntryTimeout: &zero, AttrTimeout: &zero, NegativeTimeout: &zero,
		MountOptions: fuse.MountOptions{Name: "guest", FsName: "guest", DirectMount: true, MaxWrite: 1 << 20},
	})
	if err != nil {
		return nil, fmt.Errorf("the guest's view needs FUSE: %w", err)
	}
	return func() error {
		for wait := time.Millisecond; ; wait *= 2 {
			err := server.Unmount()
			if err == nil {
				server.Wait()
				return nil
			}
			if wait > time.Second {
				return err
			}
			time.Sleep(wait)
		}
	}, nil
}

// guestNode is one name in the tree.
type guestNode struct {
	fusefs.Inode
	tree guestTree
	name string // its path; empty: the root
}

var _ = (fusefs.NodeLookuper)((*guestNode)(nil))
var _ = (fusefs.NodeReaddirer)((*guestNode)(nil))
var _ = (fusefs.NodeGetattrer)((*guestNode)(nil))
var _ = (fusefs.NodeSetattrer)((*guestNode)(nil))
var _ = (fusefs.NodeReadlinker)((*guestNode)(nil))
var _ = (fusefs.NodeOpener)((*guestNode)(nil))

func (n *guestNode) entry() *entry { return n.tree.entries()[n.name] }

// mode is a name's kind for the kernel. A disk is a regular file: a device node would lead to the kernel's own drivers.
func (e *entry) mode() uint32 {
	switch e.kind {
	case entryDir:
		return syscall.S_IFDIR | 0o755
	case entryLink:
		return syscall.S_IFLNK | 0o777
	case entryScan:
		return syscall.S_IFREG | 0o200
	case entryDisk:
		return syscall.S_IFREG | 0o660
	}
	return syscall.S_IFREG | 0o444
}

func (e *entry) length() uint64 {
	if e.kind == entryDisk {
		return uint64(e.disk.size)
	}
	return uint64(len(e.text))
}

// inode makes another number of each attachment, so that the kernel does not take a new disk for the one before.
func (e *entry) inode(name string) uint64 {
	h := fnv.New64a()
	io.WriteString(h, name)
	if e.kind == entryDisk {
		fmt.Fprintf(h, "\x00%d", e.disk.attachment)
	}
	fmt.Fprintf(h, "\x00%d%s", e.kind, e.text)
	return h.Sum64() | 1
}

// Lookup implements [fusefs.NodeLookuper].
func (n *guestNode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fusefs.Inode, syscall.Errno) {
	at := path.Join(n.name, name)
	e := n.tree.entries()[at]
	if e == nil {
		return nil, syscall.ENOENT
	}
	out.Mode, out.Size = e.mode(), e.length()
	return n.NewInode(ctx, &guestNode{tree: n.tree, name: at}, fusefs.StableAttr{Mode: e.mode() & syscall.S_IFMT, Ino: e.inode(at)}), 0
}

// Readdir implements [fusefs.NodeReaddirer].
func (n *guestNode) Readdir(context.Context) (fusefs.DirStream, syscall.Errno) {
	all := n.tree.entries()
	e := all[n.name]
	if e == nil {
		return nil, syscall.ENOENT
	}
	var out []fuse.DirEntry
	for _, name := range e.within {
		at := path.Join(n.name, name)
		out = append(out, fuse.DirEntry{Name: name, Mode: all[at].mode(), Ino: all[at].inode(at)})
	}
	return fusefs.NewListDirStream(out), 0
}

// Getattr implements [fusefs.NodeGetattrer].
func (n *guestNode) Getattr(_ context.Context, _ fusefs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	e := n.entry()
	if e == nil {
		return syscall.ENOENT
	}
	out.Mode, out.Size, out.Nlink = e.mode(), e.length(), 1
	return 0
}

// Setattr implements [fusefs.NodeSetattrer]: a device keeps its length whatever it is told.
func (n *guestNode) Setattr(ctx context.Context, f fusefs.FileHandle, _ *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return n.Getattr(ctx, f, out)
}

// Readlink implements [fusefs.NodeReadlinker].
func (n *guestNode) Readlink(context.Context) ([]byte, syscall.Errno) {
	if e := n.entry(); e != nil && e.kind == entryLink {
		return []byte(e.text), 0
	}
	return nil, syscall.EINVAL
}

// Open implements [fusefs.NodeOpener]. Nothing is kept in the page cache, so that each read is one of the device.
func (n *guestNode) Open(ctx context.Context, flags uint32) (fusefs.FileHandle, uint32, syscall.Errno) {
	e := n.entry()
	if e == nil {
		return nil, 0, syscall.ENOENT
	}
	if e.kind != entryDisk {
		return &textHandle{tree: n.tree, e: e}, fuse.FOPEN_DIRECT_IO, 0
	}
	device, err := n.tree.open(ctx, e.disk, flags&syscall.O_ACCMODE != syscall.O_RDONLY)
	if err != nil {
		return nil, 0, errnoOf(err)
	}
	return &deviceHandle{device: device}, fuse.FOPEN_DIRECT_IO, 0
}

func errnoOf(err error) syscall.Errno {
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
		return errno
	case errors.Is(err, os.ErrPermission):
		return syscall.EROFS
	case errors.Is(err, os.ErrNotExist):
		return syscall.ENXIO
	}
	return syscall.EIO
}

// textHandle is an open file of sysfs.
type textHandle struct {
	tree guestTree
	e    *entry
}

// Read implements [fusefs.FileReader].
func (h *textHandle) Read(_ context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if h.e.kind == entryScan {
		return nil, syscall.EACCES
	}
	text := h.e.text[min(off, int64(len(h.e.text))):]
	return fuse.ReadResultData([]byte(text[:min(len(text), len(dest))])), 0
}

// Write implements [fusefs.FileWriter]: of all texts only a scan can be asked for.
func (h *textHandle) Write(_ context.Context, data []byte, _ int64) (uint32, syscall.Errno) {
	if h.e.kind != entryScan {
		return 0, syscall.EACCES
	}
	h.tree.scan()
	return uint32(len(data)), 0
}

// deviceHandle is an open disk.
type deviceHandle struct{ device guestDevice }

// Read implements [fusefs.FileReader].
func (h *deviceHandle) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	n, err := h.device.ReadAt(ctx, dest, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, errnoOf(err)
	}
	return fuse.ReadResultData(dest[:n]), 0
}

// Write implements [fusefs.FileWriter].
func (h *deviceHandle) Write(ctx context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	n, err := h.device.WriteAt(ctx, data, off)
	if err != nil {
		return uint32(n), errnoOf(err)
	}
	return uint32(n), 0
}

// Fsync implements [fusefs.FileFsyncer].
func (h *deviceHandle) Fsync(context.Context, uint32) syscall.Errno { return 0 }

// Release implements [fusefs.FileReleaser].
func (h *deviceHandle) Release(context.Context) syscall.Errno {
	if err := h.device.Close(); err != nil {
		return syscall.EIO
	}
	return 0
}
