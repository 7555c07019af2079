package main

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	jobfleet "github.com/hikae/hikae/job/fleet"
	"github.com/hikae/hikae/pipe"
)

// R204: a cluster of three and six workers, each a process in a namespace of its own, and 500 VMs of a vSphere. The node that leads is killed, two
// workers are, one is cut off with copies that it has not committed, and comes back after five minutes. Each VM has one point of the run,
// what comes late is refused by the repository, no task is lost, and the one that was cut off works on in the next run.
func TestFleetLosesANodeAndWorkers(t *testing.T) {
	s := newSite(t)
	const vms, diskBytes, away, lease = 500, 1 << 20, 5 * time.Minute, 10 * time.Second
	s.furnish(vms, diskBytes)
	front := s.place("front")
	var places []*place
	var workers []*child
	for i := range 6 {
		places = append(places, s.place(fmt.Sprintf("worker%d", i)))
		workers = append(workers, s.worker(places[i], lease))
	}
	first := s.dispatch(front, lease, "first", vms)
	leader := first.await("leader", 1, time.Minute).Text
	first.await("outcome", vms/5, 10*time.Minute)

	last := workers[5]
	last.tell("hold")
	last.await("holding", 2, 5*time.Minute) // in both slots: copied, and not committed
	places[5].cut(true)
	gone := time.Now()
	for _, n := range s.nodes {
		if n.name == leader {
			n.kill()
		}
	}
	workers[3].kill()
	workers[4].kill()
	t.Logf("%s, which led, and two workers killed, and one cut off, with %d of %d outcomes there", leader, len(first.all("outcome")), vms)

	done := first.await("result", 1, 30*time.Minute)
	require.Empty(t, done.Text)
	require.Len(t, done.Result.Outcomes, vms)
	require.Empty(t, done.Result.Missing)
	require.Zero(t, done.Counts.Dead)
	onePointEach(t, s, done.Result, 1)
	t.Logf("%d VMs in %.1f s", vms, done.Result.Seconds)

	time.Sleep(time.Until(gone.Add(away)))
	places[5].cut(false)
	last.tell("go")
	last.await("late", 2, 5*time.Minute)
	for _, l := range last.all("late") {
		require.True(t, l.Late.Lost, l.Late.ByWorker)
		require.True(t, l.Late.Revoked, l.Late.ByRepository)
		t.Logf("%s: the commit that came %s late: %s; past the worker's own check: %s", l.VM, time.Since(gone).Round(time.Second), l.Late.ByWorker, l.Late.ByRepository)
	}
	last.await("lost", 2, 5*time.Minute)
	onePointEach(t, s, done.Result, 1)

	workers[3], workers[4] = s.worker(places[3], lease), s.worker(places[4], lease) // they sweep what they left
	before := len(last.all("ended"))
	second := s.dispatch(front, lease, "second", vms).await("result", 1, 30*time.Minute)
	require.Empty(t, second.Text)
	require.Len(t, second.Result.Outcomes, vms)
	require.Greater(t, len(last.all("ended")), before, "who was cut off works again")
	swept := 0
	for _, w := range workers {
		swept += len(w.all("swept"))
	}
	require.Positive(t, swept, "two workers were killed and one cut off with snapshots on hosts")
	onePointEach(t, s, second.Result, 2)
	t.Logf("the second run, increments: %.1f s; what lost workers left on VMs was undone %d times", second.Result.Seconds, swept)
	for _, w := range workers {
		w.tell("end")
		w.await("end", 1, 5*time.Minute)
	}
	s.hosts.tell("left")
	left := s.hosts.await("left", 1, time.Minute).Left
	for _, text := range left {
		require.Contains(t, text, "session of", "logins of workers that were killed end by themselves, and nothing else is left")
	}
	require.LessOrEqual(t, len(left), 2)
}

// onePointEach holds the repository to what a run's result says: of each VM the point that is named, marked with the run, one of that run and n in all, and
// what the disk holds is what it held.
func onePointEach(t *testing.T, s *site, res *jobfleet.Result, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	r := s.repository(ctx)
	marked, all := map[string][]pipe.PointInfo{}, map[string]int{}
	for p, err := range r.Points(ctx, "") {
		require.NoError(t, err)
		all[p.VM]++
		fact := p.Facts[jobfleet.RunFact]
		marked[fact] = append(marked[fact], p)
	}
	for i, o := range res.Outcomes {
		require.Contains(t, []jobfleet.State{jobfleet.Done, jobfleet.Warned}, o.State, o.VM)
		list := marked[o.Job+"/"+o.Run+"/"+o.Task]
		require.Len(t, list, 1, o.VM)
		require.Equal(t, o.Point, list[0].ID, o.VM)
		require.Equal(t, n, all[o.VM], o.VM)
		if i%20 != 0 {
			continue
		}
		img, err := r.Open(ctx, o.Point, list[0].Disks[0].Key)
		require.NoError(t, err)
		got := make([]byte, img.Size())
		_, err = img.ReadAt(ctx, got, 0)
		require.NoError(t, err)
		require.NoError(t, img.Close())
		require.Equal(t, content(o.VM, img.Size()), got, o.VM)
	}
}
