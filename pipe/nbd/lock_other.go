//go:build !unix || aix || solaris

package nbd

import (
	"errors"
	"os"
)

// ErrInUse is wrapped where a scratch file belongs to another program, or to another overlay of this one.
var ErrInUse = errors.New("the scratch file is in use")

// lockFile does nothing: there is no flock here.
func lockFile(*os.File) error { return nil }
