package hyperv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/cim"
)

// ProviderOptions change how VMs are backed up. Nil and zero fields are good defaults.
type ProviderOptions struct {
	// Procedure is Auto, or the only one that is taken: conditions are looked at all the same.
	Procedure Procedure
	Mode      Mode // zero: OnHost
	Quiesce   Quiesce
	// Full has the guest's writers truncate their logs when the point is durable. Else the guest sees a copy.
	Full bool
	// NoTracking reads VMs in full and leaves no reference points: on some hosts tracking slows VMs down.
	NoTracking bool
	// IgnoreDisks are keys of disks, or their places, that are left out though no checkpoint covers them. A VM that has others of
	// those is refused.
	IgnoreDisks []string
	// Requester makes what asks a host's VSS, for procedures with a writer. Nil: those are not possible.
	Requester func(ctx context.Context, h *Host) (Requester, error)
	// UndoRequester takes away what a requester brought to a host, which an effect of kind "hyperv.helper" tells of: see [Journaled].
	// Nil: such effects stay in the journal.
	UndoRequester func(ctx context.Context, e hikae.Effect) error
	// Volumes pin volumes for OffHost, tried in this order.
	Volumes []VolumeSnapshotter
	// GroupSize is how many VMs share a volume snapshot, or a set, at most. Zero: 4 with the system's provider, 8 off-host.
	GroupSize int
	// CheckpointLimit bounds the making of a checkpoint, MergeLimit the wait for merges. Zero: 10 min; 1 h. A merge that takes longer goes
	// on by itself: the backup is good, and its clean-up pending.
	CheckpointLimit, MergeLimit time.Duration
	// Warn is told what a person should know and what stops nothing. It may be nil.
	Warn func(vm, text string)
	// Swept is told what Undo removed from a host, in words that name it. It may be nil.
	Swept func(vm, what string)
}

// Provider backs up VMs of a site.
type Provider struct {
	site *Site
	vms  []string // GUIDs in small letters; nil: all
	opts ProviderOptions

	mu    sync.Mutex
	taken map[string]bool // VMs that a snapshot of this provider is at work on
}

var (
	_ hikae.SnapshotProvider = (*Provider)(nil)
	_ hikae.Sweeper          = (*Provider)(nil)
)

// New makes a provider of some VMs by GUID; of all where none is named. The site stays the caller's, who closes it after the last
// snapshot was released.
func New(s *Site, vms []string, opts *ProviderOptions) (*Provider, error) {
	p := &Provider{site: s, taken: map[string]bool{}}
	if opts != nil {
		p.opts = *opts
	}
	for _, id := range vms {
		if !isGUID(id) {
			return nil, fmt.Errorf("VM %.60q: %w: a VM is named by its GUID", id, cim.ErrArgument)
		}
		if id = strings.ToLower(id); !slices.Contains(p.vms, id) {
			p.vms = append(p.vms, id)
		}
	}
	switch o := &p.opts; {
	case o.Procedure != Auto && !slices.Contains(Procedures, o.Procedure):
		return nil, fmt.Errorf("procedure %.40q: %w", o.Procedure, cim.ErrArgument)
	case o.Mode != "" && !slices.Contains(Modes, o.Mode):
		return nil, fmt.Errorf("mode %.40q: %w", o.Mode, cim.ErrArgument)
	case o.Quiesce != TryQuiesce && o.Quiesce != RequireQuiesce && o.Quiesce != NoQuiesce:
		return nil, fmt.Errorf("quiesce %.40q: %w", o.Quiesce, cim.ErrArgument)
	}
	if p.opts.CheckpointLimit <= 0 {
		p.opts.CheckpointLimit = 10 * time.Minute
	}
	return p, nil
}

// VMs implements [hikae.SnapshotProvider]. A VM that cannot be described is an error in its place; the others follow. A host of
// a cluster that cannot be reached is one too, after those of the others.
func (p *Provider) VMs(ctx context.Context) iter.Seq2[hikae.VM, error] {
	if p.vms == nil {
		return p.everyVM(ctx)
	}
	return func(yield func(hikae.VM, error) bool) {
		for _, id := range p.vms {
			vm, err := p.describe(ctx, id)
			if !yield(vm, err) || ctx.Err() != nil {
				return
			}
		}
	}
}

func (p *Provider) describe(ctx context.Context, id string) (hikae.VM, error) {
	h, err := p.site.Owner(ctx, id)
	if err != nil {
		return hikae.VM{}, err
	}
	m, err := h.Machine(ctx, id)
	if err != nil {
		return hikae.VM{}, fmt.Errorf("host %s: %w", h.Info().Name, err)
	}
	return m.VM(h.Info()), nil
}

func (p *Provider) everyVM(ctx context.Context) iter.Seq2[hikae.VM, error] {
	return func(yield func(hikae.VM, error) bool) {
		hosts, lost := p.site.Hosts(ctx)
		seen := map[string]bool{} // one that is being moved is on two hosts for a while
		for _, h := range hosts {
			for vm, err := range h.VMs(ctx) {
				if err == nil && seen[vm.ID] {
					continue
				}
				if seen[vm.ID] = true; !yield(vm, err) {
					return
				}
			}
		}
		if lost != nil {
			yield(hikae.VM{}, lost)
		}
	}
}

// Plan says how a VM would be backed up now, and why so. A way that was asked for and is not possible is a *PlanError.
func (p *Provider) Plan(ctx context.Context, vm string) (*Plan, error) {
	planned, err := p.planned(ctx, vm)
	if err != nil {
		return nil, err
	}
	return planned.plan, nil
}

func (p *Provider) planned(ctx context.Context, vm string) (*planned, error) {
	vm = strings.ToLower(vm)
	if p.vms != nil && !slices.Contains(p.vms, vm) {
		return nil, fmt.Errorf("VM %.60q: %w", vm, fs.ErrNotExist)
	}
	found, err := p.site.plan(ctx, vm, &p.opts)
	if err == nil {
		err = unfinishedError(found.machine.Name, found.machine.Notes)
	}
	if err != nil {
		return nil, err
	}
	return found, nil
}

// Snapshot implements [hikae.SnapshotProvider], by the procedure of the VM's plan. It is a [job.Warner].
func (p *Provider) Snapshot(ctx context.Context, id string, opts *hikae.SnapshotOptions) (hikae.Snapshot, error) {
	vm, err := p.planned(ctx, id)
	if err != nil {
		return nil, err
	}
	list, err := p.strategyOf(vm.plan).pin(ctx, []*planned{vm}, opts)
	if err == nil {
		err = noneOf(list)
	}
	if err != nil {
		return nil, errors.Join(err, releaseSnapshots(ctx, list))
	}
	return list[0], nil
}

func noneOf(list []hikae.Snapshot) error {
	if len(list) == 1 {
		return nil
	}
	return fmt.Errorf("%d snapshots were made of one VM", len(list))
}

// releaseSnapshots takes back what nobody is going to read.
func releaseSnapshots(ctx context.Context, list []hikae.Snapshot) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	var errs []error
	for _, s := range list {
		errs = append(errs, s.Release(ctx))
	}
	return errors.Join(errs...)
}

// occupy lets one snapshot at a time work on a VM. Other programs are found by what they leave on the host.
func (p *Provider) occupy(vm string) (free func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken[vm] {
		return nil, &hikae.BusyError{What: "VM " + vm, Owner: "another session of this program"}
	}
	p.taken[vm] = true
	return sync.OnceFunc(func() { // a snapshot may be released again, when the VM is another's by now
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.taken, vm)
	}), nil
}

// strategy is one procedure. It pins VMs of one host, and undoes what it made where it fails. Each has its own order: they share
// means, and no order.
type strategy interface {
	pin(ctx context.Context, vms []*planned, opts *hikae.SnapshotOptions) ([]hikae.Snapshot, error)
}

// planned is a VM on its way into a snapshot.
type planned struct {
	plan    *Plan
	host    *Host
	machine *Machine // as it was when the plan was made
}
