package replica_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/job/replica"
)

// victimEnv makes this test program do one thing and end itself by SIGKILL at a step of it: folder, operation, step.
const victimEnv = "HIKAE_REPLICA_PROCEDURE_VICTIM"

func TestMain(m *testing.M) {
	if os.Getenv(victimEnv) != "" {
		os.Exit(victim())
	}
	os.Exit(m.Run())
}

func victim() int {
	words := strings.SplitN(os.Getenv(victimEnv), "|", 3)
	at, err := strconv.Atoi(words[2])
	if err != nil {
		fmt.Println(err)
		return 1
	}
	n := 0
	l := &lab{dir: words[0], tick: func(name string) {
		if n++; n == at {
			fmt.Println("killed at", name)
			self, err := os.FindProcess(os.Getpid())
			if err == nil {
				err = self.Kill()
			}
			fmt.Println(err)
			select {}
		}
	}}
	if err := l.perform(context.Background(), words[1]); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("steps", n)
	return 0
}

// perform does one of the calls.
func (l *lab) perform(ctx context.Context, op string) (err error) {
	_, r, err := l.open(nil)
	if err != nil {
		return err
	}
	source, rep := &machine{l: l, name: "source"}, &machine{l: l, name: "replica"}
	switch op {
	case "planned":
		_, err = r.PlannedFailover(ctx, l.source(), source)
	case "failover":
		_, err = r.Failover(ctx, &replica.FailoverOptions{Source: source})
	case "failback":
		_, err = r.Failback(ctx, &replica.FailbackOptions{Replica: rep, Home: l.home, Original: source})
	case "undo":
		_, err = r.Undo(ctx, &replica.UndoOptions{Source: source, Replica: rep})
	case "again": // what was given up halfway is started again
		_, err = r.Failover(ctx, &replica.FailoverOptions{Source: source})
	default:
		err = errors.ErrUnsupported
	}
	return err
}

// killed does a call in a process that is killed at its nth step; false where it has fewer.
func (l *lab) killed(t *testing.T, op string, n int) (where string, ok bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%s|%d", victimEnv, l.dir, op, n))
	out, err := cmd.CombinedOutput()
	if err == nil {
		require.Contains(t, string(out), "steps")
		return "", false
	}
	where, ok = strings.CutPrefix(strings.TrimSpace(string(out)), "killed at ")
	require.True(t, ok, "%v %s", err, out)
	return where, true
}

// stride is how many steps a test goes on by: all are tried where there is time.
func stride() int {
	if tier := os.Getenv("HIKAE_TEST_TIER"); tier == "long" || tier == "release" {
		return 1
	}
	return 3
}

// R146: whichever step of a procedure is killed, the same call again brings it to its end: nothing is lost, and never do two
// run.
func TestKilledAndAgain(t *testing.T) {
	for _, op := range []string{"planned", "failover", "failback", "undo"} {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			tried := 0
			for n := 1; ; n += stride() {
				l := newLab(t)
				want := l.before(t, op)
				where, ok := l.killed(t, op, n)
				if !ok {
					break
				}
				tried++
				require.NoError(t, l.perform(t.Context(), op), "killed at %q", where)
				l.after(t, op, want, where)
			}
			require.Greater(t, tried, 1)
		})
	}
}

// before brings a lab to where the call begins, and tells what the VM holds then.
func (l *lab) before(t *testing.T, op string) []byte {
	t.Helper()
	_, r, err := l.open(nil)
	require.NoError(t, err)
	_, err = r.Sync(t.Context(), l.source())
	require.NoError(t, err)
	switch op {
	case "planned":
		l.write(t, 1<<16, 5, 5000)
	case "failover":
		require.NoError(t, os.Remove(l.path("source")))
	default:
		require.NoError(t, l.perform(t.Context(), "planned"))
		l.writeReplica(t, 1<<17, 6, 6000)
		if op == "failback" {
			return l.readReplica(t)
		}
	}
	return l.disk(t)
}

// after is how everything has to be in the end.
func (l *lab) after(t *testing.T, op string, want []byte, where string) {
	t.Helper()
	require.False(t, l.runs(twoRan), "two ran: killed at %q", where)
	_, r, err := l.open(nil)
	require.NoError(t, err)
	state, under, err := r.State(t.Context())
	require.NoError(t, err)
	switch op {
	case "planned", "failover":
		require.Equal(t, replica.FailedOver, state.Stage, "killed at %q", where)
		require.Equal(t, "running", under.Step)
		require.False(t, l.runs("source"))
		require.True(t, l.runs("replica"), "killed at %q", where)
		require.True(t, bytes.Equal(want, l.readReplica(t)), "something is lost: killed at %q", where)
	default:
		require.Equal(t, replica.Ready, state.Stage, "killed at %q", where)
		require.Nil(t, under, "killed at %q", where)
		require.True(t, l.runs("source"), "killed at %q", where)
		require.False(t, l.runs("replica"))
		require.True(t, bytes.Equal(want, l.disk(t)), "something is lost: killed at %q", where)
		_, err = r.Sync(t.Context(), l.source())
		require.NoError(t, err, "the replica is one again")
	}
}

// R146: a planned failover that was killed can be undone at every step, and leaves the VM as it was; a failback can, until what
// ran is a point; from then on the replica can be started again with all that it wrote.
func TestKilledAndUndone(t *testing.T) {
	for _, op := range []string{"planned", "failback"} {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			for n := 2; ; n += stride() {
				l := newLab(t)
				want := l.before(t, op)
				original := l.disk(t)
				where, ok := l.killed(t, op, n)
				if !ok {
					break
				}
				err := l.perform(t.Context(), "undo")
				if under, late := errors.AsType[*replica.UnderWayError](err); late {
					require.Equal(t, "failback", op)
					if under.Step == "starting" { // the original is whole: there is nothing but to go on
						require.NoError(t, l.perform(t.Context(), op))
						l.after(t, op, want, where)
						continue
					}
					err = l.perform(t.Context(), "again")
					if _, unsealed := errors.AsType[*replica.StageError](err); unsealed {
						continue // the same call goes on, as TestKilledAndAgain has it
					}
					require.NoError(t, err, "killed at %q", where)
					require.True(t, bytes.Equal(want, l.readReplica(t)), "something is lost: killed at %q", where)
					require.False(t, l.runs(twoRan))
					continue
				}
				require.NoError(t, err, "killed at %q", where)
				_, r, err := l.open(nil)
				require.NoError(t, err)
				state, under, err := r.State(t.Context())
				require.NoError(t, err)
				require.Equal(t, replica.Ready, state.Stage, "killed at %q", where)
				require.Nil(t, under, "killed at %q", where)
				require.False(t, l.runs("replica"), "killed at %q", where)
				require.True(t, bytes.Equal(original, l.disk(t)), "killed at %q", where)
				require.False(t, l.runs(twoRan), "two ran: killed at %q", where)
				if op == "planned" {
					require.True(t, l.runs("source"), "killed at %q", where)
				}
			}
		})
	}
}
