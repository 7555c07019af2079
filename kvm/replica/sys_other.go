//go:build !unix || aix || solaris

package replica

import (
	"errors"
	"fmt"
	"os"
)

var (
	errQuota   = errors.New("no quotas here")
	errTooMany = errors.New("no bound here")
)

// flock: locks that die with a process are needed.
func flock(*os.File, bool) (bool, error) {
	return false, fmt.Errorf("keep a replica on this system: %w", errors.ErrUnsupported)
}

func unflock(*os.File) {}

func syncDir(string) error { return nil }
