package vhdx

import (
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrCorrupt is what every CorruptError is, for errors.Is.
	ErrCorrupt = errors.New("corrupt virtual disk")
	// ErrParentMissing is wrapped by a ParentError where no file is at any place that the child names.
	ErrParentMissing = errors.New("the parent is not there")
	// ErrParentMismatch is wrapped by a ParentError where a file is there and is not the one, or no longer as it was
	// when the child was made.
	ErrParentMismatch = errors.New("the parent is not the one that the disk was made on")
	// ErrChain is wrapped by a ParentError where a chain leads back into itself or is deeper than is allowed.
	ErrChain = errors.New("the chain of parents does not end")
)

// CorruptError says that a file does not hold together: it is truncated, damaged, or was made to deceive.
type CorruptError struct {
	Path   string
	Offset int64 // in the file, of the field or table entry that is wrong
	Reason string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s: corrupt at %d: %s", e.Path, e.Offset, e.Reason)
}

// Is makes every CorruptError an ErrCorrupt.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

// UnsupportedError says that a file needs something that is not known here.
type UnsupportedError struct {
	Path    string
	Feature string
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("%s: %s is not supported", e.Path, e.Feature)
}

// ParentError says that a differencing disk cannot be read because of its parent.
type ParentError struct {
	Path  string   // the child
	Names []string // the parent's names as they stand in the child
	Err   error    // wraps ErrParentMissing, ErrParentMismatch or ErrChain, or is what opening the parent said
}

func (e *ParentError) Error() string {
	return fmt.Sprintf("%s: parent %s: %v", e.Path, strings.Join(e.Names, " or "), e.Err)
}

func (e *ParentError) Unwrap() error { return e.Err }
