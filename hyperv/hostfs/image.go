package hostfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/cloudsoda/go-smb2"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

// piece is how much one request carries: what Windows takes at most.
const piece = 1 << 20

// identity is what tells a file from another, and from itself when it was written to. The time of its making is not part of it:
// Samba makes one up of the others, the last access among them.
type identity struct {
	id      uint64 // the server's number for it; zero where it has none
	size    int64
	written time.Time
}

// differs says in words what is not the same, and nothing where all is.
func (i identity) differs(o identity) string {
	switch {
	case i.id != o.id:
		return fmt.Sprintf("another file is in its place: number %d, was %d", o.id, i.id)
	case i.size != o.size:
		return fmt.Sprintf("size %d, was %d", o.size, i.size)
	case !i.written.Equal(o.written):
		return fmt.Sprintf("written to at %v, was %v", o.written.UTC(), i.written.UTC())
	}
	return ""
}

// image is a file that is read. It has a handle on each connection that reads of it went by.
type image struct {
	spot
	is identity

	mu      sync.Mutex
	handles map[*link]*handle
	closed  bool
}

var (
	_ pipe.Far         = (*image)(nil)
	_ diskfile.Watcher = (*image)(nil)
)

// handle is the file, open on one connection, once ready is closed.
type handle struct {
	ready chan struct{}
	f     *smb2.File
	err   error
}

func openImage(ctx context.Context, p spot) (*image, error) {
	img := &image{spot: p, handles: map[*link]*handle{}}
	err := p.do(ctx, func(l *link) error {
		f, is, err := p.openRead(ctx, l)
		if err != nil {
			return err
		}
		img.is = is
		h := &handle{ready: make(chan struct{}), f: f}
		close(h.ready)
		img.handles = map[*link]*handle{l: h}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return img, nil
}

// openRead opens the file on a connection and looks what it is.
func (p spot) openRead(ctx context.Context, l *link) (f *smb2.File, is identity, err error) {
	err = p.patient(ctx, func() error {
		return l.run(ctx, func() error {
			f, err = l.share.OpenFile(p.path, os.O_RDONLY, 0o600)
			return err
		})
	})
	if err != nil {
		return nil, is, err
	}
	if is, err = stat(ctx, l, f); err != nil {
		_ = l.run(context.WithoutCancel(ctx), f.Close) // the first error tells why
		return nil, is, err
	}
	return f, is, nil
}

// stat asks what an open file is now. What is no file with bytes is diskfile.ErrNotDisk.
func stat(ctx context.Context, l *link, f *smb2.File) (is identity, err error) {
	var fi os.FileInfo
	err = l.run(ctx, func() error {
		fi, err = f.Stat()
		return err
	})
	if err != nil {
		return is, err
	}
	st, ok := fi.Sys().(*smb2.FileStat)
	if !ok || fi.IsDir() || fi.Size() < 0 {
		return is, diskfile.ErrNotDisk
	}
	return identity{id: st.FileId, size: fi.Size(), written: st.LastWriteTime}, nil
}

// on gives the file on a connection, opened where it is not.
func (img *image) on(ctx context.Context, l *link) (*smb2.File, error) {
	for {
		img.mu.Lock()
		if img.closed {
			img.mu.Unlock()
			return nil, fs.ErrClosed
		}
		h, mine := img.handles[l], false
		if h == nil {
			h, mine = &handle{ready: make(chan struct{})}, true
			img.handles[l] = h
			img.forgetDead()
		}
		img.mu.Unlock()
		if mine {
			img.reopen(ctx, l, h)
			return h.f, h.err
		}
		select {
		case <-h.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if h.err == nil {
			return h.f, nil
		}
		if left := errors.Is(h.err, context.Canceled) || errors.Is(h.err, context.DeadlineExceeded); !left || l.dead() {
			return nil, h.err // who opened it did not just leave
		}
	}
}

// reopen opens the file on one more connection, and goes on only if it is the one that was there.
func (img *image) reopen(ctx context.Context, l *link, h *handle) {
	var is identity
	h.f, is, h.err = img.openRead(ctx, l)
	why := ""
	if h.err == nil {
		why = img.is.differs(is)
	}
	if why != "" {
		_ = l.run(context.WithoutCancel(ctx), h.f.Close) // nothing was written by it
		h.err = &diskfile.ChangedError{Path: img.name, Why: why}
	}
	img.mu.Lock()
	late := img.closed && h.err == nil
	if late {
		h.err = fs.ErrClosed
	}
	if h.err != nil && img.handles[l] == h {
		delete(img.handles, l)
	}
	close(h.ready)
	img.mu.Unlock()
	if late {
		_ = l.run(context.WithoutCancel(ctx), h.f.Close)
	}
}

// forgetDead is called with mu held.
func (img *image) forgetDead() {
	for l := range img.handles {
		if l.dead() {
			delete(img.handles, l)
		}
	}
}

// Size implements [pipe.Image].
func (img *image) Size() int64 { return img.is.size }

// Flight is several reads on each connection: while one is answered, the next is being sent.
func (img *image) Flight() pipe.Flight {
	reads := 4 * img.opts.Connections
	return pipe.Flight{Reads: reads, Bytes: int64(reads+4) * 2 * piece}
}

// ReadAt implements [pipe.Image]. Connections that are lost are made again: see [Options.GiveUp].
func (img *image) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, img.fail("read", off, fs.ErrInvalid)
	}
	want := int(max(0, min(int64(len(p)), img.is.size-off)))
	err := inPieces(want, func(from, to int) error { return img.readPiece(ctx, p[from:to], off+int64(from)) })
	switch {
	case err != nil:
		return 0, img.fail("read", off, err)
	case want < len(p):
		return want, io.EOF
	}
	return want, nil
}

// readPiece fills p, which lies within the file.
func (img *image) readPiece(ctx context.Context, p []byte, off int64) error {
	return img.do(ctx, func(l *link) error {
		f, err := img.on(ctx, l)
		if err != nil {
			return err
		}
		for done := 0; done < len(p); {
			n := 0
			err := l.run(ctx, func() (err error) {
				n, err = f.ReadAt(p[done:], off+int64(done))
				return err
			})
			if err == io.EOF || err == nil && n <= 0 {
				return &diskfile.ChangedError{Path: img.name, Why: fmt.Sprintf("it ends at %d, had %d bytes", off+int64(done), img.is.size)}
			}
			if err != nil {
				return err
			}
			done += n
		}
		return nil
	})
}

// inPieces calls do for parts of n bytes, several at once, and returns the first error.
func inPieces(n int, do func(from, to int) error) error {
	if n <= piece {
		if n == 0 {
			return nil
		}
		return do(0, n)
	}
	const atOnce = 8
	var all sync.WaitGroup
	var mu sync.Mutex
	var first error
	slots := make(chan struct{}, atOnce)
	for from := 0; from < n; from += piece {
		slots <- struct{}{}
		mu.Lock()
		stop := first != nil
		mu.Unlock()
		if stop {
			break
		}
		all.Go(func() {
			defer func() { <-slots }()
			if err := do(from, min(n, from+piece)); err != nil {
				mu.Lock()
				defer mu.Unlock()
				if first == nil {
					first = err
				}
			}
		})
	}
	all.Wait()
	return first
}

// Changed reports, as a *diskfile.ChangedError, that the file was written to since it was opened.
func (img *image) Changed() error {
	ctx, cancel := context.WithTimeout(context.Background(), img.opts.Timeout)
	defer cancel()
	var now identity
	err := img.do(ctx, func(l *link) error {
		f, err := img.on(ctx, l)
		if err == nil {
			now, err = stat(ctx, l, f)
		}
		return err
	})
	if err != nil {
		return img.fail("stat", -1, err)
	}
	if why := img.is.differs(now); why != "" {
		return &diskfile.ChangedError{Path: img.name, Why: why}
	}
	return nil
}

// Close lets the file go on every connection. What a server says to that makes no difference to who has only read.
func (img *image) Close() error {
	img.mu.Lock()
	img.closed = true
	handles := img.handles
	img.handles = nil
	img.mu.Unlock()
	var all sync.WaitGroup
	for l, h := range handles {
		select {
		case <-h.ready:
		default:
			continue // who opens it sees that it is closed
		}
		if h.err == nil && !l.dead() {
			all.Go(func() { _ = l.run(context.Background(), h.f.Close) })
		}
	}
	all.Wait()
	return nil
}
