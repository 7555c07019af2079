package smbchannel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/smbchannel/scm"
)

const (
	startLimit = 45 * time.Second           // Windows gives a service's program 30 s
	closeLimit = 2 * time.Second            // that a component has to end by itself once nobody speaks to it
	stopLimit  = 10 * time.Second           // that it has once it was told to stop
	goneLimit  = 3 * time.Second            // that a deleted service may take to vanish
	display    = "Hikae backup (temporary)" // and the name: what a service shows is its alone too
	maxRuns    = 8                          // of one program at the same time
)

// ErrNoRun says that SMB runs no programs for their output: it starts services, and of them our own alone.
var ErrNoRun = errors.New("SMB starts our own component as a service, and runs nothing else")

// Run starts a program of ours, uploaded before, as a service of its own, waits until it ends and takes the service away.
// There is no output, no input, and a program that is no service does not answer. Everything else is ErrNoRun.
func (c *channel) Run(ctx context.Context, path string, args []string, stdin []byte) (hikae.RunResult, error) {
	rel, err := inShare(c.root, path)
	if err != nil || !ours(rel) || len(stdin) > 0 {
		return hikae.RunResult{}, ErrNoRun
	}
	run, free, err := c.create(ctx, nameOf(rel), commandLine(path, args))
	if err != nil {
		return hikae.RunResult{}, err
	}
	defer free()
	if err := c.services.Start(ctx, run.name); err != nil {
		return hikae.RunResult{}, errors.Join(err, run.undo(ctx))
	}
	ended, err := run.wait(ctx)
	err = errors.Join(err, run.undo(ctx))
	return hikae.RunResult{ExitCode: ended.ExitCode()}, err
}

// runName is what the nth service for a run is called. There are few, so that Clean can look for each.
func runName(folder string, n int) string {
	if n == 0 {
		return folder + "-run"
	}
	return fmt.Sprintf("%s-run%d", folder, n)
}

// running are the names of services that calls of this process have made or are about to: no two calls share one, also where
// the outcome of making it is not known. Folders have names that no other guest has.
var running sync.Map

// create makes a service for one run, under a name that nobody else has. After an error there is none, unless it says so.
func (c *channel) create(ctx context.Context, folder, command string) (s service, free func(), err error) {
	err = fmt.Errorf("%d runs of %s at the same time: %w", maxRuns, folder, fs.ErrExist)
	for n := range maxRuns {
		s = service{channel: c, name: runName(folder, n)}
		if _, taken := running.LoadOrStore(strings.ToLower(s.name), true); taken {
			continue
		}
		free = func() { running.Delete(strings.ToLower(s.name)) }
		failed := s.create(ctx, command)
		if failed == nil {
			return s, free, nil
		}
		if !others(failed) {
			failed = errors.Join(failed, s.undo(ctx))
			free()
			return s, nil, failed
		}
		free()
		err = failed
	}
	return s, nil, err
}

// others reports whether a service was not made because there is one of its name, which is another call's.
func others(err error) bool {
	var refused *scm.Error
	return errors.Is(err, fs.ErrExist) || errors.As(err, &refused) && refused.Code == scm.MarkedForDelete
}

// named checks that a program is called what its folder is, and lies right in it: a service or a folder of another name is
// none of its own.
func (c *channel) named(p guest.Program) error {
	rel, err := c.place(p.Path)
	if err != nil {
		return err
	}
	if folder, file, _ := strings.Cut(rel, `\`); folder != p.Name || file == "" || strings.Contains(file, `\`) {
		return &PathError{Path: p.Path, Why: "not in a folder of the program's name"}
	}
	return nil
}

// nameOf is the folder hikae-… that a path in ADMIN$ is in.
func nameOf(rel string) string {
	for i, r := range rel {
		if r == '\\' {
			return rel[:i]
		}
	}
	return rel
}

// Launch implements [guest.Launcher]: a service of the program's name runs it with
//
//	pipe --name NAME --dir FOLDER --service
//
// and the stream is the pipe NAME that it makes. When the stream is closed the service is stopped and deleted; what is
// left then is guest.ErrLeftover. After an error nothing is left, unless it says so.
func (c *channel) Launch(ctx context.Context, p guest.Program) (io.ReadWriteCloser, error) {
	if err := c.named(p); err != nil {
		return nil, err
	}
	ctx, cancel := bounded(ctx, startLimit)
	defer cancel()
	args := append(append([]string{}, p.Args...), "pipe", "--name", p.Name, "--dir", folderOf(p.Path), "--service")
	s := service{channel: c, name: p.Name}
	err := s.create(ctx, commandLine(p.Path, args))
	if err != nil && others(err) { // it is not ours to take away
		return nil, fmt.Errorf("start %s: %w", p.Path, err)
	}
	if err == nil {
		err = c.services.Start(ctx, s.name)
	}
	if err == nil {
		var stream *pipe
		if stream, err = s.connect(ctx); err == nil {
			return &launched{pipe: stream, service: s, done: make(chan struct{})}, nil
		}
	}
	return nil, errors.Join(fmt.Errorf("start %s: %w", p.Path, err), s.undo(ctx))
}

// service is one that we made.
type service struct {
	channel *channel
	name    string
}

func (s service) create(ctx context.Context, command string) error {
	return s.channel.services.Create(ctx, scm.Service{Name: s.name, Display: display + " " + s.name, Command: command})
}

// connect opens the service's pipe. Whoever made a pipe of that name before the component could would be talked to in its
// place, so it is opened only once the service runs: it says so when it has made the first instance of its pipe, and ends
// where there is one.
func (s service) connect(ctx context.Context) (*pipe, error) {
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 250*time.Millisecond) {
		st, err := s.channel.services.Status(ctx, s.name)
		switch {
		case err != nil:
			return nil, err
		case st.State == scm.Stopped || st.State == scm.Stopping:
			return nil, fmt.Errorf("the component ended as soon as it was started, with exit code %d", st.ExitCode())
		case st.State == scm.Running:
			return s.channel.link.openPipe(ctx, s.name)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, fmt.Errorf("service %s is %s: %w", s.name, st.State, context.Cause(ctx))
		}
	}
}

// wait waits until the service has ended.
func (s service) wait(ctx context.Context) (scm.Status, error) {
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 250*time.Millisecond) {
		st, err := s.channel.services.Status(ctx, s.name)
		if err != nil || st.State == scm.Stopped {
			return st, err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return st, fmt.Errorf("service %s is %s: %w", s.name, st.State, context.Cause(ctx))
		}
	}
}

// undo takes the service away after something failed. It has time of its own.
func (s service) undo(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit+closeLimit)
	defer cancel()
	if err := s.remove(ctx, 0); err != nil {
		return fmt.Errorf("%w: service %s: %w", guest.ErrLeftover, s.name, err)
	}
	return nil
}

// remove stops the service, after patience in which it may end by itself, deletes it, and looks. A service that is not
// there is gone.
func (s service) remove(ctx context.Context, patience time.Duration) error {
	m := s.channel.services
	if err := s.end(ctx, patience); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		// One that does not stop is deleted all the same: it goes when its process does, at the latest with the guest.
		return errors.Join(err, gone(m.Delete(ctx, s.name)))
	}
	if err := gone(m.Delete(ctx, s.name)); err != nil {
		return err
	}
	return s.prove(ctx)
}

// end waits, stops, and waits.
func (s service) end(ctx context.Context, patience time.Duration) error {
	if patience > 0 {
		waiting, cancel := context.WithTimeout(ctx, patience)
		_, err := s.wait(waiting)
		cancel()
		if err == nil || !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
	}
	var refused *scm.Error
	err := s.channel.services.Stop(ctx, s.name)
	if err != nil && !(errors.As(err, &refused) && (refused.Code == scm.NotActive || refused.Code == scm.CannotControl)) {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	_, err = s.wait(waiting)
	return err
}

// gone takes a service that is not there, or goes, for deleted.
func gone(err error) error {
	var refused *scm.Error
	if errors.Is(err, fs.ErrNotExist) || errors.As(err, &refused) && refused.Code == scm.MarkedForDelete {
		return nil
	}
	return err
}

// prove looks until the service is gone: others may hold a handle of it for a moment.
func (s service) prove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, goneLimit)
	defer cancel()
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 250*time.Millisecond) {
		there, err := s.channel.hasService(ctx, s.name)
		if err != nil || !there {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return fmt.Errorf("it is deleted and still there: %w", context.Cause(ctx))
		}
	}
}

// launched is the stream to a component that runs as a service.
type launched struct {
	*pipe
	service service
	closing sync.Once
	done    chan struct{} // closed when Close has looked
	err     error
	ended   error // how the component ended by itself
}

// Close ends the component's input, waits for its end, and takes its service away.
func (l *launched) Close() error {
	l.closing.Do(func() {
		defer close(l.done)
		_ = l.pipe.Close() // the connection may be gone; what counts is the service
		ctx, cancel := context.WithTimeout(context.Background(), closeLimit+stopLimit+goneLimit)
		defer cancel()
		if st, err := l.service.channel.services.Status(ctx, l.service.name); err == nil && st.State == scm.Stopped && st.ExitCode() != 0 {
			l.ended = fmt.Errorf("the component ended with exit code %d", st.ExitCode())
		}
		if err := l.service.remove(ctx, closeLimit); err != nil {
			l.err = fmt.Errorf("%w: service %s: %w", guest.ErrLeftover, l.service.name, err)
		}
	})
	return l.err
}

// Err waits for Close and says how the component had ended before it; nil where it had not, or well.
func (l *launched) Err() error {
	<-l.done
	return l.ended
}

// Clean implements [guest.Cleaner].
func (c *channel) Clean(ctx context.Context, p guest.Program) (left []string, err error) {
	folder := folderOf(p.Path)
	if err := c.named(p); err != nil {
		return nil, err
	}
	ctx, cancel := bounded(ctx, stopLimit+cleanLimit)
	defer cancel()
	names := []string{p.Name}
	for n := range maxRuns {
		names = append(names, runName(p.Name, n))
	}
	for _, name := range names {
		s := service{channel: c, name: name}
		if err := s.remove(ctx, 0); err != nil {
			if c.link.dead() {
				return nil, err
			}
			left = append(left, "service "+name+": "+words(err))
		}
	}
	if err := c.Remove(ctx, folder); err != nil {
		if c.link.dead() {
			return nil, err
		}
		left = append(left, "folder "+folder+": "+words(err))
	} else if there, err := c.exists(ctx, folder); err != nil {
		return nil, err
	} else if there {
		left = append(left, "folder "+folder)
	}
	return left, nil
}
