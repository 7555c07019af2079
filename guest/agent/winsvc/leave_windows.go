package winsvc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"unsafe"

	"golang.org/x/sys/windows"
)

// private is the access of a component's folder: LocalSystem and administrators, for all below it too, and nothing
// inherited from a Temp folder that everybody may write to.
const private = "O:BAD:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)"

// MakePrivateDir makes a folder that only LocalSystem and administrators can enter. That it exists is fs.ErrExist.
func MakePrivateDir(path string) error {
	p, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return err
	}
	sd, err := windows.SecurityDescriptorFromString(private)
	if err != nil {
		return fmt.Errorf("access to the folder: %w", err)
	}
	sa := &windows.SecurityAttributes{SecurityDescriptor: sd}
	sa.Length = uint32(unsafe.Sizeof(*sa))
	if err := windows.CreateDirectory(p, sa); err != nil {
		return &os.PathError{Op: "mkdir", Path: path, Err: err}
	}
	return nil
}

// LeaveAtRestart has Windows delete paths at its next start: files before the folder that they are in. It is for what
// nobody is left to delete; a pending deletion shows as "restart pending" to installers.
func LeaveAtRestart(paths ...string) error {
	var problems []error
	for _, path := range paths {
		p, err := windows.UTF16PtrFromString(path)
		if err == nil {
			err = windows.MoveFileEx(p, nil, windows.MOVEFILE_DELAY_UNTIL_REBOOT)
		}
		if err != nil {
			problems = append(problems, &os.PathError{Op: "delete at restart", Path: path, Err: err})
		}
	}
	return errors.Join(problems...)
}

// LeaveTreeAtRestart is LeaveAtRestart for a folder and all that is in it. One that is not there is no error.
func LeaveTreeAtRestart(dir string) error {
	var all []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			all = append(all, path)
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	slices.Reverse(all)
	return errors.Join(err, LeaveAtRestart(all...))
}

// Harden lets no library be loaded from anywhere but the system folder, for the rest of the process. It is the first
// thing that a component does: it runs as LocalSystem in a folder below Temp.
func Harden() error {
	const onlySystem32 = 0x800 // LOAD_LIBRARY_SEARCH_SYSTEM32
	set := windows.NewLazySystemDLL("kernel32.dll").NewProc("SetDefaultDllDirectories")
	if err := set.Find(); err != nil {
		return nil // older than the call: Go loads from the system folder anyway
	}
	if r, _, err := set.Call(onlySystem32); r == 0 {
		return fmt.Errorf("libraries from the system folder only: %w", err)
	}
	return nil
}

// Elevated reports whether the process may do what needs an administrator.
func Elevated() bool {
	var token windows.Token
	if err := windows.OpenProcessToken(windows.CurrentProcess(), windows.TOKEN_QUERY, &token); err != nil {
		return false
	}
	defer token.Close()
	return token.IsElevated()
}

// Boot changes with each start of the system: the time of it, as far as the clock was not set since.
func Boot() string {
	return fmt.Sprintf("%d", bootSeconds())
}

func bootSeconds() int64 {
	var now windows.Filetime
	windows.GetSystemTimePreciseAsFileTime(&now)
	seconds := now.Nanoseconds()/1e9 - int64(windows.DurationSinceBoot().Seconds())
	return seconds / 10 * 10 // two looks at two clocks differ a little
}
