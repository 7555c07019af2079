package dirstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/dirstore/lockd/lockline"
)

// Locks are kept by a helper with more rights than this process, which listens in the directory (package lockd). It is found
// there by itself; without one, and on another file system than a local one, there are no locks.
var _ store.Locker = (*Store)(nil)

const errLock = constError("the lock does not hold")

type constError string

func (e constError) Error() string { return string(e) }

// CanLock reports whether a helper answers here. It tries the flag itself when it starts.
func (s *Store) CanLock(ctx context.Context) (bool, error) {
	_, err := s.ask(ctx, lockline.Request{Verb: "now"})
	if errors.Is(err, errors.ErrUnsupported) {
		return false, nil
	}
	return err == nil, fail("try locks", ".", err)
}

// Lock keeps an object until the given time, rounded up to the second, and reads back what the helper keeps.
func (s *Store) Lock(ctx context.Context, name string, until time.Time) error {
	if !store.ValidName(name) {
		return fail("lock", name, fs.ErrInvalid)
	}
	want := roundUp(until)
	before, err := s.ask(ctx, lockline.Request{Verb: "locked", Name: name})
	if err == nil && before >= want {
		return nil
	}
	if err == nil {
		_, err = s.ask(ctx, lockline.Request{Verb: "lock", Until: want, Name: name})
	}
	if err != nil {
		return fail("lock", name, err)
	}
	kept, err := s.ask(ctx, lockline.Request{Verb: "locked", Name: name})
	if err == nil && kept < want {
		err = fmt.Errorf("it was asked to be kept until %s, and the helper says %s: %w", until.UTC().Format(time.RFC3339), time.Unix(kept, 0).UTC().Format(time.RFC3339), errLock)
	}
	return fail("lock", name, err)
}

func roundUp(t time.Time) int64 {
	if t.Nanosecond() > 0 {
		return t.Unix() + 1
	}
	return t.Unix()
}

// Locked returns the time until which an object is kept; zero: it is not.
func (s *Store) Locked(ctx context.Context, name string) (time.Time, error) {
	if !store.ValidName(name) {
		return time.Time{}, fail("look at the lock of", name, fs.ErrInvalid)
	}
	at, err := s.ask(ctx, lockline.Request{Verb: "locked", Name: name})
	if err != nil || at == 0 {
		return time.Time{}, fail("look at the lock of", name, err)
	}
	return time.Unix(at, 0).UTC(), nil
}

// Now is the helper's clock, to the second.
func (s *Store) Now(ctx context.Context) (time.Time, error) {
	at, err := s.ask(ctx, lockline.Request{Verb: "now"})
	return time.Unix(at, 0).UTC(), fail("ask for the time", ".", err)
}

func (s *Store) ask(ctx context.Context, q lockline.Request) (int64, error) {
	if err := s.begin(ctx); err != nil {
		return 0, err
	}
	defer s.work.Done()
	if s.dir == "" {
		return 0, fmt.Errorf("no folder of this machine: %w", errors.ErrUnsupported)
	}
	return lockline.Ask(ctx, s.dir, q)
}

// lockedError says of a refusal that it is a lock's, where the helper says so.
func (s *Store) lockedError(ctx context.Context, name string, err error) error {
	if !errors.Is(err, fs.ErrPermission) || s.dir == "" {
		return err
	}
	if at, askErr := lockline.Ask(ctx, s.dir, lockline.Request{Verb: "locked", Name: name}); askErr == nil && at > 0 {
		return fmt.Errorf("until %s: %w: %w", time.Unix(at, 0).UTC().Format(time.RFC3339), store.ErrLocked, err)
	}
	return err
}
