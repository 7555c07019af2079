package main

import (
	"errors"
	"fmt"
	"strings"
)

// What a caller can tell apart. Every fault is one of these.
var (
	errDamaged     = errors.New("damaged")
	errUnsupported = errors.New("not known to this reader")
	errNoKey       = errors.New("no key for it")
	errSecret      = errors.New("the secret does not open it")
	errCostly      = errors.New("it asks for more work than any slot needs")
	errMissing     = errors.New("not there")
)

// fault says what is wrong with which object, and where in it; offset counts bytes of the file, or of the stream where
// the words say so, and is -1 where it is the object as a whole.
type fault struct {
	object string
	offset int64
	kind   error
	detail string
}

func (f *fault) Error() string {
	var b strings.Builder
	b.WriteString(f.object)
	if f.offset >= 0 {
		fmt.Fprintf(&b, " at %d", f.offset)
	}
	fmt.Fprintf(&b, ": %s", f.kind)
	if f.detail != "" {
		b.WriteString(": " + f.detail)
	}
	return b.String()
}

func (f *fault) Unwrap() error { return f.kind }

// damaged is a fault of what was read.
func damaged(object string, offset int64, format string, args ...any) error {
	return &fault{object, offset, errDamaged, fmt.Sprintf(format, args...)}
}

// unsupported is a fault of this reader, which is older than what it reads.
func unsupported(object, format string, args ...any) error {
	return &fault{object, -1, errUnsupported, fmt.Sprintf(format, args...)}
}

// named gives an error that was found in bytes the name of the object that they are from.
func named(object string, err error) error {
	var f *fault
	if errors.As(err, &f) && f.object == "" {
		return &fault{object, f.offset, f.kind, f.detail}
	}
	return err
}
