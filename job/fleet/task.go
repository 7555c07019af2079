package fleet

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hikae/hikae/job/queue"
)

// Task is one unit of work, as it goes to another machine. Secrets do not belong into it: workers have their own.
type Task struct {
	ID    string          `json:"id"`              // unique in its job, and the same in every run
	VM    string          `json:"vm"`              // for people
	Kind  string          `json:"kind"`            // which handler does it: "backup"
	Claim string          `json:"claim,omitempty"` // what nobody else may work on meanwhile: "vm/HYPERVISOR/ID"; empty: the task itself
	Label string          `json:"label"`           // what a worker must reach
	Spec  json.RawMessage `json:"spec,omitempty"`  // the handler's own
}

// Run is one run of a job. Dispatched again with the same names, it goes on.
type Run struct {
	Job   string
	Run   string // unique in its job
	Tasks []Task
}

// Bounds of a run.
const (
	MaxTasks = 1_000_000
	maxName  = 64  // bytes of the names of a job, a run, a kind
	maxTask  = 120 // bytes of the name of a task
	version  = 1   // of all documents here
	maxTexts = 16  // warnings in an outcome, each cut by queue.Reason
	maxExtra = 128 << 10
)

// State is what became of a task.
type State string

// States of a task.
const (
	Done      State = "done"
	Warned    State = "warned" // done, with something that a person should look at
	Failed    State = "failed"
	Cancelled State = "cancelled"
)

// Outcome is what became of one task. It is created once and never changed.
type Outcome struct {
	Job      string          `json:"job"`
	Run      string          `json:"run"`
	Task     string          `json:"task"`
	VM       string          `json:"vm"`
	State    State           `json:"state"`
	Point    string          `json:"point,omitempty"` // full id
	Error    string          `json:"error,omitempty"`
	Warnings []string        `json:"warnings,omitempty"`
	Worker   string          `json:"worker"`
	Attempts int             `json:"attempts"`
	Begun    time.Time       `json:"begun"` // of the last attempt, by the worker's clock
	Seconds  float64         `json:"seconds"`
	Detail   json.RawMessage `json:"detail,omitempty"` // the handler's own; dropped where it has more than 128 KiB
	Token    string          `json:"token"`            // of the attempt that made it
}

// work is a task on its way, as a message's body.
type work struct {
	Version int    `json:"version"`
	Job     string `json:"job"`
	Run     string `json:"run"`
	Task    Task   `json:"task"`
}

// key names a task of a run, everywhere.
func (w *work) key() string { return queue.Key(w.Job, w.Run, w.Task.ID) }

// claim is what the worker has to itself.
func (w *work) claim() string {
	if w.Task.Claim != "" {
		return w.Task.Claim
	}
	return "task/" + w.Job + "/" + w.Task.ID
}

// RunFact is the fact of a point that says of which run's task it is: JOB/RUN/TASK.
const RunFact = "hikae.run"

// ErrInvalid says that a task or a document is out of bounds.
var ErrInvalid = queue.ErrInvalid

func (w *work) check() error {
	for what, name := range map[string]string{"job": w.Job, "run": w.Run} {
		if name == "" || len(name) > maxName {
			return fmt.Errorf("a %s with a name of %d bytes, 1 to %d: %w", what, len(name), maxName, ErrInvalid)
		}
	}
	if w.Task.ID == "" || len(w.Task.ID) > maxTask {
		return fmt.Errorf("a task with a name of %d bytes, 1 to %d: %w", len(w.Task.ID), maxTask, ErrInvalid)
	}
	if len(w.Task.Claim) > queue.MaxID || len(w.Task.Kind) > maxName || len(w.Task.VM) > queue.MaxID {
		return fmt.Errorf("task %q: a field is too long: %w", w.Task.ID, ErrInvalid)
	}
	return nil
}

// message is the work as the queue has it.
func (w *work) message() (queue.Message, error) {
	if err := w.check(); err != nil {
		return queue.Message{}, err
	}
	body, err := json.Marshal(w)
	if err != nil {
		return queue.Message{}, fmt.Errorf("task %q: %w: %w", w.Task.ID, ErrInvalid, err)
	}
	m := queue.Message{ID: w.Job + "/" + w.Run + "/" + w.Task.ID, Label: w.Task.Label, Body: body}
	return m, m.Check()
}

func decodeWork(b []byte) (*work, error) {
	w := &work{}
	if err := queue.CheckVersion("task", b); err != nil {
		return nil, err
	}
	if err := queue.Strict(b, w); err != nil {
		return nil, fmt.Errorf("task: %w", err)
	}
	return w, w.check()
}

type outcomeDoc struct {
	Version int `json:"version"`
	Outcome
}

// encode cuts what is too long rather than losing the outcome.
func (o *Outcome) encode() ([]byte, error) {
	c := *o
	c.Error = queue.Reason(c.Error)
	c.Warnings = nil
	for i, text := range o.Warnings {
		if i == maxTexts {
			c.Warnings = append(c.Warnings, fmt.Sprintf("and %d more", len(o.Warnings)-maxTexts))
			break
		}
		c.Warnings = append(c.Warnings, queue.Reason(text))
	}
	if len(c.Detail) > maxExtra {
		c.Detail = nil
	}
	value, err := queue.Marshal(outcomeDoc{version, c})
	if err == nil && len(value) > queue.MaxBody && c.Detail != nil {
		c.Detail = nil
		value, err = queue.Marshal(outcomeDoc{version, c})
	}
	return value, err
}

func decodeOutcome(b []byte) (Outcome, error) {
	var d outcomeDoc
	if err := queue.CheckVersion("outcome", b); err != nil {
		return Outcome{}, err
	}
	err := queue.Strict(b, &d)
	return d.Outcome, err
}

// ErrUnfinished says that a run has tasks without an outcome.
var ErrUnfinished = errors.New("the run is not complete")

// ErrForgotten says that a task was dropped because the queue's tables know nothing of its run: see [Forget].
var ErrForgotten = errors.New("nothing is known of its run any more")
