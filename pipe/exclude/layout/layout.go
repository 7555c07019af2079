package layout

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/hikae/hikae/pipe"
)

// Bounds of what is looked at. A machine with more is possible, and is stored whole beyond them.
const (
	maxDisks   = 256
	maxVolumes = 4096
	// maxDisk bounds a disk's size in bytes, so that sums of offsets cannot overflow.
	maxDisk = 1 << 60
)

// Disk is one disk of a machine.
type Disk struct {
	Key   string
	Image pipe.Image
	// SectorSize is what the numbers in its MBR count, in bytes. Zero: 512.
	SectorSize int64
}

// Layout is what was found on the disks of one machine.
type Layout struct {
	Volumes []*Volume
	Notes   []string // what a person may want to know: a damaged backup header
}

// Read finds the volumes on the disks, in the order of the disks and of the volumes on them; logical volumes come last.
//
// What cannot be read or understood is a volume that is whole with the reason, never an error. Errors are that of a
// context that ended, and [fs.ErrInvalid] for disks without key, image, or with one key twice.
func Read(ctx context.Context, disks []Disk) (*Layout, error) {
	if err := check(disks); err != nil {
		return nil, err
	}
	r := &reader{lvm: lvm{groups: map[string]*group{}}}
	for i := range disks {
		r.disk(ctx, &disks[i])
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	if r.logical(ctx); ctx.Err() != nil {
		return nil, ctx.Err()
	}
	doubtOverlaps(r.volumes)
	return &Layout{Volumes: r.volumes, Notes: r.notes}, nil
}

func check(disks []Disk) error {
	if len(disks) > maxDisks {
		return fmt.Errorf("layout of %d disks: at most %d: %w", len(disks), maxDisks, fs.ErrInvalid)
	}
	seen := map[string]bool{}
	for _, d := range disks {
		if d.Key == "" || d.Image == nil || seen[d.Key] || d.Image.Size() < 0 || d.Image.Size() > maxDisk {
			return fmt.Errorf("layout of disk %q: no key, no image, an impossible size, or given twice: %w", d.Key, fs.ErrInvalid)
		}
		if s := d.SectorSize; s != 0 && (s < 512 || s > 1<<16 || s&(s-1) != 0) {
			return fmt.Errorf("layout of disk %q: sectors of %d bytes: %w", d.Key, s, fs.ErrInvalid)
		}
		seen[d.Key] = true
	}
	return nil
}

// reader gathers what is found, disk by disk.
type reader struct {
	volumes []*Volume
	notes   []string
	lvm     lvm
}

func (r *reader) note(format string, args ...any) {
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
}

// region is a part of a disk that a table, or the lack of one, makes a volume of.
type region struct {
	name, label, typ string
	off, n           int64
	whole            string
}

func (r *reader) disk(ctx context.Context, d *Disk) {
	if d.Image.Size() == 0 {
		return
	}
	regions, err := r.table(ctx, d)
	if err != nil {
		regions = []region{{name: d.Key, n: d.Image.Size(), whole: fmt.Sprintf("it cannot be read: %v", err)}}
	}
	for _, g := range regions {
		r.region(ctx, d, g)
	}
}

// region makes a volume of a part of a disk, or a physical volume.
func (r *reader) region(ctx context.Context, d *Disk, g region) {
	if g.n <= 0 {
		return
	}
	v := &Volume{Name: g.name, Label: g.label, Type: g.typ, Whole: g.whole, segments: []segment{linear(d, g.off, g.n)}}
	v.finish()
	if len(r.volumes) >= maxVolumes {
		v.Whole = "too many volumes"
	}
	if v.identify(ctx); v.Kind == PhysicalVolume && v.Whole == "" {
		if v.Whole = r.lvm.add(ctx, v, d, g.off); v.Whole == "" {
			return // its logical volumes stand for it
		}
	}
	r.volumes = append(r.volumes, v)
}

// logical adds the logical volumes. What is on them is found as on a partition, but for other physical volumes: a group
// inside of a group is not looked into.
func (r *reader) logical(ctx context.Context) {
	for _, v := range r.lvm.volumes(r.volumes) {
		if len(r.volumes) >= maxVolumes {
			v.Whole = "too many volumes"
		}
		v.identify(ctx)
		r.volumes = append(r.volumes, v)
	}
}

// identify finds out what is on a volume of which nothing is known yet that speaks against looking.
func (v *Volume) identify(ctx context.Context) {
	if v.Whole != "" {
		return
	}
	img := v.Image()
	found, err := Identify(ctx, img)
	if err != nil {
		v.Whole = fmt.Sprintf("it cannot be read: %v", err)
		return
	}
	inner, err := readMBR(ctx, img)
	switch {
	case err != nil:
		v.Whole = fmt.Sprintf("it cannot be read: %v", err)
	case inner.used() && len(found) > 0:
		// A disk of its own, as of a machine within the machine: a table touches little of what was there before.
		v.Whole = fmt.Sprintf("it carries both a partition table and the signature of %s", found[0].Kind)
	default:
		v.judge(found)
	}
}

// judge says what a volume with these signatures is.
func (v *Volume) judge(found []Signature) {
	switch {
	case len(found) > 1:
		v.Whole = fmt.Sprintf("it carries the signatures of %s and %s", found[0].Kind, found[1].Kind)
	case len(found) == 1:
		v.Kind = found[0].Kind
		if found[0].Opaque {
			v.Whole = found[0].Kind + " is not looked into"
		}
	}
}

// readAt reads all of p, or fewer bytes at the end of the image.
func readAt(ctx context.Context, img pipe.Image, p []byte, off int64) (int, error) {
	if off < 0 || off >= img.Size() {
		return 0, nil
	}
	n, err := img.ReadAt(ctx, p[:min(int64(len(p)), img.Size()-off)], off)
	if errors.Is(err, io.EOF) && off+int64(n) == img.Size() {
		err = nil
	}
	return n, err
}
