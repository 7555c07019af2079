package pipe

import (
	"context"
	"iter"
)

// UnfinishedPoint is what a session that did not commit made durable of a VM at the moment of its snapshot. It is no point:
// it is listed with none, restored by nothing, and only ever built on.
type UnfinishedPoint struct {
	// PointInfo describes it as if it were one. Its change ids are those of its own moment.
	PointInfo
	// Base is the committed point that it was built on; empty: none.
	Base string
	// Pending are, by disk, the ranges that were to be read and were not, ascending: what the disk holds there is not what
	// the VM had at that moment. What is neither pending nor changed since that moment is there.
	Pending map[string][]Extent
}

// Resumer is an optional ability of a [Backend]: it keeps unfinished points, one of a VM at most. Such a point may be named as
// the Base of a new point.
type Resumer interface {
	// Unfinished yields the unfinished points of a VM, or of all where vm is empty.
	Unfinished(ctx context.Context, vm string) iter.Seq2[UnfinishedPoint, error]
	// OpenUnfinished opens a disk of one, by full id and key, as Open does for a point. Errors: fs.ErrNotExist.
	OpenUnfinished(ctx context.Context, point, disk string) (Image, error)
}

// ResumerOf finds the ability behind a backend's wrappers.
func ResumerOf(b Backend) (Resumer, bool) { return BackendAs[Resumer](b) }

// CheckpointDisk is one disk of a checkpoint, also one that was not begun yet.
type CheckpointDisk struct {
	Key  string
	Size int64 // bytes
	// Pending are the ranges that this session reads, ascending: what is settled of them is taken out by the writer. Where
	// there is no base, all of the disk.
	Pending []Extent
}

// CheckpointOptions are what the writer cannot know of an unfinished point.
type CheckpointOptions struct {
	Disks []CheckpointDisk
	// Tracking is asked for the change ids of the session's moment once it is settled what the checkpoint holds, and before
	// anybody can find it: its error means that what was read so far may not be of that moment.
	Tracking func(ctx context.Context) (map[string]string, error)
}

// Checkpointer is an optional ability of a [PointWriter].
type Checkpointer interface {
	// Checkpoint makes what was put by calls that have returned durable as the VM's unfinished point, in place of the one
	// before. It runs beside calls on the point's disks, but not beside Commit and Close. It returns the id. An error
	// changes nothing about the point that is being written; errors.ErrUnsupported: there are none here.
	Checkpoint(ctx context.Context, opts CheckpointOptions) (id string, err error)
}
