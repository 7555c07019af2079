package agent

import (
	"context"
	"io"

	"github.com/hikae/hikae/guest/agent/wire"
)

// Freezer stops file systems from changing. The watchdog that thaws when this process or the link dies is its own
// business.
type Freezer interface {
	Volumes(ctx context.Context) ([]wire.Volume, error)
	// Ready does what may take long, before applications hold their commits: it opens what is to be frozen, writes out what
	// is dirty, and arms the watchdog. On an error nothing is left of it.
	Ready(ctx context.Context, args wire.FreezeArgs) (Ready, error)
}

// Ready is a freeze that is about to be. The hold begins when it comes from the Freezer.
type Ready interface {
	// Freeze freezes deepest mounts first, and is called once. On an error nothing is frozen.
	Freeze(ctx context.Context) (Frozen, error)
	// Close gives up what is not frozen. It is called on every path; after Freeze it does nothing.
	Close() error
}

// Frozen is a freeze that lasts.
type Frozen interface {
	Answer() wire.FreezeAnswer // Frozen and Skipped are set
	// Thaw thaws; a second call returns the first one's result. held is false where the watchdog was first.
	Thaw(ctx context.Context) (thawed []string, held bool, err error)
}

// Applications knows the servers in this guest that keep state of their own.
type Applications interface {
	Find(ctx context.Context) ([]wire.Application, error)
	// Prepare gets all ready that can be; each failure is an Outcome. An error means that nothing was begun.
	Prepare(ctx context.Context, args wire.PrepareArgs) (Prepared, []wire.Outcome, error)
}

// Prepared are applications that are ready for a freeze, told as a story: Hold right before file systems freeze, Resume
// right after they thaw, Finish for what a restore needs, Settle when the point is durable or given up, Close. Hold and
// Resume are short; each bounds itself. Close alone lets go of everything, from any state.
type Prepared interface {
	Hold(ctx context.Context) []wire.Outcome
	Resume(ctx context.Context) []wire.Outcome
	Finish(ctx context.Context) ([]wire.Record, []wire.Outcome)
	Settle(ctx context.Context, args wire.SettleArgs) []wire.Outcome
	Close() error
}

// LogKeeper hands out transaction logs.
type LogKeeper interface {
	Logs(ctx context.Context, args wire.LogsArgs) (wire.LogsAnswer, error)
	// Fetch writes one log that Logs listed.
	Fetch(ctx context.Context, args wire.FetchArgs, to io.Writer) (wire.FetchAnswer, error)
	Shipped(ctx context.Context, args wire.ShippedArgs) error
}

// Indexer writes an index of the guest's files.
type Indexer interface {
	Index(ctx context.Context, args wire.IndexArgs, to io.Writer) (wire.IndexAnswer, error)
}

// Scripts runs what the guest's administrator put into the conventional places.
type Scripts interface {
	List() []string
	// Run runs all of one phase ("freeze" in order of names, "thaw" and "freezeFail" in the reverse order). The first
	// failure of phase freeze ends it, and is the error.
	Run(ctx context.Context, phase string, limitMillis int64) ([]wire.ScriptResult, error)
}

// Installer installs signed packages. Only the installer service has it.
type Installer interface {
	Install(ctx context.Context, args wire.InstallArgs, content io.Reader) (wire.InstallAnswer, error)
}
