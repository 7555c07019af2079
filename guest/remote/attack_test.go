package remote

import (
	"context"
	"encoding/json"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/pipe/mover/trust"
)

// dead makes a proxy that died with a component in vm1.
func dead(t *testing.T) (w *town, reopen func()) {
	dir := t.TempDir()
	dead, err := hikae.OpenFileJournal(dir)
	require.NoError(t, err)
	w = newTown(t, &ServerOptions{Journal: dead, Tasks: 2})
	_, err = w.client().Deploy(t.Context(), "vm1", way("vm1"), nil)
	require.NoError(t, err)
	var left []string
	for _, path := range w.host("vm1").left() {
		if strings.HasPrefix(path, "/") {
			left = append(left, path)
		}
	}
	require.NoError(t, dead.Close())
	w.host("vm1").cutLinks()
	empty(t, w.host("vm1"))
	for _, path := range left {
		w.host("vm1").files[path] = []byte("left")
	}
	return w, func() {
		w.opts.Journal, err = hikae.OpenFileJournal(dir)
		require.NoError(t, err)
		w.start()
		t.Cleanup(func() { require.NoError(t, w.opts.Journal.Close()) })
	}
}

// Another peer has a guest of the same name.
func TestSweepIsOnesOwn(t *testing.T) {
	w, reopen := dead(t)
	reopen()
	w.peer = trust.Peer{Name: "another", Role: trust.Guest, Serial: 99}
	st, err := w.client().Status(t.Context())
	require.NoError(t, err)
	t.Logf("another peer is told: %v", st.Leftovers)
	undone, _, err := w.client().Sweep(t.Context(), "vm1", way("vm1-of-another"))
	require.NoError(t, err)
	t.Logf("undone %d; still in the first peer's vm1: %v", undone, w.host("vm1").left())
	w.peer = trust.Peer{Name: "controller", Role: trust.Guest, Serial: 7}
	st, err = w.client().Status(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, st.Leftovers, "the journal has forgotten what is still there")
}

// One guest with a leftover does not answer.
func TestHungSweepHoldsUpNobody(t *testing.T) {
	w, reopen := dead(t)
	hung := make(chan struct{})
	old := w.opts.Ways[guest.SSH]
	w.opts.Ways = Ways{guest.SSH: func(s json.RawMessage, c guest.Credential) (guest.Way, error) {
		r, err := old(s, c)
		if err == nil && r.(*road).h.name == "vm1" {
			return hangs{r.(*road), hung}, nil
		}
		return r, err
	}}
	reopen()
	c := w.client()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	go func() { _, _ = c.Deploy(ctx, "vm1", way("vm1"), nil) }()
	<-hung
	began := time.Now()
	ctx2, cancel2 := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel2()
	d, err := c.Deploy(ctx2, "vm2", way("vm2"), nil)
	t.Logf("vm2 after %v: %v", time.Since(began), err)
	if err == nil {
		require.NoError(t, d.Remove(t.Context()))
	}
	require.NoError(t, err, "a guest that does not answer keeps all others of this proxy from being deployed to")
}

type hangs struct {
	*road
	hung chan struct{}
}

func (z hangs) Open(ctx context.Context) (guest.Channel, error) {
	select {
	case <-z.hung:
	default:
		close(z.hung)
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

// A peer of role append holds connections open and says nothing.
func TestWrongRoleTakesNoPlace(t *testing.T) {
	w := newTown(t, &ServerOptions{Tasks: 2})
	var open []net.Conn
	w.peer = trust.Peer{Name: "backup source", Role: trust.Append, Serial: 5}
	for range connsEach * 2 {
		c, err := w.dial(t.Context())
		require.NoError(t, err)
		open = append(open, c)
	}
	time.Sleep(100 * time.Millisecond)
	w.peer = trust.Peer{Name: "controller", Role: trust.Guest, Serial: 7}
	_, err := w.client().Status(t.Context())
	for _, c := range open {
		c.Close()
	}
	require.NoError(t, err, "a peer whose role is not for this keeps those out whose it is")
}

// R190 by way of a proxy: how often may the link between proxy and guest break before the guest's task fails?
func TestOneReconnectInAll(t *testing.T) {
	w := newTown(t, nil)
	broke := func() error { return &guest.WayError{Kind: guest.SSH, Step: "connect", Problem: "broken"} }
	h := w.host("vm1")
	h.fails = []error{nil, broke(), nil, nil, broke(), nil} // probe, deploy, deploy; probe, deploy, deploy
	cut := 0
	s, err := guest.NewSession([]guest.Deployer{&Deployer{Client: w.client(), Guest: "vm1", Ways: way("vm1")}}, &guest.SessionOptions{Guest: "vm1", ID: "s",
		Events: func(e guest.Event) {
			t.Log(e.Step, e.Text)
			if e.Step == "deploy" && cut == 0 {
				cut++
				h.cutLinks()
			}
		}})
	require.NoError(t, err)
	err = s.Begin(t.Context())
	t.Logf("breaks of the guest's link that were overcome: 3 if nil: %v; opens %d", err, h.opened())
	require.NoError(t, s.Close(context.WithoutCancel(t.Context())))
	require.Error(t, err, "three breaks, and R190 allows one reconnect")
}

// A peer is taken out of the book: what it has in guests goes on.
func TestRevokedPeersTaskEnds(t *testing.T) {
	w := newTown(t, nil)
	ctx, revoke := context.WithCancel(t.Context())
	near, far := net.Pipe()
	w.serving.Go(func() { _ = w.server.ServeConn(ctx, far, w.peer) })
	first := true
	c, err := NewClient(&ClientOptions{Name: "p1", Lease: time.Hour, Sleep: func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
		Dial: func(context.Context) (net.Conn, error) {
			if first {
				first = false
				return near, nil
			}
			return nil, errDown
		}})
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Deploy(t.Context(), "vm1", way("vm1"), nil)
	require.NoError(t, err)
	revoke() // what the mover does when the peer is not in the book any more
	time.Sleep(2 * time.Second)
	w.server.mu.Lock()
	n := len(w.server.tasks)
	w.server.mu.Unlock()
	t.Logf("tasks %d, in the guest: %v", n, w.host("vm1").left())
	require.Zero(t, n, "its task, with the guest's credential, lives on for its lease, which the peer chose: an hour")
}
