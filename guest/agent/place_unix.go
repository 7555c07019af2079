//go:build unix

package agent

import (
	"errors"
	"io/fs"
)

// private wants a folder that only its owner can enter.
func private(info fs.FileInfo) error {
	if info.Mode().Perm()&0o077 != 0 {
		return errors.New("others than its owner can enter it")
	}
	return nil
}
