//go:build unix

package vmware

import (
	"io/fs"

	"golang.org/x/sys/unix"
)

// freeRoom is what an ordinary user may still write into a folder, in bytes.
func freeRoom(path string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}
