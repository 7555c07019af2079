package selftest

import (
	"context"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae/job/selftest"
)

// state is what a test must leave as it was.
type state struct {
	on, tools, tracked, consolidate bool
	pinned                          bool     // it must not be moved to other storage
	snapshots                       []string // references
}

const relocate = "RelocateVM_Task"

func (t *test) refs() []types.ManagedObjectReference { return []types.ManagedObjectReference{t.vm} }

// get asks for properties. The library panics where a server answers with a value of another type than it should.
func (t *test) get(ctx context.Context, of types.ManagedObjectReference, names []string, into any) (err error) {
	defer func() {
		if what := recover(); what != nil {
			err = fmt.Errorf("%s: the server's answer makes no sense: %v", of.Value, what)
		}
	}()
	return property.DefaultCollector(t.client.Vim()).RetrieveOne(ctx, of, names, into)
}

// look asks what the VM is like now.
func (t *test) look(ctx context.Context) (s state, err error) {
	var vm mo.VirtualMachine
	if err := t.get(ctx, t.vm, []string{"config.changeTrackingEnabled", "snapshot", "runtime", "disabledMethod", "guest.toolsRunningStatus"}, &vm); err != nil {
		return s, err
	}
	s.on = vm.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn
	s.tracked = vm.Config != nil && vm.Config.ChangeTrackingEnabled != nil && *vm.Config.ChangeTrackingEnabled
	s.tools = vm.Guest != nil && vm.Guest.ToolsRunningStatus == string(types.VirtualMachineToolsRunningStatusGuestToolsRunning)
	s.consolidate = vm.Runtime.ConsolidationNeeded
	s.pinned = slices.Contains(vm.DisabledMethod, relocate)
	if vm.Snapshot != nil {
		s.snapshots = snapshotsOf(vm.Snapshot.RootSnapshotList, nil)
	}
	return s, nil
}

func snapshotsOf(tree []types.VirtualMachineSnapshotTree, out []string) []string {
	for _, n := range tree {
		out = snapshotsOf(n.ChildSnapshotList, append(out, fmt.Sprintf("%q (%s)", n.Name, n.Snapshot.Value)))
	}
	return out
}

// leftSince says in words what is there now and was not before.
func (s state) leftSince(before state) (out []string) {
	for _, name := range s.snapshots {
		if !slices.Contains(before.snapshots, name) {
			out = append(out, "snapshot "+name+" was left: `hikae vsphere sweep` removes it, if it is one of ours")
		}
	}
	if s.consolidate && !before.consolidate {
		out = append(out, "the VM's disks need consolidation, and did not before")
	}
	if s.pinned && !before.pinned {
		out = append(out, relocate+" is disabled, and was not before")
	}
	return out
}

// lookAround notes what the server, the host and the datastores are, and how the VM is before the test.
func (t *test) lookAround(ctx context.Context) (err error) {
	t.secret = append(t.secret, t.client.Address())
	if u, err := url.Parse(t.client.Address()); err == nil {
		t.secret = append(t.secret, u.Host, u.Hostname())
	}
	about := t.client.Vim().ServiceContent.About
	t.facts["server"] = fmt.Sprintf("%s %s build %s", about.Name, about.Version, about.Build)
	if t.before, err = t.look(ctx); err != nil {
		return err
	}
	t.facts["tools"] = onOff(t.before.tools)
	var vm mo.VirtualMachine
	if err := t.get(ctx, t.vm, []string{"runtime.host", "datastore", "config.version"}, &vm); err != nil {
		return err
	}
	if vm.Runtime.Host != nil {
		t.aboutHost(ctx, *vm.Runtime.Host)
	}
	var kinds []string
	for _, ref := range vm.Datastore {
		kinds = append(kinds, t.kindOf(ctx, ref))
	}
	slices.Sort(kinds)
	t.facts["datastores"] = strings.Join(kinds, ", ")
	return nil
}

// aboutHost notes what runs the VM, where the user may see it.
func (t *test) aboutHost(ctx context.Context, ref types.ManagedObjectReference) {
	var h mo.HostSystem
	if err := t.get(ctx, ref, []string{"name", "summary.config.product"}, &h); err != nil {
		t.facts["host release"] = "not known"
		return
	}
	t.secret = append(t.secret, h.Name)
	if p := h.Summary.Config.Product; p != nil {
		t.facts["host release"] = fmt.Sprintf("%s %s build %s", p.Name, p.Version, p.Build)
	}
}

// kindOf is what a datastore is: "VMFS 6.82, shared".
func (t *test) kindOf(ctx context.Context, ref types.ManagedObjectReference) string {
	var ds mo.Datastore
	if err := t.get(ctx, ref, []string{"name", "summary", "info"}, &ds); err != nil {
		return "not known"
	}
	kind := ds.Summary.Type
	if info, ok := ds.Info.(*types.VmfsDatastoreInfo); ok && info.Vmfs != nil {
		kind += " " + info.Vmfs.Version
	}
	if ds.Summary.MultipleHostAccess != nil && *ds.Summary.MultipleHostAccess {
		kind += ", shared"
	}
	return kind
}

// tell makes of a result what may be sent away.
func (t *test) tell(r selftest.Result) selftest.Result {
	if r.Facts == nil {
		r.Facts = map[string]string{}
	}
	for k, v := range t.facts {
		r.Facts[k] = v
	}
	if !t.opts.Names {
		t.secret = append(t.secret, r.Facts["host"])
		delete(r.Facts, "host")
		delete(r.Facts, "uuid")
	}
	for k, v := range r.Facts { // the others are products and releases, some of which look like addresses
		if strings.HasPrefix(k, "transport ") {
			r.Facts[k] = t.discreet(v)
		}
	}
	for i, s := range r.Steps {
		r.Steps[i] = t.discreetStep(s)
	}
	for i := range r.Disks {
		r.Disks[i].Skip = t.discreet(r.Disks[i].Skip)
	}
	return r
}

func (t *test) discreetStep(s selftest.Step) selftest.Step {
	s.Detail = t.discreet(s.Detail)
	return s
}

var (
	anAddress = regexp.MustCompile(`\b\d{1,3}(\.\d{1,3}){3}(:\d+)?\b|\[[0-9a-fA-F:.]*:[0-9a-fA-F:.]*\](:\d+)?`)
	aFile     = regexp.MustCompile(`\[[^\]\n]{1,80}\] [^\s,;]+`) // of a datastore
)

// discreet is a text without the names that are not to be told.
func (t *test) discreet(text string) string {
	if t.opts.Names {
		return text
	}
	for _, name := range t.secret {
		if len(name) > 2 {
			text = strings.ReplaceAll(text, name, "…")
		}
	}
	return aFile.ReplaceAllString(anAddress.ReplaceAllString(text, "…"), "[…] …")
}
