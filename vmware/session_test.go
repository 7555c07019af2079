package vmware

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// front stands before govmomi's simulator: it counts calls, and can get in their way.
type front struct {
	*httptest.Server
	model *simulator.Model

	mu    sync.Mutex
	calls map[string]int
	hook  func(w http.ResponseWriter, call string, nth int) (done bool)
	after func(call string, nth int, answer *httptest.ResponseRecorder)
}

var soapCall = regexp.MustCompile(`<(?:[\w-]+:)?Body[^>]*>\s*<(?:[\w-]+:)?(\w+)`)

func newFront(t *testing.T, model *simulator.Model) *front {
	t.Helper()
	require.NoError(t, model.Create())
	model.Service.TLS = new(tls.Config)
	model.Service.Listen = &url.URL{User: url.UserPassword("operator", "secret")}
	model.Service.RegisterEndpoints = true
	inner := model.Service.NewServer()
	f := &front{model: model, calls: map[string]int{}}
	f.Server = httptest.NewUnstartedServer(http.HandlerFunc(f.serve))
	f.Server.Config.ErrorLog = log.New(io.Discard, "", 0)
	f.StartTLS()
	t.Cleanup(func() {
		f.CloseClientConnections()
		f.Server.Close()
		inner.Close()
		model.Remove()
	})
	return f
}

func (f *front) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	call := r.URL.Path
	if m := soapCall.FindSubmatch(body); m != nil {
		call = string(m[1])
	}
	f.mu.Lock()
	f.calls[call]++
	nth, hook, after := f.calls[call], f.hook, f.after
	f.mu.Unlock()
	if hook != nil && hook(w, call, nth) {
		return
	}
	answer := httptest.NewRecorder()
	f.model.Service.ServeMux.ServeHTTP(answer, r)
	if after != nil {
		after(call, nth, answer)
	}
	for k, v := range answer.Header() {
		w.Header()[k] = v
	}
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

func (f *front) on(hook func(w http.ResponseWriter, call string, nth int) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook, f.calls = hook, map[string]int{}
}

func (f *front) count(call string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[call]
}

func (f *front) url() *url.URL {
	u, _ := url.Parse(f.Server.URL)
	return &url.URL{Scheme: "https", Host: u.Host, Path: "/sdk"}
}

func (f *front) pin() string { return colons(thumbprintOf(f.Certificate(), 32)) }

func (f *front) connect(t *testing.T, opts ConnectOptions) *Client {
	t.Helper()
	if opts.Thumbprint == "" && opts.CAFile == "" {
		opts.Thumbprint = f.pin()
	}
	c, err := Connect(t.Context(), f.url(), Login{User: "operator", Password: "secret"}, &opts)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, c.Close(context.Background())) })
	return c
}

// forget ends the session at the server's side.
func (f *front) forget(t *testing.T, c *Client) {
	t.Helper()
	body := methods.LogoutBody{Req: &types.Logout{This: *c.vim.ServiceContent.SessionManager}}
	require.NoError(t, c.vim.Client.RoundTrip(t.Context(), &body, &body))
}

func (c *Client) someVM(t *testing.T) types.ManagedObjectReference {
	t.Helper()
	found, err := c.Find(t.Context(), Selection{})
	require.NoError(t, err)
	require.NotEmpty(t, found)
	return found[0].Ref
}

func small() *simulator.Model {
	m := simulator.VPX()
	m.Host, m.Cluster, m.ClusterHost, m.Machine = 0, 1, 1, 1
	return m
}

func TestTrust(t *testing.T) {
	f := newFront(t, small())
	ca := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw}), 0o600))
	sha1 := colons(thumbprintOf(f.Certificate(), 20))
	for name, opts := range map[string]ConnectOptions{
		"SHA-256": {Thumbprint: f.pin()}, "SHA-1": {Thumbprint: sha1}, "CA": {CAFile: ca},
		"lower case, no colons": {Thumbprint: fmt.Sprintf("%x", thumbprintOf(f.Certificate(), 32))},
	} {
		t.Run(name, func(t *testing.T) { f.connect(t, opts) })
	}
	who := Login{User: "operator", Password: "secret"}
	before := f.count("RetrieveServiceContent")

	_, err := Connect(t.Context(), f.url(), who, nil)
	var untrusted *UntrustedError
	require.ErrorAs(t, err, &untrusted)
	assert.Equal(t, f.pin(), untrusted.Thumbprint)
	assert.ErrorContains(t, err, f.url().Host)

	other := "00" + f.pin()[2:]
	// A trusted certificate does not make up for a thumbprint that is another's.
	_, err = Connect(t.Context(), f.url(), who, &ConnectOptions{Thumbprint: other, CAFile: ca})
	var wrong *ThumbprintError
	require.ErrorAs(t, err, &wrong)
	assert.Equal(t, f.pin(), wrong.Got)
	assert.Equal(t, other, wrong.Want)

	for _, bad := range []ConnectOptions{{Thumbprint: "AB:CD"}, {Thumbprint: f.pin() + ":00"}, {CAFile: os.Args[0]}, {CAFile: filepath.Join(t.TempDir(), "none")}} {
		_, err = Connect(t.Context(), f.url(), who, &bad)
		assert.True(t, errors.Is(err, fs.ErrInvalid) || errors.Is(err, fs.ErrNotExist), "%v", err)
	}
	assert.Equal(t, before, f.count("RetrieveServiceContent"), "nothing was sent to whom is not trusted")
}

// Another host is trusted by the thumbprint that the server told, and the server itself never by such a one.
func TestTrustOfOtherHosts(t *testing.T) {
	f := newFront(t, small())
	host := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "content") }))
	defer host.Close()
	at := host.Listener.Addr().String()
	c := f.connect(t, ConnectOptions{})

	get := func() error {
		res, err := c.HTTP().Get("https://" + at + "/x")
		if err == nil {
			res.Body.Close()
		}
		return err
	}
	require.Error(t, get())
	c.Vim().SetThumbprint(at, colons(make([]byte, 20)))
	var wrong *ThumbprintError
	require.ErrorAs(t, get(), &wrong)
	// httptest has one certificate for all its servers, so that the thumbprint by SHA-1, as leases have it, is of both.
	c.Vim().SetThumbprint(at, colons(thumbprintOf(host.Certificate(), 20)))
	require.NoError(t, get())

	c.Vim().SetThumbprint(f.url().Host, colons(make([]byte, 20)))
	c.Vim().CloseIdleConnections()
	_, err := methods.GetCurrentTime(t.Context(), c.Vim())
	require.NoError(t, err)
}

func TestRedirectsAreNotFollowedElsewhere(t *testing.T) {
	f := newFront(t, small())
	got := make(chan string, 1)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got <- r.URL.Path }))
	defer elsewhere.Close()
	f.on(func(w http.ResponseWriter, call string, _ int) bool {
		if call != "/folder/x" && call != "CurrentTime" {
			return false
		}
		w.Header().Set("Location", elsewhere.URL+"/stolen")
		w.WriteHeader(http.StatusFound)
		return true
	})
	c := f.connect(t, ConnectOptions{})
	_, err := c.HTTP().Get("https://" + f.url().Host + "/folder/x")
	require.ErrorContains(t, err, "nobody follows")
	_, err = methods.GetCurrentTime(t.Context(), c.Vim())
	require.ErrorContains(t, err, "nobody follows")
	assert.Empty(t, got)
}

func TestLogin(t *testing.T) {
	f := newFront(t, small())
	opts := &ConnectOptions{Thumbprint: f.pin()}
	for _, none := range []Login{{}, {User: "u", Token: "t"}, {Session: "a;b"}, {Session: "line\nfeed"}} {
		_, err := Connect(t.Context(), f.url(), none, opts)
		assert.ErrorIs(t, err, fs.ErrInvalid)
	}
	_, err := Connect(t.Context(), &url.URL{Scheme: "https", Path: "/sdk"}, Login{User: "u"}, opts)
	require.ErrorIs(t, err, fs.ErrInvalid)

	_, err = Connect(t.Context(), f.url(), Login{User: "operator", Password: "wrong"}, opts)
	require.Error(t, err)
	assert.True(t, IsFault[*types.InvalidLogin](err), "%v", err)
	assert.ErrorContains(t, err, "operator")
	assert.NotContains(t, err.Error(), "wrong")
	for _, text := range []string{fmt.Sprint(Login{User: "u", Password: "hush"}), fmt.Sprintf("%+v %#v", Login{User: "u", Password: "hush"}, Login{User: "u", Password: "hush"})} {
		assert.NotContains(t, text, "hush")
	}

	// A token goes the same way, as far as a simulator without single sign-on looks at it.
	token := `<saml2:Assertion xmlns:saml2="urn:oasis:names:tc:SAML:2.0:assertion" ID="_1"><saml2:Subject><saml2:NameID>operator</saml2:NameID></saml2:Subject></saml2:Assertion>`
	c, err := Connect(t.Context(), f.url(), Login{Token: token}, opts)
	require.NoError(t, err)
	f.forget(t, c)
	_, err = c.Find(t.Context(), Selection{})
	require.NoError(t, err, "logged in again")
	require.NoError(t, c.Close(t.Context()))
	assert.Equal(t, 2, f.count("LoginByToken"))
}

func TestSessionThatWasLent(t *testing.T) {
	f := newFront(t, small())
	owner := f.connect(t, ConnectOptions{})
	cookie := owner.Vim().SessionCookie().Value
	f.on(nil)
	c, err := Connect(t.Context(), f.url(), Login{Session: cookie}, &ConnectOptions{Thumbprint: f.pin()})
	require.NoError(t, err)
	_, err = c.Find(t.Context(), Selection{})
	require.NoError(t, err)
	require.NoError(t, c.Close(t.Context()))
	assert.Zero(t, f.count("Logout"), "it is somebody else's")
	_, err = owner.Find(t.Context(), Selection{})
	require.NoError(t, err)

	c, err = Connect(t.Context(), f.url(), Login{Session: cookie}, &ConnectOptions{Thumbprint: f.pin()})
	require.NoError(t, err)
	f.forget(t, owner)
	for range 2 {
		_, err = c.Find(t.Context(), Selection{})
		require.ErrorIs(t, err, ErrSessionLost)
	}
	require.NoError(t, c.Close(t.Context()))
	_, err = Connect(t.Context(), f.url(), Login{Session: "no-such-session"}, &ConnectOptions{Thumbprint: f.pin()})
	require.ErrorIs(t, err, ErrSessionLost)
}

// Whoever finds the session lost waits for one login, and has the answer.
func TestLoginAgainOnce(t *testing.T) {
	f := newFront(t, small())
	c := f.connect(t, ConnectOptions{})
	vm := c.someVM(t)
	for range 3 {
		f.forget(t, c)
		f.on(nil)
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				var m mo.VirtualMachine
				if assert.NoError(t, c.properties(context.Background(), vm, []string{"name"}, &m)) {
					assert.NotEmpty(t, m.Name)
				}
			})
		}
		wg.Wait()
		assert.Equal(t, 1, f.count("Login"))
	}

	// A task is asked for once more too: a call without a session certainly did nothing.
	f.forget(t, c)
	res, err := methods.CreateSnapshot_Task(t.Context(), c.Vim(), &types.CreateSnapshot_Task{This: vm, Name: "one"})
	require.NoError(t, err)
	_, err = c.Wait(t.Context(), res.Returnval)
	require.NoError(t, err)
	var m mo.VirtualMachine
	require.NoError(t, c.properties(t.Context(), vm, []string{"snapshot"}, &m))
	assert.Len(t, m.Snapshot.RootSnapshotList, 1)
}

// A login that is refused is not tried again by each of many calls, which would lock the account.
func TestLoginIsNotRepeatedForEver(t *testing.T) {
	f := newFront(t, small())
	c := f.connect(t, ConnectOptions{})
	c.login.mu.Lock()
	c.login.who.Password = "changed meanwhile"
	c.login.mu.Unlock()
	f.forget(t, c)
	f.on(nil)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			_, err := c.Find(context.Background(), Selection{})
			assert.True(t, IsFault[*types.InvalidLogin](err), "%v", err)
		})
	}
	wg.Wait()
	assert.Equal(t, 1, f.count("Login"))

	// It is not final: after a while it is tried again, and after each refusal the while is longer.
	later := func() (waited time.Duration) {
		c.login.mu.Lock()
		defer c.login.mu.Unlock()
		c.login.until = time.Now()
		return c.login.deaf
	}
	assert.Equal(t, firstDeaf, later())
	for range 8 {
		_, err := c.Find(t.Context(), Selection{})
		assert.True(t, IsFault[*types.InvalidLogin](err), "%v", err)
	}
	assert.Equal(t, 2, f.count("Login"))
	assert.Equal(t, moreDeaf*firstDeaf, later())
	c.login.mu.Lock()
	c.login.who.Password = "secret"
	c.login.mu.Unlock()
	_, err := c.Find(t.Context(), Selection{})
	require.NoError(t, err)
	assert.Equal(t, 3, f.count("Login"))
	assert.Zero(t, later())
}

func TestCallsThatAreMadeAgain(t *testing.T) {
	f := newFront(t, small())
	c := f.connect(t, ConnectOptions{})
	vm := c.someVM(t)
	unready := func(status int, of string, times int) func(http.ResponseWriter, string, int) bool {
		return func(w http.ResponseWriter, call string, nth int) bool {
			if call != of || nth > times {
				return false
			}
			if status == 0 { // the connection goes
				conn, _, err := http.NewResponseController(w).Hijack()
				if err == nil {
					conn.Close()
				}
				return true
			}
			w.WriteHeader(status)
			return true
		}
	}
	ask := func() error {
		var m mo.VirtualMachine
		return c.properties(t.Context(), vm, []string{"name"}, &m)
	}
	for _, status := range []int{http.StatusServiceUnavailable, http.StatusBadGateway, 0} {
		f.on(unready(status, "RetrievePropertiesEx", 2))
		require.NoError(t, ask(), status)
		assert.Equal(t, 3, f.count("RetrievePropertiesEx"))
	}
	f.on(unready(http.StatusForbidden, "RetrievePropertiesEx", 9))
	err := ask()
	var no *StatusError
	require.ErrorAs(t, err, &no)
	assert.ErrorContains(t, err, "RetrievePropertiesEx")
	assert.Equal(t, 1, f.count("RetrievePropertiesEx"), "there is no use in asking again")

	// A task whose answer was lost may have begun.
	for _, status := range []int{http.StatusServiceUnavailable, 0} {
		f.on(unready(status, "CreateSnapshot_Task", 1))
		_, err = methods.CreateSnapshot_Task(t.Context(), c.Vim(), &types.CreateSnapshot_Task{This: vm, Name: "x"})
		require.ErrorContains(t, err, "CreateSnapshot_Task")
		assert.False(t, isAnswer(err))
		assert.Equal(t, 1, f.count("CreateSnapshot_Task"))
	}
	f.on(nil)

	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	f.on(unready(http.StatusServiceUnavailable, "RetrievePropertiesEx", 1000))
	var m mo.VirtualMachine
	require.ErrorIs(t, c.properties(ctx, vm, []string{"name"}, &m), context.DeadlineExceeded)
	f.on(nil)
}

func TestDeadServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	at := l.Addr().String()
	require.NoError(t, l.Close())
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err = Connect(ctx, &url.URL{Host: at}, Login{User: "u"}, &ConnectOptions{})
	require.ErrorContains(t, err, at)

	// One that takes the connection and says nothing.
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer mute.Close()
	ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = Connect(ctx, &url.URL{Host: mute.Addr().String()}, Login{User: "u"}, nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestAnswersThatAreNone(t *testing.T) {
	f := newFront(t, small())
	for _, answer := range []string{"", "hello", "<a/>", `<Envelope><Body><RetrieveServiceContentResponse><returnval><about/></returnval></RetrieveServiceContentResponse></Body></Envelope>`} {
		f.on(func(w http.ResponseWriter, _ string, _ int) bool { fmt.Fprint(w, answer); return true })
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		_, err := Connect(ctx, f.url(), Login{User: "u"}, &ConnectOptions{Thumbprint: f.pin()})
		cancel()
		require.Error(t, err, answer)
	}
	body := &boundedBody{ReadCloser: io.NopCloser(bytes.NewReader(make([]byte, 100))), left: 60}
	n, err := io.Copy(io.Discard, body)
	assert.EqualValues(t, 60, n)
	require.Error(t, err)
}

func TestCallTimeout(t *testing.T) {
	f := newFront(t, small())
	release := make(chan struct{})
	c := f.connect(t, ConnectOptions{CallTimeout: 2 * time.Second})
	vm := c.someVM(t)
	c.opts.CallTimeout = 100 * time.Millisecond
	f.on(func(_ http.ResponseWriter, call string, _ int) bool {
		if call == "CreateSnapshot_Task" {
			<-release
		}
		return call == "CreateSnapshot_Task"
	})
	_, err := methods.CreateSnapshot_Task(t.Context(), c.Vim(), &types.CreateSnapshot_Task{This: vm, Name: "x"})
	close(release)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	assert.NotErrorIs(t, err, context.DeadlineExceeded, "it is not the caller's time that is up")
	c.opts.CallTimeout = time.Minute
}

// A server forgets a session that is silent; keeping it alive finds out in any case, and before a call that matters does.
func TestKeepAlive(t *testing.T) {
	f := newFront(t, small())
	c := f.connect(t, ConnectOptions{KeepAlive: 20 * time.Millisecond})
	f.on(nil)
	require.Eventually(t, func() bool { return f.count("RetrieveProperties") > 2 }, 5*time.Second, 5*time.Millisecond)
	f.forget(t, c)
	require.Eventually(t, func() bool { return f.count("Login") == 1 }, 5*time.Second, 5*time.Millisecond)
}

func TestClose(t *testing.T) {
	f := newFront(t, small())
	c := f.connect(t, ConnectOptions{KeepAlive: time.Millisecond})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	f.on(nil)
	require.NoError(t, c.Close(gone), "also by one who is in a hurry")
	require.NoError(t, c.Close(gone))
	assert.Equal(t, 1, f.count("Logout"))
	_, err := c.Find(t.Context(), Selection{})
	require.ErrorIs(t, err, net.ErrClosed)
	assert.Zero(t, f.count("Login"))

	c = f.connect(t, ConnectOptions{})
	f.forget(t, c)
	require.NoError(t, c.Close(t.Context()), "the server did that already")
}

func TestFaultsOfCalls(t *testing.T) {
	err := fmt.Errorf("outer: %w", &TaskError{Name: "CreateSnapshot_Task", Object: "web1", Text: "no", Fault: &types.ApplicationQuiesceFault{}})
	assert.True(t, IsFault[*types.ApplicationQuiesceFault](err))
	assert.False(t, IsFault[*types.NoPermission](err))
	assert.Equal(t, "outer: CreateSnapshot_Task of web1: no (ApplicationQuiesceFault)", err.Error())
	f, ok := AsFault[*types.NotAuthenticated](soap.WrapVimFault(&types.NotAuthenticated{}))
	assert.True(t, ok && f != nil)
	assert.Equal(t, "X: it failed", (&TaskError{Name: "X"}).Error())
}

// A handshake that is cut short carried no request: any call may be made again, a task too.
func TestCutHandshakeIsTriedAgain(t *testing.T) {
	f := newFront(t, small())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	var served sync.WaitGroup
	defer served.Wait()
	defer l.Close()
	served.Go(func() {
		for cut := 0; ; cut++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if cut%3 == 1 {
				conn.Close()
				continue
			}
			served.Go(func() {
				defer conn.Close()
				to, err := net.Dial("tcp", f.url().Host)
				if err != nil {
					return
				}
				defer to.Close()
				served.Go(func() { _, _ = io.Copy(to, conn); to.Close() })
				_, _ = io.Copy(conn, to)
			})
		}
	})
	c, err := Connect(t.Context(), &url.URL{Host: l.Addr().String()}, Login{User: "operator", Password: "secret"}, &ConnectOptions{Thumbprint: f.pin()})
	require.NoError(t, err)
	vm := c.someVM(t)
	c.Vim().CloseIdleConnections() // the next one is cut
	res, err := methods.CreateSnapshot_Task(t.Context(), c.Vim(), &types.CreateSnapshot_Task{This: vm, Name: "one"})
	require.NoError(t, err)
	_, err = c.Wait(t.Context(), res.Returnval)
	require.NoError(t, err)
	assert.Equal(t, 1, f.count("CreateSnapshot_Task"))
	require.NoError(t, c.Close(t.Context()))
}
