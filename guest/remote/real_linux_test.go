package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/agent/wire"
	"github.com/hikae/hikae/guest/guesttest"
	"github.com/hikae/hikae/guest/sshchannel"
	"github.com/hikae/hikae/pipe/mover"
	"github.com/hikae/hikae/pipe/mover/trust"
)

func init() { cleanUp = guesttest.RemoveAgents }

// sshSettings are what our proxies in tests are told of a guest by SSH.
type sshSettings struct {
	Address    string `json:"address"`
	KnownHosts string `json:"knownHosts"`
}

// sshWays reach guests through a forwarder, where there is one.
func sshWays(dial func(context.Context, string, string) (net.Conn, error)) Ways {
	return Ways{guest.SSH: func(settings json.RawMessage, c guest.Credential) (guest.Way, error) {
		s := sshSettings{}
		if err := json.Unmarshal(settings, &s); err != nil {
			return nil, err
		}
		return sshchannel.New(s.Address, c, &sshchannel.Options{KnownHosts: []string{s.KnownHosts}, Dial: dial}), nil
	}}
}

// realProxy is a proxy on a port of its own, over TLS, and a client that enrolled there by a token.
func realProxy(t *testing.T, o *ServerOptions) *Client {
	t.Helper()
	dir := t.TempDir()
	book, err := trust.OpenBook(dir)
	require.NoError(t, err)
	id, err := trust.LoadIdentity(dir)
	require.NoError(t, err)
	o.Journal, err = hikae.OpenFileJournal(t.TempDir())
	require.NoError(t, err)
	s, err := NewServer(o)
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, l, s, &ServeOptions{Identity: id, Book: book, Version: "test"}) }()

	token, err := book.AddToken(id.Pin(), "controller", trust.Guest, time.Hour)
	require.NoError(t, err)
	own, err := trust.NewIdentity()
	require.NoError(t, err)
	_, err = mover.Enrol(t.Context(), l.Addr().String(), token, &mover.DialOptions{Identity: own})
	require.NoError(t, err)
	c, err := NewClient(&ClientOptions{Address: l.Addr().String(), ServerPin: id.Pin(), Identity: own})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, c.Close())
		stop()
		require.NoError(t, <-served)
		require.NoError(t, o.Journal.Close())
	})
	return c
}

func wayTo(h *guesttest.Host) []Way {
	return []Way{{Kind: guest.SSH, Settings: sshSettings{h.Addr, h.KnownHosts}, Credential: guest.Credential{User: h.User, PrivateKey: h.Key}}}
}

// R145, R150, R160, R169, R170, R188: the whole way on the real parts: a key that enrolled by a token, TLS on a mover's port,
// a real sshd, the real component. A proxy that is not there is taken the place of by the backup server.
func TestReal(t *testing.T) {
	t.Parallel()
	programs := guest.ProgramsIn(os.DirFS(guesttest.Agents(t)))
	h := guesttest.SSHD(t, nil)
	c := realProxy(t, &ServerOptions{Ways: sshWays(nil), Programs: programs})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	began := time.Now()
	d, err := c.Deploy(ctx, "vm1", wayTo(h), nil)
	require.NoError(t, err)
	up := time.Since(began)
	require.Equal(t, runtime.GOARCH, d.Component.Hello().Arch)
	a, err := d.Component.Inspect(ctx, wire.InspectArgs{})
	require.NoError(t, err)
	require.NotEmpty(t, a.Volumes)
	require.NotEmpty(t, h.Left())
	began = time.Now()
	require.NoError(t, d.Remove(ctx))
	t.Logf("by a proxy: component answering after %v, removed in %v", up, time.Since(began))
	require.Empty(t, h.Left())

	nobody, err := NewClient(&ClientOptions{Name: "gone", Dial: func(context.Context) (net.Conn, error) { return nil, errDown }})
	require.NoError(t, err)
	key := guest.Credential{User: h.User, PrivateKey: h.Key}
	here := &guest.Here{Guest: "vm1", Programs: programs, Ways: []guest.Way{sshchannel.New(h.Addr, key, &sshchannel.Options{KnownHosts: []string{h.KnownHosts}})}}
	for _, x := range []struct {
		from guest.Deployer
		name string
	}{{&Deployer{Client: c, Guest: "vm1", Ways: wayTo(h)}, c.Name()}, {&Deployer{Client: nobody, Guest: "vm1", Ways: wayTo(h)}, "backup server"}} {
		var failed []error
		s, err := guest.NewSession([]guest.Deployer{x.from, here}, &guest.SessionOptions{
			Guest: "vm1", NoApplications: true, Scripts: guest.Disable,
			Events: func(e guest.Event) {
				if e.Step == "fail over" {
					failed = append(failed, errors.New(e.Text))
				}
			},
		})
		require.NoError(t, err)
		require.NoError(t, s.Begin(ctx))
		require.NoError(t, s.Close(ctx))
		_, result := s.Reached()
		require.Contains(t, result.Way, "from "+x.name)
		require.Equal(t, x.name == "backup server", len(failed) == 1)
		require.Empty(t, h.Left())
	}
}

// Somebody who was not enrolled, or as something else, gets nothing.
func TestRealStrangers(t *testing.T) {
	t.Parallel()
	c := realProxy(t, &ServerOptions{Ways: sshWays(nil), Programs: programs{}})
	own, err := trust.NewIdentity()
	require.NoError(t, err)
	stranger, err := NewClient(&ClientOptions{Address: c.opts.Address, ServerPin: c.opts.ServerPin, Identity: own})
	require.NoError(t, err)
	_, err = stranger.Status(t.Context())
	require.ErrorIs(t, err, trust.ErrRefused)
	wrong, err := NewClient(&ClientOptions{Address: c.opts.Address, ServerPin: own.Pin(), Identity: c.opts.Identity})
	require.NoError(t, err)
	_, err = wrong.Status(t.Context())
	require.ErrorIs(t, err, trust.ErrWrongServer)
	_, err = c.Status(t.Context())
	require.NoError(t, err)
}

// slow is a forwarder that adds a delay to what comes back.
func slow(delay time.Duration) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		far, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		d := &delayed{Conn: far, delay: delay, parts: make(chan part, 1024)}
		go d.read()
		return d, nil
	}
}

type part struct {
	due  time.Time
	data []byte
}

// delayed hands out what was read a while later, in order, however much of it is on its way.
type delayed struct {
	net.Conn
	delay time.Duration
	parts chan part
	now   []byte
	err   error
}

func (d *delayed) read() {
	defer close(d.parts)
	for {
		p := make([]byte, 32<<10)
		n, err := d.Conn.Read(p)
		if n > 0 {
			d.parts <- part{time.Now().Add(d.delay), p[:n]}
		}
		if err != nil {
			d.err = err
			return
		}
	}
}

func (d *delayed) Read(p []byte) (int, error) {
	if len(d.now) == 0 {
		next, ok := <-d.parts
		if !ok {
			if d.err == nil {
				return 0, io.EOF
			}
			return 0, d.err
		}
		time.Sleep(time.Until(next.due))
		d.now = next.data
	}
	n := copy(p, d.now)
	d.now = d.now[n:]
	return n, nil
}

func (d *delayed) Close() error {
	err := d.Conn.Close()
	go func() {
		for range d.parts { // so that nobody waits to hand something over
		}
	}()
	return err
}

// R152, R153, and the bar: many guests at once, by four proxies and by one. A proxy deploys to one guest at a time here, so
// that what is compared are the proxies, and not the two processors on which all of them and all guests run; 20 ms away,
// most of a deployment is waiting, which four do at once.
func TestManyReal(t *testing.T) {
	guests, times := 8, 0.0
	if longTier() {
		guests, times = 200, 3
	}
	agents := guest.ProgramsIn(os.DirFS(guesttest.Agents(t)))
	h := guesttest.SSHD(t, &guesttest.SSHDOptions{Settings: []string{"MaxStartups 1000:30:2000", "MaxSessions 100"}})
	run := func(n int) time.Duration {
		var proxies []*Client
		for range n {
			proxies = append(proxies, realProxy(t, &ServerOptions{Ways: sshWays(slow(20 * time.Millisecond)), Programs: agents, Deployments: 1}))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		began := time.Now()
		var wg sync.WaitGroup
		for i := range guests {
			wg.Go(func() {
				d, err := proxies[i%n].Deploy(ctx, fmt.Sprint("vm", i), wayTo(h), nil)
				if !assertNoError(t, err) {
					return
				}
				_, err = d.Component.Inspect(ctx, wire.InspectArgs{})
				assertNoError(t, err)
				assertNoError(t, d.Remove(ctx))
			})
		}
		wg.Wait()
		took := time.Since(began)
		require.Empty(t, h.Left())
		return took
	}
	four := run(4)
	if times == 0 {
		t.Logf("%d guests by 4 proxies: %v", guests, four)
		return
	}
	one := run(1)
	t.Logf("%d guests: by 1 proxy %v, by 4 proxies %v, %.1f times as fast", guests, one, four, one.Seconds()/four.Seconds())
	require.GreaterOrEqual(t, one.Seconds()/four.Seconds(), times)
}
