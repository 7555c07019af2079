package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
)

// EndSession ends a session of somebody else by a person's word, though it shows signs of life: one that hangs, or whose client was taken
// over and keeps a lease open for ever, which on a store that only one may write to keeps all others out. Nothing that the session says from
// here on counts; what it committed before stays. lease is the number that errors and reports name. why is for the audit log.
//
// Errors: fs.ErrNotExist where no such session is open, fs.ErrInvalid for one of this process, fs.ErrPermission for a write-only client.
func (r *Repository) EndSession(ctx context.Context, lease uint64, why string) error {
	if r.writer != nil {
		return errWriteOnly
	}
	if r.writing(lease) {
		return fmt.Errorf("session %d is of this process: %w", lease, fs.ErrInvalid)
	}
	key, err := r.signingKey(ctx)
	if err != nil {
		return err
	}
	_, err = r.log.append(ctx, key, func() (*record, error) {
		if s := r.log.leases[lease]; s == nil || s.over {
			return nil, fmt.Errorf("no session %d is open: %w", lease, fs.ErrNotExist)
		}
		return &record{Kind: recordRevoke, Lease: lease, Note: note(why)}, nil
	})
	if err != nil {
		return err
	}
	beats, err := r.beats(ctx, lease)
	if err != nil {
		return nil // a prune removes them
	}
	for name := range beats {
		if err := r.st.Remove(ctx, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			r.warn(fmt.Sprintf("%s could not be removed: %v", name, err))
			break
		}
	}
	return r.client.advance(r.log)
}
