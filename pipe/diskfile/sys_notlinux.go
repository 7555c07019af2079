//go:build !linux

package diskfile

import "os"

func zeroRange(f *os.File, off, n int64) error { return writeZeros(f, off, n) }

func renameNew(_ *os.File, root *os.Root, temp, name string) error { return linkNew(root, temp, name) }
