//go:build unix

package logs

import (
	"errors"
	"os"
	"syscall"
)

// adopt gives a file that was just made to whoever has its folder: a server reads it as its own account. Where we may
// not give files away they are ours, and so is the folder.
func adopt(root *os.Root, f *os.File) error {
	info, err := root.Stat(".")
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 {
		return nil
	}
	return f.Chown(int(st.Uid), int(st.Gid))
}

// syncDir makes the names in a folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
