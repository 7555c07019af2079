package trust

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// How long a writer waits for another one.
const lockTime = 10 * time.Second

// locked runs f while no other writer of the folder does, in this process or another. The lock dies with its process.
func locked(dir string, f func() error) error {
	end := time.Now().Add(lockTime)
	return lockFolder(dir, f, func() error {
		if time.Now().After(end) {
			return fmt.Errorf("%s: %w for %v", dir, ErrLocked, lockTime)
		}
		return nil
	})
}

// LockFolder runs f while no other LockFolder of that folder does, in this process or another; keys and books lock their
// own folders by themselves, so f must not be about those in dir itself. It waits until ctx ends, and then fails with
// [ErrLocked]. The lock dies with its process.
func LockFolder(ctx context.Context, dir string, f func() error) error {
	began := time.Now()
	return lockFolder(dir, f, func() error {
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w for %v: %w", dir, ErrLocked, time.Since(began).Round(time.Second), context.Cause(ctx))
		}
		return nil
	})
}

func lockFolder(dir string, f, over func() error) error {
	lock, err := openLock(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	for ; ; time.Sleep(5 * time.Millisecond) {
		free, err := tryLock(lock)
		if err != nil {
			return fmt.Errorf("lock %s: %w", lock.Name(), err)
		}
		if free {
			return f()
		}
		if err := over(); err != nil {
			return err
		}
	}
}

// MakeFolder makes a folder and those above it, for this user alone, or sees that nobody else may write to the one that
// is there. When it returns, the names of all that it made are durable.
func MakeFolder(dir string) error {
	made := missing(dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, folder := range made {
		// A folder above may be one that we may write to and not list: then there is no handle to sync it by.
		if err := syncFolder(filepath.Dir(folder)); err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	fi, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if openTo(fi, 0o002) != 0 {
		return fmt.Errorf("everybody may write to the folder %s (mode %04o): chmod 700 it: %w", dir, fi.Mode().Perm(), fs.ErrPermission)
	}
	return nil
}

// missing are the folders of a path that are not there, the deepest first.
func missing(dir string) (list []string) {
	for dir = filepath.Clean(dir); ; dir = filepath.Dir(dir) {
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
			return list
		}
		list = append(list, dir)
	}
}

// SyncFolder makes the names in a folder durable, where the system has a call for that.
func SyncFolder(dir string) error { return syncFolder(dir) }

// WriteFile puts a file of this user's alone in the place of another at once, durably. It is for who holds the folder's
// lock (see [LockFolder]), or knows that nobody else writes that file.
func WriteFile(dir, name string, data []byte) error { return writeFile(dir, name, data) }

// openLock opens the lock's file, which nobody ever removes.
func openLock(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockFile)
	for {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
		f, err = create(dir, path)
		if !errors.Is(err, fs.ErrExist) {
			return f, err
		}
	}
}

// create makes a file that was not there. It belongs to whom the folder belongs: a tool that root runs beside a service
// must not leave files there that the service cannot read.
func create(dir, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := giveTo(f, dir); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	return f, nil
}

// readFile reads a regular file of at most max bytes, and says how it is.
func readFile(path string, max int64) ([]byte, fs.FileInfo, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, nil, err
	}
	if !fi.Mode().IsRegular() { // a pipe would be waited for
		return nil, nil, fmt.Errorf("%s is no regular file: %w", path, fs.ErrInvalid)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	if fi, err = f.Stat(); err != nil {
		return nil, nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, max+1))
	if err == nil && int64(len(data)) > max {
		err = fmt.Errorf("%s has more than %d bytes: %w", path, max, fs.ErrInvalid)
	}
	return data, fi, err
}

// writeFile puts a file in the place of another at once: write beside, sync, look at it, rename, sync the folder. Callers
// hold the lock, so that what lies beside is nobody's but a dead process's.
func writeFile(dir, name string, data []byte) error {
	temp := filepath.Join(dir, name+".new")
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := create(dir, temp)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = holds(temp, data)
	}
	if err == nil {
		err = replace(temp, filepath.Join(dir, name))
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return syncFolder(dir)
}

// holds sees that a file arrived whole, before it takes the place of a good one.
func holds(path string, data []byte) error {
	got, _, err := readFile(path, int64(len(data)))
	if err == nil && !bytes.Equal(got, data) {
		err = fmt.Errorf("%s: of %d bytes that were written, %d are there or others", path, len(data), len(got))
	}
	return err
}
