package hyperv

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"strings"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/cim"
	"github.com/hikae/hikae/hyperv/vhdx"
)

// RestorerOptions say where VMs are brought back to, and how. Nil and zero fields are good defaults.
type RestorerOptions struct {
	// Host is the node of a cluster on which a new VM is made. Empty: the one that the site was connected by.
	Host string
	// Path is the folder in which a new VM gets a folder of its own, by its name: C:\VMs, a cluster's volume, \\fs1\vms. A share that is
	// named here is trusted with the site's login. Empty: beside where the record has the VM, else the host's own default.
	Path string
	// Switches are what a new VM's network cards are plugged into, by name or GUID of a switch; the key is the recorded switch's name or
	// GUID, or the card's name. [NoSwitch] leaves a card unplugged. Others are plugged into the switch of the recorded GUID, else of
	// the recorded name, and where there is none they stay unplugged.
	Switches map[string]string
	// NoNetwork leaves all cards unplugged.
	NoNetwork bool
	// Provisioning is how the disks of a new VM take up room. Empty: as recorded, and where that is not known as they grow.
	Provisioning Provisioning
	// NewIDs gives a new VM's disks new identities, and lets the host choose the hardware addresses of all its cards. The VM's own id is
	// always new.
	NewIDs bool
	// CPUs and MemoryMB are a new VM's. Zero: as recorded, else 2 and 4096.
	CPUs, MemoryMB int
	// Generation is 1 or 2, for a VM whose settings no Hyper-V recorded. Zero: as far as the point tells, else 1, which starts by BIOS.
	Generation int
	// PowerOn starts the VM when it is whole.
	PowerOn bool

	// PowerOff switches a VM off that is to be written over and runs, as if its power failed.
	PowerOff bool
	// UnderCheckpoints writes over a VM that has checkpoints: what it stands on now changes, and its checkpoints do not. Otherwise
	// such a VM is refused.
	UnderCheckpoints bool
	// TakeOver writes over a VM that is marked as being written over by a restore that is none of ours: one of another machine,
	// or whose journal is lost. Say so only when that one is known to have ended. One that this process, or a dead session of
	// the same journal, has left is taken over without it.
	TakeOver bool
}

// NoSwitch in [RestorerOptions.Switches] leaves a network card unplugged.
const NoSwitch = "-"

// Provisioning is how a disk takes up room.
type Provisioning string

const (
	AsRecorded   Provisioning = ""
	DynamicDisks Provisioning = "dynamic" // files grow with what is written
	FixedDisks   Provisioning = "fixed"   // files have their full length from the start
)

// Restorer brings VMs back: new ones from their recorded settings, existing ones in place. It met only our own fake.
type Restorer struct {
	site *Site
	opts RestorerOptions
}

var _ hikae.Restorer = (*Restorer)(nil)

// NewRestorer makes a restorer to a site, which stays the caller's. Nothing is touched yet.
func NewRestorer(s *Site, opts *RestorerOptions) (*Restorer, error) {
	r := &Restorer{site: s}
	if opts != nil {
		r.opts = *opts
		r.opts.Switches = maps.Clone(opts.Switches)
	}
	switch o := &r.opts; {
	case o.Provisioning != AsRecorded && o.Provisioning != DynamicDisks && o.Provisioning != FixedDisks:
		return nil, fmt.Errorf("provisioning %.40q: %w: there are dynamic and fixed", o.Provisioning, fs.ErrInvalid)
	case o.Generation < 0 || o.Generation > 2:
		return nil, fmt.Errorf("generation %d: %w: there are 1 and 2", o.Generation, fs.ErrInvalid)
	case o.CPUs < 0 || o.CPUs > maxCPUs || o.MemoryMB < 0 || o.MemoryMB > maxMemoryMB:
		return nil, fmt.Errorf("%d processors, %d MiB of memory: %w", o.CPUs, o.MemoryMB, fs.ErrInvalid)
	}
	if r.opts.Path == "" {
		return r, nil
	}
	var err error
	if r.opts.Path, err = vhdx.WindowsPath(r.opts.Path); err != nil {
		return nil, err
	}
	r.opts.Path = strings.TrimRight(r.opts.Path, `\`)
	if server := serverOf(r.opts.Path + `\x`); server != "" {
		s.TrustServer(server)
	}
	return r, nil
}

const (
	maxCPUs     = 4096
	maxMemoryMB = 1 << 28

	savedToo   State = 32769
	cleanLimit       = 5 * time.Minute // for what is done after the caller's context may have ended
	waitPower        = 2 * time.Minute
)

func newMark() string { return strings.ToLower(rand.Text()) }

// intend writes down that something is going to be made. Without a journal it is done at once.
func (r *Restorer) intend(ctx context.Context, j hikae.Journal, h *Host, vm string, facts map[string]string) (func(context.Context) error, error) {
	if j == nil {
		return func(context.Context) error { return nil }, nil
	}
	e := hikae.Effect{Kind: kindRestore, VM: vm, Facts: map[string]string{"site": r.site.Address(), "host": h.info.Name}}
	maps.Copy(e.Facts, facts)
	return j.Intend(ctx, e)
}

// manage calls a method of the service that VMs are made and changed by.
func (h *Host) manage(ctx context.Context, method string, args ...cim.Property) (*cim.Outcome, error) {
	service, err := h.service(ctx, "Msvm_VirtualSystemManagementService")
	if err != nil {
		return nil, err
	}
	return h.client.Run(ctx, service, method, args, &cim.JobOptions{Poll: jobPoll})
}

// turn has a VM be in another state, and waits until it is.
func (h *Host) turn(ctx context.Context, vm string, to State) error {
	ctx, cancel := context.WithTimeoutCause(ctx, waitPower, fmt.Errorf("not %s within %v: %w", to, waitPower, context.DeadlineExceeded))
	defer cancel()
	ref, err := h.vmRef(ctx, vm)
	if err != nil {
		return err
	}
	if _, err := h.client.Run(ctx, ref, "RequestStateChange", []cim.Property{{Name: "RequestedState", Value: uint16(to)}}, &cim.JobOptions{Poll: jobPoll}); err != nil {
		return err
	}
	for wait := firstPause; ; wait = min(2*wait, pollEvery) {
		in, err := h.find(ctx, vm)
		if err != nil {
			return err
		}
		var now struct {
			State uint16 `cim:"EnabledState"`
		}
		if err := in.Decode(&now); err != nil || State(now.State) == to {
			return err
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

// powerOn starts a VM that is whole.
func (r *Restorer) powerOn(ctx context.Context, h *Host, id, name string) error {
	if err := h.turn(ctx, id, Running); err != nil {
		return &PowerOnError{VM: name, Err: err}
	}
	return nil
}

// isFresh: nothing is in the folder, or it is not there.
func isFresh(ctx context.Context, store Store, folder string) (bool, error) {
	names, err := store.List(ctx, folder)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return len(names) == 0, err
}
