package remote

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/agent/wire"
	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/pipe/mover/trust"
)

func sumOf(b []byte) [sha256.Size]byte { return sha256.Sum256(b) }

// R145, R146, R147, R150, R186, R188: the proxy stands between, brings the component in, carries what is said to it, and takes
// it away; the backup server needs no way to the guest.
func TestDeploy(t *testing.T) {
	t.Parallel()
	w := newTown(t, nil)
	c := w.client()
	d, err := c.Deploy(t.Context(), "vm1", way("vm1"), &DeployOptions{Session: "s1"})
	require.NoError(t, err)
	require.Equal(t, guest.SSH, d.Kind)
	require.Contains(t, d.Component.Hello().Product, "in a test")
	for range 3 {
		a, err := d.Component.Inspect(t.Context(), wire.InspectArgs{})
		require.NoError(t, err)
		require.Empty(t, a.Notes)
	}
	require.NotEmpty(t, w.host("vm1").left())
	st, err := c.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, st.Tasks)

	require.NoError(t, d.Remove(t.Context()))
	require.Empty(t, w.host("vm1").left())
	require.NoError(t, d.Remove(t.Context()))
	require.Error(t, d.Component.Err())
	require.Eventually(t, func() bool { st, err := c.Status(t.Context()); return err == nil && st.Tasks == 0 }, 10*time.Second, time.Millisecond)
	require.Equal(t, password, w.host("vm1").login.Password)
}

// What one way cannot, the next does; what none can is said of each.
func TestDeployWays(t *testing.T) {
	t.Parallel()
	w := newTown(t, nil)
	c := w.client()
	smb := Way{Kind: guest.SMB, Credential: guest.Credential{User: "a", Password: password}}
	d, err := c.Deploy(t.Context(), "vm1", append([]Way{smb}, way("vm1")...), nil)
	require.NoError(t, err)
	require.Equal(t, guest.SSH, d.Kind)
	require.NoError(t, d.Remove(t.Context()))

	wrong := way("vm1")
	wrong[0].Credential.Password = "not-the-password"
	_, err = c.Deploy(t.Context(), "vm1", wrong, nil)
	var closed *guest.WayError
	require.ErrorAs(t, err, &closed)
	require.Equal(t, guest.WayError{Kind: guest.SSH, Step: "login", Problem: "refused with …", Hint: "another password"}, *closed)
	require.NotContains(t, err.Error(), "not-the-password")
	var step *guest.StepError
	require.ErrorAs(t, err, &step)
	require.Equal(t, "vm1", step.Guest)

	_, err = c.Deploy(t.Context(), "vm1", append([]Way{smb}, wrong...), nil)
	require.ErrorIs(t, err, guest.ErrNoWay)
	require.ErrorContains(t, err, "no such way")
	require.ErrorContains(t, err, "refused with …")
	require.NotContains(t, w.log.String(), "not-the-password")
	require.Empty(t, w.host("vm1").left())
}

// A preflight from the proxy: every way, with its reason.
func TestProbe(t *testing.T) {
	t.Parallel()
	w := newTown(t, nil)
	d := &Deployer{Client: w.client(), Guest: "vm1", Ways: append([]Way{{Kind: guest.SMB}}, way("vm1")...)}
	r, err := d.Probe(t.Context())
	require.NoError(t, err)
	require.Len(t, r.Ways, 2)
	require.Equal(t, "this proxy has no such way", r.Ways[0].Problem)
	require.True(t, r.Ways[1].Open)
	require.Equal(t, "vm1", r.Ways[1].System.Name)
	require.Equal(t, "p1", d.Name())

	up, err := d.Deploy(t.Context(), []guest.Kind{guest.QGA, guest.SSH}, &guest.DeployOptions{Session: "x"})
	require.NoError(t, err)
	require.NoError(t, up.Remove(t.Context()))
	_, err = d.Deploy(t.Context(), []guest.Kind{guest.QGA}, nil)
	require.ErrorIs(t, err, guest.ErrNoWay)
}

// R160, R155 … R158: what a choice among proxies needs to know they tell themselves.
func TestStatus(t *testing.T) {
	t.Parallel()
	w := newTown(t, &ServerOptions{Deployments: 3, System: &System{OS: "windows", Server: true, Version: "10.0.20348", PowerShell: "5.1", Domain: "corp"}})
	st, err := w.client().Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, System{"windows", true, "10.0.20348", "5.1", "corp"}, st.System)
	require.Equal(t, []guest.Kind{guest.SSH}, st.Kinds)
	require.Equal(t, 3, st.Limit)
	require.Equal(t, "test", st.Product)
	require.Zero(t, st.Tasks)
	require.NotEmpty(t, ThisSystem().OS)
}

// Who may: a peer of the role guest, or a full one. An append peer, a token and a stranger's task are nothing here.
func TestRoles(t *testing.T) {
	t.Parallel()
	w := newTown(t, nil)
	c := w.client()
	for _, peer := range []trust.Peer{{Name: "full", Role: trust.Full, Serial: 1}, {Name: "guest", Role: trust.Guest, Serial: 2}} {
		w.peer = peer
		_, err := c.Status(t.Context())
		require.NoError(t, err, peer.Name)
	}
	for _, peer := range []trust.Peer{{Name: "append", Role: trust.Append}, {Name: "token", Role: trust.Guest, Token: true}, {Name: "strange", Role: "admin"}, {}} {
		w.peer = peer
		_, err := c.Status(t.Context())
		require.ErrorIs(t, err, fs.ErrPermission, peer.Name)
	}
}

// A controller that vanishes leaves nothing: its task's lease ends, and what was deployed goes. One that is heard of keeps
// it, however long it is silent otherwise.
func TestLease(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newTown(t, nil)
		asleep := func(ctx context.Context, _ time.Duration) error { <-ctx.Done(); return ctx.Err() }
		c, err := NewClient(&ClientOptions{Dial: w.dial, Sleep: asleep, Lease: time.Minute})
		require.NoError(t, err)
		d, err := c.Deploy(t.Context(), "vm1", way("vm1"), nil)
		require.NoError(t, err)
		time.Sleep(3 * time.Hour)
		_, err = d.Component.Inspect(t.Context(), wire.InspectArgs{})
		require.NoError(t, err)

		began := time.Now()
		require.Len(t, w.server.tasks, 1)
		for _, s := range w.server.tasks {
			s.mu.Lock()
			s.line.close()
			s.mu.Unlock()
			<-s.over
		}
		require.Less(t, time.Since(began), 90*time.Second)
		require.Greater(t, time.Since(began), 45*time.Second)
		require.Empty(t, w.host("vm1").left())
		require.NoError(t, c.Close())
		require.Contains(t, w.log.String(), "nobody was heard of for")
	})
}

// The end of the proxy is the end of what it deployed, and of nothing else.
func TestClose(t *testing.T) {
	t.Parallel()
	w := newTown(t, nil)
	c := w.client()
	d, err := c.Deploy(t.Context(), "vm1", way("vm1"), nil)
	require.NoError(t, err)
	w.stop()
	empty(t, w.host("vm1"))
	<-d.Component.Done()
	_, err = c.Deploy(t.Context(), "vm2", way("vm2"), nil)
	require.Error(t, err)
	w.start() // another process
	w.mu.Lock()
	w.down = false
	w.mu.Unlock()
	require.ErrorIs(t, d.Remove(t.Context()), guest.ErrLeftover, "nobody can prove it any more")
	d, err = c.Deploy(t.Context(), "vm2", way("vm2"), nil)
	require.NoError(t, err)
	require.NoError(t, d.Remove(t.Context()))
}

// R160 and the law of effects: a deployment stands in the proxy's journal before it happens. What a proxy that died left is
// told of, is swept when that guest is next visited, or when somebody asks; other guests' stay.
func TestSweep(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open := func() *hikae.FileJournal {
		j, err := hikae.OpenFileJournal(dir)
		require.NoError(t, err)
		return j
	}
	dead := open()
	w := newTown(t, &ServerOptions{Journal: dead})
	c := w.client()
	for _, name := range []string{"vm1", "vm2", "vm3"} {
		d, err := c.Deploy(t.Context(), name, way(name), nil)
		require.NoError(t, err)
		require.NotNil(t, d)
	}
	// The process dies: its components are on their own, and, as here, may not have taken themselves away.
	left := map[string][]byte{}
	for _, name := range []string{"vm1", "vm2", "vm3"} {
		for _, path := range w.host(name).left() {
			if strings.HasPrefix(path, "/") { // and not the process
				left[name+" "+path] = nil
			}
		}
	}
	require.NoError(t, dead.Close())
	for _, name := range []string{"vm1", "vm2", "vm3"} {
		w.host(name).cutLinks()
		empty(t, w.host(name))
	}
	for path := range left {
		var name, file string
		_, _ = fmt.Sscan(path, &name, &file)
		w.host(name).files[file] = []byte("left")
	}
	w.opts.Journal = open()
	w.start()
	t.Cleanup(func() { require.NoError(t, w.opts.Journal.Close()) })
	require.Contains(t, w.log.String(), "may have been left in a guest by an earlier process")

	st, err := c.Status(t.Context())
	require.NoError(t, err)
	require.Len(t, st.Leftovers, 3)
	require.Equal(t, "vm1", st.Leftovers[0].Guest)
	undone, leftover, err := c.Sweep(t.Context(), "vm1", []Way{{Kind: guest.SMB}})
	require.NoError(t, err)
	require.Equal(t, []int{0, 1}, []int{undone, leftover}, "over another way than it came by")
	undone, leftover, err = c.Sweep(t.Context(), "vm1", way("vm1"))
	require.NoError(t, err)
	require.Equal(t, []int{1, 0}, []int{undone, leftover})
	require.Empty(t, w.host("vm1").left())
	require.NotEmpty(t, w.host("vm2").left())

	d, err := c.Deploy(t.Context(), "vm2", way("vm2"), nil) // a visit begins with the sweep
	require.NoError(t, err)
	require.NoError(t, d.Remove(t.Context()))
	require.Empty(t, w.host("vm2").left())
	st, err = c.Status(t.Context())
	require.NoError(t, err)
	require.Len(t, st.Leftovers, 1)
	require.Equal(t, "vm3", st.Leftovers[0].Guest)
	require.NotEmpty(t, w.host("vm3").left())
}

// R152, and the limit: a proxy works in as many guests at once as it may; the others wait, and all are done.
func TestManyGuests(t *testing.T) {
	t.Parallel()
	w := newTown(t, &ServerOptions{Deployments: 4})
	c := w.client()
	var most, now atomic.Int32
	before := w.server.opts.Ways[guest.SSH]
	w.server.opts.Ways[guest.SSH] = func(settings json.RawMessage, cred guest.Credential) (guest.Way, error) {
		inner, err := before(settings, cred)
		return &counting{inner, &now, &most}, err
	}
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			name := fmt.Sprint("vm", i)
			d, err := c.Deploy(t.Context(), name, way(name), nil)
			if !assertNoError(t, err) {
				return
			}
			_, err = d.Component.Inspect(t.Context(), wire.InspectArgs{})
			assertNoError(t, err)
			assertNoError(t, d.Remove(t.Context()))
		})
	}
	wg.Wait()
	require.LessOrEqual(t, int(most.Load()), 4)
	require.Greater(t, int(most.Load()), 1)
	for i := range 60 {
		require.Empty(t, w.host(fmt.Sprint("vm", i)).left())
	}
}

func assertNoError(t *testing.T, err error) bool {
	if err != nil {
		t.Error(err)
	}
	return err == nil
}

type counting struct {
	guest.Way
	now, most *atomic.Int32
}

func (c *counting) Open(ctx context.Context) (guest.Channel, error) {
	n := c.now.Add(1)
	for old := c.most.Load(); n > old && !c.most.CompareAndSwap(old, n); old = c.most.Load() {
	}
	time.Sleep(5 * time.Millisecond)
	defer c.now.Add(-1)
	return c.Way.Open(ctx)
}

// What goes does not wait behind what comes: a proxy with a long queue would leave components behind.
func TestRemovalDoesNotQueue(t *testing.T) {
	t.Parallel()
	w := newTown(t, &ServerOptions{Deployments: 1})
	c := w.client()
	d, err := c.Deploy(t.Context(), "vm1", way("vm1"), nil)
	require.NoError(t, err)
	free, err := w.server.slot(t.Context())
	require.NoError(t, err)
	defer free()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.NoError(t, d.Remove(ctx))
	require.Empty(t, w.host("vm1").left())
}

// A call that is given up gives its task up: the proxy stops, and takes away what it made.
func TestGivingUp(t *testing.T) {
	t.Parallel()
	w := newTown(t, &ServerOptions{Deployments: 1})
	c := w.client()
	free, err := w.server.slot(t.Context())
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = c.Deploy(ctx, "vm1", way("vm1"), nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	free()
	require.Eventually(t, func() bool {
		w.server.mu.Lock()
		defer w.server.mu.Unlock()
		return len(w.server.tasks) == 0
	}, 10*time.Second, time.Millisecond)
	require.Empty(t, w.host("vm1").left())
	require.Empty(t, w.server.slots)
}

// More tasks than there may be are refused at once, and the proxy goes on.
func TestTooManyTasks(t *testing.T) {
	t.Parallel()
	w := newTown(t, &ServerOptions{Tasks: 2})
	c := w.client()
	var up []*guest.Deployed
	for _, name := range []string{"vm1", "vm2"} {
		d, err := c.Deploy(t.Context(), name, way(name), nil)
		require.NoError(t, err)
		up = append(up, d)
	}
	_, err := c.Status(t.Context())
	require.ErrorIs(t, err, ErrBusy)
	var task *TaskError
	require.False(t, errors.As(err, &task), "a proxy that says no is no broken link")
	require.NoError(t, up[0].Remove(t.Context()))
	require.Eventually(t, func() bool { _, err := c.Status(t.Context()); return err == nil }, 10*time.Second, time.Millisecond)
	require.NoError(t, up[1].Remove(t.Context()))
}

var _ net.Conn = (*cutter)(nil)
