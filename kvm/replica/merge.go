package replica

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// A point goes by being merged into the one that stands on it, so that what is written is only what that one has of its own:
//
//	before   old ◄── next ◄── newer        next's files name old's, newer's name next's
//	1        old's record is renamed: it is listed no more, and everything from here is taken up again after a kill
//	2        next's clusters are written into old's file: next does not look there, as it has them itself
//	3        a map of what old's file is now is written beside next's
//	4        old's file is renamed over next's, then the map over next's map
//	after    next ◄── newer                newer's files name next's, as before
//
// Steps 2 to 4 are done for one disk after the other. At any moment next, and what stands on it, reads as it did.

// Keep merges the oldest points of a VM until at most n are left, at least one, and returns the ids of those that went, the
// oldest first. A point that two others stand on (one of them was sealed after a failover to it) stays until one of them is
// gone, so there may be more than n.
//
// Who reads a point of the VM is not disturbed: that is a [*hikae.BusyError], and Keep does its work the next time. So is a
// writer. A replica that is failed over is a [*StateError].
func (s *Site) Keep(ctx context.Context, vm string, n int) (removed []string, err error) {
	if err := errors.Join(ctx.Err(), checkVM(vm)); err != nil {
		return nil, err
	}
	if n < 1 {
		return nil, fmt.Errorf("keep %d points: %w", n, fs.ErrInvalid)
	}
	dir := s.folder(vm)
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	lock, err := s.enter(dir, vm, "merge points")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lock.release()) }()
	if err := mustBeReady(dir, vm, "merge points"); err != nil {
		return nil, err
	}
	for {
		id, err := s.dropOne(ctx, dir, vm, n)
		if err != nil || id == "" {
			return removed, err
		}
		removed = append(removed, id)
	}
}

// dropOne lets the oldest point go that can; empty: none needs to, or none can.
func (s *Site) dropOne(ctx context.Context, dir, vm string, n int) (id string, err error) {
	list, err := s.allPoints(dir)
	if err != nil || len(list) <= n || ctx.Err() != nil {
		return "", errors.Join(err, ctx.Err())
	}
	above := map[string]int{}
	for _, r := range list {
		above[r.Base]++
	}
	for _, r := range list[:len(list)-n] {
		path := filepath.Join(dir, r.Info.ID)
		switch above[r.Info.ID] {
		case 0:
			return r.Info.ID, s.dropLeaf(dir, path, vm)
		case 1:
			return r.Info.ID, s.mergeAway(dir, path, vm)
		}
	}
	return "", nil
}

// allPoints are all points of a VM. Where the record of one cannot be read, nobody knows what it stands on, and nothing is
// moved.
func (s *Site) allPoints(dir string) ([]*record, error) {
	list, damaged, err := listFolder(dir)
	return list, errors.Join(err, errors.Join(damaged...))
}

// dropLeaf removes a point that nothing stands on.
func (s *Site) dropLeaf(dir, path, vm string) error {
	files, err := takeFiles(dir, vm)
	if err != nil {
		return err
	}
	if err := errors.Join(os.Remove(filepath.Join(path, recordName)), syncDir(path)); err != nil {
		return errors.Join(err, files.release())
	}
	s.step("leaf unlisted")
	return errors.Join(os.RemoveAll(path), files.release())
}

// mergeAway begins the merge of a point that one other stands on, and ends it.
func (s *Site) mergeAway(dir, path, vm string) error {
	files, err := takeFiles(dir, vm)
	if err != nil {
		return err
	}
	err = errors.Join(os.Rename(filepath.Join(path, recordName), filepath.Join(path, mergingName)), syncDir(path))
	s.step("merge begun")
	if err == nil {
		err = s.merge(dir, path)
	}
	return errors.Join(err, files.release())
}

// finishMerge takes up a merge that did not end.
func (s *Site) finishMerge(dir, path string) error {
	files, err := takeFiles(dir, filepath.Base(dir))
	if err != nil {
		return err
	}
	return errors.Join(s.merge(dir, path), files.release())
}

// merge does steps 2 to 4, or what is left of them.
func (s *Site) merge(dir, path string) error {
	old, err := loadRecord(path, mergingName)
	if err != nil {
		return err
	}
	list, err := s.allPoints(dir)
	if err != nil {
		return err
	}
	for _, next := range list {
		if next.Base != old.Info.ID {
			continue
		}
		for i := range next.Disks {
			if d := &next.Disks[i]; d.Based {
				if err := s.mergeDisk(dir, old, next, d); err != nil {
					return fmt.Errorf("merge disk %s of point %s into %s: %w", d.Key, old.Info.ID, next.Info.ID, err)
				}
				was, _ := old.disk(d.Key)
				d.Based = was.Based
			}
		}
		next.Base = old.Base
		if err := saveRecord(filepath.Join(dir, next.Info.ID), next); err != nil {
			return err
		}
		s.step("merge recorded")
	}
	if err := removeIfThere(filepath.Join(path, mergingName)); err != nil {
		return err
	}
	s.step("merge ended")
	return os.RemoveAll(path)
}

// mergeDisk merges one disk. The files are the truth of how far it is: old's goes last.
func (s *Site) mergeDisk(dir string, old, next *record, d *diskRecord) error {
	from := filepath.Join(dir, old.Info.ID, d.Name)
	into := filepath.Join(dir, next.Info.ID, d.Name)
	_, err := os.Lstat(from + diskSuffix)
	switch {
	case err == nil:
		if err := s.mergeContent(dir, old, next, d); err != nil {
			return err
		}
		if err := os.Rename(from+diskSuffix, into+diskSuffix); err != nil {
			return err
		}
		// The name in one folder and the name in the other become durable in any order: either is enough.
		if err := errors.Join(syncDir(filepath.Dir(into)), syncDir(filepath.Dir(from))); err != nil {
			return err
		}
		s.step("disk moved")
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	err = os.Rename(into+mapSuffix+newSuffix, into+mapSuffix)
	if errors.Is(err, fs.ErrNotExist) { // it was done before
		err = nil
	}
	s.step("map moved")
	return errors.Join(err, syncDir(filepath.Dir(into)))
}

// mergeContent writes what next has of its own into old's file, and the map of what that is then.
func (s *Site) mergeContent(dir string, old, next *record, d *diskRecord) error {
	below, err := openDisk(dir, old, d.Key, d.Size)
	if err != nil {
		return damagedDisk(old.Info.ID, d.Key, err)
	}
	defer below.close()
	above, err := openDisk(dir, next, d.Key, d.Size)
	if err != nil {
		return damagedDisk(next.Info.ID, d.Key, err)
	}
	defer above.close()
	path := filepath.Join(dir, old.Info.ID, d.Name) + diskSuffix
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	w, err := changeLayer(path)
	if err != nil {
		return damagedDisk(old.Info.ID, d.Key, err)
	}
	if err := errors.Join(s.copyRows(w, above), w.close()); err != nil {
		return err
	}
	if err := os.Chmod(path, 0o400); err != nil {
		return err
	}
	s.step("content merged")
	return s.mergeMaps(filepath.Join(dir, next.Info.ID, d.Name)+mapSuffix, w.next<<clusterBits, below.mapFile, above.mapFile, below.based)
}

// copyRows writes the clusters of a layer into the file below it. A cluster that is not what its sum says is copied as it
// is: the sum goes with it, and who reads it is told.
func (s *Site) copyRows(w *layerWriter, above *layer) error {
	var cache tableCache
	b := make([]byte, clusterSize)
	for _, r := range above.rows {
		s.step("row")
		for c := r.first; c < r.first+r.n; c++ {
			if r.zero {
				w.zero(c)
				continue
			}
			if err := above.read(b, r, c, &cache); err != nil && !errors.Is(err, errContent) {
				return err
			} else if errors.Is(err, errContent) {
				s.warn(fmt.Sprintf("disk at %d of point %s is damaged, and was merged as it is", c<<clusterBits, above.point))
			}
			if _, err := w.f.WriteAt(b, w.place(c)); err != nil {
				return roomError(err)
			}
		}
	}
	return w.finish()
}

// mergeMaps writes the map of a layer that another was merged into, beside that other's.
func (s *Site) mergeMaps(path string, fileBytes int64, below, above *mapFile, based bool) error {
	m := &sumMap{size: above.size, fileBytes: fileBytes, kinds: above.kinds.over(below.kinds)}
	if err := m.join(below.sumMap, above.sumMap, based); err != nil {
		return err
	}
	err := writeMap(path+newSuffix, m, func(c int64) (uint64, error) {
		if r, ok := above.find(c); ok {
			return above.sum(r, c)
		}
		r, _ := below.find(c)
		return below.sum(r, c)
	})
	if err == nil {
		err = os.Chmod(path+newSuffix, 0o400)
	}
	s.step("map written")
	return errors.Join(err, syncDir(filepath.Dir(path)))
}

// join makes the rows of two layers one: those above hide those below. Where nothing is below both, zeros need not be told.
func (m *sumMap) join(below, above *sumMap, based bool) error {
	sum, i := int64(0), 0
	put := func(first, end int64, zero bool) error {
		if first >= end || zero && !based {
			return nil
		}
		if last := len(m.rows) - 1; last >= 0 && m.rows[last].first+m.rows[last].n == first && m.rows[last].zero == zero {
			m.rows[last].n += end - first
		} else {
			if len(m.rows) == maxRuns {
				return errRuns
			}
			m.rows = append(m.rows, row{first: first, n: end - first, zero: zero, sum: sum})
		}
		if !zero {
			sum += end - first
		}
		return nil
	}
	pos := int64(0) // up to here everything is told
	lower := func(to int64) error {
		for ; i < len(below.rows) && below.rows[i].first < to; i++ {
			r := below.rows[i]
			if err := put(max(r.first, pos), min(r.first+r.n, to), r.zero); err != nil {
				return err
			}
			if r.first+r.n > to {
				break // the rest may be seen behind what is above
			}
		}
		pos = max(pos, to)
		return nil
	}
	for _, r := range above.rows {
		if err := lower(r.first); err != nil {
			return err
		}
		if err := put(r.first, r.first+r.n, r.zero); err != nil {
			return err
		}
		pos = r.first + r.n
	}
	return lower(clustersOf(m.size))
}
