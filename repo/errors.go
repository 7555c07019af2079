package repo

import (
	"errors"
	"fmt"

	"github.com/hikae/hikae/repo/internal/object"
)

// ErrCorrupt says that something stored is damaged beyond what could be mended on the way.
type ErrCorrupt struct {
	Object         string // name in the store
	Offset, Length int64  // in the object's file; 0, 0: the whole object
	Reason         string
	Err            error
}

func (e *ErrCorrupt) Error() string {
	where := e.Object
	if e.Length > 0 {
		where = fmt.Sprintf("%s at bytes %d to %d", e.Object, e.Offset, e.Offset+e.Length)
	}
	if e.Err != nil {
		return fmt.Sprintf("%s is damaged: %s: %v", where, e.Reason, e.Err)
	}
	return fmt.Sprintf("%s is damaged: %s", where, e.Reason)
}

func (e *ErrCorrupt) Unwrap() error { return e.Err }

// PointError says that one point of a listing cannot be read. The others can.
type PointError struct {
	Point string // its id
	// WriteOnly: a write-only client committed it. Such a client can commit what is no point at all, and whoever relies
	// on every point that a trusted client made need not rely on those.
	WriteOnly bool
	Err       error // *ErrCorrupt
}

func (e *PointError) Error() string { return fmt.Sprintf("point %s: %v", e.Point, e.Err) }

func (e *PointError) Unwrap() error { return e.Err }

// ErrUnsupported says that the repository uses something that this version does not know.
type ErrUnsupported struct{ What string }

func (e *ErrUnsupported) Error() string {
	return fmt.Sprintf("the repository uses %s, which this version of Hikae does not know", e.What)
}

// ErrRollback says that the store shows an older or another state than this client has seen before.
type ErrRollback struct {
	Seen, Found uint64 // numbers of log records
	Fork        bool   // the record is there, but it is another one
}

func (e *ErrRollback) Error() string {
	if e.Fork {
		return fmt.Sprintf("the repository's log differs at record %d from what this machine has seen: it is a copy that went its own way", e.Seen)
	}
	return fmt.Sprintf("the repository's log ends at record %d, but this machine has seen record %d: an older state was put back, or the newest records are lost", e.Found, e.Seen)
}

// BusyError says that another prune is under way. One that has died is found out by its heartbeats.
type BusyError struct{ Lease uint64 }

func (e *BusyError) Error() string {
	return fmt.Sprintf("another prune is under way, with lease %d", e.Lease)
}

var (
	// ErrSecret says that no slot of the repository opens with the given secret.
	ErrSecret = errors.New("the repository does not open with this passphrase, key or identity")
	// ErrCostlySlot says that a slot, or all of them together, ask for more work of whoever gives a passphrase than any slot that
	// Hikae makes: somebody else has put it there. It lies within an *ErrCorrupt, and only where no slot opens.
	ErrCostlySlot = object.ErrCostly
	// ErrNotRepository says that the store holds no repository.
	ErrNotRepository = errors.New("no repository here")
	// ErrExists says that the store holds something already, so that no repository is made in it.
	ErrExists = errors.New("there is a repository or something else here already")
	// ErrAmbiguous says that a prefix names several points.
	ErrAmbiguous = errors.New("more than one point matches")
	// ErrRevoked says that another session has ended this one's lease, because it showed no sign of life.
	ErrRevoked = errors.New("this session's lease was revoked: nothing it wrote counts; run it again")
	// ErrIncomplete says that a disk was committed although parts of it were neither written nor marked.
	ErrIncomplete = errors.New("disk is incomplete")
	// ErrNoBase says that a range was marked Unchanged on a disk that has no base.
	ErrNoBase = errors.New("unchanged since what? the disk has no base")
	// ErrReadOnly says that the repository was opened for reading, or that its store cannot be shared by writers
	// and another process has it.
	ErrReadOnly = errors.New("the repository is open for reading only")
	// ErrForgotten says that a point is no longer there.
	ErrForgotten = errors.New("the point was forgotten")
)
