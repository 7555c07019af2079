package main

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// R204: each worker has a line of its own to the hosts, of 16 Mbit/s, and that is all that limits it. Four do at least three times what one
// does: each run reads every disk whole, over those lines.
func TestFourWorkersAreThreeTimesOne(t *testing.T) {
	s := newSite(t)
	const vms, diskBytes, rate, lease = 32, 4 << 20, 16_000_000, 10 * time.Second
	s.furnish(vms, diskBytes)
	s.shared.Full = true
	front := s.place("front")
	var places []*place
	carried := func() (total int64) {
		for _, p := range places {
			a, _, err := p.cable.Sent()
			require.NoError(t, err)
			total += a.Bytes
		}
		return total
	}
	seconds := map[int]float64{}
	for _, n := range []int{1, 4} {
		for len(places) < n {
			p := s.place(fmt.Sprintf("worker%d", len(places)))
			require.NoError(t, p.cable.SetRate(t.Context(), rate))
			places = append(places, p)
			s.worker(p, lease)
		}
		before := carried()
		one := s.dispatch(front, lease, fmt.Sprintf("by %d", n), vms).await("result", 1, 20*time.Minute)
		require.Empty(t, one.Text)
		require.Len(t, one.Result.Outcomes, vms)
		bytes := carried() - before
		require.Greater(t, bytes, int64(vms*diskBytes), "the disks came over the lines")
		seconds[n] = one.Result.Seconds
		used := float64(bytes) * 8 / one.Result.Seconds / rate / float64(n)
		t.Logf("%d workers: %.1f s, %.1f MB over their lines, which were %.0f %% full", n, seconds[n], float64(bytes)/1e6, 100*used)
	}
	t.Logf("four do %.2f times what one does", seconds[1]/seconds[4])
	require.GreaterOrEqual(t, seconds[1]/seconds[4], 3.0)
}
