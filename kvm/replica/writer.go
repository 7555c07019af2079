package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/hikae/hikae/pipe"
)

// pointWriter writes one point. Its folder is no point, and is removed by the next who comes, until it has a record.
type pointWriter struct {
	s     *Site
	vm    string
	vmDir string
	dir   string
	lock  *held
	base  *record // nil: none

	mu     sync.Mutex
	rec    record
	last   *record // the newest point before; nil: none
	disks  map[string]*target
	ready  map[string]bool // disks that were committed
	new    int64
	closed bool
}

// Begin implements [pipe.Backend]. While it is open nobody else changes anything about the VM: a [*hikae.BusyError]. A
// replica that is failed over takes no points: a [*StateError]. A base that is not there is fs.ErrNotExist, and one that
// stands on some 60 others is refused: Keep makes chains shorter.
func (s *Site) Begin(ctx context.Context, vm string, opts *pipe.PointOptions) (pipe.PointWriter, error) {
	if err := errors.Join(ctx.Err(), checkVM(vm)); err != nil {
		return nil, err
	}
	dir := s.folder(vm)
	lock, err := s.enter(dir, vm, "write a point")
	if err != nil {
		return nil, err
	}
	w := &pointWriter{s: s, vm: vm, vmDir: dir, lock: lock, disks: map[string]*target{}, ready: map[string]bool{}}
	if err := w.begin(opts); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// enter takes a VM's folder, which is made where it is missing, for a change, and puts it in order.
func (s *Site) enter(dir, vm, what string) (*held, error) {
	lock, err := s.takeFolder(dir, vm, what)
	for range 10 { // it may be removed while we come
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
		lock, err = s.takeFolder(dir, vm, what)
	}
	if err != nil {
		return nil, err
	}
	if err := s.tidy(dir); err != nil {
		return nil, errors.Join(err, lock.release())
	}
	return lock, nil
}

func (s *Site) takeFolder(dir, vm, what string) (*held, error) {
	if err := os.Mkdir(dir, 0o700); err == nil {
		if err := syncDir(s.dir); err != nil {
			return nil, err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return nil, roomError(err)
	}
	return takeLock(dir, vm, what)
}

func (w *pointWriter) begin(opts *pipe.PointOptions) error {
	if err := mustBeReady(w.vmDir, w.vm, "write a point"); err != nil {
		return err
	}
	points, _, err := listFolder(w.vmDir)
	if err != nil {
		return err
	}
	w.rec = record{Info: pipe.PointInfo{ID: newID(), VM: w.vm}}
	if opts != nil {
		w.rec.Info.Time, w.rec.Info.Consistency, w.rec.Info.Facts = opts.Time, opts.Consistency, maps.Clone(opts.Facts)
		if opts.Base != "" {
			if w.base, err = findBase(w.vmDir, points, opts.Base); err != nil {
				return err
			}
			w.rec.Base = w.base.Info.ID
		}
	}
	if w.rec.Info.Time.IsZero() {
		w.rec.Info.Time = time.Now()
	}
	if len(points) > 0 {
		w.last = points[len(points)-1]
	}
	w.dir = filepath.Join(w.vmDir, w.rec.Info.ID)
	w.s.step("begin")
	return roomError(os.Mkdir(w.dir, 0o700))
}

// findBase finds the point that a new one stands on.
func findBase(vmDir string, points []*record, id string) (*record, error) {
	byID := map[string]*record{}
	for _, r := range points {
		byID[r.Info.ID] = r
	}
	base := byID[id]
	if base == nil {
		return nil, fmt.Errorf("base %q: %w", id, fs.ErrNotExist)
	}
	depth := 1
	for r := base; r != nil && r.Base != "" && depth < maxChain; r = byID[r.Base] {
		depth++
	}
	if depth >= maxChain {
		return nil, fmt.Errorf("base %s stands on %d points: keep fewer, so that they are merged: %w", id, maxChain, fs.ErrInvalid)
	}
	return base, nil
}

// Disk implements [pipe.PointWriter].
func (w *pointWriter) Disk(ctx context.Context, key string, size int64) (pipe.Target, error) {
	if key == "" || len(key) > maxName || size < 0 || size > maxDisk {
		return nil, fmt.Errorf("disk %q of %d bytes: %w", key, size, fs.ErrInvalid)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.closed:
		return nil, fmt.Errorf("%w: %w", errDone, fs.ErrClosed)
	case w.disks[key] != nil:
		return nil, fmt.Errorf("disk %q: %w", key, fs.ErrExist)
	case len(w.disks) == maxDisks:
		return nil, fmt.Errorf("more than %d disks: %w", maxDisks, fs.ErrInvalid)
	}
	base, err := w.baseOf(ctx, key, size)
	if err != nil {
		return nil, err
	}
	t, err := w.beginDisk(key, size, base)
	if err != nil {
		if base != nil {
			err = errors.Join(err, base.Close())
		}
		return nil, err
	}
	w.disks[key] = t
	w.s.step("disk begun")
	return t, nil
}

// baseOf opens what a disk stands on; nil: nothing.
func (w *pointWriter) baseOf(ctx context.Context, key string, size int64) (*image, error) {
	if w.base == nil {
		return nil, nil
	}
	if d, ok := w.base.disk(key); !ok || d.Size != size {
		return nil, nil
	}
	img, err := w.s.Open(ctx, w.base.Info.ID, key)
	if err != nil {
		return nil, err
	}
	return img.(*image), nil
}

// committed notes a disk that is whole.
func (w *pointWriter) committed(t *target) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ready[t.disk.Key] = true
	w.new += t.layer.used << clusterBits
}

// Blob implements [pipe.PointWriter].
func (w *pointWriter) Blob(ctx context.Context, name string, r io.Reader) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.closed:
		return fmt.Errorf("blob %q: %w: %w", name, errDone, fs.ErrClosed)
	case len(name) > maxName || len(w.rec.Blobs) == maxBlobs:
		return fmt.Errorf("blob %q: a name has at most %d bytes, and a point %d blobs: %w", name, maxName, maxBlobs, fs.ErrInvalid)
	case slices.ContainsFunc(w.rec.Blobs, func(b blobRecord) bool { return b.Name == name }):
		return fmt.Errorf("blob %q: %w", name, fs.ErrExist)
	}
	b := blobRecord{Name: name}
	path := filepath.Join(w.dir, blobName(len(w.rec.Blobs)))
	if err := b.store(ctx, path, r); err != nil {
		return fmt.Errorf("blob %q: %w", name, errors.Join(roomError(err), os.Remove(path)))
	}
	w.rec.Blobs = append(w.rec.Blobs, b)
	w.rec.Info.Blobs = append(w.rec.Info.Blobs, pipe.BlobInfo{Name: name, Size: b.Size})
	w.new += b.Size
	return nil
}

func blobName(i int) string { return fmt.Sprintf("blob%d", i) }

func (b *blobRecord) store(ctx context.Context, path string, r io.Reader) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum := xxhash.New()
	if b.Size, err = io.Copy(io.MultiWriter(f, sum), io.LimitReader(r, maxBlob+1)); err != nil {
		return err
	}
	if b.Size > maxBlob {
		return fmt.Errorf("it has more than %d bytes: %w", int64(maxBlob), fs.ErrInvalid)
	}
	b.Sum = sum.Sum64()
	return errors.Join(ctx.Err(), f.Sync())
}

// Commit implements [pipe.PointWriter].
func (w *pointWriter) Commit(ctx context.Context, tracking map[string]string) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return "", fmt.Errorf("%w: %w", errDone, fs.ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	for _, key := range slices.Sorted(maps.Keys(w.disks)) {
		t := w.disks[key]
		if !w.ready[key] {
			return "", fmt.Errorf("disk %q was not committed: %w", key, fs.ErrInvalid)
		}
		whole := t.kinds
		if t.base != nil {
			whole = whole.over(t.base.kinds)
		}
		info := pipe.DiskInfo{Key: key, Size: t.disk.Size}
		info.Data, info.Absent = whole.totals()
		w.rec.Disks = append(w.rec.Disks, t.disk)
		w.rec.Info.Disks = append(w.rec.Info.Disks, info)
	}
	w.rec.Info.Tracking, w.rec.Info.New = maps.Clone(tracking), w.new
	return w.rec.Info.ID, w.publish()
}

// publish makes the point appear, after all that it has is durable, and ends the writer.
func (w *pointWriter) publish() error {
	err := makeReadOnly(w.dir)
	if err == nil {
		err = errors.Join(syncDir(w.dir), syncDir(w.vmDir))
	}
	w.s.step("files durable")
	if err == nil {
		w.rec.follow(w.last)
		err = saveRecord(w.dir, &w.rec)
	}
	w.s.step("record saved")
	w.closed = true
	if err != nil {
		err = errors.Join(roomError(err), w.discard())
	}
	return errors.Join(err, w.lock.release())
}

// follow orders a point behind the one before.
func (r *record) follow(last *record) {
	r.Info.Log, r.Committed = 1, time.Now()
	if last != nil {
		r.Info.Log = last.Info.Log + 1
		if !r.Committed.After(last.Committed) { // the clock was put back
			r.Committed = last.Committed.Add(1)
		}
	}
}

// makeReadOnly takes the right to write from the files in a folder, so that nobody's tool changes a point by mistake.
func makeReadOnly(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.Chmod(filepath.Join(dir, e.Name()), 0o400); err != nil {
			return err
		}
	}
	return nil
}

// discard removes what was written. The record goes first: without it the rest is nothing.
func (w *pointWriter) discard() error {
	err := os.Remove(filepath.Join(w.dir, recordName))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, os.RemoveAll(w.dir))
}

// Close implements [pipe.PointWriter].
func (w *pointWriter) Close() error {
	w.mu.Lock()
	disks := slices.Collect(maps.Values(w.disks))
	w.mu.Unlock()
	var errs []error
	for _, t := range disks {
		errs = append(errs, t.Close())
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed && w.dir != "" {
		errs = append(errs, w.discard())
	}
	w.closed = true
	return errors.Join(append(errs, w.lock.release())...)
}
