package kvm

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/kvm/kvmtest"
	"github.com/hikae/hikae/kvm/qmp"
	"github.com/hikae/hikae/pipe"
)

// TestMigrated moves the guest from QEMU to QEMU over the same images, between backups and in one. A backup where it no
// longer is says so; one that it left makes no point; at the new place points are right again, and incremental at the
// latest after one that read everything.
func TestMigrated(t *testing.T) {
	if !long() {
		t.Skip("several QEMUs: needs HIKAE_TEST_TIER=long")
	}
	l := newLab(t)
	l.fx("fill", "/dev/vdb", "0", "8388608", "2")
	points := map[string]expected{}
	l.point(points)

	t.Run("on its way", l.underWay)
	t.Run("between backups", func(t *testing.T) {
		l.fx("fill", "/dev/vdb", "1048576", "131072", "3")
		left := l.machine
		l.migrate("second")
		_, err := New([]Machine{left}, nil).Snapshot(t.Context(), left.QMP, nil)
		require.ErrorIs(t, err, ErrMigrated)
		l.fx("fill", "/dev/vdb", "4194304", "131072", "4")
		l.arrived(points)
	})
	t.Run("in a backup", func(t *testing.T) { l.leaves(t, points, Options{}, "third") })
	t.Run("in a backup by jobs", func(t *testing.T) { l.leaves(t, points, old(Options{}), "fourth") })
	l.checkPoints(points)
}

// arrived makes points at the new place. The first may have to read everything.
func (l *lab) arrived(points map[string]expected) {
	l.t.Helper()
	for range 2 {
		res := l.point(points)
		l.t.Log(res.Disks[0].Method, res.Disks[1].Method, res.Fallbacks)
	}
	res := l.point(points)
	require.Equal(l.t, job.Changed, res.Disks[0].Method, res.Fallbacks)
	require.Equal(l.t, job.Changed, res.Disks[1].Method, res.Fallbacks)
}

// underWay: nobody begins a backup of a VM that is just moving. When the move is called off everything is as before.
func (l *lab) underWay(t *testing.T) {
	mon := l.monitor()
	l.destination("nowhere")
	require.NoError(t, mon.Execute(t.Context(), "migrate-set-parameters", map[string]any{"max-bandwidth": 4096}, nil))
	require.NoError(t, mon.Execute(t.Context(), "migrate", map[string]any{"uri": "unix:" + filepath.Join(l.dir, "nowhere", "in.sock")}, nil))
	require.NoError(t, mon.Close())
	_, err := l.provider(Options{}).Snapshot(t.Context(), l.machine.QMP, nil)
	require.ErrorIs(t, err, ErrMigrating)
	var busy *hikae.BusyError
	require.ErrorAs(t, err, &busy)

	there := l.machine
	there.QMP = filepath.Join(l.dir, "nowhere", "qmp.sock")
	_, err = New([]Machine{there}, nil).Snapshot(t.Context(), there.QMP, nil)
	require.ErrorIs(t, err, ErrMigrating, "it has not arrived yet")

	mon = l.monitor()
	require.NoError(t, mon.Execute(t.Context(), "migrate_cancel", nil, nil))
	require.NoError(t, mon.Until(t.Context(), func(ctx context.Context) (bool, error) {
		state, err := migration(ctx, mon)
		return state == "cancelled", err
	}))
	require.NoError(t, mon.Execute(t.Context(), "migrate-set-parameters", map[string]any{"max-bandwidth": 1 << 30}, nil))
	require.NoError(t, mon.Close())
	res, err := l.backup(Options{}, job.BackupOptions{})
	require.NoError(t, err)
	require.Empty(t, res.Fallbacks)
}

// leaves tries to move the VM while it is being read. QEMU 7.2 does not let go of disks that a snapshot keeps old data of:
// the move fails at its very end, the VM runs on where it is, and the point is right. A QEMU that lets it go gets a backup
// that fails by name.
func (l *lab) leaves(t *testing.T, points map[string]expected, opts Options, to string) {
	defer func(outer *testing.T) { l.t = outer }(l.t)
	l.t = t
	before, moved := l.newest().ID, false
	sum := l.guestSum()
	move := func(_ context.Context, d hikae.Disk, img pipe.Image) (pipe.Image, error) {
		if d.Key == system {
			mon, ok := base(img.(*image).snapshot.mon).(*qmp.Conn) // it is held with backup jobs
			if !ok {
				mon = l.monitor()
				defer mon.Close()
			}
			moved = l.move(to, mon)
			l.fx("fill", "/dev/vdb", "2097152", "131072", "5") // what must not be in the point
		}
		return img, nil
	}
	j := l.effects()
	res, err := job.Backup(t.Context(), l.provider(opts), "", l.repo, &job.BackupOptions{Wrap: move, Journal: j})
	require.NoError(t, j.Close())
	t.Logf("moved: %v; the backup: %v", moved, err)
	if moved {
		require.ErrorIs(t, err, ErrMigrated)
		require.Equal(t, before, l.newest().ID, "a point of a VM that left")
	} else {
		require.NoError(t, err)
		dir := l.restore(res.Point)
		require.Equal(t, sum, l.sumOfData(dir))
		l.clean()
	}
	l.arrived(points)
}

func (l *lab) monitor() *qmp.Conn {
	l.t.Helper()
	mon, err := qmp.Dial(l.t.Context(), l.guest.QMP())
	require.NoError(l.t, err)
	return mon
}

func (l *lab) migrate(to string) {
	l.t.Helper()
	mon := l.monitor()
	defer mon.Close()
	require.True(l.t, l.move(to, mon))
}

// move moves the guest into a new QEMU, and the lab with it, or reports that it stayed.
func (l *lab) move(to string, mon *qmp.Conn) bool {
	l.t.Helper()
	guest := l.destination(to)
	require.NoError(l.t, mon.Execute(l.t.Context(), "migrate", map[string]any{"uri": "unix:" + filepath.Join(guest.Dir, "in.sock")}, nil))
	var state string
	require.NoError(l.t, mon.Until(within(l.t, time.Minute), func(ctx context.Context) (_ bool, err error) {
		state, err = migration(ctx, mon)
		return state == "completed" || state == "failed", err
	}))
	if state == "failed" {
		var why struct {
			Text string `json:"error-desc"`
		}
		require.NoError(l.t, mon.Execute(l.t.Context(), "query-migrate", nil, &why))
		l.t.Log("QEMU did not let the VM go: ", why.Text)
		return false
	}
	l.guest = guest
	l.machine.QMP, l.machine.Agent = guest.QMP(), guest.Agent()
	there := l.monitor()
	defer there.Close()
	require.NoError(l.t, there.Until(l.t.Context(), func(ctx context.Context) (bool, error) {
		status, err := runState(ctx, there)
		return status == "running", err
	}))
	return true
}

// destination starts a QEMU like the guest's, which waits for it to come.
func (l *lab) destination(name string) *kvmtest.Guest {
	l.t.Helper()
	mon := l.commandLineOf()
	dir := filepath.Join(l.dir, name)
	require.NoError(l.t, os.Mkdir(dir, 0o700))
	var args []string
	for _, arg := range mon {
		args = append(args, strings.ReplaceAll(arg, l.guest.Dir+"/", dir+"/"))
	}
	if i := len(args) - 2; args[i] == "-incoming" {
		args = args[:i]
	}
	cmd := exec.Command(args[0], append(args[1:], "-incoming", "unix:"+filepath.Join(dir, "in.sock"))...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	started, ended := make(chan error), make(chan struct{})
	go func() { // the thread that starts it must live
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
		}
		close(ended)
	}()
	require.NoError(l.t, <-started)
	l.whole.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
	})
	require.Eventually(l.t, func() bool { _, err := os.Stat(filepath.Join(dir, "in.sock")); return err == nil }, 20*time.Second, 20*time.Millisecond)
	return &kvmtest.Guest{Dir: dir}
}

// commandLineOf is how the guest's QEMU was started. The listener's process is asked, which needs no turn of the monitor.
func (l *lab) commandLineOf() []string {
	l.t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(l.t, err)
	for _, path := range found {
		line, _ := os.ReadFile(path)
		if args := strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00"); strings.Contains(args[0], "qemu-system") &&
			strings.Contains(string(line), "unix:"+l.guest.QMP()+",") {
			return args
		}
	}
	require.Fail(l.t, "no QEMU at "+l.guest.QMP())
	return nil
}
