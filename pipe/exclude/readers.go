package exclude

import (
	"context"
	"fmt"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/ext"
	"github.com/hikae/hikae/pipe/exclude/fat"
	"github.com/hikae/hikae/pipe/exclude/fsys"
	"github.com/hikae/hikae/pipe/exclude/layout"
	"github.com/hikae/hikae/pipe/exclude/ntfs"
	"github.com/hikae/hikae/pipe/exclude/xfs"
)

// Reader opens the file systems of one family.
type Reader struct {
	Kind string // the signature that it is for, as [layout.Identify] names it
	Open func(ctx context.Context, vol pipe.Image) (fsys.FileSystem, error)
}

// Readers are those for the file systems that are known here.
func Readers() []Reader {
	return []Reader{
		{layout.Ext, ext.Open},
		{layout.XFS, xfs.Open},
		{layout.NTFS, ntfs.Open},
		{layout.FAT, fat.Open},
	}
}

// Open opens the file system of a volume, with the readers of [Readers]. Where it holds none that is known here, the error
// wraps [fsys.ErrOther].
func Open(ctx context.Context, vol pipe.Image) (fsys.FileSystem, error) {
	found, err := layout.Identify(ctx, vol)
	if err != nil {
		return nil, err
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("%d signatures: %w", len(found), fsys.ErrOther)
	}
	for _, r := range Readers() {
		if r.Kind == found[0].Kind {
			return r.Open(ctx, vol)
		}
	}
	return nil, fmt.Errorf("%s: %w", found[0].Kind, fsys.ErrOther)
}
