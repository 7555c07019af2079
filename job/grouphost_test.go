package job

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"

	"github.com/hikae/hikae"
)

// groupHost is several VMs whose disks lie on one volume. What its snapshots share is a snapshot of that volume: it is there
// from the group's pin until the last VM is released.
type groupHost struct {
	vms   map[string]*host
	order []string
	none  bool // it finds no groups

	mu      sync.Mutex
	events  []string
	volumes int              // volume snapshots that exist
	failVM  map[string]error // VMs that fail by themselves
	fail    error            // the group fails
	gate    func(ctx context.Context) error
	late    map[string]map[string]hikae.ChangeID
	past    map[string]map[string]hikae.ChangeID
}

func newGroupHost(n int) *groupHost {
	g := &groupHost{vms: map[string]*host{}, failVM: map[string]error{}, late: map[string]map[string]hikae.ChangeID{},
		past: map[string]map[string]hikae.ChangeID{}}
	for i := range n {
		id := fmt.Sprintf("vm-%d", i+1)
		g.vms[id] = filled(uint64(i+1), 4*block+512, 2*block)
		g.order = append(g.order, id)
	}
	return g
}

func (g *groupHost) event(format string, args ...any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.events = append(g.events, fmt.Sprintf(format, args...))
}

func (g *groupHost) heard() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.events)
}

func (g *groupHost) left() (volumes, snapshots int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, h := range g.vms {
		h.mu.Lock()
		snapshots += h.snapshots
		h.mu.Unlock()
	}
	return g.volumes, snapshots
}

func (g *groupHost) describe(id string) hikae.VM {
	vm := g.vms[id].vm()
	vm.ID, vm.Name = id, "name of "+id
	return vm
}

func (g *groupHost) VMs(context.Context) iter.Seq2[hikae.VM, error] {
	return func(yield func(hikae.VM, error) bool) {
		for _, id := range g.order {
			if !yield(g.describe(id), nil) {
				return
			}
		}
	}
}

func (g *groupHost) Group(_ context.Context, ids []string) ([][]string, error) {
	if g.none {
		var each [][]string
		for _, id := range ids {
			each = append(each, []string{id})
		}
		return each, nil
	}
	return [][]string{ids}, nil
}

func (g *groupHost) Snapshot(ctx context.Context, id string, opts *hikae.SnapshotOptions) (hikae.Snapshot, error) {
	g.event("alone %s", id)
	parts, err := g.take(ctx, []string{id}, opts)
	if err != nil {
		return nil, err
	}
	return parts[0], nil
}

type someFailed map[string]error

func (e someFailed) Error() string               { return fmt.Sprintf("%d VMs failed", len(e)) }
func (e someFailed) FailedVMs() map[string]error { return e }

func (g *groupHost) SnapshotGroup(ctx context.Context, ids []string, opts *hikae.SnapshotOptions) ([]hikae.Snapshot, error) {
	g.event("group %v", ids)
	if g.gate != nil {
		if err := g.gate(ctx); err != nil {
			return nil, err
		}
	}
	if g.fail != nil {
		return nil, g.fail
	}
	return g.take(ctx, ids, opts)
}

// volumeSnapshot is what a group's VMs share.
type volumeSnapshot struct {
	g       *groupHost
	done    func(context.Context) error
	readers int
}

func (g *groupHost) take(ctx context.Context, ids []string, opts *hikae.SnapshotOptions) (out []hikae.Snapshot, err error) {
	v := &volumeSnapshot{g: g, done: func(context.Context) error { return nil }}
	if v.done, err = g.intend(ctx, opts, "volume", ""); err != nil {
		return nil, err
	}
	g.mu.Lock()
	g.volumes++
	g.mu.Unlock()
	failed := someFailed{}
	for _, id := range ids {
		if failed[id] = g.failVM[id]; failed[id] != nil {
			continue
		}
		delete(failed, id)
		done, err := g.intend(ctx, opts, "vm", id)
		if err != nil {
			return nil, err
		}
		s, err := g.vms[id].Snapshot(ctx, id, opts)
		if err != nil {
			return nil, err
		}
		v.readers++
		out = append(out, &groupSnapshot{hostSnapshot: s.(*hostSnapshot), g: g, vm: g.describe(id), volume: v, done: done})
	}
	if len(failed) > 0 {
		return out, failed
	}
	return out, nil
}

func (g *groupHost) intend(ctx context.Context, opts *hikae.SnapshotOptions, what, vm string) (func(context.Context) error, error) {
	if opts.Journal == nil {
		return func(context.Context) error { return nil }, nil
	}
	return opts.Journal.Intend(ctx, hikae.Effect{Kind: "group." + what, VM: vm})
}

// Undo implements [hikae.Sweeper].
func (g *groupHost) Undo(_ context.Context, e hikae.Effect, _ []hikae.ChangeID) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if e.Kind == "group.volume" {
		g.volumes = 0
		return nil
	}
	g.vms[e.VM].snapshots = 0
	return nil
}

type groupSnapshot struct {
	*hostSnapshot
	g      *groupHost
	vm     hikae.VM
	volume *volumeSnapshot
	done   func(context.Context) error
	gone   bool
}

func (s *groupSnapshot) VM() hikae.VM { return s.vm }

func (s *groupSnapshot) WillAsk(since map[string]hikae.ChangeID) {
	s.g.mu.Lock()
	defer s.g.mu.Unlock()
	s.g.late[s.vm.ID] = since
}

func (s *groupSnapshot) WillReplace(past map[string]hikae.ChangeID) {
	s.g.mu.Lock()
	defer s.g.mu.Unlock()
	s.g.past[s.vm.ID] = past
}

func (s *groupSnapshot) Release(ctx context.Context) error {
	if s.gone {
		return errors.New("released twice")
	}
	if err := s.hostSnapshot.Release(ctx); err != nil {
		return err
	}
	s.gone = true
	s.g.event("release %s", s.vm.ID)
	if err := s.done(ctx); err != nil {
		return err
	}
	s.g.mu.Lock()
	s.volume.readers--
	last := s.volume.readers == 0
	if last {
		s.g.volumes--
	}
	s.g.mu.Unlock()
	if last {
		s.g.event("volume deleted")
		return s.volume.done(ctx)
	}
	return nil
}
