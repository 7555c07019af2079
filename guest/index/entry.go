package index

import (
	"errors"
	"fmt"

	"github.com/hikae/hikae/guest/index/list"
)

// Entry is one name of a volume.
type Entry = list.Entry

// Volume is one file system of a machine.
type Volume = list.Volume

// BlobName is where a restore point has the index of its machine's files.
const BlobName = "guest/index"

// CorruptError says that an index, or a part of it, is not what was written. It wraps [ErrCorrupt].
type CorruptError struct {
	What string // "block 3", "the directory"
	Off  int64  // its byte in the index
	Why  string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("file index: %s at byte %d: %s", e.What, e.Off, e.Why)
}

// Unwrap is [ErrCorrupt].
func (e *CorruptError) Unwrap() error { return ErrCorrupt }

// Errors that callers can act on.
var (
	ErrCorrupt = errors.New("the file index is damaged")
	ErrVersion = errors.New("a file index of a later version")
	ErrFull    = errors.New("the file index is full")
)
