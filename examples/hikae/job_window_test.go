package main

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/job/engine"
	"github.com/hikae/hikae/job/jobfile"
)

// R203, R204: what comes after the VMs is begun inside the window too: a step that is not begun when it closes waits, one that runs is finished or, where
// the file says so, ended and begun again, and the document says how long it was held up.
func TestStepsInTheWindow(t *testing.T) {
	for atClose, want := range map[string][]time.Duration{"finish": {time.Hour, 25 * time.Hour}, "stop": {time.Hour, 25 * time.Hour, 28 * time.Hour}} {
		t.Run(atClose, func(t *testing.T) {
			file, err := jobfile.Parse("job.yaml", []byte("name: x\nrepository: {url: r}\nsources: [{name: a, disks: [a]}]\n"+
				"window: {open: '01:00-05:00', zone: UTC, at-close: "+atClose+"}\n"))
			require.NoError(t, err)
			bubble.Test(t, func(t *testing.T) {
				begun := time.Now().UTC().Truncate(24 * time.Hour) // a midnight; the window opens in an hour
				require.Equal(t, begun, time.Now().UTC())
				var at []time.Duration
				takes := func(d time.Duration) func(context.Context) (jobStep, error) {
					return func(ctx context.Context) (jobStep, error) {
						at = append(at, time.Since(begun))
						select {
						case <-time.After(d):
							return jobStep{Text: "well"}, nil
						case <-ctx.Done():
							return jobStep{}, context.Cause(ctx)
						}
					}
				}
				first := 5 * time.Hour // longer than the window is open; the second time it is quicker, as what it did is done
				r := &jobRun{openJob: &openJob{t: &tool{stderr: io.Discard}, file: file}, waiting: map[string]bool{}}
				list := []engine.Task{
					r.stepTask("0", "copy", "there", func(ctx context.Context) (jobStep, error) {
						d := first
						first = 3 * time.Hour
						return takes(d)(ctx)
					}),
					r.stepTask("1", "verify", "here", takes(time.Minute)),
				}
				require.NoError(t, r.runSteps(t.Context(), list))
				assert.Equal(t, want, at)
				require.Len(t, r.doc.Steps, 2)
				assert.Equal(t, []string{"copy", "done", "verify", "done"}, []string{r.doc.Steps[0].What, r.doc.Steps[0].State, r.doc.Steps[1].What, r.doc.Steps[1].State})
				require.Len(t, r.doc.Notes, 2)
				for _, note := range r.doc.Notes {
					assert.Contains(t, note, "what comes after the VMs waited for it until")
				}
			})
		})
	}
}

// A step that fails is told with its name, and the others have their turn.
func TestStepThatFails(t *testing.T) {
	file, err := jobfile.Parse("job.yaml", []byte("name: x\nrepository: {url: r}\nsources: [{name: a, disks: [a]}]\n"))
	require.NoError(t, err)
	r := &jobRun{openJob: &openJob{t: &tool{stderr: io.Discard}, file: file}}
	calls := 0
	err = r.runSteps(t.Context(), []engine.Task{
		r.stepTask("0", "forget", "here", func(context.Context) (jobStep, error) { calls++; return jobStep{}, errors.New("no room") }),
		r.stepTask("1", "verify", "here", func(context.Context) (jobStep, error) { return jobStep{Text: "all is well"}, nil }),
	})
	require.EqualError(t, err, "forget: no room")
	require.Equal(t, 1, calls)
	require.Equal(t, []string{"failed", "done"}, []string{r.doc.Steps[0].State, r.doc.Steps[1].State})
	require.NoError(t, r.runSteps(t.Context(), nil))
}
