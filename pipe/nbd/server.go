package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"sync"
	"time"

	"github.com/hikae/hikae/pipe"
)

// Export is a disk that a server offers.
type Export struct {
	Name        string // what clients ask for; an only export also answers to the empty name
	Description string // for people
	// Image is the content. One that is a [Disk] can be written to.
	Image pipe.Image
	// DroppedIsZero says that ranges of kind Free, Swap, Excluded and Bad read as zero, as in a restore point. Clients
	// are then told so. Otherwise only Zero is taken to be zero.
	DroppedIsZero bool
}

// Disk is what an image that is written to can do beside. [Overlay] is one. It is safe for concurrent use; what two
// writes leave of a range that both write at the same time is not defined.
type Disk interface {
	pipe.Image

	// WriteAt stores p at byte off, and keeps no reference to p. It returns len(p) and nil, or an error.
	WriteAt(ctx context.Context, p []byte, off int64) (int, error)

	// Zero makes [off, off+n) read as zero.
	Zero(ctx context.Context, off, n int64) error

	// Flush makes durable what was written before it was called.
	Flush(ctx context.Context) error
}

// ServerOptions change how a server works. Nil and zero fields are good defaults.
//
// A server holds at most Connections × BytesInFlight of content in memory, whatever its clients do: each connection has
// its own share, so that a client that does not take its answers keeps nobody else waiting.
type ServerOptions struct {
	// TLS makes clients use it. Without ClientAuth in it, any client may come; [ServerTLS] sets that.
	TLS *tls.Config
	// Connections is the most connections at a time; more wait until one ends. Zero: 32.
	Connections int
	// InFlight is the most requests of one connection that are worked on at a time. Zero: 64.
	InFlight int
	// BytesInFlight is the most content of one connection in memory. Zero: 8 MiB; at least 2 MiB.
	BytesInFlight int
	// HandshakeTimeout is the longest a client may take before its first request. Zero: 10 s.
	HandshakeTimeout time.Duration
	// Timeout is the longest a client may take to send the rest of a message, or to take an answer. Zero: 60 s. A client
	// may be silent between messages for as long as it likes.
	Timeout time.Duration
	// Grace is how long requests under way may take when the server ends. Zero: 5 s.
	Grace time.Duration
	// Ended is told of each connection that ended, and why; nil where the client said good-bye.
	Ended func(client net.Addr, err error)

	most *form // for tests: nothing beyond this form is granted
}

func (o *ServerOptions) orDefault() ServerOptions {
	var out ServerOptions
	if o != nil {
		out = *o
	}
	for field, value := range map[*int]int{&out.Connections: 32, &out.InFlight: 64, &out.BytesInFlight: 8 << 20} {
		if *field <= 0 {
			*field = value
		}
	}
	out.BytesInFlight = max(out.BytesInFlight, 2*portion)
	for field, value := range map[*time.Duration]time.Duration{
		&out.HandshakeTimeout: 10 * time.Second, &out.Timeout: time.Minute, &out.Grace: 5 * time.Second,
	} {
		if *field <= 0 {
			*field = value
		}
	}
	return out
}

// Server offers exports. It is made by [NewServer] and keeps no state beside its connections: one server may serve
// several listeners.
type Server struct {
	opts    ServerOptions
	exports []*Export
	places  chan struct{} // one for each connection
}

// NewServer returns a server for exports, whose names must differ. The server does not close images.
func NewServer(exports []Export, opts *ServerOptions) (*Server, error) {
	s := &Server{opts: opts.orDefault()}
	names := map[string]bool{}
	for i := range exports {
		e := exports[i]
		if names[e.Name] || len(e.Name) > maxString || len(e.Description) > maxString || e.Image == nil {
			return nil, fmt.Errorf("NBD: export %.40q: a name twice, a text of more than %d bytes, or no image: %w", e.Name, maxString, fs.ErrInvalid)
		}
		names[e.Name] = true
		s.exports = append(s.exports, &e)
	}
	s.places = make(chan struct{}, s.opts.Connections)
	return s, nil
}

// find is the export with a name. An only export answers to the empty name too.
func (s *Server) find(name string) *Export {
	for _, e := range s.exports {
		if e.Name == name {
			return e
		}
	}
	if name == "" && len(s.exports) == 1 {
		return s.exports[0]
	}
	return nil
}

// Serve answers clients until ctx ends, and then returns nil after the last connection has ended: requests under way
// are finished, within the grace. Another end of the listener is an error. The listener is closed.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	defer l.Close()
	for pause := time.Millisecond; ; {
		if !s.admit(ctx) {
			return nil
		}
		conn, err := l.Accept()
		switch {
		case err == nil:
			pause = time.Millisecond
			group.Go(func() {
				defer func() { <-s.places }()
				s.ServeConn(ctx, conn)
			})
			continue
		case ctx.Err() != nil:
			<-s.places
			return nil
		}
		<-s.places
		if errors.Is(err, net.ErrClosed) || pause > 10*time.Second {
			return fmt.Errorf("NBD: accept: %w", err)
		}
		select { // too many open files, or the like: it may pass
		case <-time.After(pause):
			pause *= 2
		case <-ctx.Done():
		}
	}
}

// admit waits for a place for one more connection.
func (s *Server) admit(ctx context.Context) bool {
	select {
	case s.places <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// ServeConn answers one client until it leaves, breaks the protocol, or ctx ends. It closes the connection. The error is
// what Ended is told.
func (s *Server) ServeConn(ctx context.Context, conn net.Conn) error {
	defer conn.Close()
	err := s.serve(ctx, conn)
	if s.opts.Ended != nil {
		s.opts.Ended(conn.RemoteAddr(), err)
	}
	return err
}

func (s *Server) serve(ctx context.Context, raw net.Conn) error {
	n := &negotiation{server: s, raw: raw, conn: raw}
	if err := raw.SetDeadline(time.Now().Add(s.opts.HandshakeTimeout)); err != nil {
		return lost(err)
	}
	stop := context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) })
	err := n.run(ctx)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil || n.export == nil {
		return err
	}
	raw.SetDeadline(time.Time{})
	return newSession(n).run(ctx)
}
