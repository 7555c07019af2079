package vhdx

import (
	"context"
)

// Flush makes durable what was written by calls that have returned.
func (w *writer) Flush(ctx context.Context) error {
	if err := w.check(ctx, "sync", 0, 0); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.flush(ctx)
}

// flush writes all dirty pages through the log. Before and after each entry all that came before it is durable, so that
// at most one entry ever has to be applied again.
func (w *writer) flush(ctx context.Context) error {
	if w.failed != nil {
		return w.failed
	}
	if err := w.sync(ctx); err != nil {
		return err
	}
	for {
		pages := w.table.cache.changed(maxEntry)
		if len(pages) == 0 {
			w.dirty = 0
			return nil
		}
		if err := w.commit(ctx, pages); err != nil {
			return err
		}
	}
}

// commit writes pages: to the log, then, if no header does so yet, a header that names the log, then to their places.
func (w *writer) commit(ctx context.Context, pages []logged) error {
	id := w.h.log
	if id == (GUID{}) {
		id, w.logAt, w.sequence = NewGUID(), 0, 0
	}
	w.sequence++
	length := (descSectors(len(pages)) + int64(len(pages))) * sectorLog
	if w.logAt+length > w.h.logLen {
		w.logAt = 0
	}
	entry := encodeEntry(id, w.sequence, w.logAt, w.store.Size(), pages)
	if err := w.write(ctx, entry, w.h.logOff+w.logAt); err != nil {
		return err
	}
	if err := w.sync(ctx); err != nil {
		return err
	}
	w.logAt += length
	if w.h.log != id {
		w.h.log = id
		if err := w.writeHeader(ctx); err != nil {
			return err
		}
	}
	for _, p := range pages {
		if err := w.write(ctx, p.page, p.off); err != nil {
			return err
		}
	}
	if err := w.sync(ctx); err != nil {
		return err
	}
	w.table.cache.clean(pages)
	return nil
}

// seal leaves a file that needs no log.
func (w *writer) seal(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.flush(ctx); err != nil || w.h.log == (GUID{}) {
		return err
	}
	w.h.log = GUID{}
	return w.writeHeader(ctx)
}

// writeHeader puts the header into the place that does not count, where it then does.
func (w *writer) writeHeader(ctx context.Context) error {
	w.h.sequence++
	w.h.at = headerOff0 + headerOff1 - w.h.at
	if err := w.write(ctx, w.h.encode(), w.h.at); err != nil {
		return err
	}
	return w.sync(ctx)
}

func (w *writer) write(ctx context.Context, b []byte, off int64) error {
	_, err := w.store.WriteAt(ctx, b, off)
	if err = w.named("write", off, err); err != nil {
		w.failed = err
	}
	return err
}

func (w *writer) sync(ctx context.Context) error {
	err := w.named("sync", -1, w.store.Sync(ctx))
	if err != nil {
		w.failed = err
	}
	return err
}
