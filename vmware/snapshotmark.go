package vmware

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
)

// kindSnapshot is a snapshot of ours. Its effect is written down before the server is asked, so it cannot name a reference:
// the mark in the snapshot's description, which is as unique as a reference, is what finds it.
const kindSnapshot = "vmware.snapshot"

// marked is one snapshot of ours: one that is going to be, is, or was.
type marked struct {
	client *Client
	vm     types.ManagedObjectReference
	mark   string
	name   string
	ref    types.ManagedObjectReference // empty: not made, or made by a task whose answer was lost
	task   types.ManagedObjectReference // that makes it; empty: not known
	unsure bool                         // a call that was to make it had no answer, and may arrive yet
	done   func(context.Context) error  // nil: settled
}

// newMarked writes down that there is going to be a snapshot.
func (c *Client) newMarked(ctx context.Context, journal hikae.Journal, m *machine) (*marked, error) {
	k := &marked{client: c, vm: m.Self, mark: newMark()}
	k.name = namePrefix + k.mark
	if j, ok := journal.(interface{ Session() string }); ok && journal != nil {
		k.name = namePrefix + j.Session()
	}
	done, err := intend(ctx, journal, c.effect(kindSnapshot, m.Self.Value, map[string]string{
		"mark": k.mark, "uuid": m.Config.InstanceUuid, "name": m.Name,
	}))
	k.done = done
	return k, err
}

func newMark() string { return strings.ToLower(rand.Text()) }

// begin asks for the snapshot, without memory. A nil quiesce asks for none. The call is not cut short by who asked: one that is
// may still arrive, after everybody has looked whether it did. It has a limit of its own, as every call.
func (k *marked) begin(ctx context.Context, quiesce *quiesceBy) (types.ManagedObjectReference, error) {
	if err := ctx.Err(); err != nil {
		return types.ManagedObjectReference{}, err
	}
	ctx = context.WithoutCancel(ctx)
	if quiesce != nil && quiesce.spec != nil {
		res, err := methods.CreateSnapshotEx_Task(ctx, k.client.vim, &types.CreateSnapshotEx_Task{
			This: k.vm, Name: k.name, Description: describe(k.mark), QuiesceSpec: quiesce.spec,
		})
		if err != nil {
			k.doubt(err)
			return types.ManagedObjectReference{}, fmt.Errorf("create a snapshot: %w", err)
		}
		return res.Returnval, nil
	}
	res, err := methods.CreateSnapshot_Task(ctx, k.client.vim, &types.CreateSnapshot_Task{
		This: k.vm, Name: k.name, Description: describe(k.mark), Quiesce: quiesce != nil,
	})
	if err != nil {
		k.doubt(err)
		return types.ManagedObjectReference{}, fmt.Errorf("create a snapshot: %w", err)
	}
	return res.Returnval, nil
}

// doubt keeps in mind that a call may have reached the server, or be on its way there.
func (k *marked) doubt(err error) { k.unsure = k.unsure || !isAnswer(err) && !neverArrived(err) }

// finish waits until the snapshot is there.
func (k *marked) finish(ctx context.Context, task types.ManagedObjectReference) error {
	info, err := k.client.Wait(ctx, task)
	if gone := (*TaskLostError)(nil); errors.As(err, &gone) {
		return k.adopt(ctx, err)
	}
	if err != nil {
		return fmt.Errorf("create a snapshot: %w", err)
	}
	ref, ok := info.Result.(types.ManagedObjectReference)
	if !ok || ref.Value == "" {
		return fmt.Errorf("create a snapshot: task %s ended well and names no snapshot", task.Value)
	}
	k.ref = ref
	return nil
}

// adopt takes the snapshot for made where it is there, although nobody said so.
func (k *marked) adopt(ctx context.Context, lost error) error {
	ref, found, err := k.look(ctx)
	if err == nil && found {
		k.ref = ref
		return nil
	}
	return errors.Join(fmt.Errorf("create a snapshot: %w", lost), err)
}

const creations = 3 // times that a snapshot is asked for, where the server's answer was lost

// create makes the snapshot. Where the server's answer was lost the mark tells whether it was made; where it was not, the
// server is asked again.
func (k *marked) create(ctx context.Context, quiesce *quiesceBy) error {
	for try := 1; ; try++ {
		task, err := k.begin(ctx, quiesce)
		if err == nil {
			k.task = task
			return k.finish(ctx, task)
		}
		if isAnswer(err) || ctx.Err() != nil {
			return err
		}
		if k.adopt(ctx, err) == nil {
			k.unsure = try > 1 // the one call that there was has arrived
			return nil
		}
		if try == creations {
			return err
		}
		if err := pause(ctx, try); err != nil {
			return err
		}
	}
}

// remove removes the snapshot, its children stay, and settles its effect. It may be called again after an error, and finds
// the snapshot by its mark where no reference is known.
func (k *marked) remove(ctx context.Context) error {
	if k == nil || k.done == nil {
		return nil
	}
	if err := k.vanish(ctx); err != nil {
		return err
	}
	return k.settle(ctx)
}

// settle says that the snapshot is gone. Where a call had no answer it may still make one: that is for a sweep to see, when this
// session is over.
func (k *marked) settle(ctx context.Context) error {
	if k.done == nil {
		return nil
	}
	if k.unsure {
		k.done = nil
		return nil
	}
	if err := k.done(ctx); err != nil {
		return err
	}
	k.done = nil
	return nil
}

const (
	removals   = 4 // times that a removal is asked for, where the server's answer was lost or it had other work
	pollEvery  = time.Second
	firstPause = 50 * time.Millisecond
)

// vanish returns nil when no snapshot with the mark is there and none is on its way.
func (k *marked) vanish(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, k.client.opts.TaskTimeout)
	defer cancel()
	var errs []error
	for try := 0; try < removals; {
		ref, found, err := k.look(ctx)
		switch {
		case err != nil:
			return errors.Join(append(errs, err)...)
		case !found:
			return nil
		}
		err = k.client.removeSnapshot(ctx, ref)
		switch {
		case ctx.Err() != nil && err != nil:
			return fmt.Errorf("remove snapshot %s: %w; a removal that was begun goes on at the server", ref.Value, err)
		case isFault[*types.TaskInProgress](err):
			if err := sleep(ctx, pollEvery); err != nil {
				return fmt.Errorf("remove snapshot %s: the VM has other work: %w", ref.Value, err)
			}
			continue // as long as ctx lasts: somebody else's consolidation may take hours
		case err != nil && !isGone(err):
			errs = append(errs, fmt.Errorf("remove snapshot %s: %w", ref.Value, err))
			if err := sleep(ctx, firstPause<<try); err != nil {
				return errors.Join(append(errs, err)...)
			}
		}
		try++
	}
	if _, found, err := k.look(ctx); err != nil || found {
		return errors.Join(append(errs, err)...)
	}
	return nil
}

// look finds the snapshot. One that is being made is waited for.
func (k *marked) look(ctx context.Context) (ref types.ManagedObjectReference, found bool, err error) {
	pause := firstPause
	for ended := false; ; {
		var vm mo.VirtualMachine
		err := k.client.properties(ctx, k.vm, []string{"snapshot", "recentTask"}, &vm)
		if isGone(err) {
			return ref, false, nil
		}
		if err != nil {
			return ref, false, fmt.Errorf("snapshots of VM %s: %w", k.vm.Value, err)
		}
		tree, err := treeOf(vm.Snapshot)
		if err != nil {
			return ref, false, fmt.Errorf("VM %s: %w", k.vm.Value, err)
		}
		if nodes := tree.marked(k.mark); len(nodes) > 0 {
			return nodes[0].ref, true, nil
		}
		tasks := vm.RecentTask
		if k.task.Value != "" {
			tasks = append([]types.ManagedObjectReference{k.task}, tasks...) // a server need not list it
		}
		making, err := k.client.underWay(ctx, tasks, "createsnapshot")
		switch {
		case err != nil || making == nil && ended:
			return ref, false, err
		case making == nil: // it may have ended since the tree was read: that is read once more
			ended = true
			continue
		}
		ended = false
		if err := sleep(ctx, pause); err != nil {
			return ref, false, fmt.Errorf("VM %s: a snapshot is being made by task %s: %w", k.vm.Value, making.Key, err)
		}
		pause = min(2*pause, pollEvery)
	}
}

// underWay is a task of a list that has not ended, and whose name holds a word.
func (c *Client) underWay(ctx context.Context, refs []types.ManagedObjectReference, word string) (*types.TaskInfo, error) {
	tasks, err := c.tasks(ctx, refs)
	return goingOn(tasks, word), err
}

func goingOn(tasks []types.TaskInfo, word string) *types.TaskInfo {
	for _, t := range tasks {
		going := t.State == types.TaskInfoStateRunning || t.State == types.TaskInfoStateQueued
		if going && strings.Contains(strings.ToLower(t.DescriptionId+" "+t.Name), word) {
			return &t
		}
	}
	return nil
}

// removeSnapshot removes one snapshot, by its reference, and waits for it.
func (c *Client) removeSnapshot(ctx context.Context, ref types.ManagedObjectReference) error {
	merge := true
	res, err := methods.RemoveSnapshot_Task(ctx, c.vim, &types.RemoveSnapshot_Task{This: ref, RemoveChildren: false, Consolidate: &merge})
	if err != nil {
		return err
	}
	_, err = c.Wait(ctx, res.Returnval)
	return err
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
