package smbstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/cloudsoda/go-smb2"

	"github.com/hikae/hikae/internal/smbwire"
	"github.com/hikae/hikae/repo/store/dirstore/vfs"
)

const (
	piece = 1 << 20 // of a read or write in one request
	depth = 4       // requests of one read or write under way
)

// inPieces runs a call for each piece of n bytes, several at once, and gives the first error.
func inPieces(n int, call func(from, to int) error) error {
	if n <= piece {
		return call(0, n)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var first error
	failed := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return first != nil
	}
	slots := make(chan struct{}, depth)
	for from := 0; from < n && !failed(); from += piece {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := call(from, min(from+piece, n)); err != nil {
				mu.Lock()
				defer mu.Unlock()
				first = errors.Join(first, err)
			}
		})
	}
	wg.Wait()
	return first
}

// disowned takes a refusal on a file that is open for a lost connection: the server does not believe the request's
// signature any more, since something changed it on the way.
func disowned(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: %w", smbwire.ErrKilled, err)
	}
	return err
}

// Create makes an empty file for writing, on one connection that it keeps until it is closed.
func (s *share) Create(name string) (vfs.File, error) {
	s.renewHolds()
	l, err := s.pool.get(s.ctx)
	if err != nil {
		return nil, err
	}
	f, err := s.makeNew(l, name)
	if err != nil {
		defer s.pool.put(l)
		return nil, s.settle(l, err)
	}
	return &writing{s: s, l: l, f: f}, nil
}

// writing is a file that is being written. What is lost with its connection is the whole file.
type writing struct {
	s   *share
	l   *link
	f   *smb2.File
	off int64
}

func (w *writing) Write(p []byte) (int, error) {
	err := inPieces(len(p), func(from, to int) error {
		return w.l.run(w.s.ctx, func() error {
			n, err := w.f.WriteAt(p[from:to], w.off+int64(from))
			if err == nil && n < to-from {
				err = io.ErrShortWrite
			}
			return err
		})
	})
	if err != nil {
		return 0, w.s.settle(w.l, disowned(err))
	}
	w.off += int64(len(p))
	return len(p), nil
}

func (w *writing) Sync() error { return w.s.settle(w.l, disowned(w.l.run(w.s.ctx, w.f.Sync))) }

func (w *writing) Size() (int64, error) {
	var fi os.FileInfo
	err := w.l.run(w.s.ctx, func() (err error) {
		fi, err = w.f.Stat()
		return err
	})
	if err != nil {
		return 0, w.s.settle(w.l, disowned(err))
	}
	return fi.Size(), nil
}

// Close closes the file even where the caller has left, so that it can be removed.
func (w *writing) Close() error {
	defer w.s.pool.put(w.l)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.s.ctx), w.s.opts.Timeout)
	defer cancel()
	return w.s.settle(w.l, disowned(w.l.run(ctx, w.f.Close)))
}

func (w *writing) ReadAt([]byte, int64) (int, error) { return 0, errors.ErrUnsupported }
func (w *writing) Linked() (bool, error)             { return true, nil }
