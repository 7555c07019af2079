package pipe

import (
	"context"
	"io"
	"iter"
	"time"
)

// Backend is a place where restore points live: what a repository implements and a mover serves.
type Backend interface {
	// Points yields the committed points of a VM, or of all where vm is empty, in the order in which they were
	// committed.
	Points(ctx context.Context, vm string) iter.Seq2[PointInfo, error]

	// Open opens one disk of a point, by the point's full id and the disk's key. Errors are fs.ErrNotExist for an
	// unknown point or disk. The image has the extents ability.
	Open(ctx context.Context, point, disk string) (Image, error)

	// OpenBlob opens a named blob of a point, such as the VM's native configuration.
	OpenBlob(ctx context.Context, point, name string) (io.ReadCloser, error)

	// Begin starts a new point of a VM.
	Begin(ctx context.Context, vm string, opts *PointOptions) (PointWriter, error)
}

// BackendAs returns the first backend in b's chain of wrappers that has the ability T. A wrapper has Unwrap() Backend; one that must
// hide what it wraps has none.
func BackendAs[T any](b Backend) (T, bool) {
	for b != nil {
		if t, ok := b.(T); ok {
			return t, true
		}
		w, ok := b.(interface{ Unwrap() Backend })
		if !ok {
			break
		}
		b = w.Unwrap()
	}
	var none T
	return none, false
}

// Differ is an optional ability of a [Backend]: it knows what differs between two of its points without reading their content.
type Differ interface {
	// Differences yields the whole of a disk, ascending and gap-free: Unchanged where point holds the same as base and, where both hold
	// nothing, for the same reason; Data where it may hold something else. Errors are fs.ErrNotExist where one of the points or the
	// disk is not there, and [ErrSizeMismatch].
	Differences(ctx context.Context, base, point, disk string) iter.Seq2[Extent, error]
}

// PointOptions are what is known of a point when it begins. Nil and zero fields are good defaults.
type PointOptions struct {
	// Base is the full id of the point that Unchanged ranges are taken from. Empty: there is no base, and marking
	// Unchanged fails. A disk that the base lacks, or has in another size, has no base.
	Base string
	// Time is when the VM was in the state that the point holds. Zero: now.
	Time time.Time
	// Consistency is the state's consistency as reached, in the words of hikae.Consistency. Empty: unknown.
	Consistency string
	// Facts are small properties of the VM for people to read (hypervisor, guest OS …).
	Facts map[string]string
}

// PointWriter writes one restore point: several disks and named blobs, all at once or not at all.
type PointWriter interface {
	// Disk starts the content of one disk. The key is the disk's identity across points. The target is a
	// BlockTarget where the backend deduplicates. Several disks may be written at the same time.
	Disk(ctx context.Context, key string, size int64) (Target, error)

	// Blob stores a named blob, byte for byte.
	Blob(ctx context.Context, name string, r io.Reader) error

	// Commit makes the point appear: on nil it is durable and listed, with every disk and blob whose target was
	// committed. A disk that was started and not committed makes Commit fail. tracking is kept with the point: for
	// each disk key the change id that the next incremental starts from. It returns the point's id.
	Commit(ctx context.Context, tracking map[string]string) (id string, err error)

	// Close releases the writer. Without a Commit before, nothing of the point remains visible.
	Close() error
}

// PointInfo describes a committed point.
type PointInfo struct {
	ID          string            `json:"id"`
	VM          string            `json:"vm"`
	Time        time.Time         `json:"time"`
	Consistency string            `json:"consistency"`
	Disks       []DiskInfo        `json:"disks"`
	Blobs       []BlobInfo        `json:"blobs,omitempty"`
	Tracking    map[string]string `json:"tracking,omitempty"`
	Facts       map[string]string `json:"facts,omitempty"`
	New         int64             `json:"new"`            // bytes stored for this point alone, as measured at its commit, without parity
	Log         uint64            `json:"log,omitempty"`  // the number that orders points, where the backend has one: no clock decides it
	Held        string            `json:"held,omitempty"` // not empty: the point is held, and this is why
}

// DiskInfo describes one disk of a point.
type DiskInfo struct {
	Key  string `json:"key"`
	Size int64  `json:"size"`
	// Data is how many bytes of the disk are present in the point; Absent says for the rest why it reads as zero.
	Data   int64            `json:"data"`
	Absent map[string]int64 `json:"absent,omitempty"`
}

// UnreadableBlob is the blob of a point that was made although parts of a disk could not be read: by disk, the ranges that stand as
// zero for it, {"disk0": [{"offset": 0, "length": 512}]}. A range may be part of a block that is data otherwise, of which Absent says
// nothing.
const UnreadableBlob = "hikae.unreadable.json"

// BlobInfo describes one blob of a point.
type BlobInfo struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
}
