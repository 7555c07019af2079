package repo

import (
	"context"
	"errors"
	"io/fs"
)

// Leased is an ability of what [Repository.Begin] returns: the number of the lease under which the point is written. Whoever hands
// work to several machines keeps it with the claim on that work, so that the next one to do it can end the last one's session by
// [Repository.Revoke] before it begins.
type Leased interface {
	Lease() uint64
}

var _ Leased = (*pointWriter)(nil)

// Lease is the number of this session's lease in the log.
func (w *pointWriter) Lease() uint64 { return w.s.lease.n }

// Revoke ends another session's lease, whoever holds it and whether or not it shows a sign of life: from the record on, its commit
// is refused with [ErrRevoked]. Once Revoke has returned nil, a point of that session is listed now or never.
// A lease that is over, or so long ago that the log no longer tells, is no error. A client that only appends can end the leases of its
// own key, and of no other: fs.ErrPermission. why is for people, and stands in the record.
func (r *Repository) Revoke(ctx context.Context, lease uint64, why string) error {
	if err := r.writable(ctx); err != nil {
		return err
	}
	key, err := r.signingKey(ctx)
	if err != nil {
		return err
	}
	_, err = r.log.append(ctx, key, func() (*record, error) {
		if r.log.live(lease) != nil {
			return nil, errLeaseOver
		}
		if r.writer == nil {
			return &record{Kind: recordRevoke, Lease: lease, Note: note(why)}, nil
		}
		if r.log.leases[lease].key != publicOf(key) {
			return nil, &fs.PathError{Op: "revoke", Path: "lease", Err: fs.ErrPermission}
		}
		return &record{Kind: recordEnd, Lease: lease}, nil
	})
	if err == errLeaseOver { // the draft's own word: a store that is away says that something does not exist, too
		return nil
	}
	return err
}

var errLeaseOver = errors.New("the lease is over")
