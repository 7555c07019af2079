//go:build !linux

package lockline

import (
	"context"
	"errors"
)

// Ask sends one request to the helper of the repository in dir: errors.ErrUnsupported, for there is none on this system.
func Ask(context.Context, string, Request) (int64, error) { return 0, errors.ErrUnsupported }
