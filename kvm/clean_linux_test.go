package kvm

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/kvm/kvmtest"
	"github.com/hikae/hikae/kvm/qga"
	"github.com/hikae/hikae/kvm/qmp"
)

// requireClean checks that nothing of ours is left of a session: no node, export, job or NBD server in QEMU, no bitmap
// but those that a point names by the keys of disks, no stopped machine, no frozen file system, and nothing in the
// scratch folder. What is a stranger's there must still be there: see stranger.
func requireClean(t *testing.T, guest *kvmtest.Guest, scratch string, tracking map[string]string) {
	t.Helper()
	mon, err := qmp.Dial(t.Context(), guest.QMP())
	if err != nil { // seen once in hundreds of backups, of QEMU 7.2 on a machine at its limit
		require.NoError(t, err, "%s", standstill(t, guest))
	}
	defer mon.Close()
	inv, err := takeInventory(t.Context(), mon)
	require.NoError(t, err)
	require.Equal(t, "running", inv.status)
	require.Empty(t, inv.exports)
	for name := range inv.nodes {
		require.False(t, strings.HasPrefix(name, prefix), "node %s was left", name)
	}
	strange := strangers(t, mon)
	for _, d := range inv.disks {
		var names []string
		for _, b := range inv.nodes[d.Node].Bitmaps {
			require.True(t, b.Recording && !b.Busy && b.Persistent, b)
			if !strange || b.Name != strangeBitmap {
				names = append(names, b.Name)
			}
		}
		require.Equal(t, nonEmpty(tracking[d.Key]), names, "bitmaps of disk %s", d.Key)
	}
	var jobs []qmp.Job
	require.NoError(t, mon.Execute(t.Context(), "query-jobs", nil, &jobs))
	for _, j := range jobs {
		require.True(t, strange && j.ID == strangeJob, "job %s was left", j.ID)
	}
	require.True(t, qmp.Refused(mon.Execute(t.Context(), "nbd-server-stop", nil, nil)), "the NBD server was left running")

	agent := qga.New(guest.Agent(), nil)
	defer agent.Close()
	frozen, err := agent.Frozen(t.Context())
	require.NoError(t, err)
	require.False(t, frozen, "the guest was left frozen")
	left, err := os.ReadDir(scratch)
	require.NoError(t, err)
	require.Empty(t, left)
}

// standstill is what there is to say of a QEMU that answers nobody. Its main loop serves the agent's socket too: an agent
// that answers means that the loop turns and only the monitor is stuck; one that does not, that the loop waits inside of
// something, as the threads show.
func standstill(t *testing.T, guest *kvmtest.Guest) string {
	var b strings.Builder
	for i := range 3 {
		fmt.Fprintf(&b, "QEMU's threads, look %d:\n%s", i+1, guest.Threads())
		time.Sleep(200 * time.Millisecond)
	}
	agent := qga.New(guest.Agent(), nil)
	defer agent.Close()
	frozen, err := agent.Frozen(within(t, 5*time.Second))
	fmt.Fprintf(&b, "the agent: frozen %v, %v\nthe sockets of QEMU and of this process:\n%s", frozen, err, guest.Sockets())
	return b.String()
}

func nonEmpty(name string) []string {
	if name == "" {
		return nil
	}
	return []string{name}
}

// What a stranger has in the same QEMU: a bitmap on the second disk, nodes of its own, and a job between them that runs
// until somebody ends it.
const (
	strangeBitmap = "theirs"
	strangeNode   = "theirs-from"
	strangeTarget = "theirs-to"
	strangeJob    = "theirs-job"
)

// moveIn lets a stranger be at work in a QEMU.
func moveIn(t *testing.T, guest *kvmtest.Guest) {
	t.Helper()
	mon, err := qmp.Dial(t.Context(), guest.QMP())
	require.NoError(t, err)
	defer mon.Close()
	for _, c := range []struct {
		name string
		args map[string]any
	}{
		{"block-dirty-bitmap-add", map[string]any{"node": "disk1", "name": strangeBitmap, "persistent": true}},
		{"blockdev-add", map[string]any{"driver": "null-co", "node-name": strangeNode, "size": mib, "read-zeroes": true}},
		{"blockdev-add", map[string]any{"driver": "null-co", "node-name": strangeTarget, "size": mib, "read-zeroes": true}},
		{"blockdev-mirror", map[string]any{"job-id": strangeJob, "device": strangeNode, "target": strangeTarget, "sync": "full"}},
	} {
		require.NoError(t, mon.Execute(t.Context(), c.name, c.args, nil), c.name)
	}
}

// strangers reports whether a stranger is there, and checks that it is whole.
func strangers(t *testing.T, mon *qmp.Conn) bool {
	t.Helper()
	nodes, err := takeNodes(t.Context(), mon)
	require.NoError(t, err)
	if _, ok := nodes[strangeNode]; !ok {
		return false
	}
	require.Contains(t, nodes, strangeTarget)
	_, ok := nodes["disk1"].bitmap(strangeBitmap)
	require.True(t, ok, "the stranger's bitmap is gone")
	var jobs []qmp.Job
	require.NoError(t, mon.Execute(t.Context(), "query-jobs", nil, &jobs))
	require.Len(t, jobs, 1, "the stranger's job is gone")
	require.Equal(t, strangeJob, jobs[0].ID)
	return true
}

// quietMachine reports whether this machine has little else to do, so that a time that was measured under emulation says
// something about us.
func quietMachine() bool {
	text, err := os.ReadFile("/proc/loadavg")
	var load float64
	if err == nil {
		_, err = fmt.Sscan(string(text), &load)
	}
	return err == nil && load < 2.5
}
