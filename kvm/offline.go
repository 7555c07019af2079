package kvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/qcow2"
)

// A VM that is off is read from its images.
//
//	a bitmap is added to each qcow2 image, which records from now on      qemu-img
//	all files are held: a VM that is started now finds its disks locked   QEMU's own locks
//	disks and the base's bitmaps are read                                 pipe/qcow2
//	the files are let go, the base's bitmaps are removed                  qemu-img
//
// The new bitmap comes first: if the VM is started and ends before the files are held, it is all recorded.

// isOff reports whether what a monitor said means that the VM is off, and that its images are known.
func (m Machine) isOff(dial error) bool { return IsOff(dial) && len(m.Disks) > 0 }

// IsOff reports whether an error says that a VM is off, or never was where it was looked for: nobody listens at its
// monitor's socket. A VM that is known to have left for another host is not off, nor is one whose memory is saved.
func IsOff(err error) bool {
	return err != nil && gone(err) && !errors.Is(err, ErrMigrated) && !errors.Is(err, ErrSaved)
}

// describeOff is a VM as its images show it.
func (p *Provider) describeOff(ctx context.Context, m Machine) (hikae.VM, error) {
	if err := checkImages(m.Disks); err != nil {
		return hikae.VM{}, fmt.Errorf("%s: %w", m.ID(), err)
	}
	vm := hikae.VM{ID: m.ID(), Name: m.Name, Facts: map[string]string{"hypervisor": "QEMU", "status": "off"}, Config: maps.Clone(m.Config)}
	for _, image := range m.Disks {
		d := offDisk{DiskImage: image}
		if err := d.look(ctx); err != nil {
			return hikae.VM{}, fmt.Errorf("VM %s is off; disk %s: %w", m.ID(), d.Key, err)
		}
		vm.Disks = append(vm.Disks, hikae.Disk{Key: d.Key, Size: d.size})
	}
	return vm, nil
}

// offSnapshot is a VM that is off, held in that state.
type offSnapshot struct {
	provider *Provider
	machine  Machine
	opts     hikae.SnapshotOptions
	mark     string // in the names of the bitmaps that begin with it
	vm       hikae.VM
	disks    []*offDisk
	warnings []string
	crashed  bool // QEMU did not end in good order

	release   []func() error // of the files
	settle    func(context.Context) error
	early     bool // an unfinished point names the new bitmaps
	committed bool
}

// Early implements [hikae.EarlyTracking]: nobody writes to the images while they are held.
func (s *offSnapshot) Early(ctx context.Context) (map[string]hikae.ChangeID, error) {
	return s.Prepare(ctx)
}

// KeepEarly implements [hikae.EarlyTracking].
func (s *offSnapshot) KeepEarly() { s.early = true }

func (p *Provider) snapshotOff(ctx context.Context, m Machine, opts hikae.SnapshotOptions) (hikae.Snapshot, error) {
	s := &offSnapshot{provider: p, machine: m, opts: opts, mark: newFootprint(m.QMP).Mark}
	if err := s.take(ctx); err != nil {
		host, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		return nil, errors.Join(fmt.Errorf("VM %s, taken to be off: %w", m.ID(), err), s.Release(host))
	}
	return s, nil
}

func (s *offSnapshot) take(ctx context.Context) (err error) {
	if s.vm, err = s.provider.describeOff(ctx, s.machine); err != nil {
		return err
	}
	for i, image := range s.machine.Disks {
		d := &offDisk{DiskImage: image, Base: ourID(s.opts.Since[image.Key]), Next: bitmapOf(s.mark, i), Old: olderIDs(&s.opts, image.Key)}
		if err := d.look(ctx); err != nil {
			return fmt.Errorf("disk %s: %w", d.Key, err)
		}
		if err := unbroken(d.Path); err != nil {
			return fmt.Errorf("disk %s: %w", d.Key, err)
		}
		s.disks = append(s.disks, d)
	}
	s.missing()
	for _, step := range []func(context.Context) error{s.intend, s.addBitmaps, s.hold, s.verify} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// missing warns of disks that the machine had while it ran and that are not named: the point lacks them.
func (s *offSnapshot) missing() {
	r, _, err := readRecord(s.machine.Config)
	if err != nil {
		return
	}
	for _, was := range r.Disks {
		named := slices.ContainsFunc(s.machine.Disks, func(d DiskImage) bool { return d.Key == was.Key })
		if !named && was.Skip == "" {
			s.warnings = append(s.warnings, fmt.Sprintf("disk %s is not in the point: the VM had it in %s, and it is not among the images that are named", was.Key, was.Path))
		}
	}
}

const kindImages = "kvm.images" // the bitmaps that begin with a session on a VM that is off

// intend writes down what is going to be done to the images.
func (s *offSnapshot) intend(ctx context.Context) error {
	s.settle = func(context.Context) error { return nil }
	if s.opts.Journal == nil {
		return nil
	}
	e, err := imagesEffect(kindImages, s.machine, s.mark, s.disks)
	if err != nil {
		return err
	}
	e.Repository = s.opts.Repository
	done, err := s.opts.Journal.Intend(ctx, e)
	if err == nil {
		s.settle = done
	}
	return err
}

func imagesEffect(kind string, m Machine, mark string, disks []*offDisk) (hikae.Effect, error) {
	text, err := json.Marshal(disks)
	facts := map[string]string{"mark": mark, "qmp": m.QMP, "images": string(text)}
	if m.Domain != nil {
		facts["libvirt"], facts["uri"], facts["domain"] = m.Domain.Socket, m.Domain.URI, m.Domain.UUID
	}
	return hikae.Effect{Kind: kind, VM: m.ID(), Facts: facts}, err
}

// addBitmaps begins to track. Where that cannot be, the next backup reads the whole disk; only a disk that somebody has
// open is a reason to stop.
func (s *offSnapshot) addBitmaps(ctx context.Context) error {
	for _, d := range s.disks {
		if d.Format != formatQcow2 || d.old {
			continue
		}
		if err := s.addBitmap(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

func (s *offSnapshot) addBitmap(ctx context.Context, d *offDisk) error {
	release, err := d.hold(ctx) // asks for nothing yet, but names who has it open
	if err != nil {
		return err
	}
	if err := release(); err != nil {
		return err
	}
	err = changeBitmap(ctx, "--add", *d, d.Next)
	var busy *hikae.BusyError
	if err == nil || errors.As(err, &busy) || ctx.Err() != nil {
		return err
	}
	s.warnings = append(s.warnings, fmt.Sprintf("disk %s: changes are not tracked from here on, the next backup reads all of it: %v", d.Key, err))
	return nil
}

func (s *offSnapshot) hold(ctx context.Context) error {
	for _, d := range s.disks {
		release, err := d.hold(ctx)
		if err != nil {
			return err
		}
		s.release = append(s.release, release)
	}
	return nil
}

// verify looks at what stands in the images now that nobody can change it. A restore in place may have begun since the
// markers were looked for; none can begin now.
func (s *offSnapshot) verify(ctx context.Context) error {
	for _, d := range s.disks {
		if err := unbroken(d.Path); err != nil {
			return fmt.Errorf("disk %s: %w", d.Key, err)
		}
		list, err := d.bitmaps(ctx)
		if err != nil {
			return fmt.Errorf("disk %s: %w", d.Key, err)
		}
		if brokenOff(list, string(s.opts.Since[d.Key])) && !s.crashed {
			s.crashed = true
			s.warnings = append(s.warnings, fmt.Sprintf("disk %s: QEMU did not end in good order since the last backup, so the guest was not shut down; or its image is open on another machine", d.Key))
		}
		b, ok := hasBitmap(list, d.Next)
		d.next = ok && b.Auto && !b.InUse
	}
	return nil
}

// brokenOff reports whether the QEMU that had the image open last did not end in good order. The base's bitmap was whole at
// the last backup, so it tells of the time since; others may be in use from long ago, and are asked only where it is not
// there.
func brokenOff(list []qcow2.Bitmap, base string) bool {
	if b, ok := hasBitmap(list, base); ok {
		return b.InUse
	}
	return slices.ContainsFunc(list, func(b qcow2.Bitmap) bool { return b.InUse })
}

func (s *offSnapshot) letGo() error {
	var errs []error
	for _, release := range s.release {
		errs = append(errs, release())
	}
	s.release = nil
	return errors.Join(errs...)
}

// VM, Consistency and Warnings say what is held, and how.
func (s *offSnapshot) VM() hikae.VM       { return s.vm }
func (s *offSnapshot) Warnings() []string { return slices.Clone(s.warnings) }

// Consistency implements [hikae.Snapshot]. A guest that QEMU's end came over is as after a power cut.
func (s *offSnapshot) Consistency() hikae.Consistency {
	if s.crashed {
		return hikae.Crash
	}
	return hikae.Offline
}

func (s *offSnapshot) disk(key string) (*offDisk, error) {
	for _, d := range s.disks {
		if d.Key == key {
			return d, nil
		}
	}
	return nil, fmt.Errorf("disk %q: %w", key, fs.ErrNotExist)
}

// OpenDisk implements [hikae.Snapshot]. Closing the image tells, by an error, whether somebody wrote to it all the same.
func (s *offSnapshot) OpenDisk(ctx context.Context, key string) (pipe.Image, error) {
	d, err := s.disk(key)
	if err != nil {
		return nil, err
	}
	return d.open(ctx)
}

// Changed implements [hikae.Snapshot], by the bitmap that the base point names.
func (s *offSnapshot) Changed(ctx context.Context, key string, since hikae.ChangeID) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		d, err := s.disk(key)
		if err != nil {
			yield(pipe.Extent{}, err)
			return
		}
		d.changed(ctx, string(since), yield)
	}
}

// changed yields what a bitmap in an image tells. A bitmap that cannot be believed is tracking that was lost.
func (d *offDisk) changed(ctx context.Context, since string, yield func(pipe.Extent, error) bool) {
	switch {
	case since == "":
		yield(pipe.Extent{}, lost("the base point has no change id for this disk"))
		return
	case d.Format != formatQcow2:
		yield(pipe.Extent{}, lost("a %s image keeps no record of changes", d.Format))
		return
	case d.old:
		yield(pipe.Extent{}, lost("a qcow2 image of version 2 keeps no record of changes: qemu-img amend -o compat=1.1 makes it one of version 3"))
		return
	}
	img, err := d.qcow2(ctx, false)
	if err != nil {
		yield(pipe.Extent{}, err)
		return
	}
	defer img.Close()
	if b, ok := hasBitmap(img.Info().Bitmaps, since); ok && !b.Auto {
		yield(pipe.Extent{}, lost("bitmap %s was not recording", since))
		return
	}
	for e, err := range img.BitmapExtents(ctx, since) {
		if !yield(e, explainBitmap(since, err)) || err != nil {
			return
		}
	}
}

func explainBitmap(name string, err error) error {
	var corrupt *qcow2.CorruptError
	var unknown *qcow2.UnsupportedError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return lost("bitmap %s is not there any more", name)
	case errors.Is(err, qcow2.ErrBitmapInUse):
		return lost("bitmap %s is inconsistent: QEMU did not end in an orderly way", name)
	case errors.As(err, &corrupt), errors.As(err, &unknown):
		return lost("bitmap %s cannot be read: %v", name, err)
	}
	return err
}

// Prepare hands out the bitmaps that began with the session.
func (s *offSnapshot) Prepare(context.Context) (map[string]hikae.ChangeID, error) {
	out := map[string]hikae.ChangeID{}
	for _, d := range s.disks {
		if d.next {
			out[d.Key] = hikae.ChangeID(d.Next)
		}
	}
	return out, nil
}

// Commit lets the images go, and removes the bitmaps of the base. A VM that is started just then is asked by its monitor.
func (s *offSnapshot) Commit(ctx context.Context) error {
	s.committed = true
	err := s.letGo()
	err = errors.Join(err, s.provider.dropBitmaps(ctx, s.machine, s.all(), func(d offDisk) []string { return withBase(d.Base, d.Old) }))
	if err != nil {
		return fmt.Errorf("remove the bitmaps of the base: %w", err)
	}
	return s.settled(ctx)
}

// settled is called when nothing is left to be undone.
func (s *offSnapshot) settled(ctx context.Context) error {
	err := s.settle(ctx)
	if err == nil {
		s.settle = nil
	}
	return err
}

func (s *offSnapshot) all() (disks []offDisk) {
	for _, d := range s.disks {
		disks = append(disks, *d)
	}
	return disks
}

// Release lets the images go, and without a Commit removes what was added. The base was never touched.
func (s *offSnapshot) Release(ctx context.Context) error {
	err := s.letGo()
	if s.settle == nil {
		return err
	}
	drop := func(d offDisk) []string {
		switch {
		case s.committed:
			return withBase(d.Base, d.Old)
		case s.early:
			return replaced(&s.opts, d.Key)
		}
		return []string{d.Next}
	}
	if dropped := s.provider.dropBitmaps(ctx, s.machine, s.all(), drop); dropped != nil {
		return errors.Join(err, dropped)
	}
	return errors.Join(err, s.settled(ctx))
}

// undoImages goes back to the base, or on to the point that was committed.
func (p *Provider) undoImages(ctx context.Context, e hikae.Effect, keep []hikae.ChangeID) error {
	mark, m, disks, err := imagesOf(e)
	if err != nil {
		return err
	}
	drop := dropOf(mark, keep)
	return p.dropBitmaps(ctx, m, disks, func(d offDisk) []string { return drop(d.Base, d.Next, d.Old) })
}

// filed reports whether it is known in which images the bitmaps of a session on a running machine are.
func (f *footprint) filed() bool {
	return len(f.Disks) > 0 && !slices.ContainsFunc(f.Disks, func(d disk) bool { return d.File == "" })
}

// undoBitmapsOff is for a machine that was running and is off by now: what is persistent is in its images.
func (p *Provider) undoBitmapsOff(ctx context.Context, f *footprint, keep []hikae.ChangeID) error {
	var disks []offDisk
	for _, d := range f.Disks {
		disks = append(disks, offDisk{DiskImage: DiskImage{Key: d.Key, Path: d.File, Format: d.Format}, Base: d.Base, Next: d.Next, Old: d.Old})
	}
	drop := dropOf(f.Mark, keep)
	return p.dropBitmaps(ctx, f.machine(), disks, func(d offDisk) []string { return drop(d.Base, d.Next, d.Old) })
}

// imagesOf reads the note of an effect on images.
func imagesOf(e hikae.Effect) (mark string, m Machine, disks []offDisk, err error) {
	mark, m = e.Facts["mark"], Machine{QMP: e.Facts["qmp"]}
	if id := e.Facts["domain"]; id != "" {
		m.Domain = &Domain{Socket: e.Facts["libvirt"], URI: e.Facts["uri"], UUID: id}
	}
	if err = json.Unmarshal([]byte(e.Facts["images"]), &disks); err != nil {
		return "", m, nil, fmt.Errorf("effect %s of %s: images: %w", e.ID, e.Kind, err)
	}
	var images []DiskImage
	for _, d := range disks {
		images = append(images, d.DiskImage)
	}
	if err = checkImages(images); err == nil && !validMark.MatchString(mark) {
		err = fmt.Errorf("%w: mark %q", fs.ErrInvalid, mark)
	}
	if err != nil {
		return "", m, nil, fmt.Errorf("effect %s of %s: %w", e.ID, e.Kind, err)
	}
	return mark, m, disks, nil
}
