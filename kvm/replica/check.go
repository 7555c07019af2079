package replica

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Finding is one thing that is wrong with a replica.
type Finding struct {
	Point string // full id
	Disk  string // key; empty: the point's record or a blob
	Err   error  // mostly a [*DamagedError]
}

// maxFindings bounds what a check tells of one disk.
const maxFindings = 100

// Check looks whether all points of a VM hold together: records, maps, headers, sizes, and that each disk's file names the
// one that it stands on. deep also reads everything that is stored and compares it with its sums. What is wrong is in the
// findings, the error says that it could not be looked.
func (s *Site) Check(ctx context.Context, vm string, deep bool) (found []Finding, err error) {
	if err := errors.Join(ctx.Err(), checkVM(vm)); err != nil {
		return nil, err
	}
	dir := s.folder(vm)
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	lock, err := s.enterReading(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lock.release()) }()
	list, damaged, err := listFolder(dir)
	if err != nil {
		return nil, err
	}
	for _, err := range damaged {
		var damage *DamagedError
		if errors.As(err, &damage) {
			found = append(found, Finding{Point: damage.Point, Err: err})
		}
	}
	for _, r := range list {
		here, err := s.checkOwn(ctx, dir, r, deep)
		if err != nil {
			return found, err
		}
		found = append(found, here...)
	}
	return found, nil
}

// checkPoint checks one point with all that it stands on.
func (s *Site) checkPoint(ctx context.Context, dir string, r *record, deep bool) (found []Finding, err error) {
	for at := r; ; {
		here, err := s.checkOwn(ctx, dir, at, deep)
		found = append(found, here...)
		if err != nil || at.Base == "" || len(found) > 0 {
			return found, err
		}
		based := false
		for _, d := range at.Disks {
			based = based || d.Based
		}
		if !based {
			return found, nil
		}
		if at, err = loadBase(dir, r.Info.ID, at.Base); err != nil {
			return found, err
		}
	}
}

// checkOwn checks what a point has of its own, and that what it stands on is there.
func (s *Site) checkOwn(ctx context.Context, dir string, r *record, deep bool) (found []Finding, err error) {
	note := func(disk string, err error) {
		found = append(found, Finding{Point: r.Info.ID, Disk: disk, Err: err})
	}
	for i, b := range r.Blobs {
		path := filepath.Join(dir, r.Info.ID, blobName(i))
		info, err := os.Lstat(path)
		switch {
		case err != nil || info.Size() != b.Size:
			note("", &DamagedError{Point: r.Info.ID, Err: fmt.Errorf("blob %q: %w", b.Name, errors.Join(errContent, err))})
		case deep:
			if err := checkBlob(ctx, path, r.Info.ID, b); err != nil {
				if ctx.Err() != nil {
					return found, ctx.Err()
				}
				note("", err)
			}
		}
	}
	for _, d := range r.Disks {
		img, err := openChain(dir, r.Info.ID, d.Key)
		var damage *DamagedError
		switch {
		case errors.As(err, &damage):
			note(d.Key, err)
			continue
		case err != nil:
			return found, err
		}
		before := len(found)
		if deep {
			err = img.checkOwn(ctx, func(err error) bool {
				note(d.Key, err)
				return len(found)-before < maxFindings
			})
		}
		if err = errors.Join(err, img.Close()); err != nil {
			return found, err
		}
	}
	return found, nil
}

// checkOwn reads all clusters of the image's own layer, and tells those that are damaged, until it is told to stop. A place
// that two clusters have is not looked for: the sums tell.
func (x *image) checkOwn(ctx context.Context, damaged func(error) bool) error {
	l := x.layers[0]
	b := make([]byte, clusterSize)
	for _, r := range l.rows {
		for c := r.first; c < r.first+r.n; c++ {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := x.checkCluster(l, r, c, b); err != nil {
				off := c << clusterBits
				if !damaged(&DamagedError{Point: l.point, Disk: x.key, Off: off, Len: min(clusterSize, x.size-off), Err: err}) {
					return nil
				}
			}
		}
	}
	return x.checkAbsent(damaged)
}

// checkCluster holds that a cluster is what its sum says, and that QEMU sees the same.
func (x *image) checkCluster(l *layer, r row, c int64, b []byte) error {
	if !r.zero {
		return l.read(b, r, c, &x.cache)
	}
	t, err := x.cache.get(l, c/tableEntries)
	if err != nil {
		return err
	}
	if t == nil || t[c%tableEntries]&entryZero == 0 {
		return fmt.Errorf("%w: its tables do not say that it is zero", errContent)
	}
	return nil
}

// checkAbsent holds that the layer's tables have no clusters that its map does not know: QEMU would read them.
func (x *image) checkAbsent(damaged func(error) bool) error {
	l := x.layers[0]
	clusters := clustersOf(x.size)
	for i := range l.l1 {
		t, err := x.cache.get(l, int64(i))
		if err != nil {
			damaged(&DamagedError{Point: l.point, Disk: x.key, Err: err})
			continue
		}
		if t == nil {
			continue
		}
		for j, e := range t {
			c := int64(i)*tableEntries + int64(j)
			if _, ok := l.find(c); e == 0 || ok || c >= clusters {
				continue
			}
			off := c << clusterBits
			err := fmt.Errorf("%w: its tables have something that was never written", errContent)
			if !damaged(&DamagedError{Point: l.point, Disk: x.key, Off: off, Len: min(clusterSize, x.size-off), Err: err}) {
				return nil
			}
		}
	}
	return nil
}

// Remove removes the replica of a VM, the newest point first. A replica that is failed over is a [*StateError], and one that
// is read or written a [*hikae.BusyError]. What is not there is removed already.
func (s *Site) Remove(ctx context.Context, vm string) (err error) {
	if err := errors.Join(ctx.Err(), checkVM(vm)); err != nil {
		return err
	}
	dir := s.folder(vm)
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	lock, err := takeLock(dir, vm, "remove it")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.release()) }()
	if err := mustBeReady(dir, vm, "remove"); err != nil {
		return err
	}
	files, err := takeFiles(dir, vm)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, files.release()) }()
	list, _, err := listFolder(dir)
	if err != nil {
		return err
	}
	for i := len(list) - 1; i >= 0; i-- {
		path := filepath.Join(dir, list[i].Info.ID)
		if err := errors.Join(removeIfThere(filepath.Join(path, recordName)), syncDir(path), os.RemoveAll(path)); err != nil {
			return err
		}
		s.step("point removed")
	}
	return errors.Join(os.RemoveAll(dir), syncDir(s.dir))
}
