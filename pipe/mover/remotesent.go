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
	in     *epoch         // the session of ref; nil: it was never begun
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
	w.c.afterwards(closeWait, func(ctx context.Context) { w.dropBlob(ctx, b) })
	return fmt.Errorf("blob %q: %w", name, err)
}

// forget takes a blob that failed out of what is put back.
func (w *remoteWriter) forget(b *sentBlob) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.blobs = slices.DeleteFunc(w.blobs, func(o *sentBlob) bool { return o == b })
}

// dropBlob tells the other side that no more will come of a blob: it would wait for that, and commit nothing without it.
func (w *remoteWriter) dropBlob(ctx context.Context, b *sentBlob) {
	if w.gate.Acquire(ctx, 1) != nil {
		return
	}
	defer w.gate.Release(1)
	if b.in == nil || b.in != w.in || b.in.gone.Load() {
		return
	}
	_, _ = call[*wire.OK](ctx, b.in, notWhole(b.ref, b.size))
}

// notWhole ends a blob of which so much has come. A blob that is sealed as what it is not is gone (PROTOCOL.md 7.7): neither
// the length is right, nor, where a part was still under way, the sum.
func notWhole(ref wire.Ref, came int64) wire.Message {
	return &wire.SealBlob{Blob: ref, Size: came + 1}
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
	a, err := openCall(ctx, e, &wire.StartBlob{Writer: writer, Name: b.name},
		func(a *wire.BlobStarted) wire.Message { return notWhole(a.Blob, 0) })
	if err != nil {
		return err
	}
	b.ref, b.in = a.Blob, e
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
