package vmware

import (
	"context"
	"fmt"
	"io/fs"
	"iter"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
)

// Options change how snapshots are taken and read. Nil and zero fields are good defaults.
type Options struct {
	// Quiesce is what is done where nobody brings a quiescer along: VMware Tools are asked, by this policy.
	Quiesce Quiesce
	// QuiesceTimeout is how long the host lets VMware Tools take with applications of a Windows guest, which is 5 to 240
	// minutes. Zero: the host's own.
	QuiesceTimeout time.Duration

	// KeepTracking leaves changed-block tracking as it is found. Otherwise it is enabled where it is off, the VM has no
	// snapshot and no first-class disk; it stays enabled, because turning it off would take it from others too.
	KeepTracking bool
	// ResetTrackingOnFull resets tracking before a snapshot that no increment will be read from: see
	// [Provider.ResetTracking].
	ResetTrackingOnFull bool
	// TrustAllocation takes the server's word for which parts of a disk were ever written, where the transport cannot
	// tell. Some of what was never written is read all the same, and must be zero.
	TrustAllocation bool

	// AllowRelocation lets the VM be moved to other storage while it is read. Otherwise that is disabled meanwhile, where
	// the server has the means and we the privilege.
	AllowRelocation bool
	// HuntSnapshots goes on where disks need consolidation and the host's own cannot do it: all snapshots of the VM are
	// removed then, ALSO THOSE OF ITS USERS.
	HuntSnapshots bool

	// AdoptStale removes a snapshot of this program that is older, and that no session of this process is at work with, before a
	// new one is taken, with a warning. It is for the case that its session died and its journal is lost. Another machine's
	// session may be alive: it must be longer than any backup takes. Zero: never, the VM is in use.
	AdoptStale time.Duration

	// SkipPreflight takes snapshots without a look at what would stop or weaken the backup: see [Client.Preflight].
	SkipPreflight bool
	// FreePercent and DeltaBytes are what that look wants of datastores: see [PreflightOptions].
	FreePercent int
	DeltaBytes  int64

	Transports *TransportOptions
	// Scratch is a folder of this machine for what a transport must keep. Empty: the system's.
	Scratch string
}

// Provider is a set of virtual machines of one server.
type Provider struct {
	client *Client
	vms    []types.ManagedObjectReference
	opts   Options

	mu    sync.Mutex
	taken map[string]bool // VMs that a snapshot of this provider is at work on

	transports []string // in the order in which they are tried
	// openDisk finds a transport; another one in tests.
	openDisk func(ctx context.Context, p *Pinned) (pipe.Image, Choice, error)
}

var (
	_ hikae.SnapshotProvider = (*Provider)(nil)
	_ hikae.Sweeper          = (*Provider)(nil)
)

// New makes a provider of VMs of a server. The client stays the caller's, who closes it after the last snapshot was
// released. A transport that is not known is an error.
func New(c *Client, vms []types.ManagedObjectReference, opts *Options) (*Provider, error) {
	p := &Provider{client: c, vms: vms, taken: map[string]bool{}}
	if opts != nil {
		p.opts = *opts
	}
	by, err := newChooser(p.opts.Transports)
	if err != nil {
		return nil, err
	}
	p.openDisk = by.open
	for _, t := range by.order {
		p.transports = append(p.transports, t.Name())
	}
	return p, nil
}

// VMs implements [hikae.SnapshotProvider]. A VM that is gone, or whose configuration its host cannot tell, is an error in its
// place; the others follow.
func (p *Provider) VMs(ctx context.Context) iter.Seq2[hikae.VM, error] {
	return func(yield func(hikae.VM, error) bool) {
		for _, ref := range p.vms {
			m, err := p.client.machine(ctx, ref)
			var vm hikae.VM
			if err == nil {
				vm = m.describe()
			}
			if !yield(vm, err) || ctx.Err() != nil {
				return
			}
		}
	}
}

func (p *Provider) find(id string) (types.ManagedObjectReference, error) {
	for _, ref := range p.vms {
		if ref.Value == id {
			return ref, nil
		}
	}
	return types.ManagedObjectReference{}, fmt.Errorf("VM %q: %w", id, fs.ErrNotExist)
}

// occupy lets one snapshot at a time work on a VM. Other programs are found by what they leave on the server.
func (p *Provider) occupy(vm types.ManagedObjectReference) (free func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken[vm.Value] {
		return nil, &hikae.BusyError{What: "VM " + vm.Value, Owner: "another session of this program"}
	}
	p.taken[vm.Value] = true
	return sync.OnceFunc(func() { // a snapshot may be released again, when the VM is another's by now
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.taken, vm.Value)
	}), nil
}

// machine is a VM as its server describes it at one time.
type machine struct {
	mo.VirtualMachine
	tree  *snapshotTree
	disks []Disk // of the running configuration

	host    string  // its name
	release release // zero: not known
}

var machineProperties = []string{
	"name", "parent", "config", "capability", "runtime", "snapshot", "layoutEx", "disabledMethod", "recentTask",
	"guest.toolsRunningStatus", "guest.guestFamily",
}

// machine asks for what there is to know of a VM.
func (c *Client) machine(ctx context.Context, ref types.ManagedObjectReference) (*machine, error) {
	m := &machine{}
	err := c.properties(ctx, ref, machineProperties, &m.VirtualMachine)
	if isGone(err) {
		return nil, fmt.Errorf("VM %s: %w: %w", ref.Value, fs.ErrNotExist, err)
	}
	if err != nil {
		return nil, fmt.Errorf("VM %s: %w", ref.Value, err)
	}
	if m.Config == nil {
		return nil, fmt.Errorf("VM %s (%s): its host does not tell its configuration; it is %s", ref.Value, m.Name, m.Runtime.ConnectionState)
	}
	m.Self = ref
	if m.tree, err = treeOf(m.Snapshot); err != nil {
		return nil, fmt.Errorf("VM %s: %w", ref.Value, err)
	}
	m.disks = coveredDisks(m.Config)
	if m.Runtime.Host != nil {
		err = c.hostOf(ctx, m)
	}
	return m, err
}

// hostOf asks what runs the VM.
func (c *Client) hostOf(ctx context.Context, m *machine) error {
	var h mo.HostSystem
	err := c.properties(ctx, *m.Runtime.Host, []string{"name", "summary.config.product"}, &h)
	if cannot(err) || isGone(err) {
		return nil // it is not ours to see, or the VM has just left it
	}
	if err != nil {
		return fmt.Errorf("host of VM %s: %w", m.Self.Value, err)
	}
	m.host = h.Name
	if product := h.Summary.Config.Product; product != nil {
		m.release, _ = parseRelease(product.Version + "-" + product.Build) // the ledger takes what is not known for bad
	}
	return nil
}

func (m *machine) on() bool { return m.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn }

// describe is the VM in our words.
func (m *machine) describe() hikae.VM {
	vm := hikae.VM{ID: m.Self.Value, Name: m.Name, Facts: map[string]string{
		"hypervisor": "vmware", "host": m.host, "status": string(m.Runtime.PowerState), "guest": m.Config.GuestFullName,
		"hardware": m.Config.Version, "uuid": m.Config.InstanceUuid,
	}}
	if m.release != (release{}) {
		vm.Facts["version"] = m.release.String()
	}
	for _, d := range m.disks {
		vm.Disks = append(vm.Disks, d.Disk)
		if store := datastoreOf(d.File); store != "" {
			vm.Facts["datastore."+d.Key] = store
		}
	}
	return vm
}
