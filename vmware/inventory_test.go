package vmware

import (
	"fmt"
	"io/fs"
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vapi/rest"
	_ "github.com/vmware/govmomi/vapi/simulator" // the service that tags are kept by
	"github.com/vmware/govmomi/vapi/tags"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// park is an inventory with something of everything: two datacenters with two clusters' pools and a vApp each.
func park(t *testing.T) (*front, *Client) {
	m := simulator.VPX()
	m.Datacenter, m.Host, m.Pool, m.App, m.Machine, m.Folder = 2, 1, 1, 1, 1, 1
	f := newFront(t, m)
	return f, f.connect(t, ConnectOptions{})
}

func namesOf(found []Found) (names []string) {
	for _, f := range found {
		names = append(names, f.Name)
	}
	return names
}

func TestFind(t *testing.T) {
	f, c := park(t)
	all, err := c.Find(t.Context(), Selection{})
	require.NoError(t, err)
	require.Len(t, all, len(f.model.Map().All("VirtualMachine")))
	for i, vm := range all {
		assert.Regexp(t, `^/F\d/DC\d/vm/(F\d/)?`+vm.Name+`$|^/F\d/DC\d/host/.*`+vm.Name+`$|`+vm.Name+`$`, vm.Path)
		if i > 0 {
			assert.Less(t, all[i-1].Path, vm.Path)
		}
	}
	one := all[0]
	for _, name := range []string{one.Name, one.Ref.Value} {
		found, err := c.Find(t.Context(), Selection{VMs: []string{name}})
		require.NoError(t, err)
		assert.Equal(t, []Found{one}, found)
	}
	found, err := c.Find(t.Context(), Selection{Patterns: []string{"DC0_H*", "none*"}})
	require.NoError(t, err)
	assert.Equal(t, []string{"DC0_H0_VM0"}, namesOf(found))

	found, err = c.Find(t.Context(), Selection{Datacenter: "DC1"})
	require.NoError(t, err)
	assert.Len(t, found, len(all)/2)
	found, err = c.Find(t.Context(), Selection{Pools: []string{"DC0_C0_RP1"}})
	require.NoError(t, err)
	assert.NotEmpty(t, found)
	assert.Less(t, len(found), len(all)/2)
	both, err := c.Find(t.Context(), Selection{Pools: []string{"DC0_C0_RP1"}, Datacenter: "DC1"})
	require.NoError(t, err)
	assert.Empty(t, both, "of several kinds all must hold")
	app, err := c.Find(t.Context(), Selection{Pools: []string{"DC0_C0_APP0"}})
	require.NoError(t, err)
	assert.NotEmpty(t, app)
}

func TestFindTellsWhatIsWrong(t *testing.T) {
	_, c := park(t)
	for name, s := range map[string]Selection{
		`VM "web9"`: {VMs: []string{"web9"}}, `folder "x"`: {Folders: []string{"x"}}, `resource pool "x"`: {Pools: []string{"x"}},
		`datacenter "x"`: {Datacenter: "x"}, `VM "DC0_H0_VM0"`: {VMs: []string{"DC0_H0_VM0"}, Datacenter: "DC1"}, `tag "x"`: {Tags: []string{"x"}},
	} {
		_, err := c.Find(t.Context(), s)
		require.ErrorIs(t, err, fs.ErrNotExist, name)
		assert.ErrorContains(t, err, name)
	}
	_, err := c.Find(t.Context(), Selection{Pools: []string{"Resources"}})
	var several *AmbiguousError
	require.ErrorAs(t, err, &several)
	require.ErrorIs(t, err, fs.ErrInvalid)
	assert.Greater(t, len(several.Found), 1)
	for _, bad := range []Selection{{Patterns: []string{"["}}, {VMs: []string{""}}, {VMs: make([]string, maxNames+1)}} {
		_, err := c.Find(t.Context(), bad)
		assert.ErrorIs(t, err, fs.ErrInvalid)
	}
}

func TestFindSeveralOfOneName(t *testing.T) {
	f, c := park(t)
	all, err := c.Find(t.Context(), Selection{Patterns: []string{"DC?_H0_VM0"}})
	require.NoError(t, err)
	require.Len(t, all, 2)
	for _, vm := range all {
		f.model.Map().Update(f.model.Service.Context, f.model.Map().Get(vm.Ref).(*simulator.VirtualMachine), []types.PropertyChange{{Name: "name", Val: "twin%2fone"}})
	}
	_, err = c.Find(t.Context(), Selection{VMs: []string{"twin/one"}})
	var several *AmbiguousError
	require.ErrorAs(t, err, &several)
	assert.Contains(t, several.Error(), all[0].Ref.Value)
	assert.Contains(t, several.Error(), all[1].Ref.Value)
	found, err := c.Find(t.Context(), Selection{VMs: []string{"twin/one"}, Datacenter: "DC1"})
	require.NoError(t, err)
	assert.Equal(t, []string{"twin/one"}, namesOf(found))
	found, err = c.Find(t.Context(), Selection{VMs: []string{all[1].Ref.Value}})
	require.NoError(t, err)
	assert.Len(t, found, 1)
	assert.ErrorContains(t, ambiguous("VM", "x", make([]string, maxNamed+3)), "and 3 more")
}

func TestFindLeavesOut(t *testing.T) {
	f, c := park(t)
	all, err := c.Find(t.Context(), Selection{Datacenter: "DC0"})
	require.NoError(t, err)
	set := func(i int, change func(*types.VirtualMachineConfigInfo)) {
		vm := f.model.Map().Get(all[i].Ref).(*simulator.VirtualMachine)
		f.model.Map().WithLock(f.model.Service.Context, vm.Self, func() { change(vm.Config) })
	}
	set(0, func(c *types.VirtualMachineConfigInfo) { c.Template = true })
	set(1, func(c *types.VirtualMachineConfigInfo) { c.Annotation = cloneMark + " of web1" })
	found, err := c.Find(t.Context(), Selection{Datacenter: "DC0"})
	require.NoError(t, err)
	require.Len(t, found, len(all))
	assert.Contains(t, found[0].Skip, "template")
	assert.Contains(t, found[1].Skip, "linked clone")
	assert.Len(t, Refs(found), len(all)-2)
	assert.Greater(t, len(all), 2)
}

func TestFindByTag(t *testing.T) {
	_, c := park(t)
	rc := rest.NewClient(c.Vim())
	require.NoError(t, rc.Login(t.Context(), url.UserPassword("operator", "secret")))
	manager := tags.NewManager(rc)
	all, err := c.Find(t.Context(), Selection{})
	require.NoError(t, err)
	for i, category := range []string{"tier", "site"} {
		id, err := manager.CreateCategory(t.Context(), &tags.Category{Name: category, Cardinality: "SINGLE"})
		require.NoError(t, err)
		tag, err := manager.CreateTag(t.Context(), &tags.Tag{Name: "gold", CategoryID: id})
		require.NoError(t, err)
		require.NoError(t, manager.AttachTag(t.Context(), tag, all[i].Ref))
		only, err := manager.CreateTag(t.Context(), &tags.Tag{Name: "only" + category, CategoryID: id})
		require.NoError(t, err)
		require.NoError(t, manager.AttachTag(t.Context(), only, all[i+2].Ref))
	}
	require.NoError(t, rc.Logout(t.Context()))
	for tag, want := range map[string]int{"tier:gold": 0, "site:gold": 1, "onlytier": 2, "site:onlysite": 3} {
		found, err := c.Find(t.Context(), Selection{Tags: []string{tag}})
		require.NoError(t, err, tag)
		assert.Equal(t, []Found{all[want]}, found, tag)
	}
	_, err = c.Find(t.Context(), Selection{Tags: []string{"gold"}})
	require.ErrorContains(t, err, `tag "gold" is several: site:gold, tier:gold`)
	found, err := c.Find(t.Context(), Selection{Tags: []string{"tier:gold", "site:gold"}})
	require.NoError(t, err)
	assert.Len(t, found, 2)
	_, err = c.Find(t.Context(), Selection{Tags: []string{"tier:none"}})
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestFindOnAHost(t *testing.T) {
	f := newFront(t, simulator.ESX())
	c := f.connect(t, ConnectOptions{})
	found, err := c.Find(t.Context(), Selection{})
	require.NoError(t, err)
	assert.Equal(t, []string{"ha-host_VM0", "ha-host_VM1"}, namesOf(found))
	_, err = c.Find(t.Context(), Selection{Tags: []string{"x"}})
	require.ErrorContains(t, err, "single host")
}

// Pages: more objects than one answer holds, and nothing is left of the question at the server.
func TestFindMany(t *testing.T) {
	pageObjects = 3
	defer func() { pageObjects = 250 }()
	f, c := park(t)
	f.on(nil)
	found, err := c.Find(t.Context(), Selection{})
	require.NoError(t, err)
	assert.Len(t, found, len(f.model.Map().All("VirtualMachine")))
	assert.Greater(t, f.count("ContinueRetrievePropertiesEx"), 3)
	assert.Equal(t, 1, f.count("CreateContainerView"))
	assert.Equal(t, 1, f.count("DestroyView"))
	var vm mo.VirtualMachine
	require.NoError(t, c.properties(t.Context(), found[0].Ref, []string{"name"}, &vm))
	require.Error(t, c.properties(t.Context(), object.NewReference(c.vim, refTo("VirtualMachine", "vm-0")).Reference(), []string{"name"}, &vm))
}

// What a server says of who is above whom may go around in a circle.
func TestTreeInACircle(t *testing.T) {
	a, b := refTo("Folder", "a"), refTo("Folder", "b")
	inv := &vmTree{tree: map[types.ManagedObjectReference]treeNode{a: {ref: a, name: "a", parent: &b}, b: {ref: b, name: "b", parent: &a}}}
	assert.Len(t, inv.above(&a), maxTreeDepth)
	assert.NotEmpty(t, inv.pathOf(inv.tree[a]))
	_, err := inv.place("folder", "c", []string{"Folder"})
	require.ErrorIs(t, err, fs.ErrNotExist)
	assert.Equal(t, "/x", fmt.Sprint(inv.pathOf(treeNode{name: "x"})))
}
