package kvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/kvm/qga"
	"github.com/hikae/hikae/kvm/qmp"
)

// A real guest starts from the repository, writes while its disks are copied, waits for a server that went, and has lost
// nothing when they are whole. A backup meanwhile is refused; the first one afterwards is whole, and the next one knows
// what changed.
func TestStartGuest(t *testing.T) {
	if !long() {
		t.Skip("needs HIKAE_TEST_TIER=long")
	}
	l := newLab(t)
	l.fx("fill", "/data/a", "0", "3000000", "1")
	l.fx("fill", "/dev/vdb", "0", "8388608", "2")
	_, err := l.backup(Options{}, job.BackupOptions{})
	require.NoError(t, err)
	sum, point := l.guestSum(), *l.newest()
	command := l.started(filepath.Join(l.dir, "inst"))
	l.guest.Kill()
	for _, name := range []string{l.guest.QMP(), l.guest.Agent()} {
		os.Remove(name)
	}

	var warned []string
	opts := &StartOptions{Command: command, Limit: 512 << 10, Warn: func(text string) { warned = append(warned, text) }}
	begun := time.Now()
	s, err := Start(t.Context(), l.repo, point, filepath.Join(l.dir, "inst"), opts)
	require.NoError(t, err)
	t.Cleanup(func() { endMachine(t, s.Monitor()) })
	l.awaitAgent(90 * time.Second)
	t.Logf("the guest answers %v after the start", time.Since(begun))
	require.Equal(t, sum, l.guestSum(), "the disk is that of the point")

	finished := make(chan error, 1)
	ctx := within(t, 5*time.Minute)
	go func() { finished <- s.Finish(ctx) }()
	machine := l.machine
	l.machine.QMP = s.Monitor()
	var busy *hikae.BusyError
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) { // once the copy has begun
		snap, err := l.provider(Options{}).Snapshot(t.Context(), s.Monitor(), nil)
		if errors.As(err, &busy) && strings.Contains(err.Error(), "hikae-copy") {
			break
		}
		if err == nil {
			require.NoError(t, snap.Release(t.Context()))
		}
		require.True(t, time.Now().Before(end), "%v", err)
	}
	l.fx("fill", "/dev/vdb", "4194304", "1048576", "3")
	l.fx("zero", "/dev/vdb", "6291456", "1048576")
	want := l.guestSum()
	require.NoError(t, <-finished)
	require.NoError(t, s.Close())
	require.Equal(t, want, l.guestSum())
	l.fx("sync")

	full, err := job.Backup(t.Context(), l.provider(Options{}), "", l.repo, &job.BackupOptions{})
	require.NoError(t, err)
	require.NotEmpty(t, full.Fallbacks, "the first backup reads whole disks")
	l.fx("fill", "/dev/vdb", "0", "65536", "4")
	want = l.guestSum()
	inc, err := job.Backup(t.Context(), l.provider(Options{}), "", l.repo, &job.BackupOptions{})
	require.NoError(t, err)
	require.Empty(t, inc.Fallbacks)
	dir := l.restore(l.newest().ID)
	require.Equal(t, want, l.sumOfData(dir))
	require.Positive(t, l.checkSystem(dir))
	l.machine = machine
	t.Log(warned)
}

// started is how the lab's guest was started, with the disks of a point that is started in dir.
func (l *lab) started(dir string) (command []string) {
	l.t.Helper()
	mon, err := qmp.Dial(l.t.Context(), l.guest.QMP())
	require.NoError(l.t, err)
	defer mon.Close()
	pid, ok := mon.PeerPID()
	require.True(l.t, ok)
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	require.NoError(l.t, err)
	for _, word := range strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00") {
		word = strings.ReplaceAll(word, filepath.Join(l.dir, "system.qcow2"), "{disk:"+system+"}")
		command = append(command, strings.ReplaceAll(word, filepath.Join(l.dir, "data.qcow2"), "{disk:"+data+"}"))
	}
	return command
}

func (l *lab) awaitAgent(limit time.Duration) {
	l.t.Helper()
	require.Eventually(l.t, func() bool {
		agent := qga.New(l.guest.Agent(), nil)
		defer agent.Close()
		_, err := agent.Frozen(within(l.t, 5*time.Second))
		return err == nil
	}, limit, 200*time.Millisecond)
}

// endMachine ends a VM that a test started and nobody else waits for.
func endMachine(t *testing.T, monitor string) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second) // the test's own has ended
	defer cancel()
	mon, err := qmp.Dial(ctx, monitor)
	if err != nil {
		t.Log(err)
		return
	}
	defer mon.Close()
	mon.Execute(ctx, "quit", nil, nil) // it may end before it answers
}
