package sshchannel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/hikae/hikae/guest"
	"github.com/pkg/sftp"
)

// words is what is shown of what a guest printed.
func words(said []byte) string {
	return guest.Printable(string(bytes.Join(bytes.Fields(said), []byte(" "))), 300)
}

// errNoSFTP says that a server has no such subsystem.
var errNoSFTP = errors.New("the server has no SFTP")

// Upload implements [hikae.GuestChannel]. The file must not be there yet: fs.ErrExist. Mode zero is 0600. After an error it
// is not there, unless the link is lost. A full disk is syscall.ENOSPC.
func (l *link) Upload(ctx context.Context, name string, data []byte, mode uint32) error {
	if mode == 0 {
		mode = 0o600
	}
	err := l.withSFTP(ctx, func(c *sftp.Client) error { return put(c, l.remote(name), data, mode) })
	if errors.Is(err, errNoSFTP) && !l.windows {
		err = l.cat(ctx, name, data, mode)
	}
	if err != nil {
		return &fs.PathError{Op: "upload", Path: name, Err: err}
	}
	return nil
}

// Download implements [hikae.GuestChannel].
func (l *link) Download(ctx context.Context, name string, max int64) (data []byte, err error) {
	if max < 0 || max == math.MaxInt64 {
		return nil, &fs.PathError{Op: "download", Path: name, Err: fs.ErrInvalid}
	}
	err = l.withSFTP(ctx, func(c *sftp.Client) error {
		data, err = get(c, l.remote(name), max)
		return err
	})
	if errors.Is(err, errNoSFTP) && !l.windows && max <= maxStream {
		data, err = l.catBack(ctx, name, max)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "download", Path: name, Err: err}
	}
	return data, nil
}

// remote is a path as SFTP writes it: that of Windows is /C:/….
func (l *link) remote(name string) string {
	if l.windows {
		return "/" + strings.ReplaceAll(name, `\`, "/")
	}
	return name
}

// withSFTP lends a client for one file. It is not kept: a server may allow one session in all.
func (l *link) withSFTP(ctx context.Context, f func(*sftp.Client) error) error {
	l.mu.Lock()
	without := l.without
	l.mu.Unlock()
	if without {
		return errNoSFTP
	}
	s, release, err := l.session(ctx)
	if err != nil {
		return err
	}
	defer release()
	defer s.Close()
	return l.within(ctx, func() error {
		w, err := s.StdinPipe()
		if err != nil {
			return err
		}
		r, err := s.StdoutPipe()
		if err != nil {
			return err
		}
		if err := s.RequestSubsystem("sftp"); err != nil {
			return l.missing(err)
		}
		c, err := sftp.NewClientPipe(r, w, sftp.UseConcurrentWrites(true))
		if err != nil {
			return l.missing(err)
		}
		defer c.Close()
		return f(c)
	}, func() { s.Close() })
}

// missing remembers that there is no SFTP, if it was not the link that failed.
func (l *link) missing(err error) error {
	if l.ended.Err() != nil {
		return err
	}
	l.mu.Lock()
	l.without = true
	l.mu.Unlock()
	return fmt.Errorf("%w: %v", errNoSFTP, err)
}

func put(c *sftp.Client, name string, data []byte, mode uint32) (err error) {
	f, err := c.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		if _, there := c.Lstat(name); there == nil { // the protocol has no word for it
			return fs.ErrExist
		}
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			c.Remove(name)
		}
	}()
	if err = f.Chmod(os.FileMode(mode)); err != nil {
		return err
	}
	if _, err = f.ReadFrom(bytes.NewReader(data)); err == nil {
		err = f.Close()
	}
	if err != nil {
		return whyFull(c, name, len(data), err)
	}
	return nil
}

// whyFull asks for the free space: "failure" is all that the protocol says of a full disk.
func whyFull(c *sftp.Client, name string, size int, err error) error {
	room, failed := c.StatVFS(path.Dir(name))
	if failed == nil && room.FreeSpace() < uint64(size) {
		return fmt.Errorf("%w: %v", syscall.ENOSPC, err)
	}
	return err
}

func get(c *sftp.Client, name string, max int64) ([]byte, error) {
	f, err := c.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, max+1))
	if err == nil && int64(len(data)) > max {
		err = fmt.Errorf("longer than %d bytes", max)
	}
	return data, err
}

const catScript = `umask 077; set -C
if [ -e "$1" ] || [ -L "$1" ]; then exit 17; fi
cat >"$1" && chmod "$2" "$1" && exit 0
rm -f -- "$1"; exit 1`

// cat is how a file comes in without SFTP.
func (l *link) cat(ctx context.Context, name string, data []byte, mode uint32) error {
	r, err := l.Run(ctx, "/bin/sh", []string{"-c", catScript, "sh", name, fmt.Sprintf("%o", mode)}, data)
	switch {
	case err != nil:
		return err
	case r.ExitCode == 0:
		return nil
	case r.ExitCode == 17:
		return fs.ErrExist
	case bytes.Contains(r.Stderr, []byte("No space left")):
		return syscall.ENOSPC
	}
	return fmt.Errorf("exit code %d: %s", r.ExitCode, words(r.Stderr))
}

func (l *link) catBack(ctx context.Context, name string, max int64) ([]byte, error) {
	r, err := l.Run(ctx, "/bin/cat", []string{"--", name}, nil)
	switch {
	case err != nil:
		return nil, err
	case r.ExitCode != 0:
		return nil, fmt.Errorf("exit code %d: %s", r.ExitCode, words(r.Stderr))
	case r.Truncated || int64(len(r.Stdout)) > max:
		return nil, fmt.Errorf("longer than %d bytes", max)
	}
	return r.Stdout, nil
}
