//go:build linux

package main

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
)

// R204: a fleet over TLS, and a Hyper-V host. A worker is killed in the middle of a copy; another one, of another machine, removes its checkpoint and
// makes the one point. What is not the dead worker's stands: a checkpoint of the VM's users, and that of a backup which was killed on a third machine.
func TestFleetHyperVLosesAWorker(t *testing.T) {
	l := buildHyperV(t).start(t, "--generation", "2019", "--vms", "2", "--disks", "1", "--size", "8MiB")
	queue, repository := tlsQueue(t, l.home), l.repository("fleet")
	worked, spared := l.ready.VMs[0], l.ready.VMs[1]
	users, err := l.Checkpoint(t.Context(), worked.ID, "before the update")
	require.NoError(t, err)
	third, dead := t.TempDir(), t.TempDir()
	slowly := "limits: {rate: 64KiB/s}\n"
	_, endBackup := killed(t, third, spared.Name+": begun", "job", "run", jobFile(t, third, l.repository("third"), hypervPassword, l.address("&vm="+spared.Name), slowly))
	foreign := l.checkpoints(1)
	endBackup()

	file := jobFile(t, l.home, repository, hypervPassword, l.address(""), "    include: ["+worked.Name+"]\nretry: {attempts: 1}\n")
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	slow := l.home + "/slow.yaml"
	require.NoError(t, os.WriteFile(slow, append(text, slowly...), 0o600))
	_, kill := killed(t, dead, "works for", slices.Concat([]string{"worker", "--job", slow, "--name", "w1", "--slots", "1"}, queue)...)
	_, endRun := killed(t, l.home, "1 tasks", slices.Concat([]string{"fleet", "run", file, "--run", "r1"}, queue)...)
	l.checkpoints(2)
	kill()
	endRun()

	said := background(t, l.home, "works for", slices.Concat([]string{"worker", "--job", file, "--name", "w2", "--slots", "1"}, queue)...)
	doc := command(t, l.home, outcome.Done, slices.Concat([]string{"fleet", "run", file, "--run", "r1"}, queue)...)
	outcomes := doc["outcomes"].([]any)
	require.Len(t, outcomes, 1)
	require.Equal(t, "w2", outcomes[0].(map[string]any)["worker"])
	require.Contains(t, said.String(), "of what a worker that was lost left")
	require.Len(t, command(t, l.home, outcome.Done, "points", "--repo", repository)["points"], 1)
	l.restored(repository, worked.Name, l.sums(worked.ID, 1, true))
	require.NoError(t, l.Settle(t.Context(), 20*time.Second))
	require.Equal(t, foreign, l.checkpoints(1), "the dead worker's is gone, the killed backup's stands")

	t.Setenv(sourcePassword, hypervPassword)
	command(t, third, outcome.Done, "hyperv", "sweep", l.address(""))
	require.NoError(t, l.Settle(t.Context(), 20*time.Second))
	l.checkpoints(0)
	require.NoError(t, l.RemoveCheckpoint(t.Context(), worked.ID, users), "it was there to the end")
	l.clean()
}

// checkpoints waits until there are so many of sessions on the host, and tells which.
func (l *hypervLab) checkpoints(n int) (out []string) {
	l.Helper()
	require.Eventually(l, func() bool {
		left, err := l.Leftovers(l.Context())
		require.NoError(l, err)
		out = slices.DeleteFunc(left, func(text string) bool { return !strings.HasPrefix(text, "checkpoint ") })
		return len(out) == n
	}, time.Minute, 20*time.Millisecond, "%d checkpoints", n)
	return out
}
