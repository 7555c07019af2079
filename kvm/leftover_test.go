package kvm

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/kvm/qmp"
)

// still is a QEMU whose processor stands still, with one qcow2 disk.
func still(t *testing.T) Machine {
	t.Helper()
	b := newStartBench(t)
	disk := StartedDisk{Key: "root", Path: filepath.Join(b.dir, "root.qcow2")}
	b.command("qemu-img", "create", "-q", "-f", "qcow2", disk.Path, "8M")
	m := Machine{QMP: filepath.Join(b.dir, "qmp.sock"), Name: "web1"}
	command := append([]string{"qemu-system-x86_64", "-S", "-M", "q35", "-nodefaults", "-display", "none"}, disk.Options()...)
	vm, err := launch(append(command, monitorOptions(m.QMP)...), filepath.Join(b.dir, "vm.log"))
	require.NoError(t, err)
	var mon *qmp.Conn
	require.Eventually(t, func() bool { mon, err = qmp.Dial(t.Context(), m.QMP); return err == nil }, 20*time.Second, 20*time.Millisecond)
	pid, ok := mon.PeerPID()
	require.True(t, ok)
	require.NoError(t, mon.Close())
	p, err := os.FindProcess(int(pid))
	require.NoError(t, err)
	t.Cleanup(func() {
		p.Kill()
		<-vm.ended
	})
	return m
}

func kinds(list []Leftover, removed bool) (kinds []string) {
	for _, l := range list {
		if l.Removed == removed {
			kinds = append(kinds, l.Kind)
		}
	}
	return kinds
}

// A session whose journal is lost is found by its names, and goes; what others made stays, and so does a session that
// is at work.
func TestSweepLost(t *testing.T) {
	t.Parallel()
	m := still(t)
	p := New([]Machine{m}, &Options{Scratch: filepath.Dir(m.QMP)})
	none, err := p.Leftovers(t.Context(), m.QMP)
	require.NoError(t, err)
	require.Empty(t, none)
	mon, err := qmp.Dial(t.Context(), m.QMP)
	require.NoError(t, err)
	require.NoError(t, mon.Execute(t.Context(), "block-dirty-bitmap-add", map[string]any{"node": "disk-root", "name": "theirs"}, nil))
	require.NoError(t, mon.Close())

	snap, err := p.Snapshot(t.Context(), m.QMP, nil)
	require.NoError(t, err)
	ids, err := snap.Prepare(t.Context())
	require.NoError(t, err)
	opts := &LeftoverOptions{Watch: 50 * time.Millisecond}
	reader, err := snap.OpenDisk(t.Context(), "root")
	require.NoError(t, err)
	var busy *hikae.BusyError
	_, err = p.SweepLost(t.Context(), m.QMP, opts)
	require.ErrorAs(t, err, &busy, "somebody reads")
	require.NoError(t, reader.Close())
	require.Eventually(t, func() bool {
		list, err := p.SweepLost(t.Context(), m.QMP, &LeftoverOptions{DryRun: true, Watch: time.Millisecond})
		return err == nil && len(kinds(list, true)) == 0 && len(list) == 6
	}, 5*time.Second, 20*time.Millisecond)

	list, err := p.SweepLost(t.Context(), m.QMP, opts)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"export", "node", "node", "node", "folder"}, kinds(list, true))
	require.Equal(t, []string{"bitmap"}, kinds(list, false), "nobody said that no point needs it")

	list, err = p.SweepLost(t.Context(), m.QMP, &LeftoverOptions{Watch: time.Millisecond, Keep: []hikae.ChangeID{ids["root"]}})
	require.NoError(t, err)
	require.Equal(t, "a restore point names it", list[0].Kept)
	list, err = p.SweepLost(t.Context(), m.QMP, &LeftoverOptions{Watch: time.Millisecond, Keep: []hikae.ChangeID{}})
	require.NoError(t, err)
	require.Equal(t, []string{"bitmap"}, kinds(list, true))
	none, err = p.Leftovers(t.Context(), m.QMP)
	require.NoError(t, err)
	require.Empty(t, none)

	snap, err = p.Snapshot(t.Context(), m.QMP, nil)
	require.NoError(t, err, "the machine is as it was")
	require.NoError(t, snap.Release(t.Context()))
	mon, err = qmp.Dial(t.Context(), m.QMP)
	require.NoError(t, err)
	defer mon.Close()
	nodes, err := takeNodes(t.Context(), mon)
	require.NoError(t, err)
	_, ok := nodes["disk-root"].bitmap("theirs")
	require.True(t, ok)
}
