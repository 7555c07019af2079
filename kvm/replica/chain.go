package replica

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// layer is one disk of one point, open for reading.
type layer struct {
	point string
	based bool // it stands on another
	f     *os.File
	head  *layerHead
	l1    []uint64
	*mapFile
}

func (l *layer) close() error { return errors.Join(l.f.Close(), l.mapFile.f.Close()) }

// links are the points that a disk of a point stands on, the point itself first, by their records.
func links(vmDir, point, key string) (points []*record, err error) {
	seen := map[string]bool{}
	for id := point; ; {
		r, err := loadBase(vmDir, point, id)
		if err != nil {
			return nil, err
		}
		d, ok := r.disk(key)
		switch {
		case !ok && id == point:
			return nil, fmt.Errorf("disk %q of point %s: %w", key, point, fs.ErrNotExist)
		case !ok || seen[id] || len(points) == 2*maxChain:
			return nil, &DamagedError{Point: point, Disk: key, Err: fmt.Errorf("the points that it stands on do not hold together at %s", id)}
		}
		seen[id] = true
		if points = append(points, r); !d.Based {
			return points, nil
		}
		id = r.Base
	}
}

// loadBase reads the record of a point that another stands on, or of that one itself. The record of one that is being merged counts.
func loadBase(vmDir, point, id string) (*record, error) {
	dir := filepath.Join(vmDir, id)
	r, err := loadRecord(dir, recordName)
	if errors.Is(err, fs.ErrNotExist) {
		r, err = loadRecord(dir, mergingName)
	}
	if errors.Is(err, fs.ErrNotExist) && id != point {
		err = &DamagedError{Point: point, Err: fmt.Errorf("point %s, which it stands on, is gone", id)}
	}
	return r, err
}

// openChain opens a disk of a point with all that it stands on.
func openChain(vmDir, point, key string) (img *image, err error) {
	points, err := links(vmDir, point, key)
	if err != nil {
		return nil, err
	}
	top, _ := points[0].disk(key)
	img = &image{point: point, key: key, size: top.Size}
	for i, r := range points {
		l, err := openDisk(vmDir, r, key, top.Size)
		if err == nil {
			img.layers = append(img.layers, l)
			err = l.standsOn(points, i, key)
		}
		if err != nil {
			return nil, errors.Join(damagedDisk(r.Info.ID, key, err), img.Close())
		}
	}
	for i := len(img.layers) - 1; i >= 0; i-- {
		img.kinds = img.layers[i].kinds.over(img.kinds)
	}
	return img, nil
}

// damagedDisk says that a disk's files are not as they were written. Errors of the system's stay what they are, but for a
// file that is not there.
func damagedDisk(point, key string, err error) error {
	var damage *DamagedError
	if errors.As(err, &damage) || errors.Is(err, fs.ErrPermission) || errors.Is(err, errTooMany) {
		return err
	}
	return &DamagedError{Point: point, Disk: key, Err: err}
}

// openDisk opens the files of one disk of one point.
func openDisk(vmDir string, r *record, key string, size int64) (*layer, error) {
	d, _ := r.disk(key)
	if d.Size != size {
		return nil, fmt.Errorf("the disk has %d bytes there, and %d in what stands on it", d.Size, size)
	}
	path := filepath.Join(vmDir, r.Info.ID, d.Name)
	m, err := openMap(path+mapSuffix, size, d.Based)
	if err != nil {
		return nil, err
	}
	l := &layer{point: r.Info.ID, based: d.Based, mapFile: m}
	if l.f, l.head, err = openLayer(path+diskSuffix, os.O_RDONLY); err != nil {
		return nil, errors.Join(err, m.f.Close())
	}
	l.l1, err = l.head.readL1(l.f)
	switch {
	case err != nil:
	case l.head.size != imageSize(size):
		err = badLayer("its disk has %d bytes, and not %d", l.head.size, size)
	case l.head.fileBytes < m.fileBytes:
		err = badLayer("it has %d bytes, and had %d", l.head.fileBytes, m.fileBytes)
	}
	if err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

// standsOn holds that a disk's file names the one of the next point as its backing file, as QEMU is going to read it.
func (l *layer) standsOn(points []*record, i int, key string) error {
	want := ""
	if i+1 < len(points) {
		want = backingName(points[i+1].Info.ID, nameFor(key))
	}
	if l.head.backing != want {
		return badLayer("its backing file is %q, and not %q", l.head.backing, want)
	}
	return nil
}

const (
	diskSuffix = ".qcow2"
	mapSuffix  = ".map"
)

// backingName is how a disk's file names the one that it stands on: beside its own folder, so that a site can be moved.
func backingName(point, name string) string { return "../" + point + "/" + name + diskSuffix }
