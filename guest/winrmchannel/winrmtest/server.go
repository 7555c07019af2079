package winrmtest

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hikae/hikae/internal/winrm/listener"
)

// Options of a listener. Zero fields are good defaults.
type Options struct {
	User, Password string
	TLS            bool
	Basic          bool          // is allowed
	ClientCA       *tls.Config   // for client certificates; its users log on by them
	Weak           bool          // offers no sealing
	Hold           time.Duration // how long Receive waits for output. Zero: 200 ms
	// Before sees each message before it is served, with its number from 1 and its action's last word, and may answer in
	// the listener's place by returning true.
	Before func(w http.ResponseWriter, r *http.Request, n int, action string) bool
	// After is the same when it was served: the answer may be lost.
	After func(n int, action string) (lose bool)
}

// Process is a program that a client started.
type Process struct {
	Path, Line     string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Server is a listener.
type Server struct {
	*httptest.Server
	opts    Options
	door    *listener.Door
	program func(context.Context, *Process) int

	mu     sync.Mutex
	count  int
	seen   []string // actions
	clear  bool     // something came in clear text
	shells map[string]*shell
	made   int
	group  sync.WaitGroup
}

// Start starts one on 127.0.0.1, whose programs are a function. It ends with the test.
func Start(t testing.TB, opts *Options, program func(context.Context, *Process) int) *Server {
	t.Helper()
	s := &Server{opts: *opts, program: program, shells: map[string]*shell{}}
	if s.opts.Hold <= 0 {
		s.opts.Hold = 200 * time.Millisecond
	}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // tests end connections at will
	s.door = listener.New(listener.Options{User: opts.User, Password: opts.Password, TLS: opts.TLS, Basic: opts.Basic, Weak: opts.Weak})
	s.Config.ConnContext = s.door.Context
	if opts.ClientCA != nil {
		s.Server.TLS = opts.ClientCA
	}
	if opts.TLS {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.end)
	return s
}

func (s *Server) end() {
	s.mu.Lock()
	for _, sh := range s.shells {
		sh.close()
	}
	s.mu.Unlock()
	s.CloseClientConnections()
	s.Close()
	s.group.Wait()
}

// Addr is HOST:PORT.
func (s *Server) Addr() string { return s.Listener.Addr().String() }

// Shells are those that are open.
func (s *Server) Shells() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.shells)
}

// Count is how many messages came, Seen their actions.
func (s *Server) Count() int { s.mu.Lock(); defer s.mu.Unlock(); return s.count }

// Seen are the last words of the messages' actions.
func (s *Server) Seen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.seen...)
}

// Clear says that a message came unencrypted and without TLS.
func (s *Server) Clear() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.clear }

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	in := s.door.Enter(w, r)
	if in == nil {
		return
	}
	s.mu.Lock()
	s.clear = s.clear || in.Clear
	s.count++
	count := s.count
	s.mu.Unlock()
	e, err := parse(in.Message)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	action := e.Header.Action[strings.LastIndexByte(e.Header.Action, '/')+1:]
	s.mu.Lock()
	s.seen = append(s.seen, action)
	s.mu.Unlock()
	if s.opts.Before != nil && s.opts.Before(w, r, count, action) {
		return
	}
	status, answer := s.answer(e, action)
	if s.opts.After != nil && s.opts.After(count, action) {
		Cut(w)
		return
	}
	in.Answer(status, answer)
}

// Cut ends a connection without an answer.
func Cut(w http.ResponseWriter) { listener.Cut(w) }
