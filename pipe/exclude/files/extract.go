package files

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// ExtractOptions change how files are taken out. Nil and zero fields are good defaults.
type ExtractOptions struct {
	// Match says which paths of the tree are wanted; what is below a wanted directory comes with it. Nil: everything.
	Match func(name string) bool
	// Overwrite allows replacing files that are there. Directories are always joined.
	Overwrite bool
	// Owners gives files their owner by number, which needs privileges.
	Owners bool
	// Copy is how large files are copied.
	Copy pipe.CopyOptions
	// Done is told each path when it is there.
	Done func(name string, size int64)
}

// Extracted is what Extract did.
type Extracted struct {
	Files, Dirs, Links int64
	Bytes              int64 // content of files
	Skipped            []Skipped
	More               int64 // what was skipped beyond those listed
}

// Skipped is a wanted path that is not there afterwards, and why.
type Skipped struct{ Path, Reason string }

const maxSkipped = 1000

func (x *Extracted) skip(name, format string, args ...any) {
	if len(x.Skipped) == maxSkipped {
		x.More++
		return
	}
	x.Skipped = append(x.Skipped, Skipped{name, fmt.Sprintf(format, args...)})
}

// Extract copies what is wanted of a tree, below root of the tree, into a folder, each under its path below root. It
// never leaves the folder: links and names of the guest are not followed on the way. Symbolic links are made as they
// stand there, so they may point anywhere; devices, pipes and sockets are skipped. A file appears whole or not at all.
// Set-user-id and set-group-id bits are not given back: on this machine they would let the guest's programs run as its
// users.
// What cannot be read, was left out of the point, or is there already, is skipped with its reason, and so is a name that
// the folder's system cannot have; what cannot be written is an error.
func (t *Tree) Extract(ctx context.Context, root string, into *os.Root, opts *ExtractOptions) (Extracted, error) {
	x := &extraction{tree: t.WithContext(ctx), into: into, root: root, names: map[place]string{}}
	if opts != nil {
		x.opts = *opts
	}
	if x.opts.Match == nil {
		x.opts.Match = func(string) bool { return true }
	}
	err := x.tree.Walk(root, x.visit)
	if err == nil {
		err = x.finishDirs()
	}
	return x.res, err
}

type extraction struct {
	tree *Tree
	into *os.Root
	root string
	opts ExtractOptions
	res  Extracted

	wanted string           // below this directory everything is wanted; empty: nothing is yet
	made   string           // the directory that was made last
	dirs   []pendingDir     // what a directory gets when nothing is written into it any more
	names  map[place]string // where files with several names are
}

type pendingDir struct {
	name string
	attr fsys.Attr
}

const maxHardLinks = 1 << 16

// outside marks an error of the folder that is written to: it ends the extraction.
type outside struct{ err error }

func (e outside) Error() string { return e.err.Error() }
func (e outside) Unwrap() error { return e.err }

// made tells what an error of the folder is about: only this name, which the folder's system cannot have, or which
// stands for something else there already, or the folder as a whole.
func made(err error) error {
	if err == nil || ofName(err) {
		return err
	}
	return outside{err}
}

// ofName: one file system allows names that another does not, and a made one has any, twice also.
func ofName(err error) bool {
	for _, name := range []error{syscall.ENAMETOOLONG, syscall.EINVAL, syscall.ENOTDIR, syscall.EISDIR, syscall.ELOOP, fs.ErrExist, fs.ErrInvalid} {
		if errors.Is(err, name) {
			return true
		}
	}
	const invalidName, tooLong = syscall.Errno(123), syscall.Errno(206) // of Windows
	if runtime.GOOS == "windows" && (errors.Is(err, invalidName) || errors.Is(err, tooLong)) {
		return true
	}
	for errors.Unwrap(err) != nil {
		err = errors.Unwrap(err)
	}
	return err.Error() == "path escapes from parent" // what os.Root says of a link that leads out of it
}

func (x *extraction) visit(name string, e fs.DirEntry, err error) error {
	if err != nil {
		if x.isWanted(name) {
			x.res.skip(name, "%v", err)
		}
		return nil
	}
	if !x.isWanted(name) {
		return nil
	}
	if e.IsDir() && x.wanted == "" {
		x.wanted = name
	}
	err = x.take(name, e.(*dirEntry))
	var out outside
	switch {
	case err == nil:
		return nil
	case errors.As(err, &out) || x.tree.ctx.Err() != nil:
		return fmt.Errorf("%s: %w", name, err)
	}
	x.res.skip(name, "%v", err)
	return nil
}

func (x *extraction) isWanted(name string) bool {
	if x.wanted != "" {
		if name == x.wanted || x.wanted == "." || strings.HasPrefix(name, x.wanted+"/") {
			return true
		}
		x.wanted = ""
	}
	return x.opts.Match(name)
}

// target is where a path of the tree goes in the folder: from the directory that root is in.
func (x *extraction) target(name string) string {
	return strings.TrimPrefix(name, path.Dir(x.root)+"/")
}

func (x *extraction) take(name string, e *dirEntry) error {
	attr, err := e.at.fs.Stat(x.tree.ctx, e.at.node)
	if err != nil {
		return err
	}
	to := x.target(name)
	if attr.Mode.IsDir() {
		return x.takeDir(to, attr)
	}
	if err := x.parents(to); err != nil {
		return err
	}
	switch {
	case attr.Mode.IsRegular():
		return x.takeFile(name, to, e.at, attr)
	case attr.Mode&fs.ModeSymlink != 0:
		return x.takeLink(to, e.at, attr)
	}
	return fmt.Errorf("it is %v, which has no content", attr.Mode.Type())
}

func (x *extraction) takeDir(to string, attr fsys.Attr) error {
	if err := x.into.MkdirAll(to, 0o700); err != nil {
		return made(err)
	}
	x.dirs = append(x.dirs, pendingDir{to, attr})
	x.res.Dirs++
	return nil
}

func (x *extraction) parents(to string) error {
	dir := path.Dir(to)
	if dir == x.made || dir == "." {
		return nil
	}
	if err := x.into.MkdirAll(dir, 0o700); err != nil {
		return made(err)
	}
	x.made = dir
	return nil
}

// makeRoom is for a name that is to be made new.
func (x *extraction) makeRoom(to string) error {
	switch info, err := x.into.Lstat(to); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return made(err)
	case !x.opts.Overwrite || info.IsDir():
		return fs.ErrExist
	}
	if err := x.into.Remove(to); err != nil {
		return outside{err}
	}
	return nil
}

func (x *extraction) takeLink(to string, at place, attr fsys.Attr) error {
	target, err := at.fs.Readlink(x.tree.ctx, at.node)
	if err != nil {
		return err
	}
	if err := x.makeRoom(to); err != nil {
		return err
	}
	if target == "" || strings.ContainsRune(target, 0) {
		return fmt.Errorf("a link to %q", target)
	}
	if err := x.into.Symlink(target, to); err != nil {
		return made(err)
	}
	if x.opts.Owners {
		if err := x.into.Lchown(to, int(attr.UID), int(attr.GID)); err != nil {
			return outside{err}
		}
	}
	x.res.Links++
	return nil
}

// takeFile copies a file under another name first.
func (x *extraction) takeFile(name, to string, at place, attr fsys.Attr) error {
	if done, err := x.linkTo(to, at); done || err != nil {
		return err
	}
	if err := x.makeRoom(to); err != nil {
		return err
	}
	part := path.Join(path.Dir(to), fmt.Sprintf(".hikae-%d-%d.part", os.Getpid(), time.Now().UnixNano()))
	f, err := x.into.OpenFile(part, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return made(err)
	}
	defer x.into.Remove(part)
	err = x.fill(f, at, attr)
	if closeErr := f.Close(); err == nil && closeErr != nil {
		err = outside{closeErr}
	}
	if err != nil {
		return err
	}
	if err := x.dress(part, attr); err != nil {
		return err
	}
	if err := x.into.Rename(part, to); err != nil {
		return made(err)
	}
	if attr.Links > 1 && len(x.names) < maxHardLinks {
		x.names[at] = to
	}
	x.res.Files++
	x.res.Bytes += attr.Size
	if x.opts.Done != nil {
		x.opts.Done(name, attr.Size)
	}
	return nil
}

// linkTo gives a file that was copied already its second name.
func (x *extraction) linkTo(to string, at place) (bool, error) {
	first, ok := x.names[at]
	if !ok {
		return false, nil
	}
	if err := x.makeRoom(to); err != nil {
		return false, err
	}
	if err := x.into.Link(first, to); err != nil {
		return false, nil // not every file system has hard links: it gets a copy
	}
	x.res.Files++
	return true, nil
}

func (x *extraction) fill(f *os.File, at place, attr fsys.Attr) error {
	if err := x.tree.whole(x.tree.ctx, at, attr.Size); err != nil {
		return err
	}
	img, err := Image(x.tree.ctx, at.fs, at.node)
	if err != nil {
		return err
	}
	if err := f.Truncate(attr.Size); err != nil {
		return outside{err}
	}
	target := &fileTarget{file: f, size: attr.Size}
	if attr.Size <= smallFile {
		return target.small(x.tree.ctx, img)
	}
	opts := x.opts.Copy
	_, err = pipe.Copy(x.tree.ctx, target, img, &opts)
	if target.failed() != nil {
		return outside{target.failed()}
	}
	return err
}

func (x *extraction) dress(name string, attr fsys.Attr) error {
	if x.opts.Owners {
		if err := x.into.Lchown(name, int(attr.UID), int(attr.GID)); err != nil {
			return outside{err}
		}
	}
	if err := x.into.Chmod(name, attr.Mode.Perm()|attr.Mode&fs.ModeSticky); err != nil {
		return outside{err}
	}
	if err := x.into.Chtimes(name, attr.Mod, attr.Mod); err != nil {
		return outside{err}
	}
	return nil
}

// finishDirs gives directories their attributes, the deepest first.
func (x *extraction) finishDirs() error {
	for _, d := range slices.Backward(x.dirs) {
		if d.name == "." {
			continue
		}
		if err := x.dress(d.name, d.attr); err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
	}
	return nil
}
