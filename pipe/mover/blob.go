package mover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"github.com/zeebo/blake3"

	"github.com/hikae/hikae/pipe/mover/wire"
)

// blob is a blob that is being written: its parts come as calls and go on as one stream to the backend, in the order
// of their offsets. A part that has overtaken its predecessor waits for it.
type blob struct {
	w    *writer
	ref  wire.Ref
	name string
	pipe *io.PipeWriter
	over chan struct{} // the backend is done with the stream
	err  error         // of the backend, once over

	mu    sync.Mutex
	off   int64
	sum   *blake3.Hasher // of what came
	moved chan struct{}  // closed and replaced whenever off grows
	shut  error
}

func (h *handler) startBlob(m *wire.StartBlob) (wire.Message, error) {
	w, err := h.writers.get(m.Writer)
	if err != nil {
		return nil, err
	}
	if m.Name == "" {
		return nil, fmt.Errorf("a blob without a name: %w", fs.ErrInvalid)
	}
	if err := w.gate.enter(); err != nil {
		return nil, err
	}
	defer w.gate.leave()
	r, p := io.Pipe()
	b := &blob{w: w, name: m.Name, pipe: p, over: make(chan struct{}), moved: make(chan struct{}), sum: blake3.New()}
	if b.ref, err = h.blobs.add(b); err != nil {
		return nil, err
	}
	if err := w.admit(b); err != nil {
		_, _ = h.blobs.take(b.ref)
		return nil, err
	}
	_ = w.streams.enter()   // it is never shut
	if w.ctx.Err() != nil { // it ended meanwhile, and did not see this blob
		b.abort(context.Cause(w.ctx))
	}
	go b.run(r)
	return &wire.BlobStarted{Blob: b.ref}, nil
}

// admit counts a blob in. A point with more than fit its description could be committed, and never be listed.
func (w *writer) admit(b *blob) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.whole+len(w.blobs) >= wire.MaxBlobs {
		return fmt.Errorf("blob %q: a point has at most %d blobs: %w", b.name, wire.MaxBlobs, fs.ErrInvalid)
	}
	w.blobs[b] = struct{}{}
	return nil
}

// run is the backend's side of the stream.
func (b *blob) run(r *io.PipeReader) {
	defer b.w.streams.leave()
	err := b.w.pw.Blob(b.w.ctx, b.name, r)
	if err == nil { // it has seen the end, or wants no more
		_ = r.Close()
	} else {
		_ = r.CloseWithError(err)
	}
	b.err = err
	close(b.over)
}

func (h *handler) blobPart(ctx context.Context, m *wire.BlobPart) error {
	b, err := h.blobs.get(m.Blob)
	if err != nil {
		return err
	}
	ctx, done, err := b.w.enter(ctx)
	if err != nil {
		return err
	}
	defer done()
	if err := b.part(ctx, m.Off, m.Data); err != nil {
		return fmt.Errorf("blob %q at byte %d: %w", b.name, m.Off, b.w.because(err))
	}
	return nil
}

// part hands on what comes at off, when it is its turn.
func (b *blob) part(ctx context.Context, off int64, p []byte) error {
	b.mu.Lock()
	for b.shut == nil && off > b.off {
		moved := b.moved
		b.mu.Unlock()
		b.w.parked.Add(1)
		select {
		case <-moved:
		case <-ctx.Done():
			b.w.parked.Add(-1)
			return ctx.Err()
		}
		b.w.parked.Add(-1)
		b.mu.Lock()
	}
	defer b.mu.Unlock()
	switch {
	case b.shut != nil:
		return b.shut
	case off < b.off:
		return fmt.Errorf("that part has come before: %w", fs.ErrInvalid)
	}
	stop := context.AfterFunc(ctx, func() { _ = b.pipe.CloseWithError(ctx.Err()) })
	defer stop()
	if _, err := b.pipe.Write(p); err != nil {
		return err
	}
	_, _ = b.sum.Write(p)
	b.off += int64(len(p))
	b.wake()
	return nil
}

func (b *blob) wake() {
	close(b.moved)
	b.moved = make(chan struct{})
}

func (h *handler) sealBlob(ctx context.Context, m *wire.SealBlob) error {
	b, err := h.blobs.take(m.Blob)
	if err != nil {
		return err
	}
	ctx, done, err := b.w.enter(ctx)
	if err != nil {
		return err
	}
	defer done()
	if err := b.seal(ctx, m.Size, m.Sum); err != nil {
		return fmt.Errorf("blob %q: %w", b.name, b.w.because(err))
	}
	return nil
}

// seal ends the stream where it has the length and the sum that it is to have. After an error the blob is not there.
func (b *blob) seal(ctx context.Context, size int64, sum [32]byte) error {
	b.mu.Lock()
	switch {
	case b.shut != nil:
	case b.off != size:
		b.shut = &wire.Fail{Code: wire.CodeIncomplete, Text: fmt.Sprintf("%d bytes have come, and it is to have %d", b.off, size)}
	case [32]byte(b.sum.Sum(nil)) != sum:
		b.shut = &wire.Fail{Code: wire.CodeMismatch, Text: "what has come is not what was sent"}
	}
	why := b.shut
	if why == nil {
		b.shut = fs.ErrClosed
	}
	b.wake()
	b.mu.Unlock()
	defer b.forget()
	if why != nil {
		_ = b.pipe.CloseWithError(why)
	} else {
		_ = b.pipe.Close()
	}
	select {
	case <-b.over:
	case <-ctx.Done():
		_ = b.pipe.CloseWithError(ctx.Err())
		return ctx.Err()
	}
	if why == nil {
		why = b.err
	}
	if why == nil {
		b.w.mu.Lock()
		b.w.whole++
		b.w.mu.Unlock()
	}
	return why
}

// abort ends the stream with an error.
func (b *blob) abort(why error) {
	if why == nil {
		why = errors.New("the blob was given up")
	}
	_ = b.pipe.CloseWithError(why) // first: a part may be under way and hold the lock
	b.mu.Lock()
	if b.shut == nil {
		b.shut = why
	}
	b.wake()
	b.mu.Unlock()
	_, _ = b.w.h.blobs.take(b.ref)
	b.forget()
}

func (b *blob) forget() {
	b.w.mu.Lock()
	delete(b.w.blobs, b)
	b.w.mu.Unlock()
}
