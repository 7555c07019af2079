package vfs

import (
	"os"

	"golang.org/x/sys/unix"
)

func (d *osFS) renameNoReplace(oldname, newname string) error {
	return d.between("renameatx_np", oldname, newname, func(oldDir int, oldBase string, newDir int, newBase string) error {
		return unix.RenameatxNp(oldDir, oldBase, newDir, newBase, unix.RENAME_EXCL)
	})
}

func (d *osFS) Free() (int64, error) {
	st, err := d.statfs()
	if err != nil {
		return 0, err
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

func placeOf(root *os.Root) (Place, error) {
	d := &osFS{root: root}
	st, err := d.statfs()
	if err != nil {
		return Place{}, err
	}
	session, _ := unix.Sysctl("kern.bootsessionuuid") // without it nothing is taken for dead
	kinds := map[string]string{"nfs": "nfs", "smbfs": "smb", "macfuse": "fuse", "osxfuse": "fuse"}
	kind := kinds[unix.ByteSliceToString(st.Fstypename[:])]
	return Place{Kernel: hex(session), Local: st.Flags&unix.MNT_LOCAL != 0, Kind: kind}, nil
}
