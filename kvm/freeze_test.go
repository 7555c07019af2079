//go:build unix

package kvm

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
)

// processed is a monitor of a process that can be told from others.
type processed struct {
	script
	pid int
}

func (p processed) PeerPID() (int, bool) { return p.pid, p.pid != 0 }

// unfreeze is what a guest does by itself: Windows ends a freeze after 10 s, and anybody in it may.
func (a *guestAgent) unfreeze() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.frozen = false
}

// A guest that was thawed while its disks changed over is not called consistent, with a guard or without.
func TestThawedByOthers(t *testing.T) {
	t.Parallel()
	for _, early := range []bool{false, true} {
		a := &guestAgent{}
		socket := a.serve(t)
		s := &snapshot{provider: New(nil, nil), machine: Machine{Agent: socket}, footprint: newFootprint("/q"), consistency: hikae.Crash,
			done: map[string]func(context.Context) error{}, vm: hikae.VM{Facts: map[string]string{}}, unguard: func() {}}
		s.Disks = []disk{{Key: "a", QDev: "/machine/a", Node: "n"}}
		s.opts.FreezeDeadline = 10 * time.Second
		s.mon = script{"qom-set": ""}
		q := &agentQuiescer{agent: s.machine.agent().open()}
		require.NoError(t, s.quiesced(t.Context(), meddled{q, func() {
			if early {
				a.unfreeze()
			}
		}}))
		require.NoError(t, q.Close())
		require.Equal(t, map[bool]hikae.Consistency{false: hikae.Filesystem, true: hikae.Crash}[early], s.consistency)
		require.Equal(t, early, len(s.warnings) == 1, s.warnings)

		g, orders, ended := guarded(t, socket, time.Minute)
		require.NoError(t, g.Freeze(soon(t)))
		if early {
			a.unfreeze()
			require.ErrorIs(t, g.Thaw(soon(t)), errLate)
		} else {
			require.NoError(t, g.Thaw(soon(t)))
		}
		orders.Close()
		require.NoError(t, <-ended)
	}
}

// scripted is a quiescer that runs scripts: they take their time before the guest stands still, and after it moves again.
type scripted struct {
	patience, takes time.Duration
	done            int
}

func (q *scripted) Patience() time.Duration { return q.patience }
func (q *scripted) Freeze(ctx context.Context) error {
	select {
	case <-time.After(q.takes):
		q.done++
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
func (q *scripted) Thaw(ctx context.Context) error { return q.Freeze(ctx) }

// R144: a guest's scripts may take longer than the guest may stand still, if whoever freezes says so; else they are not
// waited for.
func TestScriptsTakeTheirTime(t *testing.T) {
	t.Parallel()
	for patience, want := range map[time.Duration]hikae.Consistency{time.Minute: hikae.Filesystem, 0: hikae.Crash} {
		s := &snapshot{provider: New(nil, &Options{ThawTimeout: 100 * time.Millisecond}), footprint: newFootprint("/q"), consistency: hikae.Crash,
			done: map[string]func(context.Context) error{}, vm: hikae.VM{Facts: map[string]string{}}, unguard: func() {}}
		s.Disks = []disk{{Key: "a", QDev: "/machine/a", Node: "n"}}
		s.opts.FreezeDeadline = 100 * time.Millisecond
		s.mon = script{"qom-set": ""}
		q := &scripted{patience: patience, takes: 300 * time.Millisecond}
		err := s.quiesced(t.Context(), q)
		require.Equal(t, want, s.consistency)
		if patience > 0 {
			require.NoError(t, err)
			require.Equal(t, 2, q.done, "frozen and thawed")
		} else {
			var quiesce *hikae.QuiesceError
			require.ErrorAs(t, err, &quiesce, "nobody has confirmed the thaw")
		}
	}
}

// meddled lets something happen between the freeze and the thaw.
type meddled struct {
	hikae.Quiescer
	between func()
}

func (m meddled) Freeze(c context.Context) error {
	err := m.Quiescer.Freeze(c)
	m.between()
	return err
}

// A sweep could not thaw, and took everything else away. The next one still knows that it is the same QEMU, and thaws;
// one that was started anew is left alone.
func TestUndoFreezeAfterNodesWent(t *testing.T) {
	t.Parallel()
	a := &guestAgent{frozen: true}
	f := newFootprint("/q")
	mon := processed{script{"query-named-block-nodes": `[{"node-name": "n"}]`}, os.Getpid()}
	was := processOf(mon)
	if was == "" {
		t.Skip("this system does not tell one process from another")
	}
	socket := a.serve(t)
	require.NoError(t, f.undoFreeze(t.Context(), mon, socket, ""))
	require.NoError(t, f.undoFreeze(t.Context(), mon, socket, was+"0"))
	frozen, _ := a.state()
	require.True(t, frozen, "another QEMU's guest was thawed")
	require.NoError(t, f.undoFreeze(t.Context(), mon, socket, was))
	frozen, _ = a.state()
	require.False(t, frozen)
}
