package nfctest

import (
	"context"
	"io/fs"

	"github.com/hikae/hikae/pipe"
)

// sectorBytes is the grain of every offset and length on the wire.
const sectorBytes = 512

// Disk is what a path stands for. Its methods but Close may be called at once. A disk that is a [pipe.ExtentImage] too
// answers which blocks are allocated by its extents; of another all are.
type Disk interface {
	pipe.Image
	// WriteAt stores all of p, or returns an error: fs.ErrPermission where the disk is only read.
	WriteAt(ctx context.Context, p []byte, off int64) (int, error)
}

// ReadOnly makes a disk of an image.
func ReadOnly(img pipe.Image) Disk { return readOnly{img} }

type readOnly struct{ pipe.Image }

func (r readOnly) Unwrap() pipe.Image { return r.Image }

func (readOnly) WriteAt(context.Context, []byte, int64) (int, error) { return 0, fs.ErrPermission }

// Keys is an optional ability of a Disk: entries of the descriptor's disk data base, their names without "ddb.".
type Keys interface {
	Key(name string) (string, bool)
}
