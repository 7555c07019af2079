package replica

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/hikae/hikae/pipe/diskfile"
)

// StateError says that a replica is not in the state that an operation needs: it is failed over, say, and a new point
// would stand beside what the running VM writes.
type StateError struct {
	Op    string // what was asked for
	State State
}

func (e *StateError) Error() string {
	s := e.State
	if s.Stage == Ready {
		return fmt.Sprintf("%s: the replica of %s is not failed over", e.Op, s.VM)
	}
	return fmt.Sprintf("%s: the replica of %s is %s since %s, from point %s: undo that, or seal it, first",
		e.Op, s.VM, s.Stage, s.Since.UTC().Format("2006-01-02 15:04:05 MST"), s.Point)
}

// DamagedError says that what a point has is not what was written to it. Nothing of the range is handed on.
type DamagedError struct {
	Point string // full id
	Disk  string // its key; empty: the point's record or a blob
	// Off and Len are the bytes of the disk that cannot be had; zero where it is not about a range.
	Off, Len int64
	Err      error
}

func (e *DamagedError) Error() string {
	switch {
	case e.Disk == "":
		return fmt.Sprintf("point %s is damaged: %v", e.Point, e.Err)
	case e.Len == 0:
		return fmt.Sprintf("disk %s of point %s is damaged: %v", e.Disk, e.Point, e.Err)
	}
	return fmt.Sprintf("disk %s of point %s is damaged at [%d, %d): %v", e.Disk, e.Point, e.Off, e.Off+e.Len, e.Err)
}

func (e *DamagedError) Unwrap() error { return e.Err }

// Damaged tells sessions that this is about what is stored, and not about a line or a right.
func (e *DamagedError) Damaged() bool { return true }

// NotAnsweringError says that the VM of a failover was started, and does not answer at its monitor. The replica is failed
// over: nobody knows whether the VM runs.
type NotAnsweringError struct {
	Monitor string
	Err     error
}

func (e *NotAnsweringError) Error() string {
	return fmt.Sprintf("the replica was started and does not answer at %s: %v", e.Monitor, e.Err)
}

func (e *NotAnsweringError) Unwrap() error { return e.Err }

var (
	errContent = errors.New("its content is not what was written")
	errDone    = errors.New("committed or closed")
)

// ErrResized is wrapped by Seal where a disk was given another size while the replica was failed over.
var ErrResized = errors.New("the disk was given another size while it was failed over")

// roomError makes of an error of a write that found no room what all targets say then.
func roomError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, errQuota) || errors.Is(err, syscall.EFBIG) {
		return fmt.Errorf("%w: %w", diskfile.ErrNoSpace, err)
	}
	return err
}
