package vmware

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"unsafe"
)

// openDirect opens a device to read it past the page cache, where the system has that for it.
func openDirect(path string) (f *os.File, direct bool, err error) {
	f, err = os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECT|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, syscall.EINVAL) {
		f, err = os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
		return f, false, err
	}
	return f, err == nil, err
}

// deviceNumber is the number of a block device as sysfs has it, and whether the file is one.
func deviceNumber(fi os.FileInfo) (string, bool) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || fi.Mode().Type() != fs.ModeDevice {
		return "", false
	}
	dev := uint64(st.Rdev) // 32 bits of major and 32 of minor, each in two parts: makedev(3)
	major := dev>>8&0xfff | dev>>32&^0xfff
	minor := dev&0xff | dev>>12&^0xff
	return fmt.Sprintf("%d:%d", major, uint32(minor)), true
}

// keepFromWriting has the system refuse to write to a device: what it finds there, such as volumes of LVM or file systems with
// a journal, it might set right by itself, and what is read would not be what the snapshot pinned. Where it may not be asked
// the disk is read all the same: its host throws away what is written.
func keepFromWriting(f *os.File) {
	const blkROSet = 0x125d // BLKROSET of linux/fs.h, on all processors that VMware's hosts have
	if fi, err := f.Stat(); err != nil || fi.Mode().Type() != fs.ModeDevice {
		return
	}
	yes := int32(1)
	_, _, _ = syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), blkROSet, uintptr(unsafe.Pointer(&yes)))
}
