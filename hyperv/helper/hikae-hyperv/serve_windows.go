package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"time"

	"golang.org/x/sys/windows"

	"github.com/hikae/hikae/guest/agent/winsvc"
	"github.com/hikae/hikae/hyperv/helper/requester"
)

// program is what our own file is called in its folder.
const program = "hikae-hyperv.exe"

// comeLimit is how long the client has to open the pipe.
const comeLimit = time.Minute

// serve serves one session.
func (p *piped) serve(ctx context.Context) error {
	if err := winsvc.Harden(); err != nil {
		return err
	}
	if p.service {
		return winsvc.RunService(p.name, p.session)
	}
	return p.session(ctx, func() {})
}

// session waits for the client and serves it. A service counts as running once the pipe is there.
func (p *piped) session(ctx context.Context, ready func()) error {
	opts, err := options()
	if err != nil {
		return err
	}
	service, err := requester.System()
	if err != nil {
		return err
	}
	l, err := winsvc.ListenPipe(p.name, &winsvc.PipeOptions{Remote: p.service})
	if err != nil {
		return err
	}
	defer l.Close()
	ready()
	coming, cancel := context.WithTimeout(ctx, comeLimit)
	defer cancel()
	if err := l.Accept(coming); err != nil {
		return errors.Join(err, p.leave()) // nobody came who could
	}
	_, _ = winsvc.Sweep(p.dir, program) // what does not go now goes another time; it must not hinder this session
	err = requester.Serve(ctx, l, service, opts)
	if err == nil {
		return nil // after a Bye: the controller, who is still there, takes the rest away
	}
	if errors.Is(err, io.EOF) {
		err = nil // the client left, as it may
	}
	return errors.Join(err, p.leave())
}

// options have the book in a folder that only administrators can make.
func options() (*requester.Options, error) {
	dir, err := windows.GetSystemWindowsDirectory()
	if err != nil {
		return nil, fmt.Errorf("the folder of Windows: %w", err)
	}
	return &requester.Options{Product: product(), Book: &requester.DirBook{Dir: filepath.Join(dir, "hikae-sets"), Make: winsvc.MakePrivateDir}}, nil
}

// leave is for an end that no controller sees: the service's entry goes with it, and what cannot go now goes when Windows starts next.
func (p *piped) leave() error {
	var problems []error
	if p.service {
		problems = append(problems, winsvc.UnregisterService(p.name))
	}
	_, last, err := winsvc.Leave(p.dir, program)
	if errors.Is(err, fs.ErrNotExist) {
		return errors.Join(problems...) // somebody was quicker
	}
	return errors.Join(append(problems, err, winsvc.LeaveAtRestart(last...))...)
}
