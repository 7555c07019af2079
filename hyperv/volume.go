package hyperv

import (
	"context"

	"github.com/hikae/hikae"
)

// VolumeSnapshotter pins volumes so that their files can be read elsewhere than on the host that uses them: by a storage vendor's
// means, or for shares by the protocol of package hyperv/fsrvp. Methods may be called at once.
type VolumeSnapshotter interface {
	Name() string
	// Volume names the volume, or share, that a file lies on, so that files with equal names go together. A file that it cannot pin
	// is errors.ErrUnsupported, with the reason.
	Volume(ctx context.Context, host, file string) (string, error)
	// Take pins volumes at one moment. Mark finds it again after a crash. Every effect is written into the journal first, with
	// a kind that begins with "hyperv.volume." and "snapshotter" among its facts. On error nothing is left.
	Take(ctx context.Context, host, mark string, volumes []string, j hikae.Journal) (VolumeSnapshot, error)
	// Undo undoes such an effect.
	Undo(ctx context.Context, e hikae.Effect) error
}

// VolumeSnapshot is pinned volumes. Its Files lead from production names into it.
type VolumeSnapshot interface {
	Files
	ID() string
	// Delete ends it. It may be called again after an error.
	Delete(ctx context.Context) error
}

// SetTransporter is an optional ability of a [VolumeSnapshotter], for the procedures in which the host's own VSS makes the volume
// snapshot (R051, R078): with a storage vendor's provider on the host, shadow copies can be mounted elsewhere.
type SetTransporter interface {
	VolumeSnapshotter
	// Transport mounts, where we read, the shadow copies of a transportable set that the host made of these volumes. The shadow copies
	// stay the host's: Delete of what is returned takes away what was mounted, and nothing else. Mark is the set's; effects are
	// written as Take writes them. On error nothing is left.
	Transport(ctx context.Context, host, mark, set string, volumes []string, j hikae.Journal) (VolumeSnapshot, error)
}
