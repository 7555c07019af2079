package replica

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
)

// FactSealed is the fact of a point that was sealed: the id of the point that its VM ran from.
const FactSealed = "replica.sealed"

// Seal makes a point of what the VM of a failover wrote, as the newest one, standing on the point that it ran from. The
// replica is Ready then. The VM must be off: a [*hikae.BusyError] where it runs. A replica that is not failed over is a
// [*StateError].
//
// The VM's files become the point's: nothing is copied, but all that was written is read. A seal that was killed is ended by
// whoever comes next: who finds the replica Ready then knows the point by [FactSealed]. Seals whose disks were given another size meanwhile are refused with [ErrResized].
func (s *Site) Seal(ctx context.Context, vm string) (info pipe.PointInfo, err error) {
	if err := errors.Join(ctx.Err(), checkVM(vm)); err != nil {
		return info, err
	}
	dir := s.folder(vm)
	if _, err := os.Lstat(dir); err != nil {
		return info, &StateError{Op: "seal", State: State{VM: vm, Stage: Ready}}
	}
	lock, err := takeLock(dir, vm, "seal")
	if err != nil {
		return info, err
	}
	defer func() { err = errors.Join(err, lock.release()) }()
	st, err := loadState(dir, vm)
	if err != nil {
		return info, err
	}
	if st.Stage != FailedOver && st.Stage != FailingBack {
		return info, &StateError{Op: "seal", State: st.State}
	}
	if err := st.mustBeOff(ctx); err != nil {
		return info, err
	}
	if st.Stage == FailedOver {
		if err := sealable(st); err != nil {
			return info, err
		}
		st.Stage, st.Seal = FailingBack, newID()
		if err := st.save(dir); err != nil {
			return info, err
		}
		s.step("failing back")
	}
	return s.finishSeal(dir, st)
}

// sealable looks at the files before anything is done to them.
func sealable(st *stateText) error {
	for _, d := range st.Disks {
		f, h, err := openLayer(d.Path, os.O_RDONLY)
		if err != nil {
			return fmt.Errorf("disk %s: %w", d.Key, err)
		}
		if h.size != imageSize(d.Size) {
			err = fmt.Errorf("disk %s has %d bytes, and had %d: %w", d.Key, h.size, d.Size, ErrResized)
		} else if want := backingName(st.Point, nameFor(d.Key)); h.backing != want {
			err = fmt.Errorf("disk %s stands on %q, and not on %q: %w", d.Key, h.backing, want, errLayer)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// finishSeal ends a seal, from wherever it is.
func (s *Site) finishSeal(dir string, st *stateText) (pipe.PointInfo, error) {
	to := filepath.Join(dir, st.Seal)
	if r, err := loadRecord(to, recordName); err == nil { // it came so far before
		return r.Info, s.discardRun(dir, st)
	}
	if err := os.Mkdir(to, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return pipe.PointInfo{}, roomError(err)
	}
	r, err := s.sealRecord(dir, st)
	if err != nil {
		return pipe.PointInfo{}, err
	}
	for i, d := range r.Disks {
		if err := s.sealDisk(dir, to, st, d, &r.Info.Disks[i], &r.Info.New); err != nil {
			return pipe.PointInfo{}, fmt.Errorf("seal disk %s: %w", d.Key, err)
		}
	}
	if err := errors.Join(makeReadOnly(to), syncDir(to), syncDir(dir)); err != nil {
		return pipe.PointInfo{}, err
	}
	s.step("sealed files durable")
	if err := saveRecord(to, r); err != nil {
		return pipe.PointInfo{}, err
	}
	s.step("sealed record saved")
	return r.Info, s.discardRun(dir, st)
}

// sealRecord is the record of the point that is made. Its blobs, the configuration among them, are those of the point that
// the VM ran from. It has no change ids: they are of a VM that did not run meanwhile.
func (s *Site) sealRecord(dir string, st *stateText) (*record, error) {
	list, _, err := listFolder(dir)
	if err != nil {
		return nil, err
	}
	under, err := loadRecord(filepath.Join(dir, st.Point), recordName)
	if err != nil {
		return nil, err
	}
	r := &record{Base: st.Point, Blobs: under.Blobs}
	r.Info = pipe.PointInfo{
		ID: st.Seal, VM: st.VM, Time: time.Now(), Consistency: hikae.Crash.String(), Blobs: under.Info.Blobs, Facts: maps.Clone(under.Info.Facts),
	}
	if r.Info.Facts == nil {
		r.Info.Facts = map[string]string{}
	}
	r.Info.Facts[FactSealed] = st.Point
	for _, d := range under.Disks {
		r.Disks = append(r.Disks, diskRecord{Key: d.Key, Name: d.Name, Size: d.Size, Based: true})
		r.Info.Disks = append(r.Info.Disks, pipe.DiskInfo{Key: d.Key, Size: d.Size})
	}
	for i := range under.Blobs {
		from, to := filepath.Join(dir, st.Point, blobName(i)), filepath.Join(dir, st.Seal, blobName(i))
		if err := os.Link(from, to); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, roomError(err)
		}
	}
	r.follow(list[len(list)-1])
	return r, nil
}

// sealDisk makes the map of what was written to one disk, and moves its file.
func (s *Site) sealDisk(dir, to string, st *stateText, d diskRecord, info *pipe.DiskInfo, stored *int64) error {
	from, path := filepath.Join(dir, runName, d.Name)+diskSuffix, filepath.Join(to, d.Name)
	if _, err := os.Lstat(path + diskSuffix); errors.Is(err, fs.ErrNotExist) {
		if err := mapLayer(from, path+mapSuffix, d.Size); err != nil {
			return err
		}
		s.step("sealed map written")
		if err := errors.Join(syncFile(from), os.Rename(from, path+diskSuffix)); err != nil {
			return err
		}
		s.step("sealed disk moved")
	}
	base, err := openChain(dir, st.Point, d.Key)
	if err != nil {
		return err
	}
	defer base.Close()
	m, err := openMap(path+mapSuffix, d.Size, true)
	if err != nil {
		return err
	}
	info.Data, info.Absent = m.kinds.over(base.kinds).totals()
	*stored += m.sums() << clusterBits
	return m.f.Close()
}

// mapLayer writes the map of a file that QEMU wrote.
func mapLayer(path, mapPath string, size int64) error {
	w, err := changeLayer(path)
	if err != nil {
		return err
	}
	defer w.close()
	m := &sumMap{size: size, fileBytes: w.next << clusterBits, kinds: newKinds(size, pipe.Unchanged)}
	if err := m.fill(w); err != nil {
		return err
	}
	for _, r := range m.rows {
		kind := pipe.Data
		if r.zero {
			kind = pipe.Zero
		}
		off := r.first << clusterBits
		if err := m.kinds.set(off, min(r.n<<clusterBits, size-off), kind); err != nil {
			return err
		}
	}
	info, err := w.f.Stat()
	if err != nil {
		return err
	}
	m.fileBytes = info.Size() // QEMU may end a file within a cluster
	b := make([]byte, clusterSize)
	return writeMap(mapPath, m, func(c int64) (uint64, error) {
		err := readCluster(w.f, b, int64(w.entry(c)&offsetBits))
		return xxhash.Sum64(b), err
	})
}

// syncFile makes durable what anybody has written to a file.
func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
