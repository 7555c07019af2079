package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/hikae/hikae/guest/agent"
	"github.com/hikae/hikae/guest/agent/files"
	"github.com/hikae/hikae/guest/agent/vss"
	"github.com/hikae/hikae/guest/agent/vss/sqlserver"
	"github.com/hikae/hikae/guest/agent/winsvc"
	"github.com/hikae/hikae/guest/agent/wire"
)

// systemCommands are those that only this system has:
//
//	hikae-agent pipe    --name NAME --dir DIR [--service]   frames on a named pipe; --service: started as one, and
//	                                                        reached from other machines
//	hikae-agent service run|install|remove|setup|clean …    the installer service, as a service: see service
//	hikae-agent sweep   --dir DIR                           takes away what dead components left beside DIR
//
// serve and pipe take --vss check|own too: see package guest/agent/vss.
var systemCommands = map[string]command{"pipe": pipe, "service": windowsService, "sweep": sweepBeside}

// A program that runs cannot be deleted here, so serving ends otherwise than elsewhere.
func init() { commands["serve"] = serveStdio }

// mode is who makes snapshots; the command line says so before parts are made.
var mode vss.Mode

// parts are what a component on Windows can do.
func parts(p *agent.Place, _ bool) *agent.Options {
	sql := sqlserver.New()
	return &agent.Options{
		Unverified:   vss.Unverified + "; SQL Server: " + sqlserver.Unverified,
		Admin:        winsvc.Elevated(),
		Boot:         winsvc.Boot(),
		Freezer:      vss.Flusher{},
		Applications: applications{vss.New(&vss.Options{Mode: mode}), sql},
		Logs:         sql,
		Indexer:      files.New(),
		Remove: func(context.Context) (wire.RemoveAnswer, error) {
			gone, last, err := winsvc.Leave(p.Dir(), programName())
			return wire.RemoveAnswer{Removed: gone, Last: last}, err
		},
	}
}

// applications are the writers, and the instances of SQL Server for the sake of their logs: it is their writer that gets
// their databases ready.
type applications struct {
	*vss.Applications
	sql *sqlserver.Keeper
}

func (a applications) Find(ctx context.Context) ([]wire.Application, error) {
	all, err := a.Applications.Find(ctx)
	if err != nil {
		return nil, err
	}
	some, err := a.sql.Find(ctx)
	return append(all, some...), err
}

// programName is that of our own file. Without it nothing of ours is swept.
func programName() string {
	self, err := os.Executable()
	if err != nil {
		return "hikae-agent.exe"
	}
	return filepath.Base(self)
}

// runtimeFlags are those of serve and pipe.
type runtimeFlags struct {
	dir, vss, name string
	service        bool
}

func (f *runtimeFlags) parse(args []string, piped bool) (*agent.Place, error) {
	err := flags(args, func(s *flag.FlagSet) {
		s.StringVar(&f.dir, "dir", "", "")
		s.StringVar(&f.vss, "vss", "", "")
		if piped {
			s.StringVar(&f.name, "name", "", "")
			s.BoolVar(&f.service, "service", false, "")
		}
	})
	if err != nil {
		return nil, err
	}
	if mode, err = vss.ParseMode(f.vss); err != nil {
		return nil, fmt.Errorf("%w: %w", errUsage, err)
	}
	if err := winsvc.Harden(); err != nil {
		return nil, err
	}
	return agent.OpenPlace(f.dir)
}

// serveStdio serves stdin and stdout as one session.
func serveStdio(ctx context.Context, args []string) error {
	var f runtimeFlags
	p, err := f.parse(args, false)
	if err != nil {
		return err
	}
	stream, err := stdio()
	if err != nil {
		return err
	}
	return serveRuntime(ctx, p, lateClose{stream})
}

// serveRuntime serves one stream and leaves. What others left is swept first.
func serveRuntime(ctx context.Context, p *agent.Place, stream io.ReadWriteCloser) error {
	_, _ = winsvc.Sweep(p.Dir(), programName()) // what does not go now goes another time; it must not hinder this session
	err := runtimeComponent(p).Serve(ctx, stream)
	if err == nil {
		return nil // Remove: the controller, who is still there, deletes the rest
	}
	if errors.Is(err, io.EOF) {
		err = nil // the client left, as it may
	}
	return errors.Join(err, leave(p))
}

// leave is for an end that no controller sees: what cannot go now goes when Windows starts next.
func leave(p *agent.Place) error {
	_, last, err := winsvc.Leave(p.Dir(), programName())
	if errors.Is(err, os.ErrNotExist) {
		return nil // somebody was quicker
	}
	return errors.Join(err, winsvc.LeaveAtRestart(last...))
}

// closeLimit is how long the standard streams may take to close: a read that waits may keep them.
const closeLimit = 2 * time.Second

// lateClose closes without waiting for a read that waits. The process is about to end.
type lateClose struct{ io.ReadWriteCloser }

func (l lateClose) Close() error {
	done := make(chan error, 1)
	go func() { done <- l.ReadWriteCloser.Close() }()
	select {
	case err := <-done:
		return err
	case <-time.After(closeLimit):
		return nil
	}
}

// sweepBeside is the verb of that name.
func sweepBeside(_ context.Context, args []string) error {
	var dir string
	if err := flags(args, func(s *flag.FlagSet) { s.StringVar(&dir, "dir", "", "") }); err != nil {
		return err
	}
	if !filepath.IsAbs(dir) {
		return errUsage
	}
	gone, err := winsvc.Sweep(dir, programName())
	for _, name := range gone {
		fmt.Println(name)
	}
	return err
}
