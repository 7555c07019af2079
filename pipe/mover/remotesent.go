package mover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/zeebo/blake3"

	"github.com/hikae/hikae/pipe/mover/wire"
)

// sentBlob is a blob as it was handed over: the parts are read again from here when the point is put back.
type sentBlob struct {
	name   string
	tape   *tape
	size   int64
	sum    *blake3.Hasher // of what was sent
	ref    wire.Ref       // written with the gate closed, or by the one who sends
	sealed bool
}

// Blob is as pipe.PointWriter has it.
func (w *remoteWriter) Blob(ctx context.Context, name string, r io.Reader) error {
	if len(name) > wire.MaxName {
		return fmt.Errorf("blob %.40q: %w", name, fs.ErrInvalid)
	}
	b := &sentBlob{name: name, tape: newTape(w.c.settings.CacheDir), sum: blake3.New()}
	err := w.do(ctx, func(e *epoch) error {
		if err := b.start(ctx, e, w.ref); err != nil {
			return err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.blobs = append(w.blobs, b)
		return nil
	})
	if err == nil {
		err = w.send(ctx, b, r)
	}
	if err == nil {
		return nil
	}
	w.forget(b)
	b.tape.close()
	return fmt.Errorf("blob %q: %w", name, err)
}

// forget takes a blob that failed out of what is put back.
func (w *remoteWriter) forget(b *sentBlob) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.blobs = slices.DeleteFunc(w.blobs, func(o *sentBlob) bool { return o == b })
}

// send brings a blob part by part. What was brought stands on the tape, for a replay.
func (w *remoteWriter) send(ctx context.Context, b *sentBlob, r io.Reader) error {
	buf := make([]byte, wire.MaxPart)
	for {
		n, err := io.ReadFull(r, buf)
		end := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !end {
			return err
		}
		if err := w.sendPart(ctx, b, buf[:n]); err != nil {
			return err
		}
		if end {
			break
		}
	}
	return w.do(ctx, func(e *epoch) error {
		if _, err := call[*wire.OK](ctx, e, b.whole()); err != nil {
			return err
		}
		b.sealed = true
		return nil
	})
}

func (w *remoteWriter) sendPart(ctx context.Context, b *sentBlob, part []byte) error {
	if len(part) == 0 {
		return nil
	}
	_, _ = b.sum.Write(part) // before it is handed over, and once, however often it is sent
	return w.do(ctx, func(e *epoch) error {
		if _, err := call[*wire.OK](ctx, e, &wire.BlobPart{Blob: b.ref, Off: b.size, Data: part}); err != nil {
			return err
		}
		b.size += int64(len(part))
		w.progress.Store(true)
		w.noted(b.tape.add(part))
		return nil
	})
}

func (b *sentBlob) start(ctx context.Context, e *epoch, writer wire.Ref) error {
	a, err := call[*wire.BlobStarted](ctx, e, &wire.StartBlob{Writer: writer, Name: b.name})
	if err != nil {
		return err
	}
	b.ref = a.Blob
	return nil
}

// resend brings a blob from its tape.
func (b *sentBlob) resend(ctx context.Context, e *epoch, writer wire.Ref) error {
	if err := b.start(ctx, e, writer); err != nil {
		return err
	}
	r, err := b.tape.reader()
	if err != nil {
		return fmt.Errorf("%w: blob %q: %w", ErrLostContent, b.name, err)
	}
	for off := int64(0); off < b.size; {
		part := make([]byte, min(wire.MaxPart, b.size-off))
		if _, err := io.ReadFull(r, part); err != nil {
			return fmt.Errorf("%w: blob %q: %w", ErrLostContent, b.name, err)
		}
		if _, err := call[*wire.OK](ctx, e, &wire.BlobPart{Blob: b.ref, Off: off, Data: part}); err != nil {
			return err
		}
		off += int64(len(part))
	}
	if b.sealed {
		_, err = call[*wire.OK](ctx, e, b.whole())
	}
	return err
}

// whole says that the blob is complete.
func (b *sentBlob) whole() *wire.SealBlob {
	return &wire.SealBlob{Blob: b.ref, Size: b.size, Sum: [32]byte(b.sum.Sum(nil))}
}
