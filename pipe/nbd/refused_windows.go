package nbd

import (
	"errors"
	"syscall"
)

// isRefused: the file is a socket, and nobody listens.
func isRefused(err error) bool {
	const connectionRefused = syscall.Errno(10061)
	return errors.Is(err, connectionRefused) || errors.Is(err, syscall.ECONNREFUSED)
}
