package nfctest

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
)

// Options are how the service behaves. Only Open is needed.
type Options struct {
	// Open opens the disk that a client names by its path, "[datastore] folder/name.vmdk". session is the ticket's. An
	// error that is fs.ErrPermission is answered as a file that is read-only. The service closes what it opened.
	Open func(ctx context.Context, session, path string, write bool) (Disk, error)
	// Certificate is the host's, for both layers of TLS. Nil: one is made.
	Certificate *tls.Certificate
	// MaxTLS is the newest version of TLS that is spoken, such as tls.VersionTLS12. Zero: the newest there is.
	MaxTLS uint16
	// Connections is how many are served at once. Zero: 52, vCenter's bound.
	Connections int
	// BufferMemory is the sum of all sessions' buffers in bytes. Zero: 48 MiB, a host's default.
	BufferMemory int64
	// FragmentBytes cuts answers smaller than the session's buffers. Zero: as large as they are.
	FragmentBytes int
	// Idle is how long a client may say nothing, or take nothing. Zero: one minute.
	Idle time.Duration
}

// Server is a service that listens. Close ends it.
type Server struct {
	opts   Options
	listen net.Listener
	tls    *tls.Config
	print  string
	ctx    context.Context // of the server's life: disks are opened and read in it
	stop   context.CancelFunc
	group  sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	conns   map[net.Conn]bool
	tickets map[string]Ticket
	faults  []Fault
	memory  int64
	open    map[string]int // disks that are open, by path
	stats   Stats
}

// Stats are sums since the server began.
type Stats struct {
	Connections, Sessions, Refused int64
	Reads, Writes                  int64 // requests
	ReadBytes, WrittenBytes        int64
	Fragments                      int64
}

// Listen starts a service on a TCP address, "127.0.0.1:0" for a free port.
func Listen(addr string, opts *Options) (*Server, error) {
	s := &Server{conns: map[net.Conn]bool{}, tickets: map[string]Ticket{}, open: map[string]int{}}
	if opts != nil {
		s.opts = *opts
	}
	if s.opts.Open == nil {
		return nil, errors.New("nfctest: no Open")
	}
	if s.opts.FragmentBytes < 0 || s.opts.FragmentBytes%sectorBytes != 0 {
		return nil, fmt.Errorf("nfctest: fragments of %d bytes are not whole sectors", s.opts.FragmentBytes)
	}
	s.defaults()
	if s.opts.Certificate == nil {
		cert, err := newCertificate()
		if err != nil {
			return nil, err
		}
		s.opts.Certificate = cert
	}
	sum := sha256.Sum256(s.opts.Certificate.Certificate[0])
	s.print = strings.ReplaceAll(fmt.Sprintf("% X", sum[:]), " ", ":")
	s.tls = &tls.Config{
		Certificates: []tls.Certificate{*s.opts.Certificate}, MinVersion: tls.VersionTLS12, MaxVersion: s.opts.MaxTLS,
		SessionTicketsDisabled: true, // they would come after the handshake, where raw bytes may be next
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	s.listen = l
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.group.Go(s.accept)
	return s, nil
}

func (s *Server) defaults() {
	o := &s.opts
	if o.Connections == 0 {
		o.Connections = 52
	}
	if o.BufferMemory == 0 {
		o.BufferMemory = 48 << 20
	}
	if o.Idle == 0 {
		o.Idle = time.Minute
	}
}

// Addr is where the service listens.
func (s *Server) Addr() *net.TCPAddr { return s.listen.Addr().(*net.TCPAddr) }

// Thumbprint is the SHA-256 of the certificate, in capitals with colons.
func (s *Server) Thumbprint() string { return s.print }

// Certificate is what the service shows.
func (s *Server) Certificate() tls.Certificate { return *s.opts.Certificate }

// Stats returns the sums so far.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

func (s *Server) count(f func(*Stats)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.stats)
}

// Leftovers says in words what clients have left: connections and open disks. Right after a client's Close it may still
// hold what the service is about to see.
func (s *Server) Leftovers() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var left []string
	for c := range s.conns {
		left = append(left, "disk service: connection from "+c.RemoteAddr().String())
	}
	for path, n := range s.open {
		left = append(left, fmt.Sprintf("disk service: %s open %d times", path, n))
	}
	return left
}

// Close ends the service, its connections included, and returns when nothing of it runs any more.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.stop()
	err := s.listen.Close()
	s.group.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (s *Server) accept() {
	for {
		c, err := s.listen.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || s.ctx.Err() != nil {
				return
			}
			time.Sleep(10 * time.Millisecond) // no descriptors, most likely
			continue
		}
		if !s.admit(c) {
			c.Close()
			continue
		}
		s.group.Go(func() {
			defer s.leave(c)
			s.serve(c)
		})
	}
}

func (s *Server) admit(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.conns) >= s.opts.Connections {
		s.stats.Refused++
		return false
	}
	s.stats.Connections++
	s.conns[c] = true
	return true
}

func (s *Server) leave(c net.Conn) {
	c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// serve is one connection: the daemon, then the disk service. What goes wrong ends the connection, as on a host.
func (s *Server) serve(c net.Conn) {
	c = &patient{Conn: c, idle: s.opts.Idle}
	ticket, encrypted, err := s.login(c)
	if err != nil {
		return
	}
	if encrypted {
		inner := tls.Server(c, s.tls)
		if err := inner.HandshakeContext(s.ctx); err != nil {
			return
		}
		c = inner
	}
	c = s.dropping(c)
	if err := handshake(c); err != nil {
		return
	}
	s.count(func(st *Stats) { st.Sessions++ })
	newSession(s, c, ticket).run()
}

// patient waits for each read and write only so long.
type patient struct {
	net.Conn
	idle time.Duration
}

func (p *patient) Read(b []byte) (int, error) {
	if err := p.SetReadDeadline(time.Now().Add(p.idle)); err != nil {
		return 0, err
	}
	return p.Conn.Read(b)
}

func (p *patient) Write(b []byte) (int, error) {
	if err := p.SetWriteDeadline(time.Now().Add(p.idle)); err != nil {
		return 0, err
	}
	return p.Conn.Write(b)
}
