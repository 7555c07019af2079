package hikae

import "context"

// Effect is one thing that a session does outside its own memory: a snapshot, an attached disk, a mounted volume, a
// component put into a guest.
type Effect struct {
	ID      string            `json:"id"`      // chosen by the journal
	Session string            `json:"session"` // chosen by the journal
	Kind    string            `json:"kind"`    // the provider's word for it, such as "kvm.bitmap"
	VM      string            `json:"vm"`      // the provider's id of the VM
	Facts   map[string]string `json:"facts"`   // what undoing it needs

	// Repository is set where undoing depends on which points were committed, and to where: only a sweep that knows
	// that repository's points undoes it. Empty: undoing it is the same whatever was committed.
	Repository string `json:"repository,omitempty"`
}

// Journal keeps every effect durably before it happens, so that a later start can undo what a dead session left, and
// only that.
type Journal interface {
	// Intend makes e durable. The caller then acts, and calls done when the effect has been undone. An effect that is
	// never done is handed to a Sweeper at the next start.
	Intend(ctx context.Context, e Effect) (done func(context.Context) error, err error)
}

// Sweeper undoes what a dead session left. Every provider is one.
type Sweeper interface {
	// Undo makes e undone; undoing what never happened, or was undone already, is no error. keep are change ids that
	// committed and unfinished points of e.Repository name: bases that are never dropped. Beside an id that no committed
	// point names stands [OnlyUnfinished] of it: its session did not commit, so what it was built on is needed, too.
	Undo(ctx context.Context, e Effect, keep []ChangeID) error
}

// OnlyUnfinished is what stands in a list of ids to keep beside an id that only an unfinished point names. It is no
// provider's id.
func OnlyUnfinished(id ChangeID) ChangeID { return "unfinished:" + id }
