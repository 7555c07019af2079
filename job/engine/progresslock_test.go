package engine_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job/engine"
)

// R198, R203: two runs at once do not write into one progress: the second hears who has it. The lock goes with the process that has it, however
// that ends, and what it did is known to the next.
func TestProgressOfTwoRuns(t *testing.T) {
	if path := os.Getenv("HIKAE_TEST_PROGRESS_HOLDER"); path != "" {
		holdProgress(t, path)
		return
	}
	path := filepath.Join(t.TempDir(), "progress")
	holder := exec.Command(os.Args[0], "-test.run=^TestProgressOfTwoRuns$", "-test.v")
	holder.Env = append(os.Environ(), "HIKAE_TEST_PROGRESS_HOLDER="+path)
	said, err := holder.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, holder.Start())
	overdue := time.AfterFunc(2*time.Minute, func() { _ = holder.Process.Kill() })
	defer overdue.Stop()
	run := ""
	for lines := bufio.NewScanner(said); run == "" && lines.Scan(); {
		run, _ = strings.CutPrefix(lines.Text(), "HOLDS ")
		if run == lines.Text() {
			run = ""
		}
	}
	require.NotEmpty(t, run)

	_, err = engine.OpenProgress(path)
	var busy *hikae.BusyError
	require.ErrorAs(t, err, &busy)
	require.Contains(t, busy.Owner, fmt.Sprintf("process %d", holder.Process.Pid))

	require.NoError(t, holder.Process.Kill())
	_ = holder.Wait()
	p, err := engine.OpenProgress(path)
	require.NoError(t, err)
	require.Equal(t, run, p.Run(), "it goes on")
	res, err := engine.Run(t.Context(), "nightly", []engine.Task{{ID: "1", VM: "1", Do: doNothing}}, &engine.Options{Progress: p})
	require.NoError(t, err)
	require.True(t, res.Tasks[0].Earlier)

	_, err = engine.OpenProgress(path)
	require.ErrorAs(t, err, &busy, "in one process, too")
	require.NoError(t, p.Remove())
	left, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Empty(t, left, "neither it nor its lock")
}

func doNothing(context.Context, *engine.Attempt) (engine.Outcome, error) {
	return engine.Outcome{}, nil
}

// holdProgress is a run that has done something, and is killed.
func holdProgress(t *testing.T, path string) {
	p, err := engine.OpenProgress(path)
	require.NoError(t, err)
	_, err = engine.Run(t.Context(), "nightly", []engine.Task{{ID: "1", VM: "1", Do: doNothing}}, &engine.Options{Progress: p})
	require.NoError(t, err)
	fmt.Println("HOLDS", p.Run())
	time.Sleep(5 * time.Minute)
}
