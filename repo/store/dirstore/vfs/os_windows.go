package vfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/windows"
)

// links does not count on Windows, where a file that is open does not lose its name unnoticed.
func links(fs.FileInfo) uint64 { return 1 }

func (d *osFS) full(name string) string {
	return filepath.Join(d.root.Name(), filepath.FromSlash(name))
}

// renameNoReplace moves by path, since Windows has no such call that starts at an open folder. The names are the
// store's own; the folder of the new one has just been looked at.
func (d *osFS) renameNoReplace(oldname, newname string) error {
	from, err := windows.UTF16PtrFromString(d.full(oldname))
	if err != nil {
		return err
	}
	to, err := windows.UTF16PtrFromString(d.full(newname))
	if err != nil {
		return err
	}
	if err := windows.MoveFileEx(from, to, windows.MOVEFILE_WRITE_THROUGH); err != nil {
		return &os.LinkError{Op: "move", Old: oldname, New: newname, Err: err}
	}
	return nil
}

// syncDir flushes a folder's handle. Where Windows refuses that, names are not promised to be durable.
func (d *osFS) syncDir(name string) error {
	if _, err := d.Lstat(name); err != nil {
		return err
	}
	p, err := windows.UTF16PtrFromString(d.full(name))
	if err != nil {
		return err
	}
	const share = windows.FILE_SHARE_READ | windows.FILE_SHARE_WRITE | windows.FILE_SHARE_DELETE
	h, err := windows.CreateFile(p, windows.GENERIC_WRITE, share, nil, windows.OPEN_EXISTING, windows.FILE_FLAG_BACKUP_SEMANTICS, 0)
	if err != nil {
		return refused("open", name, err)
	}
	err = windows.FlushFileBuffers(h)
	return errors.Join(refused("sync", name, err), windows.CloseHandle(h))
}

func refused(op, name string, err error) error {
	switch err {
	case nil:
		return nil
	case windows.ERROR_ACCESS_DENIED, windows.ERROR_INVALID_FUNCTION, windows.ERROR_INVALID_PARAMETER:
		err = errors.Join(errors.ErrUnsupported, err)
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// Hold cannot lock a folder on Windows, so nothing there is ever taken for dead.
func (d *osFS) Hold(string) (io.Closer, error) { return nil, errors.ErrUnsupported }

func (d *osFS) Free() (int64, error) {
	p, err := windows.UTF16PtrFromString(d.root.Name())
	if err != nil {
		return 0, err
	}
	var free uint64
	if err := windows.GetDiskFreeSpaceEx(p, &free, nil, nil); err != nil {
		return 0, &fs.PathError{Op: "free", Path: d.root.Name(), Err: err}
	}
	return int64(min(free, 1<<62)), nil
}

func placeOf(root *os.Root) (Place, error) {
	abs, err := filepath.Abs(root.Name())
	if err != nil {
		return Place{}, err
	}
	volume, err := windows.UTF16PtrFromString(filepath.VolumeName(abs) + `\`)
	if err != nil {
		return Place{}, err
	}
	switch windows.GetDriveType(volume) {
	case windows.DRIVE_FIXED, windows.DRIVE_REMOVABLE:
		return Place{Local: true}, nil
	case windows.DRIVE_REMOTE: // nearly always SMB; what else it may be is treated alike
		return Place{Kind: "smb"}, nil
	}
	return Place{}, nil
}
