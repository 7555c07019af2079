package hypervtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae/hyperv/vhdx"
	"github.com/hikae/hikae/internal/freespace"
	"github.com/hikae/hikae/pipe"
)

// ErrSharing is what Windows answers with for a file that somebody else has open in a way that does not go together.
var ErrSharing = errors.New("the file is open elsewhere (sharing violation)")

// LocalFiles are the host's files by their names, on the folder itself: for tests that need no server of files. It has the methods of a
// store of package hyperv. What a VM writes into now cannot be opened, and what it stands on cannot be written to.
type LocalFiles struct {
	h  *Host
	mu sync.Mutex
	rw map[string]bool // open for writing
}

// LocalFiles are this host's: one and the same for all who ask.
func (h *Host) LocalFiles() *LocalFiles {
	h.places.Lock()
	defer h.places.Unlock()
	if h.local == nil {
		h.local = &LocalFiles{h: h, rw: map[string]bool{}}
	}
	return h.local
}

// SetFree has the files' folder tell how many bytes are free; below zero it tells what is so.
func (h *Host) SetFree(bytes int64) {
	h.places.Lock()
	defer h.places.Unlock()
	h.room = &bytes
	if bytes < 0 {
		h.room = nil
	}
}

// held says how a file is in use: it may not be read, or only not be written.
func (h *Host) held(name string) (noRead, noWrite bool) {
	h.Lock()
	defer h.Unlock()
	h.tick(time.Now())
	g := h.ownerOf(name)
	if g == nil {
		return false, false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	d, n := g.driveOf(name)
	if d == nil {
		return false, false
	}
	return n == d.tip && g.on, g.on || n.merging
}

func fileError(op, name string, err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// Open opens a file for reading.
func (l *LocalFiles) Open(ctx context.Context, name string) (pipe.Image, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if locked, _ := l.h.held(name); locked {
		return nil, fileError("open", name, ErrSharing)
	}
	path, err := l.h.volumePath(name)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fileError("open", name, err)
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = errors.New("it is a folder")
	}
	if err != nil {
		return nil, errors.Join(fileError("open", name, err), f.Close())
	}
	return pipe.FromReaderAt(f, info.Size()), nil
}

// OpenFile opens a file that exists for writing.
func (l *LocalFiles) OpenFile(ctx context.Context, name string) (vhdx.File, error) {
	return l.writable(ctx, name, os.O_RDWR)
}

// Create makes a file that does not exist.
func (l *LocalFiles) Create(ctx context.Context, name string) (vhdx.File, error) {
	return l.writable(ctx, name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
}

func (l *LocalFiles) writable(ctx context.Context, name string, how int) (vhdx.File, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	_, locked := l.h.held(name)
	key := strings.ToLower(name)
	l.mu.Lock()
	defer l.mu.Unlock()
	if locked || l.rw[key] {
		return nil, fileError("open", name, ErrSharing)
	}
	path, err := l.h.volumePath(name)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, how, 0o644)
	if err != nil {
		return nil, fileError("open", name, err)
	}
	l.rw[key] = true
	return &localFile{File: f, l: l, name: name}, nil
}

// Remove removes a file, or an empty folder.
func (l *LocalFiles) Remove(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, locked := l.h.held(name); locked {
		return fileError("remove", name, ErrSharing)
	}
	if err := l.h.remove(name); err != nil {
		return fileError("remove", name, err)
	}
	return nil
}

// MakeDir makes a folder and those above it.
func (l *LocalFiles) MakeDir(ctx context.Context, name string) error {
	path, err := l.h.volumePath(name)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return fileError("mkdir", name, err)
	}
	return nil
}

// List are the names in a folder.
func (l *LocalFiles) List(ctx context.Context, name string) (names []string, err error) {
	path, err := l.h.volumePath(name)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, fileError("list", name, err)
	}
	if len(entries) > 100_000 {
		return nil, fileError("list", name, fmt.Errorf("it has %d entries", len(entries)))
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// Free is how many bytes are free where a file or folder is, or would be.
func (l *LocalFiles) Free(ctx context.Context, name string) (int64, error) {
	path, err := l.h.volumePath(name)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return 0, err
	}
	l.h.places.Lock()
	room := l.h.room
	l.h.places.Unlock()
	if room != nil {
		return *room, nil
	}
	for {
		if _, err := os.Stat(path); err == nil || path == filepath.Dir(path) {
			_, free, err := freespace.Of(path)
			return int64(min(free, 1<<62)), err
		}
		path = filepath.Dir(path)
	}
}

// Close implements the store's method: there is nothing to close.
func (l *LocalFiles) Close() error { return nil }

// localFile is one that is written to.
type localFile struct {
	*os.File
	l    *LocalFiles
	name string
	once sync.Once
}

// Size is what the file has now.
func (f *localFile) Size() int64 {
	info, err := f.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}

func (f *localFile) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	n, err := f.File.ReadAt(p, off)
	if n == len(p) && err == io.EOF {
		err = nil
	}
	return n, err
}

func (f *localFile) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f *localFile) Truncate(ctx context.Context, size int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f *localFile) Sync(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return f.File.Sync()
}

// Close lets others write to it again.
func (f *localFile) Close() (err error) {
	err = fs.ErrClosed
	f.once.Do(func() {
		err = f.File.Close()
		f.l.mu.Lock()
		delete(f.l.rw, strings.ToLower(f.name))
		f.l.mu.Unlock()
	})
	return err
}
