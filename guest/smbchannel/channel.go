package smbchannel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/smbchannel/scm"
)

// piece is how much of a file one request carries at most.
const piece = 1 << 20

// maxDownload is the most that a file may have.
const maxDownload = 256 << 20

// channel is an open way. It implements [guest.Channel], [guest.Launcher] and [guest.Cleaner]. Of the guest's files it
// touches those alone that lie in a folder hikae-… below ADMIN$.
type channel struct {
	way      *Way
	link     *link
	services *scm.Manager
	system   guest.System
	root     string // the folder behind ADMIN$

	closing sync.Once
}

var (
	_ guest.Launcher = (*channel)(nil)
	_ guest.Cleaner  = (*channel)(nil)
)

// Kind implements [guest.Channel].
func (c *channel) Kind() guest.Kind { return guest.SMB }

// System implements [guest.Channel].
func (c *channel) System() guest.System { return c.system }

// Close implements [guest.Channel]. Streams that are open on it end; their services are left to Clean, on a new channel.
func (c *channel) Close() error {
	c.closing.Do(func() {
		if c.services != nil {
			_ = c.services.Close()
		}
		c.link.close()
	})
	return nil
}

// place is where in ADMIN$ a path is that we may touch.
func (c *channel) place(path string) (string, error) {
	rel, err := inShare(c.root, path)
	if err == nil && !ours(rel) {
		err = &PathError{Path: path, Why: "not in a folder hikae-… below " + c.root}
	}
	return rel, err
}

// Upload implements [hikae.GuestChannel]. A file that is there is fs.ErrExist: nothing is overwritten. After an error
// there is no file, unless the error is guest.ErrLeftover. The mode says only whether it may be written to later.
func (c *channel) Upload(ctx context.Context, path string, data []byte, mode uint32) error {
	rel, err := c.place(path)
	if err != nil {
		return err
	}
	var f file
	if f.File, err = c.open(ctx, rel, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fs.FileMode(mode)|0o200); err != nil {
		return fmt.Errorf("upload %s: %w", path, err)
	}
	f.link = c.link
	err = f.fill(ctx, data)
	if err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanLimit)
		defer cancel()
		return errors.Join(fmt.Errorf("upload %s: %w", path, err), c.undo(undo, path))
	}
	return nil
}

// fill writes all of a file and makes it durable.
func (f file) fill(ctx context.Context, data []byte) (err error) {
	for at := 0; at < len(data) && err == nil; at += piece {
		part := data[at:min(len(data), at+piece)]
		err = f.link.run(ctx, func() error {
			n, err := f.WriteAt(part, int64(at))
			if err == nil && n != len(part) {
				err = io.ErrShortWrite
			}
			return err
		})
	}
	if err == nil {
		err = f.link.run(ctx, f.Sync)
	}
	if closed := f.link.run(context.WithoutCancel(ctx), f.Close); err == nil {
		err = closed
	}
	return translate(err)
}

// undo removes what a failed step made, and says what is left.
func (c *channel) undo(ctx context.Context, path string) error {
	if err := c.Remove(ctx, path); err != nil {
		return fmt.Errorf("%w: %s: %w", guest.ErrLeftover, path, err)
	}
	return nil
}

// Download implements [hikae.GuestChannel]. A longer file is an error.
func (c *channel) Download(ctx context.Context, path string, max int64) ([]byte, error) {
	rel, err := c.place(path)
	if err != nil {
		return nil, err
	}
	f := file{link: c.link}
	if f.File, err = c.open(ctx, rel, os.O_RDONLY, 0); err != nil {
		return nil, fmt.Errorf("download %s: %w", path, err)
	}
	defer func() { _ = c.link.run(context.WithoutCancel(ctx), f.Close) }()
	data, err := f.all(ctx, max)
	if err != nil {
		return nil, fmt.Errorf("download %s: %w", path, err)
	}
	return data, nil
}

// clamp holds what a caller takes of a file to what we take.
func clamp(n int64) int64 { return min(max(n, 0), maxDownload) }

// all reads a file to its end. Memory grows with what arrives.
func (f file) all(ctx context.Context, max int64) (data []byte, err error) {
	max = clamp(max)
	part := make([]byte, min(piece, max+1))
	for {
		n := 0
		err := f.link.run(ctx, func() (err error) {
			n, err = f.ReadAt(part, int64(len(data)))
			return err
		})
		data = append(data, part[:n]...)
		switch {
		case int64(len(data)) > max:
			return nil, fmt.Errorf("longer than %d bytes", max)
		case errors.Is(err, io.EOF) || err == nil && n < len(part):
			return data, nil
		case err != nil:
			return nil, translate(err)
		}
	}
}

// hasService looks for a service by its name.
func (c *channel) hasService(ctx context.Context, name string) (bool, error) {
	_, err := c.services.Status(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
