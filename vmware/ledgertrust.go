package vmware

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
)

// lost is an answer of the ledger: tracking cannot be used, and why.
func lost(format string, args ...any) error {
	return fmt.Errorf("%w: %s", hikae.ErrTrackingLost, fmt.Sprintf(format, args...))
}

// follows says why what changed between two moments of a disk cannot be told; nil where nothing speaks against it. files are
// those that the disk is made of now, the one that the guest wrote to last first.
func (now moment) follows(past moment, tree *snapshotTree, files []string) error {
	switch {
	case past.vm != now.vm:
		return lost("the base point's change id is of another VM (%s; this is %s)", past.vm, now.vm)
	case past.disk != now.disk:
		return lost("the base point's change id is of another disk, %s", past.disk)
	case past.restored != now.restored:
		return lost("its disks were written over by a restore since the base point (at %q)", now.restored)
	case past.size != now.size:
		return lost("the disk was resized from %d to %d bytes", past.size, now.size)
	case past.change.uuid != now.change.uuid:
		return lost("tracking was begun anew since the base point: %s became %s", past.change.uuid, now.change.uuid)
	case past.change.n > now.change.n:
		return lost("the change number went back from %d to %d: the VM was reverted or replaced", past.change.n, now.change.n)
	case !slices.Contains(files, past.file):
		return lost("%s, which the guest wrote to at the base point, is no longer a part of the disk: the VM was reverted or moved", past.file)
	}
	if why := tree.revertedSince(past); why != "" {
		return lost("%s", why)
	}
	if why := knownBad(past, now); why != "" {
		return lost("%s", why)
	}
	return nil
}

// identity is which VM an id is of: by the server that knows it, by its reference there, and by its own UUID. A copy, or one that
// was put back into the inventory, differs in one of them.
func (m *machine) identity(c *Client) string {
	return c.vim.ServiceContent.About.InstanceUuid + "," + m.Self.Value + "," + m.Config.InstanceUuid
}

// revertedSince says what in the tree of snapshots, as it was before our own, speaks for a revert since a moment; or why there
// may have been one.
//
// A VM that stands on a snapshot can be reverted to it again and again, and stands on it as before: its files get the names that
// they had, and the change number goes on as soon as anybody makes snapshots. What remains of that is a task. A single host
// remembers its tasks for minutes, and a vCenter Server does not hear of reverts that are made at the host. So an id from a VM
// that stood on a snapshot is not believed at all, which also rules out tracking that was enabled over a snapshot of that time.
// One that stood on none has nothing older to go back to.
func (t *snapshotTree) revertedSince(past moment) string {
	if why := t.movedSince(past); why != "" || past.on == "" {
		return why
	}
	return fmt.Sprintf("the VM stood on snapshot %s at the base point, and a revert to that since then cannot be ruled out: hosts forget such tasks, and tell a vCenter Server of none that are made at the host itself", past.on)
}

// movedSince says how the VM came to stand on another snapshot than one that was made since, on top of what it stood on.
func (t *snapshotTree) movedSince(past moment) string {
	if t.current == past.on {
		return ""
	}
	if t.current == "" {
		return fmt.Sprintf("snapshot %s, which the VM stood on at the base point, is gone: a revert before that cannot be ruled out", past.on)
	}
	for ref := t.current; ref != past.on; {
		n, ok := t.nodes[ref]
		if !ok {
			if past.on == "" && ref == "" {
				return ""
			}
			return fmt.Sprintf("the VM does not stand on snapshot %s any more, as it did at the base point: it was reverted, or that was removed", past.on)
		}
		if n.number <= past.number || n.created.Before(past.at) { // either is enough: hosts differ in their clocks
			return fmt.Sprintf("the VM stands on snapshot %s, which is older than the base point, and did not then: it was reverted", ref)
		}
		ref = n.parent
	}
	return ""
}

const (
	tasksAtOnce     = 500
	historiesAtOnce = 1      // that are asked for of one server: it grants a session 32, of all its programs' questions
	maxTasks        = 50_000 // of one VM that are looked through
)

// clockSlack is how far a host's clock, which stamps snapshots, may be ahead of the clock that stamps tasks. A revert that was
// made so shortly before the base point makes it be read in full once more.
const clockSlack = time.Hour

// errNoHistory says that there is nobody to ask for the tasks of a time.
var errNoHistory = errors.New("a single host remembers its tasks for minutes only")

// revertTask looks for a revert of a VM among the tasks that its server remembers since a time: a revert to a snapshot that
// was made and removed since then leaves no other trace. A single host remembers minutes only, a vCenter Server weeks. An
// error says that it is not known.
func (c *Client) revertTask(ctx context.Context, vm types.ManagedObjectReference, recent []types.ManagedObjectReference, since time.Time) (string, error) {
	tasks, err := c.tasks(ctx, recent)
	if err != nil {
		return "", err
	}
	if why := revertAmong(tasks, since); why != "" {
		return why, nil
	}
	if !c.IsVCenter() || c.vim.ServiceContent.TaskManager == nil {
		return "", errNoHistory
	}
	begin := since.Add(-clockSlack)
	leave, err := c.limits.places.take(ctx, []claim{{key: "history", limit: historiesAtOnce, what: "questions about past tasks of " + c.address.Host}})
	if err != nil {
		return "", err
	}
	defer leave()
	res, err := methods.CreateCollectorForTasks(ctx, c.vim, &types.CreateCollectorForTasks{
		This: *c.vim.ServiceContent.TaskManager,
		Filter: types.TaskFilterSpec{
			Entity: &types.TaskFilterSpecByEntity{Entity: vm, Recursion: types.TaskFilterSpecRecursionOptionSelf},
			Time:   &types.TaskFilterSpecByTime{TimeType: types.TaskFilterSpecTimeOptionStartedTime, BeginTime: &begin},
		},
	})
	if err != nil {
		return "", fmt.Errorf("history of tasks: %w", err)
	}
	collector := res.Returnval
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), shortly)
		defer cancel()
		methods.DestroyCollector(end, c.vim, &types.DestroyCollector{This: collector}) // it ends with the session at the latest
	}()
	for seen := 0; seen < maxTasks; {
		page, err := methods.ReadNextTasks(ctx, c.vim, &types.ReadNextTasks{This: collector, MaxCount: tasksAtOnce})
		if err != nil {
			return "", fmt.Errorf("history of tasks: %w", err)
		}
		if len(page.Returnval) == 0 {
			return "", nil
		}
		if why := revertAmong(page.Returnval, since); why != "" {
			return why, nil
		}
		seen += len(page.Returnval)
	}
	return fmt.Sprintf("its server remembers more than %d tasks of the VM since the base point, which may be reverts", maxTasks), nil
}

// shortly bounds calls that clean up behind others.
const shortly = 10 * time.Second

func revertAmong(tasks []types.TaskInfo, since time.Time) string {
	for _, t := range tasks {
		if !strings.Contains(strings.ToLower(t.DescriptionId+" "+t.Name), "revert") || t.State == types.TaskInfoStateError {
			continue
		}
		if when := begun(t); !when.Before(since.Add(-clockSlack)) {
			return fmt.Sprintf("the VM was reverted to a snapshot at %s", when.UTC().Format(time.RFC3339))
		}
	}
	return ""
}

func begun(t types.TaskInfo) time.Time {
	if t.StartTime != nil {
		return *t.StartTime
	}
	return t.QueueTime
}

const (
	maxRecent    = 256 // tasks of a list that are looked at; a vCenter Server lists 200
	maxForgotten = 16  // of them that are left out one after the other
)

// tasks are the tasks of a list that there still are. Where one of them is forgotten servers answer for none, and name that one.
func (c *Client) tasks(ctx context.Context, refs []types.ManagedObjectReference) ([]types.TaskInfo, error) {
	refs = slices.Clone(refs[max(0, len(refs)-maxRecent):]) // the newest come last
	for range maxForgotten {
		out, err := c.tasksOf(ctx, refs)
		gone, ok := faultAs[*types.ManagedObjectNotFound](err)
		if !ok {
			return out, err
		}
		i := slices.Index(refs, gone.Obj)
		if i < 0 {
			break
		}
		refs = slices.Delete(refs, i, i+1)
	}
	return c.tasksOneByOne(ctx, refs)
}

func (c *Client) tasksOneByOne(ctx context.Context, refs []types.ManagedObjectReference) (out []types.TaskInfo, err error) {
	for i := range refs {
		one, err := c.tasksOf(ctx, refs[i:i+1])
		if err != nil && !isGone(err) {
			return nil, err
		}
		out = append(out, one...)
	}
	return out, nil
}

func (c *Client) tasksOf(ctx context.Context, refs []types.ManagedObjectReference) (out []types.TaskInfo, err error) {
	if len(refs) == 0 {
		return nil, nil
	}
	for o, err := range c.objects(ctx, filterOf(refs, []string{"info"})) {
		var t mo.Task
		if err == nil {
			err = fillIn(o, &t)
		}
		if err != nil {
			return nil, fmt.Errorf("tasks: %w", err)
		}
		out = append(out, t.Info)
	}
	return out, nil
}

// fileOf is the name of a datastore's file without its place, which changes when the disk moves.
func fileOf(name string) string {
	return path.Base(strings.TrimSpace(name[strings.IndexByte(name, ']')+1:]))
}

// filesOf are the names of all files that a disk is made of, as far as its server tells: the one that is written to first.
func filesOf(v *types.VirtualDisk) (out []string) {
	for b := v.Backing; b != nil && len(out) < maxLayers; {
		f, ok := b.(types.BaseVirtualDeviceFileBackingInfo)
		if !ok {
			break
		}
		out = append(out, fileOf(f.GetVirtualDeviceFileBackingInfo().FileName))
		switch p := b.(type) {
		case *types.VirtualDiskFlatVer2BackingInfo:
			b = parentOf(p.Parent)
		case *types.VirtualDiskSeSparseBackingInfo:
			b = parentOf(p.Parent)
		case *types.VirtualDiskRawDiskMappingVer1BackingInfo:
			b = parentOf(p.Parent)
		default:
			b = nil
		}
	}
	return out
}

const maxLayers = 256 // files of one disk; hosts allow 32 snapshots in a row

// parentOf keeps a nil pointer from being an interface that is not nil.
func parentOf[T any, P interface {
	*T
	types.BaseVirtualDeviceBackingInfo
}](p P) types.BaseVirtualDeviceBackingInfo {
	if p == nil {
		return nil
	}
	return p
}
