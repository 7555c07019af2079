//go:build !windows

package service

import "os"

// closeFolder lets nobody but the owner in.
func closeFolder(dir string) error { return os.Chmod(dir, 0o700) }
