package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/hikae/hikae/repo/store"
)

// ErrNotLocked says that a point was committed and can be restored, and that the store does not keep all that leads to it
// until the time that [OpenOptions].LockFor asks for. [Repository.LockPoint] tries again.
type ErrNotLocked struct {
	Point string
	Until time.Time
	Err   error
}

func (e *ErrNotLocked) Error() string {
	return fmt.Sprintf("point %s is committed, and is not locked until %s: %v", e.Point, e.Until.UTC().Format(time.RFC3339), e.Err)
}

func (e *ErrNotLocked) Unwrap() error { return e.Err }

// canLock says, before anything is written, why points could not be locked as LockFor asks for.
func (r *Repository) canLock(ctx context.Context) error {
	switch {
	case r.opts.LockFor == 0:
		return nil
	case r.opts.LockFor < 0:
		return fmt.Errorf("lock points for %v: %w", r.opts.LockFor, fs.ErrInvalid)
	case r.writer != nil: // it cannot read what an older point's pages say, and so not which packs the new one needs
		return fmt.Errorf("a write-only client cannot lock points: %w", errors.ErrUnsupported)
	}
	locker, ok := store.As[store.Locker](r.st)
	if ok {
		var err error
		if ok, err = locker.CanLock(ctx); err != nil {
			return fmt.Errorf("lock points: %w", err)
		}
	}
	if !ok {
		return fmt.Errorf("lock points: the store keeps no locks here: %w", errors.ErrUnsupported)
	}
	return nil
}

// lockNew locks what a point that is about to be committed needs, also what older points brought, and returns until when. The
// records of the log come after: see lockLog.
func (r *Repository) lockNew(ctx context.Context, m *manifest) (until time.Time, err error) {
	locker, ok := store.As[store.Locker](r.st)
	if r.opts.LockFor == 0 || !ok {
		return time.Time{}, nil
	}
	now, err := locker.Now(ctx)
	if err != nil {
		return time.Time{}, fmt.Errorf("lock the point: %w", err)
	}
	until = now.Add(r.opts.LockFor)
	names, err := r.objectsOf(ctx, m)
	if err == nil {
		err = r.lockAll(ctx, locker, names, until, 0)
	}
	if err != nil {
		err = fmt.Errorf("lock the point: %w", err)
	}
	return until, err
}

// lockLog locks the records that lead to a point, its own among them, once that is there. until zero: nothing is locked.
func (r *Repository) lockLog(ctx context.Context, m *manifest, until time.Time) error {
	locker, ok := store.As[store.Locker](r.st)
	if until.IsZero() || !ok {
		return nil
	}
	names, err := r.listPlaces(ctx, "log/")
	if err == nil {
		err = r.lockAll(ctx, locker, names, until, r.opts.LockFor/lockAhead)
	}
	if err != nil {
		return &ErrNotLocked{m.Point.String(), until, err}
	}
	return nil
}

// objectsOf are the packs that a point needs, and what leads to it but for the log.
func (r *Repository) objectsOf(ctx context.Context, m *manifest) ([]string, error) {
	packs, err := r.packsNeeded(ctx, m)
	if err != nil {
		return nil, err
	}
	names, err := r.vitalNames(ctx, m)
	if err != nil {
		return nil, err
	}
	for p := range packs {
		names = append(names, p.name())
	}
	slices.Sort(names)
	return names, nil
}

// listPlaces are the objects of a folder in all its places.
func (r *Repository) listPlaces(ctx context.Context, folder string) (names []string, err error) {
	for _, place := range copiesOf(folder) {
		for info, err := range r.st.List(ctx, place) {
			if err != nil {
				return nil, err
			}
			names = append(names, info.Name)
		}
	}
	return names, nil
}
