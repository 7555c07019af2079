package retention

import (
	"errors"
	"fmt"
)

// ErrKeepsNothing is in the [PolicyError] of a policy that has no rule which keeps points by number or by time.
var ErrKeepsNothing = errors.New("the policy keeps nothing: no number and no duration is above zero")

// PolicyError says what is wrong with a policy. Nothing may be removed by it.
type PolicyError struct {
	Field  string // the rule, as it was written; empty if it is the policy as a whole
	Value  string // what stood there, cut at 64 bytes
	Reason string
	Err    error // ErrKeepsNothing, what JSON's reader said, or nil
}

func (e *PolicyError) Error() string {
	switch {
	case e.Field == "" && e.Value == "":
		return "retention policy: " + e.Reason
	case e.Field == "":
		return fmt.Sprintf("retention policy: %q: %s", e.Value, e.Reason)
	}
	return fmt.Sprintf("retention policy: %s=%q: %s", e.Field, e.Value, e.Reason)
}

func (e *PolicyError) Unwrap() error { return e.Err }

func badPolicy(field, value, reason string) *PolicyError {
	return &PolicyError{Field: clip(field), Value: clip(value), Reason: reason}
}

// clip bounds what a message repeats of its input.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}

// HistoryError says why a list of points is no history: two points with one id, or one number of the log used twice.
// Nothing may be removed on its ground.
type HistoryError struct {
	VM     string
	ID     string
	Log    uint64
	Reason string
}

func (e *HistoryError) Error() string {
	return fmt.Sprintf("points of VM %q: point %q, record %d: %s", e.VM, e.ID, e.Log, e.Reason)
}
