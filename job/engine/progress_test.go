package engine

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A line that could not be written is a warning, and costs the lines after it nothing, whatever it left in the file.
func TestProgressThatFailsOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "progress")
	p, err := OpenProgress(path)
	require.NoError(t, err)
	whole := p.file
	full, err := os.Open(path) // nothing can be written into it
	require.NoError(t, err)
	done := func(id string, before func()) Task {
		return Task{ID: id, VM: id, Do: func(context.Context, *Attempt) (Outcome, error) {
			before()
			return Outcome{Point: "p" + id}, nil
		}}
	}
	list := []Task{done("1", func() {}), done("2", func() { p.file = full }), done("3", func() {
		p.file = whole
		_, err := whole.WriteAt([]byte(`{"task":{"id":"2","error":"`+strings.Repeat("x", 4000)), p.good) // as far as it came
		require.NoError(t, err)
	})}
	res, err := Run(t.Context(), "nightly", list, &Options{Progress: p, Limits: map[string]int{"tasks": 1}})
	require.NoError(t, err)
	require.Equal(t, []State{Done, Warned, Done}, []State{res.Tasks[0].State, res.Tasks[1].State, res.Tasks[2].State})
	require.Contains(t, res.Tasks[1].Warnings[0], "could not be written down")
	require.Equal(t, StatusWarned, res.Status())
	require.NoError(t, p.Close())
	require.NoError(t, full.Close())

	p, err = OpenProgress(path)
	require.NoError(t, err)
	require.Len(t, p.done, 2)
	_, known := p.earlier("3")
	require.True(t, known)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, p.good, info.Size(), "nothing of the torn line is left")
	require.NoError(t, p.Close())
}

// R198: ten thousand tasks, each of a host and a datastore of its own kind, cost the engine little.
func TestTenThousandTasks(t *testing.T) {
	n := 2000
	if os.Getenv("HIKAE_TEST_TIER") == "long" || os.Getenv("HIKAE_TEST_TIER") == "release" {
		n = 10000
	}
	var list []Task
	for i := range n {
		list = append(list, Task{ID: fmt.Sprint(i), VM: fmt.Sprint(i), Needs: []string{fmt.Sprint("host/", i%100), fmt.Sprint("datastore/", i%37), "repository/r"},
			Do: func(context.Context, *Attempt) (Outcome, error) { return Outcome{}, nil }})
	}
	begun := time.Now()
	res, err := Run(t.Context(), "nightly", list, &Options{Limits: map[string]int{"tasks": 16, "host/*": 2, "datastore/*": 4, "repository/r": 16}, Patience: 1, Events: func(Event) {}})
	require.NoError(t, err)
	require.Equal(t, n, res.Count(Done))
	t.Logf("%d tasks in %s: %s each", n, time.Since(begun), time.Since(begun)/time.Duration(n))
}
