package replica

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/kvm"
	"github.com/hikae/hikae/pipe"
)

// FailoverOptions change how a replica is failed over to. Nil and zero fields are good defaults.
type FailoverOptions struct {
	// Point is the full id of the point to run from. Empty: the newest.
	Point string
	// Command starts the VM, with slots as in [kvm.StartOptions]. Nil: the files are made, and somebody else starts it.
	Command []string
	// Monitor is the path of the VM's monitor. Empty: qmp.sock in the folder run of the VM's folder.
	Monitor string
	// Deep reads all of the point before, and compares it with its sums. Else that is done for what the guest reads by
	// nobody: QEMU knows no sums.
	Deep bool
	// Within is how long the program may take until the VM's monitor answers. Zero: 2 minutes.
	Within time.Duration
	// Journal takes the failover before it happens: what had not come to anything is undone by [Sweeper]. Nil: none; the
	// next Open of the site does so too.
	Journal hikae.Journal
}

// Failed is a replica that was failed over to.
type Failed struct {
	State State
	Info  pipe.PointInfo // the point that it runs from
}

// Options are options for QEMU that attach all disks and open the monitor: for who starts the VM.
func (f *Failed) Options() (options []string) {
	for _, d := range f.State.Disks {
		options = append(options, d.Options()...)
	}
	return append(options, kvm.MonitorOptions(f.State.Monitor)...)
}

const (
	answersWithin = 2 * time.Minute
	// maxSocket is the longest path of a unix socket on Linux, in bytes.
	maxSocket = 107
)

// KindFailover is the kind of the effect of a failover that has begun.
const KindFailover = "kvm.replica.failover"

// Failover puts a fresh image over each disk of a point, and starts the VM on them where the options have a command. Nothing
// that was committed is written to. From then on the replica is FailedOver, whatever becomes of this process, until Undo or
// Seal; it takes no points meanwhile.
//
// The point's files are looked at before: a [*DamagedError] where they do not hold together. On any error the replica is
// Ready as it was, but for a [*NotAnsweringError]: the program was started, and nobody knows whether the VM runs. A replica
// that is failed over already is a [*StateError].
func (s *Site) Failover(ctx context.Context, vm string, opts *FailoverOptions) (_ *Failed, err error) {
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
		return nil, fmt.Errorf("the replica of %s: %w", vm, fs.ErrNotExist)
	}
	lock, err := takeLock(dir, vm, "fail over")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lock.release()) }()
	if err := s.tidy(dir); err != nil { // a merge that finds no room, say, is no reason not to run
		s.warn(fmt.Sprintf("what was begun about the replica of %s could not be taken up: %v", vm, err))
	}
	if err := mustBeReady(dir, vm, "fail over"); err != nil {
		return nil, err
	}
	st, command, err := s.planFailover(ctx, dir, vm, &o)
	if err != nil {
		return nil, err
	}
	if err := s.makeReady(ctx, dir, st, &o); err != nil {
		return nil, err
	}
	failed := &Failed{State: st.State, Info: *st.Under}
	if command == nil {
		return failed, nil
	}
	over, err := s.start(ctx, dir, st, o.Within)
	if over {
		err = errors.Join(err, s.discardRun(dir, st))
	}
	if err != nil {
		return nil, err
	}
	return failed, nil
}

// planFailover chooses and checks the point, and says what is going to be where.
func (s *Site) planFailover(ctx context.Context, dir, vm string, o *FailoverOptions) (*stateText, []string, error) {
	r, err := choose(dir, vm, o.Point)
	if err != nil {
		return nil, nil, err
	}
	if strings.ContainsAny(dir, ",\x00\n") {
		return nil, nil, &fs.PathError{Op: "fail over in", Path: dir, Err: errors.New("QEMU's options divide at commas: move the site to a folder without one")}
	}
	if found, err := s.checkPoint(ctx, dir, r, o.Deep); err != nil || len(found) > 0 {
		for _, f := range found {
			err = errors.Join(err, f.Err)
		}
		return nil, nil, err
	}
	st := &stateText{Under: &r.Info, State: State{VM: vm, Stage: FailingOver, Since: time.Now().UTC().Round(0), Point: r.Info.ID, Monitor: o.Monitor}}
	own := st.Monitor == ""
	if own {
		st.Monitor = filepath.Join(dir, runName, "qmp.sock")
	}
	if st.Monitor, err = filepath.Abs(st.Monitor); err != nil {
		return nil, nil, err
	}
	if len(st.Monitor) > maxSocket {
		return nil, nil, fmt.Errorf("%s: %w: a socket's path has at most %d bytes, choose a shorter one for the monitor", st.Monitor, fs.ErrInvalid, maxSocket)
	}
	for _, d := range r.Disks {
		st.Disks = append(st.Disks, kvm.StartedDisk{Key: d.Key, Size: d.Size, Path: filepath.Join(dir, runName, d.Name+diskSuffix)})
	}
	if len(o.Command) > 0 {
		st.Command, err = kvm.FillCommand(o.Command, st.Disks, st.Monitor, own)
	}
	return st, st.Command, err
}

// choose finds a point of a VM; empty: the newest. The newest that cannot be read is not passed over in silence.
func choose(dir, vm, id string) (*record, error) {
	list, damaged, err := listFolder(dir)
	if err != nil {
		return nil, err
	}
	for _, r := range list {
		if r.Info.ID == id {
			return r, nil
		}
	}
	switch {
	case id != "":
		return nil, fmt.Errorf("point %q of %s: %w", id, vm, fs.ErrNotExist)
	case len(damaged) > 0:
		return nil, fmt.Errorf("the newest point of %s may be one that cannot be read; choose another by its id: %w", vm, errors.Join(damaged...))
	case len(list) == 0:
		return nil, fmt.Errorf("a point of %s: %w", vm, fs.ErrNotExist)
	}
	return list[len(list)-1], nil
}

// makeReady makes the files, and makes it durable that they are somebody else's from now on.
func (s *Site) makeReady(ctx context.Context, dir string, st *stateText, o *FailoverOptions) (err error) {
	settle := func(context.Context) error { return nil }
	if o.Journal != nil {
		settle, err = o.Journal.Intend(ctx, hikae.Effect{Kind: KindFailover, VM: st.VM, Facts: map[string]string{"site": s.dir}})
		if err != nil {
			return err
		}
	}
	err = st.save(dir)
	s.step("failing over")
	if err == nil {
		err = s.makeOverlays(dir, st)
	}
	s.step("overlays made")
	if err == nil {
		st.Stage = FailedOver
		err = st.save(dir)
	}
	s.step("failed over")
	if err != nil { // nobody has seen the files
		err = errors.Join(err, s.discardRun(dir, st))
	}
	return errors.Join(err, settle(context.WithoutCancel(ctx)))
}

func (s *Site) makeOverlays(dir string, st *stateText) error {
	run := filepath.Join(dir, runName)
	if err := os.Mkdir(run, 0o700); err != nil {
		return roomError(err)
	}
	for _, d := range st.Disks {
		w, err := createLayer(d.Path, d.Size, backingName(st.Point, nameFor(d.Key)))
		if err != nil {
			return err
		}
		if err := errors.Join(w.finish(), w.close()); err != nil {
			return err
		}
		s.step("overlay made")
	}
	return errors.Join(syncDir(run), syncDir(dir))
}

// discardRun makes the replica Ready, and removes what was written by whatever ran.
func (s *Site) discardRun(dir string, st *stateText) error {
	if err := st.forget(dir); err != nil {
		return err
	}
	s.step("state forgotten")
	return os.RemoveAll(filepath.Join(dir, runName))
}
