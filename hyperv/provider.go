package hyperv

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/hikae/hikae"
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
	// Volumes pin volumes for OffHost, tried in this order.
	Volumes []VolumeSnapshotter
	// GroupSize is how many VMs share a volume snapshot, or a set, at most. Zero: 4 with the system's provider, 8 off-host.
	GroupSize int
	// CheckpointLimit bounds the making of a checkpoint, MergeLimit the wait for merges. Zero: 10 min; 1 h. A merge that takes longer goes
	// on by itself: the backup is good, and its clean-up pending.
	CheckpointLimit, MergeLimit time.Duration
	// Warn is told what a person should know and what stops nothing. It may be nil.
	Warn func(vm, text string)
}

// Provider backs up VMs of a site.
type Provider struct {
	site *Site
	vms  []string // GUIDs; nil: all
	opts ProviderOptions
}

// New makes a provider of some VMs by GUID; of all where none is named.
func New(s *Site, vms []string, opts *ProviderOptions) (*Provider, error) {
	p := &Provider{site: s, vms: vms}
	if opts != nil {
		p.opts = *opts
	}
	return p, nil
}

// VMs implements [hikae.SnapshotProvider].
func (p *Provider) VMs(ctx context.Context) iter.Seq2[hikae.VM, error] {
	return func(yield func(hikae.VM, error) bool) {}
}

// Plan says how a VM would be backed up now, and why so. A way that was asked for and is not possible is a *PlanError.
func (p *Provider) Plan(ctx context.Context, vm string) (*Plan, error) {
	return nil, fmt.Errorf("VM %s: %w", vm, errNotYet)
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
