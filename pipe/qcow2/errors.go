package qcow2

import (
	"errors"
	"fmt"
)

// ErrCorrupt is what every CorruptError is, for errors.Is.
var ErrCorrupt = errors.New("corrupt qcow2 image")

// CorruptError says that an image does not hold together: it is truncated, damaged, or was made to deceive.
type CorruptError struct {
	Path   string
	Offset int64 // of the header field or table entry in the file; for a guest's data the cluster's place in the file
	Reason string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s: corrupt at %d: %s", e.Path, e.Offset, e.Reason)
}

// Is makes every CorruptError an ErrCorrupt.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

// UnsupportedError says that an image uses a feature that is not known here.
type UnsupportedError struct {
	Path    string
	Feature string // its name in words; where the image has its own word for it, that
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("%s: %s is not supported", e.Path, e.Feature)
}

// ReferenceError says that an image names another file (a backing or data file) which is not opened.
type ReferenceError struct {
	Path      string // the image
	Reference string // as it stands in the image
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
