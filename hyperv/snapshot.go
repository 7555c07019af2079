package hyperv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/cim"
	"github.com/hikae/hikae/hyperv/vhdx"
	"github.com/hikae/hikae/pipe"
)

// snapshot is one VM's production checkpoint. Its methods are called one at a time, but for OpenDisk, Changed and the images.
type snapshot struct {
	p       *Provider
	planned *planned
	opts    hikae.SnapshotOptions
	free    func()

	marked      *marked
	vm          hikae.VM
	consistency hikae.Consistency
	frozen      string // how long the caller's quiescer held the guest
	disks       map[string]*pinnedDisk
	restored    string // see RestoredNote
	files       Files  // where they are read; nil: the host's own

	heir      *succession
	past      *pastBase                 // where there is no heir
	ids       map[string]hikae.ChangeID // what Prepare handed out
	committed bool

	mu       sync.Mutex
	warnings []string
	open     map[*checkpointImage]bool
	sealed   bool // the files are not the checkpoint's any more
}

// pinnedDisk is a disk as the checkpoint has it.
type pinnedDisk struct {
	Disk         // its Path is the frozen file: the VM writes to a child of it
	child string // that child; empty where the VM lost the disk meanwhile

	mu    sync.Mutex
	head  *vhdx.Info // of the frozen file
	chain []link     // it and its parents
}

// adopt learns what was pinned, and from the checkpoint alone: the running VM is made of other files already.
func (s *snapshot) adopt(ctx context.Context) error {
	h, err := s.p.site.Owner(ctx, s.marked.vm)
	if err != nil {
		return err
	}
	in, err := s.marked.look(ctx, h)
	if err != nil {
		return err
	}
	if in == nil {
		return fmt.Errorf("checkpoint %q: %w", s.marked.name, fs.ErrNotExist)
	}
	ref, err := in.Keyed(cim.Virtualization, "InstanceID")
	if err != nil {
		return err
	}
	pinned, err := h.disks(ctx, ref)
	if err != nil {
		return err
	}
	after, err := h.Machine(ctx, s.marked.vm)
	if err != nil {
		return err
	}
	if s.consistency == hikae.Offline && !stoodStill(s.planned.machine, after) {
		s.warn("the VM was started while its checkpoint was made, or may have been, and was not quiesced")
		s.consistency = hikae.Crash
	}
	if err := s.adoptDisks(pinned, after); err != nil {
		return err
	}
	if err := s.marked.nameFiles(ctx, childrenOf(after, pinned)); err != nil {
		return err
	}
	return s.describe(ctx, h, in, ref, pinned)
}

// stoodStill: a VM was off all the time between two looks. One that ran for a moment is off in both, and its host says since when.
func stoodStill(before, after *Machine) bool {
	return before.State == Off && after.State == Off && !before.StateSince.IsZero() && before.StateSince.Equal(after.StateSince)
}

// adoptDisks sees that every disk that was to be covered is in the checkpoint, and that the VM writes to another file.
func (s *snapshot) adoptDisks(pinned []Disk, after *Machine) error {
	now := map[string]*Disk{}
	for i := range after.Disks {
		now[after.Disks[i].place()] = &after.Disks[i]
	}
	for i := range pinned {
		d := &pinnedDisk{Disk: pinned[i]}
		if d.uncovered() != "" {
			continue
		}
		if live := now[d.place()]; live != nil {
			switch {
			case strings.EqualFold(live.Path, d.Path):
				return fmt.Errorf("disk %s: %s is in the checkpoint, and the VM still writes to it", d.Key, d.Path)
			case live.ParentPath != "" && !strings.EqualFold(live.ParentPath, d.Path):
				return fmt.Errorf("disk %s: the VM writes to %s, whose parent is %s and not %s of the checkpoint", d.Key, live.Path, live.ParentPath, d.Path)
			}
			d.child = live.Path
		}
		s.disks[d.Key] = d
	}
	for i := range s.planned.machine.Disks {
		d := &s.planned.machine.Disks[i]
		if d.uncovered() != "" || now[d.place()] == nil {
			continue
		}
		at := slices.IndexFunc(pinned, func(p Disk) bool { return p.place() == d.place() })
		switch {
		case at < 0:
			return fmt.Errorf("disk %s (%s %s) is not in the checkpoint", d.Key, d.place(), d.Path)
		case pinned[at].uncovered() != "": // it was covered when the plan was made
			return fmt.Errorf("disk %s (%s %s) in the checkpoint: %s", d.Key, d.place(), d.Path, pinned[at].uncovered())
		}
	}
	if len(s.disks) == 0 {
		return errors.New("it has no disk that a checkpoint covers")
	}
	return nil
}

// describe is the VM in our words, with its native configuration as the checkpoint's files have it.
func (s *snapshot) describe(ctx context.Context, h *Host, in *cim.Instance, ref cim.Ref, pinned []Disk) error {
	m := *s.planned.machine
	m.Disks = slices.Clone(pinned)
	for i := range s.planned.machine.Disks {
		d := s.planned.machine.Disks[i]
		if d.uncovered() != "" && !slices.ContainsFunc(pinned, func(p Disk) bool { return p.place() == d.place() }) {
			m.Disks = append(m.Disks, d)
		}
	}
	s.vm = m.VM(h.info)
	facts := map[string]string{"procedure": string(Production), "mode": string(s.planned.plan.Mode), "checkpoint": s.marked.id,
		"reasons": s.planned.plan.why()}
	if s.frozen != "" {
		facts["frozen"] = s.frozen
	}
	if s.consistency == hikae.Application && !s.p.opts.Full && h.info.Build < buildGuestBackupType {
		facts["guestBackup"] = "full: hosts of this build cannot be asked for a copy, and the guest's applications may have truncated their logs"
	}
	maps.Copy(s.vm.Facts, facts)
	var set struct {
		Notes []string `cim:"Notes"`
	}
	if err := h.realized(ctx, s.marked.vm, &set); err != nil {
		return err
	}
	if s.restored = restoredWord(set.Notes); s.restored != restoredWord(s.planned.machine.Notes) {
		return &ChangedError{VM: s.marked.vm, What: fmt.Sprintf("its notes told of the restore %q before its checkpoint, and tell of %q after it", restoredWord(s.planned.machine.Notes), s.restored)}
	}
	in.Set("Notes", set.Notes) // what is recorded are the VM's: the checkpoint's hold our mark
	var err error
	s.vm.Config, err = s.config(ctx, h, in, ref)
	return err
}

// VM, Consistency and Warnings say what was pinned, and how.
func (s *snapshot) VM() hikae.VM                   { return s.vm }
func (s *snapshot) Consistency() hikae.Consistency { return s.consistency }
func (s *snapshot) Warnings() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.warnings)
}

func (s *snapshot) warn(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.mu.Lock()
	s.warnings = append(s.warnings, text)
	s.mu.Unlock()
	s.p.tell(s.planned.machine.ID, "%s", text)
}

// pinnedFiles are the frozen files and all below them, as the host tells them.
func (s *snapshot) pinnedFiles(ctx context.Context) (files []string, err error) {
	h, err := s.p.site.Owner(ctx, s.marked.vm)
	if err != nil {
		return nil, err
	}
	for _, key := range slices.Sorted(maps.Keys(s.disks)) {
		chain, err := h.chainOf(ctx, s.disks[key].Disk)
		if err != nil {
			return nil, fmt.Errorf("disk %s: %w", key, err)
		}
		files = append(files, chain...)
	}
	return files, nil
}

// readFrom has disks opened among other files from now on.
func (s *snapshot) readFrom(f Files) { s.files = f }

func (s *snapshot) source(ctx context.Context) (Files, error) {
	if s.files != nil {
		return s.files, nil
	}
	h, err := s.p.site.Owner(ctx, s.marked.vm)
	if err != nil {
		return nil, err
	}
	return s.p.site.Store(ctx, h)
}

func (s *snapshot) disk(key string) (*pinnedDisk, error) {
	if d := s.disks[key]; d != nil {
		return d, nil
	}
	return nil, fmt.Errorf("disk %q of VM %s: %w", key, s.planned.machine.ID, fs.ErrNotExist)
}

// OpenDisk implements [hikae.Snapshot]. The file is the frozen one, with its parents: the checkpoints of users are a part of the
// chain. After Prepare it is not any more, as the host merges what came later into it.
func (s *snapshot) OpenDisk(ctx context.Context, key string) (pipe.Image, error) {
	d, err := s.disk(key)
	if err != nil {
		return nil, err
	}
	if s.isSealed() {
		return nil, fmt.Errorf("disk %s: %w", key, errSealed)
	}
	img, err := s.openFile(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("disk %s: %w", key, err)
	}
	o := &checkpointImage{Image: img, of: s}
	s.mu.Lock()
	if !s.sealed {
		s.open[o] = true
		s.mu.Unlock()
		return o, nil
	}
	s.mu.Unlock()
	return nil, errors.Join(fmt.Errorf("disk %s: %w", key, errSealed), img.Close())
}

func (s *snapshot) isSealed() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.sealed }

var errSealed = fmt.Errorf("the checkpoint was handed over, and its files are not what they were: %w", fs.ErrClosed)

func (s *snapshot) openFile(ctx context.Context, d *pinnedDisk) (*vhdx.Image, error) {
	files, err := s.source(ctx)
	if err != nil {
		return nil, err
	}
	img, err := vhdx.OpenIn(ctx, files, d.Path, nil)
	if err != nil {
		return nil, err
	}
	if img.Size() != d.Size && d.Size > 0 {
		return nil, errors.Join(fmt.Errorf("%s has %d bytes, and the host says %d", d.Path, img.Size(), d.Size), img.Close())
	}
	return img, nil
}

// inspect reads what the frozen file says of itself, once.
func (s *snapshot) inspect(ctx context.Context, d *pinnedDisk) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.head != nil {
		return nil
	}
	img, err := s.openFile(ctx, d)
	if err != nil {
		return fmt.Errorf("disk %s: %w", d.Key, err)
	}
	info := img.Info()
	d.head, d.chain = &info, linksOf(img)
	return img.Close()
}

func linksOf(img *vhdx.Image) (chain []link) {
	infos := img.Infos()
	for i, f := range img.Files() {
		chain = append(chain, link{f, infos[i].Sequence, guidText(infos[i].DataWrite)})
	}
	return chain
}

// inspectAll finds out at once whether all disks can be read.
func (s *snapshot) inspectAll(ctx context.Context) error {
	for _, key := range slices.Sorted(maps.Keys(s.disks)) {
		if err := s.inspect(ctx, s.disks[key]); err != nil {
			return err
		}
	}
	return nil
}

// checkpointImage is a disk that is read. Its snapshot closes it where its reader did not: a host cannot merge into what is open.
type checkpointImage struct {
	*vhdx.Image
	of   *snapshot
	gate sync.RWMutex
	shut bool
}

// Unwrap implements [pipe.Wrapper].
func (i *checkpointImage) Unwrap() pipe.Image { return i.Image }

// ReadAt implements [pipe.Image].
func (i *checkpointImage) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	i.gate.RLock()
	defer i.gate.RUnlock()
	if i.shut {
		return 0, errSealed
	}
	return i.Image.ReadAt(ctx, p, off)
}

// Close waits for reads that are under way.
func (i *checkpointImage) Close() error {
	i.gate.Lock()
	defer i.gate.Unlock()
	if i.shut {
		return nil
	}
	if err := i.Image.Close(); err != nil {
		return err
	}
	i.shut = true
	i.of.mu.Lock()
	delete(i.of.open, i)
	i.of.mu.Unlock()
	return nil
}

// seal closes what is open, and lets nothing be opened any more.
func (s *snapshot) seal() error {
	s.mu.Lock()
	s.sealed = true
	left := slices.Collect(maps.Keys(s.open))
	s.mu.Unlock()
	var errs []error
	for _, img := range left {
		errs = append(errs, img.Close())
	}
	return errors.Join(errs...)
}

// Changed implements [hikae.Snapshot].
func (s *snapshot) Changed(ctx context.Context, key string, since hikae.ChangeID) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		d, err := s.disk(key)
		if err != nil {
			yield(pipe.Extent{}, err)
			return
		}
		list, err := s.changes(ctx, d, since)
		if errors.Is(err, hikae.ErrTrackingLost) { // a report says which disk
			yield(pipe.Extent{}, err)
			return
		}
		if err != nil {
			yield(pipe.Extent{}, fmt.Errorf("disk %s: %w", key, err))
			return
		}
		cover(list, d.Size, yield)
	}
}

// changes are the ranges that changed since a moment, in order.
func (s *snapshot) changes(ctx context.Context, d *pinnedDisk, since hikae.ChangeID) ([]pipe.Extent, error) {
	if since == "" {
		return nil, untrackedError{"the last backup was made without a checkpoint that changes are counted from"}
	}
	past, err := parseMoment(since)
	if err != nil {
		return nil, lost("the base point's change id cannot be used: %v", err)
	}
	if !s.planned.plan.Tracking {
		return nil, lost("%s", s.untracked())
	}
	if err := s.inspect(ctx, d); err != nil {
		return nil, err
	}
	if err := s.moment(d).follows(past, d.chain); err != nil {
		return nil, err
	}
	h, err := s.p.site.Owner(ctx, s.marked.vm)
	if err != nil {
		return nil, err
	}
	points, err := h.references(ctx, s.marked.vm)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(points, func(r reference) bool { return strings.EqualFold(r.ID, past.ref) }) {
		return nil, lost("reference point %s, which the base point's change id rests on, is not there any more", past.ref)
	}
	list, err := h.changedRanges(ctx, d.Path, past.rct, d.Size)
	if err != nil {
		return nil, err
	}
	if at := past.in(d.chain); len(list) == 0 && d.chain[at].data != past.data { // of files that came on top since then it says nothing
		return nil, lost("the host says that nothing changed, and the disk was written to: its DataWriteGuid was %s and is %s", past.data, d.chain[at].data)
	}
	return list, nil
}

// untracked says why the plan has no tracking.
func (s *snapshot) untracked() string {
	for _, r := range s.planned.plan.Reasons {
		if r.About == aboutTracking && !r.Met {
			return "changes are not tracked: " + r.String()
		}
	}
	return "changes are not tracked"
}

// moment is what the ledger knows of a disk now, but for the ids that the host gives at the end.
func (s *snapshot) moment(d *pinnedDisk) moment {
	return moment{build: s.planned.host.info.Build, data: guidText(d.head.DataWrite), disk: d.Key, file: fileName(d.Path), id: guidText(d.head.DiskID),
		restored: s.restored, sector: d.head.SectorSize, seq: d.head.Sequence, size: d.Size, vm: s.marked.vm}
}

// Prepare implements [hikae.Snapshot]: the checkpoint becomes a reference point. It fails where the checkpoint was removed, or is
// made of other files: what was read since then is not of one moment.
func (s *snapshot) Prepare(ctx context.Context) (map[string]hikae.ChangeID, error) {
	if s.ids != nil {
		return maps.Clone(s.ids), nil
	}
	err := s.stands(ctx)
	if err != nil {
		return nil, err
	}
	ids := map[string]hikae.ChangeID{}
	if s.planned.plan.Tracking {
		if err := s.inspectAll(ctx); err != nil {
			return nil, err
		}
	}
	if err := s.seal(); err != nil {
		return nil, fmt.Errorf("VM %s: %w", s.marked.vm, err)
	}
	if s.planned.plan.Tracking {
		if err := s.refer(ctx, ids); err != nil {
			return nil, fmt.Errorf("VM %s: %w", s.marked.vm, err)
		}
	}
	if len(ids) == 0 {
		if s.past, err = s.p.leaveBase(ctx, s.opts.Journal, s.planned, s.opts.Repository, s.bases()); err != nil {
			return nil, err
		}
	}
	s.ids = ids
	return maps.Clone(ids), nil
}

// stands sees that the checkpoint is there, and that its disks are the files that were read.
func (s *snapshot) stands(ctx context.Context) error {
	h, err := s.p.site.Owner(ctx, s.marked.vm)
	if err != nil {
		return err
	}
	in, err := s.marked.look(ctx, h)
	if err != nil {
		return err
	}
	if in == nil {
		return fmt.Errorf("VM %s: checkpoint %q was removed while it was read", s.marked.vm, s.marked.name)
	}
	ref, err := in.Keyed(cim.Virtualization, "InstanceID")
	if err != nil {
		return err
	}
	now, err := h.disks(ctx, ref)
	if err != nil {
		return err
	}
	for key, d := range s.disks {
		if !slices.ContainsFunc(now, func(n Disk) bool { return n.place() == d.place() && strings.EqualFold(n.Path, d.Path) }) {
			return fmt.Errorf("VM %s: disk %s was %s in checkpoint %q when it was opened, and is another file now: the backup has to be made again", s.marked.vm, key, d.Path, s.marked.name)
		}
	}
	return nil
}

// refer turns the checkpoint into a reference point. A host that refuses leaves it as it is: the point is good, and the next one is
// read in full.
func (s *snapshot) refer(ctx context.Context, ids map[string]hikae.ChangeID) error {
	s.heir = &succession{k: s.marked, vm: s.planned, journal: s.opts.Journal, repo: s.opts.Repository, base: s.bases()}
	why, err := s.heir.convert(ctx)
	if err != nil {
		return err
	}
	if why != nil {
		s.warn("the checkpoint could not be made a reference point, so that the next backup reads whole disks: %v", why)
		return nil
	}
	for key, d := range s.disks {
		rct, err := s.heir.now.rct(&d.Disk)
		if err != nil {
			return err
		}
		if rct == "" {
			continue // a disk without tracking
		}
		m := s.moment(d)
		m.rct, m.ref, m.repo = rct, s.heir.now.ID, s.opts.Repository
		id := m.change()
		if _, err := parseMoment(id); err != nil {
			s.warn("disk %s: its change id cannot be kept, so that the next backup reads it whole: %v", key, err)
			continue
		}
		ids[key] = id
	}
	return nil
}

// bases are the reference points that nothing rests on after this point: those that the caller's base names, and the newest point.
func (s *snapshot) bases() []string {
	return basesOf(s.marked.vm, s.opts.Repository, s.opts.Since, s.opts.Past)
}

// Commit implements [hikae.Snapshot]: the old base goes. A reference point that no disk of the point names goes with Release.
func (s *snapshot) Commit(ctx context.Context) error {
	s.committed = true
	if len(s.ids) == 0 {
		return s.past.commit(ctx)
	}
	return s.heir.commit(ctx)
}

// Release implements [hikae.Snapshot]: images are closed, the checkpoint goes where it is still there, and without a Commit the
// reference point that it became; then the host merges. A merge that has no end in time is no failure: a person is told, and the
// journal keeps the effect for a later start.
func (s *snapshot) Release(ctx context.Context) error {
	if s.free != nil {
		defer s.free() // also after an error: what is left on the host keeps others off by itself
	}
	err := s.seal()
	if s.marked == nil || s.marked.done == nil && s.heir == nil && s.past == nil {
		return err
	}
	if s.marked.open && s.marked.id == "" && s.marked.job.id != "" {
		if unknown := s.marked.appear(ctx); unknown != nil { // the effect stays
			s.warn("%v", unknown)
		}
	}
	if err := errors.Join(err, s.marked.vanish(ctx)); err != nil {
		return err
	}
	if s.heir != nil && (!s.committed || len(s.ids) == 0) {
		if err := s.heir.abandon(ctx); err != nil {
			return fmt.Errorf("VM %s: %w", s.marked.vm, err)
		}
	}
	if !s.committed {
		if err := s.past.abandon(ctx); err != nil {
			return fmt.Errorf("VM %s: %w", s.marked.vm, err)
		}
	}
	if s.marked.done == nil {
		return nil
	}
	err = s.marked.merged(ctx)
	var pending *PendingError
	if errors.As(err, &pending) {
		s.warn("%v", pending)
		s.marked.done = nil
		return nil
	}
	if err != nil {
		return err
	}
	return s.marked.settle(ctx)
}

var (
	_ hikae.Snapshot = (*snapshot)(nil)
	_ elsewhere      = (*snapshot)(nil)
)
