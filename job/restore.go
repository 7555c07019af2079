package job

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
)

// RestoreOptions change how a point is restored. Nil and zero fields are good defaults.
type RestoreOptions struct {
	Disks     []string // keys of the disks to restore; empty: all
	Name      string   // of the new VM; empty: the point's
	Overwrite bool     // replace what is already there

	// InPlace is the provider's id of an existing VM to write back into. Empty: a new VM is made.
	InPlace string

	// Salvage goes on where the point is damaged: such ranges read as zero and stand in the result's holes. Without
	// it the restore fails there and leaves nothing.
	Salvage bool
	// FileAt names the guest's file that a hole lies in, for the report. Nil, or an empty answer: not known.
	FileAt func(disk string, e pipe.Extent) string
	// Compare reads every disk back from where it was written and compares it with the point. The draft must be a
	// [Rereader].
	Compare bool

	Workers     int   // zero: one for each processor
	BufferBytes int64 // zero: the default of pipe
	// Wrap puts images around a point's disk: a limit, a meter. Nil: none. The image that it returns owns the one that
	// it was given.
	Wrap func(ctx context.Context, disk hikae.Disk, img pipe.Image) (pipe.Image, error)

	Journal  hikae.Journal // handed to the restorer
	Events   func(Event)   // nil: nobody listens
	Sessions *Sessions     // keeps the result; nil: nobody does
}

func (o *RestoreOptions) orDefault() RestoreOptions {
	out := RestoreOptions{}
	if o != nil {
		out = *o
	}
	if out.Events == nil {
		out.Events = func(Event) {}
	}
	return out
}

// Rereader is an optional ability of a draft: a disk that was committed can be read back from where it lies, past the
// system's cache where that is possible, before the draft is.
type Rereader interface {
	Reread(ctx context.Context, key string) (pipe.Image, error)
}

// DiffersError says that a disk that was read back is not what the point holds.
type DiffersError struct {
	Disk   string
	Offset int64
}

func (e *DiffersError) Error() string {
	return fmt.Sprintf("disk %s: what was written differs from the point at byte %d", e.Disk, e.Offset)
}

// maxBlob bounds one blob of a VM's configuration, and maxConfig all of them together.
const (
	maxBlob   = 64 << 20
	maxConfig = 256 << 20
)

// Restore brings a point back: its disks, or some of them, and the VM's configuration. On error nothing is left of it
// where the restorer made something new. The result holds what is known also where there is an error.
//
// That every byte is right has two parts. A backend checks each block against its id whenever it is read, and Restore
// checks that every byte of every disk was either written or left as zero for a reason that the point states.
func Restore(ctx context.Context, backend pipe.Backend, point pipe.PointInfo, restorer hikae.Restorer, opts *RestoreOptions) (RestoreResult, error) {
	o := opts.orDefault()
	s := &restore{opts: o, backend: backend, point: point, restorer: restorer, clock: startClock()}
	s.res = RestoreResult{
		Session: o.Sessions.NewID(), Point: point.ID, VM: point.VM, InPlace: o.InPlace != "", Started: s.clock.start,
		Disks: []RestoredDisk{}, Holes: []Hole{}, Warnings: []string{}, Notes: []string{}, Stages: map[string]float64{},
	}
	err := s.run(ctx)
	s.clock.stop()
	s.res.Stages, s.res.Bottleneck, s.res.Seconds = s.totals.shares(), s.totals.bottleneck(), s.clock.total()
	if saveErr := o.Sessions.Save(Record{Kind: KindRestore, Error: errorText(err), Restore: &s.res}); saveErr != nil {
		s.warn("the record of this session was not kept: %v", saveErr)
	}
	done := s.res
	o.Events(SessionEnded{Record{Kind: KindRestore, Error: errorText(err), Restore: &done}})
	return s.res, err
}

// restore is one session under way.
type restore struct {
	opts     RestoreOptions
	backend  pipe.Backend
	point    pipe.PointInfo
	restorer hikae.Restorer
	res      RestoreResult
	clock    *clock
	totals   totals
}

func (s *restore) run(ctx context.Context) (err error) {
	s.phase(PhasePlan)
	vm, err := s.describe(ctx)
	if err != nil {
		return err
	}
	draft, err := s.open(ctx, vm)
	if err != nil {
		return fmt.Errorf("restore of %s: %w", s.point.VM, err)
	}
	defer func() {
		if closeErr := draft.Close(); closeErr != nil {
			err = errors.Join(err, fmt.Errorf("clean up: %w", closeErr))
		}
	}()
	if err := s.ready(ctx, draft, vm.Disks); err != nil {
		return err
	}
	s.phase(PhaseCopy)
	for i, d := range vm.Disks {
		s.opts.Events(DiskStarted{Key: d.Key, Size: d.Size, Index: i, Count: len(vm.Disks)})
		if err := s.writeDisk(ctx, draft, d); err != nil {
			return fmt.Errorf("disk %s: %w", d.Key, err)
		}
	}
	if s.opts.Compare {
		if err := s.compare(ctx, draft, vm.Disks); err != nil {
			return err
		}
	}
	s.phase(PhaseCommit)
	if s.res.ID, err = draft.Commit(ctx); err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	if l, ok := draft.(Located); ok {
		w := &s.res.Where
		w.Name, w.Host, w.Folder = l.Where()
	}
	if n, ok := draft.(Noter); ok {
		s.res.Notes = append(s.res.Notes, n.Notes()...)
	}
	return nil
}

// describe makes the VM that the restorer is asked for.
func (s *restore) describe(ctx context.Context) (hikae.VM, error) {
	vm := hikae.VM{Name: s.point.VM, Facts: s.point.Facts}
	for _, key := range s.opts.Disks {
		if !slices.ContainsFunc(s.point.Disks, func(d pipe.DiskInfo) bool { return d.Key == key }) {
			return vm, fmt.Errorf("disk %q of point %s: %w", key, s.point.ID, fs.ErrNotExist)
		}
	}
	for _, d := range s.point.Disks {
		if len(s.opts.Disks) == 0 || slices.Contains(s.opts.Disks, d.Key) {
			vm.Disks = append(vm.Disks, hikae.Disk{Key: d.Key, Size: d.Size})
		}
	}
	var err error
	vm.Config, err = s.config(ctx)
	return vm, err
}

// config reads the native configuration, byte for byte (R182).
func (s *restore) config(ctx context.Context) (map[string][]byte, error) {
	config, sum := map[string][]byte{}, int64(0)
	for _, b := range s.point.Blobs {
		if isGuests(b.Name) {
			continue
		}
		data, err := readBlob(ctx, s.backend, s.point.ID, b)
		if err != nil {
			if !s.opts.Salvage || ctx.Err() != nil {
				return nil, fmt.Errorf("configuration %q: %w", b.Name, err)
			}
			s.warn("configuration %q cannot be read: %v", b.Name, err)
			continue
		}
		if sum += int64(len(data)); sum > maxConfig {
			return nil, fmt.Errorf("configuration: more than %d bytes", maxConfig)
		}
		config[b.Name] = data
	}
	return config, nil
}

func readBlob(ctx context.Context, backend pipe.Backend, point string, b pipe.BlobInfo) ([]byte, error) {
	if b.Size > maxBlob {
		return nil, fmt.Errorf("%d bytes are more than the %d that are read", b.Size, maxBlob)
	}
	r, err := backend.OpenBlob(ctx, point, b.Name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, b.Size+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) != b.Size {
		return nil, fmt.Errorf("%d bytes or more came where %d were promised", len(data), b.Size)
	}
	return data, nil
}

func (s *restore) open(ctx context.Context, vm hikae.VM) (hikae.Draft, error) {
	opts := &hikae.RestoreOptions{Journal: s.opts.Journal, Name: s.opts.Name, Overwrite: s.opts.Overwrite}
	if s.opts.InPlace != "" {
		opts.VM = &vm
		return s.restorer.InPlace(ctx, s.opts.InPlace, opts)
	}
	return s.restorer.Create(ctx, vm, opts)
}

func (s *restore) writeDisk(ctx context.Context, draft hikae.Draft, d hikae.Disk) (err error) {
	img, err := s.openDisk(ctx, d)
	if err != nil {
		return err
	}
	defer img.Close()
	target, err := draft.OpenDisk(ctx, d.Key)
	if err != nil {
		return err
	}
	defer target.Close()
	if target.Size() != d.Size {
		return fmt.Errorf("the target is %d bytes, the point's disk %d", target.Size(), d.Size)
	}
	differs, err := s.differing(ctx, draft, d, img)
	if err != nil {
		return err
	}
	stats, err := pipe.Copy(ctx, target, differs, &pipe.CopyOptions{
		Workers: s.opts.Workers, BufferBytes: s.opts.BufferBytes,
		Progress:    func(p pipe.Progress) { s.opts.Events(DiskProgress{Key: d.Key, Progress: p}) },
		OnReadError: s.onReadError(),
	})
	if err != nil {
		return err
	}
	if err := accounted(d, stats); err != nil {
		return err
	}
	if err := target.Commit(ctx); err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	s.diskDone(d, stats, target)
	return nil
}

// Damaged is an optional ability of a backend: a disk whose extents say what is lost, for a salvage. Without it a salvage asks
// for every sector, and cannot go on where the backend cannot say what is data.
type Damaged interface {
	OpenDamaged(ctx context.Context, point, disk string) (pipe.Image, error)
}

func (s *restore) openDisk(ctx context.Context, d hikae.Disk) (pipe.Image, error) {
	open := s.backend.Open
	if b, ok := s.backend.(Damaged); ok && s.opts.Salvage {
		open = b.OpenDamaged
	}
	img, err := open(ctx, s.point.ID, d.Key)
	if err != nil {
		return nil, err
	}
	if img.Size() != d.Size {
		img.Close()
		return nil, fmt.Errorf("it is %d bytes in point %s, whose description says %d", img.Size(), s.point.ID, d.Size)
	}
	if s.opts.Wrap == nil {
		return img, nil
	}
	wrapped, err := s.opts.Wrap(ctx, d, img)
	if err != nil {
		img.Close()
	}
	return wrapped, err
}

// onReadError lets a salvage go on: what cannot be read is marked Bad, and found again in the copy's statistics.
func (s *restore) onReadError() func(pipe.Extent, error) error {
	if !s.opts.Salvage {
		return nil
	}
	return func(_ pipe.Extent, err error) error {
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		return nil
	}
}

// accounted checks that no byte of a disk was forgotten: each was written, was there already, or was left as zero for
// a reason.
func accounted(d hikae.Disk, stats pipe.Stats) error {
	sum := stats.Moved + stats.Deduplicated
	for _, n := range stats.Skipped {
		sum += n
	}
	if sum < d.Size { // more is possible: a block that was sent while another disk stored it counts twice
		return fmt.Errorf("%d of %d bytes are accounted for after the copy", sum, d.Size)
	}
	return nil
}

func (s *restore) diskDone(d hikae.Disk, stats pipe.Stats, target pipe.Target) {
	for _, e := range stats.Bad {
		h := Hole{Disk: d.Key, Offset: e.Off, Length: e.Len}
		if s.opts.FileAt != nil {
			h.File = s.opts.FileAt(d.Key, e)
		}
		s.res.Holes = append(s.res.Holes, h)
	}
	if n := total(stats.Bad); n > 0 {
		s.warn("disk %s: %d bytes in %d ranges could not be had and read as zero", d.Key, n, len(stats.Bad))
	}
	s.res.Disks = append(s.res.Disks, RestoredDisk{
		Key: d.Key, Size: d.Size, Read: stats.Read, Written: stats.Moved,
		Skipped: reasons(stats.Skipped), Seconds: seconds(stats.Duration),
	})
	rewritten(target, &s.res.Disks[len(s.res.Disks)-1])
	s.totals.add(stats)
	s.opts.Events(DiskDone{Key: d.Key, Stats: stats})
}

func (s *restore) compare(ctx context.Context, draft hikae.Draft, disks []hikae.Disk) error {
	r, ok := draft.(Rereader)
	if !ok {
		return fmt.Errorf("compare: the target cannot be read back: %w", errors.ErrUnsupported)
	}
	s.phase(PhaseCompare)
	for i, d := range disks {
		s.opts.Events(DiskStarted{Key: d.Key, Size: d.Size, Index: i, Count: len(disks)})
		if err := s.compareDisk(ctx, r, d); err != nil {
			return fmt.Errorf("compare disk %s: %w", d.Key, err)
		}
		s.res.Disks[i].Compared = true
	}
	return nil
}

func (s *restore) compareDisk(ctx context.Context, r Rereader, d hikae.Disk) error {
	want, err := s.openDisk(ctx, d)
	if err != nil {
		return err
	}
	defer want.Close()
	got, err := r.Reread(ctx, d.Key)
	if err != nil {
		return err
	}
	defer got.Close()
	diff, err := pipe.Compare(ctx, &holed{want, s.holesOf(d.Key)}, got, &pipe.CompareOptions{
		Workers: s.opts.Workers, IgnoreDropped: s.opts.InPlace != "", // what the point left out may still be as it was
	})
	if err == nil && len(diff) > 0 {
		err = &DiffersError{Disk: d.Key, Offset: diff[0].Off}
	}
	return err
}

func (s *restore) holesOf(key string) (out []Hole) {
	for _, h := range s.res.Holes {
		if h.Disk == key {
			out = append(out, h)
		}
	}
	return out
}

func (s *restore) phase(p Phase) {
	s.clock.enter(p)
	s.opts.Events(PhaseStarted{Session: s.res.Session, VM: s.res.VM, Phase: p})
}

func (s *restore) warn(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.res.Warnings = append(s.res.Warnings, text)
	s.opts.Events(Warned{text})
}
