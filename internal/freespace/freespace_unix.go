//go:build unix

package freespace

import "golang.org/x/sys/unix"

// Of is the size of the file system that holds path, and what of it this process may still use. Bytes.
func Of(path string) (size, free uint64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, 0, err
	}
	block := uint64(st.Bsize)
	return uint64(st.Blocks) * block, uint64(st.Bavail) * block, nil
}
