//go:build !windows

package requester

import (
	"errors"
	"fmt"
)

// System is the service of this machine. Only Windows has one.
func System() (VSS, error) {
	return nil, fmt.Errorf("a shadow copy service is on Windows alone: %w", errors.ErrUnsupported)
}
