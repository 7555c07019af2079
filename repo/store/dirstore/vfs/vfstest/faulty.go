package vfstest

import (
	"errors"
	"io"
	"io/fs"
	"iter"
	"sync"

	"github.com/hikae/hikae/repo/store/dirstore/vfs"
)

// ErrInjected is what a fault gives where it is not told otherwise.
var ErrInjected = errors.New("injected fault")

// Fault says which call fails and how.
type Fault struct {
	Op     string // the call, "" for any: create, open, write, readat, fsync, size, linked, close, lstat, readdir, mkdir, publish, rename, remove, syncdir, hold, free
	N      int    // the Nth such call from now, counted from 1; 0 never
	Sticky bool   // and every such call after it
	After  bool   // the call is carried out, and fails all the same; a write is carried out in half
	Err    error  // nil: ErrInjected
}

// Faulty is a file system that fails as told. Before is called before every call with its name, for a test that looks
// at the state in between.
type Faulty struct {
	vfs.FS
	Before func(op, name string)

	mu    sync.Mutex
	fault Fault
	calls int
	fired int
	ops   map[string]int
}

// NewFaulty wraps a file system. Nothing fails yet.
func NewFaulty(fsys vfs.FS) *Faulty { return &Faulty{FS: fsys, ops: map[string]int{}} }

// Set replaces the fault and starts counting anew.
func (f *Faulty) Set(fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault, f.calls, f.fired = fault, 0, 0
	clear(f.ops)
}

// Fired is how many calls failed since Set.
func (f *Faulty) Fired() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fired
}

// Calls is how often op was called since Set.
func (f *Faulty) Calls(op string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ops[op]
}

// do runs one call with the fault around it.
func (f *Faulty) do(op, name string, call func() error) error {
	err, after := f.next(op)
	if f.Before != nil {
		f.Before(op, name)
	}
	switch {
	case err == nil:
		return call()
	case after:
		_ = call()
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

func (f *Faulty) next(op string) (err error, after bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ops[op]++
	if f.fault.N == 0 || f.fault.Op != "" && f.fault.Op != op {
		return nil, false
	}
	f.calls++
	if f.calls != f.fault.N && (!f.fault.Sticky || f.calls < f.fault.N) {
		return nil, false
	}
	f.fired++
	if f.fault.Err == nil {
		return ErrInjected, f.fault.After
	}
	return f.fault.Err, f.fault.After
}

func (f *Faulty) file(op, name string, call func(string) (vfs.File, error)) (file vfs.File, err error) {
	err = f.do(op, name, func() (err error) {
		file, err = call(name)
		return err
	})
	switch {
	case err == nil:
		return &faultyFile{f, file, name}, nil
	case file != nil:
		_ = file.Close()
	}
	return nil, err
}

func (f *Faulty) Create(name string) (vfs.File, error) { return f.file("create", name, f.FS.Create) }
func (f *Faulty) Open(name string) (vfs.File, error)   { return f.file("open", name, f.FS.Open) }

func (f *Faulty) Lstat(name string) (fi fs.FileInfo, err error) {
	err = f.do("lstat", name, func() error {
		fi, err = f.FS.Lstat(name)
		return err
	})
	return fi, err
}

func (f *Faulty) ReadDir(name string) iter.Seq2[fs.FileInfo, error] {
	return func(yield func(fs.FileInfo, error) bool) {
		if err := f.do("readdir", name, func() error { return nil }); err != nil {
			yield(nil, err)
			return
		}
		f.FS.ReadDir(name)(yield)
	}
}

func (f *Faulty) Mkdir(name string) error {
	return f.do("mkdir", name, func() error { return f.FS.Mkdir(name) })
}

func (f *Faulty) Publish(oldname, newname string) error {
	return f.do("publish", newname, func() error { return f.FS.Publish(oldname, newname) })
}

func (f *Faulty) Rename(oldname, newname string) error {
	return f.do("rename", newname, func() error { return f.FS.Rename(oldname, newname) })
}

func (f *Faulty) Remove(name string) error {
	return f.do("remove", name, func() error { return f.FS.Remove(name) })
}

func (f *Faulty) SyncDir(name string) error {
	return f.do("syncdir", name, func() error { return f.FS.SyncDir(name) })
}

func (f *Faulty) Hold(name string) (hold io.Closer, err error) {
	err = f.do("hold", name, func() error {
		hold, err = f.FS.Hold(name)
		return err
	})
	if err != nil && hold != nil {
		_ = hold.Close()
		hold = nil
	}
	return hold, err
}

func (f *Faulty) Free() (n int64, err error) {
	err = f.do("free", ".", func() error {
		n, err = f.FS.Free()
		return err
	})
	return n, err
}

type faultyFile struct {
	f    *Faulty
	file vfs.File
	name string
}

func (f *faultyFile) Write(p []byte) (int, error) {
	err, after := f.f.next("write")
	if f.f.Before != nil {
		f.f.Before("write", f.name)
	}
	switch {
	case err == nil:
		return f.file.Write(p)
	case after:
		n, _ := f.file.Write(p[:len(p)/2])
		return n, &fs.PathError{Op: "write", Path: f.name, Err: err}
	}
	return 0, &fs.PathError{Op: "write", Path: f.name, Err: err}
}

func (f *faultyFile) ReadAt(p []byte, off int64) (n int, err error) {
	err = f.f.do("readat", f.name, func() error {
		n, err = f.file.ReadAt(p, off)
		return nil
	})
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

func (f *faultyFile) Sync() error { return f.f.do("fsync", f.name, f.file.Sync) }

// Close closes in any case, as a system does.
func (f *faultyFile) Close() error {
	var err error
	if e := f.f.do("close", f.name, func() error { return nil }); e != nil {
		err = e
	}
	return errors.Join(err, f.file.Close())
}

func (f *faultyFile) Size() (n int64, err error) {
	err = f.f.do("size", f.name, func() error {
		n, err = f.file.Size()
		return err
	})
	return n, err
}

func (f *faultyFile) Linked() (linked bool, err error) {
	err = f.f.do("linked", f.name, func() error {
		linked, err = f.file.Linked()
		return err
	})
	return linked, err
}
