package repo

import (
	"context"
	"fmt"
	"io/fs"
)

// Settle is as pipe.Settler has it: packs that are not full yet are stored as they are.
func (w *pointWriter) Settle(ctx context.Context) error {
	w.mu.Lock()
	closed := w.closed
	w.mu.Unlock()
	if closed {
		return fs.ErrClosed
	}
	if err := w.s.flush(ctx); err != nil {
		return err
	}
	if err := w.s.flushIndex(); err != nil {
		w.r.warn(fmt.Sprintf("index: %v", err))
	}
	return nil
}
