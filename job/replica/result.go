package replica

import (
	"time"

	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
)

// Result is what a call did. The names of its JSON fields are a contract with scripts. Sizes are bytes, times seconds.
type Result struct {
	VM      string    `json:"vm"`
	What    string    `json:"what"` // sync, planned failover, failover, failback, undo
	Started time.Time `json:"started"`
	Resumed string    `json:"resumed,omitempty"` // the step at which an earlier call had been ended
	Already bool      `json:"already,omitempty"` // it had been done before

	Point string    `json:"point,omitempty"` // full id: that was made, that runs, or that was restored
	Time  time.Time `json:"time,omitzero"`   // when the VM was in the state of that point
	// Age is how old the point was when the replica was started from it: what the VM wrote in that time is lost. Zero after a
	// planned failover, which loses nothing.
	Age float64 `json:"age"`
	// Down is how long nothing ran: from when the running one was told to stop to when the other one was started.
	Down  float64 `json:"down"`
	Moved int64   `json:"moved"` // plain bytes that were written, to the replica or to the original

	Syncs    []Synced           `json:"syncs"`
	Restore  *job.RestoreResult `json:"restore,omitempty"`
	Merged   []string           `json:"merged,omitempty"` // points that are no more, as newer ones stand for themselves
	Steps    []StepDone         `json:"steps"`
	Warnings []string           `json:"warnings"`
	Seconds  float64            `json:"seconds"`
}

// StepDone is one step of a call.
type StepDone struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// Synced is one new point of a replica.
type Synced struct {
	Point       string    `json:"point"`
	Time        time.Time `json:"time"`
	Consistency string    `json:"consistency"`
	Moved       int64     `json:"moved"`             // plain bytes handed to the site
	Stored      int64     `json:"stored"`            // bytes that the point takes for itself
	Already     bool      `json:"already,omitempty"` // the site had it
	// Direct: the VM itself was read, just now, and not a point of it in a repository.
	Direct bool        `json:"direct,omitempty"`
	Backup *job.Result `json:"backup,omitempty"`
	Copied *job.Copied `json:"copied,omitempty"`
}

func (s *Synced) of(p pipe.PointInfo) {
	s.Point, s.Time, s.Consistency, s.Stored = p.ID, p.Time, p.Consistency, p.New
}

func seconds(d time.Duration) float64 { return float64(d.Milliseconds()) / 1000 }
