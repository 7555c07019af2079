package diskfile

import (
	"errors"
	"fmt"
)

var (
	// ErrNoSpace is wrapped by errors of writes that found no room: the file system is full, a quota is used up, or
	// the file would be larger than the file system allows.
	ErrNoSpace = errors.New("no space left for the file")
	// ErrNotDisk is wrapped where a path leads to something that holds no disk: a folder, a FIFO, a socket, a
	// character device, or, for writing, a symbolic link.
	ErrNotDisk = errors.New("not a disk file")
	// ErrNoBase is wrapped by Mark with Unchanged on a target that started empty.
	ErrNoBase = errors.New("the target has no base that could be unchanged")
)

// Error says what failed on which file, and where.
type Error struct {
	Op   string // open, read, write, zero, sync, publish …
	Path string
	Off  int64 // byte offset in the file, -1 where none applies
	Err  error
}

func (e *Error) Error() string {
	if e.Off < 0 {
		return fmt.Sprintf("%s %s: %v", e.Op, e.Path, e.Err)
	}
	return fmt.Sprintf("%s %s at %d: %v", e.Op, e.Path, e.Off, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// ioError wraps err as an *Error, adding the sentinels that callers ask for.
func ioError(op, path string, off int64, err error) error {
	if err == nil {
		return nil
	}
	if isNoSpace(err) {
		err = fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return &Error{Op: op, Path: path, Off: off, Err: err}
}

// ChangedError says that a file was written to after it was opened, so that what was read may be of no one moment.
type ChangedError struct {
	Path string
	Why  string // size, modification time
}

func (e *ChangedError) Error() string {
	return fmt.Sprintf("%s changed while it was read: %s", e.Path, e.Why)
}

// LockedError says that somebody holds a file open for writing.
type LockedError struct {
	Path  string
	Owner string // in words, as far as it is known
}

func (e *LockedError) Error() string {
	return fmt.Sprintf("%s is open for writing by %s", e.Path, e.Owner)
}

// FormatError says that a file is of a format that is recognised and cannot be opened here.
type FormatError struct {
	Path   string
	Format string
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("%s holds a %s image, which is not supported here", e.Path, e.Format)
}
