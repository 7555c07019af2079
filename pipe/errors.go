package pipe

import (
	"errors"
	"fmt"
)

// RangeError says which range of a disk an operation failed on. Offsets and lengths are bytes.
type RangeError struct {
	Op       string // read, write, put, mark zero, …
	Off, Len int64
	Err      error
}

func (e *RangeError) Error() string {
	return fmt.Sprintf("%s [%d, %d): %v", e.Op, e.Off, e.Off+e.Len, e.Err)
}

func (e *RangeError) Unwrap() error { return e.Err }

// ErrExtents is wrapped where the extents of an image are not what [ExtentImage] promises: a gap, an overlap, an end
// before or after the range that was asked for, an unknown kind.
var ErrExtents = errors.New("extents are not an ascending, gap-free cover")

// ErrBroken is wrapped where an image or a target does what the contract of its interface rules out.
var ErrBroken = errors.New("contract broken")
