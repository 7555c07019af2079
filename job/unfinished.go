package job

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
)

// A session that dies has copied for nothing, unless what it copied can be built on: the blocks are found again by their
// fingerprints, but for that the source must be read again. So what was copied is made durable every now and then as an
// unfinished point, with the change ids of the snapshot's moment T1 and the ranges that are pending. The next session builds
// on it: it reads what is pending and what changed between T1 and its own moment. Without change ids of T1 there is no such
// point: that a disk is what it was is never guessed.

const (
	checkpointBytes    = 4 << 30
	checkpointEvery    = time.Minute
	checkpointFailures = 3 // after which no more are tried
)

// checkpointLook is how often it is looked whether a checkpoint is due.
var checkpointLook = 100 * time.Millisecond

// errUntracked says that nothing could be built on a checkpoint.
var errUntracked = errors.New("the source tracks no changes from this snapshot on that could be told by now")

// findUnfinished is what a session that did not commit left of a VM. It only saves time, so that it cannot be had stops
// nothing.
func findUnfinished(ctx context.Context, backend pipe.Backend, vm string) (found *pipe.UnfinishedPoint) {
	r, ok := pipe.ResumerOf(backend)
	if !ok {
		return nil
	}
	for p, err := range r.Unfinished(ctx, vm) {
		if err != nil {
			return nil
		}
		if p.VM == vm && len(p.Tracking) > 0 {
			found = &p
		}
	}
	return found
}

// keepUnfinished are the change ids that unfinished points name, each with the word that no committed one does.
func keepUnfinished(ctx context.Context, backend pipe.Backend, committed []hikae.ChangeID) (keep []hikae.ChangeID, err error) {
	r, ok := pipe.ResumerOf(backend)
	if !ok {
		return nil, nil
	}
	for p, err := range r.Unfinished(ctx, "") {
		if err != nil {
			return nil, fmt.Errorf("list unfinished points: %w", err)
		}
		for _, id := range p.Tracking {
			if !slices.Contains(committed, hikae.ChangeID(id)) {
				keep = append(keep, hikae.ChangeID(id), hikae.OnlyUnfinished(hikae.ChangeID(id)))
			}
		}
	}
	return keep, nil
}

// resume makes the unfinished point the base, if there is one that has anything of a disk as it is now.
func (p *Plan) resume() {
	if p.unfinished == nil {
		return
	}
	if slices.ContainsFunc(p.unfinished.Disks, func(had pipe.DiskInfo) bool {
		return p.unfinished.Tracking[had.Key] != "" &&
			slices.ContainsFunc(p.VM.Disks, func(d hikae.Disk) bool { return d.Key == had.Key && d.Size == had.Size })
	}) {
		p.Base, p.resumes = &p.unfinished.PointInfo, true
	}
}

// pending are the ranges that the base does not have, where it is unfinished.
func (p *Plan) pending(key string) []pipe.Extent {
	if !p.resumes {
		return nil
	}
	return p.unfinished.Pending[key]
}

// early are the change ids of the unfinished point, which nothing is built on after this session.
func (p *Plan) early() map[string]hikae.ChangeID {
	if p.unfinished == nil {
		return nil
	}
	return trackingOf(&p.unfinished.PointInfo)
}

// noteBase tells what is built on.
func (s *backup) noteBase() {
	if s.res.Base, s.res.Resumed = "", ""; s.plan.Base == nil {
		return
	}
	if !s.plan.resumes {
		s.res.Base = s.plan.Base.ID
		return
	}
	s.res.Resumed = s.plan.Base.ID
	if s.plan.newest != nil {
		s.res.Base = s.plan.newest.ID
	}
	left := int64(0)
	for _, list := range s.plan.unfinished.Pending {
		left += total(list)
	}
	s.note("it goes on from what an unfinished session made durable of %s: %d bytes of that moment are to be read yet", s.plan.Base.Time.Format(time.RFC3339), left)
}

// giveUp goes back from the unfinished point to the newest one.
func (s *backup) giveUp(reason string) {
	s.note("what an unfinished session left cannot be built on: %s", reason)
	s.plan.Base, s.plan.resumes = s.plan.newest, false
	clear(s.plan.damaged)
	s.forgetChanges(true)
	s.noteBase()
}

// openBase opens a disk of what is built on.
func (s *backup) openBase(ctx context.Context, key string) (pipe.Image, error) {
	if r, ok := pipe.ResumerOf(s.backend); ok && s.plan.resumes {
		return r.OpenUnfinished(ctx, s.plan.Base.ID, key)
	}
	return s.backend.Open(ctx, s.plan.Base.ID, key)
}

// tryResume gives the unfinished point up where the source knows nothing of its moment any more and does of the newest
// point's.
func (s *backup) tryResume(ctx context.Context, disks []hikae.Disk) {
	if !s.plan.resumes || s.plan.newest == nil {
		return
	}
	for _, d := range disks {
		if ok, _ := s.plan.baseOf(d); !ok {
			continue
		}
		if _, err := s.changes(d).load(ctx); err != nil && ctx.Err() == nil && s.tracksSince(ctx, d, s.plan.newest) {
			s.giveUp(fmt.Sprintf("disk %s: %v", d.Key, err))
			return
		}
	}
}

// tracksSince reports whether the source tells what changed on a disk since a point.
func (s *backup) tracksSince(ctx context.Context, d hikae.Disk, p *pipe.PointInfo) bool {
	since := hikae.ChangeID(p.Tracking[d.Key])
	if since == "" {
		return false
	}
	for _, err := range s.snap.Changed(ctx, d.Key, since) {
		return err == nil
	}
	return d.Size == 0
}

// oneAtATime keeps the promise that events come one at a time.
func oneAtATime(events func(Event)) func(Event) {
	var mu sync.Mutex
	return func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		events(e)
	}
}

// progress tells how far a disk has come.
func (s *backup) progress(key string) func(pipe.Progress) {
	seen := int64(0)
	return func(p pipe.Progress) {
		s.read.Add(p.Stats.Read - seen)
		seen = p.Stats.Read
		s.opts.Events(DiskProgress{Key: key, Progress: p})
	}
}

// checkpoints makes unfinished points beside a copy.
type checkpoints struct {
	s      *backup
	writer pipe.Checkpointer
	snap   hikae.EarlyTracking
	disks  []hikae.Disk

	last   time.Time
	read   int64 // as of last
	failed int
	notes  []string // for the session, once the copy is over
}

// keepCheckpoints makes unfinished points until it is told to stop, which waits for the last one.
func (s *backup) keepCheckpoints(ctx context.Context, writer pipe.PointWriter, disks []hikae.Disk) (stop func()) {
	s.forgetChanges(false)
	if s.opts.CheckpointEvery < 0 || s.opts.OnReadError != nil { // an unfinished point could not say what was read in vain
		return func() {}
	}
	c := &checkpoints{s: s, disks: disks, last: time.Now(), read: s.read.Load()}
	var keeps, early bool
	c.writer, keeps = writer.(pipe.Checkpointer)
	c.snap, early = earlyTracking(s.snap)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		switch {
		case !keeps:
			c.never(ctx, "the place where points go keeps no unfinished ones")
		case !early:
			c.never(ctx, "the source does not tell the change ids of a snapshot before its end")
		default:
			c.run(ctx)
		}
	}()
	return sync.OnceFunc(func() {
		cancel()
		<-done
		for _, text := range c.notes {
			s.note("%s", text)
		}
	})
}

// earlyTracking finds the ability behind a snapshot's wrappers.
func earlyTracking(s hikae.Snapshot) (hikae.EarlyTracking, bool) {
	for s != nil {
		if e, ok := s.(hikae.EarlyTracking); ok {
			return e, true
		}
		w, ok := s.(interface{ Unwrap() hikae.Snapshot })
		if !ok {
			break
		}
		s = w.Unwrap()
	}
	return nil, false
}

// Unwrap is what the provider made.
func (l *loner) Unwrap() hikae.Snapshot { return l.Snapshot }

// never tells, of a copy that is long enough for it to matter, that a session which breaks off begins anew.
func (c *checkpoints) never(ctx context.Context, why string) {
	if c.await(ctx) {
		c.note("a session that breaks off here begins anew: %s", why)
	}
}

func (c *checkpoints) note(format string, args ...any) {
	c.notes = append(c.notes, fmt.Sprintf(format, args...))
}

// await waits until a checkpoint is due; false: the copy is over.
func (c *checkpoints) await(ctx context.Context) bool {
	tick := time.NewTicker(checkpointLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
		since := c.s.read.Load() - c.read
		if since >= c.s.opts.CheckpointBytes || since > 0 && time.Since(c.last) >= c.s.opts.CheckpointEvery {
			return true
		}
	}
}

func (c *checkpoints) run(ctx context.Context) {
	for c.failed < checkpointFailures && c.await(ctx) {
		read := c.s.read.Load()
		id, err := c.make(ctx)
		c.last, c.read = time.Now(), read
		switch {
		case ctx.Err() != nil && err != nil:
			return
		case errors.Is(err, errUntracked) || errors.Is(err, errors.ErrUnsupported):
			c.note("a session that breaks off here begins anew: %v", err)
			return
		case err != nil:
			if c.failed++; c.failed == 1 {
				c.note("what was copied so far could not be made durable, and a session that breaks off reads it again: %v", err)
			}
		default:
			c.failed = 0
			c.snap.KeepEarly()
			c.s.opts.Events(Unfinished{Point: id})
		}
	}
}

// make makes what was copied so far the VM's unfinished point.
func (c *checkpoints) make(ctx context.Context) (string, error) {
	var opts pipe.CheckpointOptions
	for _, d := range c.disks {
		pending, err := c.pending(ctx, d)
		if err != nil {
			return "", fmt.Errorf("disk %s: %w", d.Key, err)
		}
		opts.Disks = append(opts.Disks, pipe.CheckpointDisk{Key: d.Key, Size: d.Size, Pending: pending})
	}
	opts.Tracking = c.tracking
	return c.writer.Checkpoint(ctx, opts)
}

// pending are the ranges of a disk that this session reads, or has read. A disk that was not begun yet is asked for what
// changed, as it will be.
func (c *checkpoints) pending(ctx context.Context, d hikae.Disk) ([]pipe.Extent, error) {
	whole := []pipe.Extent{{Len: d.Size, Kind: pipe.Data}}
	if d.Size == 0 {
		return nil, nil
	}
	based, _ := c.s.plan.baseOf(d)
	switch method := c.s.readsBy(d.Key); {
	case !based || method == Allocated || method == Whole:
		return whole, nil
	default:
		list, err := c.s.changes(d).ranges(ctx)
		if err != nil && method == "" && ctx.Err() == nil {
			return whole, nil // it will be read by a lower rung
		}
		return list, err
	}
}

// tracking are the change ids of the snapshot's moment, of disks whose tracker is believed.
func (c *checkpoints) tracking(ctx context.Context) (map[string]string, error) {
	ids, err := c.snap.Early(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, d := range c.disks {
		if id := ids[d.Key]; id != "" && !c.s.isDistrusted(d.Key) {
			out[d.Key] = string(id)
		}
	}
	if len(out) == 0 {
		return nil, errUntracked
	}
	return out, nil
}
