package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hikae/hikae/internal/bubble"
)

// ledger is the model of a run that a test keeps by itself: who has what, from what the tasks do.
type ledger struct {
	mu     sync.Mutex
	limits map[string]int
	needs  map[string][]string // of each task
	waits  map[string]bool
	used   map[string]int
	over   []string
}

func (l *ledger) limit(need string) (int, bool) {
	if n, ok := l.limits[need]; ok {
		return n, true
	}
	n, ok := l.limits[strings.SplitN(need, "/", 2)[0]+"/*"]
	return n, ok
}

func (l *ledger) take(id string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.waits, id)
	for _, need := range l.needs[id] {
		l.used[need] += n
		if limit, ok := l.limit(need); ok && l.used[need] > limit {
			l.over = append(l.over, fmt.Sprintf("%s has %d of %d", need, l.used[need], limit))
		}
	}
}

// idle are the tasks that wait although all that they need is free.
func (l *ledger) idle() (ids []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id := range maps.Keys(l.waits) {
		if !slices.ContainsFunc(l.needs[id], func(need string) bool {
			limit, ok := l.limit(need)
			return ok && l.used[need] >= limit
		}) {
			ids = append(ids, id)
		}
	}
	return ids
}

// R198, R201: with any limits, needs and durations, no limit is ever passed, and nobody waits for what is free.
func TestAdmissionAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		l := &ledger{limits: map[string]int{"tasks": rapid.IntRange(1, 5).Draw(rt, "tasks"), "host/*": rapid.IntRange(1, 3).Draw(rt, "hosts"),
			"host/a": 1, "store/x": rapid.IntRange(1, 3).Draw(rt, "x")}, needs: map[string][]string{}, waits: map[string]bool{}, used: map[string]int{}}
		names := []string{"host/a", "host/b", "host/c", "store/x", "store/free"}
		var list []Task
		for i := range rapid.IntRange(0, 25).Draw(rt, "n") {
			id := fmt.Sprint(i)
			needs := rapid.SliceOfNDistinct(rapid.SampledFrom(names), 0, 3, rapid.ID).Draw(rt, "needs")
			took := time.Duration(rapid.IntRange(1, 9).Draw(rt, "took")) * time.Second
			l.needs[id], l.waits[id] = append([]string{"tasks"}, needs...), true
			list = append(list, Task{ID: id, VM: id, Needs: needs, Do: func(context.Context, *Attempt) (Outcome, error) {
				l.take(id, 1)
				time.Sleep(took)
				l.take(id, -1)
				return Outcome{}, nil
			}})
		}
		bubble.Test(t, func(*testing.T) { l.run(list) })
		require.Empty(rt, l.over)
		require.Empty(rt, l.waits)
	})
}

// run looks at the model each half second, when nothing moves. Tasks take whole seconds, so that nobody is between two of them.
func (l *ledger) run(list []Task) {
	done := make(chan Result, 1)
	go func() {
		res, _ := Run(context.Background(), "model", list, &Options{Limits: l.limits, Patience: time.Hour})
		done <- res
	}()
	for {
		select {
		case res := <-done:
			if n := res.Count(Done); n != len(list) {
				l.over = append(l.over, fmt.Sprintf("%d of %d are done", n, len(list)))
			}
			return
		case <-time.After(500 * time.Millisecond):
		}
		synctest.Wait()
		for _, id := range l.idle() {
			l.over = append(l.over, fmt.Sprintf("%s waits, and all that it needs is free", id))
		}
	}
}

// Who has waited for a host beyond all patience keeps no place of the whole from those who need another host.
func TestPatienceKeepsNothingFromOthers(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var list []Task
		for i := range 60 {
			list = append(list, worker(fmt.Sprint("a", i), 5*time.Minute, "host/a", "repository/r"))
		}
		for i := range 10 {
			list = append(list, worker(fmt.Sprint("b", i), 5*time.Minute, "host/b", "repository/r"))
		}
		res, err := Run(t.Context(), "nightly", list, &Options{Limits: map[string]int{"tasks": 2, "repository/r": 2, "host/*": 1}})
		require.NoError(t, err)
		assert.InDelta(t, (45 * time.Minute).Seconds(), res.Tasks[69].Waited, 1, "the tenth of host b, which nobody else waits for")
		assert.InDelta(t, (5 * time.Hour).Seconds(), res.Seconds, 1)
	})
}

// VMs that are bad by themselves, and stand beside each other, do not take the VMs of their host with them; a host that has only such
// is given up with each one's own error.
func TestBadVMsAreNotTheirHost(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		errBad := errors.New("this VM alone is bad")
		for _, bad := range []int{3, 12, 40} {
			for _, atOnce := range []int{1, 3} {
				var list []Task
				for i := range 40 {
					list = append(list, Task{ID: fmt.Sprint(i), VM: fmt.Sprint(i), Needs: []string{"host/a", "repository/r"}, Do: func(context.Context, *Attempt) (Outcome, error) {
						time.Sleep(time.Second)
						if i < bad {
							return Outcome{}, errBad
						}
						return Outcome{}, nil
					}})
				}
				res, err := Run(t.Context(), "nightly", list, &Options{Limits: map[string]int{"tasks": atOnce}})
				require.ErrorIs(t, err, errBad)
				assert.Equal(t, 40-bad, res.Count(Done), "%d bad, %d at once", bad, atOnce)
				for _, task := range res.Tasks[:bad] {
					require.ErrorIs(t, task.Err, errBad)
				}
			}
		}
	})
}

// A cancellation that comes when all is done changes nothing: the status says what became of the tasks.
func TestCancelAfterTheEnd(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c := &Control{}
		last := Task{ID: "1", VM: "1", Do: func(context.Context, *Attempt) (Outcome, error) {
			cancel()
			c.Cancel()
			return Outcome{Point: "p"}, nil
		}}
		res, err := Run(ctx, "nightly", []Task{last}, &Options{Control: c})
		require.NoError(t, err)
		assert.Equal(t, Done, res.State)
		assert.Equal(t, StatusDone, res.Status())
	})
}
