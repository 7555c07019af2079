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
