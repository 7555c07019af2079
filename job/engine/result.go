package engine

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// State is what became of a task, or of a run.
type State string

// The states.
const (
	Done      State = "done"
	Warned    State = "warned" // done, with something that a person should look at
	Failed    State = "failed"
	Cancelled State = "cancelled"
)

// Result is what became of a run. The names of its JSON fields are a contract with scripts.
type Result struct {
	Job     string       `json:"job"`
	Run     string       `json:"run"`
	State   State        `json:"state"`
	Started time.Time    `json:"started"`
	Seconds float64      `json:"seconds"`
	Tasks   []TaskResult `json:"tasks"` // in the order of the tasks
}

// TaskResult is what became of one task.
type TaskResult struct {
	ID       string  `json:"id"`
	VM       string  `json:"vm"`
	Kind     string  `json:"kind"`
	State    State   `json:"state"`
	Error    string  `json:"error,omitempty"`
	Attempts int     `json:"attempts"`
	Waited   float64 `json:"waited"`            // seconds before it was begun
	Seconds  float64 `json:"seconds"`           // all attempts, and the waits between them
	Earlier  bool    `json:"earlier,omitempty"` // it was done before the run was begun again
	Outcome

	Err error `json:"-"`
}

// Exit statuses, which the report and the program agree on.
const (
	StatusDone        = 0
	StatusFailed      = 1
	StatusWarned      = 3
	StatusInterrupted = 130
)

// Status is the exit status of a program that did nothing but this run: 0 done, 1 a task failed, 3 done with warnings, 130 cancelled.
func (r *Result) Status() int {
	switch r.State {
	case Done:
		return StatusDone
	case Warned:
		return StatusWarned
	case Cancelled:
		return StatusInterrupted
	}
	return StatusFailed
}

// Count is how many tasks came to a state.
func (r *Result) Count(s State) (n int) {
	for _, t := range r.Tasks {
		if t.State == s {
			n++
		}
	}
	return n
}

// Err joins what went wrong, a line for each task; nil where nothing did.
func (r *Result) Err() error {
	var errs []error
	for _, t := range r.Tasks {
		if t.Err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", t.VM, t.Err))
		}
	}
	return errors.Join(errs...)
}

// String tells the run in a line.
func (r *Result) String() string {
	var parts []string
	for _, s := range []State{Done, Warned, Failed, Cancelled} {
		if n := r.Count(s); n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, s))
		}
	}
	return fmt.Sprintf("%s: %s, of %d, in %.0f s", r.Job, strings.Join(parts, ", "), len(r.Tasks), r.Seconds)
}

// stateOf is the state of a run: what a person has to hear of first.
func stateOf(tasks []TaskResult) State {
	worst := Done
	rank := map[State]int{Done: 0, Warned: 1, Failed: 2, Cancelled: 3}
	for _, t := range tasks {
		if rank[t.State] > rank[worst] {
			worst = t.State
		}
	}
	return worst
}
