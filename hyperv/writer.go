package hyperv

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae"
)

const (
	// setLimit bounds the making of a set: auto-recovery alone may take several minutes for each VM (R061).
	setLimit = 20 * time.Minute
	// setMargin is what a requester has beyond its own limit to come back and say so.
	setMargin = 2 * time.Minute
	// adoptLimit bounds looking at the VMs of a set that was made.
	adoptLimit = 10 * time.Minute
	// setUndo bounds taking back a set that was not made whole.
	setUndo = 10 * time.Minute
)

// vssSet is one set of shadow copies: going to be made, made, read for several VMs, and gone with the last of them. It is the
// means that procedures with a writer have in common; in which order its steps are called is theirs.
type vssSet struct {
	p         *Provider
	host      *Host
	procedure Procedure
	mode      Mode
	opts      hikae.SnapshotOptions
	mark      string

	requester Requester            // that is connected; nil: none is
	parting   []Requester          // that could not be closed yet
	offered   map[string]Component // by VM
	before    map[string][]string  // by VM: InstanceIDs of its checkpoints right before the set was made
	then      map[string]*seen     // by VM: as it was right after the set was made
	done      func(context.Context) error
	set       Set
	stray     bool                        // there may be a set that nothing but its mark leads to
	mounted   VolumeSnapshot              // the same shadow copies where we read, for OffHost
	files     Files                       // what VMs are read from
	made      map[string][]string         // by VM: files of the writer's own checkpoints
	after     func(context.Context) error // the procedure's own order when the last VM was released

	mu       sync.Mutex
	readers  map[string]bool   // VMs that were not released yet
	free     map[string]func() // lets others work on a VM again
	good     map[string]bool   // VMs with a durable point
	finished bool
	ended    bool
}

func newSet(p *Provider, vms []*planned, procedure Procedure, opts *hikae.SnapshotOptions) *vssSet {
	v := &vssSet{p: p, host: vms[0].host, procedure: procedure, mode: vms[0].plan.Mode, mark: strings.ToLower(rand.Text()),
		readers: map[string]bool{}, free: map[string]func(){}, good: map[string]bool{}, made: map[string][]string{},
		before: map[string][]string{}, then: map[string]*seen{}, done: nothing}
	if opts != nil {
		v.opts = *opts
	}
	return v
}

func nothing(context.Context) error { return nil }

// occupy keeps other sessions of this program off the VMs. One that is another's is left out.
func (v *vssSet) occupy(vms []*planned, failed failures) (in []*planned) {
	for _, vm := range vms {
		free, err := v.p.occupy(vm.machine.ID)
		if err != nil {
			failed.add(vm, err)
			continue
		}
		v.free[vm.machine.ID] = free
		in = append(in, vm)
	}
	return in
}

// leaveOut lets go of a VM that is not going to be in the set, or not read from it.
func (v *vssSet) leaveOut(vm *planned, why error, failed failures) {
	failed.add(vm, why)
	v.free[vm.machine.ID]()
}

// connect makes the requester.
func (v *vssSet) connect(ctx context.Context) error {
	if v.p.opts.Requester == nil {
		return fmt.Errorf("host %s: procedure %s needs a requester on the host, and none was given: %w", v.host.Info().Name, v.procedure, errors.ErrUnsupported)
	}
	r, err := v.p.opts.Requester(ctx, v.host)
	if err != nil {
		return fmt.Errorf("requester on %s: %w", v.host.Info().Name, err)
	}
	if j, ok := r.(Journaled); ok && v.opts.Journal != nil {
		j.Journal(v.opts.Journal, v.p.site.Address())
	}
	v.requester = r
	return nil
}

// reach connects, and asks what the writer offers: what it does not cannot be asked for (R036).
func (v *vssSet) reach(ctx context.Context) error {
	if err := v.connect(ctx); err != nil {
		return err
	}
	list, err := v.requester.Components(ctx)
	if err != nil {
		return fmt.Errorf("what the Hyper-V writer of %s offers: %w", v.host.Info().Name, err)
	}
	v.offered = make(map[string]Component, len(list))
	for _, c := range list {
		v.offered[strings.ToLower(c.VM)] = c
	}
	return nil
}

// choose keeps the VMs that the writer offers; the others have a failure of their own, and stop nobody (R036).
func (v *vssSet) choose(vms []*planned, failed failures) (in []*planned) {
	for _, vm := range vms {
		c, ok := v.offered[vm.machine.ID]
		switch {
		case !ok:
			v.leaveOut(vm, fmt.Errorf("the Hyper-V writer of %s does not offer this VM", v.host.Info().Name), failed)
		case v.p.opts.Quiesce == RequireQuiesce && c.Method == MethodUnknown:
			why := fmt.Errorf("the writer does not say how it gets this VM consistent: %q", c.Caption)
			v.leaveOut(vm, &hikae.QuiesceError{Stage: "find", Err: why}, failed)
		default:
			in = append(in, vm)
		}
	}
	return in
}

// intend writes the set down before the host is asked, and once more when it is known which files the writer's checkpoints made.
func (v *vssSet) intend(ctx context.Context, vms []*planned, files []string) error {
	facts := map[string]string{"mark": v.mark, "procedure": string(v.procedure), "vms": strings.Join(idsOf(vms), ",")}
	if text := strings.Join(files, "\n"); text != "" && len(text) <= maxFacts {
		facts["files"] = text
	}
	done, err := v.p.intend(ctx, v.opts.Journal, kindSet, vms[0], facts, "")
	if err != nil {
		return err
	}
	v.done = done
	return nil
}

// take has the host make the set: its VSS, the writer and what that does inside guests. From here on there is something to undo.
func (v *vssSet) take(ctx context.Context, vms []*planned) error {
	ctx, cancel := context.WithTimeout(ctx, setLimit+setMargin)
	defer cancel()
	v.stray = true
	set, err := v.requester.Take(ctx, SetRequest{
		Mark: v.mark, VMs: idsOf(vms), Full: v.p.opts.Full, Transportable: v.mode == OffHost, Limit: setLimit,
	})
	if err != nil {
		return fmt.Errorf("host %s: a set of shadow copies with %d VMs: %w", v.host.Info().Name, len(vms), err)
	}
	v.set, v.files, v.stray = set, set, false
	return nil
}

// present says where the set is read: on the host, or where a storage's own means bring it (R050, R051, R078).
func (v *vssSet) present(ctx context.Context, vms []*planned) error {
	if v.mode != OffHost {
		return nil
	}
	var err error
	if v.mounted, err = v.p.transport(ctx, v, vms); err != nil {
		return fmt.Errorf("off-host: %w", err)
	}
	v.files = v.mounted
	return nil
}

// together is the context for a set that was made. What several VMs share is not to fail because the session that asked for it
// ends: the others' sessions go on.
func (v *vssSet) together(ctx context.Context, vms []*planned) (context.Context, context.CancelFunc) {
	if len(vms) > 1 {
		ctx = context.WithoutCancel(ctx)
	}
	return context.WithTimeout(ctx, adoptLimit)
}

// adopt turns what became of each VM into its snapshot. One that failed is told, and is no reader.
func (v *vssSet) adopt(ctx context.Context, vms []*planned, how adoption, failed failures) (out []hikae.Snapshot) {
	ctx, cancel := v.together(ctx, vms)
	defer cancel()
	for _, vm := range vms {
		s, err := v.snapshot(ctx, vm, how)
		if err != nil {
			v.leaveOut(vm, err, failed)
			continue
		}
		v.readers[vm.machine.ID] = true
		out = append(out, s)
	}
	return out
}

// commit notes that a VM's point is durable. The writer hears of it when the set ends: it can be told only once for all.
func (v *vssSet) commit(vm string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.good[vm] = true
}

// leave is a VM's release. The last VM's ends the set, in the procedure's own order (R052, R079, R099); where that fails, the
// next call goes on where it stopped.
func (v *vssSet) leave(ctx context.Context, vm string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.readers, vm)
	defer v.free[vm]() // also after an error: what is left on the host keeps others off by itself
	if v.ended || len(v.readers) > 0 {
		return nil
	}
	if err := v.after(ctx); err != nil {
		return err
	}
	v.ended = true
	return nil
}

func idsOf(vms []*planned) []string {
	ids := make([]string, len(vms))
	for i, vm := range vms {
		ids[i] = vm.machine.ID
	}
	return ids
}

// failures are VMs of a group that failed by themselves.
type failures map[string]error

func (f failures) add(vm *planned, err error) {
	f[vm.machine.ID] = fmt.Errorf("VM %s (%s): %w", vm.machine.ID, vm.machine.Name, err)
}

// err is nil, or a *GroupError.
func (f failures) err() error {
	if len(f) == 0 {
		return nil
	}
	return &GroupError{VMs: maps.Clone(f)}
}
