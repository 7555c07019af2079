package remote

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/hikae/hikae/pipe/mover"
	"github.com/hikae/hikae/pipe/mover/trust"
)

// endTime bounds the end of a proxy: what it has deployed is taken away in that time, or ends by itself.
const endTime = 90 * time.Second

// ServeOptions are the door of a machine that is a guest interaction proxy and nothing else. Identity and Book are
// needed.
type ServeOptions struct {
	Identity *trust.Identity
	Book     *trust.Book
	Observer mover.Observer
	Log      *slog.Logger
	Version  string
}

// Serve serves a proxy on a mover's port of its own, at which peers also enrol, until ctx ends; then it takes away what
// was deployed, and returns. A machine that is a mover, too, has the server among that one's Protocols instead.
func Serve(ctx context.Context, l net.Listener, s *Server, opts *ServeOptions) error {
	m, err := mover.NewServer(&mover.ServerOptions{
		Identity: opts.Identity, Book: opts.Book, Observer: opts.Observer, Log: opts.Log, Version: opts.Version,
		Protocols: map[string]mover.Protocol{ALPN: s},
	})
	if err != nil {
		return errors.Join(err, l.Close())
	}
	served := make(chan error, 1)
	go func() { served <- m.Serve(context.WithoutCancel(ctx), l) }()
	select {
	case err = <-served:
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
	defer cancel()
	err = errors.Join(err, s.Close(end), m.Shutdown(end)) // tasks first: their clients hear of it while they are connected
	if ctx.Err() != nil {
		err = errors.Join(err, <-served)
	}
	return err
}
