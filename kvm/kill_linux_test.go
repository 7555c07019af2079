package kvm

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/job"
)

// step is when a session is killed: at its nth command, before or after QEMU or the agent got it.
type step struct {
	at    int
	after bool
	name  string
}

// R188: a session is killed at one step after another. The next start sweeps what it left, touches nothing else, and the
// next increment is right.
func TestKilled(t *testing.T) {
	l := newLab(t)
	p := &tap{t: t}
	qmp, agent := filepath.Join(l.dir, "q"), filepath.Join(l.dir, "a")
	p.open(qmp, l.guest.QMP())
	p.open(agent, l.guest.Agent())
	l.machine.QMP, l.machine.Agent = qmp, agent
	l.fx("fill", "/dev/vdb", "0", "4194304", "1")
	points := map[string]expected{}
	l.point(points)

	p.arm(0, false, nil)
	require.NoError(t, l.victim(nil))
	commands := slices.Clone(p.passed())
	require.Greater(t, len(commands), 30)
	l.clean()
	for i, s := range steps(commands) {
		t.Run(fmt.Sprintf("%d %s %v", s.at, s.name, s.after), func(t *testing.T) {
			l.t = t
			l.fx("fill", "/dev/vdb", strconv.Itoa((i%60)*131072), "65536", strconv.Itoa(i+10))
			before := l.newest().ID
			l.kill(p, s)
			begun := time.Now()
			swept := l.sweep()
			t.Logf("swept %d effects in %v; committed: %v", swept, time.Since(begun).Round(time.Millisecond), l.newest().ID != before)
			l.clean()
			l.fx("discard", "/dev/vdb", strconv.Itoa(((i+30)%60)*131072), "65536")
			res := l.point(points)
			require.Equal(t, job.Changed, res.Disks[0].Method, res.Fallbacks)
			require.Equal(t, job.Changed, res.Disks[1].Method, res.Fallbacks)
			l.checkPoints(map[string]expected{res.Point: points[res.Point]})
		})
		l.t = t
	}
	l.checkPoints(points)
}

// steps are all there are in the long tier, and some of those that matter most in the fast one.
func steps(commands []string) (out []step) {
	if long() {
		for i, name := range commands {
			out = append(out, step{i + 1, false, name}, step{i + 1, true, name})
		}
		return out
	}
	for _, name := range []string{"guest-fsfreeze-freeze", "stop", "block-export-add"} {
		out = append(out, step{slices.Index(commands, name) + 1, true, name})
	}
	last := len(commands)
	return append(out, step{last, false, commands[last-1]})
}

// victim runs a backup in a process of its own. ready gets it once it has started.
func (l *lab) victim(ready func(*os.Process)) error {
	l.t.Helper()
	plan := victimPlan{Machine: l.machine, Scratch: l.scratch, Repo: filepath.Join(l.dir, "repo"),
		State: filepath.Join(l.dir, "state"), Journal: filepath.Join(l.dir, "journal")}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victimEnv+"="+mustJSON(l.t, plan))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	require.NoError(l.t, cmd.Start())
	defer l.reopen()
	if ready != nil {
		ready(cmd.Process)
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%w: %s", err, stderr.String())
	}
	return nil
}

// kill lets a backup run until a step, and kills it there.
func (l *lab) kill(p *tap, s step) {
	l.t.Helper()
	started, killed := make(chan *os.Process, 1), make(chan struct{})
	p.arm(s.at, s.after, func() {
		(<-started).Kill()
		close(killed)
	})
	err := l.victim(func(v *os.Process) { started <- v })
	require.Error(l.t, err)
	select {
	case <-killed:
	case <-within(l.t, 10*time.Second).Done():
		require.Fail(l.t, "the victim was not struck", "%v", err)
	}
	p.arm(0, false, nil)
	require.Contains(l.t, err.Error(), "killed")
}

// A QEMU that is killed loses what its bitmaps held in memory: the next backup reads whole disks, and the one after it
// is incremental again. One that ends in an orderly way keeps them.
func TestHypervisorKilled(t *testing.T) {
	l := newLab(t)
	l.fx("fill", "/dev/vdb", "0", "4194304", "1")
	points := map[string]expected{}
	l.point(points)

	l.fx("fill", "/dev/vdb", "0", "65536", "2")
	l.guest.Kill()
	l.boot()
	l.fx("fill", "/dev/vdb", "1048576", "65536", "3")
	res := l.point(points)
	require.Len(t, res.Fallbacks, 2)
	require.Contains(t, res.Fallbacks[0].Reason, "change tracking was lost")
	require.Equal(t, job.Changed, l.point(points).Disks[1].Method)
	if long() {
		l.powerCycle()
		l.fx("fill", "/dev/vdb", "2097152", "65536", "4")
		require.Equal(t, job.Changed, l.point(points).Disks[1].Method)
	}
	l.checkPoints(points)
}

func (l *lab) powerCycle() {
	l.t.Helper()
	guest := OpenGuest(l.guest.Agent())
	guest.agent.Do(l.t.Context(), "guest-shutdown", map[string]any{"mode": "powerdown"}, nil) // it gives no answer
	guest.Close()
	require.NoError(l.t, l.guest.Wait(within(l.t, time.Minute)))
	l.boot()
}
