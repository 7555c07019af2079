package vmware

import (
	"context"
	"math/rand/v2"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"
)

func refTo(kind, value string) types.ManagedObjectReference {
	return types.ManagedObjectReference{Type: kind, Value: value}
}

// limitedClient has limits and nothing else. Those of its server are its own.
func limitedClient(t *testing.T, l Limits) *Client {
	return &Client{address: &url.URL{Host: t.Name()}, limits: &limiter{wants: l, places: &places{used: map[string]int{}}}}
}

func TestLimitsAreClipped(t *testing.T) {
	assert.Equal(t, 8, Limits{}.disksPerHost())
	assert.Equal(t, 50, Limits{DisksPerHost: 1000}.disksPerHost())
	assert.Equal(t, 52, Limits{}.disksPerServer())
	assert.Equal(t, 52, Limits{DisksPerServer: 1000}.disksPerServer())
	assert.Equal(t, 4, Limits{SnapshotsPerDatastore: -1}.snapshotsPerDatastore())
}

// R201, R203: no host, datastore or server is asked for more at once than it is good for, whoever asks.
func TestLimitsHold(t *testing.T) {
	c := limitedClient(t, Limits{DisksPerHost: 3, DisksPerServer: 5, SnapshotsPerDatastore: 2})
	hosts := []types.ManagedObjectReference{refTo("HostSystem", "host-1"), refTo("HostSystem", "host-2"), refTo("HostSystem", "host-3")}
	var all atomic.Int64
	var of [3]atomic.Int64
	var most [3]atomic.Int64
	var wg sync.WaitGroup
	for i := range 300 {
		wg.Go(func() {
			release, err := c.acquireDisk(context.Background(), hosts[i%3], types.ManagedObjectReference{})
			if !assert.NoError(t, err) {
				return
			}
			assert.LessOrEqual(t, all.Add(1), int64(5))
			n := of[i%3].Add(1)
			assert.LessOrEqual(t, n, int64(3))
			most[i%3].Store(max(n, most[i%3].Load()))
			time.Sleep(time.Duration(rand.IntN(200)) * time.Microsecond)
			of[i%3].Add(-1)
			all.Add(-1)
			release()
			release() // is no harm
		})
	}
	wg.Wait()
	assert.Empty(t, c.limits.places.used)
	assert.Empty(t, c.Waiting())
}

func TestLimitsAreFair(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := limitedClient(t, Limits{SnapshotsPerDatastore: 1})
		a, b := refTo("Datastore", "a"), refTo("Datastore", "b")
		var mu sync.Mutex
		var order []string
		taken := func() []string {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(order)
		}
		take := func(name string, on ...types.ManagedObjectReference) {
			release, err := c.acquireSnapshot(t.Context(), on...)
			if assert.NoError(t, err) {
				mu.Lock()
				order = append(order, name)
				mu.Unlock()
				time.Sleep(time.Minute)
				release()
			}
		}
		for i, w := range []struct {
			name string
			on   []types.ManagedObjectReference
		}{
			{"a1", []types.ManagedObjectReference{a, a}}, // named twice is one place
			{"both", []types.ManagedObjectReference{a, b}},
			{"b1", []types.ManagedObjectReference{b}}, // b is free, and kept for who came before
			{"other", []types.ManagedObjectReference{refTo("Datastore", "c")}},
			{"a2", []types.ManagedObjectReference{a}},
		} {
			time.Sleep(time.Duration(i))
			go take(w.name, w.on...)
			synctest.Wait()
		}
		assert.Equal(t, []string{"a1", "other"}, taken())
		waiting := c.Waiting()
		require.Len(t, waiting, 3)
		assert.Equal(t, "one of 1 snapshots on a", waiting[0].For)
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Len(t, taken(), 5)
		assert.Equal(t, []string{"a1", "other", "both"}, taken()[:3])
		assert.ElementsMatch(t, []string{"b1", "a2"}, taken()[3:], "both at the same moment")
		assert.Empty(t, c.limits.places.used)
	})
}

func TestLimitsEndWithTheContext(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := limitedClient(t, Limits{DisksPerHost: 1})
		host := refTo("HostSystem", "host-7")
		release, err := c.acquireDisk(t.Context(), host, types.ManagedObjectReference{})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = c.acquireDisk(ctx, host, types.ManagedObjectReference{})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.ErrorContains(t, err, "one of 1 disks of host-7")
		release()
		release, err = c.acquireDisk(t.Context(), host, types.ManagedObjectReference{})
		require.NoError(t, err, "who left the queue holds nothing")
		release()
	})
}

// All clients of one server in this process share its places.
func TestLimitsAreTheServers(t *testing.T) {
	one := &Client{address: &url.URL{Host: "VC.example"}, limits: limiterOf("VC.example", Limits{SnapshotsPerDatastore: 1})}
	two := &Client{address: &url.URL{Host: "vc.example:443"}, limits: limiterOf("vc.example:443", Limits{SnapshotsPerDatastore: 1})}
	release, err := one.acquireSnapshot(t.Context(), refTo("Datastore", "a"))
	require.NoError(t, err)
	defer release()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = two.acquireSnapshot(ctx, refTo("Datastore", "a"))
	require.ErrorIs(t, err, context.DeadlineExceeded)
}
