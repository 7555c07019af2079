package dirstore

import (
	"container/list"
	"errors"
	"io/fs"
	"sync"

	"github.com/hikae/hikae/repo/store/dirstore/vfs"
)

// handles are the objects that are open for reading, the least recently used let go first, so that many ranges of one
// pack cost one read each.
type handles struct {
	fs vfs.FS
	*handleState
}

type handleState struct {
	max int

	mu     sync.Mutex
	byName map[string]*handle
	used   list.List // of *handle, the latest in front
	drops  uint64    // so that a file opened before a drop is not remembered after it
	closed bool
}

// handle is closed when nobody reads it and the table has let it go.
type handle struct {
	name  string
	file  vfs.File
	users int
	place *list.Element // nil: not in the table
}

func newHandles(fsys vfs.FS, max int) *handles {
	return &handles{fsys, &handleState{max: max, byName: map[string]*handle{}}}
}

// get opens an object, or takes the handle that is there as long as its file has a name: another process may have
// removed the object.
func (t *handles) get(name string) (*handle, error) {
	h, drops, err := t.lookup(name)
	if err != nil {
		return nil, err
	}
	if h != nil {
		linked, err := h.file.Linked()
		if linked && err == nil {
			return h, nil
		}
		t.put(h)
		t.drop(name)
		_, drops, _ = t.lookup("")
	}
	file, err := t.fs.Open(name)
	if crowded(err) && t.shrink() {
		file, err = t.fs.Open(name)
	}
	if err != nil {
		return nil, err
	}
	return t.add(&handle{name: name, file: file, users: 1}, drops), nil
}

func (t *handles) lookup(name string) (*handle, uint64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, 0, fs.ErrClosed
	}
	h := t.byName[name]
	if h != nil {
		h.users++
		t.used.MoveToFront(h.place)
	}
	return h, t.drops, nil
}

// add remembers a handle, unless another is there or something was dropped since the file was opened.
func (t *handles) add(h *handle, drops uint64) *handle {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || drops != t.drops || t.byName[h.name] != nil {
		return h
	}
	t.byName[h.name] = h
	h.place = t.used.PushFront(h)
	for t.used.Len() > t.max {
		_ = t.forget(t.used.Back().Value.(*handle)) // open for reading: closing it tells nothing
	}
	return h
}

// put ends the use of a handle.
func (t *handles) put(h *handle) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if h.users--; h.users == 0 && h.place == nil {
		_ = h.file.Close()
	}
}

// drop makes sure that the object is looked up by name from now on.
func (t *handles) drop(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drops++
	if h := t.byName[name]; h != nil {
		_ = t.forget(h)
	}
}

// shrink closes what nobody reads right now, and reports whether that was anything.
func (t *handles) shrink() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.used.Len()
	for _, h := range t.byName {
		if h.users == 0 {
			_ = t.forget(h)
		}
	}
	return t.used.Len() < before
}

func (t *handles) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	var err error
	for _, h := range t.byName {
		err = errors.Join(err, t.forget(h))
	}
	return err
}

func (t *handles) forget(h *handle) error {
	delete(t.byName, h.name)
	t.used.Remove(h.place)
	h.place = nil
	if h.users > 0 {
		return nil
	}
	return h.file.Close()
}
