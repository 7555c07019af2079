package replica

import (
	"context"
	"time"

	"github.com/hikae/hikae/pipe"
)

// Stage is where a replica stands.
type Stage string

const (
	// Ready: it takes points, and can be failed over to.
	Ready Stage = "ready"
	// FailingOver: a failover has begun, and nothing has seen its disks yet.
	FailingOver Stage = "failing over"
	// FailedOver: the replica runs, or may run.
	FailedOver Stage = "failed over"
	// FailingBack: what it wrote is on its way to being a point.
	FailingBack Stage = "failing back"
)

// State is where the replica of a VM stands, as its site tells.
type State struct {
	Stage Stage     `json:"stage"`
	Since time.Time `json:"since,omitzero"`  // when the failover began
	Point string    `json:"point,omitempty"` // full id of what it runs from
}

// Site is a place where points are ready to run. All methods but the backend's are called by one process at a time for
// one VM.
type Site interface {
	pipe.Backend

	// State tells where the replica stands. A VM without one is Ready.
	State(ctx context.Context, vm string) (State, error)

	// Failover starts a VM from a point, of which nothing is written to. On nil it runs, or what it needs was handed out to
	// whoever starts it. On error State tells whether it may run: where it is not Ready, it may. A point that is damaged is
	// a *[DamagedError].
	Failover(ctx context.Context, vm, point string) error

	// Resume starts the VM of a failover again, on what it wrote. It is called where nothing runs, and does nothing where
	// somebody else starts the VM.
	Resume(ctx context.Context, vm string) error

	// Running tells by what the replica runs, in words; empty: it does not. An error: that cannot be told.
	Running(ctx context.Context, vm string) (by string, err error)

	// Undo throws away what ran. It is nil where the replica is Ready, and a *hikae.BusyError while it runs.
	Undo(ctx context.Context, vm string) error

	// Seal makes a point of what ran, the newest of the VM, after which the replica is Ready. It is a *hikae.BusyError while
	// it runs. Where a Seal was ended midway it goes on.
	Seal(ctx context.Context, vm string) (pipe.PointInfo, error)

	// Keep merges the oldest points, until n are left, and returns their ids.
	Keep(ctx context.Context, vm string, n int) (removed []string, err error)
}

// Machine stops and starts one VM. Each call has a deadline of its own besides the context's.
type Machine interface {
	// Stop ends the VM in good order. On nil it is off. It is nil where it was off already.
	Stop(ctx context.Context) error
	// Start starts the VM. It is nil where it runs already, and ErrByHand where a person starts it.
	Start(ctx context.Context) error
	// Running tells whether the VM runs. An error: that cannot be told, and proves nothing.
	Running(ctx context.Context) (bool, error)
}
