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
