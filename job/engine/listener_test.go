package engine

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/job"
)

// A listener that hangs holds up no task, and the end of the run only for a while.
func TestListenerThatHangs(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		begun := time.Now()
		var heard atomic.Int32 // it is still at work when the run is over
		var worked time.Duration
		talk := func(id string) Task {
			return Task{ID: id, VM: id, Do: func(_ context.Context, a *Attempt) (Outcome, error) {
				time.Sleep(time.Minute)
				a.Events(job.Warned{Text: "w"})
				worked = time.Since(begun)
				return Outcome{}, nil
			}}
		}
		res, err := Run(t.Context(), "nightly", []Task{talk("1"), talk("2")}, &Options{Limits: map[string]int{"tasks": 1}, Events: func(Event) {
			heard.Add(1)
			time.Sleep(time.Hour)
		}})
		require.NoError(t, err)
		assert.Equal(t, Done, res.State)
		assert.Equal(t, 2*time.Minute, worked)
		assert.LessOrEqual(t, time.Since(begun), 2*time.Minute+2*listenWithin)
		time.Sleep(2 * time.Hour)
		assert.EqualValues(t, 1, heard.Load(), "nothing more after the run")
	})
}

// One that is only slow hears all that the engine says, in order, and how much of the rest it missed; what waits for it is bounded.
func TestListenerThatIsSlow(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		const said = 3 * maxSaid
		var order []What
		heard, missed := 0, 0
		talk := Task{ID: "1", VM: "1", Do: func(_ context.Context, a *Attempt) (Outcome, error) {
			for range said {
				a.Events(job.Warned{Text: "w"})
				a.Events(job.DiskProgress{Key: "d"})
			}
			time.Sleep(24 * time.Hour) // by now it has heard what waited
			a.Events(job.Warned{Text: "last"})
			return Outcome{}, nil
		}}
		res, err := Run(t.Context(), "nightly", []Task{talk}, &Options{Events: func(e Event) {
			time.Sleep(time.Second)
			if e.What != Told {
				order = append(order, e.What)
				return
			}
			missed += e.Missed
			if _, ok := e.Session.(job.Warned); ok {
				heard++
			}
		}})
		require.NoError(t, err)
		assert.Equal(t, Done, res.State)
		assert.Equal(t, []What{Begun, Ended}, order)
		assert.Equal(t, said+1, heard+missed)
		assert.LessOrEqual(t, heard, maxSaid+2)
		assert.Greater(t, heard, maxSaid/2)
	})
}
