package winrmtest

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
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
	program func(context.Context, *Process) int

	mu     sync.Mutex
	count  int
	seen   []string // actions
	clear  bool     // something came in clear text
	shells map[string]*shell
	made   int
	group  sync.WaitGroup
}

type key struct{}

// Start starts one on 127.0.0.1, whose programs are a function. It ends with the test.
func Start(t testing.TB, opts *Options, program func(context.Context, *Process) int) *Server {
	t.Helper()
	s := &Server{opts: *opts, program: program, shells: map[string]*shell{}}
	if s.opts.Hold <= 0 {
		s.opts.Hold = 200 * time.Millisecond
	}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // tests end connections at will
	s.Config.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
		return context.WithValue(ctx, key{}, &ntlmServer{user: opts.User, password: opts.Password, flags: s.flags()})
	}
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

func (s *Server) flags() uint32 {
	if s.opts.Weak {
		return strongFlags &^ (1 << 5)
	}
	return strongFlags
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
	n := r.Context().Value(key{}).(*ntlmServer)
	body, err := io.ReadAll(io.LimitReader(r.Body, 600<<10))
	if err != nil {
		return
	}
	if !s.admit(w, r, n, body) {
		return
	}
	sealed := n.done && !s.opts.TLS
	message := body
	if sealed {
		if message, err = openParts(n, body); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
	}
	s.mu.Lock()
	s.clear = s.clear || !sealed && !s.opts.TLS
	s.count++
	count := s.count
	s.mu.Unlock()
	e, err := parse(message)
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
	w.Header().Set("Content-Type", "application/soap+xml;charset=UTF-8")
	if sealed {
		answer = sealParts(n, answer)
		w.Header().Set("Content-Type", `multipart/encrypted;protocol="application/HTTP-SPNEGO-session-encrypted";boundary="Encrypted Boundary"`)
	}
	w.WriteHeader(status)
	w.Write(answer)
}

// Cut ends a connection without an answer.
func Cut(w http.ResponseWriter) {
	c, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		c.Close()
	}
}

// admit lets a message through, or answers what logging on takes.
func (s *Server) admit(w http.ResponseWriter, r *http.Request, n *ntlmServer, body []byte) bool {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	blob, _ := base64.StdEncoding.DecodeString(token)
	refuse := func(offers ...string) bool {
		for _, o := range offers {
			w.Header().Add("WWW-Authenticate", o)
		}
		w.WriteHeader(http.StatusUnauthorized)
		return false
	}
	switch {
	case n.done:
		return true
	case r.TLS != nil && len(r.TLS.VerifiedChains) > 0:
		return strings.HasSuffix(r.Header.Get("Authorization"), "/secprofile/https/mutual") || refuse("Negotiate")
	case scheme == "Basic" && s.opts.Basic:
		account := string(blob[bytes.LastIndexByte(blob, '\\')+1:]) // with or without the machine's name
		return account == s.opts.User+":"+s.opts.Password || refuse("Negotiate", `Basic realm="WSMAN"`)
	case scheme == "Negotiate" && len(blob) > 12 && blob[8] == 1:
		return refuse("Negotiate " + base64.StdEncoding.EncodeToString(n.offer()))
	case scheme == "Negotiate":
		if n.accept(blob) != nil {
			return refuse("Negotiate")
		}
		if len(body) > 0 {
			return true
		}
		w.WriteHeader(http.StatusOK)
		return false
	}
	return refuse("Negotiate", "Kerberos")
}

const boundary = "--Encrypted Boundary"

func openParts(n *ntlmServer, body []byte) ([]byte, error) {
	parts := bytes.SplitN(body, []byte(boundary+"\r\n"), 3)
	if len(parts) != 3 || !bytes.Contains(parts[1], []byte("OriginalContent: type=application/soap+xml;charset=UTF-8;Length=")) {
		return nil, fmt.Errorf("parts")
	}
	_, data, ok := bytes.Cut(parts[2], []byte("Content-Type: application/octet-stream\r\n"))
	data, ended := bytes.CutSuffix(data, []byte(boundary+"--\r\n"))
	if !ok || !ended || len(data) < 20 || binary.LittleEndian.Uint32(data) != 16 {
		return nil, fmt.Errorf("octets")
	}
	return n.open(data[4:20], data[20:])
}

func sealParts(n *ntlmServer, message []byte) []byte {
	signature, sealed := n.seal(message)
	b := fmt.Appendf(nil, "%s\r\nContent-Type: application/HTTP-SPNEGO-session-encrypted\r\nOriginalContent: type=application/soap+xml;charset=UTF-8;Length=%d\r\n%s\r\nContent-Type: application/octet-stream\r\n",
		boundary, len(message), boundary)
	b = binary.LittleEndian.AppendUint32(b, 16)
	return append(append(append(b, signature...), sealed...), boundary+"--\r\n"...)
}
