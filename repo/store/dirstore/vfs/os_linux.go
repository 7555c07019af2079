package vfs

import (
	"os"

	"golang.org/x/sys/unix"
)

func (d *osFS) renameNoReplace(oldname, newname string) error {
	return d.between("renameat2", oldname, newname, func(oldDir int, oldBase string, newDir int, newBase string) error {
		return unix.Renameat2(oldDir, oldBase, newDir, newBase, unix.RENAME_NOREPLACE)
	})
}

// writeEarly starts writing out without waiting. Whether it failed is for fsync to say: started so, without a wait,
// the call takes no error away from it.
func writeEarly(f *os.File, off, n int64) {
	_ = unix.SyncFileRange(int(f.Fd()), off, n, unix.SYNC_FILE_RANGE_WRITE)
}

func (d *osFS) Free() (int64, error) {
	st, err := d.statfs()
	if err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Frsize, nil
}

// local are the file systems that belong to one kernel. Whatever is not here may be shared with others or answer from
// a stale cache (NFS, SMB, 9p, FUSE), and is not trusted to be ours alone.
var local = map[int64]bool{
	unix.EXT4_SUPER_MAGIC:      true, // and ext2, ext3
	unix.XFS_SUPER_MAGIC:       true,
	unix.BTRFS_SUPER_MAGIC:     true,
	unix.F2FS_SUPER_MAGIC:      true,
	unix.TMPFS_MAGIC:           true,
	unix.OVERLAYFS_SUPER_MAGIC: true,
	unix.MSDOS_SUPER_MAGIC:     true,
	unix.EXFAT_SUPER_MAGIC:     true,
	0x2FC12FC1:                 true, // ZFS
	0xCA451A4E:                 true, // bcachefs
	0x7366746E:                 true, // ntfs3
	0x3153464A:                 true, // JFS
}

// mounted are the file systems whose server is elsewhere. The numbers are those of statfs(2).
var mounted = map[int64]string{
	unix.NFS_SUPER_MAGIC:  "nfs",
	unix.SMB_SUPER_MAGIC:  "smb",
	unix.CIFS_SUPER_MAGIC: "smb",
	unix.SMB2_SUPER_MAGIC: "smb",
	unix.FUSE_SUPER_MAGIC: "fuse",
	unix.V9FS_MAGIC:       "9p",
	unix.CEPH_SUPER_MAGIC: "ceph",
}

func placeOf(root *os.Root) (Place, error) {
	d := &osFS{root: root}
	st, err := d.statfs()
	if err != nil {
		return Place{}, err
	}
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // without it nothing is taken for dead
	magic := int64(st.Type) & 0xffffffff
	return Place{Kernel: hex(string(boot)), Local: local[magic], Kind: mounted[magic]}, nil
}
