package guestops

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/agent/wire"
	"github.com/hikae/hikae/guest/guesttest"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/simulator"
)

// Words reach programs as they are, input is read, both streams and the exit code come back, and nothing stays.
func TestRun(t *testing.T) {
	h := newHost(t, small())
	c := h.open(t)
	words := []string{"a b", `it's`, `$(touch /tmp/never)`, "`id`", `"x"`, `\`, "*", "", "-n", "ü", "two\nlines", ";", "!x"}
	r, err := c.Run(soon(t), "/bin/sh", append([]string{"-c", `for w; do printf '%s|' "$w"; done; cat; echo err >&2; exit 42`, "sh"}, words...), []byte("in\x00put"))
	require.NoError(t, err)
	require.Equal(t, strings.Join(words, "|")+"|in\x00put", string(r.Stdout))
	require.Equal(t, "err\n", string(r.Stderr))
	require.Equal(t, 42, r.ExitCode)
	require.False(t, r.Truncated)
	require.Empty(t, h.left(t))

	r, err = c.Run(soon(t), "/bin/cat", nil, nil) // without an input it ends at once
	require.NoError(t, err)
	require.Equal(t, 0, r.ExitCode)
	r, err = c.Run(soon(t), "/does/not/exist", nil, nil)
	require.NoError(t, err)
	require.Equal(t, 127, r.ExitCode)
	r, err = c.Run(soon(t), "/bin/sh", []string{"-c", "kill -9 $$"}, nil)
	require.NoError(t, err)
	require.Equal(t, 137, r.ExitCode)
	require.Empty(t, h.left(t))
}

// What goes into the folder of a run is the account's alone.
func TestRunPrivate(t *testing.T) {
	h := newHost(t, small())
	r, err := h.open(t).Run(soon(t), "/bin/sh", []string{"-c", `stat -c %a "$1"/*; stat -c %a "$1"/*/*`, "sh", h.dir}, []byte("secret"))
	require.NoError(t, err)
	lines := strings.Fields(string(r.Stdout))
	require.Equal(t, "700", lines[0])
	require.GreaterOrEqual(t, len(lines), 5)
	for _, l := range lines[1:] {
		require.Equal(t, "600", l)
	}
}

// Endless output costs the guest no disk and us no memory; the program never waits.
func TestRunEndless(t *testing.T) {
	h := newHost(t, small())
	r, err := h.open(t).Run(soon(t), "/bin/sh", []string{"-c", `head -c 20000000 /dev/zero; head -c 3000000 /dev/zero >&2; du -sk "$1" >/dev/null; echo done >&2`, "sh", h.dir}, nil)
	require.NoError(t, err)
	require.True(t, r.Truncated)
	require.Len(t, r.Stdout, maxStream)
	require.Len(t, r.Stderr, maxStream)
	r, err = h.open(t).Run(soon(t), "/bin/sh", []string{"-c", "head -c 1048576 /dev/zero"}, nil)
	require.NoError(t, err)
	require.False(t, r.Truncated)
	require.Len(t, r.Stdout, maxStream)
	require.Empty(t, h.left(t))
}

// At the deadline a program ends, and what it has started with it.
func TestRunDeadline(t *testing.T) {
	h := newHost(t, small())
	c := h.open(t)
	pids := t.TempDir() + "/pids"
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := c.Run(ctx, "/bin/sh", []string{"-c", `trap '' TERM; sleep 600 & echo $$ $! >"$1"; wait; sleep 600`, "sh", pids}, nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(start), 10*time.Second)
	b, err := os.ReadFile(pids)
	require.NoError(t, err)
	fields := strings.Fields(string(b))
	require.Len(t, fields, 2)
	for _, f := range fields {
		pid, err := strconv.Atoi(f)
		require.NoError(t, err)
		require.Eventually(t, func() bool { return syscall.Kill(pid, 0) != nil || zombie(pid) }, 5*time.Second, 20*time.Millisecond)
	}
	require.Empty(t, h.left(t))
}

func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || bytes.Contains(b, []byte(") Z "))
}

func TestFiles(t *testing.T) {
	h := newHost(t, small())
	c := h.open(t)
	data := bytes.Repeat([]byte("0123456789\x00\xff"), 300_000)
	name := h.dir + "/it's $(here) 100%?#"
	require.NoError(t, c.Upload(soon(t), name, data, 0o700))
	info, err := os.Stat(name)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o700), info.Mode())
	got, err := c.Download(soon(t), name, int64(len(data)))
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, got))
	_, err = c.Download(soon(t), name, int64(len(data)-1))
	require.ErrorContains(t, err, "longer than")
	_, err = c.Download(soon(t), h.dir+"/none", 10)
	require.Error(t, err)
	require.NoError(t, c.Upload(soon(t), h.dir+"/empty", nil, 0o600))
	got, err = c.Download(soon(t), h.dir+"/empty", 0)
	require.NoError(t, err)
	require.Empty(t, got)
	for _, bad := range []string{"", "/", "x", "C:", `\\server\x`, "/a\nb"} {
		require.ErrorIs(t, c.Upload(soon(t), bad, nil, 0), errPath, bad)
		_, err := c.Download(soon(t), bad, 1)
		require.ErrorIs(t, err, errPath, bad)
	}
}

// R141 in kind: a component works where no network leads to the guest, and leaves nothing there.
func TestDeploy(t *testing.T) {
	for name, model := range map[string]*simulator.Model{"vCenter": small(), "ESXi": simulator.ESX()} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, model)
			programs := guest.ProgramsIn(os.DirFS(guesttest.Agents(t)))
			f := h.way().Probe(soon(t))
			require.True(t, f.Open, f)
			require.Equal(t, "linux", f.System.OS)
			require.Equal(t, h.dir, f.System.Temp[0])
			ch, err := h.way().Open(soon(t))
			require.NoError(t, err)
			defer ch.Close()
			require.Equal(t, guest.VSphere, ch.Kind())
			start := time.Now()
			d, err := guest.Deploy(soon(t), ch, programs, &guest.DeployOptions{Guest: "web1"})
			require.NoError(t, err)
			up := time.Since(start)
			require.Equal(t, "linux", d.Component.Hello().OS)
			answer, err := d.Component.Inspect(soon(t), wire.InspectArgs{})
			require.NoError(t, err)
			require.NotEmpty(t, answer)
			start = time.Now()
			require.NoError(t, d.Remove(soon(t)))
			t.Logf("component answering after %v, removed in %v", up, time.Since(start))
			require.Empty(t, h.left(t))
		})
	}
}

// The line is cut at every request, before it is sent and before its answer is heard: the error says so, and nothing is left.
func TestCutEverywhere(t *testing.T) {
	for _, answer := range []bool{false, true} {
		h := newHost(t, small())
		for n := int64(1); ; n++ {
			require.Less(t, n, int64(60))
			c := h.open(t)
			line := h.cut(answer)
			line.at.Store(n)
			_, err := c.Run(soon(t), "/bin/sh", []string{"-c", "cat; sleep 0.05"}, []byte("x"))
			h.uncut(line)
			require.Empty(t, h.left(t), "request %d", n)
			if err != nil {
				require.ErrorIs(t, err, errCut)
				require.NotErrorIs(t, err, guest.ErrLeftover)
				require.NotContains(t, err.Error(), secret)
				require.NotContains(t, err.Error(), "token")
			}
			if line.count.Load() < n {
				require.NoError(t, err)
				break
			}
		}
	}
}
