//go:build !unix || aix || solaris

package kvm

import (
	"errors"
	"fmt"
	"os"
)

// lockStart: QEMU's sockets, and locks that die with a process, are needed.
func lockStart(string, string) (*os.File, error) {
	return nil, fmt.Errorf("start a VM from a restore point on this system: %w", errors.ErrUnsupported)
}

func syncDir(string) error { return nil }
