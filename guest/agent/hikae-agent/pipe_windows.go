package main

import (
	"context"

	"github.com/hikae/hikae/guest/agent"
	"github.com/hikae/hikae/guest/agent/winsvc"
)

// pipe serves one client on a named pipe as one session. A service counts as running once the pipe is there. The client has as long to come as a lease lasts.
func pipe(ctx context.Context, args []string) error {
	var f runtimeFlags
	p, err := f.parse(args, true)
	if err != nil {
		return err
	}
	serve := func(ctx context.Context, ready func()) error {
		l, err := winsvc.ListenPipe(f.name, &winsvc.PipeOptions{Remote: f.service})
		if err != nil {
			return err
		}
		defer l.Close()
		ready()
		coming, cancel := context.WithTimeout(ctx, agent.DefaultLease)
		defer cancel()
		if err := l.Accept(coming); err != nil {
			leave(p) // nobody came who could
			return err
		}
		return serveRuntime(ctx, p, l)
	}
	if f.service {
		return winsvc.RunService(f.name, serve)
	}
	return serve(ctx, func() {})
}
