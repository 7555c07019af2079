package vmdk

import (
	"errors"
	"fmt"
)

// ErrCorrupt is what every CorruptError is, for errors.Is.
var ErrCorrupt = errors.New("corrupt VMDK")

// CorruptError says that a file does not hold together: it is truncated, damaged, or was made to deceive.
type CorruptError struct {
	Path   string
	Offset int64 // in the file; of the field, the table entry or the grain
	Reason string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s: corrupt at %d: %s", e.Path, e.Offset, e.Reason)
}

// Is makes every CorruptError an ErrCorrupt.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

// UnsupportedError says that a disk uses something that is not known here, or not done.
type UnsupportedError struct {
	Path    string
	Feature string // in words; where the format has its own word for it, that
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("%s: %s is not supported", e.Path, e.Feature)
}

// ReferenceError says that a descriptor names another file (an extent or a parent) which is not opened.
type ReferenceError struct {
	Path      string // of the descriptor
	Reference string // as it stands there
	Reason    string
	Err       error // what opening it said, where it was tried
}

func (e *ReferenceError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: names %q: %s: %v", e.Path, e.Reference, e.Reason, e.Err)
	}
	return fmt.Sprintf("%s: names %q: %s", e.Path, e.Reference, e.Reason)
}

func (e *ReferenceError) Unwrap() error { return e.Err }

// CIDError says that a delta was written over another state of its parent: the parent was written to since, or is
// another disk. What the two give together never was on any disk.
type CIDError struct {
	Path   string // of the delta
	Parent string // its path
	Want   CID    // as the delta remembers it
	Have   CID    // as the parent has it
}

func (e *CIDError) Error() string {
	return fmt.Sprintf("%s: stands on content %v of %s, which now has %v", e.Path, e.Want, e.Parent, e.Have)
}
