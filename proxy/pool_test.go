package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/proxy"
)

// anyOf takes the first of names that has room.
func anyOf(names ...string) proxy.Chooser {
	return func(map[string]proxy.Load) ([]string, error) { return names, nil }
}

func poolOf(limits map[string]int) *proxy.Pool {
	p := proxy.NewPool(&proxy.PoolOptions{Life: time.Minute})
	for name, n := range limits {
		p.Set(name, n)
	}
	return p
}

// R168: tasks are counted, and limits are never exceeded, whoever comes and goes.
func TestPoolLimits(t *testing.T) {
	t.Parallel()
	limits := map[string]int{"a": 2, "b": 5, "c": 1}
	p := poolOf(limits)
	var running [3]atomic.Int32
	index := map[string]int{"a": 0, "b": 1, "c": 2}
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			ctx := t.Context()
			if i%10 == 9 {
				short, cancel := context.WithTimeout(ctx, time.Duration(i)*10*time.Microsecond)
				defer cancel()
				ctx = short
			}
			l, err := p.Take(ctx, fmt.Sprint(i), anyOf("a", "b", "c"))
			if err != nil {
				require.ErrorIs(t, err, context.DeadlineExceeded)
				return
			}
			n := running[index[l.Machine()]].Add(1)
			require.LessOrEqual(t, int(n), limits[l.Machine()])
			time.Sleep(time.Millisecond)
			running[index[l.Machine()]].Add(-1)
			l.Release()
			l.Release()
		})
	}
	wg.Wait()
	for name, load := range p.Loads() {
		require.Equal(t, proxy.Load{Limit: limits[name]}, load)
	}
	require.Empty(t, p.State().Waiting)
}

// A holder that dies does not renew its lease; the place is free when the lease's life is over, and not before.
func TestPoolDeadHolder(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		p := poolOf(map[string]int{"a": 1})
		dead, err := p.Take(t.Context(), "dead", anyOf("a"))
		require.NoError(t, err)
		start := time.Now()
		for range 5 { // while it lives
			time.Sleep(50 * time.Second)
			require.NoError(t, dead.Renew())
		}
		next, err := p.Take(t.Context(), "next", anyOf("a"))
		require.NoError(t, err)
		require.Equal(t, 5*50*time.Second+time.Minute, time.Since(start))
		<-dead.Lost()
		require.ErrorIs(t, dead.Renew(), proxy.ErrLeaseLost)
		dead.Release() // it was only slow: what is another's by now stays so
		require.Equal(t, 1, p.Loads()["a"].Tasks)
		next.Release()
		select {
		case <-next.Lost():
			require.Fail(t, "a lease that was given back was not lost")
		default:
		}
		require.ErrorIs(t, next.Renew(), proxy.ErrLeaseLost)
		time.Sleep(time.Hour)
		require.Zero(t, p.Loads()["a"].Tasks)
	})
}

// Whoever came first is served first, and nobody waits behind somebody who waits for another machine.
func TestPoolFair(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		p := poolOf(map[string]int{"a": 1, "b": 1})
		onA, err := p.Take(t.Context(), "first", anyOf("a"))
		require.NoError(t, err)
		var order []int
		var mu sync.Mutex
		for i := range 10 {
			go func() {
				l, err := p.Take(t.Context(), fmt.Sprint("waiter ", i), anyOf("a"))
				require.NoError(t, err)
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				time.Sleep(time.Second)
				l.Release()
			}()
			synctest.Wait()
		}
		quick, err := p.Take(t.Context(), "quick", anyOf("b"))
		require.NoError(t, err)
		quick.Release()

		impatient, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err = p.Take(impatient, "impatient", anyOf("a"))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Len(t, p.State().Waiting, 10)
		require.Equal(t, "waiter 0", p.State().Waiting[0])
		require.Contains(t, p.State().String(), "waiting: waiter 0, waiter 1")

		onA.Release()
		time.Sleep(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		require.Equal(t, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, order)
	})
}

// What changes while somebody waits is taken into account; what ends the waiting says why.
func TestPoolChanges(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		p := proxy.NewPool(&proxy.PoolOptions{MaxWaiting: 2})
		errs := make(chan error, 3)
		take := func(choose proxy.Chooser) {
			go func() {
				l, err := p.Take(t.Context(), "x", choose)
				if err == nil {
					defer l.Release()
					select {
					case <-l.Lost():
						err = proxy.ErrLeaseLost
					case <-time.After(time.Second):
					}
				}
				errs <- err
			}()
			synctest.Wait()
		}
		take(anyOf("new"))
		wrong := errors.New("the settings were changed")
		take(func(loads map[string]proxy.Load) ([]string, error) {
			if _, there := loads["new"]; there {
				return nil, wrong
			}
			return nil, nil
		})
		_, err := p.Take(t.Context(), "one too many", anyOf("new"))
		require.ErrorIs(t, err, proxy.ErrFull)
		p.Set("new", 1)
		require.ErrorIs(t, <-errs, wrong)
		require.NoError(t, <-errs)

		take(anyOf("new"))
		p.Drop("new")
		p.Drop("new")
		require.ErrorIs(t, <-errs, proxy.ErrLeaseLost)

		p.Set("new", 2)
		take(anyOf("new"))
		take(anyOf("other"))
		p.Close()
		got := []error{<-errs, <-errs}
		require.ErrorIs(t, errors.Join(got...), proxy.ErrPoolClosed)
		require.ErrorIs(t, errors.Join(got...), proxy.ErrLeaseLost)
		_, err = p.Take(t.Context(), "late", anyOf("new"))
		require.ErrorIs(t, err, proxy.ErrPoolClosed)
	})
}

// R152, R167: guests that come at once are spread over the machines of equal priority; a full one is waited for, not
// replaced by one of a lower priority. R169: after a failure the backup server takes over.
func TestPoolGuests(t *testing.T) {
	t.Parallel()
	p := poolOf(map[string]int{"near": 3, "linux": 3, "far": 3, "server": 3})
	c := company()
	got := map[string]int{}
	for range 6 {
		l, d, err := p.TakeGuest(t.Context(), c)
		require.NoError(t, err)
		require.Equal(t, d.Chosen(), l.Machine())
		got[l.Machine()]++
	}
	require.Equal(t, map[string]int{"near": 3, "linux": 3}, got)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, _, err := p.TakeGuest(ctx, c)
	require.ErrorIs(t, err, context.DeadlineExceeded)

	l, _, err := p.TakeGuest(t.Context(), c, "linux")
	require.NoError(t, err)
	require.Equal(t, "server", l.Machine())
	_, _, err = p.TakeGuest(t.Context(), c, "linux", "server")
	require.ErrorIs(t, err, proxy.ErrNoProxy)

	l, _, err = p.TakeGuest(t.Context(), company(rules(proxy.GuestRules{Manual: []string{"near", "far"}})), "near")
	require.NoError(t, err)
	require.Equal(t, "far", l.Machine())
	p.Drop("server")
	_, _, err = p.TakeGuest(t.Context(), c, "linux")
	require.ErrorIs(t, err, proxy.ErrUnknownMachine)
}
