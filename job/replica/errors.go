package replica

import (
	"errors"
	"fmt"
	"time"
)

// ErrByHand is what a [Machine] says that is started by a person.
var ErrByHand = errors.New("it is started by hand")

// UnderWayError says that something else was begun with the VM and has not come to its end.
type UnderWayError struct {
	VM    string
	What  string // "planned failover", "failover", "failback"
	Step  string
	Begun time.Time
}

func (e *UnderWayError) Error() string {
	return fmt.Sprintf("a %s of %s was begun at %s, and stands at %q: go on with it, or undo it", e.What, e.VM, e.Begun.UTC().Format(time.RFC3339), e.Step)
}

// StageError says that the replica is not in the state that the call needs.
type StageError struct {
	VM    string
	Op    string
	State State
}

func (e *StageError) Error() string {
	return fmt.Sprintf("%s: the replica of %s is %s", e.Op, e.VM, e.State.Stage)
}

// TwoError says that two copies of the VM would run, or that nobody can tell that they would not.
type TwoError struct {
	VM      string
	Running bool  // it is known that the other one runs
	Err     error // why it cannot be told
}

func (e *TwoError) Error() string {
	switch {
	case e.Running:
		return fmt.Sprintf("%s runs: its replica would be a second one", e.VM)
	case e.Err != nil:
		return fmt.Sprintf("nobody can tell whether %s still runs (%v): its replica might be a second one", e.VM, e.Err)
	}
	return fmt.Sprintf("nobody was asked whether %s still runs: its replica might be a second one", e.VM)
}

func (e *TwoError) Unwrap() error { return e.Err }

// NotOfflineError says that the last point of a planned failover was not made of a VM that is off, so that something might
// be lost.
type NotOfflineError struct{ VM, Reached string }

func (e *NotOfflineError) Error() string {
	return fmt.Sprintf("%s was stopped, and yet its last point is %s, where a VM that is off makes it offline", e.VM, e.Reached)
}

// UncertainError says that a failover failed when the replica may have been started already: nobody knows whether it
// runs, so that the source was not started again.
type UncertainError struct {
	VM  string
	Err error
}

func (e *UncertainError) Error() string {
	return fmt.Sprintf("the replica of %s may run or not, and the source was left off: %v", e.VM, e.Err)
}

func (e *UncertainError) Unwrap() error { return e.Err }

// OffError says that a failover failed, and the source that was stopped for it could not be started again: nothing runs.
type OffError struct {
	VM    string
	Err   error // why the failover failed
	Start error // why the source could not be started
}

func (e *OffError) Error() string {
	return fmt.Sprintf("%v; and %s could not be started again, nothing runs: %v", e.Err, e.VM, e.Start)
}

func (e *OffError) Unwrap() []error { return []error{e.Err, e.Start} }

// DamagedError is what a [Site] says of a point that is not what was written to it.
type DamagedError struct {
	Point string
	Err   error
}

func (e *DamagedError) Error() string { return fmt.Sprintf("point %s: %v", e.Point, e.Err) }
func (e *DamagedError) Unwrap() error { return e.Err }
