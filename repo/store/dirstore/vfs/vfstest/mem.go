// Package vfstest has file systems for tests of what stands on [vfs.FS]: [Mem], in memory, whose crashes lose what was
// not synced, and [Faulty], which fails any one call.
package vfstest

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"iter"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae/repo/store/dirstore/vfs"
)

// Mem is a directory in memory. It remembers for every file and folder what a sync has made durable; [Mem.Crash]
// keeps that, and of everything newer only what chance keeps. Folders are durable entry by entry, files in blocks of
// 4 KiB: a rename that was not synced may leave the old name, the new one, both or neither.
type Mem struct {
	where vfs.Place

	mu     sync.Mutex
	root   *node
	held   map[*node]bool
	closed bool
}

// node is a file or a folder. Nodes are shared by their names, as inodes are.
type node struct {
	names int
	// A file's content, and the content as last synced.
	data, synced []byte
	// A folder's entries, and the entries as last synced. Nil in a file.
	dir, syncedDir map[string]*node
}

// NewMem makes an empty directory that belongs to this kernel alone.
func NewMem() *Mem { return newMem(newDir(), vfs.Place{Kernel: "1", Local: true}) }

func newMem(root *node, place vfs.Place) *Mem {
	return &Mem{root: root, where: place, held: map[*node]bool{}}
}

func newDir() *node { return &node{names: 1, dir: map[string]*node{}, syncedDir: map[string]*node{}} }

// find walks to a folder or file.
func (m *Mem) find(name string) (*node, error) {
	n := m.root
	if m.closed {
		return nil, fs.ErrClosed
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "." {
			continue
		}
		if n = n.dir[part]; n == nil {
			return nil, fs.ErrNotExist
		}
	}
	return n, nil
}

// parent finds the folder that a name is or will be in.
func (m *Mem) parent(name string) (*node, string, error) {
	n, err := m.find(path.Dir(name))
	if err == nil && n.dir == nil {
		err = vfs.ErrIrregular
	}
	return n, path.Base(name), err
}

// put gives a node a name that is free.
func (m *Mem) put(op, name string, n *node) error {
	dir, base, err := m.parent(name)
	if err == nil && dir.dir[base] != nil {
		err = fs.ErrExist
	}
	if err != nil {
		return &fs.PathError{Op: op, Path: name, Err: err}
	}
	dir.dir[base] = n
	n.names++
	return nil
}

func (m *Mem) Create(name string) (vfs.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := &node{}
	if err := m.put("create", name, n); err != nil {
		return nil, err
	}
	return &memFile{m: m, n: n}, nil
}

func (m *Mem) Mkdir(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := newDir()
	n.names = 0
	return m.put("mkdir", name, n)
}

func (m *Mem) Open(name string) (vfs.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find(name)
	if err == nil && n.dir != nil {
		err = vfs.ErrIrregular
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return &memFile{m: m, n: n}, nil
}

func (m *Mem) Lstat(name string) (fs.FileInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find(name)
	if err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: name, Err: err}
	}
	return n.info(path.Base(name)), nil
}

func (m *Mem) ReadDir(name string) iter.Seq2[fs.FileInfo, error] {
	return func(yield func(fs.FileInfo, error) bool) {
		infos, err := m.infos(name)
		if err != nil {
			yield(nil, &fs.PathError{Op: "readdir", Path: name, Err: err})
		}
		for _, fi := range infos {
			if !yield(fi, nil) {
				return
			}
		}
	}
}

func (m *Mem) infos(name string) (infos []fs.FileInfo, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find(name)
	if err == nil && n.dir == nil {
		err = vfs.ErrIrregular
	}
	if err != nil {
		return nil, err
	}
	for _, base := range slices.Sorted(maps.Keys(n.dir)) {
		infos = append(infos, n.dir[base].info(base))
	}
	return infos, nil
}

func (m *Mem) Publish(oldname, newname string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.move(oldname, newname)
}

func (m *Mem) Rename(oldname, newname string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if dir, base, err := m.parent(newname); err == nil && dir.dir[base] != nil && dir.dir[base].dir == nil {
		dir.dir[base].names--
		delete(dir.dir, base)
	}
	return m.move(oldname, newname)
}

func (m *Mem) move(oldname, newname string) error {
	n, err := m.find(oldname)
	if err != nil {
		return &fs.PathError{Op: "rename", Path: oldname, Err: err}
	}
	if err := m.put("rename", newname, n); err != nil {
		return err
	}
	return m.unlink(oldname)
}

func (m *Mem) unlink(name string) error {
	dir, base, err := m.parent(name)
	if err == nil && dir.dir[base] == nil {
		err = fs.ErrNotExist
	}
	if err == nil && len(dir.dir[base].dir) > 0 {
		err = errors.New("folder is not empty")
	}
	if err != nil {
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	dir.dir[base].names--
	delete(dir.dir, base)
	return nil
}

func (m *Mem) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.unlink(name)
}

func (m *Mem) SyncDir(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find(name)
	if err != nil {
		return &fs.PathError{Op: "sync", Path: name, Err: err}
	}
	n.syncedDir = maps.Clone(n.dir)
	return nil
}

func (m *Mem) Hold(name string) (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find(name)
	if err == nil && m.held[n] {
		err = vfs.ErrHeld
	}
	if err != nil {
		return nil, &fs.PathError{Op: "hold", Path: name, Err: err}
	}
	m.held[n] = true
	return &hold{m, n}, nil
}

type hold struct {
	m *Mem
	n *node
}

func (h *hold) Close() error {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	delete(h.m.held, h.n)
	return nil
}

func (m *Mem) Free() (int64, error) { return 1 << 40, nil }
func (m *Mem) Place() vfs.Place     { return m.where }

func (m *Mem) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}

// ReleaseAll ends every hold, as if their processes had died.
func (m *Mem) ReleaseAll() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.held)
}

// Reopen lets another store have the directory after the last one closed it.
func (m *Mem) Reopen() *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = false
	return m
}

type memFile struct {
	m *Mem
	n *node
}

func (f *memFile) Write(p []byte) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.n.data = append(f.n.data, p...)
	return len(p), nil
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	return bytes.NewReader(f.n.data).ReadAt(p, off)
}

func (f *memFile) Sync() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.n.synced = f.n.data[:len(f.n.data):len(f.n.data)] // nothing but appending changes a file
	return nil
}

func (f *memFile) Size() (int64, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	return int64(len(f.n.data)), nil
}

func (f *memFile) Linked() (bool, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	return f.n.names > 0, nil
}

func (f *memFile) Close() error { return nil }

func (n *node) info(name string) fs.FileInfo { return info{name, int64(len(n.data)), n.dir != nil} }

type info struct {
	name string
	size int64
	dir  bool
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return i.dir }
func (i info) Sys() any           { return nil }

func (i info) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o700
	}
	return 0o600
}
