package vmware

import (
	"container/list"
	"context"
	"errors"
	"sync"
)

const (
	windowBytes = 4 << 20 // asked for at once where somebody reads on
	windowsKept = 8       // of all files of a disk
	seenKept    = 64
)

// windowSet makes few requests of many reads. A place that somebody comes to is read as it was asked for: of a disk of which a
// little has changed only that crosses the line. Where reads go on from one window into the next, or come back to one, the
// whole window is asked for, once for all who want it.
type windowSet struct {
	mu    sync.Mutex
	kept  map[windowKey]*window
	order *list.List // of loaded ones, the one used last in front
	seen  map[windowKey]bool
	trail []windowKey // what is in seen, the oldest first
}

type windowKey struct {
	file *httpsFile
	n    int64
}

// window is one that is being read until done is closed, then its content or why there is none.
type window struct {
	key     windowKey
	done    chan struct{}
	data    []byte
	err     error
	element *list.Element
}

func newWindows() *windowSet {
	return &windowSet{kept: map[windowKey]*window{}, order: list.New(), seen: map[windowKey]bool{}}
}

// read fills p, which lies within the file.
func (w *windowSet) read(ctx context.Context, f *httpsFile, p []byte, off int64) (done int, err error) {
	for done < len(p) {
		at := off + int64(done)
		key := windowKey{f, at / windowBytes}
		q := p[done:min(int64(len(p)), (key.n+1)*windowBytes-off)]
		if err := w.piece(ctx, key, q, at); err != nil {
			return done, err
		}
		done += len(q)
	}
	return done, nil
}

// piece fills p, which lies within one window.
func (w *windowSet) piece(ctx context.Context, key windowKey, p []byte, off int64) error {
	for {
		win, mine := w.claim(key, len(p))
		if win == nil {
			return key.file.fill(ctx, p, off)
		}
		if mine {
			w.load(ctx, win)
		}
		select {
		case <-win.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		gaveUp := errors.Is(win.err, context.Canceled) || errors.Is(win.err, context.DeadlineExceeded)
		switch {
		case win.err == nil:
			copy(p, win.data[off-key.n*windowBytes:])
			return nil
		case mine || !gaveUp || ctx.Err() != nil:
			return win.err
		}
	}
}

// claim finds a window, or makes it the caller's to load, or says by nil that it is not worth it.
func (w *windowSet) claim(key windowKey, want int) (win *window, mine bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if win := w.kept[key]; win != nil {
		if win.element != nil {
			w.order.MoveToFront(win.element)
		}
		return win, false
	}
	hot := w.seen[key] || w.seen[windowKey{key.file, key.n - 1}]
	if !w.seen[key] {
		w.seen[key] = true
		if w.trail = append(w.trail, key); len(w.trail) > seenKept {
			delete(w.seen, w.trail[0])
			w.trail = w.trail[1:]
		}
	}
	if !hot || want == windowBytes {
		return nil, false
	}
	win = &window{key: key, done: make(chan struct{})}
	w.kept[key] = win
	return win, true
}

func (w *windowSet) load(ctx context.Context, win *window) {
	off := win.key.n * windowBytes
	data := make([]byte, min(windowBytes, win.key.file.size-off))
	err := win.key.file.fill(ctx, data, off)
	w.mu.Lock()
	defer w.mu.Unlock()
	defer close(win.done)
	if err != nil {
		win.err = err
		delete(w.kept, win.key)
		return
	}
	win.data = data
	win.element = w.order.PushFront(win)
	for w.order.Len() > windowsKept {
		last := w.order.Remove(w.order.Back()).(*window)
		delete(w.kept, last.key)
	}
}

// fill fills p from the server.
func (f *httpsFile) fill(ctx context.Context, p []byte, off int64) error {
	got, err := f.get(ctx, f, off, int64(len(p)))
	if err != nil {
		return err
	}
	if len(got) < len(p) {
		return &FileChangedError{f.name, errShrunk.Error()}
	}
	copy(p, got)
	return nil
}
