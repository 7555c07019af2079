package diskfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

func lockedByWriter(path string) (string, bool, error) {
	if err := checkKind(os.Stat(path)); err != nil {
		return "", false, ioError("open", path, -1, err)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|openFlags, 0)
	if err != nil {
		return "", false, ioError("open", path, -1, err)
	}
	defer f.Close()
	return conflict(f, path, permBase+permWrite, permBase+permWriteUnchanged, permBase+permResize)
}

// conflict reports whether somebody else holds a lock on one of the bytes.
func conflict(f *os.File, path string, bytes ...int64) (owner string, locked bool, err error) {
	for _, at := range bytes {
		lk := unix.Flock_t{Type: unix.F_WRLCK, Start: at, Len: 1}
		if err := ofd(f, unix.F_OFD_GETLK, &lk); err != nil {
			return "", false, ioError("lock", path, at, err)
		}
		if lk.Type != unix.F_UNLCK {
			return ownerOf(f, lk.Pid), true, nil
		}
	}
	return "", false, nil
}

// ofd makes a call on locks of the open file. A system that has none has no conflicts either.
func ofd(f *os.File, cmd int, lk *unix.Flock_t) (err error) {
	ctlErr := control(f, func(fd int) { err = unix.FcntlFlock(uintptr(fd), cmd, lk) })
	if ctlErr != nil {
		return ctlErr
	}
	if knowsNoHoles(err) || err == unix.ENOLCK {
		lk.Type = unix.F_UNLCK
		return nil
	}
	return err
}

// tryLock tries to lock the open file against everybody else who does so. The byte is none of those that QEMU uses, so
// that a file which has just got its name can be opened by QEMU at once.
func tryLock(f *os.File) lockState {
	lk := unix.Flock_t{Type: unix.F_WRLCK, Start: 0, Len: 1}
	var err error
	ctlErr := control(f, func(fd int) { err = unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &lk) })
	switch {
	case ctlErr == nil && err == nil:
		return lockHeld
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EACCES):
		return lockTaken
	}
	return lockUnknown
}

// lockOut takes the locks of a writer that shares with nobody, as QEMU would, for as long as f is open.
func lockOut(f *os.File, path string) error {
	perms := []int64{permRead, permWrite, permResize}
	var mine, bytes []int64
	for _, p := range perms {
		mine = append(mine, permBase+p, sharedBase+p)
	}
	for _, p := range append(perms, permWriteUnchanged) {
		bytes = append(bytes, permBase+p) // what others do with it
	}
	bytes = append(bytes, sharedBase+permRead, sharedBase+permWrite, sharedBase+permResize) // what they forbid us
	return lockBytes(f, path, mine, bytes)
}

// keepWritersOut takes the locks of a reader that shares with readers, for as long as f is open.
func keepWritersOut(f *os.File, path string) error {
	return lockBytes(f, path,
		[]int64{permBase + permRead, sharedBase + permWrite, sharedBase + permResize},
		[]int64{sharedBase + permRead, permBase + permWrite, permBase + permWriteUnchanged, permBase + permResize})
}

// lockBytes locks bytes, and fails where somebody else has a lock on one of the others.
func lockBytes(f *os.File, path string, mine, others []int64) error {
	for _, at := range mine {
		lk := unix.Flock_t{Type: unix.F_RDLCK, Start: at, Len: 1}
		if err := ofd(f, unix.F_OFD_SETLK, &lk); err != nil {
			return ioError("lock", path, at, err)
		}
	}
	owner, locked, err := conflict(f, path, others...)
	if locked {
		return &LockedError{Path: path, Owner: owner}
	}
	return err
}

// unlock gives all locks back. Closing alone would not do it at once: a process that we are starting has the open file
// too, from its fork to its exec.
func unlock(f *os.File) {
	lk := unix.Flock_t{Type: unix.F_UNLCK}
	_ = ofd(f, unix.F_OFD_SETLK, &lk) // closing gives back what is left
}

// ownerOf finds who has the file open for writing. Locks of open files name no process, so the processes that may be
// looked into are searched.
func ownerOf(f *os.File, pid int32) string {
	if pid > 0 {
		return process(fmt.Sprint(pid))
	}
	mine, err := f.Stat()
	if err != nil {
		return unknownOwner
	}
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, link := range links {
		pid := strings.Split(link, "/")[2]
		if pid == fmt.Sprint(os.Getpid()) {
			continue
		}
		if fi, err := os.Stat(link); err == nil && os.SameFile(fi, mine) && writes(link) {
			return process(pid)
		}
	}
	return unknownOwner
}

const unknownOwner = "another process"

// writes reports whether a descriptor, named by its link in /proc, is open for writing: its link has the owner's write
// permission then.
func writes(link string) bool {
	fi, err := os.Lstat(link)
	return err == nil && fi.Mode()&0o200 != 0
}

func process(pid string) string {
	name, err := os.ReadFile("/proc/" + pid + "/comm")
	if err != nil {
		return "process " + pid
	}
	return fmt.Sprintf("%s (process %s)", strings.TrimSpace(string(name)), pid)
}
