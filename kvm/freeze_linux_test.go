package kvm

import (
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
)

// frozenFor makes a backup while a tap stands before the agent and the monitor, and returns the longest pause that the
// guest's writer saw, by the guest's own clock.
func (l *lab) frozenFor(p *tap, o job.BackupOptions) (job.Result, time.Duration, error) {
	l.t.Helper()
	direct := l.machine
	defer func() { l.machine = direct }()
	l.machine.QMP, l.machine.Agent = filepath.Join(l.dir, "fq"), filepath.Join(l.dir, "fa")
	stopQMP := p.open(l.machine.QMP, direct.QMP)
	defer stopQMP()
	stopAgent := p.open(l.machine.Agent, direct.Agent)
	defer stopAgent()
	l.fx("reset")
	res, err := l.backup(Options{}, o)
	_, _, pause := l.journal()
	return res, pause, err
}

// lateness is what a thaw takes after a deadline, on a machine that has much else to do.
const lateness = 5 * time.Second

// The guest does what it is told and the answer is lost: once that to the freeze, once that to the moment, and that to
// the thaw more than once. It is frozen for no longer than the deadline and one thaw.
func (l *lab) lostAnswers() {
	deadline := time.Second
	o := job.BackupOptions{FreezeDeadline: deadline}
	p := &tap{t: l.t, mute: "guest-fsfreeze-freeze", muted: 1}
	res, pause, err := l.frozenFor(p, o)
	require.NoError(l.t, err)
	require.Zero(l.t, p.muted)
	require.Equal(l.t, "crash", res.Consistency)
	require.Len(l.t, res.Warnings, 1)
	require.Contains(l.t, res.Warnings[0], "could not be frozen")
	l.t.Logf("figure: freeze whose answer is lost, deadline %v: the guest paused for %v", deadline, pause)
	require.Less(l.t, pause, deadline+lateness)

	p = &tap{t: l.t, mute: "guest-fsfreeze-thaw", muted: 1}
	res, pause, err = l.frozenFor(p, job.BackupOptions{})
	require.NoError(l.t, err)
	require.Zero(l.t, p.muted)
	require.Equal(l.t, "filesystem", res.Consistency)
	l.t.Logf("figure: thaw whose answer is lost: the guest paused for %v", pause)
	require.Less(l.t, pause, lateness, "it was thawed at once, only nobody heard of it")
}

// TestFreezeDeadline: what goes wrong while the guest is frozen. See lostAnswers, which is in TestOnline.
func TestFreezeDeadline(t *testing.T) {
	if !long() {
		t.Skip("the rarer ones need HIKAE_TEST_TIER=long")
	}
	l := newLab(t)
	points := map[string]expected{}
	l.point(points)
	for _, c := range []struct {
		name, mute string
		muted      int
		atMost     time.Duration // frozen
		fails      bool
	}{
		{"the thaw is confirmed at the third time", "guest-fsfreeze-thaw", 2, lateness, false},
		{"QEMU does not say that the moment was", "qom-set", 1, 2*time.Second + lateness, true},
		{"the guest does not say whether it is frozen", "guest-fsfreeze-status", 1, 2*time.Second + lateness, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer func(outer *testing.T) { l.t = outer }(l.t)
			l.t = t
			p := &tap{t: t, mute: c.mute, muted: c.muted}
			_, pause, err := l.frozenFor(p, job.BackupOptions{FreezeDeadline: 2 * time.Second})
			t.Logf("figure: %s: the guest paused for %v", c.name, pause)
			require.Equal(t, c.fails, err != nil, err)
			require.Zero(t, p.muted)
			require.Less(t, pause, c.atMost)
			require.Equal(t, job.Changed, l.point(points).Disks[1].Method)
		})
	}
	l.checkPoints(points)
}

// leaseTime is how long a guard lets a guest be frozen.
const leaseTime = 8 * time.Second

// TestLease stops a session's process while the guest is frozen, so that it neither thaws nor dies. Its guard thaws when
// the lease is over. The session goes on afterwards, and does not say that its point is consistent.
func TestLease(t *testing.T) {
	if !long() {
		t.Skip("TestGuardLease does it without a guest; with one it needs HIKAE_TEST_TIER=long")
	}
	l := newLab(t)
	points := map[string]expected{}
	l.point(points)
	direct := l.machine
	p := &tap{t: t, hold: true}
	l.machine.QMP, l.machine.Agent = filepath.Join(l.dir, "lq"), filepath.Join(l.dir, "la")
	l.guarded, l.deadline = true, time.Minute // it is the guard's lease that ends first
	p.open(l.machine.QMP, direct.QMP)
	p.open(l.machine.Agent, direct.Agent)
	p.arm(0, false, nil)
	require.NoError(t, l.victim(nil))
	at := moment(p.passed())
	l.fx("reset")

	started := make(chan *os.Process, 1)
	stopped := make(chan *os.Process, 1)
	p.arm(at+1, true, func() {
		v := <-started
		require.NoError(t, v.Signal(syscall.SIGSTOP))
		stopped <- v
	})
	go func() {
		v := <-stopped
		time.Sleep(leaseTime + lateness)
		v.Signal(syscall.SIGCONT)
	}()
	require.NoError(t, l.victim(func(v *os.Process) { started <- v }))
	l.machine, l.guarded, l.deadline = direct, false, 0
	_, _, pause := l.journal()
	t.Logf("figure: session stopped while the guest is frozen, lease %v: the guest paused for %v", leaseTime, pause)
	require.Greater(t, pause, leaseTime-2*time.Second, "it was not stopped while the guest was frozen")
	if quietMachine() {
		require.Less(t, pause, freezeDeadline)
	}
	require.Less(t, pause, leaseTime+lateness)
	require.Equal(t, "crash", l.newest().Consistency)
	l.clean()
	require.Equal(t, job.Changed, l.point(points).Disks[1].Method)
	l.checkPoints(points)
}

// TestFrozen measures how long a server is frozen while SQLite, PostgreSQL and two journals write, by its own clock.
func TestFrozen(t *testing.T) {
	if !long() {
		t.Skip("TestEndToEnd measures some freezes; 40 of them need HIKAE_TEST_TIER=long")
	}
	s := newSite(t)
	p := New([]Machine{{QMP: s.guest.QMP(), Agent: s.guest.Agent()}}, &Options{Scratch: s.scratch})
	for range 40 {
		snap, err := p.Snapshot(t.Context(), s.guest.QMP(), nil)
		require.NoError(t, err)
		require.Equal(t, hikae.Filesystem, snap.Consistency())
		require.NoError(t, snap.Release(t.Context()))
		s.moment()
	}
	requireClean(t, s.guest, s.scratch, nil)
	slices.Sort(s.frozen)
	median, worst := s.frozen[len(s.frozen)/2], s.frozen[len(s.frozen)-1]
	t.Logf("figure: frozen by the guest's own clock, %d freezes of 2 file systems: median=%v p95=%v worst=%v",
		len(s.frozen), median, s.frozen[len(s.frozen)*95/100], worst)
	require.Less(t, worst, freezeDeadline)
	if quietMachine() {
		require.LessOrEqual(t, median, 300*time.Millisecond)
	}
}
