package vmware

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// ConsolidationError says that disks of a VM still run on files of snapshots that are not there any more. The VM works, its
// files grow, and a later sweep tries again.
type ConsolidationError struct {
	VM    string   // its reference's value
	Stray []string // files that no disk and no snapshot accounts for
	Err   error    // what the last try said; nil: the server said that it went well
}

func (e *ConsolidationError) Error() string {
	text := fmt.Sprintf("VM %s needs its disks consolidated", e.VM)
	if len(e.Stray) > 0 {
		text += "; stray files: " + strings.Join(e.Stray, ", ")
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (e *ConsolidationError) Unwrap() error { return e.Err }

// consolidate merges what removed snapshots left, in stages, until the server says that nothing is:
//
//	1  the server's own consolidation, which touches no snapshot
//	2  a snapshot, and all snapshots removed    ┐ only where hunt says so: these remove
//	3  the same, with the guest quiesced        ┘ the snapshots of the VM's users, too
func (c *Client) consolidate(ctx context.Context, vm types.ManagedObjectReference, mark string, hunt bool) error {
	k := &marked{client: c, vm: vm, mark: mark, name: namePrefix + mark}
	stages := []func() error{func() error { return c.consolidateDisks(ctx, vm) }}
	if hunt {
		stages = append(stages,
			func() error { return k.removeWithAll(ctx, nil) },
			func() error { return k.removeWithAll(ctx, &quiesceBy{}) })
	}
	var errs []error
	for _, stage := range stages {
		need, _, err := c.needsConsolidation(ctx, vm)
		if err != nil || !need {
			return err
		}
		if err := stage(); err != nil {
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	need, stray, err := c.needsConsolidation(ctx, vm)
	if err != nil || !need {
		return err
	}
	return &ConsolidationError{VM: vm.Value, Stray: stray, Err: errors.Join(errs...)}
}

// needsConsolidation asks the server, and looks for files that nothing accounts for. A VM that is gone needs nothing.
func (c *Client) needsConsolidation(ctx context.Context, vm types.ManagedObjectReference) (need bool, stray []string, err error) {
	var m mo.VirtualMachine
	err = c.properties(ctx, vm, []string{"runtime.consolidationNeeded", "layoutEx"}, &m)
	if isGone(err) {
		return false, nil, nil
	}
	if err != nil {
		return false, nil, fmt.Errorf("consolidation of VM %s: %w", vm.Value, err)
	}
	return m.Runtime.ConsolidationNeeded, strayFiles(m.LayoutEx), nil
}

func (c *Client) consolidateDisks(ctx context.Context, vm types.ManagedObjectReference) error {
	res, err := methods.ConsolidateVMDisks_Task(ctx, c.vim, &types.ConsolidateVMDisks_Task{This: vm})
	if err == nil {
		_, err = c.Wait(ctx, res.Returnval)
	}
	if err != nil {
		return fmt.Errorf("consolidate disks: %w", err)
	}
	return nil
}

// removeWithAll makes one more snapshot, and has the server remove all that there are: it merges everything then. The mark is
// that of an effect which stands until the disks are whole.
func (k *marked) removeWithAll(ctx context.Context, quiesce *quiesceBy) error {
	if err := k.create(ctx, quiesce); err != nil {
		return fmt.Errorf("to remove all snapshots: %w", errors.Join(err, k.vanish(ctx)))
	}
	merge := true
	res, err := methods.RemoveAllSnapshots_Task(ctx, k.client.vim, &types.RemoveAllSnapshots_Task{This: k.vm, Consolidate: &merge})
	if err == nil {
		_, err = k.client.Wait(ctx, res.Returnval)
	}
	if err != nil {
		return fmt.Errorf("remove all snapshots: %w", errors.Join(err, k.vanish(ctx)))
	}
	return nil
}

// A file that was made for a snapshot: web0-000001.vmdk, and what belongs to it.
var deltaFile = regexp.MustCompile(`-[0-9]{6}(-delta|-sesparse|-ctk)?\.vmdk$`)

const maxStray = 64 // files that are named

// strayFiles are files of snapshots that lie with a VM, and that no disk and no snapshot of it accounts for.
func strayFiles(layout *types.VirtualMachineFileLayoutEx) (out []string) {
	if layout == nil {
		return nil
	}
	known := map[int32]bool{}
	know := func(disks []types.VirtualMachineFileLayoutExDiskLayout) {
		for _, d := range disks {
			for _, unit := range d.Chain {
				for _, key := range unit.FileKey {
					known[key] = true
				}
			}
		}
	}
	know(layout.Disk)
	for _, s := range layout.Snapshot {
		know(s.Disk)
	}
	for _, f := range layout.File {
		if !known[f.Key] && deltaFile.MatchString(f.Name) && !strings.HasSuffix(f.Name, "-ctk.vmdk") && len(out) < maxStray {
			out = append(out, f.Name)
		}
	}
	return out
}

// warnStray says what was there before us: an earlier backup by another program may have left it.
func (s *snapshot) warnStray() {
	if stray := strayFiles(s.was.LayoutEx); len(stray) > 0 {
		s.warn("files of snapshots that are not there any more lie with the VM: %s", strings.Join(stray, ", "))
	}
	if s.was.Runtime.ConsolidationNeeded {
		s.warn("the VM needed its disks consolidated before it was backed up")
	}
}
