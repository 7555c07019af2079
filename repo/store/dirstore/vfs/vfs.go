// Package vfs is the seam between a directory store and the file system: every call that the store makes goes through
// [FS], so that a test can fail any one of them, or cut the power after it.
//
// # The real one
//
// [Open] gives a directory of this machine. It is held by an [os.Root]: no name and no symbolic link leads outside,
// and a directory that is moved or mounted over stays the one that was opened.
//
// # Another one
//
// vfstest has one in memory whose crashes lose what was not synced. Names are slash-separated and relative to the
// directory, which is "."; the store only passes names that are valid as objects, and below ".tmp".
package vfs

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
)

// FS is one directory and what is in it. All methods are safe for concurrent use.
//
// Errors are those of package os: fs.ErrNotExist, fs.ErrExist, and the system's numbers behind errors.Is
// (syscall.ENOSPC …). errors.ErrUnsupported says that this file system cannot do such a thing at all.
type FS interface {
	// Create makes an empty file for writing. It never opens one that is there.
	Create(name string) (File, error)

	// Open opens a regular file for reading. Anything else at the name (a link, a folder, a pipe) is [ErrIrregular];
	// it is not waited for and not followed.
	Open(name string) (File, error)

	// Lstat describes what is at the name itself.
	Lstat(name string) (fs.FileInfo, error)

	// ReadDir yields what is in a folder, without order. What vanishes while the folder is read is left out.
	ReadDir(name string) iter.Seq2[fs.FileInfo, error]

	// Mkdir makes one folder.
	Mkdir(name string) error

	// Publish gives a file a new name in one step that never replaces: where something has the new name, it stays,
	// and the error is fs.ErrExist. On nil the old name is gone, or about to be removed by the caller.
	Publish(oldname, newname string) error

	// Rename gives a file a new name, replacing what is there.
	Rename(oldname, newname string) error

	// Remove removes a file or an empty folder.
	Remove(name string) error

	// SyncDir makes the names in a folder durable.
	SyncDir(name string) error

	// Hold marks a folder as in use by this process until the closer is closed or the process is dead, however it
	// died. It does not wait: a folder that is held gives [ErrHeld].
	Hold(name string) (io.Closer, error)

	// Free is how many bytes this user can still write.
	Free() (int64, error)

	// Place says where the directory is.
	Place() Place

	Close() error
}

// Binder is an optional ability of an FS whose calls can wait long (for a connection to come back): Bind gives the same
// directory, whose waits end with ctx. What outlives a call is not bound: a file that Open gave, and a hold. A file that
// Create gave is.
type Binder interface {
	Bind(ctx context.Context) FS
}

// ContextReader is an optional ability of a File whose ReadAt can wait long.
type ContextReader interface {
	ReadAtContext(ctx context.Context, p []byte, off int64) (int, error)
}

// File is an open file. ReadAt is safe for concurrent use.
type File interface {
	io.Writer
	io.ReaderAt
	io.Closer
	// Sync makes the content durable.
	Sync() error
	Size() (int64, error)
	// Linked reports whether the file still has a name.
	Linked() (bool, error)
}

// Place says what is known of where a directory lies.
type Place struct {
	// Kernel is the running system, different after every start of every machine. Empty: not known.
	Kernel string
	// Local says that the file system is this kernel's own: what another program on this machine does is seen at
	// once, and no machine has it mounted beside us. False where that is not known.
	Local bool
	// Central says that every call asks the one server that has the directory: names are never stale, and a hold is
	// seen by everyone who asks the same server in the same way.
	Central bool
	// Kind is what it is mounted by, where that makes a difference: "nfs", "smb", "fuse", "9p", "ceph". Empty: a disk,
	// or not known.
	Kind string
}

var (
	// ErrIrregular says that what is at a name is no regular file, or no folder, or lies behind a link.
	ErrIrregular = errors.New("not a regular file or folder")
	// ErrHeld says that a living process holds a folder.
	ErrHeld = errors.New("held by another process")
	// ErrLost says that the connection to the file system was lost during a call that is not repeated unseen. A file
	// that was being written is worth nothing any more; a name may or may not have been given.
	ErrLost = errors.New("the connection to the file system was lost")
	// ErrGone says that the directory itself was removed while it was open.
	ErrGone = errors.New("the directory itself is gone")
)
