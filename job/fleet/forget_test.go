package fleet_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/job/fleet"
	"github.com/hikae/hikae/job/queue"
)

// entriesOf counts what a table of the queue holds.
func entriesOf(t *testing.T, q queue.Queue, table string) (n int) {
	t.Helper()
	tab, err := q.Table(t.Context(), table)
	require.NoError(t, err)
	for _, err := range tab.List(t.Context(), "") {
		require.NoError(t, err)
		n++
	}
	return n
}

func runNames(t *testing.T, q queue.Queue, job string) (names []string) {
	t.Helper()
	list, err := fleet.Runs(t.Context(), q, job)
	require.NoError(t, err)
	for _, r := range list {
		names = append(names, r.Run)
	}
	return names
}

// Tables do not grow for ever: of each job the newest runs stay, and another job's are not touched.
func TestOldRunsAreForgotten(t *testing.T) {
	q := queue.NewMemory(&queue.MemoryOptions{Lease: time.Second})
	workBeside(t, q, func(context.Context, *fleet.Work) (fleet.Report, error) { return fleet.Report{}, nil }, nil)
	other := run(2)
	other.Job, other.Run = "weekly", "0"
	require.NoError(t, (<-dispatchBeside(t, q, other)).err)
	for i := range 5 {
		r := run(3)
		r.Run = fmt.Sprint(i)
		res, err := fleet.Dispatch(t.Context(), q, r, &fleet.DispatchOptions{Keep: &fleet.Keep{Runs: 3}})
		require.NoError(t, err)
		require.Empty(t, res.Warnings)
		require.LessOrEqual(t, entriesOf(t, q, "outcomes"), 2+3*3)
	}
	require.Equal(t, []string{"2", "3", "4"}, runNames(t, q, "nightly"))
	require.Equal(t, []string{"0"}, runNames(t, q, "weekly"))
	require.Equal(t, 2+3*3, entriesOf(t, q, "outcomes"))
	list, err := fleet.Runs(t.Context(), q, "")
	require.NoError(t, err)
	for _, r := range list {
		require.Equal(t, map[fleet.State]int{fleet.Done: r.Tasks}, r.States, r.Run)
	}

	n, err := fleet.Forget(t.Context(), q, "nightly", &fleet.Keep{Age: time.Nanosecond})
	require.NoError(t, err)
	require.Equal(t, 3, n)
	require.Equal(t, 2, entriesOf(t, q, "outcomes"))
	require.Zero(t, entriesOf(t, q, "tries"))
	require.Equal(t, 1, entriesOf(t, q, "runs"))
}

// A run that is under way is not forgotten for its age. One too many goes, and what the queue has of it is dropped without being done.
func TestUnfinishedRuns(t *testing.T) {
	q := queue.NewMemory(&queue.MemoryOptions{Lease: time.Second})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := fleet.Dispatch(ctx, q, run(2), nil) // nobody works yet
	require.ErrorIs(t, err, fleet.ErrUnfinished)
	n, err := fleet.Forget(t.Context(), q, "nightly", &fleet.Keep{Age: time.Nanosecond})
	require.NoError(t, err)
	require.Zero(t, n)

	did := make(chan string, 100)
	second := run(1)
	second.Run, second.Tasks[0].Label = "2", "site/b"
	result := make(chan error, 1)
	go func() {
		_, err := fleet.Dispatch(t.Context(), q, second, &fleet.DispatchOptions{Keep: &fleet.Keep{Runs: 1}})
		result <- err
	}()
	other := fleet.NewWorker(q, []string{"site/b"}, map[string]fleet.Handler{"backup": func(context.Context, *fleet.Work) (fleet.Report, error) { return fleet.Report{}, nil }}, nil)
	ctx, cancel = context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() { over <- other.Run(ctx) }()
	require.NoError(t, <-result)
	cancel()
	require.NoError(t, <-over)
	require.Equal(t, []string{"2"}, runNames(t, q, "nightly"))

	workBeside(t, q, func(_ context.Context, w *fleet.Work) (fleet.Report, error) {
		did <- w.VM
		return fleet.Report{}, nil
	}, nil)
	require.Eventually(t, func() bool {
		c, err := q.Counts(t.Context())
		return err == nil && c == queue.Counts{}
	}, 30*time.Second, 10*time.Millisecond)
	require.Empty(t, did)
	require.NoError(t, (<-dispatchBeside(t, q, run(2))).err, "who wants it still asks again")
	require.Len(t, did, 2)
}
