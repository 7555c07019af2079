package diskfile

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
)

// maxSize bounds a file's length, far above any file system's own bound and far below where sums overflow.
const maxSize = 1 << 60

// CreateOptions change how a new disk file is made. Nil and zero fields are good defaults.
type CreateOptions struct {
	// Overwrite allows replacing a regular file that is there already. It is replaced at Commit, at once and whole.
	Overwrite bool
	// Mode is the new file's permissions before umask. Zero: 0600, because a disk holds secrets.
	Mode fs.FileMode
}

// Pending is a new file that appears whole or not at all: Begin gives it a temporary name in its folder, Commit its
// place. Close alone removes it. It starts as zeros, and zeros written to it become holes.
//
// Writers of disk formats stand on it. WriteAt, Zero and ReadAt are safe for concurrent use as long as written ranges
// do not overlap; the other methods are called alone.
type Pending struct {
	f       *os.File
	root    *os.Root // the folder, whatever its name leads to later
	name    string   // the final name in it
	temp    string   // the temporary name in it
	path    string   // as the user wrote it, for errors
	opts    CreateOptions
	written written
	closed  atomic.Bool
}

// Begin starts a new file at path. Where something is at path, the error is fs.ErrExist; with Overwrite a regular file
// may be there, and anything else, symbolic links included, is ErrNotDisk.
func Begin(path string, opts *CreateOptions) (*Pending, error) {
	p := &Pending{path: path, name: filepath.Base(path)}
	if opts != nil {
		p.opts = *opts
	}
	if p.opts.Mode == 0 {
		p.opts.Mode = 0o600
	}
	if err := p.begin(); err != nil {
		return nil, ioError("create", path, -1, err)
	}
	return p, nil
}

func (p *Pending) begin() (err error) {
	if p.path == "" || os.IsPathSeparator(p.path[len(p.path)-1]) {
		return fmt.Errorf("%w: %q is no name of a file", ErrNotDisk, p.path)
	}
	if p.root, err = os.OpenRoot(filepath.Dir(p.path)); err != nil {
		return err
	}
	if err = p.checkPlace(); err == nil {
		p.sweep()
		err = p.createTemp()
	}
	if err != nil {
		p.root.Close()
	}
	return err
}

// createTemp makes the temporary file and locks it for as long as it is open, which tells sweep that it is in use. A
// sweep by somebody else may come between the two: then the file is gone, or is about to go, and another is made.
func (p *Pending) createTemp() error {
	for range 10 {
		p.temp = tempPrefix(p.name) + rand.Text()[:10] + tempSuffix
		f, err := p.root.OpenFile(p.temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, p.opts.Mode)
		if err != nil {
			return err
		}
		if tryLock(f) != lockTaken {
			if _, err := p.root.Lstat(p.temp); err == nil {
				p.f = f
				return nil
			}
		}
		f.Close()
	}
	return errors.New("its temporary file is swept away again and again")
}

const tempSuffix = ".tmp"

// tempPrefix begins the temporary names for a file. Names end at 255 bytes nearly everywhere.
func tempPrefix(name string) string { return "." + name[:min(len(name), 200)] + "." }

// sweep removes what killed writers of the same file left. Those that are alive hold a lock. Whatever goes wrong here
// leaves a file for the next time.
func (p *Pending) sweep() {
	dir, err := p.root.Open(".")
	if err != nil {
		return
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	prefix := tempPrefix(p.name)
	for _, n := range names {
		if strings.HasPrefix(n, prefix) && strings.HasSuffix(n, tempSuffix) && len(n) == len(prefix)+10+len(tempSuffix) {
			p.sweepOne(n)
		}
	}
}

func (p *Pending) sweepOne(name string) {
	if fi, err := p.root.Lstat(name); err != nil || !fi.Mode().IsRegular() {
		return
	}
	f, err := p.root.OpenFile(name, os.O_RDWR|openFlags, 0)
	if err != nil {
		return
	}
	defer f.Close()
	if tryLock(f) == lockHeld {
		p.root.Remove(name)
		unlock(f)
	}
}

// checkPlace looks at what is at the final name. It is asked at Begin, so that nobody copies for hours in vain, and
// again at Commit.
func (p *Pending) checkPlace() error {
	fi, err := p.root.Lstat(p.name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !p.opts.Overwrite:
		return fs.ErrExist
	case !fi.Mode().IsRegular():
		return fmt.Errorf("%w: it is a %s", ErrNotDisk, kindWord(fi.Mode().Type()))
	}
	return nil
}

// Path is the final name, as given to Begin.
func (p *Pending) Path() string { return p.path }

// Truncate sets the file's length. What is added reads as zero.
func (p *Pending) Truncate(size int64) error {
	if size < 0 || size > maxSize {
		return ioError("resize", p.path, size, fs.ErrInvalid)
	}
	return ioError("resize", p.path, size, p.f.Truncate(size))
}

// ReadAt reads back what was written.
func (p *Pending) ReadAt(b []byte, off int64) (int, error) { return p.f.ReadAt(b, off) }

// WriteAt writes b at byte off. Parts that are zero are left out, and made zero where something was written before.
func (p *Pending) WriteAt(b []byte, off int64) (int, error) {
	if p.closed.Load() {
		return 0, ioError("write", p.path, off, fs.ErrClosed)
	}
	parts := spans(b, off)
	for _, s := range parts { // before anything is noted as written, or all zeros beside data would be punched out
		if s.zero {
			if err := p.Zero(off+int64(s.off), int64(s.end-s.off)); err != nil {
				return 0, err
			}
		}
	}
	for _, s := range parts {
		if s.zero {
			continue
		}
		at := off + int64(s.off)
		p.written.add(at, int64(s.end-s.off)) // before the write: one that failed half-way has written too
		if n, err := p.f.WriteAt(b[s.off:s.end], at); err != nil {
			return s.off + n, ioError("write", p.path, at+int64(n), err)
		}
	}
	return len(b), nil
}

// Zero makes [off, off+n) read as zero, giving its space back where the file system can.
func (p *Pending) Zero(off, n int64) error {
	if p.closed.Load() {
		return ioError("zero", p.path, off, fs.ErrClosed)
	}
	for end := off + n; ; {
		from, to, ok := p.written.next(off, end)
		if !ok {
			return nil
		}
		if err := zeroRange(p.f, from, to-from); err != nil {
			return ioError("zero", p.path, from, err)
		}
		off = to
	}
}

// Commit makes the file durable and gives it its name. Where something came to the name since Begin, it is fs.ErrExist
// unless Overwrite was set. After an error the file is gone.
func (p *Pending) Commit(ctx context.Context) error {
	if p.closed.Load() {
		return ioError("publish", p.path, -1, fs.ErrClosed)
	}
	err := ctx.Err()
	if err == nil {
		err = ioError("sync", p.path, -1, p.f.Sync())
	}
	if err != nil {
		return errors.Join(err, p.Close())
	}
	p.closed.Store(true)
	defer p.root.Close()
	if err := p.publish(); err != nil {
		p.root.Remove(p.temp)
		return ioError("publish", p.path, -1, err)
	}
	return nil
}

// publish closes the file first: network file systems report their last write errors there, and some systems cannot
// rename what is open.
func (p *Pending) publish() error {
	unlock(p.f)
	if err := p.f.Close(); err != nil {
		return err
	}
	if err := p.checkPlace(); err != nil {
		return err
	}
	dir, err := p.root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	if p.opts.Overwrite {
		err = p.root.Rename(p.temp, p.name)
	} else {
		err = renameNew(dir, p.root, p.temp, p.name)
	}
	if err != nil {
		return err
	}
	return syncDir(dir)
}

// Close removes the file unless it was committed. It may be called again.
func (p *Pending) Close() error {
	if p.closed.Swap(true) {
		return nil
	}
	defer p.root.Close()
	return errors.Join(p.f.Close(), p.root.Remove(p.temp))
}

// linkNew gives temp the new name without replacing anything, by means that every system has: a hard link, or, where
// there are none, by taking the name with an empty file first, which is then replaced.
func linkNew(root *os.Root, temp, name string) error {
	err := root.Link(temp, name)
	if err == nil {
		return root.Remove(temp)
	}
	if errors.Is(err, fs.ErrExist) {
		return fs.ErrExist
	}
	claim, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := claim.Close(); err != nil {
		return err
	}
	if err := root.Rename(temp, name); err != nil {
		return errors.Join(err, root.Remove(name))
	}
	return nil
}
