package hikae

import (
	"context"
	"iter"
	"time"

	"github.com/hikae/hikae/pipe"
)

// SnapshotProvider is a hypervisor, or anything else that can pin the state of a VM.
//
// Unstable: until two hypervisors use it.
type SnapshotProvider interface {
	// VMs yields the virtual machines that the provider was pointed at.
	VMs(ctx context.Context) iter.Seq2[VM, error]

	// Snapshot pins one moment of a VM across all its disks. On error it has undone whatever it made.
	Snapshot(ctx context.Context, id string, opts *SnapshotOptions) (Snapshot, error)
}

// GroupSnapshotter is an optional ability of a provider: VMs that must or may share one volume snapshot.
//
// Unstable: until two hypervisors use it.
type GroupSnapshotter interface {
	// Group sorts VMs into groups that share a snapshot.
	Group(ctx context.Context, ids []string) ([][]string, error)
	// SnapshotGroup pins one moment of every VM of a group. The snapshots are released one by one; what they share
	// goes with the last.
	SnapshotGroup(ctx context.Context, ids []string, opts *SnapshotOptions) ([]Snapshot, error)
}

// Snapshot is one pinned moment of a VM, told as a story: it is taken; its disks are read; Prepare hands over the
// change ids that began with it; the caller makes the restore point durable; Commit drops the old base; Release
// removes what the snapshot made on the host. Release always runs. Release without Commit leaves the old base whole,
// so that the next increment is right.
//
// Unstable: until two hypervisors use it.
type Snapshot interface {
	// VM is the machine as it was at that moment, with its native configuration.
	VM() VM

	// Consistency is what was reached, not what was asked.
	Consistency() Consistency

	// OpenDisk opens one disk by key. The caller closes it before Release.
	OpenDisk(ctx context.Context, key string) (pipe.Image, error)

	// Changed says what differs between since and this moment. It covers the whole disk, ascending and gap-free,
	// with Data or Unchanged, aligned outward. An error, or an end before the disk's size, voids everything already
	// yielded. ErrTrackingLost: the caller reads the whole disk.
	Changed(ctx context.Context, key string, since ChangeID) iter.Seq2[pipe.Extent, error]

	// Prepare hands out, by disk key, the ChangeIDs that began in the snapshot's own atomic step, to be written into
	// the restore point; it may finish an object on the host for that. Tracking never starts here: what the VM
	// writes during the copy belongs to the next point. A disk without tracking is absent from the map.
	Prepare(ctx context.Context) (map[string]ChangeID, error)

	// Commit is called when the restore point is durable: the old base goes, the guest's writers are told, logs are
	// truncated where asked.
	Commit(ctx context.Context) error

	// Release removes what the snapshot made. Without a Commit before, the old base is whole afterwards: it tells
	// everything that changed since it began, also what changed since the snapshot. It may be called again after an
	// error.
	Release(ctx context.Context) error
}

// EarlyTracking is an optional ability of a Snapshot: its change ids are known, and worth something, before its disks were read
// to the end. So what was read when a session died need not be read again.
type EarlyTracking interface {
	// Early hands out what Prepare will, and finishes nothing on the host. An error means that what was read so far may not
	// be of the snapshot's moment, or that nobody knows. It runs beside OpenDisk and Changed, and reads of disks.
	Early(ctx context.Context) (map[string]ChangeID, error)
	// KeepEarly says that an unfinished point names these ids now. Release without Commit then leaves what they need, beside
	// the old base, which stays whole.
	KeepEarly()
}

// Routed is an optional ability of a disk's image, where there are several ways to its content. The answer may change while
// the disk is read.
type Routed interface{ Route() Route }

// Route is how the content of a disk comes.
type Route struct {
	Transport string   `json:"transport"`
	Tried     []Detour `json:"tried,omitempty"` // what was not taken, or not to the end, in the order in which it was tried
}

// Detour says why a transport does not bring a disk's content, or did so only in part.
type Detour struct {
	Transport string `json:"transport"`
	Reason    string `json:"reason"`
	Hint      string `json:"hint,omitempty"` // what a person can do about it
	Offset    int64  `json:"offset"`         // where in the disk it failed; -1: it was never read by it
}

// Quiescer stops a guest from writing, for seconds at most.
type Quiescer interface {
	Freeze(ctx context.Context) error
	// Thaw is called on every path after Freeze was called, also when Freeze's answer was lost. Thawing what is not
	// frozen is no error, but after a Freeze that went well it is ErrThawedEarly.
	Thaw(ctx context.Context) error
}

// PatientQuiescer is an optional ability of a Quiescer that runs programs of the guest's administrator. Patience is how
// long Freeze may take before anything stands still, and Thaw after everything moves again, on top of what a provider
// allows for standing still. The guest has a watchdog of its own for that.
type PatientQuiescer interface {
	Quiescer
	Patience() time.Duration
}

// PatienceOf is the Patience of a quiescer that has that ability, and zero for others.
func PatienceOf(q Quiescer) time.Duration {
	if p, ok := q.(PatientQuiescer); ok {
		return max(0, p.Patience())
	}
	return 0
}

// SelfThawing is an optional ability of a Quiescer whose guest has a watchdog of its own, which thaws when nobody is heard
// of. ThawsWithin is how long a freeze can last after it was begun: a provider that got no answer to Thaw waits so long
// instead of leaving a guest that may be frozen, and takes what it pinned for one as after a power cut.
type SelfThawing interface {
	Quiescer
	ThawsWithin() time.Duration
}

// Restorer brings a VM back.
//
// Unstable: until two hypervisors use it.
type Restorer interface {
	// Create starts a new VM with the given description and disks.
	Create(ctx context.Context, vm VM, opts *RestoreOptions) (Draft, error)
	// InPlace opens an existing VM, which must be off or is stopped, to write back what differs.
	InPlace(ctx context.Context, id string, opts *RestoreOptions) (Draft, error)
}

// RestoreOptions change how a VM is brought back. Nil and zero fields are good defaults.
type RestoreOptions struct {
	Journal Journal
	// Name of the new VM. Empty: the name in its description.
	Name string
	// Overwrite allows replacing what is already there under that name.
	Overwrite bool
	// VM describes what is brought back, for InPlace: a restorer may find by its configuration what keys alone do not tell.
	// Nil: it is not known.
	VM *VM
}

// Draft is a VM that is being written. Commit makes it whole; Close alone removes what was made.
type Draft interface {
	OpenDisk(ctx context.Context, key string) (pipe.Target, error)
	// Commit seals the VM after its disks were committed, and returns its id.
	Commit(ctx context.Context) (id string, err error)
	Close() error
}

// GuestChannel is a hypervisor's way into its guest, with standard types only.
//
// Unstable: until two hypervisors use it.
type GuestChannel interface {
	// Run runs a program in the guest and returns what it printed, of each stream at most 1 MiB, and its exit code.
	Run(ctx context.Context, path string, args []string, stdin []byte) (RunResult, error)
	// Upload writes a file in the guest, Download reads one of at most max bytes.
	Upload(ctx context.Context, path string, data []byte, mode uint32) error
	Download(ctx context.Context, path string, max int64) ([]byte, error)
	Close() error
}

// RunResult is what a program in a guest left.
type RunResult struct {
	Stdout, Stderr []byte
	ExitCode       int
	Truncated      bool // one of the streams was longer than what is here
}
