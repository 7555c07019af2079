package hyperv

import (
	"context"

	"github.com/hikae/hikae/hyperv/vhdx"
	"github.com/hikae/hikae/pipe"
)

// Files are files by the names that a Hyper-V host uses for them: C:\VMs\web1.vhdx, C:\ClusterStorage\Volume1\web1.vhdx,
// \\fs1\vms\web1.vhdx. What is behind a name may be the host's own file, or the same file as it was when a volume was pinned:
// then production names lead into the shadow copy, and never past it. Methods may be called at once.
type Files interface {
	// Open opens a file for reading. None is fs.ErrNotExist.
	Open(ctx context.Context, name string) (pipe.Image, error)
}

// Store is files that can be written too: those of a host, for a restore. Methods may be called at once.
type Store interface {
	Files
	// OpenFile opens a file that exists for writing. Nobody else may open it for writing meanwhile.
	OpenFile(ctx context.Context, name string) (vhdx.File, error)
	// Create makes a file; one that exists is fs.ErrExist.
	Create(ctx context.Context, name string) (vhdx.File, error)
	// Remove removes a file, or a folder that is empty. What is not there is no error.
	Remove(ctx context.Context, name string) error
	// MakeDir makes a folder and those above it; one that exists is no error.
	MakeDir(ctx context.Context, name string) error
	// List are the names in a folder, without the folder's own, at most 100,000.
	List(ctx context.Context, name string) ([]string, error)
	// Free is how many bytes are free where the file or folder is, or would be.
	Free(ctx context.Context, name string) (int64, error)
	Close() error
}
