//go:build unix

package qmp

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A real QEMU without a machine: a long answer, one client at a time, a job, an export's end, the end of QEMU.
func TestQEMU(t *testing.T) {
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("qemu-system-x86_64 is not installed")
	}
	dir, err := os.MkdirTemp("", "qmp") // short, for the socket
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "q")
	cmd := exec.Command(qemu, "-M", "none", "-accel", "tcg", "-nodefaults", "-display", "none", "-qmp", "unix:"+path+",server=on,wait=off")
	require.NoError(t, cmd.Start())
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	var c *Conn
	require.Eventually(t, func() bool { c, err = Dial(t.Context(), path); return err == nil }, 10*time.Second, 50*time.Millisecond)
	defer c.Close()
	require.True(t, c.oob)

	var schema json.RawMessage
	require.NoError(t, c.Execute(t.Context(), "query-qmp-schema", nil, &schema))
	require.Greater(t, len(schema), 100<<10)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = Dial(ctx, path)
	require.ErrorIs(t, err, ErrTaken)
	require.True(t, IsClass(c.Execute(t.Context(), "no-such", nil, nil), ClassNotFound))

	file := filepath.Join(dir, "new.raw")
	require.NoError(t, c.Execute(t.Context(), "blockdev-create", map[string]any{
		"job-id": "make", "options": map[string]any{"driver": "file", "filename": file, "size": 1 << 20}}, nil))
	require.NoError(t, c.WaitJob(t.Context(), "make"))
	require.FileExists(t, file)
	require.NoError(t, c.Execute(t.Context(), "job-dismiss", map[string]any{"id": "make"}, nil))
	require.NoError(t, c.Execute(t.Context(), "blockdev-create", map[string]any{
		"job-id": "fail", "options": map[string]any{"driver": "file", "filename": dir + "/x/y", "size": 1}}, nil))
	require.ErrorContains(t, c.WaitJob(t.Context(), "fail"), "No such file")

	if pid, ok := c.PeerPID(); ok {
		require.Equal(t, cmd.Process.Pid, pid)
	}
	require.NoError(t, c.WaitExport(t.Context(), "none"))
	cmd.Process.Kill()
	require.ErrorIs(t, c.Until(t.Context(), func(context.Context) (bool, error) { return false, nil }), ErrClosed)
}
