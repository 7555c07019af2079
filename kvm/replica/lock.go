package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hikae/hikae"
)

const (
	lockName    = "lock"    // held alone by who changes something about a VM
	readersName = "readers" // held by each open image beside others, and alone by who moves files
	maxOwner    = 200
	// readersWithin is how long a reader waits for files that are being moved.
	readersWithin = 10 * time.Minute
)

// held is a lock that dies with the process.
type held struct{ f *os.File }

func (h *held) release() error {
	if h == nil || h.f == nil {
		return nil
	}
	unflock(h.f)
	err := h.f.Close()
	h.f = nil
	return err
}

// takeLock takes the lock of a VM's folder for somebody who is going to do what. A folder that is removed meanwhile is
// fs.ErrNotExist.
func takeLock(dir, vm, what string) (*held, error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	taken, err := flock(f, true)
	if err == nil && !taken {
		err = &hikae.BusyError{What: "the replica of " + vm, Owner: ownerIn(f)}
	}
	if err == nil {
		err = stillThere(f, path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	// The name is for people: the lock holds without it, so a disk that is full does not matter here.
	if f.Truncate(0) == nil {
		_, _ = f.WriteAt(fmt.Appendf(nil, "process %d, which began to %s at %s", os.Getpid(), what, time.Now().UTC().Format(time.RFC3339)), 0)
	}
	return &held{f}, nil
}

// stillThere holds that a file is the one at its path: a lock on one that was removed keeps nobody away.
func stillThere(f *os.File, path string) error {
	mine, err := f.Stat()
	if err != nil {
		return err
	}
	there, err := os.Lstat(path)
	if err == nil && !os.SameFile(mine, there) {
		err = &fs.PathError{Op: "lock", Path: path, Err: fs.ErrNotExist}
	}
	return err
}

// ownerIn is who wrote a lock's file.
func ownerIn(f *os.File) string {
	text, err := io.ReadAll(io.NewSectionReader(f, 0, maxOwner))
	words := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, string(text))
	if err != nil || words == "" {
		return "another process"
	}
	return words
}

// takeReader keeps the files of a VM's points where they are.
func takeReader(ctx context.Context, dir, vm string) (*held, error) {
	ctx, cancel := context.WithTimeout(ctx, readersWithin)
	defer cancel()
	f, err := os.OpenFile(filepath.Join(dir, readersName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		taken, err := flock(f, false)
		if taken {
			return &held{f}, nil
		}
		if err == nil {
			select {
			case <-time.After(20 * time.Millisecond):
				continue
			case <-ctx.Done():
				err = errors.Join(&hikae.BusyError{What: "the replica of " + vm, Owner: "a merge of its points"}, ctx.Err())
			}
		}
		return nil, errors.Join(err, f.Close())
	}
}

// takeFiles makes sure that nobody reads a VM's points while their files are moved.
func takeFiles(dir, vm string) (*held, error) {
	f, err := os.OpenFile(filepath.Join(dir, readersName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	taken, err := flock(f, true)
	if err == nil && !taken {
		err = &hikae.BusyError{What: "the replica of " + vm, Owner: "a reader of its points"}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &held{f}, nil
}
