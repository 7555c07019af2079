package job

import "github.com/hikae/hikae/pipe"

// Event is something that happened in a session: one of the types below. Events of a session arrive one at a time, in
// order; the callback should return soon, for the session waits for it.
type Event interface{ event() }

// Phase is a part of a session.
type Phase string

const (
	PhasePlan     Phase = "plan"
	PhaseGuest    Phase = "guest" // of a backup: getting the guest ready
	PhaseSnapshot Phase = "snapshot"
	PhaseExclude  Phase = "exclude" // of a backup: looking for what need not be stored
	PhaseCopy     Phase = "copy"
	PhaseCommit   Phase = "commit"
	PhaseRelease  Phase = "release"
	PhaseCompare  Phase = "compare" // of a restore: reading back what was written
)

// PhaseStarted says that a session entered a phase.
type PhaseStarted struct {
	Session string
	VM      string
	Phase   Phase
}

// DiskStarted says that a disk begins to be copied (or, in PhaseCompare, read back).
type DiskStarted struct {
	Key    string
	Size   int64
	Method Method
	// Index counts the disks of the session from zero; Count is how many there are.
	Index, Count int
}

// DiskProgress says how far a disk has come. At most ten a second.
type DiskProgress struct {
	Key string
	pipe.Progress
}

// DiskDone says that a disk is whole.
type DiskDone struct {
	Key   string
	Stats pipe.Stats
}

// Unfinished says that what was copied so far is durable, as an unfinished point: a session that dies from here on need not read
// it again.
type Unfinished struct{ Point string }

// FellBack says that a disk is read by a lower rung of the ladder.
type FellBack struct{ Fallback }

// Warned says something that a person should do something about. It stands in the result too.
type Warned struct{ Text string }

// SessionEnded is a session's last event: what it did, and its error where it failed. The record is the listener's own to read, and
// nobody's to change.
type SessionEnded struct{ Record }

func (PhaseStarted) event() {}
func (DiskStarted) event()  {}
func (DiskProgress) event() {}
func (DiskDone) event()     {}
func (Unfinished) event()   {}
func (FellBack) event()     {}
func (Warned) event()       {}
func (SessionEnded) event() {}
