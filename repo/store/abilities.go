package store

import (
	"context"
	"errors"
	"iter"
	"sync"
	"time"
)

// Versioned is an optional ability: the store keeps what was stored under a name before, when somebody who knows its
// credentials goes around this library and writes over an object or deletes it.
//
// A store that has it shows the oldest version of each object by [Store.ReadAt], [Store.Stat] and [Store.List], whatever
// came later: objects are created once and never changed, so the first version is the object, and who has a writer's
// credentials can add versions and marks of deletion but, under a lock, cannot take the first away. The store cannot tell
// whether a version is genuine. Where the first one is not, whoever can tell looks at the others.
type Versioned interface {
	// Versions yields the versions of an object, the oldest first; marks of deletion are not among them. An object that
	// was never there yields nothing. An error ends the sequence and voids it.
	Versions(ctx context.Context, name string) iter.Seq2[Version, error]
	// ReadVersionAt is ReadAt of one version.
	ReadVersionAt(ctx context.Context, name, id string, p []byte, off int64) (n int, err error)
}

// Version is one of the contents that were stored under a name.
type Version struct {
	ID   string // the store's own, at most [MaxVersionID] bytes
	Size int64
}

// MaxVersionID bounds a version's id.
const MaxVersionID = 1024

// Locker is an optional ability: the store itself refuses to remove an object before a date, whoever asks. Locks are set on
// single objects and only ever extended; the store puts none on what it was not told to.
//
// A store may have the methods and a place may not allow locks: CanLock tells.
type Locker interface {
	// CanLock tries whether objects can be locked here. It may take some seconds, and leaves nothing behind. False with a
	// nil error: this place has no locks.
	CanLock(ctx context.Context) (bool, error)
	// Lock keeps an object until the given time, rounded up to what the store counts in. A lock that lasts longer stays as
	// it is. On nil the lock was read back and holds.
	Lock(ctx context.Context, name string, until time.Time) error
	// Locked returns the time until which an object is kept, by the store's clock; zero: it is not locked.
	Locked(ctx context.Context, name string) (time.Time, error)
	// Now is the store's clock.
	Now(ctx context.Context) (time.Time, error)
}

// Placed is an optional ability: the store says where it is, in a word that no copy of it at another place has. Empty: it does not know.
type Placed interface {
	Place() string
}

// ErrLocked says that an object is locked and cannot be removed yet.
var ErrLocked = errors.New("locked against removal")

// lockAtOnce is how many locks of a batch are under way.
const lockAtOnce = 16

// LockAll locks many objects until the same time, several at once. On nil every one of them is locked and was read back;
// after an error, which is the first and names its object, some may be.
func LockAll(ctx context.Context, l Locker, names []string, until time.Time) error {
	within, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	work := make(chan string)
	var wg sync.WaitGroup
	for range min(lockAtOnce, len(names)) {
		wg.Go(func() {
			for name := range work {
				if within.Err() != nil {
					continue
				}
				if err := l.Lock(within, name, until); err != nil {
					stop(err)
				}
			}
		})
	}
	for _, name := range names {
		work <- name
	}
	close(work)
	wg.Wait()
	return context.Cause(within)
}
