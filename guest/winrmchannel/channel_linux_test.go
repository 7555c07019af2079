package winrmchannel

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/agent/wire"
	"github.com/hikae/hikae/guest/guesttest"
	"github.com/hikae/hikae/guest/winrmchannel/pwsh"
	"github.com/hikae/hikae/guest/winrmchannel/winrmtest"
	"github.com/stretchr/testify/require"
)

const secret = "pa55-of-the-guest"

var cred = guest.Credential{User: `WEB1\Administrator`, Password: secret}

func soon(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func base(o winrmtest.Options) *winrmtest.Options {
	o.User, o.Password = "Administrator", secret
	return &o
}

func thumb(s *winrmtest.Server) []string {
	sum := sha256.Sum256(s.Certificate().Raw)
	return []string{strings.ToUpper(hex.EncodeToString(sum[:]))}
}

// way is to a listener, trusted by its thumbprint where it has TLS.
func way(s *winrmtest.Server, o Options) *Way {
	if s.Server.TLS != nil && s.Certificate() != nil {
		if o.RootCAs == nil && o.Thumbprints == nil {
			o.Thumbprints = thumb(s)
		}
	} else {
		o.Plain = true
	}
	return New(s.Addr(), cred, &o)
}

func open(t testing.TB, w *Way) guest.Channel {
	t.Helper()
	c, err := w.Open(soon(t))
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// Each way to log on brings a component's worth of files in, reads them back, and takes them away; no message goes in clear
// text, and no shell stays.
func TestFiles(t *testing.T) {
	for name, c := range map[string]struct {
		server winrmtest.Options
		way    Options
	}{
		"NTLM over TLS":  {winrmtest.Options{TLS: true}, Options{}},
		"Basic over TLS": {winrmtest.Options{TLS: true, Basic: true}, Options{Basic: true}},
		"NTLM encrypted": {winrmtest.Options{}, Options{}},
	} {
		t.Run(name, func(t *testing.T) {
			w := winrmtest.NewWindows()
			s := winrmtest.Start(t, base(c.server), w.Run)
			ch := open(t, way(s, c.way))
			require.Equal(t, guest.WinRM, ch.Kind())
			require.Equal(t, "windows", ch.System().OS)
			require.True(t, ch.System().Admin)
			dir := `C:\Windows\Temp\it's $(calc) 100%`
			require.NoError(t, ch.MakeDir(soon(t), dir))
			require.ErrorIs(t, ch.MakeDir(soon(t), dir), fs.ErrExist)
			data := make([]byte, 300_000)
			rand.Read(data)
			start := time.Now()
			require.NoError(t, ch.Upload(soon(t), dir+`\a.exe`, data, 0o700))
			t.Logf("300000 bytes that do not compress, up in %v", time.Since(start))
			require.ErrorIs(t, ch.Upload(soon(t), dir+`\a.exe`, data, 0o700), fs.ErrExist)
			got, err := ch.Download(soon(t), dir+`\a.exe`, int64(len(data)))
			require.NoError(t, err)
			require.True(t, bytes.Equal(data, got))
			_, err = ch.Download(soon(t), dir+`\a.exe`, int64(len(data)-1))
			require.ErrorIs(t, err, errLong)
			_, err = ch.Download(soon(t), dir+`\none`, 1)
			require.ErrorIs(t, err, fs.ErrNotExist)
			require.NoError(t, ch.Upload(soon(t), dir+`\empty`, nil, 0))
			require.NoError(t, ch.Remove(soon(t), dir))
			require.Empty(t, w.Left())
			require.Zero(t, s.Shells())
			require.False(t, s.Clear())
			for _, text := range w.Ran() {
				require.NotContains(t, text, "calc")
				require.NotContains(t, text, secret)
			}
		})
	}
}

// program answers as a small program would.
func program(ctx context.Context, p *winrmtest.Process) int {
	switch {
	case strings.Contains(p.Path, "echo"):
		io.Copy(p.Stdout, p.Stdin)
		fmt.Fprint(p.Stderr, p.Line)
		return 42
	case strings.Contains(p.Path, "endless"):
		for b := make([]byte, 30_000); ; {
			if _, err := p.Stdout.Write(b); err != nil {
				return 1
			}
		}
	case strings.Contains(p.Path, "much"):
		p.Stdout.Write(bytes.Repeat([]byte("o"), 1<<20))
		p.Stderr.Write(bytes.Repeat([]byte("e"), 1<<20+1))
		return -1
	case strings.Contains(p.Path, "deaf"):
		return 0
	}
	<-ctx.Done()
	return 1
}

func other() *winrmtest.Windows {
	w := winrmtest.NewWindows()
	w.Other = program
	return w
}

func TestRun(t *testing.T) {
	s := winrmtest.Start(t, base(winrmtest.Options{}), other().Run)
	ch := open(t, way(s, Options{}))
	in := make([]byte, 300_000)
	rand.Read(in)
	r, err := ch.Run(soon(t), `C:\echo.exe`, []string{`a b`, `c"d`, `e\`, `f g\`, "", "&calc", "<x>"}, in)
	require.NoError(t, err)
	require.True(t, bytes.Equal(in, r.Stdout))
	require.Equal(t, `"a b" "c\"d" e\ "f g\\" "" &calc <x>`, string(r.Stderr))
	require.Equal(t, 42, r.ExitCode)
	require.False(t, r.Truncated)

	r, err = ch.Run(soon(t), `C:\much.exe`, nil, nil)
	require.NoError(t, err)
	require.Len(t, r.Stdout, maxStream)
	require.Len(t, r.Stderr, maxStream)
	require.True(t, r.Truncated)
	require.Equal(t, -1, r.ExitCode)

	r, err = ch.Run(soon(t), `C:\deaf.exe`, nil, in)
	require.NoError(t, err)
	require.Equal(t, 0, r.ExitCode)
	require.Zero(t, s.Shells())

	for _, bad := range []string{"", "calc", `\x`, `C:`, "C:\\a\x00", `C:\a"b`, `\\h\x`} {
		_, err := ch.Run(soon(t), bad, nil, nil)
		require.ErrorIs(t, err, errProgram, bad)
	}
	_, err = ch.Run(soon(t), `C:\x`, []string{strings.Repeat("x", 40_000)}, nil)
	require.Error(t, err)
}

// At the deadline the remote shell is deleted, whether the program is silent or prints without end.
func TestRunDeadline(t *testing.T) {
	s := winrmtest.Start(t, base(winrmtest.Options{TLS: true, Hold: 10 * time.Second}), other().Run)
	ch := open(t, way(s, Options{}))
	for _, path := range []string{`C:\silent.exe`, `C:\endless.exe`} {
		ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
		start := time.Now()
		_, err := ch.Run(ctx, path, nil, nil)
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Less(t, time.Since(start), 5*time.Second)
		require.Zero(t, s.Shells())
	}
}

// A listener that is cut off at any message, before or after it has served it, leaves an error that says so, and no shell
// but one whose making was never answered, which ends by itself.
func TestCutEverywhere(t *testing.T) {
	for _, after := range []bool{false, true} {
		var at atomic.Int64
		var lost atomic.Bool
		o := base(winrmtest.Options{})
		o.Before = func(w http.ResponseWriter, _ *http.Request, n int, _ string) bool {
			cut := !after && int64(n) == at.Load()
			if cut {
				winrmtest.Cut(w)
			}
			return cut
		}
		o.After = func(n int, action string) bool {
			cut := after && int64(n) == at.Load()
			if cut && action == "Create" {
				lost.Store(true)
			}
			return cut
		}
		w := other()
		s := winrmtest.Start(t, o, w.Run)
		ch := open(t, way(s, Options{}))
		failures := 0
		for step := 1; step < 9; step++ {
			at.Store(int64(s.Count() + step))
			lost.Store(false)
			shells := s.Shells()
			_, err := ch.Run(soon(t), `C:\echo.exe`, nil, []byte("x"))
			if err != nil {
				failures++
				require.NotContains(t, err.Error(), secret)
				var way *guest.WayError
				require.ErrorAs(t, err, &way)
			}
			if lost.Load() {
				shells++
			}
			require.Equal(t, shells, s.Shells(), "step %d", step)
		}
		require.GreaterOrEqual(t, failures, 3)
	}
}

// A component's frames go over the standard streams of a program in a remote shell, both ways at once.
func TestLaunch(t *testing.T) {
	agent := guesttest.Agents(t) + "/linux-amd64/hikae-agent"
	if _, err := os.Stat(agent); err != nil {
		t.Skip("no component for this system was built")
	}
	dir := t.TempDir() + "/hikae-" + strings.ToLower(rand.Text())
	require.NoError(t, os.Mkdir(dir, 0o700))
	b, err := os.ReadFile(agent)
	require.NoError(t, err)
	agent = dir + "/hikae-agent"
	require.NoError(t, os.WriteFile(agent, b, 0o700))
	w := winrmtest.NewWindows()
	w.Other = func(ctx context.Context, p *winrmtest.Process) int {
		if !strings.HasSuffix(p.Line, `serve --dir "C:\Windows\Temp\hikae x"`) {
			fmt.Fprint(p.Stderr, p.Line)
			return 1
		}
		cmd := exec.CommandContext(ctx, agent, "serve", "--dir", dir)
		in, err := cmd.StdinPipe()
		if err != nil {
			return 1
		}
		cmd.Stdout, cmd.Stderr, cmd.WaitDelay = p.Stdout, p.Stderr, time.Second
		if cmd.Start() != nil {
			return 1
		}
		go func() {
			io.Copy(in, p.Stdin)
			in.Close()
		}()
		cmd.Wait()
		return cmd.ProcessState.ExitCode()
	}
	s := winrmtest.Start(t, base(winrmtest.Options{}), w.Run)
	ch := open(t, way(s, Options{}))
	start := time.Now()
	c, err := guest.Connect(soon(t), ch, guest.Program{Path: `C:\Windows\Temp\hikae x\hikae-agent.exe`, Name: "hikae-x"}, nil)
	require.NoError(t, err)
	t.Logf("component answering after %v", time.Since(start))
	_, err = c.Inspect(soon(t), wire.InspectArgs{})
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.Zero(t, s.Shells())
	require.False(t, s.Clear())
}

// A program that ends at once says why.
func TestLaunchFails(t *testing.T) {
	w := winrmtest.NewWindows()
	s := winrmtest.Start(t, base(winrmtest.Options{}), w.Run)
	ch := open(t, way(s, Options{}))
	stream, err := guest.Stream(soon(t), ch, guest.Program{Path: `C:\none\hikae-agent.exe`})
	require.NoError(t, err)
	_, err = io.ReadAll(stream)
	require.NoError(t, err)
	require.ErrorContains(t, stream.(interface{ Err() error }).Err(), "not found")
	require.NoError(t, stream.Close())
	require.Zero(t, s.Shells())
}

// A way that is closed says at which step, and what to change.
func TestProbe(t *testing.T) {
	status := func(code int) func(http.ResponseWriter, *http.Request, int, string) bool {
		return func(w http.ResponseWriter, _ *http.Request, _ int, _ string) bool {
			w.WriteHeader(code)
			return true
		}
	}
	answer := func(kind string, code int, body []byte) func(http.ResponseWriter, *http.Request, int, string) bool {
		return func(w http.ResponseWriter, _ *http.Request, _ int, _ string) bool {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(code)
			w.Write(body)
			return true
		}
	}
	const soap = "application/soap+xml;charset=UTF-8"
	wrong := guest.Credential{User: "Administrator", Password: "other"}
	refused, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	refused.Close()
	for name, c := range map[string]struct {
		server  winrmtest.Options
		way     Options
		cred    guest.Credential
		addr    string
		step    string
		hint    string
		problem string
	}{
		"password":      {server: winrmtest.Options{TLS: true}, cred: wrong, step: "login", hint: "password"},
		"sealed":        {cred: wrong, step: "login", hint: "password"},
		"basic off":     {server: winrmtest.Options{TLS: true}, way: Options{Basic: true}, cred: cred, step: "login", hint: "Basic is for local accounts"},
		"weak":          {server: winrmtest.Options{Weak: true}, cred: cred, step: "login", problem: "weak"},
		"forbidden":     {server: winrmtest.Options{TLS: true, Before: status(403)}, cred: cred, step: "rights", hint: "Remote Management Users"},
		"other":         {server: winrmtest.Options{TLS: true, Before: status(404)}, cred: cred, step: "connect", hint: "something else"},
		"off":           {server: winrmtest.Options{TLS: true, Before: status(503)}, cred: cred, step: "connect", hint: "start it"},
		"denied":        {server: winrmtest.Options{TLS: true, Before: answer(soap, 500, winrmtest.Fault("AccessDenied", 5, "Access is denied."))}, cred: cred, step: "rights", hint: "LocalAccountTokenFilterPolicy"},
		"quota":         {server: winrmtest.Options{TLS: true, Before: answer(soap, 500, winrmtest.Fault("QuotaLimit", 2150859173, "too many"))}, cred: cred, step: "quota", hint: "MaxShellsPerUser"},
		"kind":          {server: winrmtest.Options{TLS: true, Before: answer("text/html", 200, []byte("<html>"))}, cred: cred, step: "link", problem: "content type"},
		"clear":         {server: winrmtest.Options{Before: answer(soap, 200, []byte("<x/>"))}, cred: cred, step: "link", problem: "clear text"},
		"no XML":        {server: winrmtest.Options{TLS: true, Before: answer(soap, 200, []byte("\x00"))}, cred: cred, step: "link", problem: "malformed"},
		"huge":          {server: winrmtest.Options{TLS: true, Before: answer(soap, 200, bytes.Repeat([]byte("<a>"), 500_000))}, cred: cred, step: "link", problem: "more than"},
		"refused":       {addr: refused.Addr().String(), cred: cred, step: "connect", hint: "quickconfig"},
		"certificate":   {server: winrmtest.Options{TLS: true}, way: Options{RootCAs: x509.NewCertPool()}, cred: cred, step: "certificate", hint: "authority"},
		"thumbprint":    {server: winrmtest.Options{TLS: true}, way: Options{Thumbprints: []string{"00"}}, cred: cred, step: "certificate", hint: "thumbprint"},
		"managed":       {cred: guest.Credential{User: "x", ManagedAccount: true}, step: "login", hint: "proxy"},
		"clear basic":   {way: Options{Basic: true}, cred: cred, step: "login", hint: "TLS"},
		"kerberos":      {cred: guest.Credential{User: "x", Password: secret, KerberosOnly: true}, step: "login", hint: "name"},
		"kerberos addr": {server: winrmtest.Options{TLS: true}, cred: guest.Credential{User: "x", Realm: "R"}, step: "login", hint: "name"},
	} {
		t.Run(name, func(t *testing.T) {
			s := winrmtest.Start(t, base(c.server), winrmtest.NewWindows().Run)
			w := way(s, c.way)
			if w.cred = c.cred; c.addr != "" {
				w.addr = c.addr
			}
			f := w.Probe(soon(t))
			require.False(t, f.Open)
			require.Equal(t, c.step, f.Step, f)
			require.Contains(t, f.Hint, c.hint)
			require.Contains(t, f.Problem, c.problem)
			require.NotContains(t, fmt.Sprintf("%+v %v", f, f.Err()), secret)
			require.False(t, s.Clear())
			require.Zero(t, s.Shells())
		})
	}
}

// A client certificate logs on in place of a password.
func TestClientCertificate(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	form := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	raw, err := x509.CreateCertificate(rand.Reader, form, form, public, private)
	require.NoError(t, err)
	mine := tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: private}
	pool := x509.NewCertPool()
	cert, err := x509.ParseCertificate(raw)
	require.NoError(t, err)
	pool.AddCert(cert)
	ca := &tls.Config{ClientCAs: pool, ClientAuth: tls.VerifyClientCertIfGiven}
	s := winrmtest.Start(t, base(winrmtest.Options{TLS: true, ClientCA: ca}), winrmtest.NewWindows().Run)
	w := New(s.Addr(), guest.Credential{}, &Options{Thumbprints: thumb(s), Certificates: []tls.Certificate{mine}})
	f := w.Probe(soon(t))
	require.True(t, f.Open, f)
}

// No domain controller that answers is told as what it is, and waits no longer than the context.
func TestKerberosNobody(t *testing.T) {
	s := winrmtest.Start(t, base(winrmtest.Options{TLS: true}), winrmtest.NewWindows().Run)
	_, port, err := net.SplitHostPort(s.Addr())
	require.NoError(t, err)
	c := guest.Credential{User: "u@EXAMPLE.ORG", Password: secret, KerberosOnly: true, KDCs: []string{"127.0.0.1:1"}}
	f := New("localhost:"+port, c, &Options{Thumbprints: thumb(s)}).Probe(soon(t))
	require.Equal(t, "login", f.Step, f)
	require.Contains(t, f.Problem, "Kerberos")
	require.NotContains(t, f.Err().Error(), secret)
	require.Zero(t, s.Count())
}

func TestProbeOpen(t *testing.T) {
	w := winrmtest.NewWindows()
	w.NotAdmin = true
	s := winrmtest.Start(t, base(winrmtest.Options{}), w.Run)
	f := way(s, Options{}).Probe(soon(t))
	require.True(t, f.Open, f)
	require.Equal(t, "rights", f.Step)
	require.Equal(t, "WEB1", f.System.Name)
}

// Whoever takes a connection and then says nothing, or only a little at a time, costs what the context allows.
func TestSlow(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	for _, plain := range []bool{true, false} {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		start := time.Now()
		f := New(l.Addr().String(), cred, &Options{Plain: plain}).Probe(ctx)
		cancel()
		require.False(t, f.Open)
		require.Less(t, time.Since(start), 3*time.Second)
	}
	s := winrmtest.Start(t, base(winrmtest.Options{TLS: true, Before: func(w http.ResponseWriter, r *http.Request, _ int, _ string) bool {
		w.Header().Set("Content-Type", "application/soap+xml")
		for i := 0; i < 200; i++ {
			if _, err := w.Write([]byte("<")); err != nil || r.Context().Err() != nil {
				return true
			}
			w.(http.Flusher).Flush()
			time.Sleep(10 * time.Millisecond)
		}
		return true
	}}), winrmtest.NewWindows().Run)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	f := way(s, Options{}).Probe(ctx)
	require.False(t, f.Open)
	require.Less(t, time.Since(start), 3*time.Second)
}

// Scripts fit into a command line with the longest path that Windows takes.
func TestScriptsFit(t *testing.T) {
	for _, text := range []string{uploadScript, downloadScript} {
		_, err := pwsh.Args(text, strings.Repeat("x", 260), strings.Repeat("0", 64))
		require.NoError(t, err)
	}
}
