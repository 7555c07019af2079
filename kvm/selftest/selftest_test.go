package selftest

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae/job/selftest"
	"github.com/hikae/hikae/kvm"
	"github.com/hikae/hikae/kvm/qmp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// still is a QEMU whose processor stands still, with one qcow2 disk of some content.
func still(t *testing.T) kvm.Machine {
	t.Helper()
	for _, name := range []string{"qemu-system-x86_64", "qemu-img", "qemu-io"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skip(name + " is not installed")
		}
	}
	dir, err := os.MkdirTemp("", "self") // short, for sockets
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	disk := kvm.StartedDisk{Key: "root", Path: filepath.Join(dir, "root.qcow2")}
	for _, args := range [][]string{{"qemu-img", "create", "-q", "-f", "qcow2", disk.Path, "16M"}, {"qemu-io", "-c", "write -P 5 1M 2M", disk.Path}} {
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		require.NoError(t, err, string(out))
	}
	m := kvm.Machine{QMP: filepath.Join(dir, "qmp.sock"), Name: "web1"}
	args := append([]string{"-S", "-M", "q35", "-nodefaults", "-display", "none", "-qmp", "unix:" + m.QMP + ",server=on,wait=off"}, disk.Options()...)
	cmd := exec.Command("qemu-system-x86_64", args...)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		mon, err := qmp.Dial(ctx, m.QMP)
		if err == nil {
			mon.Close()
		}
		return err == nil
	}, 30*time.Second, 20*time.Millisecond)
	return m
}

func statuses(r selftest.Result) (list []selftest.Status) {
	for _, s := range r.Steps {
		list = append(list, s.Status)
	}
	return list
}

// The whole cycle on a real QEMU: everything is done, nothing is left, neither in it nor on the host.
func TestRun(t *testing.T) {
	m := still(t)
	scratch := filepath.Dir(m.QMP)
	told := 0
	r, err := Run(t.Context(), m, &Options{KVM: &kvm.Options{Scratch: scratch}, Step: func(selftest.Step) { told++ }})
	require.NoError(t, err)
	text, err := json.MarshalIndent(r, "", " ")
	require.NoError(t, err)
	require.True(t, r.OK, string(text))
	require.Equal(t, len(r.Steps), told)
	// no agent was named, and a VM that stands still cannot be frozen
	require.Equal(t, []selftest.Status{selftest.OK, selftest.Warned, selftest.OK, selftest.Warned, selftest.Warned, selftest.OK, selftest.OK, selftest.OK, selftest.OK}, statuses(r), string(text))
	require.Contains(t, r.Steps[7].Detail, "16 of 16 MiB had not changed")
	left, err := filepath.Glob(filepath.Join(scratch, "hikae*"))
	require.NoError(t, err)
	require.Empty(t, left)

	t.Run("somebody else is at work", func(t *testing.T) {
		p := kvm.New([]kvm.Machine{m}, &kvm.Options{Scratch: scratch})
		snap, err := p.Snapshot(t.Context(), m.QMP, nil)
		require.NoError(t, err)
		defer snap.Release(t.Context())
		r, err := Run(t.Context(), m, &Options{KVM: &kvm.Options{Scratch: scratch}})
		require.NoError(t, err)
		require.False(t, r.OK)
		require.Equal(t, selftest.Failed, r.Steps[1].Status)
		require.Contains(t, r.Steps[1].Detail, "a session is at work")
		require.Equal(t, selftest.Skipped, r.Steps[3].Status)
		require.Equal(t, selftest.OK, r.Steps[8].Status, "what was there before is none of ours")
	})
}

// A machine that is not there is a result, not an error; an interrupted test is one.
func TestRunMissing(t *testing.T) {
	m := kvm.Machine{QMP: filepath.Join(t.TempDir(), "none")}
	r, err := Run(t.Context(), m, &Options{Scratch: t.TempDir()})
	require.NoError(t, err)
	require.False(t, r.OK)
	require.Equal(t, selftest.Failed, r.Steps[0].Status)
	require.Equal(t, selftest.Skipped, r.Steps[8].Status)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	_, err = Run(ctx, m, &Options{Scratch: t.TempDir()})
	require.ErrorIs(t, err, context.Canceled)
}
