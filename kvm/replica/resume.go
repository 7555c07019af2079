package replica

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hikae/hikae/kvm"
	"github.com/hikae/hikae/kvm/qmp"
)

// Resume starts the VM of a failover again, on what it wrote before: after its host was started anew, say. The command is the
// one that Failover had, unless opts has another; of opts only Command and Within count. A VM that runs is a
// [*hikae.BusyError], and a replica that is not failed over a [*StateError]. Whatever the error, what the VM wrote stays.
func (s *Site) Resume(ctx context.Context, vm string, opts *FailoverOptions) (_ *Failed, err error) {
	o := FailoverOptions{}
	if opts != nil {
		o = *opts
	}
	if o.Within <= 0 {
		o.Within = answersWithin
	}
	if err := errors.Join(ctx.Err(), checkVM(vm)); err != nil {
		return nil, err
	}
	dir := s.folder(vm)
	if _, err := os.Lstat(dir); err != nil {
		return nil, &StateError{Op: "resume", State: State{VM: vm, Stage: Ready}}
	}
	lock, err := takeLock(dir, vm, "resume")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lock.release()) }()
	st, err := loadState(dir, vm)
	if err == nil && st.Stage != FailedOver {
		err = &StateError{Op: "resume", State: st.State}
	}
	if err == nil {
		err = st.mustBeOff(ctx)
	}
	if err != nil {
		return nil, err
	}
	if len(o.Command) > 0 {
		own := st.Monitor == filepath.Join(dir, runName, "qmp.sock")
		if st.Command, err = kvm.FillCommand(o.Command, st.Disks, st.Monitor, own); err == nil {
			err = st.save(dir)
		}
	}
	if err == nil && st.Command == nil {
		err = fmt.Errorf("the replica of %s was started by somebody else: say how: %w", vm, fs.ErrInvalid)
	}
	if err == nil {
		_, err = s.start(ctx, dir, st, o.Within)
	}
	if err != nil {
		return nil, err
	}
	return &Failed{State: st.State, Info: *st.Under}, nil
}

// start starts the VM and waits until it answers. It tells where there is none for sure.
func (s *Site) start(ctx context.Context, dir string, st *stateText, within time.Duration) (over bool, err error) {
	p, err := kvm.Launch(st.Command, filepath.Join(dir, runName, logName))
	if err != nil {
		return true, fmt.Errorf("start the replica of %s: %w", st.VM, err)
	}
	s.step("launched")
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		err := greeted(ctx, st.Monitor)
		if err == nil {
			return false, nil
		}
		if over, why := p.Over(); over && nobodyThere(err) {
			if by, err := st.Running(ctx); err != nil || by != "" { // a program may end and leave the VM behind
				return false, &NotAnsweringError{st.Monitor, errors.Join(why, err, errors.New(by))}
			}
			return true, fmt.Errorf("the replica of %s ended at once: %w", st.VM, errors.Join(why, err))
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return false, &NotAnsweringError{st.Monitor, errors.Join(err, ctx.Err())}
		}
	}
}

// greeted asks whether a VM answers at its monitor.
func greeted(ctx context.Context, monitor string) error {
	ctx, cancel := context.WithTimeout(ctx, monitorWithin)
	defer cancel()
	mon, err := qmp.Dial(ctx, monitor)
	if err != nil {
		return err
	}
	return mon.Close()
}

// nobodyThere reports that no process listens at a socket.
func nobodyThere(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}
