package vmware

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
)

// MountError says that a host could not mount an export.
type MountError struct {
	Host, Address string
	Err           error
}

func (e *MountError) Error() string {
	return fmt.Sprintf("host %s cannot mount the export of %s by NFS: %v", e.Host, e.Address, e.Err)
}
func (e *MountError) Unwrap() error { return e.Err }

// Hint is what a person can do about it.
func (e *MountError) Hint() string {
	return "The host has to reach UDP port 111 and the NFS port of that address, from an address that the export knows as a client."
}

// mount makes the export a datastore of the host. One that is left from before, with nothing on it, is taken.
func (s *starting) mount(ctx context.Context) error {
	c := s.restorer.client
	if store, err := c.exported(ctx, s.mark); err != nil {
		return err
	} else if store != nil {
		if slices.ContainsFunc(store.Host, func(m types.DatastoreHostMount) bool { return m.Key == s.where.host.ref }) {
			return nil
		}
		return &hikae.BusyError{What: "export " + storePrefix + s.mark, Owner: "another host, which has it mounted"}
	}
	system, err := c.storeSystem(ctx, s.where.host.ref)
	if err != nil {
		return err
	}
	// As with a VM that is made: a call that is given up may still arrive, so it is never cut short.
	_, err = methods.CreateNasDatastore(context.WithoutCancel(ctx), c.vim, &types.CreateNasDatastore{This: system, Spec: types.HostNasVolumeSpec{
		RemoteHost: s.opts.Export.Address, RemotePath: s.opts.Export.Path, LocalPath: storePrefix + s.mark,
		AccessMode: string(types.HostMountModeReadWrite), Type: string(types.HostFileSystemVolumeFileSystemTypeNFS),
	}})
	if err != nil {
		s.lost = !isAnswer(err)
		return &MountError{Host: s.where.host.name, Address: s.opts.Export.Address, Err: err}
	}
	return ctx.Err()
}

func (c *Client) storeSystem(ctx context.Context, host types.ManagedObjectReference) (types.ManagedObjectReference, error) {
	var h mo.HostSystem
	if err := c.properties(ctx, host, []string{"configManager.datastoreSystem"}, &h); err != nil {
		return types.ManagedObjectReference{}, fmt.Errorf("host %s: %w", host.Value, err)
	}
	if h.ConfigManager.DatastoreSystem == nil {
		return types.ManagedObjectReference{}, fmt.Errorf("host %s: it tells of no means to mount a datastore: %w", host.Value, errors.ErrUnsupported)
	}
	return *h.ConfigManager.DatastoreSystem, nil
}

// exported finds the datastore that an export is mounted as, by its name and by the path behind it; nil: there is none.
func (c *Client) exported(ctx context.Context, mark string) (*mo.Datastore, error) {
	in, err := c.inventory(ctx)
	if err != nil {
		return nil, err
	}
	for _, at := range in.of("Datastore") {
		if !strings.HasPrefix(at.name, storePrefix+mark) { // a server may have added a number
			continue
		}
		var d mo.Datastore
		err := c.properties(ctx, at.ref, []string{"summary", "info", "host", "vm"}, &d)
		if isGone(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("datastore %s: %w", at.name, err)
		}
		if info, ok := d.Info.(*types.NasDatastoreInfo); ok && info.Nas != nil && markOf(info.Nas.RemotePath) == mark {
			return &d, nil
		}
	}
	return nil, nil
}

// maxOnExport bounds the VMs that are looked at on one export: it was made for one.
const maxOnExport = 64

// startedOn finds the VM that was started from an export; nil: there is none. One that never became whole is none.
func (c *Client) startedOn(ctx context.Context, store *mo.Datastore, mark string) (*machine, error) {
	for _, ref := range store.Vm[:min(len(store.Vm), maxOnExport)] {
		m, err := c.machine(ctx, ref)
		if errors.Is(err, fs.ErrNotExist) || isGone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if settingOf(m.Config, keyStarted) == mark && settingOf(m.Config, keyUnfinished) == "" {
			return m, nil
		}
	}
	return nil, nil
}

// unmount takes an export's datastore away from every host that has it. Where a VM is on it, that is a *hikae.BusyError.
func (c *Client) unmount(ctx context.Context, mark string) error {
	store, err := c.exported(ctx, mark)
	if err != nil || store == nil {
		return err
	}
	for _, m := range store.Host {
		system, err := c.storeSystem(ctx, m.Key)
		if err != nil {
			return err
		}
		_, err = methods.RemoveDatastore(context.WithoutCancel(ctx), c.vim, &types.RemoveDatastore{This: system, Datastore: store.Self})
		switch {
		case err == nil || isGone(err) || isFault[*types.NotFound](err):
		case isFault[*types.ResourceInUse](err):
			return &hikae.BusyError{What: "datastore " + store.Summary.Name, Owner: "a VM that is registered on it"}
		default:
			if left, lookErr := c.exported(ctx, mark); lookErr != nil || left != nil {
				return fmt.Errorf("unmount datastore %s: %w", store.Summary.Name, errors.Join(err, lookErr))
			}
		}
	}
	return nil
}

// undoStart takes away what a dead session was about to start. A VM that is whole may have been written to: it stays, and is a
// *StartedError.
func undoStart(ctx context.Context, c *Client, e hikae.Effect, _ []hikae.ChangeID) error {
	mark := e.Facts["mark"]
	if !goodMark.MatchString(mark) {
		return fmt.Errorf("effect %s: mark %.40q: %w", e.ID, mark, fs.ErrInvalid)
	}
	err := c.destroyUnfinished(ctx, unfinishedVM{mark: mark, instance: e.Facts["uuid"], name: e.Facts["name"],
		folder: types.ManagedObjectReference{Type: "Folder", Value: e.Facts["folder"]}})
	if err != nil {
		return err
	}
	store, err := c.exported(ctx, mark)
	if err != nil || store == nil {
		return err
	}
	m, err := c.startedOn(ctx, store, mark)
	if err != nil {
		return err
	}
	if m != nil {
		return startedError(m, store.Summary.Name, nil)
	}
	return c.unmount(ctx, mark)
}

// discardStarted destroys a VM that was just made from an export and never ran. The export's files are detached before.
func (c *Client) discardStarted(ctx context.Context, vm types.ManagedObjectReference, mark string) error {
	m, err := c.machine(ctx, vm)
	if errors.Is(err, fs.ErrNotExist) || isGone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if settingOf(m.Config, keyStarted) != mark {
		return nil
	}
	if m.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff {
		return startedError(m, storePrefix+mark, nil)
	}
	var spec types.VirtualMachineConfigSpec
	for _, d := range m.disks {
		spec.DeviceChange = append(spec.DeviceChange, &types.VirtualDeviceConfigSpec{
			Operation: types.VirtualDeviceConfigSpecOperationRemove, Device: d.Virtual,
		})
	}
	if spec.DeviceChange != nil {
		if err := c.reconfigure(ctx, vm, spec); err != nil {
			return fmt.Errorf("detach the export's disks: %w", err)
		}
	}
	res, err := methods.Destroy_Task(ctx, c.vim, &types.Destroy_Task{This: vm})
	if err == nil {
		_, err = c.Wait(ctx, res.Returnval)
	}
	if isGone(err) {
		return nil
	}
	return err
}
