package job

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hikae/hikae"
)

// begin pins the group, once. A session that ends meanwhile takes only itself away: what some of the VMs could not be pinned for is
// then its end, and not their own, so that all is taken back, and the next one that asks pins the group.
func (g *Grouped) begin(ctx context.Context, s *shared, opts *hikae.SnapshotOptions) error {
	if s.begun {
		return nil
	}
	o := *opts
	o.Since, o.Past = nil, nil // disks of several VMs may have equal keys: each part is told its own
	parts, err := g.group.SnapshotGroup(ctx, slices.Clone(s.ids), &o)
	if some := PartialError(nil); errors.As(err, &some) && len(parts) > 0 && ctx.Err() == nil {
		s.failed, err = sortFailed(some.FailedVMs(), s.ids), nil
	}
	if err == nil {
		s.parts, err = sortParts(parts, s.ids)
	}
	if err != nil {
		err = errors.Join(err, g.releaseAll(ctx, parts))
		if ctx.Err() != nil {
			return errors.Join(context.Cause(ctx), err)
		}
		s.parts, s.failed, s.err = nil, nil, err
	}
	s.begun, s.repository, s.at = true, opts.Repository, time.Now()
	return nil
}

// sortParts sorts snapshots by their VMs, as those were asked for.
func sortParts(parts []hikae.Snapshot, ids []string) (map[string]hikae.Snapshot, error) {
	out := map[string]hikae.Snapshot{}
	for _, p := range parts {
		id, ok := askedFor(p.VM().ID, ids)
		if !ok || out[id] != nil {
			return nil, fmt.Errorf("the provider pinned VM %q twice, or unasked", p.VM().ID)
		}
		out[id] = p
	}
	return out, nil
}

// sortFailed does so with VMs that failed.
func sortFailed(failed map[string]error, ids []string) map[string]error {
	out := map[string]error{}
	for vm, err := range failed {
		if id, ok := askedFor(vm, ids); ok {
			out[id] = errors.Join(out[id], err)
		}
	}
	return out
}

// askedFor finds the id by which a VM was asked for. A provider may take ids in other letters than its own, as of GUIDs; where two
// differ in nothing else they are two VMs, and only the exact one counts.
func askedFor(vm string, ids []string) (string, bool) {
	if slices.Contains(ids, vm) {
		return vm, true
	}
	var like []string
	for _, id := range ids {
		if strings.EqualFold(id, vm) {
			like = append(like, id)
		}
	}
	if len(like) != 1 {
		return "", false
	}
	return like[0], true
}

// leave takes a VM out of its group: before that was pinned it is not going to be in it, afterwards its part is released. The
// caller has the group's turn.
func (g *Grouped) leave(ctx context.Context, s *shared, id string) error {
	if !s.begun {
		g.mu.Lock()
		s.ids = slices.DeleteFunc(slices.Clone(s.ids), func(one string) bool { return one == id })
		delete(g.shared, id)
		g.mu.Unlock()
		return nil
	}
	part := s.parts[id]
	if part == nil {
		return nil
	}
	if err := g.releaseAll(ctx, []hikae.Snapshot{part}); err != nil {
		return fmt.Errorf("VM %s: its part of a group: %w", id, err)
	}
	delete(s.parts, id)
	return nil
}

// releaseAll releases snapshots that nobody reads, with time of its own.
func (g *Grouped) releaseAll(ctx context.Context, parts []hikae.Snapshot) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.limit)
	defer cancel()
	var errs []error
	for _, p := range parts {
		err := p.Release(ctx)
		if err != nil && ctx.Err() == nil {
			err = p.Release(ctx)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("release VM %s: %w", p.VM().ID, err))
		}
	}
	return errors.Join(errs...)
}

// member is a VM's part of a group.
type member struct {
	hikae.Snapshot
	at time.Time
}

// Unwrap is what the provider made.
func (m *member) Unwrap() hikae.Snapshot { return m.Snapshot }

// Taken is when the group was pinned: the VM's point is of that moment, however late its turn came.
func (m *member) Taken() time.Time { return m.at }

// Warnings implements [Warner].
func (m *member) Warnings() []string { return warningsOf(m.Snapshot) }

// loner is a VM that was to be in a group, and is not.
type loner struct {
	hikae.Snapshot
	why string
}

// Warnings implements [Warner].
func (l *loner) Warnings() []string {
	return append([]string{"it was pinned by itself: " + l.why}, warningsOf(l.Snapshot)...)
}

func warningsOf(s hikae.Snapshot) []string {
	if w, ok := s.(Warner); ok {
		return w.Warnings()
	}
	return nil
}

// takenAt is when a snapshot was taken, where it was before it was asked for; else now.
func takenAt(s hikae.Snapshot) time.Time {
	if t, ok := s.(interface{ Taken() time.Time }); ok {
		return t.Taken()
	}
	return time.Now()
}
