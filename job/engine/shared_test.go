package engine_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job/engine"
)

// sharedTasks are some that need one host and mark in a folder that they are at it. More than two at once is a failure.
func sharedTasks(dir, mark string, n int, hold time.Duration) (out []engine.Task) {
	for k := range n {
		id := fmt.Sprint(k)
		out = append(out, engine.Task{ID: id, VM: id, Needs: []string{"host/a", "repository/r"}, Do: func(ctx context.Context, _ *engine.Attempt) (engine.Outcome, error) {
			at := filepath.Join(dir, fmt.Sprintf("%s-%d-%s", mark, os.Getpid(), id))
			if err := os.WriteFile(at, nil, 0o600); err != nil {
				return engine.Outcome{}, err
			}
			there, err := filepath.Glob(filepath.Join(dir, "at-*"))
			if len(there) > 2 {
				err = errors.Join(err, fmt.Errorf("%d at once: %v", len(there), there))
			}
			fmt.Println("AT", id)
			select {
			case <-time.After(hold):
			case <-ctx.Done():
			}
			return engine.Outcome{}, errors.Join(err, os.Remove(at))
		}})
	}
	return out
}

func runShared(t *testing.T, dir, mark string, n int, hold time.Duration, heard func(engine.Event)) engine.Result {
	claims, err := hikae.OpenFileClaims(filepath.Join(dir, "claims"))
	require.NoError(t, err)
	res, err := engine.Run(t.Context(), "nightly", sharedTasks(dir, mark, n, hold), &engine.Options{Shared: claims, Limits: map[string]int{"tasks": 8, "host/*": 2},
		Retry: engine.Retry{Attempts: 1}, Events: heard})
	require.NoError(t, err)
	return res
}

// R201, R203: runs of two processes keep to a limit together; what one that was killed had is free.
func TestSharedLimits(t *testing.T) {
	if dir := os.Getenv("HIKAE_TEST_SHARED_LIMITS"); dir != "" {
		if os.Getenv("HIKAE_TEST_SHARED_HOLD") != "" {
			runShared(t, dir, "held", 2, 5*time.Minute, nil)
		} else {
			runShared(t, dir, "at", 6, 50*time.Millisecond, nil)
		}
		return
	}
	dir := t.TempDir()
	child := func(env ...string) (*exec.Cmd, *bufio.Scanner) {
		cmd := exec.Command(os.Args[0], "-test.run=^TestSharedLimits$", "-test.v")
		cmd.Env = append(append(os.Environ(), "HIKAE_TEST_SHARED_LIMITS="+dir), env...)
		said, err := cmd.StdoutPipe()
		require.NoError(t, err)
		cmd.Stderr = cmd.Stdout
		require.NoError(t, cmd.Start())
		overdue := time.AfterFunc(3*time.Minute, func() { _ = cmd.Process.Kill() })
		t.Cleanup(func() { overdue.Stop() })
		return cmd, bufio.NewScanner(said)
	}
	held, lines := child("HIKAE_TEST_SHARED_HOLD=1")
	for at := 0; at < 2 && lines.Scan(); {
		if lines.Text() == "AT 0" || lines.Text() == "AT 1" {
			at++
		}
	}
	var waited sync.Once
	var by error
	begun := 0
	over := make(chan engine.Result, 1)
	told := make(chan struct{})
	go func() {
		over <- runShared(t, dir, "at", 6, 50*time.Millisecond, func(e engine.Event) {
			switch {
			case e.What == engine.Begun && by == nil:
				begun++
			case e.What == engine.Waiting && e.Err != nil:
				waited.Do(func() { by = e.Err; close(told) })
			}
		})
	}()
	<-told
	var busy *hikae.BusyError
	require.ErrorAs(t, by, &busy)
	require.Zero(t, begun, "the other has both places")
	require.Contains(t, busy.Owner, "job nightly, run ")
	require.Contains(t, busy.Owner, fmt.Sprintf("process %d", held.Process.Pid))
	require.NoError(t, held.Process.Kill())
	_ = held.Wait()
	other, lines := child() // beside the one that waited
	var said []string
	for lines.Scan() {
		said = append(said, lines.Text())
	}
	require.NoError(t, other.Wait(), "%v", said)
	res := <-over
	require.Equal(t, 6, res.Count(engine.Done))
	left, err := filepath.Glob(filepath.Join(dir, "claims", "*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

// A limit that cannot be shared keeps nobody from a point: it is a warning, and holds for the run itself.
func TestLimitThatCannotBeShared(t *testing.T) {
	res, err := engine.Run(t.Context(), "nightly", sharedTasks(t.TempDir(), "at", 3, 0), &engine.Options{Shared: brokenClaims{}, Limits: map[string]int{"host/a": 1}})
	require.NoError(t, err)
	require.Equal(t, 3, res.Count(engine.Warned))
	for _, task := range res.Tasks {
		require.Len(t, task.Warnings, 1)
		require.Contains(t, task.Warnings[0], "host/a")
	}
}

type brokenClaims struct{}

func (brokenClaims) Claim(context.Context, string, string) (hikae.Claim, error) {
	return nil, io.ErrUnexpectedEOF
}
