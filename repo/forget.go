package repo

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
)

// maxForget is how many points one record names: far below what a record may hold.
const maxForget = 4096

// Forget takes points away, by their full ids. They are gone from every listing when it returns; the room they take is freed
// by a later prune. All of them go or, where one is unknown or held, none. note is for the audit log. Errors: fs.ErrNotExist,
// *HeldError, ErrReadOnly.
//
// Who forgets by a policy lets [Repository.Retain] decide: this function forgets what it is told, also the newest point.
func (r *Repository) Forget(ctx context.Context, points []string, why string) error {
	return r.forget(ctx, points, why, nil)
}

// forget is Forget, as long as other points are there: ErrForgotten where one of them is not.
func (r *Repository) forget(ctx context.Context, points []string, why string, stay []id16) error {
	return r.aboutPoints(ctx, recordForget, points, why, func(l *ledger, ids []id16) error {
		for _, p := range ids {
			if note, held := l.held[p]; held {
				return &HeldError{Point: p.String(), Note: note}
			}
		}
		return l.have(stay)
	})
}

// Hold keeps points from being forgotten, by whatever policy or by name, until Unhold. Holding one again replaces the note.
func (r *Repository) Hold(ctx context.Context, points []string, why string) error {
	return r.aboutPoints(ctx, recordHold, points, why, nil)
}

// Unhold takes holds away. A point that is not held is no error.
func (r *Repository) Unhold(ctx context.Context, points []string, why string) error {
	return r.aboutPoints(ctx, recordUnhold, points, why, nil)
}

// aboutPoints writes a record that names points.
func (r *Repository) aboutPoints(ctx context.Context, kind recordKind, points []string, why string, allow func(*ledger, []id16) error) error {
	if r.writer != nil {
		return errWriteOnly
	}
	if err := r.writable(ctx); err != nil {
		return err
	}
	if len(points) > maxForget {
		return fmt.Errorf("%d points at once, at most %d are possible: %w", len(points), maxForget, fs.ErrInvalid)
	}
	var ids []id16
	for _, p := range points {
		var id id16
		if err := decodeHex(id[:], []byte(p)); err != nil {
			return fmt.Errorf("point %q: %w", p, fs.ErrNotExist)
		}
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	key, err := r.signingKey(ctx)
	if err != nil {
		return err
	}
	_, err = r.log.append(ctx, key, func() (*record, error) {
		for _, id := range ids {
			there := slices.ContainsFunc(r.log.points, func(c committed) bool { return c.point == id })
			if kind == recordForget {
				there = there || slices.ContainsFunc(r.log.unfinished, func(u unfinished) bool { return u.point == id })
			}
			if !there {
				return nil, fmt.Errorf("point %s: %w", id, fs.ErrNotExist)
			}
		}
		if allow != nil {
			if err := allow(r.log, ids); err != nil {
				return nil, err
			}
		}
		return &record{Kind: kind, Points: ids, Note: note(why)}, nil
	})
	if err != nil {
		return err
	}
	return r.client.advance(r.log)
}
