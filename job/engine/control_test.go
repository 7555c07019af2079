package engine

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/job"
)

// worker works for a while, and ends early when it is told.
func worker(id string, took time.Duration, needs ...string) Task {
	return Task{ID: id, VM: id, Needs: needs, Do: func(ctx context.Context, _ *Attempt) (Outcome, error) {
		select {
		case <-time.After(took):
			return Outcome{Point: "point of " + id}, nil
		case <-ctx.Done():
			return Outcome{}, context.Cause(ctx)
		}
	}}
}

// Pause lets what runs go on, or ends it to be begun again; nothing is lost, and no attempt is counted for it.
func TestPause(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		for _, atOnce := range []bool{false, true} {
			c := &Control{}
			begun := time.Now()
			time.AfterFunc(5*time.Second, func() { c.Pause(atOnce) })
			time.AfterFunc(time.Hour, c.Resume)
			var said []What
			res, err := Run(t.Context(), "nightly", []Task{worker("1", 10*time.Second), worker("2", 10*time.Second)}, &Options{Control: c, Limits: map[string]int{"tasks": 1},
				Retry: Retry{Attempts: 1}, Events: func(e Event) { said = append(said, e.What) }})
			require.NoError(t, err)
			assert.Equal(t, Done, res.State)
			assert.Equal(t, []int{1, 1}, []int{res.Tasks[0].Attempts, res.Tasks[1].Attempts})
			want := time.Hour + 10*time.Second
			if atOnce {
				want += 10 * time.Second
				assert.Equal(t, []What{Begun, Paused, Resumed, Begun, Ended, Begun, Ended}, said)
			} else {
				assert.Equal(t, []What{Begun, Paused, Ended, Resumed, Begun, Ended}, said)
			}
			assert.Equal(t, want, time.Since(begun))
		}
	})
}

// One task, or all, is cancelled from outside; what one was cancelled for is no failure of the others.
func TestCancelByControl(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := &Control{}
		time.AfterFunc(time.Second, func() { c.CancelTask("1"); c.CancelTask("3") })
		res, err := Run(t.Context(), "nightly", []Task{worker("1", time.Minute), worker("2", time.Minute), worker("3", time.Minute)},
			&Options{Control: c, Limits: map[string]int{"tasks": 2}})
		require.ErrorIs(t, err, ErrCancelled)
		assert.Equal(t, []State{Cancelled, Done, Cancelled}, []State{res.Tasks[0].State, res.Tasks[1].State, res.Tasks[2].State})
		assert.Equal(t, StatusWarned, res.Status())
		assert.Zero(t, res.Tasks[2].Attempts)

		c = &Control{}
		time.AfterFunc(time.Second, c.Cancel)
		begun := time.Now()
		res, err = Run(t.Context(), "nightly", []Task{worker("1", time.Minute), worker("2", time.Minute)}, &Options{Control: c, Limits: map[string]int{"tasks": 1}})
		require.ErrorIs(t, err, ErrCancelled)
		assert.Equal(t, StatusInterrupted, res.Status())
		assert.Equal(t, time.Second, time.Since(begun))
	})
}

// A host that is away costs its VMs a few attempts between them, others go on meanwhile, and when it is back its VMs are backed up.
func TestHostThatIsAway(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		begun := time.Now()
		var mu sync.Mutex
		attempts := 0
		var list []Task
		for i := range 200 {
			host := fmt.Sprint("host/", "ab"[i%2:i%2+1])
			list = append(list, Task{ID: fmt.Sprint(i), VM: fmt.Sprint(i), Needs: []string{host, "repository/r"}, Do: func(context.Context, *Attempt) (Outcome, error) {
				time.Sleep(time.Second)
				if host == "host/a" && time.Since(begun) < 20*time.Minute {
					mu.Lock()
					attempts++
					mu.Unlock()
					return Outcome{}, errAway
				}
				return Outcome{}, nil
			}})
		}
		rested := map[string]int{}
		res, err := Run(t.Context(), "nightly", list, &Options{Limits: map[string]int{"tasks": 8}, GiveUp: 100, Events: func(e Event) {
			if e.What == Rested {
				rested[e.Needs]++
			}
		}})
		require.NoError(t, err)
		assert.Equal(t, Done, res.State)
		assert.LessOrEqual(t, attempts, 40, "100 VMs")
		assert.Positive(t, rested["host/a"])
		assert.Zero(t, rested["repository/r"], "other hosts' VMs are well")
		assert.Less(t, time.Since(begun), 40*time.Minute)

		// One that does not come back is given up by name.
		begun, attempts = time.Now(), 0
		away := func(id string) Task {
			return Task{ID: id, VM: id, Needs: []string{"host/a"}, Do: func(context.Context, *Attempt) (Outcome, error) {
				attempts++
				return Outcome{}, errAway
			}}
		}
		list = nil
		for i := range 200 {
			list = append(list, away(fmt.Sprint(i)))
		}
		res, err = Run(t.Context(), "nightly", list, &Options{Limits: map[string]int{"tasks": 1}})
		require.ErrorIs(t, err, errAway)
		assert.Equal(t, 200, res.Count(Failed))
		assert.Contains(t, res.Tasks[199].Error, "host/a is away")
		assert.LessOrEqual(t, attempts, 12)
		assert.Equal(t, StatusFailed, res.Status())
	})
}

// Nobody waits for ever: one that needs much is not passed by those that need little.
func TestNobodyStarves(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		list := []Task{worker("first a", time.Minute, "a"), worker("big", time.Second, "a", "b")}
		for i := range 60 {
			list = append(list, worker(fmt.Sprint("a", i), time.Minute, "a"), worker(fmt.Sprint("b", i), time.Minute+time.Duration(i%7)*time.Second, "b"))
		}
		res, err := Run(t.Context(), "nightly", list, &Options{Limits: map[string]int{"a": 1, "b": 1}, Patience: 5 * time.Minute})
		require.NoError(t, err)
		assert.Less(t, res.Tasks[1].Waited, (8 * time.Minute).Seconds())
		refused, err := Run(t.Context(), "nightly", list[:2], &Options{Limits: map[string]int{"b": 0}})
		require.ErrorContains(t, err, "the limit of b is 0")
		assert.Equal(t, Done, refused.Tasks[0].State)
	})
}

// claims are leases that a test takes away.
type claims struct {
	mu   sync.Mutex
	held map[string]*claim
}

type claim struct {
	of   *claims
	what string
	lost chan struct{}
}

func (c *claims) Claim(_ context.Context, what, owner string) (hikae.Claim, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held[what] != nil {
		return nil, &hikae.BusyError{What: what, Owner: "somebody"}
	}
	c.held[what] = &claim{c, what, make(chan struct{})}
	return c.held[what], nil
}

func (c *claim) Lost() <-chan struct{} { return c.lost }
func (c *claim) Release(context.Context) error {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	delete(c.of.held, c.what)
	return nil
}

// What somebody else works on is refused with their name and not tried again; who loses a claim stops, and tries again.
func TestClaims(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := &claims{held: map[string]*claim{}}
		_, err := c.Claim(t.Context(), "vm/1", "")
		require.NoError(t, err)
		one, two := worker("1", time.Minute), worker("2", time.Minute)
		one.Claim, two.Claim = "vm/1", "vm/2"
		time.AfterFunc(10*time.Second, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			close(c.held["vm/2"].lost)
		})
		res, err := Run(t.Context(), "nightly", []Task{one, two}, &Options{Claims: c})
		var busy *hikae.BusyError
		require.ErrorAs(t, err, &busy)
		assert.Equal(t, Failed, res.Tasks[0].State)
		assert.Equal(t, 1, res.Tasks[0].Attempts)
		assert.Equal(t, Done, res.Tasks[1].State)
		assert.Equal(t, 2, res.Tasks[1].Attempts)
		assert.Len(t, c.held, 1)
	})
}

// A run that was killed goes on: what is done is not done again, and the name of the run stays.
func TestProgress(t *testing.T) {
	path := filepath.Join(t.TempDir(), "progress")
	var ran []string
	work := func(id string, err error) Task {
		return Task{ID: id, VM: id, Do: func(_ context.Context, a *Attempt) (Outcome, error) {
			ran = append(ran, a.Run)
			return Outcome{Point: "p" + id}, err
		}}
	}
	p, err := OpenProgress(path)
	require.NoError(t, err)
	name := p.Run()
	_, err = Run(t.Context(), "nightly", []Task{work("1", nil), work("2", errAway), work("3", nil)}, &Options{Progress: p, Retry: Retry{Attempts: 1}, Limits: map[string]int{"tasks": 1}})
	require.ErrorIs(t, err, errAway)
	_, err = p.file.WriteAt([]byte(`{"task":{"id":"2","state":"do`), p.good) // torn by a kill
	require.NoError(t, err)
	require.NoError(t, p.Close())

	p, err = OpenProgress(path)
	require.NoError(t, err)
	require.Equal(t, name, p.Run())
	ran = nil
	res, err := Run(t.Context(), "nightly", []Task{work("1", nil), work("2", nil), work("3", nil)}, &Options{Progress: p})
	require.NoError(t, err)
	require.Equal(t, []string{"nightly/" + name + "/2"}, ran)
	require.True(t, res.Tasks[0].Earlier)
	require.Equal(t, "p1", res.Tasks[0].Point)
	require.False(t, res.Tasks[1].Earlier)
	require.NoError(t, p.Remove())
	p, err = OpenProgress(path)
	require.NoError(t, err)
	require.NotEqual(t, name, p.Run())
	require.NoError(t, p.Close())
}

// A listener that takes its time misses progress and nothing else, and holds nobody up for progress.
func TestSlowListener(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		heard := map[string]int{}
		talk := func(id string) Task {
			return Task{ID: id, VM: id, Do: func(_ context.Context, a *Attempt) (Outcome, error) {
				for range 1000 {
					a.Events(job.DiskProgress{Key: "d"})
					time.Sleep(time.Millisecond)
				}
				a.Events(job.Warned{Text: "w"})
				return Outcome{}, nil
			}}
		}
		begun := time.Now()
		_, err := Run(t.Context(), "nightly", []Task{talk("1"), talk("2")}, &Options{Events: func(e Event) {
			heard[fmt.Sprintf("%s %T", e.What, e.Session)]++
			time.Sleep(100 * time.Millisecond)
		}})
		require.NoError(t, err)
		assert.Equal(t, 2, heard["told job.Warned"])
		assert.Equal(t, 2, heard["ended <nil>"])
		assert.Less(t, heard["told job.DiskProgress"], 100)
		assert.Less(t, time.Since(begun), 10*time.Second)
		assert.False(t, errors.Is(err, context.Canceled))
	})
}
