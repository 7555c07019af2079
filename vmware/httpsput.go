package vmware

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"sync"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/vmware/vmdk"
)

const (
	putSilence = 2 * time.Minute // the longest time in which no byte of an upload moves
	putAnswer  = 5 * time.Minute // and that the server may take for its answer after the last one
	putZeros   = 1 << 20
)

// CheckTarget implements [Writer]: the disk must be one flat file, which is put there whole.
func (t *overHTTPS) CheckTarget(ctx context.Context, p *Pinned) error {
	return t.Check(ctx, p)
}

// OpenTarget implements [Writer]. The disk is kept in a scratch file of this machine, and sent at Commit: the service
// replaces files, and does not write into them. So a thin disk takes up all of its size afterwards.
func (t *overHTTPS) OpenTarget(ctx context.Context, p *Pinned) (pipe.Target, error) {
	all, at, err := diskFiles(ctx, HTTPS, p)
	if err != nil {
		return nil, asUnfit(HTTPS, err)
	}
	g := t.getter(p)
	flat, err := t.flatFile(ctx, g, p, &storeFolder{stores: all, home: at})
	if err != nil {
		return nil, err
	}
	s, err := newScratch(p.Scratch, p.Disk.Size, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", HTTPS, err)
	}
	return &httpsTarget{getter: g, upload: uploadLine(p), scratch: s, name: flat.String(), url: fileURL(p.Client, flat)}, nil
}

// flatFile is the one file that holds the disk.
func (t *overHTTPS) flatFile(ctx context.Context, g *getter, p *Pinned, folder *storeFolder) (place, error) {
	text, err := g.small(ctx, folder.home, fileURL(p.Client, folder.home))
	if err != nil {
		return place{}, fmt.Errorf("%s: %w", HTTPS, err)
	}
	d, err := vmdk.ParseDescriptor(folder.home.String(), text)
	if err != nil {
		return place{}, fmt.Errorf("%s: %w", HTTPS, err)
	}
	unfit := func(reason string) (place, error) {
		return place{}, &UnfitError{Transport: HTTPS, Reason: reason, Hint: "it writes only disks without snapshots whose content is one flat file"}
	}
	switch {
	case d.ParentCID != vmdk.NoParent:
		return unfit("the disk stands on another one")
	case len(d.Extents) != 1 || d.Extents[0].Type != "VMFS" && d.Extents[0].Type != "FLAT":
		return unfit("the disk is not one flat file")
	case d.Extents[0].Offset != 0 || d.Extents[0].Sectors != p.Disk.Size/512 || p.Disk.Size%512 != 0:
		return unfit("the flat file is not of the disk's size")
	}
	name := d.Extents[0].File
	if !path.IsAbs(name) {
		name = path.Clean(name)
	}
	flat, err := folder.locate(name)
	if err != nil {
		return place{}, fmt.Errorf("%s: %v names %q: %w", HTTPS, folder.home, name, err)
	}
	return flat, nil
}

// small is all of a file that is no longer than a descriptor may be.
func (g *getter) small(ctx context.Context, at place, from *url.URL) ([]byte, error) {
	f := &httpsFile{getter: g, name: at.String(), url: from, size: -1}
	head, err := g.get(ctx, f, 0, openBytes)
	if err == nil && f.size > int64(len(head)) {
		err = fmt.Errorf("%s: %d bytes are too many for a descriptor", f.name, f.size)
	}
	return head, err
}

// httpsTarget is a flat file that is put on its datastore at Commit.
type httpsTarget struct {
	*getter
	upload  chan struct{} // the line of its own
	scratch *scratch
	name    string
	url     *url.URL

	mu     sync.Mutex
	closed bool
}

// Size implements [pipe.Target].
func (t *httpsTarget) Size() int64 { return t.scratch.Size() }

// WriteAt implements [pipe.Target].
func (t *httpsTarget) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := t.scratch.put(p, off); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Mark implements [pipe.ExtentTarget].
func (t *httpsTarget) Mark(ctx context.Context, e pipe.Extent) error {
	switch {
	case e.Kind == pipe.Data, e.Kind > pipe.Unchanged, e.Off < 0, e.Len < 0, e.Len > t.Size()-e.Off:
		return &pipe.RangeError{Op: "mark " + e.Kind.String(), Off: e.Off, Len: e.Len, Err: fs.ErrInvalid}
	case e.Kind == pipe.Unchanged:
		return &pipe.RangeError{Op: "mark " + e.Kind.String(), Off: e.Off, Len: e.Len, Err: errNoBase}
	}
	for known, err := range t.scratch.Extents(ctx, e.Off, e.Len) { // what was never written is zero already
		if err == nil && known.Kind != pipe.Zero {
			err = t.clear(ctx, known)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

var errNoBase = fmt.Errorf("%w: it is written whole, over whatever was there", fs.ErrInvalid)

func (t *httpsTarget) clear(ctx context.Context, e pipe.Extent) error {
	zeros := make([]byte, min(putZeros, e.Len))
	for off := e.Off; off < e.End(); off += int64(len(zeros)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := t.scratch.put(zeros[:min(int64(len(zeros)), e.End()-off)], off); err != nil {
			return err
		}
	}
	return nil
}

// Commit implements [pipe.Target]. The file is looked at again afterwards: one of which only a part arrived is told by its
// length, and what a server took and did not keep by pieces that are read back. Both are errors; what stood there before may
// be gone then.
func (t *httpsTarget) Commit(ctx context.Context) (err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return fmt.Errorf("%s: %w", t.name, fs.ErrClosed)
	}
	defer func() {
		t.closed = true
		err = errors.Join(err, t.scratch.Close())
	}()
	if err := t.put(ctx); err != nil {
		return err
	}
	return t.lookBack(ctx)
}

// put sends the file. Only before the first byte was taken it is known that nothing happened, so it is tried once, with a
// session that was asked for something just before.
func (t *httpsTarget) put(ctx context.Context) error {
	if err := t.login(ctx); err != nil {
		return fmt.Errorf("PUT %s: %w", t.name, err)
	}
	select {
	case t.upload <- struct{}{}:
		defer func() { <-t.upload }()
	case <-ctx.Done():
		return ctx.Err()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	body := watched(t.scratch.reader(ctx), cancel)
	defer body.stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, t.url.String(), body)
	if err != nil {
		return err
	}
	req.ContentLength = t.Size()
	if t.Size() == 0 {
		req.Body = http.NoBody
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("Overwrite", "t")
	res, err := plain(t.session.HTTP()).Do(req)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return fmt.Errorf("PUT %s: after %d bytes: %w", t.name, body.passed(), unwrapURL(err))
	}
	defer res.Body.Close()
	_, _ = io.CopyN(io.Discard, res.Body, 64<<10)
	if res.StatusCode != http.StatusOK && res.StatusCode != http.StatusCreated && res.StatusCode != http.StatusNoContent {
		return &StatusError{http.MethodPut, t.name, res.StatusCode}
	}
	return nil
}

// Close implements [pipe.Target].
func (t *httpsTarget) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	t.closed = true
	return t.scratch.Close()
}

// watchedReader ends what it is part of when nobody reads from it any more.
type watchedReader struct {
	r      io.Reader
	timer  *time.Timer
	mu     sync.Mutex
	passes int64
	broken error // what ended it, other than its end
}

var errSilence = errors.New("nothing moved for too long")

func watched(r io.Reader, cancel context.CancelCauseFunc) *watchedReader {
	return &watchedReader{r: r, timer: time.AfterFunc(putSilence, func() { cancel(errSilence) })}
}

func (w *watchedReader) Read(p []byte) (int, error) {
	n, err := w.r.Read(p[:min(len(p), 1<<20)])
	w.mu.Lock()
	w.passes += int64(n)
	if err != nil && err != io.EOF && w.broken == nil {
		w.broken = err
	}
	w.mu.Unlock()
	if err == io.EOF {
		w.timer.Reset(putAnswer)
	} else {
		w.timer.Reset(putSilence)
	}
	return n, err
}

func (w *watchedReader) passed() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.passes
}

// why is what ended the reading: what the reader made of it may be something else.
func (w *watchedReader) why(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken != nil {
		return w.broken
	}
	return err
}

func (w *watchedReader) stop() { w.timer.Stop() }
