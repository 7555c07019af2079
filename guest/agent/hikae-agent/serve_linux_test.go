package main

import (
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/agent/wire"
)

// R119, R121, R188: the component answers, and takes itself away.
func TestServe(t *testing.T) {
	t.Parallel()
	for name, ch := range map[string]guest.Channel{"streams": &launching{}, "runs": &here{}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := program(t)
			c := connect(t, ch, p, nil)
			h := c.Hello()
			require.Equal(t, wire.Version, h.Version)
			require.Contains(t, h.Product, "hikae-agent")
			require.NotEmpty(t, h.Boot)
			require.True(t, c.Has(wire.Freeze))
			require.False(t, c.Has(wire.Install))
			a, err := c.Inspect(soon(t), wire.InspectArgs{})
			require.NoError(t, err)
			require.NotEmpty(t, a.Volumes)
			removed, err := c.Remove(soon(t))
			require.NoError(t, err)
			require.Equal(t, []string{filepath.Dir(p.Path)}, append(removed.Removed, removed.Last...))
			gone(t, p)
		})
	}
}

// A client that leaves without a word, or is not heard of any more: the component goes with its lease, all of it.
func TestClientLeaves(t *testing.T) {
	t.Parallel()
	for name, ch := range map[string]guest.Channel{"streams": &launching{}, "runs": &here{}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := program(t)
			c := connect(t, ch, p, &guest.ComponentOptions{Lease: time.Second})
			time.Sleep(1500 * time.Millisecond)
			_, err := c.Inspect(soon(t), wire.InspectArgs{})
			require.NoError(t, err, "the lease is kept while the client lives")
			c.Close()
			gone(t, p)
			_, err = c.Inspect(soon(t), wire.InspectArgs{})
			require.ErrorIs(t, err, guest.ErrLost)
		})
	}
}

// A component that was killed leaves its folder; whoever sweeps finds it.
func TestSweep(t *testing.T) {
	t.Parallel()
	for name, sign := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "stopped": syscall.SIGSTOP, "alive": 0} {
		t.Run(name, func(t *testing.T) {
			if sign == syscall.SIGSTOP && os.Getenv("HIKAE_TEST_TIER") == "" {
				t.Skip("waits 10 s for a process that does not listen: long tier")
			}
			t.Parallel()
			p, ch := program(t), &here{}
			c := connect(t, ch, p, nil)
			require.NoError(t, syscall.Kill(c.Hello().PID, sign))
			if sign == syscall.SIGKILL {
				_, err := c.Inspect(soon(t), wire.InspectArgs{})
				require.ErrorIs(t, err, guest.ErrLost)
				require.DirExists(t, filepath.Dir(p.Path))
			}
			sweeper := program(t)
			for range 2 { // the second finds nothing
				r, err := ch.Run(soon(t), sweeper.Path, []string{"sweep", "--dir", filepath.Dir(p.Path)}, nil)
				require.NoError(t, err)
				require.Zero(t, r.ExitCode, string(r.Stderr))
			}
			gone(t, p)
		})
	}
}

// A channel that fails now and then, before a run or after it, is not noticed: nothing is carried out twice, nothing lost.
func TestRelayOverBadChannel(t *testing.T) {
	t.Parallel()
	p := program(t)
	var n atomic.Int32
	broken := errors.New("the channel broke")
	ch := &here{}
	c := connect(t, ch, p, nil)
	ch.runs = func() error {
		if n.Add(1)%4 == 1 {
			return broken
		}
		return nil
	}
	ch.late = func() error {
		if n.Load()%4 == 3 {
			return broken
		}
		return nil
	}
	for range 5 {
		_, err := c.Inspect(soon(t), wire.InspectArgs{})
		require.NoError(t, err)
	}
	_, err := c.Thaw(soon(t))
	require.NoError(t, err)
	ch.runs = func() error { return broken }
	_, err = c.Inspect(soon(t), wire.InspectArgs{})
	require.ErrorIs(t, err, guest.ErrLost, "one that stays broken is")
	ch.runs, ch.late = nil, nil
	r, err := ch.Run(soon(t), program(t).Path, []string{"sweep", "--dir", filepath.Dir(p.Path)}, nil)
	require.NoError(t, err)
	require.Zero(t, r.ExitCode)
	gone(t, p)
}

func TestUsage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ch, p := &here{}, program(t)
	for _, args := range [][]string{nil, {"exec", "ls"}, {"serve"}, {"serve", "--dir"}, {"serve", "--dir", dir, "more"},
		{"serve", "--other"}, {"relay", "--dir", dir}, {"relay", "--call", "0"}, {"relay", "--call", "4294967296"},
		{"relay", "--call", "1", "--wait", "-1"}, {"sweep", "--what", "x"}} {
		r, err := ch.Run(soon(t), p.Path, args, nil)
		require.NoError(t, err)
		require.NotZero(t, r.ExitCode, args)
		require.Empty(t, r.Stdout)
		require.NotEmpty(t, r.Stderr)
	}
	r, err := ch.Run(soon(t), p.Path, []string{"relay", "--dir", dir, "--call", "1"}, nil)
	require.NoError(t, err)
	require.Equal(t, exitNoDaemon, r.ExitCode)
	r, err = ch.Run(soon(t), p.Path, []string{"daemon", "--dir", dir}, nil)
	require.NoError(t, err)
	require.Equal(t, 1, r.ExitCode, "a folder that is not ours")
	require.DirExists(t, dir)
}
