package nfsserve

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-git/go-billy/v5"
	"github.com/willscott/go-nfs/file"
)

// share is the file system that is mounted: the disks, and a folder for everything else. It implements billy.Filesystem.
type share struct {
	ctx     context.Context
	root    *os.Root
	flats   map[string]*volume // by file name: they lie at the top
	started time.Time
	written atomic.Int64 // in nanoseconds since 1970: when a disk was last written to
	room    *room
	lives   *lives
	going   sync.RWMutex // held for writing while a file goes, and for reading while one is made or named: a number is one file's
}

var (
	_ billy.Filesystem = (*share)(nil)
	_ billy.Change     = (*share)(nil)
	_ billy.Capable    = (*share)(nil)
)

// Capabilities implements billy.Capable.
func (s *share) Capabilities() billy.Capability {
	return billy.WriteCapability | billy.ReadCapability | billy.ReadAndWriteCapability | billy.SeekCapability | billy.TruncateCapability
}

// Join makes a path of what the host sent. os.Root keeps it inside.
func (s *share) Join(elem ...string) string {
	p := path.Clean("/" + path.Join(elem...))[1:]
	if p == "" {
		return "."
	}
	return p
}

// disk is the volume at a path.
func (s *share) disk(name string) *volume { return s.flats[name] }

func (s *share) Create(name string) (billy.File, error) {
	return s.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
}

func (s *share) Open(name string) (billy.File, error) { return s.OpenFile(name, os.O_RDONLY, 0) }

func (s *share) OpenFile(name string, flag int, perm os.FileMode) (billy.File, error) {
	if v := s.disk(name); v != nil {
		if flag&os.O_TRUNC != 0 {
			return nil, denied("truncate", name)
		}
		return &diskFile{share: s, volume: v}, nil
	}
	if flag&os.O_CREATE != 0 {
		if err := s.room.ask(); err != nil {
			return nil, err
		}
		s.going.RLock()
		defer s.going.RUnlock()
	}
	f, err := s.root.OpenFile(name, flag&^os.O_EXCL, perm&0o777|0o600)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() && !info.IsDir() {
		f.Close()
		return nil, errors.Join(err, denied("open", name))
	}
	return &plainFile{File: f, share: s}, nil
}

func denied(op, name string) error { return &fs.PathError{Op: op, Path: name, Err: fs.ErrPermission} }

func (s *share) Stat(name string) (os.FileInfo, error) { return s.Lstat(name) }

// Lstat follows no link: there are none, as none can be made.
func (s *share) Lstat(name string) (os.FileInfo, error) {
	if v := s.disk(name); v != nil {
		return s.info(v), nil
	}
	return s.root.Lstat(name)
}

func (s *share) info(v *volume) os.FileInfo {
	at := s.started
	if n := s.written.Load(); n > 0 {
		at = time.Unix(0, n)
	}
	return &diskInfo{name: v.Name + "-flat.vmdk", size: v.Image.Size(), at: at}
}

// ReadDir implements billy.Dir. The disks lie at the top.
func (s *share) ReadDir(name string) ([]os.FileInfo, error) {
	d, err := s.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	entries, err := d.Readdir(maxEntries + 1)
	if err != nil && err != io.EOF {
		return nil, err
	}
	if len(entries) > maxEntries {
		return nil, &fs.PathError{Op: "list", Path: name, Err: syscall.EFBIG}
	}
	if name == "." {
		for _, v := range s.flats {
			entries = append(entries, s.info(v))
		}
	}
	slices.SortFunc(entries, func(a, b os.FileInfo) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, nil
}

// maxEntries bounds a folder: what a host makes for a VM is some tens of files.
const maxEntries = 4096

func (s *share) Rename(from, to string) error {
	if s.disk(from) != nil || s.disk(to) != nil {
		return denied("rename", from)
	}
	return s.end(to, func() error { return s.root.Rename(from, to) })
}

func (s *share) Remove(name string) error {
	if s.disk(name) != nil {
		return denied("remove", name)
	}
	return s.end(name, func() error { return s.root.Remove(name) })
}

// end has a file go, and makes its handles stale. One that did not go keeps them.
func (s *share) end(name string, goes func() error) error {
	s.going.Lock()
	defer s.going.Unlock()
	n, there := s.number(name)
	if err := goes(); err != nil {
		return err
	}
	if there != nil {
		return nil
	}
	return s.lives.end(n)
}

func (s *share) MkdirAll(name string, perm os.FileMode) error {
	if err := s.room.ask(); err != nil {
		return err
	}
	s.going.RLock()
	defer s.going.RUnlock()
	return s.root.MkdirAll(name, perm&0o777|0o700)
}

func (s *share) Symlink(target, link string) error { return denied("link", link) }
func (s *share) Readlink(link string) (string, error) {
	return "", &fs.PathError{Op: "readlink", Path: link, Err: fs.ErrInvalid}
}
func (s *share) TempFile(dir, _ string) (billy.File, error)   { return nil, denied("make", dir) }
func (s *share) Chroot(name string) (billy.Filesystem, error) { return nil, denied("enter", name) }
func (s *share) Root() string                                 { return "/" }

// Chmod, and what else changes who may do what, is the host's own affair: files here have one owner. It is taken and not done.
func (s *share) Chmod(string, os.FileMode) error { return nil }
func (s *share) Lchown(string, int, int) error   { return nil }
func (s *share) Chown(string, int, int) error    { return nil }
func (s *share) Chtimes(name string, atime, mtime time.Time) error {
	if s.disk(name) != nil {
		return nil
	}
	return s.root.Chtimes(name, atime, mtime)
}

// plainFile is a file that the host made.
type plainFile struct {
	*os.File
	share *share
	dirty bool
}

func (f *plainFile) Write(p []byte) (int, error) {
	if err := f.share.room.ask(); err != nil {
		return 0, err
	}
	f.dirty = true
	return f.File.Write(p)
}

func (f *plainFile) Truncate(size int64) error {
	if size > maxFile {
		return &fs.PathError{Op: "truncate", Path: f.Name(), Err: syscall.EFBIG}
	}
	f.dirty = true
	return f.File.Truncate(size)
}

// Close makes durable what was written: the library answers a write after it, and as stable.
func (f *plainFile) Close() error {
	if f.dirty && !f.share.room.async {
		return errors.Join(f.File.Sync(), f.File.Close())
	}
	return f.File.Close()
}

func (f *plainFile) Lock() error   { return nil }
func (f *plainFile) Unlock() error { return nil }

// maxFile bounds one file that the host makes: a swap file is as long as the VM's memory.
const maxFile = 24 << 40

// diskFile is a disk that was opened.
type diskFile struct {
	*share
	volume *volume
	pos    int64
	dirty  bool
}

func (f *diskFile) Name() string { return f.volume.Name + "-flat.vmdk" }

func (f *diskFile) ReadAt(p []byte, off int64) (int, error) {
	return f.volume.overlay.ReadAt(f.ctx, p, off)
}

func (f *diskFile) Read(p []byte) (int, error) {
	n, err := f.ReadAt(p, f.pos)
	f.pos += int64(n)
	return n, err
}

func (f *diskFile) Write(p []byte) (int, error) {
	if f.pos > f.volume.Image.Size() || int64(len(p)) > f.volume.Image.Size()-f.pos {
		return 0, &fs.PathError{Op: "write", Path: f.Name(), Err: syscall.EFBIG}
	}
	if err := f.room.ask(); err != nil {
		return 0, err
	}
	f.dirty = true
	f.written.Store(time.Now().UnixNano())
	n, err := f.volume.overlay.WriteAt(f.ctx, p, f.pos)
	f.pos += int64(n)
	return n, err
}

func (f *diskFile) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += f.pos
	case io.SeekEnd:
		off += f.volume.Image.Size()
	}
	if off < 0 {
		return f.pos, &fs.PathError{Op: "seek", Path: f.Name(), Err: fs.ErrInvalid}
	}
	f.pos = off
	return off, nil
}

// Truncate: a disk has one length.
func (f *diskFile) Truncate(size int64) error {
	if size != f.volume.Image.Size() {
		return denied("truncate", f.Name())
	}
	return nil
}

func (f *diskFile) Close() error {
	if !f.dirty {
		return nil
	}
	return f.volume.settle(f.ctx)
}

func (f *diskFile) Lock() error   { return nil }
func (f *diskFile) Unlock() error { return nil }

type diskInfo struct {
	name string
	size int64
	at   time.Time
}

func (i *diskInfo) Name() string       { return i.name }
func (i *diskInfo) Size() int64        { return i.size }
func (i *diskInfo) Mode() os.FileMode  { return 0o600 }
func (i *diskInfo) ModTime() time.Time { return i.at }
func (i *diskInfo) IsDir() bool        { return false }
func (i *diskInfo) Sys() any           { return &file.FileInfo{Nlink: 1, Fileid: numberOf(i.name)} }
