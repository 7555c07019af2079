package diskvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

// snapshot holds the files open from beginning to end: what changes in any of them until the last one was read makes
// the moments differ.
type snapshot struct {
	provider    *Provider
	consistency hikae.Consistency
	warnings    []string
	disks       map[string]*disk
}

var _ hikae.Snapshot = (*snapshot)(nil)

// disk is one open file and what its name led to at the beginning.
type disk struct {
	path  string
	img   pipe.Image
	named os.FileInfo
	live  bool
}

func (s *snapshot) open(ctx context.Context, f File, size int64) error {
	owner, live, err := diskfile.Locked(f.Path)
	if err != nil {
		return err
	}
	if live && !s.provider.opts.Force {
		return &LiveError{Path: f.Path, Owner: owner}
	}
	d := &disk{path: f.Path, live: live}
	if d.named, err = os.Stat(f.Path); err != nil {
		return err
	}
	d.img, err = s.provider.opts.Formats.Open(ctx, f.Path, f.Format, &diskfile.OpenOptions{Live: true})
	if err != nil {
		return err
	}
	s.disks[f.Key] = d
	if d.img.Size() != size {
		return &diskfile.ChangedError{Path: f.Path, Why: fmt.Sprintf("its disk went from %d to %d bytes", size, d.img.Size())}
	}
	if live {
		s.consistency = hikae.Unknown
		s.warnings = append(s.warnings, fmt.Sprintf("disk %s: %s is open for writing by %s; the copy is of no one moment", f.Key, f.Path, owner))
	}
	return nil
}

func (s *snapshot) VM() hikae.VM                   { return s.provider.vm() }
func (s *snapshot) Consistency() hikae.Consistency { return s.consistency }

// Warnings are what a person should know about how the files were found.
func (s *snapshot) Warnings() []string { return s.warnings }

func (s *snapshot) OpenDisk(_ context.Context, key string) (pipe.Image, error) {
	d, ok := s.disks[key]
	if !ok {
		return nil, fmt.Errorf("disk %q: %w", key, fs.ErrNotExist)
	}
	return lent{d.img}, nil
}

// lent is an image whose owner closes it.
type lent struct{ pipe.Image }

func (l lent) Unwrap() pipe.Image { return l.Image }
func (l lent) Close() error       { return nil }

// Changed yields the list that was given for the disk. It is relative to the base that the caller builds on, whatever
// id that has: since is not looked at.
func (s *snapshot) Changed(_ context.Context, key string, _ hikae.ChangeID) iter.Seq2[pipe.Extent, error] {
	list, known := s.provider.opts.Changed[key]
	d, ok := s.disks[key]
	if ok && known {
		return cover(list, d.img.Size())
	}
	err := ErrNoTracking
	if !ok {
		err = fmt.Errorf("disk %q: %w", key, fs.ErrNotExist)
	}
	return func(yield func(pipe.Extent, error) bool) { yield(pipe.Extent{}, err) }
}

// Prepare hands out no change ids. It is where a file that was written to while it was read is found out: before the
// point is made.
func (s *snapshot) Prepare(context.Context) (map[string]hikae.ChangeID, error) {
	for key, d := range s.disks {
		if err := d.changed(); err != nil {
			return nil, fmt.Errorf("disk %s: %w", key, err)
		}
	}
	return nil, nil
}

func (d *disk) changed() error {
	if d.live { // known, and said
		return nil
	}
	if err := diskfile.Changed(d.img); err != nil {
		return err
	}
	now, err := os.Stat(d.path)
	switch {
	case err != nil:
		return &diskfile.ChangedError{Path: d.path, Why: err.Error()}
	case !os.SameFile(now, d.named):
		return &diskfile.ChangedError{Path: d.path, Why: "the name leads to another file"}
	case now.Size() != d.named.Size() || now.Mode().IsRegular() && !now.ModTime().Equal(d.named.ModTime()):
		return &diskfile.ChangedError{Path: d.path, Why: "its size or modification time is another"}
	}
	return nil
}

// Commit has nothing to tell anybody.
func (s *snapshot) Commit(context.Context) error { return nil }

// Release closes the files.
func (s *snapshot) Release(context.Context) error {
	var errs []error
	for key, d := range s.disks {
		errs = append(errs, d.img.Close())
		delete(s.disks, key)
	}
	return errors.Join(errs...)
}
