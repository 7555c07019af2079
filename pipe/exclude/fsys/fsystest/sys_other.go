//go:build !linux

package fsystest

import (
	"io/fs"
	"os"
	"syscall"
)

func fallocate(*os.File, bool, int64, int64) error { return syscall.ENOSYS }
func punch(*os.File, int64, int64) error           { return syscall.ENOSYS }
func mkfifo(string) error                          { return syscall.ENOSYS }
func ownership(*Item, fs.FileInfo)                 {}

func nextData(_ *os.File, off int64) int64 { return off }
