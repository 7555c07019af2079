package replica

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
)

// listFolder reads the records of a VM's points, in the order of their commits, and tells which cannot be read.
func listFolder(dir string) (list []*record, damaged []error, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		if !e.IsDir() || !pointID.MatchString(e.Name()) {
			continue
		}
		r, err := loadRecord(filepath.Join(dir, e.Name()), recordName)
		var damage *DamagedError
		switch {
		case err == nil:
			list = append(list, r)
		case errors.As(err, &damage):
			damaged = append(damaged, err)
		case !errors.Is(err, fs.ErrNotExist):
			return nil, nil, err
		}
	}
	slices.SortFunc(list, inOrder)
	return list, damaged, nil
}

// inOrder orders the points of a VM by their numbers; no clock decides it. Points of several VMs are ordered by when they
// were committed, as far as clocks tell.
func inOrder(a, b *record) int {
	if a.Info.VM == b.Info.VM {
		return cmp.Compare(a.Info.Log, b.Info.Log)
	}
	return a.Committed.Compare(b.Committed)
}

// Points implements [pipe.Backend]. A point whose record cannot be read is yielded as a [*DamagedError], after the others.
func (s *Site) Points(ctx context.Context, vm string) iter.Seq2[pipe.PointInfo, error] {
	return func(yield func(pipe.PointInfo, error) bool) {
		dirs := []string{s.folder(vm)}
		if vm == "" {
			var err error
			if dirs, err = s.folders(); err != nil {
				yield(pipe.PointInfo{}, err)
				return
			}
		}
		var all []*record
		var damaged []error
		for _, dir := range dirs {
			err := ctx.Err()
			if err == nil {
				var list []*record
				var bad []error
				list, bad, err = listFolder(dir)
				all, damaged = append(all, list...), append(damaged, bad...)
			}
			if err != nil {
				yield(pipe.PointInfo{}, err)
				return
			}
		}
		slices.SortStableFunc(all, func(a, b *record) int { return a.Committed.Compare(b.Committed) })
		if len(dirs) == 1 {
			slices.SortFunc(all, inOrder)
		}
		for _, r := range all {
			if !yield(r.Info, nil) {
				return
			}
		}
		for _, err := range damaged {
			if !yield(pipe.PointInfo{}, err) {
				return
			}
		}
	}
}

// find finds the folder of a point and its record.
func (s *Site) find(id string) (dir string, r *record, err error) {
	if pointID.MatchString(id) {
		dirs, err := s.folders()
		if err != nil {
			return "", nil, err
		}
		for _, dir := range dirs {
			dir = filepath.Join(dir, id)
			r, err := loadRecord(dir, recordName)
			if err == nil || !errors.Is(err, fs.ErrNotExist) {
				return dir, r, err
			}
		}
	}
	return "", nil, fmt.Errorf("point %q: %w", id, fs.ErrNotExist)
}

// Open implements [pipe.Backend]. What the image reads has been compared with its sums: what does not match is a
// [*DamagedError]. While it is open, no points of the VM are merged.
func (s *Site) Open(ctx context.Context, point, disk string) (pipe.Image, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	dir, _, err := s.find(point)
	if err != nil {
		return nil, err
	}
	vmDir := filepath.Dir(dir)
	lock, err := s.enterReading(ctx, vmDir)
	if err != nil {
		return nil, err
	}
	img, err := openChain(vmDir, point, disk)
	if err != nil {
		return nil, errors.Join(err, lock.release())
	}
	img.lock = lock
	return img, nil
}

// mergeTaken is how often it is looked again whether somebody has taken up a merge that a killed process left.
const mergeTaken = 500

// enterReading keeps the files of a VM's points where they are, once no merge is half way.
func (s *Site) enterReading(ctx context.Context, vmDir string) (*held, error) {
	for tries := 0; ; tries++ {
		left := s.tidyFolder(vmDir)
		lock, err := takeReader(ctx, vmDir, filepath.Base(vmDir))
		if err != nil {
			return nil, err
		}
		var busy *hikae.BusyError
		// What cannot be taken up, such as a merge on a disk that is full, leaves points that read as they did.
		if left != nil && !errors.As(left, &busy) || tries == mergeTaken || !merging(vmDir) {
			return lock, nil
		}
		if err := lock.release(); err != nil {
			return nil, err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// merging reports whether a point of a VM is half way to being merged.
func merging(vmDir string) bool {
	found, err := fs.Glob(os.DirFS(vmDir), "*/"+mergingName)
	return err == nil && len(found) > 0
}
