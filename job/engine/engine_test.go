package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/hikae/hikae/internal/bubble"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errAway = errors.New("the host is away")

// R198, R201: limits hold at every moment, every task has its turn, and one that waits for a host lets others go first.
func TestLimits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limits := map[string]int{"tasks": rapid.IntRange(1, 6).Draw(t, "tasks"), "host/*": rapid.IntRange(1, 3).Draw(t, "each"), "host/a": 1}
		var mu sync.Mutex
		used, ran := map[string]int{}, 0
		var list []Task
		for i := range rapid.IntRange(0, 40).Draw(t, "n") {
			host := "host/" + rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "host")
			took := time.Duration(rapid.IntRange(0, 5).Draw(t, "took")) * time.Millisecond / 2
			list = append(list, Task{ID: fmt.Sprint(i), VM: fmt.Sprint(i), Needs: []string{host}, Do: func(context.Context, *Attempt) (Outcome, error) {
				mu.Lock()
				used[host]++
				used["tasks"]++
				ran++
				over := used["tasks"] > limits["tasks"] || host == "host/a" && used[host] > 1 || used[host] > limits["host/*"]
				mu.Unlock()
				time.Sleep(took)
				mu.Lock()
				defer mu.Unlock()
				used[host]--
				used["tasks"]--
				if over {
					return Outcome{}, errors.New("a limit was passed")
				}
				return Outcome{}, nil
			}})
		}
		results, _ := Run(context.Background(), "test", list, &Options{Limits: limits, Retry: Retry{Attempts: 1}})
		require.Len(t, results.Tasks, len(list))
		for i, r := range results.Tasks {
			require.Equal(t, Done, r.State, "%v", r.Err)
			require.Equal(t, fmt.Sprint(i), r.ID, "in the order of the tasks")
		}
		require.Equal(t, len(list), ran)
	})
}

func TestWhoNeedsSomethingElseGoesFirst(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var order []string
		one := func(id, host string) Task {
			return Task{ID: id, VM: id, Needs: []string{host}, Do: func(context.Context, *Attempt) (Outcome, error) {
				time.Sleep(time.Second)
				return Outcome{}, nil
			}}
		}
		results, _ := Run(t.Context(), "test", []Task{one("1", "host/a"), one("2", "host/a"), one("3", "host/b")}, &Options{Limits: map[string]int{"host/*": 1},
			Events: func(e Event) {
				if e.What == Begun {
					order = append(order, e.Task)
				}
			}})
		assert.Equal(t, []string{"1", "3", "2"}, order)
		assert.InDelta(t, 1, results.Tasks[1].Waited, 0.01)
	})
}

func TestRetry(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		tries, errPermanent := map[string]int{}, errors.New("it will never do")
		failing := func(id string, times int, err error) Task {
			return Task{ID: id, VM: id, Do: func(_ context.Context, a *Attempt) (Outcome, error) {
				tries[id]++
				if a.Number != tries[id] {
					return Outcome{}, errors.New("attempts are not counted")
				}
				if a.Number <= times {
					return Outcome{Point: "half"}, err
				}
				return Outcome{Point: "whole", Warnings: []string{"late"}}, nil
			}}
		}
		var waits []time.Duration
		begun := time.Now()
		results, _ := Run(t.Context(), "test", []Task{failing("well", 2, errAway), failing("never", 9, errAway), failing("permanent", 9, errPermanent)},
			&Options{Limits: map[string]int{"tasks": 1}, Retry: Retry{Attempts: 3, First: time.Minute, Most: 90 * time.Second,
				Permanent: func(err error) bool { return errors.Is(err, errPermanent) }}, Events: func(e Event) {
				if e.What == Retried {
					waits = append(waits, e.Wait)
				}
			}})
		assert.Equal(t, Warned, results.Tasks[0].State)
		assert.Equal(t, "whole", results.Tasks[0].Point)
		assert.Equal(t, 3, results.Tasks[0].Attempts)
		assert.Equal(t, Failed, results.Tasks[1].State)
		require.ErrorIs(t, results.Tasks[1].Err, errAway)
		assert.Equal(t, 1, results.Tasks[2].Attempts)
		require.ErrorIs(t, results.Tasks[2].Err, errPermanent)
		require.Len(t, waits, 4)
		for _, w := range waits {
			assert.True(t, w >= 45*time.Second && w <= 113*time.Second, "%s", w)
		}
		assert.GreaterOrEqual(t, time.Since(begun), 45*time.Second+67*time.Second)
	})
}

func TestWindow(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		begun := time.Now()
		window := func(now time.Time) (bool, time.Time) { // open for an hour of every four, beginning in two
			at := now.Sub(begun) - 2*time.Hour
			if at < 0 {
				return false, begun.Add(2 * time.Hour)
			}
			cycle := at / (4 * time.Hour) * 4 * time.Hour
			if at-cycle < time.Hour {
				return true, begun.Add(2*time.Hour + cycle + time.Hour)
			}
			return false, begun.Add(2*time.Hour + cycle + 4*time.Hour)
		}
		long := func(times map[int]time.Duration) Task {
			return Task{ID: "long", VM: "long", Do: func(ctx context.Context, _ *Attempt) (Outcome, error) {
				times[len(times)] = time.Since(begun)
				select {
				case <-time.After(90 * time.Minute >> (len(times) - 1)):
					return Outcome{}, nil
				case <-ctx.Done():
					return Outcome{}, context.Cause(ctx)
				}
			}}
		}
		for _, c := range []struct {
			stop  bool
			begun map[int]time.Duration
		}{{false, map[int]time.Duration{0: 2 * time.Hour}}, {true, map[int]time.Duration{0: 2 * time.Hour, 1: 6 * time.Hour}}} {
			begun = time.Now()
			times, closed := map[int]time.Duration{}, 0
			results, _ := Run(t.Context(), "test", []Task{long(times)}, &Options{Window: window, StopAtClose: c.stop, Retry: Retry{Attempts: 1},
				Events: func(e Event) {
					if e.What == Closed {
						closed++
						assert.False(t, e.Until.IsZero())
					}
				}})
			assert.Equal(t, Done, results.Tasks[0].State, "%v", results.Tasks[0].Err)
			assert.Equal(t, 1, results.Tasks[0].Attempts, "being stopped by the window is no try")
			assert.Equal(t, c.begun, times)
			assert.Equal(t, len(c.begun), closed)
		}
	})
}

func TestCancelled(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(errAway) })
		slow := func(id string) Task {
			return Task{ID: id, VM: id, Do: func(ctx context.Context, _ *Attempt) (Outcome, error) {
				<-ctx.Done()
				time.Sleep(time.Minute) // what is given back takes its time
				return Outcome{Point: "p"}, ctx.Err()
			}}
		}
		begun := time.Now()
		results, _ := Run(ctx, "test", []Task{slow("1"), slow("2")}, &Options{Limits: map[string]int{"tasks": 1}})
		assert.Equal(t, Cancelled, results.Tasks[0].State)
		assert.Equal(t, "p", results.Tasks[0].Point, "what was done stands")
		assert.Equal(t, Cancelled, results.Tasks[1].State)
		require.ErrorIs(t, results.Tasks[1].Err, errAway)
		assert.Zero(t, results.Tasks[1].Attempts)
		assert.Equal(t, time.Minute+time.Second, time.Since(begun))
	})
}

func TestPanicIsOneTasksFailure(t *testing.T) {
	results, _ := Run(t.Context(), "test", []Task{
		{ID: "1", VM: "1", Do: func(context.Context, *Attempt) (Outcome, error) { panic("oh") }},
		{ID: "2", VM: "2", Do: func(context.Context, *Attempt) (Outcome, error) { return Outcome{}, nil }},
	}, &Options{Retry: Retry{Attempts: 1}})
	require.ErrorContains(t, results.Tasks[0].Err, "oh")
	assert.Equal(t, Done, results.Tasks[1].State)
	none, err := Run(t.Context(), "test", nil, nil)
	require.NoError(t, err)
	assert.Equal(t, Done, none.State)
	_, err = Run(t.Context(), "test", []Task{{ID: "1"}}, nil)
	require.ErrorIs(t, err, fs.ErrInvalid)
}
