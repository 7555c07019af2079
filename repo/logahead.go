package repo

import (
	"context"
	"io"
	"io/fs"
	"sync"

	"github.com/hikae/hikae/repo/store"
)

// logAhead reads log records ahead: each has to be asked for by its number, and over a line every question takes a
// round trip, so a log of thousands that is read one after the other takes minutes. Once several records in a row were
// there, as many again are asked for at the same time, up to a bound. Only what is there is kept: a record is never
// changed, and whether the next one exists is always asked anew.
type logAhead struct {
	store.Store

	mu    sync.Mutex
	files map[string][]byte
}

const (
	aheadAfter = 8  // records in a row
	aheadMost  = 32 // records at the same time
)

func newLogAhead(st store.Store) *logAhead {
	return &logAhead{Store: st, files: map[string][]byte{}}
}

// Unwrap gives the store that is read.
func (a *logAhead) Unwrap() store.Store { return a.Store }

// fetch asks for the records after n. What goes wrong is found out by whoever reads them one by one.
func (a *logAhead) fetch(ctx context.Context, n uint64, count int) {
	var wg sync.WaitGroup
	for i := range count {
		wg.Go(func() {
			name := logName(n + 1 + uint64(i))
			if file, err := store.ReadAll(ctx, a.Store, name, maxVital); err == nil {
				a.mu.Lock()
				defer a.mu.Unlock()
				a.files[name] = file
			}
		})
	}
	wg.Wait()
}

// forget drops what was not used.
func (a *logAhead) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.files)
}

func (a *logAhead) get(name string) ([]byte, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	file, ok := a.files[name]
	return file, ok
}

// Stat answers for a record that was read ahead.
func (a *logAhead) Stat(ctx context.Context, name string) (store.Info, error) {
	if file, ok := a.get(name); ok {
		return store.Info{Name: name, Size: int64(len(file))}, nil
	}
	return a.Store.Stat(ctx, name)
}

// ReadAt answers for a record that was read ahead.
func (a *logAhead) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	file, ok := a.get(name)
	switch {
	case !ok:
		return a.Store.ReadAt(ctx, name, p, off)
	case off < 0 || off > int64(len(file)):
		return 0, &fs.PathError{Op: "read", Path: name, Err: fs.ErrInvalid}
	}
	n := copy(p, file[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
