package dirstore

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"sync"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/dirstore/vfs"
)

// tempDir holds the folders of all writers. No object can have its name.
const tempDir = ".tmp"

// scratch is one writer's folder of unfinished files, made when it is first needed. Its name says how it is held, in
// which kernel, and ends in chance:
//
//	local-<kernel>-<random>    by a lock, on a file system of this kernel alone
//	remote-<kernel>-<random>   by a lock that other machines may not see
//	served--<random>           by the server that every call asks
//	unheld-<kernel>-<random>   by nothing
type scratch struct {
	fs vfs.FS
	*scratchState
}

type scratchState struct {
	mu   sync.Mutex
	dir  string
	hold io.Closer
	next uint64
}

func newScratch(fsys vfs.FS) *scratch { return &scratch{fsys, new(scratchState)} }

const (
	heldLocal  = "local"
	heldRemote = "remote"
	heldServed = "served"
	unheld     = "unheld"
)

// create makes an empty file that nobody else has.
func (s *scratch) create() (string, vfs.File, error) {
	name, err := s.name()
	if err != nil {
		return "", nil, err
	}
	f, err := s.fs.Create(name)
	if errors.Is(err, fs.ErrExist) {
		err = opaque(err)
	}
	return name, f, err
}

func (s *scratch) name() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir == "" {
		if err := s.make(); err != nil {
			return "", err
		}
	}
	s.next++
	return s.dir + "/" + strconv.FormatUint(s.next, 10), nil
}

// make may race with a writer that ends and takes tempDir with it, or with a sweep that finds the folder before it is
// held; both need a few tries at most.
func (s *scratch) make() error {
	place := s.fs.Place()
	kind := heldRemote
	switch {
	case place.Local:
		kind = heldLocal
	case place.Central:
		kind = heldServed
	}
	var err error
	for range 8 {
		err = s.tryMake(kind, place.Kernel)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, errors.ErrUnsupported):
			kind = unheld
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, vfs.ErrHeld):
			return err
		}
	}
	return err
}

func (s *scratch) tryMake(kind, kernel string) error {
	if err := s.fs.Mkdir(tempDir); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	var chance [8]byte
	rand.Read(chance[:])
	dir := path.Join(tempDir, kind+"-"+kernel+"-"+hex.EncodeToString(chance[:]))
	if err := s.fs.Mkdir(dir); err != nil {
		if errors.Is(err, fs.ErrExist) {
			err = opaque(err)
		}
		return err
	}
	if kind == unheld {
		s.dir = dir
		return nil
	}
	hold, err := s.fs.Hold(dir)
	if err != nil {
		return errors.Join(err, quiet(s.fs.Remove(dir)))
	}
	if _, err := s.fs.Lstat(dir); err != nil {
		return errors.Join(err, hold.Close())
	}
	s.dir, s.hold = dir, hold
	return nil
}

// forget starts over with another folder, because this one is gone.
func (s *scratch) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir == "" {
		return
	}
	if _, err := s.fs.Lstat(s.dir); errors.Is(err, fs.ErrNotExist) {
		if s.hold != nil {
			_ = s.hold.Close()
		}
		s.dir, s.hold = "", nil
	}
}

// close removes the folder, and tempDir where this was the last. A file that could not be removed keeps them for a
// sweep, which is no error of closing.
func (s *scratch) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir == "" {
		return nil
	}
	if s.fs.Remove(s.dir) == nil {
		_ = s.fs.Remove(tempDir)
	}
	s.dir = ""
	if s.hold == nil {
		return nil
	}
	return s.hold.Close()
}

// own is the name of this writer's folder in tempDir.
func (s *scratch) own() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return path.Base(s.dir)
}

// Sweep removes the unfinished files of dead writers. A writer is dead when its folder can be locked, as far as a lock
// tells: on a file system of this kernel alone it does, for writers since long before the last start, and so it does
// where one server is asked; elsewhere only for writers of the kernel that runs now. With alone every folder goes that no living process of this kernel holds.
func (s *Store) Sweep(ctx context.Context, alone bool) (store.Swept, error) {
	if err := s.begin(ctx); err != nil {
		return store.Swept{}, fail("sweep", tempDir, err)
	}
	defer s.work.Done()
	swept, err := s.on(ctx).sweep(ctx, alone)
	return swept, fail("sweep", tempDir, err)
}

func (s *Store) sweep(ctx context.Context, alone bool) (swept store.Swept, err error) {
	writers, err := s.writers()
	if err != nil {
		return swept, err
	}
	own := s.scratch.own()
	for _, w := range writers {
		if err := ctx.Err(); err != nil {
			return swept, err
		}
		if w == own {
			continue
		}
		gone, err := s.sweepWriter(path.Join(tempDir, w), alone || s.provable(w), alone, &swept)
		if err != nil {
			return swept, err
		}
		if !gone {
			swept.Kept++
		}
	}
	if len(writers) > 0 && own == "." {
		_ = s.fs.Remove(tempDir) // stays while anybody uses it
	}
	return swept, nil
}

// writers are the folders in tempDir that a store made.
func (s *Store) writers() (names []string, err error) {
	for fi, err := range s.fs.ReadDir(tempDir) {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, nil
		case err != nil:
			return nil, err
		}
		if kind, _, _ := parseWriter(fi.Name()); fi.IsDir() && kind != "" {
			names = append(names, fi.Name())
		}
	}
	return names, nil
}

func parseWriter(name string) (kind, kernel string, ok bool) {
	parts := strings.Split(name, "-")
	if len(parts) != 3 || len(parts[2]) != 16 {
		return "", "", false
	}
	switch parts[0] {
	case heldLocal, heldRemote, heldServed, unheld:
		return parts[0], parts[1], true
	}
	return "", "", false
}

// provable reports whether a lock on the writer's folder tells whether the writer lives.
func (s *Store) provable(writer string) bool {
	kind, kernel, _ := parseWriter(writer)
	here := s.fs.Place()
	switch {
	case kind == unheld:
		return false
	case kind == heldLocal && here.Local, kind == heldServed && here.Central:
		return true
	}
	return kernel != "" && kernel == here.Kernel
}

func (s *Store) sweepWriter(dir string, may, alone bool, swept *store.Swept) (gone bool, err error) {
	if !may {
		return false, nil
	}
	hold, err := s.fs.Hold(dir)
	switch {
	case err == nil:
		defer hold.Close()
	case errors.Is(err, fs.ErrNotExist): // its writer has just ended
		return true, nil
	case errors.Is(err, vfs.ErrHeld):
		return false, nil
	case errors.Is(err, errors.ErrUnsupported):
		if !alone {
			return false, nil
		}
	default:
		return false, err
	}
	return s.empty(dir, swept)
}

// empty removes a dead writer's folder. What a system keeps there because some process still has it open stays, and so
// does the folder, for the next sweep.
func (s *Store) empty(dir string, swept *store.Swept) (gone bool, err error) {
	gone = true
	for fi, err := range s.fs.ReadDir(dir) {
		if err == nil && !fi.Mode().IsRegular() {
			err = fmt.Errorf("%s/%s: %w", dir, fi.Name(), vfs.ErrIrregular)
		}
		if err == nil {
			err = s.fs.Remove(dir + "/" + fi.Name())
		}
		switch {
		case err == nil:
			swept.Removed++
			swept.Bytes += fi.Size()
		case fi != nil && silly(fi.Name()) || errors.Is(err, fs.ErrNotExist):
			gone = false
		default:
			return false, err
		}
	}
	if !gone {
		return false, nil
	}
	return true, s.fs.Remove(dir)
}

// silly reports whether a system made the name up for a file that was removed while it was open.
func silly(name string) bool {
	return strings.HasPrefix(name, ".nfs") || strings.HasPrefix(name, ".fuse_hidden") || strings.HasPrefix(name, ".smb")
}

// quiet is an error's words where its identity would mislead.
func quiet(err error) error {
	if err == nil {
		return nil
	}
	return opaque(err)
}
