package logs

import (
	"errors"
	"fmt"
	"time"
)

// ErrPaused says that an image session of the VM is under way.
var ErrPaused = errors.New("an image session is under way")

// ErrIdle says that there is no image point yet whose changes logs could tell.
var ErrIdle = errors.New("there is no image point yet")

// GapError says that logs are missing: what lies behind the gap continues nothing.
type GapError struct {
	Stream Stream
	After  string // last log before it; may be empty
	Before string // first log behind it; may be empty
	Words  string
}

func (e *GapError) Error() string {
	s := fmt.Sprintf("%s: a gap in the logs", e.Stream)
	if e.After != "" {
		s += " after " + e.After
	}
	if e.Before != "" {
		s += " before " + e.Before
	}
	if e.Words != "" {
		s += ": " + e.Words
	}
	return s
}

// BatchError says that one stored batch cannot be read. Its logs are missing; others are not touched by it.
type BatchError struct {
	Stream Stream
	Batch  string
	Err    error
}

func (e *BatchError) Error() string { return fmt.Sprintf("%s: batch %s: %v", e.Stream, e.Batch, e.Err) }

// Unwrap is why.
func (e *BatchError) Unwrap() error { return e.Err }

// TimeError says that a moment cannot be reached, and which can.
type TimeError struct {
	Stream           Stream
	Asked            time.Time
	Earliest, Latest time.Time
	Gap              *GapError // why not later, where logs are missing
}

func (e *TimeError) Error() string {
	s := fmt.Sprintf("%s cannot be restored to %s: from %s to %s it can", e.Stream, e.Asked.Format(time.RFC3339Nano),
		e.Earliest.Format(time.RFC3339Nano), e.Latest.Format(time.RFC3339Nano))
	if e.Gap != nil && e.Asked.After(e.Latest) {
		s += "; " + e.Gap.Error()
	}
	return s
}

// Unwrap is the gap.
func (e *TimeError) Unwrap() error {
	if e.Gap == nil {
		return nil
	}
	return e.Gap
}

// SumError says that a stored log is not what was stored.
type SumError struct {
	Stream Stream
	Log    string
}

func (e *SumError) Error() string {
	return fmt.Sprintf("%s: log %s is not what was stored: its SHA-256 differs", e.Stream, e.Log)
}
