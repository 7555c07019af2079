package service

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hikae/hikae/guest/agent"
	"github.com/hikae/hikae/guest/agent/wire"
	"github.com/hikae/hikae/guest/install/pack"
	"github.com/hikae/hikae/pipe/mover/trust"
)

// Options change how a service runs. Nil and zero fields are good defaults.
type Options struct {
	Version string       // of this program
	Log     *slog.Logger // who came and what was installed; no secret. Nil: none
	// UnitDir is where systemd's unit was written, so that it can be removed. Empty: there is none.
	UnitDir string
	// Handshakes bounds connections that have not shown who they are, Sessions those that have. Zero: 32 and 16.
	Handshakes, Sessions int
}

// Service is the installer service of one folder.
type Service struct {
	dir    string
	opts   Options
	set    settings
	people *people
	store  *Store
	log    *slog.Logger

	sessions chan struct{}

	knocking  sync.Mutex
	strangers []net.Conn // whose handshakes are under way, the oldest first
	running   sync.WaitGroup
	removing  atomic.Bool
	removed   chan struct{} // closed when everything of ours is to go
	once      sync.Once
}

// settings are what setting up has fixed.
type settings struct {
	Listen  string   `json:"listen"`
	Signers []string `json:"signers"`
}

// Times of connections.
const (
	writeLimit = 2 * time.Minute // for a peer to take what it was sent
	lastWords  = 2 * time.Second // for connections when the service ends
)

// Open opens the service that was set up in a folder, and removes what a killed one left.
func Open(dir string, opts *Options) (*Service, error) {
	s := &Service{dir: dir, removed: make(chan struct{})}
	if opts != nil {
		s.opts = *opts
	}
	if s.log = s.opts.Log; s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.sessions = make(chan struct{}, orDefault(s.opts.Sessions, 16))
	signers, err := s.readSettings()
	if err == nil {
		s.people, err = openPeople(dir)
	}
	if err == nil {
		s.store, err = openStore(dir, signers, s.answers)
	}
	if err != nil {
		return nil, fmt.Errorf("installer service in %s: %w", dir, err)
	}
	return s, nil
}

func orDefault(n, otherwise int) int {
	if n <= 0 {
		return otherwise
	}
	return n
}

func (s *Service) readSettings() ([]ed25519.PublicKey, error) {
	data, err := readBounded(filepath.Join(s.dir, settingsFile), maxKit)
	if err == nil {
		err = strict(data, maxKit, &s.set)
	}
	if err == nil {
		err = checkListen(s.set.Listen)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", settingsFile, err)
	}
	return signerKeys(s.set.Signers)
}

func writeSettings(dir string, set settings) error {
	data, err := json.MarshalIndent(set, "", "\t")
	if err != nil {
		return err
	}
	return writeLocked(dir, settingsFile, append(data, '\n'))
}

// Listen opens the port that was set, or another place where listen is not empty.
func (s *Service) Listen(ctx context.Context, listen string) (net.Listener, error) {
	if listen == "" {
		listen = s.set.Listen
	}
	if listen == "" {
		listen = DefaultListen
	}
	return new(net.ListenConfig).Listen(ctx, "tcp", listen)
}

// Pin is that of the service's own key.
func (s *Service) Pin() trust.Pin { return s.people.own.Pin() }

// Serve serves a listener until the context ends or everything of ours was removed, which is nil. It closes the
// listener, ends the connections, and waits for what they hold to be let go.
func (s *Service) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := s.sweepSessions(); err != nil {
		return errors.Join(err, l.Close())
	}
	ended := make(chan error, 1)
	go func() {
		select {
		case <-ctx.Done():
			ended <- nil
		case <-s.removed: // the port is the last to go: that it is closed is what shows that nothing is left
			cancel()
			s.running.Wait()
			ended <- s.lastOfAll()
		}
		l.Close()
	}()
	err := s.accept(ctx, l)
	cancel()
	s.running.Wait()
	return errors.Join(err, <-ended)
}

// sweepSessions removes folders that connections of a killed service left. The port is ours: nobody else has any.
func (s *Service) sweepSessions() error {
	dir := filepath.Join(s.dir, sessionsDir)
	list, err := os.ReadDir(dir)
	for _, e := range list {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

func (s *Service) accept(ctx context.Context, l net.Listener) error {
	for {
		raw, err := l.Accept()
		switch {
		case err != nil && errors.Is(err, net.ErrClosed):
			return nil
		case err != nil: // no descriptors left: others end some time
			s.log.Warn("accept", "error", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		if s.removing.Load() {
			raw.Close()
			continue
		}
		s.knock(raw)
		s.running.Go(func() { s.welcome(ctx, raw) })
	}
}

// knock notes a connection whose handshake begins. Where there are too many, the oldest goes: somebody who is known is
// through in a moment, and whoever says nothing keeps nobody out. Sessions have places of their own.
func (s *Service) knock(raw net.Conn) {
	s.knocking.Lock()
	defer s.knocking.Unlock()
	s.strangers = append(s.strangers, raw)
	if len(s.strangers) > orDefault(s.opts.Handshakes, 32) {
		s.strangers[0].Close()
		s.strangers = slices.Delete(s.strangers, 0, 1)
	}
}

// known ends a handshake, however it went.
func (s *Service) known(raw net.Conn) {
	s.knocking.Lock()
	defer s.knocking.Unlock()
	if i := slices.Index(s.strangers, raw); i >= 0 {
		s.strangers = slices.Delete(s.strangers, i, i+1)
	}
}

// welcome makes the handshake and serves whoever is known.
func (s *Service) welcome(ctx context.Context, raw net.Conn) {
	conn, peer, err := trust.Accept(ctx, raw, s.config(), s.people.book)
	s.known(raw)
	if err != nil {
		s.log.Warn("refused", "from", raw.RemoteAddr().String(), "error", err)
		return
	}
	defer conn.Close()
	select {
	case s.sessions <- struct{}{}:
		defer func() { <-s.sessions }()
	default:
		s.log.Warn("too many sessions", "peer", peer.Name)
		return
	}
	if peer.Token || peer.Role != trust.Full && peer.Role != trust.Guest {
		s.log.Warn("refused", "peer", peer.Name, "role", string(peer.Role))
		return
	}
	protocol := conn.ConnectionState().NegotiatedProtocol
	s.log.Info("connected", "peer", peer.Name, "for", protocol)
	if protocol != ALPNEnrol {
		if was, err := s.people.settled(peer); was || err != nil {
			s.log.Info("the temporary key is over", "error", err)
		}
	}
	err = s.serve(ctx, &patient{conn}, peer, protocol)
	if s.removing.Load() { // only now: the answer to that is sent
		s.once.Do(func() { close(s.removed) })
	}
	s.log.Info("gone", "peer", peer.Name, "for", protocol, "error", err)
}

// config shows the temporary key to whoever asks for the other one, and the service's own key to everybody else.
func (s *Service) config() *tls.Config {
	book := s.people.book
	main := trust.ServerTLS(s.people.own, book, ALPNInstaller, ALPNAgent)
	all := trust.ServerTLS(s.people.own, book, ALPNInstaller, ALPNAgent, ALPNEnrol)
	all.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if !slices.Equal(hello.SupportedProtos, []string{ALPNEnrol}) {
			return main, nil
		}
		id, err := s.people.temporary()
		if err != nil {
			s.log.Warn("somebody asks for the temporary key", "error", err)
			return main, nil // which does not speak that protocol, and says so
		}
		return trust.ServerTLS(id, book, ALPNEnrol), nil
	}
	return all
}

func (s *Service) serve(ctx context.Context, conn net.Conn, peer trust.Peer, protocol string) error {
	if protocol == ALPNAgent {
		return s.component(ctx, conn)
	}
	opts := &agent.Options{
		Product: s.product(), Persist: true,
		Enrol: func(_ context.Context, args wire.EnrolArgs) (wire.EnrolAnswer, error) {
			return s.people.enrol(peer, protocol, args)
		},
	}
	if protocol == ALPNInstaller {
		opts.Installer = &installer{s, peer}
		opts.Remove = func(ctx context.Context) (wire.RemoveAnswer, error) { return s.remove(ctx, peer) }
	}
	err := agent.New(opts).Serve(ctx, conn)
	if errors.Is(err, io.EOF) {
		err = nil // it left, as it may
	}
	return err
}

// product tells both versions: "hikae-installer 1.0.0; hikae-agent 1.4.0", the second one only where it is installed.
func (s *Service) product() string {
	text := "hikae-installer " + s.opts.Version
	if version, _, err := s.store.Installed(); err == nil && version != "" {
		text += "; " + Component + " " + version
	}
	return text
}

// component carries bytes between a connection and a component of its own.
func (s *Service) component(ctx context.Context, conn net.Conn) error {
	path, err := s.store.verified()
	if err != nil {
		return err
	}
	r, err := start(filepath.Join(s.dir, sessionsDir), path)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now().Add(lastWords)) })
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(r.in, conn)
		r.in.Close() // the component reads its end: it thaws, lets go and leaves
	}()
	_, _ = io.Copy(conn, r.out)
	conn.Close()
	<-done
	return r.Close()
}

// patient is a connection whose peer must take what it is sent within a time. That a peer is silent ends its lease.
type patient struct{ net.Conn }

func (p *patient) Write(b []byte) (int, error) {
	if err := p.SetWriteDeadline(time.Now().Add(writeLimit)); err != nil {
		return 0, err
	}
	return p.Conn.Write(b)
}

// installer is the verb Install for one peer.
type installer struct {
	s    *Service
	peer trust.Peer
}

// Install implements agent.Installer.
func (i *installer) Install(ctx context.Context, args wire.InstallArgs, content io.Reader) (wire.InstallAnswer, error) {
	p := &pack.Package{Signature: args.Signature, Header: pack.Header{Name: args.Name, Version: args.Version, OS: args.OS,
		Arch: args.Arch, Size: args.Size, Downgrade: args.Downgrade}}
	if len(args.SHA256) != len(p.SHA256) {
		return wire.InstallAnswer{}, &wire.Failure{Code: wire.CodeInvalid, Message: "the hash is none"}
	}
	copy(p.SHA256[:], args.SHA256)
	replaced, err := i.s.store.Install(ctx, p, content)
	i.s.log.Info("install", "peer", i.peer.Name, "version", fmt.Sprintf("%.40q", p.Version), "replaces", replaced, "error", err)
	if err != nil {
		return wire.InstallAnswer{}, refusal(err)
	}
	return wire.InstallAnswer{Installed: p.Version, Replaced: replaced}, nil
}

// refusal tells the client what kind of error it is.
func refusal(err error) error {
	code := wire.CodeFailed
	switch {
	case errors.Is(err, pack.ErrSignature), errors.Is(err, pack.ErrContent), errors.Is(err, pack.ErrRollback):
		code = wire.CodeSignature
	case errors.Is(err, pack.ErrForm), errors.Is(err, pack.ErrSystem):
		code = wire.CodeInvalid
	case errors.Is(err, fs.ErrPermission):
		code = wire.CodeRights
	}
	return &wire.Failure{Code: code, Message: err.Error()}
}
