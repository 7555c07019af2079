package libvirt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Procedures that begin and end a connection.
const (
	procOpen       = 1
	procLibVersion = 157
	procAuthList   = 66
	procAuthPolkit = 70
)

// Ways in which a daemon asks who is there.
const (
	authNone   = 0
	authPolkit = 2
)

// open lets the daemon know us, and chooses its driver.
func (c *Conn) open(ctx context.Context, uri string) error {
	if err := c.authenticate(ctx); err != nil {
		return err
	}
	return c.do(ctx, call{name: "open " + uri, program: programRemote, procedure: procOpen, build: func(e *encoder) {
		e.optional(true)
		e.text(uri)
		e.uint(0)
	}})
}

// authenticate does what needs no secret: nothing at all, or polkit's question about the user at the other end of the
// socket, which it answers for itself.
func (c *Conn) authenticate(ctx context.Context) error {
	var ways []int
	err := c.do(ctx, call{name: "authentication", program: programRemote, procedure: procAuthList, take: func(d *decoder) {
		for range d.count(20) {
			ways = append(ways, d.int())
		}
	}})
	if err != nil {
		return err
	}
	polkit := false
	for _, w := range ways {
		if w == authNone {
			return nil
		}
		polkit = polkit || w == authPolkit
	}
	switch {
	case len(ways) == 0:
		return nil
	case !polkit:
		return fmt.Errorf("%w: it asks for a password (SASL); run this as root, or as the user of the session", ErrAuth)
	}
	err = c.do(ctx, call{name: "polkit", program: programRemote, procedure: procAuthPolkit, take: func(d *decoder) { d.int() }})
	if err != nil {
		return fmt.Errorf("%w: run this as root, or let polkit allow org.libvirt.unix.manage to this user: %w", ErrAuth, err)
	}
	return nil
}

// Version is that of the daemon's library, as 1,000,000 × major + 1,000 × minor + release.
func (c *Conn) Version(ctx context.Context) (n uint64, err error) {
	err = c.do(ctx, call{name: "version", program: programRemote, procedure: procLibVersion, take: func(d *decoder) {
		n = uint64(d.uint())<<32 | uint64(d.uint())
	}})
	return n, err
}

// Socket is where the daemon for a driver listens: qemu:///system or qemu:///session. The daemon for all drivers comes
// first, then the one for QEMU alone. Where neither is found it is an fs.ErrNotExist.
func Socket(uri string) (string, error) {
	dir := "/run/libvirt"
	switch uri {
	case "qemu:///system":
	case "qemu:///session":
		var err error
		if dir, err = sessionDir(); err != nil {
			return "", err
		}
	default:
		return "", fmt.Errorf("%s: %w: only qemu:///system and qemu:///session have a place of their own", uri, fs.ErrInvalid)
	}
	var errs []error
	for _, name := range []string{"libvirt-sock", "virtqemud-sock"} {
		path := filepath.Join(dir, name)
		_, err := os.Stat(path)
		if err == nil {
			return path, nil
		}
		errs = append(errs, err)
	}
	return "", &DaemonError{Socket: dir, Err: errors.Join(errs...)}
}

func sessionDir() (string, error) {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "libvirt"), nil
	}
	cache, err := os.UserCacheDir() // where libvirt itself looks then
	return filepath.Join(cache, "libvirt"), err
}
