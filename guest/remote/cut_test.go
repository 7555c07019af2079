package remote

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/agent/wire"
)

// cutter is a connection that breaks after a number of whole frames, in both directions together; without one it counts.
type cutter struct {
	net.Conn
	left *int // frames until the cut; nil: none
	seen *int
	mu   *sync.Mutex

	in  []byte // read from the connection and not handed out
	err error
}

// frameGone counts a frame, and reports whether the connection breaks with it: it does not arrive.
func (c *cutter) frameGone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	*c.seen++
	if c.left == nil || *c.left > 0 {
		if c.left != nil {
			*c.left--
		}
		return false
	}
	return true
}

func (c *cutter) Write(p []byte) (int, error) { // one frame each
	if c.frameGone() {
		_ = c.Conn.Close()
		return 0, io.ErrClosedPipe
	}
	return c.Conn.Write(p)
}

func (c *cutter) Read(p []byte) (int, error) {
	if len(c.in) == 0 {
		if err := c.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.in)
	c.in = c.in[n:]
	return n, nil
}

// fill reads one whole frame.
func (c *cutter) fill() error {
	if c.err != nil {
		return c.err
	}
	h := make([]byte, headerSize)
	if _, c.err = io.ReadFull(c.Conn, h); c.err != nil {
		return c.err
	}
	f := append(h, make([]byte, binary.BigEndian.Uint32(h))...)
	if _, c.err = io.ReadFull(c.Conn, f[headerSize:]); c.err != nil {
		return c.err
	}
	if c.frameGone() {
		_ = c.Conn.Close()
		c.err = io.ErrUnexpectedEOF
		return c.err
	}
	c.in = f
	return nil
}

// work is all that a session does in a guest: some hundred frames.
func work(c *Client) error {
	d, err := c.Deploy(context.Background(), "vm1", way("vm1"), nil)
	if err != nil {
		return err
	}
	for range 3 {
		if _, err := d.Component.Inspect(context.Background(), wire.InspectArgs{}); err != nil {
			return errors.Join(err, d.Remove(context.Background()))
		}
	}
	return d.Remove(context.Background())
}

// R189, R191: the link between backup server and proxy is cut at every message. It is made anew once, the work goes on
// where it was, each request is carried out once, and nothing is left.
func TestCuts(t *testing.T) {
	t.Parallel()
	w := newTown(t, nil)
	var mu sync.Mutex
	seen := 0
	w.cut = func(conn net.Conn) net.Conn { return &cutter{Conn: conn, seen: &seen, mu: &mu} }
	require.NoError(t, work(w.client()))
	mu.Lock()
	total := seen
	mu.Unlock()
	require.Greater(t, total, 15)
	for at := 1; at < total; at++ {
		w := newTown(t, nil)
		left, first := at, true
		w.cut = func(conn net.Conn) net.Conn {
			if !first {
				return conn
			}
			first = false
			return &cutter{Conn: conn, left: &left, seen: &seen, mu: &mu}
		}
		err := work(w.client())
		w.mu.Lock()
		dials, waits := w.dials, w.waits
		w.mu.Unlock()
		if at == 1 { // Attach went, its answer did not: a proxy that is not reached is not tried again, somebody takes over
			var task *TaskError
			require.ErrorAs(t, err, &task)
			require.Zero(t, task.Reconnects)
			require.Equal(t, 1, dials)
			continue
		}
		require.NoError(t, err, "cut after %d frames", at)
		if dials > 1 { // a cut behind the last answer needs no other connection
			require.Equal(t, 2, dials, "cut after %d frames", at)
			require.Equal(t, []time.Duration{time.Second}, waits)
		} else {
			require.GreaterOrEqual(t, at, total-3, "cut after %d of %d frames", at, total)
		}
		h := w.host("vm1")
		empty(t, h)
		require.Equal(t, 1, h.opened(), "deployed once, cut after %d frames", at)
	}
}

// R191, R192, R193: the link is cut and stays so: 10 attempts, 1 s … 30 s apart, and then the guest's task fails, with the
// link's name, which is for the job's policy to judge. The proxy takes away what there is.
func TestCutForGood(t *testing.T) {
	t.Parallel()
	for _, at := range []int{2, 3, 4, 6, 8, 10, 12, 14} {
		w := newTown(t, nil)
		var mu sync.Mutex
		seen, left := 0, at
		w.cut = func(conn net.Conn) net.Conn {
			w.down = true // from now on nobody listens; dial holds the lock
			return &cutter{Conn: conn, left: &left, seen: &seen, mu: &mu}
		}
		err := work(w.client())
		var task *TaskError
		require.ErrorAs(t, err, &task, "cut after %d frames: %v", at, err)
		require.Equal(t, ToProxy, task.Link)
		require.Equal(t, 10, task.Reconnects)
		require.Equal(t, "vm1", task.Guest)
		require.Equal(t, "p1", task.Proxy)
		require.ErrorIs(t, err, errDown)
		require.ErrorContains(t, err, "the guest task failed: the link between the backup server and proxy p1 was lost")
		require.Equal(t, 11, w.dialled())
		want := []time.Duration{1, 2, 4, 8, 16, 30, 30, 30, 30, 30}
		for i := range want {
			want[i] *= time.Second
		}
		w.mu.Lock()
		require.Equal(t, want, w.waits)
		w.mu.Unlock()
		w.stop() // the lease ends, or the proxy does
		require.Empty(t, w.host("vm1").left())
	}
}

// A link that carries less than anything new, however often it is made, is a broken one.
func TestNoProgress(t *testing.T) {
	t.Parallel()
	w := newTown(t, nil)
	var mu sync.Mutex
	seen, n := 0, 0
	w.cut = func(conn net.Conn) net.Conn {
		left := 2 // Attach and Attached
		if n == 0 {
			left = 6
		}
		n++
		return &cutter{Conn: conn, left: &left, seen: &seen, mu: &mu}
	}
	err := work(w.client())
	var task *TaskError
	require.ErrorAs(t, err, &task)
	require.Equal(t, 10, task.Reconnects)
	require.Equal(t, 11, w.dialled())
}

// A link that is bad and brings something new each time carries the work all the same.
func TestBadLink(t *testing.T) {
	t.Parallel()
	w := newTown(t, nil)
	var mu sync.Mutex
	seen := 0
	w.cut = func(conn net.Conn) net.Conn {
		left := 5
		return &cutter{Conn: conn, left: &left, seen: &seen, mu: &mu}
	}
	require.NoError(t, work(w.client()))
	require.Greater(t, w.dialled(), 4)
	empty(t, w.host("vm1"))
}

// R169, R170: a proxy that is not there is told at once.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	w := newTown(t, nil)
	w.down = true
	err := work(w.client())
	var task *TaskError
	require.ErrorAs(t, err, &task)
	require.Equal(t, ToProxy, task.Link)
	require.Zero(t, task.Reconnects)
	require.Equal(t, 1, w.dialled())
}

// R191: a proxy that was started anew does not know its tasks: there is nothing to wait for.
func TestProxyStartedAnew(t *testing.T) {
	t.Parallel()
	w := newTown(t, nil)
	c := w.client()
	d, err := c.Deploy(t.Context(), "vm1", way("vm1"), nil)
	require.NoError(t, err)
	before := w.server
	w.mu.Lock()
	w.start()
	w.mu.Unlock()
	for _, x := range before.tasks {
		x.line.close()
	}
	<-d.Component.Done()
	require.ErrorIs(t, d.Component.Err(), ErrTaskLost)
	var task *TaskError
	require.ErrorAs(t, d.Component.Err(), &task)
	require.Equal(t, 1, task.Reconnects)
	require.NoError(t, before.Close(t.Context()))
	require.ErrorIs(t, d.Remove(t.Context()), guest.ErrLeftover)
	require.Empty(t, w.host("vm1").left())
}

// R190: the link between proxy and guest is made anew once; then the guest's task fails, with that link's name. What is not
// the link's fault is not tried again.
func TestGuestLink(t *testing.T) {
	t.Parallel()
	broken := &guest.WayError{Kind: guest.SSH, Step: "connect", Problem: "connection refused"}
	w := newTown(t, nil)
	c := w.client()
	h := w.host("vm1")
	h.fails = []error{broken}
	require.NoError(t, work(c))
	require.Equal(t, 2, h.opens)

	h.fails, h.opens = []error{broken, io.ErrUnexpectedEOF, broken}, 0
	err := work(c)
	var task *TaskError
	require.ErrorAs(t, err, &task)
	require.Equal(t, ToGuest, task.Link)
	require.Equal(t, 1, task.Reconnects)
	require.ErrorContains(t, err, "the link between proxy p1 and the guest was lost")
	require.Equal(t, 2, h.opens)

	h.fails, h.opens = []error{&guest.WayError{Kind: guest.SSH, Step: "host key", Problem: "another one"}}, 0
	err = work(c)
	require.False(t, errors.As(err, new(*TaskError)))
	require.Equal(t, 1, h.opens)
	require.Empty(t, h.left())
}

// The link to the guest breaks while the component is in use: its end is heard at once, and what there was is gone.
func TestGuestLinkLater(t *testing.T) {
	t.Parallel()
	w := newTown(t, nil)
	c := w.client()
	d, err := c.Deploy(t.Context(), "vm1", way("vm1"), nil)
	require.NoError(t, err)
	w.host("vm1").cutLinks()
	select {
	case <-d.Component.Done():
	case <-time.After(10 * time.Second):
		require.Fail(t, "nobody heard of it")
	}
	require.ErrorIs(t, d.Component.Err(), guest.ErrLost)
	require.NoError(t, d.Remove(t.Context()))
	require.Empty(t, w.host("vm1").left())
}
