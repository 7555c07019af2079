package kvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/kvm/qmp"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/nbd"
)

// StartOptions change how a VM is started from a restore point. Nil and zero fields are good defaults.
type StartOptions struct {
	// Command starts the VM: a program and its arguments. In them {disk:KEY} stands for the path of a disk's file, an
	// argument {disks} for options that attach all disks to QEMU, and {monitor} for the path of the monitor's socket;
	// where {monitor} and Monitor are missing, the options for a monitor are appended. Nil: somebody else starts it. For
	// Resume nil is the command that Start had.
	Command []string
	// Monitor is the path of a monitor's socket of the VM. Empty: qmp.sock in the folder.
	Monitor string
	// Disks are the keys of the disks to start with. Nil: all of the point.
	Disks []string
	// Limit bounds the copy, in bytes a second. What the guest itself reads is not bounded. Zero: no bound.
	Limit int64
	// Wait is how long the guest waits for a disk whose server is gone before it gets an error. Zero: 24 hours.
	Wait time.Duration
	// Journal takes what a start makes before it happens, to be undone by [StartSweeper].
	Journal hikae.Journal
	// Progress, if set, is told of each disk's copy about twice a second; Warn of what a person should know. Both are
	// called from Finish's and Close's goroutine.
	Progress func(StartProgress)
	Warn     func(text string)
}

func (o *StartOptions) orDefault() StartOptions {
	out := StartOptions{}
	if o != nil {
		out = *o
	}
	if out.Wait <= 0 {
		out.Wait = 24 * time.Hour
	}
	if out.Progress == nil {
		out.Progress = func(StartProgress) {}
	}
	if out.Warn == nil {
		out.Warn = func(string) {}
	}
	return out
}

// Started is a VM that runs from a restore point, told as a story: [Start] serves the point's disks read-only and puts a
// qcow2 overlay over each, which takes what the guest writes; the VM starts on the overlays at once; Finish lets QEMU copy
// behind the running guest what the overlays lack, until each stands alone; Close ends the service.
//
//	guest ──► KEY.qcow2 (overlay) ──► nbd.sock ──► this process ──► point
//	              ▲                      │
//	              └──── QEMU copies ─────┘      afterwards: guest ──► KEY.qcow2
//
// The truth of how far a disk is stands in its own file: its header names the export until QEMU has copied everything,
// made it durable, and taken the name out. So it does not matter which of the two processes is killed when. If this one
// is, the guest waits where it reads what is not copied, and goes on when [Resume] serves the folder again. If QEMU is,
// the overlay holds what the guest had flushed, and Resume starts the VM again.
//
// Finish and Close are called one at a time.
type Started struct {
	folder *startFolder
	opts   StartOptions
	vm     *launched // nil: somebody else started it
	closer []func() error
	served chan error    // the server's end
	rest   time.Duration // until it is looked again
	seen   bool          // the VM has answered, and has not ended since
	busy   *copyOf
}

// Start makes a VM's disks ready in a folder, and starts it where opts has a command. The folder is made where it is
// missing. While the VM runs from the point, the backend's images of it are open: a repository keeps the point meanwhile.
// A folder in which a VM was started before is a [*StartedError], unless its disks are whole.
//
// On error nothing of it is left. Errors of the command are fs.ErrInvalid, of an unknown disk fs.ErrNotExist.
func Start(ctx context.Context, backend pipe.Backend, point pipe.PointInfo, dir string, opts *StartOptions) (*Started, error) {
	s := &Started{opts: opts.orDefault()}
	var err error
	if s.folder, err = makeStartFolder(dir); err != nil {
		return nil, err
	}
	s.closer = append(s.closer, s.folder.unlock)
	if err := s.start(ctx, backend, point); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Resume goes on with what Start began in a folder, after either process ended: it serves the disks again, and starts the
// VM unless it runs. A folder without a start is fs.ErrNotExist, which is also what it is when all disks are whole.
func Resume(ctx context.Context, backend pipe.Backend, dir string, opts *StartOptions) (*Started, error) {
	s := &Started{opts: opts.orDefault()}
	var err error
	if s.folder, err = openStartFolder(dir); err != nil {
		return nil, err
	}
	s.closer = append(s.closer, s.folder.unlock)
	if err := s.resume(ctx, backend); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Started) start(ctx context.Context, backend pipe.Backend, point pipe.PointInfo) (err error) {
	f := s.folder
	if err := f.plan(point, s.opts.Disks); err != nil {
		return err
	}
	if err := s.monitorAt(s.opts.Monitor); err != nil {
		return err
	}
	f.state.Command = s.opts.Command
	command, err := s.command()
	if err != nil {
		return err
	}
	settle, err := s.intend(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil { // no program has the disks
			if left := f.discard(); left != nil {
				err = errors.Join(err, left)
				return
			}
		}
		err = errors.Join(err, settle(context.WithoutCancel(ctx)))
	}()
	if err := f.save(); err != nil {
		return err
	}
	images, err := s.serve(ctx, backend)
	if err != nil {
		return err
	}
	for i, d := range f.state.Disks {
		backing, err := backingName(f.socket(), s.export(d), int64(s.opts.Wait/time.Second))
		if err != nil {
			return err
		}
		if err := createOverlay(ctx, d.Path, backing, images[i]); err != nil {
			return fmt.Errorf("disk %s: %w", d.Key, err)
		}
	}
	f.state.Stage = stageGiven
	if err := f.save(); err != nil {
		return err
	}
	return s.launch(command)
}

func (s *Started) resume(ctx context.Context, backend pipe.Backend) error {
	f := s.folder
	if f.state.Stage == stageMade {
		return errors.Join(fmt.Errorf("%s: the start that was killed had not come to give the disks to anybody: start anew: %w", f.dir, fs.ErrNotExist), f.discard())
	}
	if s.opts.Command != nil {
		f.state.Command = s.opts.Command
	}
	if s.opts.Monitor != "" {
		if err := s.monitorAt(s.opts.Monitor); err != nil {
			return err
		}
	}
	command, err := s.command()
	if err != nil {
		return err
	}
	if err := f.save(); err != nil {
		return err
	}
	if _, err := s.serve(ctx, backend); err != nil {
		return err
	}
	if s.lives(ctx) {
		return nil
	}
	return s.launch(command)
}

// monitorAt sets where the monitor is.
func (s *Started) monitorAt(path string) (err error) {
	if path == "" {
		path = s.folder.path("qmp.sock")
	}
	if path, err = filepath.Abs(path); err == nil && len(path) > maxSocketPath {
		err = fmt.Errorf("%s: %w: a socket's path has at most %d bytes, choose a folder with a shorter path", path, fs.ErrInvalid, maxSocketPath)
	}
	s.folder.state.Monitor = path
	return err
}

func (s *Started) command() ([]string, error) {
	st := &s.folder.state
	if len(st.Command) == 0 {
		return nil, nil
	}
	return fillCommand(st.Command, st.Disks, st.Monitor, st.Monitor == s.folder.path("qmp.sock"))
}

// intend writes down what is made before the VM is started.
func (s *Started) intend(ctx context.Context) (settle func(context.Context) error, err error) {
	if s.opts.Journal == nil {
		return func(context.Context) error { return nil }, nil
	}
	return s.opts.Journal.Intend(ctx, hikae.Effect{Kind: KindStart, VM: s.folder.state.VM, Facts: map[string]string{"folder": s.folder.dir}})
}

// export is the name of a disk's export. It names the point, so that an overlay never meets the content of another.
func (s *Started) export(d StartedDisk) string { return s.folder.state.Point + "/" + d.Key }

// serve opens the disks of the point and lets QEMU read them.
func (s *Started) serve(ctx context.Context, backend pipe.Backend) (images []pipe.Image, err error) {
	var exports []nbd.Export
	host := context.WithoutCancel(ctx) // Close ends it, after the copy was stopped in good order
	for _, d := range s.folder.state.Disks {
		img, err := backend.Open(host, s.folder.state.Point, d.Key)
		if err != nil {
			return nil, fmt.Errorf("disk %s: %w", d.Key, err)
		}
		img = nbd.Ahead(img, nil)
		s.closer = append(s.closer, img.Close)
		if img.Size() != d.Size {
			return nil, fmt.Errorf("disk %s: it has %d bytes, and had %d: %w", d.Key, img.Size(), d.Size, fs.ErrInvalid)
		}
		images = append(images, img)
		exports = append(exports, nbd.Export{Name: s.export(d), Image: img, DroppedIsZero: true})
	}
	server, err := nbd.NewServer(exports, nil)
	if err != nil {
		return nil, err
	}
	l, err := nbd.Listen(ctx, "unix:"+s.folder.socket())
	if err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(host)
	s.served = make(chan error, 1)
	go func() { s.served <- server.Serve(running, l) }()
	s.closer = append(s.closer, func() error {
		stop()
		return <-s.served
	})
	return images, nil
}

func (s *Started) launch(command []string) (err error) {
	if command == nil {
		return nil
	}
	if s.vm, err = launch(command, s.folder.path("vm.log")); err != nil {
		return fmt.Errorf("start the VM: %w", err)
	}
	return nil
}

// Disks are the disks of the VM, with their files.
func (s *Started) Disks() []StartedDisk { return s.folder.state.Disks }

// Point is the full id of the restore point.
func (s *Started) Point() string { return s.folder.state.Point }

// Monitor is the path of the monitor's socket, where Finish looks for the VM.
func (s *Started) Monitor() string { return s.folder.state.Monitor }

// Folder is the absolute path of the folder.
func (s *Started) Folder() string { return s.folder.dir }

// Options are options for QEMU that attach all disks and open the monitor.
func (s *Started) Options() (options []string) {
	for _, d := range s.Disks() {
		options = append(options, d.Options()...)
	}
	return append(options, monitorOptions(s.Monitor())...)
}

// Finish waits for the VM to run, and lets QEMU copy disk after disk until all of them stand alone. On nil that is
// durable, and nothing needs the restore point any more. [ErrVMEnded]: the VM has ended before; who starts it again by
// other means calls Finish again. When ctx ends, what was
// copied stays; Close then ends the service in good order.
//
// Where nobody was given a command, the VM may take as long as ctx allows to appear.
func (s *Started) Finish(ctx context.Context) error {
	for i := range s.folder.state.Disks {
		s.busy, s.rest = s.newCopy(i), lookEvery/16
		if err := s.busy.run(ctx); err != nil {
			return err
		}
		s.busy = nil
	}
	return s.folder.forget()
}

// Seen reports whether the VM answered at its monitor the last time it was asked. It is not for use while Finish is.
func (s *Started) Seen() bool { return s.seen }

// Close ends the service. Before Finish has come to its end, the copy that goes on in QEMU is stopped, and the guest waits
// where it reads what is not copied.
func (s *Started) Close() error {
	if s.busy != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if s.seen || s.lives(ctx) { // an earlier process may have left a copy that this one has not reached yet
			if err := s.busy.cancel(ctx); err != nil && !errors.Is(err, ErrVMEnded) {
				s.warn("the copy goes on in QEMU, and waits for the disks to be served again: %v", err)
			}
		}
		s.busy = nil
	}
	var errs []error
	for i := len(s.closer) - 1; i >= 0; i-- {
		errs = append(errs, s.closer[i]())
	}
	s.closer = nil
	return errors.Join(errs...)
}

func (s *Started) warn(format string, args ...any) { s.opts.Warn(fmt.Sprintf(format, args...)) }

const (
	// bootWithin is how long a program that was started may take to open its monitor.
	bootWithin = 2 * time.Minute
	// takenWithin is how long another client may hold the monitor.
	takenWithin = 10 * time.Minute
)

// withMonitor does one thing at the monitor, as soon as there is one. Only a start that brings no command waits for it
// without a bound: for a person.
func (s *Started) withMonitor(ctx context.Context, do func(context.Context, *qmp.Conn) error) error {
	for begun, told := time.Now(), false; ; {
		err := s.dial(ctx, do)
		var busy *hikae.BusyError
		switch {
		case err == nil:
			return nil
		case errors.As(err, &busy):
			if time.Since(begun) > takenWithin {
				return err
			}
			if !told {
				s.warn("%v", err)
			}
			told = true
		case !gone(err) && !errors.Is(err, qmp.ErrClosed):
			return err
		}
		if over, why := s.vm.over(); s.seen || over && !s.lives(ctx) { // a program may end and leave the VM behind
			s.seen = false
			return errors.Join(ErrVMEnded, why)
		}
		if s.vm != nil && time.Since(begun) > bootWithin {
			return fmt.Errorf("monitor %s: %w after %v", s.Monitor(), err, bootWithin)
		}
		if err := s.pause(ctx); err != nil {
			return err
		}
	}
}

// dial does one thing at the monitor, with a bound of a minute for all of it.
func (s *Started) dial(ctx context.Context, do func(context.Context, *qmp.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	greeted, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	mon, err := qmp.Dial(greeted, s.Monitor())
	if err != nil {
		return busy(s.Monitor(), err)
	}
	defer mon.Close()
	s.seen = true
	return do(ctx, mon)
}

// lives reports whether a QEMU is at the monitor: free, taken, or come to a stand.
func (s *Started) lives(ctx context.Context) bool {
	err := s.dial(ctx, func(context.Context, *qmp.Conn) error { return nil })
	var busy *hikae.BusyError
	return err == nil || errors.As(err, &busy) || errors.Is(err, ErrSilent)
}

// pause waits a moment. It ends early when the context does, or the server.
func (s *Started) pause(ctx context.Context) error {
	select {
	case <-time.After(s.rest):
		s.rest = min(2*s.rest, lookEvery)
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case err := <-s.served:
		s.served <- err // for Close
		return errors.Join(errors.New("the disks are served no more"), err)
	}
}
