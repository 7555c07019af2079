package vmware

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// slowStore is a datastore that tells what it is told to.
type slowStore struct {
	millis atomic.Int64
	fails  atomic.Pointer[error]
	asked  atomic.Int64
}

func (s *slowStore) read(context.Context, types.ManagedObjectReference) (int64, error) {
	s.asked.Add(1)
	if err := s.fails.Load(); err != nil {
		return 0, *err
	}
	return s.millis.Load(), nil
}

func latencyClient(t *testing.T, s *slowStore, opts LatencyOptions) *Client {
	c := limitedClient(t, Limits{})
	c.latency = newLatency(c, opts)
	c.latency.read = s.read
	t.Cleanup(c.latency.stop)
	return c
}

// gauge is an image that says how much is read of it at once.
type gauge struct {
	pipe.Image
	now, most atomic.Int64
}

func (g *gauge) ReadAt(_ context.Context, p []byte, _ int64) (int, error) {
	now := g.now.Add(int64(len(p)))
	for most := g.most.Load(); now > most && !g.most.CompareAndSwap(most, now); most = g.most.Load() {
	}
	time.Sleep(time.Second)
	g.now.Add(-int64(len(p)))
	return len(p), nil
}

func TestLatencySlowsReading(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := &slowStore{}
		s.millis.Store(5)
		c := latencyClient(t, s, LatencyOptions{})
		ds := refTo("Datastore", "datastore-1")
		g := &gauge{Image: pipetest.NewPattern(1, 1<<30)}
		img := c.throttle(g, ds)
		ctx, cancel := context.WithCancel(t.Context())
		for range 32 {
			go func() {
				p := make([]byte, 1<<20)
				for ctx.Err() == nil {
					_, _ = img.ReadAt(ctx, p, 0)
				}
			}()
		}
		mostOf := func(d time.Duration) int64 {
			time.Sleep(2 * time.Second)
			g.most.Store(0)
			time.Sleep(d)
			return g.most.Load()
		}
		assert.EqualValues(t, 32<<20, mostOf(time.Minute), "fast: all at once")
		s.millis.Store(25)
		assert.EqualValues(t, 32<<20, mostOf(time.Minute), "between the thresholds it stays as it is")
		s.millis.Store(50)
		time.Sleep(3 * time.Minute)
		slow := mostOf(10 * time.Second)
		assert.EqualValues(t, 1<<20, slow, "slow: one at a time, and never none")
		s.millis.Store(5)
		time.Sleep(time.Minute)
		some := mostOf(5 * time.Second)
		assert.Greater(t, some, slow)
		assert.Less(t, some, int64(32<<20), "it comes back little by little")
		time.Sleep(10 * time.Minute)
		assert.EqualValues(t, 32<<20, mostOf(time.Minute))
		cancel()
		time.Sleep(2 * time.Minute)
		require.NoError(t, img.Close())
		asked := s.asked.Load()
		time.Sleep(10 * time.Minute)
		assert.Equal(t, asked, s.asked.Load(), "nobody asks about what is not in use")
		c.latency.stop()
	})
}

func TestLatencyHoldsNewDisksBack(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := &slowStore{}
		s.millis.Store(20)
		c := latencyClient(t, s, LatencyOptions{MaxWait: time.Hour})
		ds := refTo("Datastore", "datastore-1")
		began := time.Now()
		go func() {
			time.Sleep(5 * time.Minute)
			s.millis.Store(19)
		}()
		release, err := c.acquireDisk(t.Context(), types.ManagedObjectReference{}, ds)
		require.NoError(t, err)
		release()
		assert.InDelta(t, 5*time.Minute+10*time.Second, time.Since(began), float64(11*time.Second))

		s.millis.Store(30)
		time.Sleep(time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err = c.acquireDisk(ctx, types.ManagedObjectReference{}, ds)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.ErrorContains(t, err, "datastore-1, which takes 30 ms")

		began = time.Now()
		release, err = c.acquireDisk(t.Context(), types.ManagedObjectReference{}, ds)
		require.NoError(t, err, "others may keep it busy for ever")
		release()
		assert.InDelta(t, time.Hour, time.Since(began), float64(time.Minute))
		c.latency.stop()
	})
}

// Who waits leaves when its own context is over, and is let in when it has waited long enough, though another datastore's figure
// is being asked for and the server is silent.
func TestLatencyLeaves(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := latencyClient(t, &slowStore{}, LatencyOptions{MaxWait: 5 * time.Second})
		proceed := make(chan struct{})
		c.latency.read = func(context.Context, types.ManagedObjectReference) (int64, error) {
			<-proceed
			return 1, nil
		}
		first := make(chan error, 1)
		go func() { first <- c.latency.admit(t.Context(), refTo("Datastore", "datastore-1")) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		began := time.Now()
		require.ErrorIs(t, c.latency.admit(ctx, refTo("Datastore", "datastore-2")), context.DeadlineExceeded)
		assert.Equal(t, 100*time.Millisecond, time.Since(began))
		began = time.Now()
		require.NoError(t, c.latency.admit(t.Context(), refTo("Datastore", "datastore-3")))
		assert.Equal(t, 5*time.Second, time.Since(began))
		close(proceed)
		require.NoError(t, <-first)
		c.latency.stop()
	})
}

// A caller that leaves while the server is asked says nothing of the datastore: its control goes on.
func TestLatencyCallersLeaveNoTrace(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := latencyClient(t, &slowStore{}, LatencyOptions{})
		c.latency.read = func(ctx context.Context, _ types.ManagedObjectReference) (int64, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		}
		ds := refTo("Datastore", "datastore-1")
		for range latencyFails + 1 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			require.ErrorIs(t, c.latency.admit(ctx, ds), context.DeadlineExceeded)
			cancel()
		}
		assert.False(t, c.latency.stores[ds].off)
		c.latency.stop()
	})
}

func TestLatencyWithoutFigures(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := &slowStore{}
		s.millis.Store(100)
		told := make(chan string, 10)
		c := latencyClient(t, s, LatencyOptions{Tell: func(text string) { told <- text }})
		ds := refTo("Datastore", "datastore-1")
		img := c.throttle(pipetest.NewPattern(1, 1<<20), ds)
		time.Sleep(5 * time.Minute)
		failure := errors.New("boom")
		s.fails.Store(&failure)
		done := make(chan error)
		go func() {
			release, err := c.acquireDisk(t.Context(), types.ManagedObjectReference{}, ds)
			release()
			done <- err
		}()
		synctest.Wait()
		time.Sleep(latencyEvery)
		assert.Empty(t, told, "once may be chance")
		time.Sleep(5 * time.Minute)
		require.NoError(t, <-done)
		require.Len(t, told, 1)
		text := <-told
		assert.Contains(t, text, "datastore-1")
		assert.Contains(t, text, "boom")
		w := c.latency.stores[ds]
		assert.EqualValues(t, windowMost, w.window.size(), "and nothing is slowed down")
		asked := s.asked.Load()
		time.Sleep(time.Hour)
		assert.Equal(t, asked, s.asked.Load())
		require.NoError(t, img.Close())
		c.latency.stop()
	})
}

func TestLatencyReadEndsWithItsContext(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := latencyClient(t, &slowStore{}, LatencyOptions{})
		ds := refTo("Datastore", "datastore-1")
		img := c.throttle(pipetest.NewPattern(1, 1<<20), ds)
		c.latency.stores[ds].window.set(1)
		done, err := c.latency.stores[ds].window.take(t.Context(), 10)
		require.NoError(t, err, "a read that is larger than the window goes alone")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = img.ReadAt(ctx, make([]byte, 5), 77)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.ErrorContains(t, err, "5 bytes at 77")
		done()
		_, err = img.ReadAt(t.Context(), make([]byte, 5), 77)
		require.NoError(t, err)
		c.latency.stop()
	})
}

func TestLatencyOff(t *testing.T) {
	c := limitedClient(t, Limits{})
	c.latency = newLatency(c, LatencyOptions{Off: true})
	img := pipetest.NewPattern(1, 1<<20)
	assert.Equal(t, img, c.throttle(img, refTo("Datastore", "d")))
	release, err := c.acquireDisk(t.Context(), types.ManagedObjectReference{}, refTo("Datastore", "d"))
	require.NoError(t, err)
	release()
}

// The figure itself, from a simulator's counters.
func TestLatencyCounter(t *testing.T) {
	f := newFront(t, simulator.VPX())
	c := f.connect(t, ConnectOptions{})
	var ds types.ManagedObjectReference
	for ref := range f.model.Map().All("Datastore") {
		ds = f.model.Map().All("Datastore")[ref].Reference()
	}
	counters := &latencyCounters{c: c}
	_, err := counters.read(t.Context(), ds)
	require.NotZero(t, counters.counter)
	if err != nil {
		assert.ErrorContains(t, err, "no figure") // the simulator has figures for no instance of a datastore
		assert.True(t, passes(err))
	}
	store := counters.stores[ds]
	assert.NotEmpty(t, store.hosts)
	assert.NotEmpty(t, store.instance)

	series := func(instance string, values ...int64) types.BasePerfEntityMetricBase {
		return &types.PerfEntityMetric{Value: []types.BasePerfMetricSeries{&types.PerfMetricIntSeries{
			PerfMetricSeries: types.PerfMetricSeries{Id: types.PerfMetricId{CounterId: counters.counter, Instance: instance}}, Value: values}}}
	}
	got, err := counters.largest(ds, []types.BasePerfEntityMetricBase{
		series("x", 3), series("x", 99, 12), series("y", 1000), series("x", -1), series("x"), &types.PerfEntityMetricCSV{}, nil}, "x")
	require.NoError(t, err)
	assert.EqualValues(t, 12, got)
	_, err = counters.largest(ds, []types.BasePerfEntityMetricBase{series("x", -1)}, "x")
	require.ErrorContains(t, err, ds.Value)
	_, err = counters.read(t.Context(), refTo("Datastore", "datastore-none"))
	require.Error(t, err)
}
