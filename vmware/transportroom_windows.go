package vmware

import (
	"io/fs"

	"golang.org/x/sys/windows"
)

// freeRoom is what this user may still write into a folder, in bytes.
func freeRoom(path string) (int64, error) {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return 0, err
	}
	var free uint64
	if err := windows.GetDiskFreeSpaceEx(name, &free, nil, nil); err != nil {
		return 0, &fs.PathError{Op: "free space", Path: path, Err: err}
	}
	return int64(min(free, 1<<62)), nil
}
