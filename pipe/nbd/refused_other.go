//go:build !windows

package nbd

import (
	"errors"
	"syscall"
)

// isRefused: the file is a socket, and nobody listens.
func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
