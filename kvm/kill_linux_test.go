package kvm

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/kvm/qga"
)

// step is when a session is killed: at its nth command, before or after QEMU or the agent got it.
type step struct {
	at    int
	after bool
	name  string
}

// killsEnv is how many steps of a session TestKilled kills it at, of each kind. Not set: 24 in the long tier, and in the
// release's all of them.
const killsEnv = "HIKAE_KILL_STEPS"

// TestKilled kills a session at its steps, before and after QEMU or the agent got the command: one of this library, and
// one of the tool, which has a guard. A stranger who is at work in the same QEMU notices nothing.
func TestKilled(t *testing.T) {
	if !long() {
		t.Skip("some steps stand in TestOnline; more of them need HIKAE_TEST_TIER=long")
	}
	count, seed := 24, time.Now().UnixNano()
	if os.Getenv("HIKAE_TEST_TIER") == "release" {
		count = 1 << 20
	}
	if text := os.Getenv(killsEnv); text != "" {
		var err error
		count, err = strconv.Atoi(text)
		require.NoError(t, err)
	}
	t.Logf("seed %d", seed)
	some := func(commands []string) []step {
		return spread(every(commands), count, rand.New(rand.NewPCG(uint64(seed), 0)))
	}
	for _, kind := range []string{"library", "tool"} {
		t.Run(kind, func(t *testing.T) {
			l := newLab(t)
			moveIn(t, l.guest)
			if kind == "tool" {
				l.tool = newTool(t, l.dir)
			}
			points := map[string]expected{}
			l.killed(t, points, some)
			l.checkPoints(points)
		})
	}
}

// killed is R188: a session is killed at one step after another. The next start sweeps what it left, touches nothing
// else, and the next increment is right.
func (l *lab) killed(t *testing.T, points map[string]expected, steps func(commands []string) []step) {
	direct := l.machine
	defer func() { l.machine = direct }()
	p := &tap{t: t}
	l.machine.QMP, l.machine.Agent = filepath.Join(l.dir, "q"), filepath.Join(l.dir, "a")
	p.open(l.machine.QMP, direct.QMP)
	p.open(l.machine.Agent, direct.Agent)
	l.fx("fill", "/dev/vdb", "0", "4194304", "1")
	l.point(points)

	p.arm(0, false, nil)
	require.NoError(t, l.victim(nil))
	commands := slices.Clone(p.passed())
	require.Greater(t, len(commands), 30)
	l.clean()
	chosen := steps(commands)
	passed, slowest := 0, time.Duration(0)
	for i, s := range chosen {
		ok := t.Run(fmt.Sprintf("%d %s %v", s.at, s.name, s.after), func(t *testing.T) {
			defer func(outer *testing.T) { l.t = outer }(l.t)
			l.t = t
			l.fx("fill", "/dev/vdb", strconv.Itoa((i%60)*131072), "65536", strconv.Itoa(i+10))
			before := l.newest().ID
			l.kill(p, s)
			begun := time.Now()
			swept := l.sweep()
			took := time.Since(begun)
			slowest = max(slowest, took)
			require.Less(t, took, time.Minute)
			t.Logf("swept %d effects in %v; committed: %v", swept, took.Round(time.Millisecond), l.newest().ID != before)
			l.clean()
			l.fx("discard", "/dev/vdb", strconv.Itoa(((i+30)%60)*131072), "65536")
			res := l.point(points)
			require.Equal(t, job.Changed, res.Disks[0].Method, res.Fallbacks)
			require.Equal(t, job.Changed, res.Disks[1].Method, res.Fallbacks)
			l.checkPoints(map[string]expected{res.Point: points[res.Point]})
			delete(points, res.Point)
		})
		if ok {
			passed++
		}
	}
	t.Logf("figure: session killed at %d/%d steps of %d, all swept; slowest sweep %v", passed, len(chosen), 2*len(commands), slowest.Round(time.Millisecond))
}

// every step, before QEMU or the agent got the command and after.
func every(commands []string) (out []step) {
	for i, name := range commands {
		out = append(out, step{i + 1, false, name}, step{i + 1, true, name})
	}
	return out
}

// spread takes so many of the steps, one by chance from each of as many equal parts.
func spread(steps []step, count int, r *rand.Rand) (out []step) {
	if count >= len(steps) {
		return steps
	}
	for i := range count {
		from, to := i*len(steps)/count, (i+1)*len(steps)/count
		out = append(out, steps[from+r.IntN(to-from)])
	}
	return out
}

// decisive are the steps after which most is left behind: a frozen guest that may stand still, and a point that is
// durable while the old base is still there.
func decisive(commands []string) []step {
	at, old := moment(commands), slices.Index(commands, "block-dirty-bitmap-remove")
	return []step{{at + 1, true, commands[at]}, {old + 1, false, commands[old]}}
}

// moment is the index of the command that takes the snapshot: it comes when the guest is frozen.
func moment(commands []string) int { return slices.Index(commands, "guest-fsfreeze-freeze") + 1 }

// guard: a session that is killed while the guest is frozen has somebody who thaws it, before any sweep.
func (l *lab) guard(points map[string]expected) {
	direct := l.machine
	defer func() { l.machine, l.guarded = direct, false }()
	p := &tap{t: l.t}
	l.machine.QMP, l.machine.Agent, l.guarded = filepath.Join(l.dir, "gq"), filepath.Join(l.dir, "ga"), true
	p.open(l.machine.QMP, direct.QMP)
	p.open(l.machine.Agent, direct.Agent)
	p.arm(0, false, nil)
	require.NoError(l.t, l.victim(nil))
	l.clean()
	commands := p.passed()
	at := moment(commands)
	l.kill(p, step{at + 1, false, commands[at]})
	require.Eventually(l.t, func() bool {
		agent := qga.New(direct.Agent, nil) // each time anew: the guard needs the port too
		defer agent.Close()
		frozen, err := agent.Frozen(l.t.Context())
		return err == nil && !frozen
	}, 20*time.Second, 500*time.Millisecond)
	l.fx("sync")
	require.NotZero(l.t, l.sweep())
	l.clean()
	l.point(points)
}

// victim runs a backup in a process of its own. ready gets it once it has started.
func (l *lab) victim(ready func(*os.Process)) error {
	l.t.Helper()
	cmd := l.victimCommand()
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

// victimCommand is this test program, which makes a victim of itself, or the tool.
func (l *lab) victimCommand() *exec.Cmd {
	l.t.Helper()
	if l.tool != nil {
		return l.tool.command("backup", "--repo", filepath.Join(l.dir, "repo"), l.source())
	}
	plan := victimPlan{Machine: l.machine, Scratch: l.scratch, Repo: filepath.Join(l.dir, "repo"),
		State: filepath.Join(l.dir, "state"), Journal: l.journalDir(), Guard: l.guarded, FreezeDeadline: l.deadline}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victimEnv+"="+mustJSON(l.t, plan))
	return cmd
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
	select {
	case <-killed:
	case <-within(l.t, 10*time.Second).Done():
		require.Fail(l.t, "the victim was not struck", "%v", err)
	}
	p.arm(0, false, nil)
	if err != nil { // after its last command it may have come to its end
		require.Contains(l.t, err.Error(), "killed")
	}
}

// hypervisorKilled: a QEMU that is killed loses what its bitmaps held in memory. The next backup reads whole disks, and
// the one after it is incremental again. A QEMU that ends in an orderly way keeps them.
func (l *lab) hypervisorKilled(points map[string]expected) {
	l.fx("fill", "/dev/vdb", "0", "65536", "2")
	l.guest.Kill()
	l.boot()
	l.fx("fill", "/dev/vdb", "1048576", "65536", "3")
	res := l.point(points)
	require.Len(l.t, res.Fallbacks, 2)
	require.Contains(l.t, res.Fallbacks[0].Reason, "change tracking was lost")
	require.Equal(l.t, job.Changed, l.point(points).Disks[1].Method)
	if long() {
		l.powerCycle()
		l.fx("fill", "/dev/vdb", "2097152", "65536", "4")
		require.Equal(l.t, job.Changed, l.point(points).Disks[1].Method)
	}
}

func (l *lab) powerCycle() {
	l.t.Helper()
	guest := OpenGuest(l.guest.Agent())
	guest.agent.Do(l.t.Context(), "guest-shutdown", map[string]any{"mode": "powerdown"}, nil) // it gives no answer
	guest.Close()
	require.NoError(l.t, l.guest.Wait(within(l.t, time.Minute)))
	l.boot()
}

// TestHypervisorKilled kills QEMU at steps of a session. The session fails and leaves no point, or had committed it.
// When the machine runs again, what was left is swept, whole disks are read, and the backup after that is incremental.
func TestHypervisorKilled(t *testing.T) {
	if !long() {
		t.Skip("one kill stands in TestOnline; those at steps of a session need HIKAE_TEST_TIER=long")
	}
	count, seed := 6, time.Now().UnixNano()
	if os.Getenv("HIKAE_TEST_TIER") == "release" {
		count = 40
	}
	t.Logf("seed %d", seed)
	l := newLab(t)
	points := map[string]expected{}
	direct := l.machine
	p := &tap{t: t}
	tapped := Machine{QMP: filepath.Join(l.dir, "q"), Agent: filepath.Join(l.dir, "a"), Name: direct.Name}
	shutQMP, shutAgent := p.open(tapped.QMP, direct.QMP), p.open(tapped.Agent, direct.Agent)
	l.point(points)
	l.machine = tapped
	p.arm(0, false, nil)
	require.NoError(t, l.victim(nil))
	steps := spread(every(slices.Clone(p.passed())), count, rand.New(rand.NewPCG(uint64(seed), 0)))
	for i, s := range steps {
		t.Run(fmt.Sprintf("%d %s %v", s.at, s.name, s.after), func(t *testing.T) {
			defer func(outer *testing.T) { l.t = outer }(l.t)
			l.t = t
			l.fx("fill", "/dev/vdb", strconv.Itoa((i%60)*131072), "65536", strconv.Itoa(i+10))
			l.machine = tapped
			p.arm(s.at, s.after, func() {
				l.guest.Kill()
				go shutQMP() // nobody listens there any more
				go shutAgent()
			})
			begun := time.Now()
			err := l.victim(nil)
			require.Less(t, time.Since(begun), 45*time.Second, "it waited for a QEMU that had ended")
			p.arm(0, false, nil)
			shutQMP()
			shutAgent()
			l.boot() // the machine is direct again
			shutQMP, shutAgent = p.open(tapped.QMP, direct.QMP), p.open(tapped.Agent, direct.Agent)
			begun = time.Now()
			swept := l.sweep()
			require.Less(t, time.Since(begun), time.Minute)
			t.Logf("the session said %v; swept %d effects in %v", err, swept, time.Since(begun).Round(time.Millisecond))
			res := l.point(points)
			require.Len(t, res.Fallbacks, 2)
			l.fx("discard", "/dev/vdb", strconv.Itoa(((i+30)%60)*131072), "65536")
			res = l.point(points)
			require.Empty(t, res.Fallbacks)
			require.Equal(t, job.Changed, res.Disks[1].Method)
		})
	}
	l.checkPoints(points)
	t.Logf("figure: QEMU killed at %d steps of a session", len(steps))
}
