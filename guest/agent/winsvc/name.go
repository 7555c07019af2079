package winsvc

import (
	"errors"
	"fmt"
	"regexp"
)

// ErrNotWindows says that this system has no services or pipes of that kind.
var ErrNotWindows = errors.New("this works on Windows alone")

var nameRule = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)

// checkName holds names of pipes and services to letters that mean nothing to a path or a command line.
func checkName(name string) error {
	if !nameRule.MatchString(name) {
		return fmt.Errorf("name %.80q: up to 64 of a-z, 0-9 and -", name)
	}
	return nil
}

// PipePath is where clients find a pipe.
func PipePath(name string) string { return `\\.\pipe\` + name }
