package files

import (
	"context"
	"fmt"
	"sync"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// LeftOutError says that a file cannot be read because a part of its content is not in the restore point: it was
// excluded, or could not be read when the point was made. The disk reads as zero there.
type LeftOutError struct {
	Kind pipe.Kind
	Off  int64 // the first byte of the file that is missing
}

func (e *LeftOutError) Error() string {
	return fmt.Sprintf("its content from byte %d on is not in the restore point (%v)", e.Off, e.Kind)
}

// whole checks that the content of a regular file is all there, as far as the disks tell.
func (t *Tree) whole(ctx context.Context, at place, size int64) error {
	vol := t.volumes[at.fs]
	if vol == nil {
		return nil
	}
	for r, err := range at.fs.Runs(ctx, at.node) {
		if err != nil {
			return err
		}
		n := min(r.Len, size-r.File)
		if n <= 0 {
			return nil
		}
		if r.Kind != fsys.Written && r.Kind != fsys.Shared {
			continue
		}
		for e, err := range pipe.Extents(ctx, vol, r.Vol, n) {
			if err != nil {
				return err
			}
			if e.Kind.Dropped() {
				return &LeftOutError{Kind: e.Kind, Off: r.File + e.Off - r.Vol}
			}
		}
	}
	return nil
}

// content reads a file like an io.ReaderAt. Before the first byte it finds out whether all are there.
type content struct {
	tree *Tree
	at   place
	size int64

	once    sync.Once
	missing error
}

func (c *content) ReadAt(p []byte, off int64) (int, error) {
	c.once.Do(func() { c.missing = c.tree.whole(c.tree.ctx, c.at, c.size) })
	if c.missing != nil {
		return 0, c.missing
	}
	return c.at.fs.ReadAt(c.tree.ctx, c.at.node, p, off)
}
