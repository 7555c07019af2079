package main

import (
	"context"
	"errors"
	"flag"
	"io"

	"github.com/hikae/hikae/guest/agent"
)

// place opens the folder that a command line names.
func place(args []string) (*agent.Place, error) {
	var dir string
	if err := flags(args, func(s *flag.FlagSet) { s.StringVar(&dir, "dir", "", "") }); err != nil {
		return nil, err
	}
	return agent.OpenPlace(dir)
}

// runtimeComponent is a component that lives in a folder and goes with it.
func runtimeComponent(p *agent.Place) *agent.Agent {
	opts := parts(p, false)
	opts.Product = product()
	if opts.Remove == nil {
		opts.Remove = p.Removed
	}
	return agent.New(opts)
}

// relayedComponent is one that is spoken to by runs of its program: its folder's name outlives it. See [agent.Linger].
func relayedComponent(p *agent.Place) *agent.Agent {
	opts := parts(p, true)
	opts.Product = product()
	if opts.Remove == nil {
		opts.Remove = p.Emptied
	}
	return agent.New(opts)
}

// serve serves stdin and stdout as one session. The folder goes however it ends.
func serve(ctx context.Context, args []string) error {
	p, err := place(args)
	if err != nil {
		return err
	}
	stream, err := stdio()
	if err != nil {
		return err
	}
	err = runtimeComponent(p).Serve(ctx, stream)
	if errors.Is(err, io.EOF) {
		err = nil // the client left, as it may
	}
	return errors.Join(err, p.Remove())
}
