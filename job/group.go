package job

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hikae/hikae"
)

// Grouped is a provider whose VMs share snapshots, where the one below it can have them do so ([hikae.GroupSnapshotter]). VMs
// are backed up one by one, or at once, each by a [Backup] of its own; a group is pinned when the first of its VMs is asked for,
// and each VM is handed its part:
//
//	NewGrouped   which VMs the job is going to ask for: groups are made of those
//	Snapshot     of the group's first VM: the whole group is pinned, at one moment
//	Snapshot     of another: its part, which is there already
//	Release      of each; what they share goes with the last
//	Close        releases what nobody asked for
//
// # What fails
//
// A VM that fails by itself gets its own error, and the others their parts. A group that fails as a whole is not tried again:
// each of its VMs is pinned by itself when it is asked for, with a warning. A part is handed out once; a VM that is asked for
// again is pinned by itself.
//
// # Who is pinned by itself
//
// A VM of no group; one whose session brings a [hikae.Quiescer], as a group is pinned before the others' are known; and one for
// another repository than its group was pinned for.
//
// # Crashes
//
// The group's effects are in the journal of whoever asked first, so all backups of a Grouped have one journal, which lives
// until Close. A killed job leaves them all there, also those of VMs that were not asked for yet, and the provider's Undo knows
// each by itself. Nothing of a Grouped's own needs undoing.
//
// Methods may be called at once.
type Grouped struct {
	hikae.SnapshotProvider
	group hikae.GroupSnapshotter // nil: the provider has no groups
	limit time.Duration

	mu     sync.Mutex
	shared map[string]*shared // by VM
	closed bool
}

var _ hikae.SnapshotProvider = (*Grouped)(nil)

// GroupOptions change how VMs are grouped. Nil and zero fields are good defaults.
type GroupOptions struct {
	// ReleaseDeadline bounds Close, and taking back the part of a VM. Zero: 5 minutes.
	ReleaseDeadline time.Duration
}

// shared is one group on its way.
type shared struct {
	ids  []string      // written with the turn and the lock
	turn chan struct{} // holds one token; whoever has it may pin, or take a part

	begun      bool
	repository string
	at         time.Time
	err        error // the group as a whole failed
	failed     map[string]error
	parts      map[string]hikae.Snapshot // that nobody asked for yet
}

// PartialError is an optional ability of what SnapshotGroup returns: only these VMs failed, and the snapshots beside it are
// good.
type PartialError interface {
	error
	FailedVMs() map[string]error
}

// LateSince is an optional ability of a snapshot that is a part of a group: it is told what its own caller is going to ask
// Changed for, which was not known when the group was pinned.
type LateSince interface {
	WillAsk(since map[string]hikae.ChangeID)
}

// LatePast is the same for the change ids of the newest point, which hikae.SnapshotOptions calls Past.
type LatePast interface {
	WillReplace(past map[string]hikae.ChangeID)
}

// NewGrouped groups the VMs that a job is going to back up, by their ids. It changes nothing on any host. Where the provider has
// no groups, or none of these VMs shares anything, each is pinned by itself.
func NewGrouped(ctx context.Context, provider hikae.SnapshotProvider, ids []string, opts *GroupOptions) (*Grouped, error) {
	g := &Grouped{SnapshotProvider: provider, limit: releaseDeadline, shared: map[string]*shared{}}
	if opts != nil && opts.ReleaseDeadline > 0 {
		g.limit = opts.ReleaseDeadline
	}
	var ok bool
	if g.group, ok = provider.(hikae.GroupSnapshotter); !ok {
		return g, nil
	}
	groups, err := g.group.Group(ctx, slices.Clone(ids))
	if err != nil {
		return nil, fmt.Errorf("group %d VMs: %w", len(ids), err)
	}
	for _, list := range groups {
		if err := g.plan(list, ids); err != nil {
			return nil, err
		}
	}
	maps.DeleteFunc(g.shared, func(_ string, s *shared) bool { return len(s.ids) < 2 })
	return g, nil
}

// plan notes a group. What a provider says of VMs that were not asked for, or says twice, is its mistake.
func (g *Grouped) plan(list, asked []string) error {
	s := &shared{ids: slices.Clone(list), turn: make(chan struct{}, 1)}
	s.turn <- struct{}{}
	for _, id := range list {
		if g.shared[id] != nil || !slices.Contains(asked, id) {
			return fmt.Errorf("the provider's groups have VM %q twice, or unasked", id)
		}
		g.shared[id] = s
	}
	return nil
}

// Groups are the groups of more than one VM, for a plan that is printed.
func (g *Grouped) Groups() (groups [][]string) {
	seen := map[*shared]bool{}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(g.shared)) {
		if s := g.shared[id]; !seen[s] {
			seen[s] = true
			groups = append(groups, slices.Clone(s.ids))
		}
	}
	return groups
}

// VMs implements [hikae.SnapshotProvider].
func (g *Grouped) VMs(ctx context.Context) iter.Seq2[hikae.VM, error] {
	return g.SnapshotProvider.VMs(ctx)
}

// Undo implements [hikae.Sweeper] where the provider does.
func (g *Grouped) Undo(ctx context.Context, e hikae.Effect, keep []hikae.ChangeID) error {
	if s, ok := g.SnapshotProvider.(hikae.Sweeper); ok {
		return s.Undo(ctx, e, keep)
	}
	return fmt.Errorf("effect %s: this provider undoes nothing: %w", e.ID, errors.ErrUnsupported)
}

// Snapshot implements [hikae.SnapshotProvider].
func (g *Grouped) Snapshot(ctx context.Context, id string, opts *hikae.SnapshotOptions) (hikae.Snapshot, error) {
	if opts == nil {
		opts = &hikae.SnapshotOptions{}
	}
	s, err := g.groupOf(id)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return g.SnapshotProvider.Snapshot(ctx, id, opts)
	}
	select {
	case <-s.turn:
	case <-ctx.Done():
		return nil, fmt.Errorf("VM %s: its group is being pinned: %w", id, context.Cause(ctx))
	}
	part, why, err := g.part(ctx, s, id, opts)
	s.turn <- struct{}{}
	if part != nil || err != nil {
		return part, err
	}
	snap, err := g.SnapshotProvider.Snapshot(ctx, id, opts)
	if err != nil {
		return nil, err
	}
	return &loner{Snapshot: snap, why: why}, nil
}

// groupOf is nil for a VM that is by itself.
func (g *Grouped) groupOf(id string) (*shared, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, fmt.Errorf("VM %s: the groups of this job are closed: %w", id, fs.ErrClosed)
	}
	return g.shared[id], nil
}

// part is a VM's part of its group, or nil and why it is pinned by itself. The caller has the group's turn.
func (g *Grouped) part(ctx context.Context, s *shared, id string, opts *hikae.SnapshotOptions) (hikae.Snapshot, string, error) {
	if _, err := g.groupOf(id); err != nil { // closed while it was waited for
		return nil, "", err
	}
	if opts.Quiescer != nil {
		return nil, "components in its guest quiesce it", g.leave(ctx, s, id)
	}
	if err := g.begin(ctx, s, opts); err != nil {
		return nil, "", err
	}
	if err := s.failed[id]; err != nil {
		delete(s.failed, id)
		return nil, "", err
	}
	part := s.parts[id]
	switch {
	case s.err != nil:
		return nil, fmt.Sprintf("its group of %d VMs could not be pinned together: %v", len(s.ids), s.err), nil
	case part == nil:
		return nil, "its part of the group was handed out before", nil
	case s.repository != opts.Repository:
		return nil, "its group was pinned for another repository", g.leave(ctx, s, id)
	}
	delete(s.parts, id)
	if late, ok := part.(LateSince); ok {
		late.WillAsk(opts.Since)
	}
	if late, ok := part.(LatePast); ok {
		late.WillReplace(opts.Past)
	}
	return &member{Snapshot: part, at: s.at}, "", nil
}

// Close releases the parts that nobody asked for, whatever became of ctx, and lets nobody ask any more. Parts that were handed
// out are their sessions'. It may be called again after an error.
func (g *Grouped) Close(ctx context.Context) error {
	g.mu.Lock()
	g.closed = true
	groups := map[*shared]bool{}
	for _, s := range g.shared {
		groups[s] = true
	}
	g.mu.Unlock()
	var errs []error
	for s := range groups {
		errs = append(errs, g.closeGroup(ctx, s))
	}
	return errors.Join(errs...)
}

func (g *Grouped) closeGroup(ctx context.Context, s *shared) error {
	wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.limit)
	defer cancel()
	select {
	case <-s.turn:
	case <-wait.Done():
		return fmt.Errorf("a group of %d VMs is still being pinned: %w", len(s.ids), wait.Err())
	}
	defer func() { s.turn <- struct{}{} }()
	s.begun = true // whoever was waiting finds nothing
	var errs []error
	for _, id := range slices.Sorted(maps.Keys(s.parts)) {
		if err := g.releaseAll(ctx, []hikae.Snapshot{s.parts[id]}); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(s.parts, id)
	}
	return errors.Join(errs...)
}
