package vmware

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

// Resume finds a VM again that was started from an export, by whatever session, and switches it on where it is off, unless the
// options say otherwise. The export has to be served by now. Where there is no such VM that is fs.ErrNotExist.
//
// The effect in the journal stays that of the session that started it: a sweep settles it after Move or Stop.
func (r *Restorer) Resume(ctx context.Context, opts *StartOptions) (*Started, error) {
	if err := opts.check(nil); err != nil {
		return nil, fmt.Errorf("find a started VM: %w", err)
	}
	mark := markOf(opts.Export.Path)
	store, err := r.client.exported(ctx, mark)
	if err != nil {
		return nil, fmt.Errorf("find a started VM: %w", err)
	}
	absent := fmt.Errorf("no VM was started from the export: %w", fs.ErrNotExist)
	if store == nil {
		return nil, absent
	}
	m, err := r.client.startedOn(ctx, store, mark)
	if err != nil {
		return nil, fmt.Errorf("find a started VM: %w", err)
	}
	if m == nil {
		return nil, absent
	}
	s := &Started{VM: m.Self, Name: m.Name, Datastore: store.Summary.Name, restorer: r, mark: mark, progress: opts.Progress,
		settle: func(context.Context) error { return nil }}
	if m.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOff && !opts.Off {
		if err := r.powerOn(ctx, m.Self, m.Name); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// look is the VM as it is now, nil where it is gone or was moved. stands: something of it is on the export.
func (s *Started) look(ctx context.Context) (m *machine, stands bool, err error) {
	m, err = s.restorer.client.machine(ctx, s.VM)
	if errors.Is(err, fs.ErrNotExist) || isGone(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	if settingOf(m.Config, keyStarted) != s.mark {
		return nil, false, nil
	}
	stands = datastoreOf(m.Config.Files.VmPathName) == s.Datastore
	for _, d := range m.disks {
		stands = stands || datastoreOf(d.File) == s.Datastore
	}
	return m, stands, nil
}

// Stands reports whether the VM is there and needs the export. A person may have moved it, or removed it.
func (s *Started) Stands(ctx context.Context) (bool, error) {
	_, stands, err := s.look(ctx)
	return stands, err
}

// Move moves the VM, which may run, to another datastore that its host reaches, and unmounts the export. Afterwards nothing
// needs it. Where ctx ends the server is asked to stop moving, and the VM stays where it was.
func (s *Started) Move(ctx context.Context, datastore string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, stands, err := s.look(ctx)
	if err == nil && stands {
		if err = s.relocate(ctx, m, datastore); err == nil {
			m, stands, err = s.look(ctx)
		}
		if err == nil && stands {
			err = fmt.Errorf("something of it is still on datastore %s", s.Datastore)
		}
	}
	if err == nil {
		err = s.release(ctx, m)
	}
	if err != nil {
		return fmt.Errorf("move VM %s to %s: %w", s.Name, datastore, err)
	}
	return nil
}

func (s *Started) relocate(ctx context.Context, m *machine, datastore string) error {
	c := s.restorer.client
	in, err := c.inventory(ctx)
	if err != nil {
		return err
	}
	host := deref(m.Runtime.Host)
	w := &where{in: in, host: in[host]}
	if err := w.findStores(ctx, c); err != nil {
		return err
	}
	to, err := w.store(datastore)
	if err != nil {
		return err
	}
	if to.Summary.Name == s.Datastore {
		return fmt.Errorf("%s is the export: %w", datastore, fs.ErrInvalid)
	}
	res, err := methods.RelocateVM_Task(context.WithoutCancel(ctx), c.vim, &types.RelocateVM_Task{
		This: s.VM, Spec: types.VirtualMachineRelocateSpec{Datastore: &to.Self},
	})
	if err != nil {
		return err
	}
	told := s.tell(ctx, res.Returnval)
	_, err = c.Wait(ctx, res.Returnval)
	told()
	if lost := (*TaskLostError)(nil); errors.As(err, &lost) {
		return nil // what became of it is seen at the VM
	}
	return err
}

// tellEvery is how often a move is asked how far it is.
const tellEvery = time.Second

// tell passes on how far a task is, until end is called.
func (s *Started) tell(ctx context.Context, task types.ManagedObjectReference) (end func()) {
	if s.progress == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for sleep(ctx, tellEvery) == nil {
			if info, err := s.restorer.client.taskInfo(ctx, task); err == nil && !isOver(info) {
				s.progress(max(0, min(100, info.Progress)))
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// Stop switches the VM off as if its power failed, unless it is off, forgets it, and unmounts the export. The VM's files and
// what its guest wrote stay in the export's folder; where the VM's own files lie elsewhere, these are removed. A VM that was
// moved is left alone.
func (s *Started) Stop(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, stands, err := s.look(ctx)
	if err == nil && stands {
		err = s.end(ctx, m)
		m = nil
	}
	if err == nil {
		err = s.release(ctx, m)
	}
	if err != nil {
		return fmt.Errorf("stop VM %s: %w", s.Name, err)
	}
	return nil
}

// end switches the VM off and takes it out of the inventory.
func (s *Started) end(ctx context.Context, m *machine) error {
	c := s.restorer.client
	home := datastoreOf(m.Config.Files.VmPathName) == s.Datastore
	if !home && m.Snapshot != nil && len(m.Snapshot.RootSnapshotList) > 0 {
		return &SnapshotsError{VM: m.Name, Names: snapshotNames(m.Snapshot.RootSnapshotList, nil, 0)}
	}
	if m.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff {
		res, err := methods.PowerOffVM_Task(ctx, c.vim, &types.PowerOffVM_Task{This: s.VM})
		if err == nil {
			_, err = c.Wait(ctx, res.Returnval)
		}
		if err != nil {
			return fmt.Errorf("switch it off: %w", err)
		}
	}
	if !home {
		return c.discardStarted(ctx, s.VM, s.mark)
	}
	_, err := methods.UnregisterVM(context.WithoutCancel(ctx), c.vim, &types.UnregisterVM{This: s.VM})
	if err == nil || isGone(err) {
		return nil
	}
	if _, stands, lookErr := s.look(ctx); lookErr == nil && !stands {
		return nil // the answer was lost, and it was done
	}
	return err
}

// release ends what is left when nothing stands on the export any more. m is a VM that was moved, or nil.
func (s *Started) release(ctx context.Context, m *machine) error {
	c := s.restorer.client
	if m != nil {
		err := c.reconfigure(ctx, s.VM, types.VirtualMachineConfigSpec{
			ExtraConfig: []types.BaseOptionValue{&types.OptionValue{Key: keyStarted, Value: ""}},
		})
		if err != nil {
			return fmt.Errorf("take its mark away: %w", err)
		}
	}
	if err := c.unmount(ctx, s.mark); err != nil {
		return err
	}
	return s.settle(ctx)
}
