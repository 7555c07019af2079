package kvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
	"github.com/hikae/hikae/pipe/nbd"
)

// A restore in place writes over the disks of a VM that is off.
//
//	the monitor is asked, and the images' locks: nobody runs it
//	markers are set beside the images: from now on they are known to be half restored
//	all disks are held, so that nobody starts the VM on what is half restored
//	each disk in its turn is opened for writing instead    qemu-nbd, or our own lock for raw images
//	where the point's own bitmap is in the image, only what it tells is compared; else all of the disk
//	what differs is written
//	the markers go
//
// Bitmaps that are in the image go on recording while QEMU's own server writes. So what they tell stays true of every
// point that names them, and the next backup may build on them: what the restore changed is in them like a guest's write.
// If the server is killed they stay marked as not saved, which nobody believes.

// RunningError says that a VM must be off to be restored in place, and is not.
type RunningError struct {
	VM      string
	Machine Machine // empty where it is known by its disks' locks only
}

func (e *RunningError) Error() string {
	return fmt.Sprintf("VM %s is running; it must be off to be restored in place", e.VM)
}

// Unwrap makes it what all providers say where somebody else is at work.
func (e *RunningError) Unwrap() error {
	return &hikae.BusyError{What: "VM " + e.VM, Owner: "its guest"}
}

// Hint is the command that asks the guest to shut down.
func (e *RunningError) Hint() string {
	switch {
	case e.Machine.Domain != nil:
		return "Shut it down: virsh -c " + quoteShell(e.Machine.Domain.URI) + " shutdown " + quoteShell(e.Machine.Domain.UUID)
	case e.Machine.QMP == "":
		return "Shut the VM down, then restore again."
	}
	return `Shut it down: printf '{"execute":"qmp_capabilities"}{"execute":"system_powerdown"}' | socat -t1 - UNIX-CONNECT:` + quoteShell(e.Machine.QMP)
}

const kindPlace = "kvm.place" // disks that are being written over

// placeDraft is a VM that is being written over. It is a job.Placer and a job.Rereader.
type placeDraft struct {
	restorer *Restorer
	machine  Machine
	journal  hikae.Journal
	mark     string
	dir      string // of sockets

	disks  []*placeDisk
	settle func(context.Context) error
	marked bool // markers may be there
	closed bool
}

// placeDisk is one disk of it.
type placeDisk struct {
	offDisk
	since  string       // bitmap that begins with the point, if the image has it
	chosen bool         // to be written
	broken bool         // a restore before this one did not come to its end
	letGo  func() error // ends that writers are kept away; nil: they are not
	target *placeTarget
	client *nbd.Client
	whole  bool // it was committed
}

// InPlace implements [hikae.Restorer]: id is that of a machine, which must be off and whose images must be known. A
// machine that runs is a *RunningError.
func (r *Restorer) InPlace(ctx context.Context, id string, opts *hikae.RestoreOptions) (hikae.Draft, error) {
	p := New(r.opts.Machines, &Options{Scratch: r.opts.Scratch})
	m, err := p.machine(id)
	if err != nil {
		return nil, err
	}
	if err := isStopped(ctx, p, m); err != nil {
		return nil, err
	}
	if len(m.Disks) == 0 {
		return nil, fmt.Errorf("VM %s is off, and where its disks are is not known: %w", id, fs.ErrInvalid)
	}
	if err := checkImages(m.Disks); err != nil {
		return nil, fmt.Errorf("%s: %w", id, err)
	}
	d := &placeDraft{restorer: r, machine: m, mark: newFootprint(m.QMP).Mark}
	if opts != nil {
		d.journal = opts.Journal
	}
	for _, image := range m.Disks {
		disk := &placeDisk{offDisk: offDisk{DiskImage: image}}
		if err := disk.look(ctx); err != nil {
			return nil, fmt.Errorf("disk %s: %w", disk.Key, err)
		}
		d.disks = append(d.disks, disk)
	}
	return d, nil
}

func isStopped(ctx context.Context, p *Provider, m Machine) error {
	mon, err := p.monitor(ctx, m)
	if err == nil {
		mon.Close()
	}
	var busy *hikae.BusyError
	switch {
	case err == nil || errors.As(err, &busy):
		return &RunningError{VM: cmpOr(m.Name, m.ID()), Machine: m}
	case !IsOff(err):
		return err
	}
	return nil
}

func (d *placeDraft) disk(key string) (*placeDisk, error) {
	i := slices.IndexFunc(d.disks, func(p *placeDisk) bool { return p.Key == key })
	if i < 0 {
		return nil, fmt.Errorf("disk %q of VM %s: %w", key, d.machine.ID(), fs.ErrNotExist)
	}
	return d.disks[i], nil
}

// Ready looks at all disks that are to be written, and writes down that they will be. On an error nothing was touched.
func (d *placeDraft) Ready(ctx context.Context, disks []hikae.Disk, since map[string]hikae.ChangeID) error {
	for _, want := range disks {
		p, err := d.disk(want.Key)
		if err != nil {
			return err
		}
		if p.size != want.Size {
			return fmt.Errorf("disk %s is %d bytes, in the point it is %d: resize it first, or restore to a new VM: %w", p.Key, p.size, want.Size, fs.ErrInvalid)
		}
		if err := p.ready(ctx, string(since[want.Key])); err != nil {
			return fmt.Errorf("disk %s: %w", p.Key, err)
		}
		p.chosen = true
	}
	return d.begin(ctx)
}

// ready finds out whether a disk can be written, and by which bitmap it can be known what differs.
func (p *placeDisk) ready(ctx context.Context, since string) error {
	if err := p.release(); err != nil { // it is asked again
		return err
	}
	release, err := p.hold(ctx)
	var busy *hikae.BusyError
	if errors.As(err, &busy) {
		return fmt.Errorf("%w: %w", &RunningError{VM: p.Path}, err)
	}
	if err != nil {
		return err
	}
	p.letGo = release
	if p.Format == formatQcow2 {
		if _, err := exec.LookPath("qemu-nbd"); err != nil {
			return err
		}
	}
	list, err := p.bitmaps(ctx)
	if err != nil {
		return err
	}
	if _, p.broken, err = readMarker(p.Path); err != nil || p.broken {
		return err // a bitmap of a disk that is half restored is right too, but let nothing depend on it
	}
	if b, ok := hasBitmap(list, since); ok && b.Auto && !b.InUse {
		p.since = since
	}
	return nil
}

// begin writes down what is going to happen, in the journal and beside the disks.
func (d *placeDraft) begin(ctx context.Context) error {
	if d.settle != nil {
		return nil
	}
	scratch, err := (New(nil, &Options{Scratch: d.restorer.opts.Scratch})).scratch()
	if err != nil {
		return err
	}
	d.dir = filepath.Join(scratch, d.mark)
	d.settle = func(context.Context) error { return nil }
	var chosen []*offDisk
	for _, p := range d.disks {
		if p.chosen {
			chosen = append(chosen, &p.offDisk)
		}
	}
	if d.journal != nil {
		e, err := imagesEffect(kindPlace, d.machine, d.mark, chosen)
		if err != nil {
			return err
		}
		e.Facts["dir"] = d.dir
		if d.settle, err = d.journal.Intend(ctx, e); err != nil {
			d.settle = nil
			return err
		}
	}
	d.marked = true
	for _, c := range chosen {
		if err := setMarker(marker{Mark: d.mark, VM: cmpOr(d.machine.Name, d.machine.ID()), Path: c.Path}); err != nil {
			return fmt.Errorf("disk %s: %w", c.Key, err)
		}
	}
	return os.Mkdir(d.dir, 0o700)
}

// OpenDisk implements [hikae.Draft]. What the target is given and differs from the disk is written at once; there is no
// way back.
func (d *placeDraft) OpenDisk(ctx context.Context, key string) (pipe.Target, error) {
	p, err := d.disk(key)
	if err != nil {
		return nil, err
	}
	if !p.chosen {
		return nil, fmt.Errorf("disk %s: Ready did not name it: %w", key, fs.ErrInvalid)
	}
	if p.target != nil {
		return nil, fmt.Errorf("disk %s: it is open already: %w", key, fs.ErrExist)
	}
	if err := p.release(); err != nil {
		return nil, err
	}
	if p.Format == formatQcow2 {
		p.target, err = d.openQcow2(ctx, p)
	} else {
		p.target, err = p.openRaw()
	}
	if err != nil {
		return nil, err
	}
	return p.target, nil
}

func (d *placeDraft) openQcow2(ctx context.Context, p *placeDisk) (*placeTarget, error) {
	w, err := startWriter(ctx, &p.offDisk, d.dir, p.since)
	if err != nil {
		return nil, err
	}
	to, err := w.client.Target(&nbd.TargetOptions{Base: true})
	if err != nil {
		w.kill()
		return nil, err
	}
	p.client = w.client
	t := newPlaceTarget(to, w.client)
	t.finish = func(ctx context.Context) error {
		return p.written(ctx, errors.Join(w.end(ctx), syncImage(p.Path)))
	}
	t.abandon = func() error { return w.end(context.Background()) }
	return t, nil
}

func (p *placeDisk) openRaw() (*placeTarget, error) {
	to, err := diskfile.OpenTarget(p.Path, nil)
	if err != nil {
		return nil, p.inUse(err)
	}
	is, err := diskfile.Open(p.Path, &diskfile.OpenOptions{Live: true})
	if err != nil {
		return nil, errors.Join(err, to.Close())
	}
	t := newPlaceTarget(to, is)
	t.finish = func(ctx context.Context) error { return p.written(ctx, is.Close()) }
	t.abandon = func() error { return errors.Join(to.Close(), is.Close()) }
	return t, nil
}

// written is called when a disk is whole, or was meant to be: writers are kept away from it again.
func (p *placeDisk) written(ctx context.Context, failed error) (err error) {
	if failed == nil {
		p.letGo, failed = p.hold(ctx)
	}
	p.whole = failed == nil
	return failed
}

// release lets writers at the disk again.
func (p *placeDisk) release() error {
	letGo := p.letGo
	if p.letGo = nil; letGo == nil {
		return nil
	}
	return letGo()
}

// Changed says by the bitmap of the point what may differ from it.
func (d *placeDraft) Changed(ctx context.Context, key string, since hikae.ChangeID) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		p, err := d.disk(key)
		switch {
		case err != nil:
			yield(pipe.Extent{}, err)
		case p.client == nil || p.since == "" || p.since != string(since):
			yield(pipe.Extent{}, lost("the image has no usable bitmap that began with the point"))
		default:
			dirtyExtents(ctx, p.client, p.since, yield)
		}
	}
}

// dirtyExtents yields what an exported bitmap tells.
func dirtyExtents(ctx context.Context, c *nbd.Client, bitmap string, yield func(pipe.Extent, error) bool) {
	for status, err := range c.BlockStatus(ctx, bitmapContext(bitmap), 0, c.Size()) {
		e := pipe.Extent{Off: status.Off, Len: status.Len, Kind: pipe.Unchanged}
		if status.Flags&dirty != 0 {
			e.Kind = pipe.Data
		}
		if !yield(e, err) || err != nil {
			return
		}
	}
}

// Reread opens a disk that was committed, by our own readers.
func (d *placeDraft) Reread(ctx context.Context, key string) (pipe.Image, error) {
	p, err := d.disk(key)
	if err != nil {
		return nil, err
	}
	return p.open(ctx)
}

// Commit takes the markers away. The VM can be started.
func (d *placeDraft) Commit(ctx context.Context) (string, error) {
	for _, p := range d.disks {
		if p.chosen && !p.whole {
			return "", fmt.Errorf("disk %s was not written to its end: %w", p.Key, fs.ErrInvalid)
		}
	}
	if err := d.unmark(ctx); err != nil {
		return "", err
	}
	return d.machine.ID(), d.release()
}

func (d *placeDraft) release() error {
	var errs []error
	for _, p := range d.disks {
		errs = append(errs, p.release())
	}
	return errors.Join(errs...)
}

func (d *placeDraft) unmark(ctx context.Context) error {
	for _, p := range d.disks {
		if p.chosen {
			if err := removeMarker(p.Path); err != nil {
				return err
			}
		}
	}
	d.marked = false
	if d.settle == nil {
		return nil
	}
	if err := errors.Join(os.RemoveAll(d.dir), d.settle(ctx)); err != nil {
		return err
	}
	d.settle = nil
	return nil
}

// Close ends a restore. Without a Commit, disks of which anything was written stay marked as half restored, and so do
// those that were before; that is an *IncompleteError.
func (d *placeDraft) Close() error {
	if d.closed {
		return nil
	}
	d.closed = true
	var errs []error
	var written int64
	var first *placeDisk
	for _, p := range d.disks {
		if p.target != nil {
			errs = append(errs, p.target.Close())
			written += p.target.Rewritten()
		}
		if p.chosen && (first == nil || p.broken && !first.broken) {
			first = p
		}
		errs = append(errs, p.release())
	}
	if !d.marked {
		return errors.Join(errs...)
	}
	if written > 0 || first != nil && first.broken {
		errs = append(errs, os.RemoveAll(d.dir), &IncompleteError{Path: first.Path, VM: cmpOr(d.machine.Name, d.machine.ID()), Marker: markerPath(first.Path)})
		return errors.Join(errs...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return errors.Join(append(errs, d.unmark(ctx))...)
}

// undoPlace cannot undo a restore in place. It lets a server go that was left, and waits for the restore that makes the
// disks whole: until then it is an *IncompleteError.
func (p *Provider) undoPlace(ctx context.Context, e hikae.Effect) error {
	mark, _, disks, err := imagesOf(e)
	if err != nil {
		return err
	}
	dir := e.Facts["dir"]
	if !filepath.IsAbs(dir) || filepath.Base(dir) != mark {
		return fmt.Errorf("effect %s of %s: %w: folder %q", e.ID, e.Kind, fs.ErrInvalid, dir)
	}
	for _, d := range disks {
		d.hangUp(ctx, dir)
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	for _, d := range disks {
		m, ok, err := readMarker(d.Path)
		if err != nil {
			return err
		}
		if ok && m.Mark == mark {
			return &IncompleteError{Path: d.Path, VM: m.VM, Marker: markerPath(d.Path)}
		}
	}
	return nil
}

// quoteShell makes one word of the shell's language of any text.
func quoteShell(s string) string {
	plain := func(c rune) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("@%+=:,./_-", c)
	}
	if s != "" && !strings.ContainsFunc(s, func(c rune) bool { return !plain(c) }) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
