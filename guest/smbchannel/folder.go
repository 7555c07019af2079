package smbchannel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"time"

	"github.com/cloudsoda/go-smb2"
	"github.com/cloudsoda/sddl"
)

// Bounds of what is removed: our folder has a handful of files.
const (
	maxDepth   = 8
	maxEntries = 10000
	cleanLimit = 15 * time.Second
)

// file is an open file of ADMIN$.
type file struct {
	*smb2.File
	link *link
}

func (c *channel) open(ctx context.Context, rel string, flags int, mode fs.FileMode) (f *smb2.File, err error) {
	err = c.link.run(ctx, func() error {
		f, err = c.link.admin.OpenFile(rel, flags, mode)
		return err
	})
	return f, translate(err)
}

// private is the access to our folder and all below it: SYSTEM and Administrators, nothing inherited.
const private = "D:PAI(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)"

// MakeDir implements [guest.Channel]. The library cannot give access rights along with the making of a folder. It is
// therefore made right in the folder behind ADMIN$, where nobody but administrators can write, and closed while it is
// empty; a folder that does not say then what it was told is removed again.
func (c *channel) MakeDir(ctx context.Context, path string) error {
	rel, err := c.place(path)
	if err != nil {
		return err
	}
	if err := c.link.run(ctx, func() error { return c.link.admin.Mkdir(rel, 0o700) }); err != nil {
		return fmt.Errorf("make %s: %w", path, translate(err))
	}
	if err := c.closeToOthers(ctx, rel); err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanLimit)
		defer cancel()
		return errors.Join(fmt.Errorf("close %s to others: %w", path, err), c.undo(undo, path))
	}
	return nil
}

// closeToOthers sets who may enter a folder, and looks.
func (c *channel) closeToOthers(ctx context.Context, rel string) error {
	want, err := sddl.FromString(private)
	if err != nil {
		return err
	}
	err = c.link.run(ctx, func() error {
		return c.link.admin.SetSecurityInfo(rel, smb2.DACLSecurityInformation, want)
	})
	if err != nil {
		return translate(err)
	}
	var got string
	err = c.link.run(ctx, func() error {
		sd, err := c.link.admin.SecurityInfo(rel, smb2.DACLSecurityInformation)
		if err == nil {
			got = sd.String()
		}
		return err
	})
	if err != nil {
		return translate(err)
	}
	return checkPrivate(got)
}

// ErrNotPrivate says that a folder in the guest lets others in than SYSTEM and Administrators.
var ErrNotPrivate = errors.New("others than SYSTEM and Administrators can enter the folder")

var (
	descriptor = regexp.MustCompile(`^D:([A-Z]*)((?:\([^()]*\))+)$`)
	entry      = regexp.MustCompile(`^A;[A-Z]*;[^;]*;;;(?:SY|BA)$`)
)

// checkPrivate reads access rights in words (SDDL): protected, and nobody but SYSTEM and Administrators.
func checkPrivate(sddl string) error {
	parts := descriptor.FindStringSubmatch(sddl)
	if parts == nil || !strings.Contains(parts[1], "P") {
		return fmt.Errorf("%w: %.200q", ErrNotPrivate, sddl)
	}
	for _, e := range strings.Split(strings.Trim(parts[2], "()"), ")(") {
		if !entry.MatchString(e) {
			return fmt.Errorf("%w: %.200q", ErrNotPrivate, sddl)
		}
	}
	return nil
}

// Remove implements [guest.Channel]. A program that ended a moment ago still holds its file; that is waited for.
func (c *channel) Remove(ctx context.Context, path string) error {
	rel, err := c.place(path)
	if err != nil {
		return err
	}
	ctx, cancel := bounded(ctx, cleanLimit)
	defer cancel()
	entries := 0
	if err := c.removeAll(ctx, rel, 0, &entries); err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}

func (c *channel) removeAll(ctx context.Context, rel string, depth int, entries *int) error {
	if *entries++; depth > maxDepth || *entries > maxEntries {
		return fmt.Errorf("%s: more than a component leaves", rel)
	}
	var fi fs.FileInfo
	err := c.link.run(ctx, func() (err error) {
		fi, err = c.link.admin.Lstat(rel)
		return err
	})
	switch {
	case errors.Is(err, fs.ErrNotExist) || status(err) == statusDeletePending:
		return nil
	case err != nil:
		return translate(err)
	}
	if fi.IsDir() && fi.Mode()&fs.ModeSymlink == 0 {
		if err := c.empty(ctx, rel, depth, entries); err != nil {
			return err
		}
	}
	return c.removeOne(ctx, rel)
}

// empty removes what is in a folder.
func (c *channel) empty(ctx context.Context, rel string, depth int, entries *int) error {
	var list []fs.FileInfo
	err := c.link.run(ctx, func() (err error) {
		list, err = c.link.admin.ReadDir(rel)
		return err
	})
	if err != nil {
		return translate(err)
	}
	for _, fi := range list {
		if strings.ContainsAny(fi.Name(), `\/`) || fi.Name() == "." || fi.Name() == ".." {
			return &PathError{Path: fi.Name(), Why: "a name that means something else"}
		}
		if err := c.removeAll(ctx, rel+`\`+fi.Name(), depth+1, entries); err != nil {
			return err
		}
	}
	return nil
}

// removeOne removes a file, a link or an empty folder, as soon as nobody holds it.
func (c *channel) removeOne(ctx context.Context, rel string) error {
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		err := c.link.run(ctx, func() error { return c.link.admin.Remove(rel) })
		switch {
		case err == nil || errors.Is(err, fs.ErrNotExist) || status(err) == statusDeletePending:
			return nil
		case status(err) != statusSharing && status(err) != statusNotEmpty && !errors.Is(err, fs.ErrPermission):
			return translate(err)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), translate(err))
		}
	}
}

// exists looks for a path, however it can be seen.
func (c *channel) exists(ctx context.Context, path string) (bool, error) {
	rel, err := c.place(path)
	if err != nil {
		return false, err
	}
	err = c.link.run(ctx, func() error { _, err := c.link.admin.Lstat(rel); return err })
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return true, unlessPending(err)
}

// unlessPending takes a deletion that waits for somebody to let go as what it is: still there.
func unlessPending(err error) error {
	if status(err) == statusDeletePending {
		return nil
	}
	return translate(err)
}
