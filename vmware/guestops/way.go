package guestops

import (
	"context"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// Options change how a guest is reached. Nil and zero fields are good defaults.
type Options struct {
	// OS is "linux" or "windows" where it is known. Empty: what VMware Tools say, or it is found out.
	OS string
	// Temp are folders of the guest that are tried before the usual ones, for the component and for what programs print.
	Temp []string
}

// Way is the way into one guest. It implements [guest.Way].
type Way struct {
	client *vim25.Client
	vm     types.ManagedObjectReference
	auth   types.BaseGuestAuthentication
	opts   Options
}

// New sets a way up; nothing is asked yet.
func New(client *vim25.Client, vm types.ManagedObjectReference, auth types.BaseGuestAuthentication, opts *Options) *Way {
	w := &Way{client: client, vm: vm, auth: auth}
	if opts != nil {
		w.opts = *opts
	}
	return w
}

// Kind implements [guest.Way].
func (w *Way) Kind() guest.Kind { return guest.VSphere }

// Probe implements [guest.Way].
func (w *Way) Probe(ctx context.Context) guest.Finding { return guest.ProbeByOpening(ctx, w) }

// Open implements [guest.Way].
func (w *Way) Open(ctx context.Context) (guest.Channel, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	os, err := w.ready(ctx)
	if err != nil {
		return nil, err
	}
	if w.opts.OS != "" {
		os = w.opts.OS
	}
	open := func(ctx context.Context) (hikae.GuestChannel, error) {
		return Open(ctx, w.client, w.vm, w.auth, &w.opts)
	}
	return guest.OverWay(guest.VSphere, open, &guest.OverOptions{OS: os, Temp: w.opts.Temp}).Open(ctx)
}

// ready asks vSphere about the machine, which costs less than to ask its guest, and says more.
func (w *Way) ready(ctx context.Context) (os string, err error) {
	var vm mo.VirtualMachine
	err = property.DefaultCollector(w.client).RetrieveOne(ctx, w.vm, []string{"runtime.powerState", "guest.toolsRunningStatus", "guest.guestFamily"}, &vm)
	if err != nil {
		return "", explain("connect", err)
	}
	if state := vm.Runtime.PowerState; state != types.VirtualMachinePowerStatePoweredOn {
		return "", explainState(state)
	}
	if vm.Guest == nil {
		return "", nil
	}
	if vm.Guest.ToolsRunningStatus == string(types.VirtualMachineToolsRunningStatusGuestToolsNotRunning) {
		return "", toolsDown()
	}
	switch types.VirtualMachineGuestOsFamily(vm.Guest.GuestFamily) {
	case types.VirtualMachineGuestOsFamilyWindowsGuest:
		return "windows", nil
	case types.VirtualMachineGuestOsFamilyLinuxGuest:
		return "linux", nil
	}
	return "", nil
}

func explainState(state types.VirtualMachinePowerState) error {
	return &guest.WayError{Kind: guest.VSphere, Step: "power", Problem: "the machine is " + guest.Printable(string(state), 30),
		Hint: "start it, or leave its guest out"}
}

func toolsDown() error {
	return &guest.WayError{Kind: guest.VSphere, Step: "tools", Problem: "VMware Tools do not run in the guest",
		Hint: "install VMware Tools or open-vm-tools, see that they run, and wait until the guest has started"}
}
