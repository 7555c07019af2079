package freespace

import "golang.org/x/sys/windows"

// Of is the size of the volume that holds path, and what of it this process may still use. Bytes.
func Of(path string) (size, free uint64, err error) {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return 0, 0, err
	}
	err = windows.GetDiskFreeSpaceEx(name, &free, &size, nil)
	return size, free, err
}
