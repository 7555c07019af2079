package nbd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Listen listens at "unix:PATH" or "HOST:PORT".
//
// The file of a socket can be opened by its owner alone from the moment it is there. One that is left over, where nobody
// listens any more, is replaced; anything else at PATH is an error that wraps fs.ErrExist. It goes with the listener.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	path, isUnix := strings.CutPrefix(address, "unix:")
	if !isUnix {
		var c net.ListenConfig
		return c.Listen(ctx, "tcp", address)
	}
	l, err := listenUnix(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("listen at unix:%s: %w", path, err)
	}
	return l, nil
}

// maxSocketPath is the shortest limit of the systems that we know, 104 bytes with the NUL behind it.
const maxSocketPath = 103

// listenUnix makes the socket in a folder that only its owner can enter, and moves it to its place when its rights are
// set: there is no moment in which others can connect, and the process's umask, which all threads share, stays.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	if path == "" || len(path) > maxSocketPath {
		return nil, fmt.Errorf("the path must have 1 to %d bytes: %w", maxSocketPath, fs.ErrInvalid)
	}
	if err := clearSocket(ctx, path); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), ".nbd")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	var c net.ListenConfig
	l, err := c.Listen(ctx, "unix", filepath.Join(dir, "s"))
	if err != nil {
		return nil, err
	}
	inner := l.(*net.UnixListener)
	inner.SetUnlinkOnClose(false)
	if err = os.Chmod(filepath.Join(dir, "s"), 0o600); err == nil {
		err = os.Rename(filepath.Join(dir, "s"), path)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	fi, err := os.Lstat(path)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &unixListener{UnixListener: inner, path: path, info: fi}, nil
}

// clearSocket removes a socket that nobody listens on.
func clearSocket(ctx context.Context, path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if fi.Mode()&fs.ModeSocket == 0 {
		return fs.ErrExist
	}
	d := net.Dialer{Timeout: 2 * time.Second}
	conn, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		conn.Close()
		return fmt.Errorf("somebody listens there: %w", fs.ErrExist)
	}
	if isRefused(err) {
		return os.Remove(path)
	}
	return fmt.Errorf("%w: %w", fs.ErrExist, err)
}

// unixListener is a listener whose file was moved.
type unixListener struct {
	*net.UnixListener
	path string
	info fs.FileInfo
	once sync.Once
}

func (l *unixListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close removes the file, unless another one is in its place by now.
func (l *unixListener) Close() error {
	l.once.Do(func() {
		if fi, err := os.Lstat(l.path); err == nil && os.SameFile(fi, l.info) {
			os.Remove(l.path)
		}
	})
	return l.UnixListener.Close()
}
