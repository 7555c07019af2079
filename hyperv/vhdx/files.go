package vhdx

import (
	"context"

	"github.com/hikae/hikae/pipe"
)

// Files is where the files of a chain lie, where that is not a folder of this machine: a Hyper-V host, a share, a shadow copy.
// Its methods may be called at once.
type Files interface {
	// Open opens a file for reading by a Windows path, absolute and clean: C:\VMs\web1.vhdx or \\server\share\web1.vhdx. None is
	// fs.ErrNotExist. Which paths may be reached is for Files to say.
	Open(ctx context.Context, name string) (pipe.Image, error)
}

// File is one file that is written to, wherever it lies.
type File interface {
	pipe.Image
	WriteAt(ctx context.Context, p []byte, off int64) (int, error)
	// Truncate sets the length; what is added reads as zeros.
	Truncate(ctx context.Context, size int64) error
	// Sync returns when all that was written before is durable.
	Sync(ctx context.Context) error
}
