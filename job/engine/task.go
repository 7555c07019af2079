package engine

import (
	"context"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
)

// Task is one unit of work: most often one VM.
type Task struct {
	ID    string   // unique in its job, and the same in every run
	VM    string   // for people
	Kind  string   // "backup", "restore", "replicate", "copy", "verify", "bootcheck"
	Claim string   // what nobody else may work on meanwhile, such as "vm/kvm/web1"; empty: nothing
	Needs []string // resources that it takes one of while it runs, such as "host/esx1", "datastore/ds1", "proxy/p1"
	Do    func(ctx context.Context, a *Attempt) (Outcome, error)
}

// Attempt is one try at a task.
type Attempt struct {
	Number int    // from 1
	Run    string // names the task in this run: job, run and task. A point that has it in its facts ([RunFact]) was made by it
	// Events hears the session that the task runs. It never waits.
	Events func(job.Event)
}

// RunFact is the fact of a point that says which task of which run made it. A task that finds a point with its own name is done.
const RunFact = "hikae.run"

// Outcome is what a task has come to. It stands also where there is an error.
type Outcome struct {
	Record   *job.Record  `json:"record,omitempty"`
	Point    string       `json:"point,omitempty"`
	Copied   []job.Copied `json:"copied,omitempty"` // of [Copies]; the last may be one that failed
	Warnings []string     `json:"warnings,omitempty"`
}

// Retry is how what failed is tried again. Zero fields are good defaults.
type Retry struct {
	Attempts  int              // in all; zero: 3
	First     time.Duration    // the wait before the second; zero: 10 s
	Most      time.Duration    // the longest; zero: 10 min
	Permanent func(error) bool // what another try cannot mend; nil: what somebody else has a claim on, and nothing else
}

// Options change how tasks are run. Nil and zero fields are good defaults.
type Options struct {
	// Limits are how many tasks take a resource at once: of one ("host/esx1"), of each of a class that has no limit of its own
	// ("host/*"), and "tasks" for all. Absent: no limit. Zero or less: nothing that needs it is begun, and fails.
	Limits map[string]int
	// Shared has several runs keep to their limits together, all but "tasks": each place of a resource is a claim that a task holds while it
	// runs, and one whose places others have waits. Runs with other limits count up to the highest. Nil: limits are for this run alone.
	Shared hikae.Claimer
	Retry  Retry
	// Patience is how long a task that waits for a shared resource is passed by others. Zero: 10 minutes.
	Patience time.Duration
	// GiveUp is how many tries in a row at a resource that is away end in failure before its tasks do. Zero: 5.
	GiveUp int
	// Window says whether tasks may be begun, and when that changes; a zero time is never. Nil: they may.
	Window func(now time.Time) (open bool, changes time.Time)
	// StopAtClose ends what runs when the window closes. It is begun again when it opens.
	StopAtClose bool
	Control     *Control      // nil: only the context ends anything
	Claims      hikae.Claimer // nil: nobody is asked
	Progress    *Progress     // nil: a run that is begun again does everything again
	Run         string        // the run's name; empty: Progress', else a new one
	// Events hears what happens, one at a time and in order, beside the work: it holds nobody up. Where it is behind it misses progress, then
	// other things that sessions say ([Event.Missed]), and nothing of what the engine says. Run returns when it has heard all, or has taken
	// a minute or two for one event, after which it hears no other. Nil: nobody listens.
	Events func(Event)
}

// Event is something that happens in a run.
type Event struct {
	What    What
	Task    string // its id; empty where the run is meant
	VM      string
	Attempt int
	Err     error         // of Retried, Ended, Rested; of Waiting: who has it, where that is another run
	Wait    time.Duration // of Retried, Rested
	Until   time.Time     // of Closed; zero: never
	Needs   string        // of Waiting and Rested: the resource; where several cannot be told apart, all of them, with " and " between
	Session job.Event     // of Told
	Missed  int           // of Told: what sessions said before this, and the listener was too slow for; progress is not counted
	Result  *TaskResult   // of Ended
}

// What happens.
type What string

// The kinds of events.
const (
	Begun   What = "begun"   // an attempt at a task
	Told    What = "told"    // the task's session says something
	Retried What = "retried" // it failed, and is tried again
	Ended   What = "ended"   // it is over
	Closed  What = "closed"  // the window: tasks wait for it
	Paused  What = "paused"
	Resumed What = "resumed"
	Rested  What = "rested"  // a resource: its tasks wait
	Waiting What = "waiting" // a task would have its turn, but for a resource that others have, or that rests
)

const (
	defaultAttempts = 3
	defaultFirst    = 10 * time.Second
	defaultMost     = 10 * time.Minute
	defaultPatience = 10 * time.Minute
	defaultGiveUp   = 5
)

// OrDefault is the same with the defaults filled in.
func (r Retry) OrDefault() Retry {
	if r.Attempts <= 0 {
		r.Attempts = defaultAttempts
	}
	if r.First <= 0 {
		r.First = defaultFirst
	}
	if r.Most <= 0 {
		r.Most = defaultMost
	}
	r.Most = max(r.Most, r.First)
	if r.Permanent == nil {
		r.Permanent = isBusy
	}
	return r
}
