//go:build unix

package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// sh is a script of the shell as a program: hooks themselves know no shell.
func sh(text string, args ...string) []string {
	return append([]string{"/bin/sh", "-c", text, "sh"}, args...)
}

func TestScriptIsTold(t *testing.T) {
	t.Setenv("HIKAE_PASSWORD", "nobody is to see it")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "nor this")
	s := Script{Argv: sh(`env; echo "arg=$1"; cat`, "$(id); `id`"), Env: map[string]string{"MINE": "yes"}}
	call := failed
	call.VM = "web1\nHIKAE_STATE=done"
	r, err := s.Run(t.Context(), call)
	require.NoError(t, err)
	assert.Equal(t, 0, r.Exit)
	assert.Equal(t, "/bin/sh", r.What)
	lines := strings.Split(r.Output, "\n")
	for _, want := range []string{"HIKAE_HOOK=after-vm", "HIKAE_JOB=nightly", "HIKAE_RUN=r1", "HIKAE_STATE=failed", "HIKAE_ERROR=no route to host",
		"HIKAE_VM=web1 HIKAE_STATE=done", "HIKAE_WARNINGS=0", "MINE=yes", "arg=$(id); `id`"} {
		assert.Contains(t, lines, want)
	}
	assert.NotContains(t, r.Output, "nobody is to see it")
	assert.NotContains(t, r.Output, "nor this")
	assert.NotContains(t, lines, "HIKAE_STATE=done", "a name cannot make a variable")
	var told Call
	require.NoError(t, json.Unmarshal([]byte(r.Output[strings.Index(r.Output, "{"):]), &told))
	assert.Equal(t, call.VM, told.VM)
}

func TestScriptsThatFail(t *testing.T) {
	r, err := (&Script{Argv: sh("echo why >&2; exit 7")}).Run(t.Context(), failed)
	exit, ok := errors.AsType[*exec.ExitError](err)
	require.True(t, ok, "%v", err)
	assert.Equal(t, 7, exit.ExitCode())
	assert.Equal(t, 7, r.Exit)
	assert.Equal(t, "why\n", r.Output)
	assert.Contains(t, r.Error, "exit status 7")

	r, err = (&Script{Argv: []string{"/no/such/program"}}).Run(t.Context(), failed)
	require.ErrorIs(t, err, fs.ErrNotExist)
	assert.Equal(t, -1, r.Exit)
	_, err = (&Script{}).Run(t.Context(), failed)
	require.ErrorIs(t, err, fs.ErrInvalid)
}

// The deadline ends what the program has started, too.
func TestScriptDeadline(t *testing.T) {
	pid := filepath.Join(t.TempDir(), "pid")
	begun := time.Now()
	r, err := (&Script{Argv: sh(`sleep 60 & echo $! >"$1"; echo begun; wait`, pid), Deadline: 300 * time.Millisecond}).Run(t.Context(), failed)
	require.ErrorIs(t, err, ErrDeadline)
	assert.Less(t, time.Since(begun), 10*time.Second)
	assert.Equal(t, "begun\n", r.Output)
	assert.Contains(t, r.Error, "took too long")
	data, err := os.ReadFile(pid)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return !alive(t, strings.TrimSpace(string(data))) }, 5*time.Second, 10*time.Millisecond, "its child is at work still")

	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	_, err = (&Script{Argv: sh("sleep 60")}).Run(ctx, failed)
	require.ErrorIs(t, err, context.Canceled)
}

// alive reports a process that is not a zombie: nobody may be there to collect it.
func alive(t *testing.T, pid string) bool {
	var n int
	require.NoError(t, json.Unmarshal([]byte(pid), &n))
	if errors.Is(syscall.Kill(n, 0), syscall.ESRCH) {
		return false
	}
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func TestScriptOutputIsBounded(t *testing.T) {
	r, err := (&Script{Argv: sh("head -c 300000 /dev/zero | tr '\\0' x; echo; echo end"), OutputBytes: 1000}).Run(t.Context(), failed)
	require.NoError(t, err)
	assert.Len(t, r.Output, 1000)
	assert.True(t, r.Truncated)
	assert.True(t, strings.HasSuffix(r.Output, "x\nend\n"), "the end is what says why")
}

// A program that goes into the background does not hold the job up.
func TestScriptLeavesOneBehind(t *testing.T) {
	begun := time.Now()
	r, err := (&Script{Argv: sh("(sleep 4) & echo done")}).Run(t.Context(), failed)
	require.NoError(t, err)
	assert.Equal(t, "done\n", r.Output)
	assert.Less(t, time.Since(begun), 4*time.Second)
}

func TestBounded(t *testing.T) {
	c := Call{Error: strings.Repeat("e", 1<<20), Warnings: make([]string, 1000), VMs: make([]VM, 20_000)}
	c.Warnings[0] = strings.Repeat("w", 1<<20)
	small := c.Bounded()
	assert.Less(t, len(small.Error), 3000)
	assert.Len(t, small.Warnings, maxLines)
	assert.Less(t, len(small.Warnings[0]), 3000)
	assert.Len(t, small.VMs, maxVMs)
	assert.Len(t, c.Warnings[0], 1<<20, "the caller's own is as it was")
	assert.True(t, json.Valid(c.JSON()))
}
