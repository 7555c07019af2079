package vmware

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// Selection says which VMs are meant. Of one kind any will do; of several kinds all must hold: VMs named web* that are in one
// of two folders and have one of three tags. The zero value is all VMs.
type Selection struct {
	// VMs are names or references ("vm-42"), exactly. Each must be found, and be one VM.
	VMs []string
	// Patterns are those of [path.Match], of names: "web*".
	Patterns []string
	// Tags are NAME or CATEGORY:NAME, of the VM itself. Single hosts have none.
	Tags []string
	// Folders and Pools are paths, with all that is below them: from the root ("/DC0/vm/prod"), from where a datacenter's
	// begin ("prod"), or a name alone, which must then be unique. A pool may be a vApp.
	Folders, Pools []string
	// Datacenter is a name or a path.
	Datacenter string
}

const maxNames = 10_000

func (s *Selection) check() error {
	if n := len(s.VMs) + len(s.Patterns) + len(s.Tags) + len(s.Folders) + len(s.Pools); n > maxNames {
		return fmt.Errorf("selection: %w: %d names, at most %d", fs.ErrInvalid, n, maxNames)
	}
	for _, pattern := range s.Patterns {
		if _, err := path.Match(pattern, ""); err != nil {
			return fmt.Errorf("pattern %q: %w: %v", pattern, fs.ErrInvalid, err)
		}
	}
	for _, list := range [][]string{s.VMs, s.Patterns, s.Tags, s.Folders, s.Pools} {
		if slices.Contains(list, "") {
			return fmt.Errorf("selection: %w: a name is empty", fs.ErrInvalid)
		}
	}
	return nil
}

// Found is a VM of the inventory.
type Found struct {
	Ref  types.ManagedObjectReference
	Name string
	Path string // in the tree of folders: "/DC0/vm/prod/web1"
	// Skip says in words why the VM is left out: a template, or a linked clone of our own. Empty: it is not.
	Skip string
}

// AmbiguousError says that a name is that of several objects.
type AmbiguousError struct {
	Kind  string // VM, folder, resource pool, tag
	Name  string
	Found []string // paths with references, of the first few
	More  int      // how many are not listed
}

func (e *AmbiguousError) Error() string {
	text := fmt.Sprintf("%s %q is several: %s", e.Kind, e.Name, strings.Join(e.Found, ", "))
	if e.More > 0 {
		text += fmt.Sprintf(" and %d more", e.More)
	}
	return text
}

// Is: a name that does not say which is no valid one.
func (e *AmbiguousError) Is(target error) bool { return target == fs.ErrInvalid }

const maxNamed = 10

func ambiguous(kind, name string, found []string) error {
	slices.Sort(found)
	shown := min(len(found), maxNamed)
	return &AmbiguousError{Kind: kind, Name: name, Found: found[:shown], More: len(found) - shown}
}

// Find finds VMs, sorted by path. Those that are left out come with the reason. A name that is not there is an fs.ErrNotExist,
// one that is several VMs an *AmbiguousError.
func (c *Client) Find(ctx context.Context, s Selection) ([]Found, error) {
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", c.Address(), err)
	}
	inv, err := c.vmTree(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: list VMs: %w", c.Address(), err)
	}
	found, err := inv.find(s, func() (map[string]bool, error) { return c.tagged(ctx, s.Tags) })
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Address(), err)
	}
	return found, nil
}

// Refs are the references of those that are not left out.
func Refs(found []Found) []types.ManagedObjectReference {
	var refs []types.ManagedObjectReference
	for _, f := range found {
		if f.Skip == "" {
			refs = append(refs, f.Ref)
		}
	}
	return refs
}

// vmTree is what there is at a server.
type vmTree struct {
	root types.ManagedObjectReference
	tree map[types.ManagedObjectReference]treeNode // folders, datacenters, pools and vApps
	vms  []treeVM
}

type treeNode struct {
	ref    types.ManagedObjectReference
	name   string
	parent *types.ManagedObjectReference
}

type treeVM struct {
	treeNode
	pool *types.ManagedObjectReference
	skip string
}

// vmTree asks for names and places, and nothing else: there may be ten thousands of VMs.
func (c *Client) vmTree(ctx context.Context) (*vmTree, error) {
	inv := &vmTree{root: c.vim.ServiceContent.RootFolder, tree: map[types.ManagedObjectReference]treeNode{}}
	view, err := c.newView(ctx)
	if err != nil {
		return nil, err
	}
	defer view.close(ctx)
	for o, err := range c.objects(ctx, view.spec()) {
		if err != nil {
			return nil, err
		}
		if err := inv.add(o); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(inv.vms, func(a, b treeVM) int {
		return cmp.Or(cmp.Compare(inv.pathOf(a.treeNode), inv.pathOf(b.treeNode)), cmp.Compare(a.ref.Value, b.ref.Value))
	})
	return inv, nil
}

func (inv *vmTree) add(o types.ObjectContent) error {
	if o.Obj.Type == "VirtualMachine" {
		return inv.addVM(o)
	}
	var m mo.ManagedEntity
	m.Self = o.Obj
	if err := nodeOf(o, &m); err != nil {
		return err
	}
	inv.tree[o.Obj] = treeNode{ref: o.Obj, name: plainName(m.Name), parent: m.Parent}
	return nil
}

// nodeOf reads name and parent of whatever it is.
func nodeOf(o types.ObjectContent, m *mo.ManagedEntity) error {
	for _, p := range o.PropSet {
		switch v := p.Val.(type) {
		case string:
			if p.Name == "name" {
				m.Name = v
			}
		case types.ManagedObjectReference:
			if p.Name == "parent" {
				m.Parent = &v
			}
		}
	}
	return nil
}

func (inv *vmTree) addVM(o types.ObjectContent) error {
	var m mo.VirtualMachine
	if err := fillIn(o, &m); err != nil {
		return err
	}
	parent := m.Parent
	if parent == nil {
		parent = m.ParentVApp // a VM of a vApp is in no folder
	}
	vm := treeVM{treeNode: treeNode{ref: o.Obj, name: plainName(m.Name), parent: parent}, pool: m.ResourcePool}
	switch {
	case m.Config == nil:
	case m.Config.Template:
		vm.skip = "it is a template: no snapshot can be taken of it"
	case isOurClone(m.Config.Annotation):
		vm.skip = "it is a linked clone that a backup made"
	}
	inv.vms = append(inv.vms, vm)
	return nil
}

const maxTreeDepth = 100

// above are the objects above one, the nearest first. What leads around in a circle ends at some depth.
func (inv *vmTree) above(at *types.ManagedObjectReference) []treeNode {
	var out []treeNode
	for at != nil && len(out) < maxTreeDepth {
		e, ok := inv.tree[*at]
		if !ok {
			break
		}
		out = append(out, e)
		at = e.parent
	}
	return out
}

// pathOf is where something is, from the root.
func (inv *vmTree) pathOf(e treeNode) string {
	names := []string{e.name}
	for _, up := range inv.above(e.parent) {
		if up.ref != inv.root {
			names = append(names, up.name)
		}
	}
	slices.Reverse(names)
	return "/" + strings.Join(names, "/")
}

func (inv *vmTree) isIn(vm treeVM, of map[types.ManagedObjectReference]bool) bool {
	for _, at := range []*types.ManagedObjectReference{vm.parent, vm.pool} {
		if slices.ContainsFunc(inv.above(at), func(e treeNode) bool { return of[e.ref] }) {
			return true
		}
	}
	return false
}

// find chooses.
func (inv *vmTree) find(s Selection, tagged func() (map[string]bool, error)) ([]Found, error) {
	places, err := inv.places(s)
	if err != nil {
		return nil, err
	}
	var tags map[string]bool
	if len(s.Tags) > 0 {
		if tags, err = tagged(); err != nil {
			return nil, err
		}
	}
	fits := func(vm treeVM) bool {
		return !slices.ContainsFunc(places, func(of map[types.ManagedObjectReference]bool) bool { return !inv.isIn(vm, of) }) &&
			(len(s.Tags) == 0 || tags[vm.ref.Value])
	}
	named, err := inv.named(s.VMs, fits)
	if err != nil {
		return nil, err
	}
	var found []Found
	for _, vm := range inv.vms {
		if (named[vm.ref] || len(s.VMs)+len(s.Patterns) == 0 || matches(s.Patterns, vm.name)) && fits(vm) {
			found = append(found, Found{Ref: vm.ref, Name: vm.name, Path: inv.pathOf(vm.treeNode), Skip: vm.skip})
		}
	}
	return found, nil
}

func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, _ := path.Match(p, name) // checked before
		// A slash is a character like others in a name.
		if !ok && strings.Contains(name, "/") && !strings.Contains(p, "/") {
			ok, _ = path.Match(p, strings.ReplaceAll(name, "/", "_"))
		}
		return ok
	})
}

// named are the VMs that are asked for one by one. A reference comes before a name that looks like one.
func (inv *vmTree) named(names []string, fits func(treeVM) bool) (map[types.ManagedObjectReference]bool, error) {
	out := map[types.ManagedObjectReference]bool{}
	byRef, byName := map[string][]treeVM{}, map[string][]treeVM{}
	for _, vm := range inv.vms {
		byRef[vm.ref.Value] = append(byRef[vm.ref.Value], vm)
		byName[vm.name] = append(byName[vm.name], vm)
	}
	for _, name := range names {
		there := byRef[name]
		if len(there) == 0 {
			there = byName[name]
		}
		some := slices.DeleteFunc(slices.Clone(there), func(vm treeVM) bool { return !fits(vm) })
		switch {
		case len(there) == 0:
			return nil, fmt.Errorf("VM %q: %w", name, fs.ErrNotExist)
		case len(some) == 0:
			return nil, fmt.Errorf("VM %q: %w where it is looked for: it is %s", name, fs.ErrNotExist, inv.pathOf(there[0].treeNode))
		case len(some) > 1:
			return nil, ambiguous("VM", name, inv.list(some))
		}
		out[some[0].ref] = true
	}
	return out, nil
}

func (inv *vmTree) list(vms []treeVM) []string {
	out := make([]string, len(vms))
	for i, vm := range vms {
		out[i] = inv.pathOf(vm.treeNode) + " (" + vm.ref.Value + ")"
	}
	return out
}

// places are, for each kind of place that is asked for, which objects will do.
func (inv *vmTree) places(s Selection) ([]map[types.ManagedObjectReference]bool, error) {
	var out []map[types.ManagedObjectReference]bool
	add := func(kind string, names, of []string) error {
		if len(names) == 0 {
			return nil
		}
		will := map[types.ManagedObjectReference]bool{}
		for _, name := range names {
			ref, err := inv.place(kind, name, of)
			if err != nil {
				return err
			}
			will[ref] = true
		}
		out = append(out, will)
		return nil
	}
	var datacenters []string
	if s.Datacenter != "" {
		datacenters = []string{s.Datacenter}
	}
	for _, err := range []error{
		add("datacenter", datacenters, []string{"Datacenter"}),
		add("folder", s.Folders, []string{"Folder"}),
		add("resource pool", s.Pools, []string{"ResourcePool", "VirtualApp"}),
	} {
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// place finds an object by its path or by its name: the longest way of saying it wins, so that a name which is also a path
// is that path.
func (inv *vmTree) place(kind, name string, of []string) (types.ManagedObjectReference, error) {
	want := "/" + strings.Trim(name, "/")
	ways := make([][]treeNode, 3)
	for ref, e := range inv.tree {
		if !slices.Contains(of, ref.Type) || ref == inv.root {
			continue
		}
		switch full := inv.pathOf(e); {
		case full == want:
			ways[0] = append(ways[0], e)
		case inv.belowTop(e) == want:
			ways[1] = append(ways[1], e)
		case "/"+e.name == want:
			ways[2] = append(ways[2], e)
		}
	}
	for _, way := range ways {
		switch len(way) {
		case 0:
			continue
		case 1:
			return way[0].ref, nil
		}
		var paths []string
		for _, e := range way {
			paths = append(paths, inv.pathOf(e)+" ("+e.ref.Value+")")
		}
		return types.ManagedObjectReference{}, ambiguous(kind, name, paths)
	}
	return types.ManagedObjectReference{}, fmt.Errorf("%s %q: %w", kind, name, fs.ErrNotExist)
}

// belowTop is the path of a folder below its datacenter's folder of VMs, or of a pool below its host's or cluster's own.
func (inv *vmTree) belowTop(e treeNode) string {
	names := []string{e.name}
	for _, up := range inv.above(e.parent) {
		top := up.parent != nil && (up.parent.Type == "Datacenter" || up.ref.Type == "ResourcePool" && up.parent.Type != "ResourcePool" && up.parent.Type != "VirtualApp")
		if top {
			break
		}
		names = append(names, up.name)
	}
	slices.Reverse(names)
	return "/" + strings.Join(names, "/")
}

// cloneMark begins the notes of a linked clone that is made to attach its disks to a proxy.
const cloneMark = "hikae clone"

func isOurClone(annotation string) bool { return strings.HasPrefix(annotation, cloneMark) }
