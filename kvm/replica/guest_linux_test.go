package replica

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/kvm"
	"github.com/hikae/hikae/kvm/kvmtest"
	"github.com/hikae/hikae/kvm/qga"
	"github.com/hikae/hikae/kvm/qmp"
	"github.com/hikae/hikae/pipe"
)

const mib = 1 << 20

// Keys of the guest's disks.
const (
	systemDisk = "root-0001"
	dataDisk   = "vd1"
)

// guestLab is a real guest that writes a journal, and a replica site.
type guestLab struct {
	t       *testing.T
	dir     string
	guest   *kvmtest.Guest
	machine kvm.Machine
	site    *Site
	agent   string // of the machine that is spoken to
	command []string
}

func newGuestLab(t *testing.T) *guestLab {
	t.Helper()
	fixture, err := kvmtest.Build(t.Context())
	var missing *kvmtest.UnavailableError
	if errors.As(err, &missing) {
		t.Skip(err)
	}
	require.NoError(t, err)
	for _, name := range []string{"qemu-img", "e2fsck", "debugfs"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skip(name + " is not installed")
		}
	}
	dir, err := os.MkdirTemp("", "rep") // short, for sockets
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	l := &guestLab{t: t, dir: dir}
	raw := l.path("system.raw")
	require.NoError(t, kvmtest.MakeExt4(t.Context(), raw, 48*mib))
	l.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, l.path("system.qcow2"))
	l.run("qemu-img", "create", "-q", "-f", "qcow2", l.path("data.qcow2"), "16M")
	require.NoError(t, os.Remove(raw))
	for _, name := range []string{"vm", "again", "scratch"} {
		require.NoError(t, os.Mkdir(l.path(name), 0o700))
	}
	l.guest, err = fixture.Start(t.Context(), l.path("vm"), []kvmtest.GuestDisk{
		{Path: l.path("system.qcow2"), Format: "qcow2", ID: "vd0", Serial: systemDisk},
		{Path: l.path("data.qcow2"), Format: "qcow2", ID: dataDisk},
	})
	require.NoError(t, err)
	t.Cleanup(l.guest.Kill)
	l.agent = l.guest.Agent()
	l.machine = kvm.Machine{QMP: l.guest.QMP(), Agent: l.guest.Agent(), Name: "web1"}
	l.command = l.replicaCommand()
	l.site, err = Open(l.path("site"), &Options{Warn: func(text string) { t.Error(text) }})
	require.NoError(t, err)
	return l
}

func (l *guestLab) path(name string) string { return filepath.Join(l.dir, name) }

func (l *guestLab) run(name string, args ...string) {
	l.t.Helper()
	out, err := exec.CommandContext(l.t.Context(), name, args...).CombinedOutput()
	require.NoError(l.t, err, "%s %v: %s", name, args, out)
}

// replicaCommand is how the guest was started, with the disks of a replica, and sockets in another folder.
func (l *guestLab) replicaCommand() (command []string) {
	mon, err := qmp.Dial(l.t.Context(), l.guest.QMP())
	require.NoError(l.t, err)
	defer mon.Close()
	pid, ok := mon.PeerPID()
	require.True(l.t, ok)
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	require.NoError(l.t, err)
	for _, word := range strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00") {
		word = strings.ReplaceAll(word, l.guest.QMP(), "{monitor}")
		word = strings.ReplaceAll(word, l.path("system.qcow2"), "{disk:"+systemDisk+"}")
		word = strings.ReplaceAll(word, l.path("data.qcow2"), "{disk:"+dataDisk+"}")
		command = append(command, strings.ReplaceAll(word, l.path("vm"), l.path("again")))
	}
	return command
}

// fx lets the guest do something.
func (l *guestLab) fx(args ...string) string {
	l.t.Helper()
	agent := qga.New(l.agent, nil)
	defer agent.Close()
	r, err := agent.Exec(l.t.Context(), "/bin/fx", args, nil, mib)
	require.NoError(l.t, err, args)
	require.Zero(l.t, r.ExitCode, "%v: %s", args, r.Stderr)
	return string(r.Stdout)
}

func (l *guestLab) sum() string { return strings.TrimSpace(l.fx("sum", "/dev/vdb")) }

// journal is how far the guest's writer has come.
func (l *guestLab) journal() (written, synced int) {
	l.t.Helper()
	_, err := fmt.Sscanf(l.fx("state"), "written %d synced %d", &written, &synced)
	require.NoError(l.t, err)
	return written, synced
}

// guestPoint is what a point must hold.
type guestPoint struct {
	sum                string
	synced, notWritten int
}

// backup makes a point of the running guest by a session, as any backup is made.
func (l *guestLab) backup() (pipe.PointInfo, job.Result, guestPoint) {
	l.t.Helper()
	var want guestPoint
	_, want.synced = l.journal()
	want.sum = l.sum()
	j, err := hikae.OpenFileJournal(l.path("journal"))
	require.NoError(l.t, err)
	defer j.Close()
	provider := kvm.New([]kvm.Machine{l.machine}, &kvm.Options{Scratch: l.path("scratch")})
	res, err := job.Backup(l.t.Context(), provider, "", l.site, &job.BackupOptions{Journal: j})
	require.NoError(l.t, err)
	require.Empty(l.t, res.Warnings)
	require.Equal(l.t, "filesystem", res.Consistency)
	written, _ := l.journal()
	want.notWritten = written + 1
	return l.newest(), res, want
}

func (l *guestLab) newest() (newest pipe.PointInfo) {
	for p, err := range l.site.Points(l.t.Context(), "web1") {
		require.NoError(l.t, err)
		newest = p
	}
	return newest
}

// rawOf reads a disk of a point into a file.
func (l *guestLab) rawOf(point, key string) string {
	l.t.Helper()
	img, err := l.site.Open(l.t.Context(), point, key)
	require.NoError(l.t, err)
	defer img.Close()
	f, err := os.CreateTemp(l.dir, "raw")
	require.NoError(l.t, err)
	_, err = io.Copy(f, io.NewSectionReader(pipe.ReaderAt(l.t.Context(), img), 0, img.Size()))
	require.NoError(l.t, err)
	require.NoError(l.t, f.Close())
	return f.Name()
}

// check holds a point to what the guest had: the data disk, a clean file system, a journal without a gap.
func (l *guestLab) check(point string, want guestPoint) {
	l.t.Helper()
	require.Equal(l.t, want.sum, sumOfFile(l.t, l.rawOf(point, dataDisk)))
	path := l.rawOf(point, systemDisk)
	l.run("e2fsck", "-fn", path)
	l.run("debugfs", "-R", "dump /journal "+path+".journal", path)
	text, err := os.ReadFile(path + ".journal")
	require.NoError(l.t, err)
	lines := strings.SplitAfter(string(text), "\n")
	lines = lines[:len(lines)-1] // the last is empty, or was being written
	for i, line := range lines {
		number, err := strconv.Atoi(strings.TrimLeft(line[:12], "0"))
		require.NoError(l.t, err, line)
		require.Equal(l.t, i+1, number, "a gap in the journal")
	}
	require.GreaterOrEqual(l.t, len(lines), want.synced)
	require.LessOrEqual(l.t, len(lines), want.notWritten)
	require.NoError(l.t, errors.Join(os.Remove(path), os.Remove(path+".journal")))
}

// sumOfFile is the checksum of the guest's "fx sum".
func sumOfFile(t *testing.T, path string) string {
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.Remove(path))
	h := uint64(0xcbf29ce484222325)
	for i := 0; i < len(content); i += 8 {
		h = (h ^ binary.LittleEndian.Uint64(content[i:])) * 0x100000001b3
	}
	return fmt.Sprintf("%016x", h)
}

// awaitGuest waits until the replica's guest answers.
func (l *guestLab) awaitGuest() {
	l.t.Helper()
	require.Eventually(l.t, func() bool {
		agent := qga.New(l.agent, nil)
		defer agent.Close()
		ctx, cancel := context.WithTimeout(l.t.Context(), 5*time.Second)
		defer cancel()
		_, err := agent.Frozen(ctx)
		return err == nil
	}, 3*time.Minute, 200*time.Millisecond)
}

// endReplica ends the VM of a failover as a power cut does.
func endReplica(t *testing.T, monitor string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // the test's own may have ended
	defer cancel()
	mon, err := qmp.Dial(ctx, monitor)
	if err != nil {
		return // it has ended
	}
	defer mon.Close()
	_ = mon.Execute(ctx, "quit", nil, nil) // it may end before it answers
}

// A guest that writes without a pause is replicated by increments, and dies. The replica boots from the newest point with
// nothing copied: its file system is clean, its journal complete up to the point, and the writer, which checks all of it,
// goes on. What it then writes becomes the next point, from which it boots again (R146, R195). HIKAE_REPLICA_MINUTES makes it that
// many increments, one a minute.
func TestGuest(t *testing.T) {
	increments, every := 2, time.Duration(0)
	if long() {
		increments = 12
	}
	if n, err := strconv.Atoi(os.Getenv("HIKAE_REPLICA_MINUTES")); err == nil {
		increments, every = n, time.Minute
	}
	l := newGuestLab(t)
	l.fx("fill", "/data/a", "0", "3000000", "1")
	l.fx("fill", "/dev/vdb", "0", "8388608", "2")
	full, res, want := l.backup()
	require.Equal(t, job.Allocated, res.Disks[0].Method)
	l.check(full.ID, want)
	var point pipe.PointInfo
	for n := range increments {
		due := time.Now().Add(every)
		i := n % 12 // the data disk has room for no more
		l.fx("fill", "/dev/vdb", strconv.Itoa(i*mib), "524288", strconv.Itoa(10+i))
		l.fx("zero", "/dev/vdb", strconv.Itoa(i*mib+mib/2), "262144")
		l.fx("discard", "/dev/vdb", strconv.Itoa((i+2)*mib), "65536")
		if n == 1 {
			l.fx("rm", "/data/a")
			l.fx("trim", "/data")
		}
		point, res, want = l.backup()
		for _, d := range res.Disks {
			require.Equal(t, job.Changed, d.Method, res.Fallbacks)
		}
		require.Less(t, point.New, int64(8*mib))
		_, err := l.site.Keep(t.Context(), "web1", 2)
		require.NoError(t, err)
		if long() || n == increments-1 {
			l.check(point.ID, want)
		}
		t.Logf("figure: increment %d of %d, %d bytes, late by %v", n+1, increments, point.New, max(0, time.Since(due)).Round(time.Millisecond))
		time.Sleep(time.Until(due))
	}
	found, err := l.site.Check(t.Context(), "web1", true)
	require.NoError(t, err)
	require.Empty(t, found)

	l.guest.Kill()
	written := l.runReplica(want.sum, want.synced, true)
	sealed, err := l.site.Seal(t.Context(), "web1")
	require.NoError(t, err)
	require.Equal(t, point.ID, sealed.Facts[FactSealed])
	require.Equal(t, sealed.ID, l.newest().ID)
	if long() {
		l.runReplica(sumOfFile(t, l.rawOf(sealed.ID, dataDisk)), written, false)
		require.NoError(t, l.site.Undo(t.Context(), "web1"))
	}
	found, err = l.site.Check(t.Context(), "web1", true)
	require.NoError(t, err)
	require.Empty(t, found)
}

// runReplica fails over to the newest point, and holds what the guest finds against what it must. It returns how long the
// journal was at least when the guest ended.
func (l *guestLab) runReplica(sum string, synced int, write bool) int {
	l.t.Helper()
	begun := time.Now()
	f, err := l.site.Failover(l.t.Context(), "web1", &FailoverOptions{Command: l.command, Deep: true})
	require.NoError(l.t, err)
	l.t.Cleanup(func() { endReplica(l.t, f.State.Monitor) })
	l.t.Logf("figure: the replica's program answers after %v", time.Since(begun).Round(time.Millisecond))
	l.agent = filepath.Join(l.path("again"), "qga.sock")
	l.awaitGuest()
	l.t.Logf("figure: its guest answers after %v", time.Since(begun).Round(time.Millisecond))
	require.Equal(l.t, sum, l.sum(), "the data disk is that of the point")
	written, _ := l.journal()
	require.GreaterOrEqual(l.t, written, synced, "the journal is complete up to the point")
	console, err := os.ReadFile(filepath.Join(l.path("again"), "serial.log"))
	require.NoError(l.t, err)
	require.NotContains(l.t, string(console), "fx:", "the guest has nothing to complain of")

	var busy *hikae.BusyError
	require.ErrorAs(l.t, l.site.Undo(l.t.Context(), "web1"), &busy, "it runs")
	_, err = l.site.Seal(l.t.Context(), "web1")
	require.ErrorAs(l.t, err, &busy, "it runs")
	_, err = job.Backup(l.t.Context(), kvm.New([]kvm.Machine{{QMP: f.State.Monitor, Name: "web1"}}, &kvm.Options{Scratch: l.path("scratch")}), "", l.site, nil)
	var refused *StateError
	require.ErrorAs(l.t, err, &refused, "the replica is not overwritten under the VM that runs from it")
	if write {
		l.fx("fill", "/dev/vdb", "4194304", "1048576", "77")
	}
	l.fx("sync")
	sum = l.sum()
	_, after := l.journal()
	endReplica(l.t, f.State.Monitor)
	require.Eventually(l.t, func() bool {
		by, err := f.State.Running(l.t.Context())
		return err == nil && by == ""
	}, time.Minute, 50*time.Millisecond)
	same := l.rawOfRun(f.State)
	require.Equal(l.t, sum, same)
	return after
}

// rawOfRun is the checksum of the data disk that a failed over VM left, as QEMU's own tool reads it.
func (l *guestLab) rawOfRun(s State) string {
	for _, d := range s.Disks {
		if d.Key == dataDisk {
			raw := l.path("run.raw")
			l.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", d.Path, raw)
			return sumOfFile(l.t, raw)
		}
	}
	require.Fail(l.t, "no data disk")
	return ""
}
