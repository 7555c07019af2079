package job

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
)

// BackupOptions change how a backup is made. Nil and zero fields are good defaults.
type BackupOptions struct {
	Name  string            // the VM's identity in the repository; empty: the name that its provider gives
	Base  string            // full id of the point to build on; empty: the VM's newest
	Full  bool              // build on no point: everything is read, and compared by fingerprint
	Disks []string          // keys of the disks to take; empty: all that the snapshot covers
	Facts map[string]string // go into the point beside those of the VM, which they win over
	Time  time.Time         // when the VM was in that state; zero: the moment after the snapshot

	// Ask is the consistency that is wanted; where less is reached, the point is made and a warning says so.
	Ask hikae.Consistency

	Compression pipe.Compression // empty: the default of pipe
	Workers     int              // zero: one for each processor
	BufferBytes int64            // zero: the default of pipe
	// OnReadError decides about a range of a disk that cannot be read; nil: the backup fails. See pipe.CopyOptions. Where it lets the
	// backup go on, the point has a blob that names the ranges ([pipe.UnreadableBlob]), retention does not count it as whole, and
	// the next backup reads that disk anew, without change tracking. With it no unfinished points are made.
	OnReadError func(disk string, e pipe.Extent, err error) error

	// Wrap puts images around a disk's image: a limit, a meter. Nil: none. The image that it returns
	// owns the one that it was given.
	Wrap func(ctx context.Context, disk hikae.Disk, img pipe.Image) (pipe.Image, error)
	// Exclude finds what need not be stored: swap, excluded files, free space. Nil: everything is stored. See package
	// pipe/exclude.
	Exclude Excluder
	// Sample is how many bytes of each disk, of those that the hypervisor says did not change, are read and compared with the
	// base: a tracker that forgot something is found out so, sooner or later. Zero: a part in ten thousand, 1 to 64 MiB.
	// Negative: none.
	Sample int64
	Target string   // where the points go, in words for the report: a mover, and what it may know; empty: nothing to say
	Notes  []string // the caller's own notes, put before those of the session

	Journal  hikae.Journal  // handed to the provider
	Quiescer hikae.Quiescer // handed to the provider
	// Guest is worked in before and after the snapshot, and freezes in Quiescer's place. Nil: the provider's own means.
	Guest          GuestWork
	FreezeDeadline time.Duration // handed to the provider
	// ReleaseDeadline bounds the time after the copy that is spent on the host, whatever became of the context:
	// Snapshot.Commit and Snapshot.Release have it each. Zero: 5 minutes.
	ReleaseDeadline time.Duration

	// What was copied is made durable as an unfinished point after so many bytes that were read, and after so much time, whichever comes
	// first: a session that dies costs the next one no more than that. Zero: 4 GiB, a minute. A negative time: never. Where
	// the repository or the snapshot cannot do it, a note says so.
	CheckpointBytes int64
	CheckpointEvery time.Duration

	Events   func(Event) // nil: nobody listens
	Sessions *Sessions   // keeps the result; nil: nobody does
}

const releaseDeadline = 5 * time.Minute

func (o *BackupOptions) orDefault() BackupOptions {
	out := BackupOptions{}
	if o != nil {
		out = *o
	}
	if out.ReleaseDeadline <= 0 {
		out.ReleaseDeadline = releaseDeadline
	}
	if out.Events == nil {
		out.Events = func(Event) {}
	}
	out.Events = oneAtATime(out.Events)
	if out.CheckpointBytes <= 0 {
		out.CheckpointBytes = checkpointBytes
	}
	if out.CheckpointEvery == 0 {
		out.CheckpointEvery = checkpointEvery
	}
	return out
}

// Warner is an optional ability of a snapshot: what a person should know about how it was taken, read and released. It is asked
// when the snapshot was taken, and again at the end.
type Warner interface{ Warnings() []string }

// Backup makes one restore point of one VM. On nil the point is durable and the snapshot was released; what went wrong
// after the point was durable stands in the result's warnings. On error there is no point that was reported, the
// snapshot was released, and the base that the next increment needs is whole; the error then also tells what Release
// could not do.
//
// vmID is the provider's id of the VM, or its name where only one has it; empty means the only one there is. The
// result holds what is known also where there is an error.
func Backup(ctx context.Context, provider hikae.SnapshotProvider, vmID string, backend pipe.Backend, opts *BackupOptions) (Result, error) {
	o := opts.orDefault()
	s := &backup{opts: o, provider: provider, backend: backend, clock: startClock(),
		heard: map[string]bool{}, sampled: map[string]int64{}}
	s.res = Result{
		Session: o.Sessions.NewID(), Target: o.Target, Started: s.clock.start, Consistency: hikae.Unknown.String(),
		Disks: []DiskResult{}, Fallbacks: []Fallback{}, Warnings: []string{}, Notes: append([]string{}, o.Notes...),
		Stages: map[string]float64{},
	}
	err := s.run(ctx, vmID)
	s.finish()
	if saveErr := o.Sessions.Save(Record{Kind: KindBackup, Error: errorText(err), Backup: &s.res}); saveErr != nil {
		s.warn("the record of this session was not kept: %v", saveErr)
	}
	done := s.res
	o.Events(SessionEnded{Record{Kind: KindBackup, Error: errorText(err), Backup: &done}})
	return s.res, err
}

// backup is one session under way.
type backup struct {
	opts     BackupOptions
	provider hikae.SnapshotProvider
	backend  pipe.Backend
	res      Result
	clock    *clock
	totals   totals

	plan      *Plan
	snap      hikae.Snapshot
	exclusion Exclusion
	heard     map[string]bool  // warnings of the snapshot
	sampled   map[string]int64 // bytes, by disk
	tracked   tracked
	read      atomic.Int64 // bytes, of all disks, as they are read
}

func (s *backup) run(ctx context.Context, vmID string) (err error) {
	s.phase(PhasePlan)
	s.plan, err = PlanBackup(ctx, s.provider, vmID, s.backend, &s.opts)
	if err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	s.res.VM = s.plan.Name
	for _, reason := range s.plan.unread {
		s.warn("a point cannot be built on: %s", reason)
	}
	s.noteBase()

	end, err := s.beginGuest(ctx)
	if err != nil {
		return err
	}
	defer func() { err = end(err) }()

	s.phase(PhaseSnapshot)
	s.snap, err = s.provider.Snapshot(ctx, s.plan.VM.ID, &hikae.SnapshotOptions{
		Journal: s.opts.Journal, Quiescer: s.quiescer(),
		FreezeDeadline: s.opts.FreezeDeadline, Since: s.plan.since(), Past: s.plan.past(), Unfinished: s.plan.early(),
		Repository: repositoryID(s.backend),
	})
	if err != nil {
		return fmt.Errorf("snapshot of %s: %w", s.plan.Name, err)
	}
	defer func() { err = s.release(ctx, err) }() // also when a provider's image panics: the host must not keep our snapshot
	if s.opts.Time.IsZero() {
		s.opts.Time = takenAt(s.snap)
	}
	if err := s.finishGuest(ctx); err != nil {
		return err
	}
	s.noteConsistency()
	if err := s.exclude(ctx); err != nil {
		return err
	}

	s.phase(PhaseCopy)
	writer, err := s.copyPoint(ctx)
	if err != nil {
		return err
	}
	defer writer.Close()
	return s.commit(ctx, writer)
}

// repositoryID is who a backend says that it is, where it does.
func repositoryID(backend pipe.Backend) string {
	if named, ok := backend.(interface{ ID() string }); ok {
		return named.ID()
	}
	return ""
}

func (s *backup) noteConsistency() {
	reached := s.reached()
	s.res.Consistency = reached.String()
	if reached < s.opts.Ask {
		s.warn("the consistency reached is %s, asked was %s", reached, s.opts.Ask)
	}
	s.hearWarnings()
	if s.plan.Base == nil {
		s.note("nothing to build on: all data was read, and compared by fingerprint")
	}
}

// hearWarnings takes what the snapshot has to say and has not said before: a point that is begun again, and what is noticed
// while disks are read, must neither be lost nor told twice.
func (s *backup) hearWarnings() {
	w, ok := s.snap.(Warner)
	if !ok {
		return
	}
	for _, text := range w.Warnings() {
		if !s.heard[text] {
			s.heard[text] = true
			s.warn("%s", text)
		}
	}
}

// baseError says that the base of some disks is not usable. The point is then begun again without it: what was copied
// already is found by its fingerprints.
type baseError struct {
	disks []string
	err   error
}

func (e *baseError) Error() string { return fmt.Sprintf("base of %v: %v", e.disks, e.err) }
func (e *baseError) Unwrap() error { return e.err }

// copyPoint writes all disks and the configuration into a new point that is not committed yet.
func (s *backup) copyPoint(ctx context.Context) (pipe.PointWriter, error) {
	disks, err := s.disks()
	if err != nil {
		return nil, err
	}
	s.tryResume(ctx, disks)
	warnings := len(s.res.Warnings)
	for {
		writer, err := s.tryPoint(ctx, disks)
		var damage *baseError
		if !errors.As(err, &damage) || ctx.Err() != nil {
			return writer, err
		}
		s.res.Warnings = s.res.Warnings[:warnings]
		if s.plan.resumes {
			s.giveUp(damage.Error())
			continue
		}
		for _, key := range damage.disks {
			s.plan.damaged[key] = fmt.Sprintf("the base point's disk cannot be used: %v", damage.err)
		}
		s.warn("the base point %s is damaged: %v; verify the repository", s.plan.Base.ID, damage)
		warnings = len(s.res.Warnings)
	}
}

// disks are those that are to be copied, as they were at the snapshot.
func (s *backup) disks() ([]hikae.Disk, error) {
	var out []hikae.Disk
	seen := map[string]bool{}
	for _, d := range s.snap.VM().Disks {
		if seen[d.Key] || d.Key == "" || d.Size < 0 {
			return nil, fmt.Errorf("disk %q of %s: the provider lists it twice, or without a key or size", d.Key, s.plan.Name)
		}
		seen[d.Key] = true
		switch {
		case len(s.opts.Disks) > 0 && !slices.Contains(s.opts.Disks, d.Key):
			s.note("disk %s was not asked for", d.Key)
		case d.Skip != "":
			s.warn("disk %s is not in the point: %s", d.Key, d.Skip)
		default:
			out = append(out, d)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("VM %s has no disk that could be backed up", s.plan.Name)
	}
	return out, nil
}

func (s *backup) tryPoint(ctx context.Context, disks []hikae.Disk) (_ pipe.PointWriter, err error) {
	s.res.Disks, s.res.Fallbacks, s.totals = []DiskResult{}, []Fallback{}, totals{}
	writer, err := s.begin(ctx, disks)
	if err != nil {
		return nil, err
	}
	ok := false
	defer func() {
		if !ok {
			writer.Close()
		}
	}()
	stop := s.keepCheckpoints(ctx, writer, disks)
	defer stop()
	for i, d := range disks {
		s.opts.Events(DiskStarted{Key: d.Key, Size: d.Size, Index: i, Count: len(disks)})
		res, err := s.copyDisk(ctx, writer, d)
		if err != nil {
			return nil, fmt.Errorf("disk %s: %w", d.Key, err)
		}
		s.res.Disks = append(s.res.Disks, res)
	}
	if err := writeConfig(ctx, writer, s.snap.VM()); err != nil {
		return nil, err
	}
	if err := s.keepGuest(ctx, writer.Blob); err != nil {
		return nil, err
	}
	ok = true
	return writer, nil
}

// begin starts the point, on the base where at least one disk can use it.
func (s *backup) begin(ctx context.Context, disks []hikae.Disk) (pipe.PointWriter, error) {
	vm := s.snap.VM()
	s.res.Facts = maps.Clone(vm.Facts)
	opts := &pipe.PointOptions{Time: s.opts.Time, Consistency: s.res.Consistency, Facts: maps.Clone(vm.Facts)}
	if len(s.opts.Facts) > 0 && opts.Facts == nil {
		opts.Facts = map[string]string{}
	}
	maps.Copy(opts.Facts, s.opts.Facts)
	if !s.checkBase(ctx, disks) {
		s.checkBase(ctx, disks) // of the base in place of the one that was given up
	}
	if slices.ContainsFunc(disks, func(d hikae.Disk) bool { ok, _ := s.plan.baseOf(d); return ok }) {
		opts.Base = s.plan.Base.ID
	}
	w, err := s.backend.Begin(ctx, s.plan.Name, opts)
	if err != nil {
		err = fmt.Errorf("begin a point of %s: %w", s.plan.Name, err)
		if opts.Base != "" {
			return nil, &baseError{disks: s.based(), err: err}
		}
		return nil, err
	}
	return w, nil
}

// checkBase opens what the point is going to stand on, so that a base that is gone is found before it is built on. It answers
// false where it gave up an unfinished point.
func (s *backup) checkBase(ctx context.Context, disks []hikae.Disk) bool {
	for _, d := range disks {
		if ok, _ := s.plan.baseOf(d); !ok {
			continue
		}
		img, err := s.openBase(ctx, d.Key)
		if err == nil {
			if img.Size() != d.Size {
				err = fmt.Errorf("it is %d bytes, its point says %d", img.Size(), d.Size)
			}
			img.Close()
		}
		if err != nil && ctx.Err() == nil && s.plan.resumes {
			s.giveUp(fmt.Sprintf("disk %s: %v", d.Key, err))
			return false
		}
		if err != nil && ctx.Err() == nil {
			s.plan.damaged[d.Key] = fmt.Sprintf("the base point's disk cannot be opened: %v", err)
			s.warn("disk %s of the base point %s cannot be opened: %v; verify the repository", d.Key, s.plan.Base.ID, err)
		}
	}
	return true
}

func (s *backup) copyDisk(ctx context.Context, writer pipe.PointWriter, d hikae.Disk) (res DiskResult, err error) {
	img, err := s.openDisk(ctx, d)
	if err != nil {
		return res, fmt.Errorf("open: %w", err)
	}
	defer func() { err = errors.Join(err, closeImage(img, err)) }()
	target, err := s.beginDisk(ctx, writer, d)
	if err != nil {
		return res, err
	}
	defer target.Close()

	method, inc, done, err := s.ladder(ctx, d, img, target)
	if err != nil {
		return res, err
	}
	defer done()
	before := parityOf(target)
	guarded, baseErr := guardBase(target)
	stats, err := pipe.Copy(ctx, guarded, inc, &pipe.CopyOptions{
		Compression: s.opts.Compression, Workers: s.opts.Workers, BufferBytes: s.opts.BufferBytes,
		Progress:    s.progress(d.Key),
		OnReadError: s.onReadError(d.Key),
	})
	if err != nil {
		base := baseErr()
		if told := (*baseExtentsError)(nil); base == nil && errors.As(err, &told) {
			base = told
		}
		if base != nil && method == Changed {
			return res, &baseError{disks: []string{d.Key}, err: base}
		}
		return res, err
	}
	if err := target.Commit(ctx); err != nil {
		return res, fmt.Errorf("seal: %w", err)
	}
	res = s.diskDone(d, method, stats)
	s.route(&res, img)
	res.Parity = parityOf(target) - before
	if o, ok := target.(pipe.Overwriter); ok {
		res.Overwritten, res.Randomized = o.Overwritten()
	}
	return res, nil
}

// route tells how the content came, and that it came by another way where one failed.
func (s *backup) route(res *DiskResult, img pipe.Image) {
	routed, ok := pipe.As[hikae.Routed](img)
	if !ok {
		return
	}
	route := routed.Route()
	res.Transport, res.Tried = route.Transport, route.Tried
	for i, t := range route.Tried {
		if t.Offset < 0 {
			continue
		}
		next := route.Transport
		if j := slices.IndexFunc(route.Tried[i+1:], func(t hikae.Detour) bool { return t.Offset >= 0 }); j >= 0 {
			next = route.Tried[i+1+j].Transport
		}
		s.fall(Fallback{Disk: res.Key, From: Method(t.Transport), To: Method(next), Reason: fmt.Sprintf("at %d: %s", t.Offset, t.Reason)})
	}
}

// beginDisk: a backend that cannot open a disk of the base can begin that disk only in a point without a base.
func (s *backup) beginDisk(ctx context.Context, writer pipe.PointWriter, d hikae.Disk) (pipe.Target, error) {
	target, err := writer.Disk(ctx, d.Key, d.Size)
	if err == nil {
		return target, nil
	}
	err = fmt.Errorf("begin: %w", err)
	if based := s.based(); len(based) > 0 {
		return nil, &baseError{disks: based, err: err}
	}
	return nil, err
}

// based are the disks that stand on the base as things are.
func (s *backup) based() (keys []string) {
	for _, d := range s.snap.VM().Disks {
		if ok, _ := s.plan.baseOf(d); ok {
			keys = append(keys, d.Key)
		}
	}
	return keys
}

func (s *backup) openDisk(ctx context.Context, d hikae.Disk) (pipe.Image, error) {
	img, err := s.snap.OpenDisk(ctx, d.Key)
	if err != nil {
		return nil, err
	}
	if img.Size() != d.Size {
		img.Close()
		return nil, fmt.Errorf("it is %d bytes, its description says %d", img.Size(), d.Size)
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

// closeImage: an image's Close may be what tells that the disk changed under it.
func closeImage(img pipe.Image, failed error) error {
	if err := img.Close(); err != nil && failed == nil {
		return fmt.Errorf("close the source: %w", err)
	}
	return nil
}

func (s *backup) onReadError(disk string) func(pipe.Extent, error) error {
	if s.opts.OnReadError == nil {
		return nil
	}
	return func(e pipe.Extent, err error) error { return s.opts.OnReadError(disk, e, err) }
}

func (s *backup) diskDone(d hikae.Disk, method Method, stats pipe.Stats) DiskResult {
	res := DiskResult{
		Key: d.Key, Size: d.Size, Method: method, Read: stats.Read, Skipped: reasons(stats.Skipped),
		Deduplicated: stats.Deduplicated, Moved: stats.Moved, Stored: stats.Stored, Random: stats.Random, Sampled: s.sampled[d.Key],
		Consistency: s.res.Consistency,
		Bad:         ranges(stats.Bad), Seconds: seconds(stats.Duration),
	}
	if n := total(stats.Bad); n > 0 {
		s.warn("disk %s: %d bytes in %d ranges could not be read and stand as zero in the point", d.Key, n, len(stats.Bad))
	}
	s.totals.add(stats)
	s.opts.Events(DiskDone{Key: d.Key, Stats: stats})
	return res
}

// parityOf is what a target's backend has added so far in parity. Whether it counts by disk or by point, the difference
// over one disk is that disk's.
func parityOf(t pipe.Target) int64 {
	if a, ok := t.(pipe.Accountant); ok {
		return a.Usage().Parity
	}
	return 0
}

func total(extents []pipe.Extent) (n int64) {
	for _, e := range extents {
		n += e.Len
	}
	return n
}

// writeConfig keeps the native configuration with the point, byte for byte (R182).
func writeConfig(ctx context.Context, writer pipe.PointWriter, vm hikae.VM) error {
	for _, name := range slices.Sorted(maps.Keys(vm.Config)) {
		if err := writer.Blob(ctx, name, bytes.NewReader(vm.Config[name])); err != nil {
			return fmt.Errorf("configuration %q: %w", name, err)
		}
	}
	return nil
}

// commit makes the point durable, and only then lets the old base go.
func (s *backup) commit(ctx context.Context, writer pipe.PointWriter) error {
	s.phase(PhaseCommit)
	ids, err := s.snap.Prepare(ctx)
	if err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	tracking := make(map[string]string, len(ids))
	for _, d := range s.res.Disks { // an id of a disk that is not in the point would claim a base that is not there
		if id := ids[d.Key]; id != "" && !s.isDistrusted(d.Key) && len(d.Bad) == 0 { // what was not read did not change, and is to be read
			tracking[d.Key] = string(id)
		}
	}
	if err := s.writeUnreadable(ctx, writer); err != nil {
		return err
	}
	id, err := writer.Commit(ctx, tracking)
	if err != nil {
		return fmt.Errorf("commit the point: %w", err)
	}
	s.res.Point = id
	s.account(writer)

	host, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.opts.ReleaseDeadline)
	defer cancel()
	if err := s.snap.Commit(host); err != nil {
		s.warn("the point is durable, but the source could not be told: %v; the next backup may read whole disks", err)
	}
	s.settleGuest(ctx)
	return nil
}

// account adds up, and shares out what is known only for the whole point: a pack that holds blocks of several disks is
// sealed, and gets its parity, at the end.
func (s *backup) account(writer pipe.PointWriter) {
	for _, d := range s.res.Disks {
		s.res.Stored += d.Stored
		s.res.Parity += d.Parity
	}
	a, ok := writer.(pipe.Accountant)
	if !ok {
		return
	}
	u := a.Usage()
	share(s.res.Disks, s.res.Stored, u.Parity-s.res.Parity)
	s.res.Stored, s.res.Parity = u.Stored, u.Parity
}

// share gives each disk its part of the parity, by what was stored for it.
func share(disks []DiskResult, stored, parity int64) {
	for i := range disks {
		if stored <= 0 || parity <= 0 {
			return
		}
		d := &disks[i]
		n := int64(float64(parity) * (float64(d.Stored) / float64(stored)))
		d.Parity, parity, stored = d.Parity+n, parity-n, stored-d.Stored
	}
}

// release gives the snapshot back, whatever happened, with time of its own: a cancelled session must not leave one.
func (s *backup) release(ctx context.Context, failed error) error {
	s.phase(PhaseRelease)
	host, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.opts.ReleaseDeadline)
	defer cancel()
	err := s.snap.Release(host)
	defer s.hearWarnings()
	if err != nil && host.Err() == nil {
		s.note("releasing the snapshot was tried twice: %v", err)
		err = s.snap.Release(host)
	}
	if err == nil {
		return failed
	}
	err = fmt.Errorf("release the snapshot of %s: %w", s.plan.Name, err)
	if failed == nil && s.res.Point != "" {
		s.warn("%v; the next start of a session sweeps what is left", err)
		return nil
	}
	return errors.Join(failed, err)
}

func (s *backup) finish() {
	s.clock.stop()
	s.res.Stages, s.res.Bottleneck = s.totals.shares(), s.totals.bottleneck()
	s.res.Phases, s.res.Seconds = s.clock.phases(), s.clock.total()
}

func (s *backup) phase(p Phase) {
	s.clock.enter(p)
	s.opts.Events(PhaseStarted{Session: s.res.Session, VM: s.res.VM, Phase: p})
}

func (s *backup) fall(f Fallback) {
	s.res.Fallbacks = append(s.res.Fallbacks, f)
	s.opts.Events(FellBack{f})
}

func (s *backup) warn(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.res.Warnings = append(s.res.Warnings, text)
	s.opts.Events(Warned{text})
}

func (s *backup) note(format string, args ...any) {
	s.res.Notes = append(s.res.Notes, fmt.Sprintf(format, args...))
}
