package vmware

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/vmware/vmwaretest"
)

// allSteps: every step is tried, and not some of them.
func allSteps() bool {
	tier := os.Getenv("HIKAE_TEST_TIER")
	return tier == "long" || tier == "release"
}

// some are n of the cases where not every step is tried, and each of them sooner or later.
func some[V any](t *testing.T, n int, cases map[string]V) map[string]V {
	t.Helper()
	if allSteps() || n >= len(cases) {
		return cases
	}
	names := slices.Sorted(maps.Keys(cases))
	seed := rand.Uint64()
	rand.New(rand.NewPCG(seed, 0)).Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	t.Logf("seed %d: %q", seed, names[:n])
	out := map[string]V{}
	for _, name := range names[:n] {
		out[name] = cases[name]
	}
	return out
}

// mortal counts a client's calls, and dies at one of them: before the server got it, or after. Nothing is called any more then,
// as from a process that was killed.
type mortal struct {
	soap.RoundTripper
	at    int // 0: never
	after bool

	mu    sync.Mutex
	calls []string
	dead  bool
}

func (m *mortal) RoundTrip(ctx context.Context, req, res soap.HasFault) error {
	m.mu.Lock()
	m.calls = append(m.calls, nameOf(req))
	now := len(m.calls) == m.at
	m.dead = m.dead || now && !m.after
	dead := m.dead
	m.dead = m.dead || now
	m.mu.Unlock()
	if dead {
		return net.ErrClosed
	}
	err := m.RoundTripper.RoundTrip(ctx, req, res)
	if now {
		return net.ErrClosed
	}
	return err
}

// victim is a client of its own that dies at its nth call.
func (l *lab) victim(at int, after bool) (*Client, *mortal) {
	l.Helper()
	c := l.connect()
	inner := c.vim.RoundTripper
	m := &mortal{RoundTripper: inner, at: at, after: after}
	c.vim.RoundTripper = m
	l.Cleanup(func() {
		c.vim.RoundTripper = inner
		require.NoError(l, c.Close(context.WithoutCancel(l.Context())))
	})
	return c, m
}

type killStep struct {
	at    int
	after bool
}

// R188, and the bar of the reliability table: a session is killed at its steps, before and after the server got the call. The
// next start removes all that is ours and touches nothing else, and the next increment is right.
func TestKilled(t *testing.T) {
	for name, fresh := range map[string]bool{"tracking is begun": true, "increment": false} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, vmwaretest.Options{DiskBytes: 1 << 20})
			if !fresh {
				l.point(nil)
			}
			count := l.stepsOf()
			require.Greater(t, count, 15)
			var steps []killStep
			for i := range count {
				steps = append(steps, killStep{i + 1, false}, killStep{i + 1, true})
			}
			if !allSteps() {
				seed := rand.Uint64()
				t.Logf("seed %d", seed)
				rand.New(rand.NewPCG(seed, 0)).Shuffle(len(steps), func(i, j int) { steps[i], steps[j] = steps[j], steps[i] })
				steps = steps[:3]
			}
			slowest := time.Duration(0)
			for _, s := range steps {
				slowest = max(slowest, l.killAt(s, fresh))
			}
			t.Logf("figure: killed at %d steps of %d, all swept; slowest sweep %v", len(steps), 2*count, slowest.Round(time.Millisecond))
		})
	}
}

// stepsOf counts the calls of a session, in which nobody dies.
func (l *lab) stepsOf() int {
	l.Helper()
	c, m := l.victim(0, false)
	p, err := New(c, l.refs(), &l.opts)
	require.NoError(l, err)
	_, _, err = l.tryBy(l.Context(), p, l.vm(), nil)
	require.NoError(l, err)
	l.clean()
	l.Logf("calls: %s", strings.Join(m.calls, " "))
	return len(m.calls)
}

func (l *lab) killAt(s killStep, fresh bool) (swept time.Duration) {
	l.Helper()
	if fresh {
		require.NoError(l, l.client.setTracking(l.Context(), l.vm().Ref(), false))
		l.vm().ResetTracking()
	}
	c, m := l.victim(s.at, s.after)
	p, err := New(c, l.refs(), &l.opts)
	require.NoError(l, err)
	l.scribbleAll(1)
	_, _, err = l.tryBy(l.Context(), p, l.vm(), nil)
	where := fmt.Sprintf("killed at call %d of %d (%s), after it: %v; it said: %v", s.at, len(m.calls), strings.Join(m.calls[max(0, min(s.at, len(m.calls))-1):min(s.at, len(m.calls))], ""), s.after, err)
	begun := time.Now()
	l.sweep()
	swept = time.Since(begun)
	require.Less(l, swept, time.Minute, where)
	require.Empty(l, l.leftovers(), where)
	require.Zero(l, l.sweep(), where)
	l.scribbleAll(1)
	res, want, err := l.try(nil)
	require.NoError(l, err, where)
	l.holds(res.Point, want)
	if !fresh {
		require.Equal(l, job.Changed, res.Disks[0].Method, "%s: %v", where, res.Fallbacks)
	}
	return swept
}

// Each call of a session fails once, in several ways. Whatever comes of it, nothing is left after one sweep, users' snapshots
// are untouched, and the next increment is right.
func TestEachCallFails(t *testing.T) {
	for name, fault := range some(t, 2, map[string]vmwaretest.Fault{
		"a fault":              {Fault: &types.SystemError{RuntimeFault: types.RuntimeFault{}}},
		"its task did it":      {InTask: true, After: true, Fault: &types.SystemError{RuntimeFault: types.RuntimeFault{}}},
		"the answer is lost":   {Cut: true, Lost: true},
		"the call is lost":     {Cut: true},
		"the server is busy":   {Status: 503},
		"another work goes on": {Fault: &types.TaskInProgress{}},
	}) {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, vmwaretest.Options{DiskBytes: 1 << 20})
			l.point(nil)
			_, err := l.vm().CreateSnapshot("mine", "")
			require.NoError(t, err)
			count := l.stepsOf()
			steps := rand.Perm(count)
			if !allSteps() {
				steps = steps[:2]
			}
			tried, failed := 0, 0
			for _, at := range steps {
				t.Logf("call %d of %d", at, count)
				f := fault
				f.Skip = at
				l.server.Fail(f)
				l.scribbleAll(1)
				res, want, err := l.try(nil)
				l.server.Heal()
				if tried++; err != nil {
					failed++
				} else {
					l.holds(res.Point, want)
				}
				l.sweep()
				require.Empty(t, l.leftovers(), "call %d: %v", at, err)
				require.Len(t, l.vm().Snapshots(), 1)
				res, want, err = l.try(nil)
				require.NoError(t, err)
				l.holds(res.Point, want)
			}
			t.Logf("figure: %d of %d calls failed, %d sessions with them", tried, count, failed)
		})
	}
}

// A snapshot that is being made when its session dies is waited for, and found by its mark.
func TestSnapshotInFlightIsFound(t *testing.T) {
	l := newLab(t, vmwaretest.Options{DiskBytes: 1 << 20})
	l.point(nil)
	m, err := l.client.machine(t.Context(), l.vm().Ref())
	require.NoError(t, err)
	j, err := hikae.OpenFileJournal(l.journal)
	require.NoError(t, err)
	k, err := l.client.newMarked(t.Context(), j, m)
	require.NoError(t, err)
	l.server.Fail(vmwaretest.Fault{Method: "CreateSnapshot_Task", InTask: true, Delay: 300 * time.Millisecond})
	_, err = k.begin(t.Context(), nil)
	require.NoError(t, err)
	require.NoError(t, j.Close())
	require.Empty(t, l.vm().Snapshots())
	require.Equal(t, 1, l.sweep())
	require.Empty(t, l.vm().Snapshots())
	l.clean()
}

// A sweep touches what bears the mark, and nothing that only looks like it.
func TestSweepTouchesNothingElse(t *testing.T) {
	l := newLab(t, vmwaretest.Options{DiskBytes: 1 << 20})
	mark := newMark()
	_, err := l.vm().CreateSnapshot(namePrefix+mark, "hikae-mark: "+newMark())
	require.NoError(t, err)
	_, err = l.vm().CreateSnapshot("theirs", describe(mark))
	require.NoError(t, err)
	effect := l.client.effect(kindSnapshot, l.vm().Ref().Value, map[string]string{"mark": mark})
	p := l.provider()
	require.NoError(t, p.Undo(t.Context(), effect, nil))
	require.Len(t, l.vm().Snapshots(), 2)
	ours, err := l.vm().CreateSnapshot(namePrefix+"x", describe(mark))
	require.NoError(t, err)
	_, err = l.vm().CreateSnapshot("on top of ours", "")
	require.NoError(t, err)
	require.NoError(t, p.Undo(t.Context(), effect, nil))
	require.NoError(t, p.Undo(t.Context(), effect, nil), "twice is no error")
	snaps := l.vm().Snapshots()
	require.Len(t, snaps, 3)
	for _, s := range snaps {
		require.NotEqual(t, ours, s.Ref)
	}
}

// A VM that left the inventory and came back has another reference; its own UUID finds it, and no other VM.
func TestSweepFindsTheVM(t *testing.T) {
	l := newLab(t, vmwaretest.Options{VMs: 2, DiskBytes: 1 << 20})
	m, err := l.client.machine(t.Context(), l.vm().Ref())
	require.NoError(t, err)
	for _, c := range []struct {
		vm, uuid string
		found    bool
	}{
		{m.Self.Value, m.Config.InstanceUuid, true},
		{m.Self.Value, "", true},
		{"vm-0", m.Config.InstanceUuid, true},
		{l.server.VM("web1").Ref().Value, m.Config.InstanceUuid, true},
		{"vm-0", newInstance(), false},
		{m.Self.Value, newInstance(), false},
		{"vm-0", "", false},
	} {
		ref, found, err := l.client.sameVM(t.Context(), hikae.Effect{VM: c.vm, Facts: map[string]string{"uuid": c.uuid}})
		require.NoError(t, err)
		require.Equal(t, c.found, found, c)
		if found {
			require.Equal(t, m.Self, ref, c)
		}
	}
}

func TestEffectsThatMakeNoSense(t *testing.T) {
	l := newLab(t, vmwaretest.Options{DiskBytes: 1 << 20})
	p, vm := l.provider(), l.vm().Ref().Value
	for name, e := range map[string]hikae.Effect{
		"another server": {Kind: kindSnapshot, VM: vm, Facts: map[string]string{"server": "https://elsewhere", "mark": newMark()}},
		"another kind":   l.client.effect("vmware.nothing", vm, nil),
		"no mark":        l.client.effect(kindSnapshot, vm, nil),
		"empty mark":     l.client.effect(kindSnapshot, vm, map[string]string{"mark": ""}),
		"no source":      l.client.effect(kindRelocation, vm, nil),
	} {
		require.Error(t, p.Undo(t.Context(), e, nil), name)
	}
	for _, kind := range []string{kindSnapshot, kindRelocation, kindTracking} {
		gone := l.client.effect(kind, "vm-0", map[string]string{"mark": newMark(), "source": "x"})
		require.NoError(t, p.Undo(t.Context(), gone, nil), "the VM is gone, and all that was on it")
	}
	require.Error(t, (&Sweeper{}).Undo(t.Context(), hikae.Effect{Kind: kindSnapshot}, nil))
}

// Administrators give VMs other UUIDs: the one with the reference is looked at too, and what bears the mark goes.
func TestSweepOfAVMWithAnotherUUID(t *testing.T) {
	l := newLab(t, vmwaretest.Options{DiskBytes: 1 << 20})
	j, err := hikae.OpenFileJournal(l.journal)
	require.NoError(t, err)
	_, err = l.provider().Snapshot(t.Context(), l.vm().Ref().Value, &hikae.SnapshotOptions{Journal: j})
	require.NoError(t, err)
	require.NoError(t, j.Close()) // the session dies
	l.reconfigure(l.vm(), types.VirtualMachineConfigSpec{InstanceUuid: newInstance()})
	require.NotZero(t, l.sweep())
	l.clean()
}

// A call to create outlives who asked for it: it is not cut short, so that it cannot arrive when everybody has looked.
func TestCreateIsNotCutShort(t *testing.T) {
	l := newLab(t, vmwaretest.Options{DiskBytes: 1 << 20})
	l.opts.KeepTracking = true
	l.server.Fail(vmwaretest.Fault{Method: "CreateSnapshot_Task", Delay: 600 * time.Millisecond})
	ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
	defer cancel()
	_, _, err := l.tryBy(ctx, l.provider(), l.vm(), nil)
	require.Error(t, err)
	time.Sleep(time.Second)
	l.sweep()
	l.clean()
}

// A task of somebody else that never ends does not hold a sweep up for ever.
func TestSweepHasABound(t *testing.T) {
	l := newLab(t, vmwaretest.Options{DiskBytes: 1 << 20})
	l.client.opts.TaskTimeout = 300 * time.Millisecond
	l.server.Fail(vmwaretest.Fault{Method: "CreateSnapshot_Task", InTask: true, Delay: 3 * time.Second})
	_, err := methods.CreateSnapshot_Task(t.Context(), l.client.Vim(), &types.CreateSnapshot_Task{This: l.vm().Ref(), Name: "somebody's"})
	require.NoError(t, err)
	begun := time.Now()
	require.Error(t, undo(t.Context(), l.client, l.client.effect(kindSnapshot, l.vm().Ref().Value, map[string]string{"mark": newMark()}), nil))
	require.Less(t, time.Since(begun), 2*time.Second)
}
