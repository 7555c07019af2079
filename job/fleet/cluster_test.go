package fleet_test

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/job/fleet"
	"github.com/hikae/hikae/job/natsqueue"
	"github.com/hikae/hikae/job/natsqueue/natsserver"
	"github.com/hikae/hikae/pipe"
)

var login = &natsqueue.Credentials{User: "worker", Password: "correct horse"}

// cluster is three servers on this machine.
type cluster struct {
	nodes []*natsserver.Server
	urls  string
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{}
	var peers []string
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		peers = append(peers, l.Addr().String())
		require.NoError(t, l.Close())
	}
	for i, peer := range peers {
		s, err := natsserver.Start(t.Context(), natsserver.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", Credentials: login,
			Cluster: &natsserver.Cluster{Name: fmt.Sprintf("n%d", i), Listen: peer, Peers: peers}})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, s.Close()) })
		c.nodes = append(c.nodes, s)
		if i > 0 {
			c.urls += ","
		}
		c.urls += s.URL()
	}
	return c
}

func (c *cluster) open(t *testing.T, lease time.Duration) *natsqueue.Queue {
	t.Helper()
	q, err := natsqueue.Open(t.Context(), c.urls, &natsqueue.Options{Credentials: login, Replicas: 3, Lease: lease, Patience: time.Minute})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, q.Close()) })
	return q
}

// Six workers on a cluster of three: a node goes, two workers die in the middle of a task, one is cut off and comes back. Each task has
// one outcome, each VM one point, and none is lost. examples/fleet has the same with real processes, which are killed.
func TestClusterLosesANodeAndWorkers(t *testing.T) {
	const tasks, lease, limit = 30, 2 * time.Second, 5 * time.Minute
	st, c := site(t), startCluster(t)
	front := c.open(t, lease)
	var begun, stuck atomic.Int32
	var lines []*line
	var stops []func()
	var heard lostEvents
	wake := make(chan bool)
	for i := range 6 {
		l := &line{Queue: c.open(t, lease)}
		r := machine(t, st)
		h := backup(r, func(w *fleet.Work, _ pipe.PointWriter) {
			begun.Add(1)
			time.Sleep(100 * time.Millisecond)
			if i >= 3 && l.cut.Load() { // it copied, and hangs before the commit until the lines are back
				stuck.Add(1)
				<-wake
			}
		})
		lines = append(lines, l)
		stops = append(stops, workBeside(t, l, h, &fleet.WorkerOptions{Name: fmt.Sprintf("w%d", i), Slots: 2, Lease: lease, First: 100 * time.Millisecond, Attempts: 10, Events: heard.hear}))
	}
	result := dispatchFor(t, front, run(tasks), limit)
	require.Eventually(t, func() bool { return begun.Load() >= 8 }, time.Minute, 5*time.Millisecond)
	for _, l := range lines[3:] { // two that die and one that comes back look the same until then
		l.cut.Store(true)
	}
	require.NoError(t, c.nodes[0].Close())
	done := <-result
	require.NoError(t, done.err)
	require.Len(t, done.res.Outcomes, tasks)

	lines[5].cut.Store(false) // back, with what it had copied
	close(wake)
	for _, stop := range stops {
		stop()
	}
	check := machine(t, st)
	for _, o := range done.res.Outcomes {
		require.Equal(t, fleet.Done, o.State, o.VM)
		list := points(t, check, o.VM)
		require.Len(t, list, 1, o.VM)
		require.Equal(t, o.Point, list[0].ID)
	}
	t.Logf("%d copies of %d VMs, %d stuck, %d ended for nothing, %.1f s", begun.Load(), tasks, stuck.Load(), heard.count(), done.res.Seconds)
	counts, err := front.Counts(context.Background())
	require.NoError(t, err)
	require.Zero(t, counts.Dead)
}
