package mover

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"github.com/hikae/hikae/pipe/mover/wire"
)

// complaints bound what a session's failures put into the log: a peer shall not fill it. What was held back is counted,
// and said with the next line.
type complaints struct {
	pace *rate.Limiter
	held atomic.Int64
}

func newComplaints() *complaints {
	return &complaints{pace: rate.NewLimiter(rate.Every(10*time.Second), 10)}
}

// complain notes a call that failed. Whoever looks after the target has to find the cause: the first failure of a point
// that is the target's own is an error, whatever else is written meanwhile; those after it only follow from it.
func (h *handler) complain(w *writer, kind wire.Kind, f *wire.Fail, err error) {
	level, first := levelOf(f, err), false
	switch {
	case level < slog.LevelWarn:
	case w != nil && !w.failed.CompareAndSwap(false, true):
		level = slog.LevelDebug
	case w != nil:
		first = true
	}
	if !h.log.Enabled(context.Background(), level) {
		return
	}
	if level >= slog.LevelWarn && !(first && level == slog.LevelError) && !h.complaints.pace.Allow() {
		h.complaints.held.Add(1)
		return
	}
	args := []any{"kind", kind.String(), "code", int(f.Code), "object", f.Object, "err", f.Text}
	if w != nil {
		args = append(args, "vm", w.claim.vm)
	}
	if level >= slog.LevelWarn {
		if held := h.complaints.held.Swap(0); held > 0 {
			args = append(args, "held_back", held)
		}
	}
	h.log.Log(context.Background(), level, "a call failed", args...)
}

// levelOf is how much a failure means to whoever looks after the target.
func levelOf(f *wire.Fail, err error) slog.Level {
	_, system := errors.AsType[syscall.Errno](err)
	switch f.Code {
	case wire.CodeNoSpace, wire.CodeNotDurable, wire.CodeReadOnly, wire.CodeCorrupt:
		return slog.LevelError
	case wire.CodeMismatch:
		return slog.LevelWarn
	case wire.CodeFailed:
		switch {
		case errors.Is(err, context.Canceled): // somebody has given up, or failed before
		case system:
			return slog.LevelError
		default:
			return slog.LevelWarn
		}
	}
	return slog.LevelDebug
}

// writerOf is the point that a call is about, if it is about one.
func (h *handler) writerOf(req wire.Message) *writer {
	switch m := req.(type) {
	case *wire.Put:
		return h.writerOfDisk(m.Disk)
	case *wire.Write:
		return h.writerOfDisk(m.Disk)
	case *wire.Mark:
		return h.writerOfDisk(m.Disk)
	case *wire.Query:
		return h.writerOfDisk(m.Disk)
	case *wire.SealDisk:
		return h.writerOfDisk(m.Disk)
	case *wire.BlobPart:
		return h.writerOfBlob(m.Blob)
	case *wire.SealBlob:
		return h.writerOfBlob(m.Blob)
	case *wire.StartDisk:
		return h.writerOfPoint(m.Writer)
	case *wire.StartBlob:
		return h.writerOfPoint(m.Writer)
	case *wire.Commit:
		return h.writerOfPoint(m.Writer)
	}
	return nil
}

func (h *handler) writerOfDisk(ref wire.Ref) *writer {
	if d, err := h.disks.get(ref); err == nil {
		return d.w
	}
	return nil
}

func (h *handler) writerOfBlob(ref wire.Ref) *writer {
	if b, err := h.blobs.get(ref); err == nil {
		return b.w
	}
	return nil
}

func (h *handler) writerOfPoint(ref wire.Ref) *writer {
	if w, err := h.writers.get(ref); err == nil {
		return w
	}
	return nil
}
