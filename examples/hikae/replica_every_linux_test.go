package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
)

// A replica that is kept up to date goes on after a point that failed, and an interrupt is an end in good order.
func TestReplicaEvery(t *testing.T) {
	dir := t.TempDir()
	disk, site := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "site")
	require.NoError(t, os.WriteFile(disk, make([]byte, 1<<20), 0o600))
	cmd := exec.CommandContext(t.Context(), "hikae", "replica", "sync", site, "--name", "web1", disk, "--every", "1s", "--keep", "2")
	cmd.Env = append(os.Environ(), "HIKAE_STATE_DIR="+dir+"/state", "HIKAE_CACHE_DIR="+dir+"/cache")
	said, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	points, failed := 0, false
	for lines := bufio.NewScanner(said); lines.Scan(); {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "web1: point ") && points < 2:
			if points++; points == 2 { // the next one fails
				require.NoError(t, os.Rename(disk, disk+".away"))
			}
		case strings.Contains(line, "no such file"):
			failed = true
			_ = os.Rename(disk+".away", disk) // the first time; it may fail again before it is seen
		case failed && strings.HasPrefix(line, "web1: point "):
			require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
		}
	}
	require.NoError(t, cmd.Wait())
	require.True(t, failed)
	list := command(t, dir, outcome.Done, "replica", "list", site)
	require.Len(t, list["replicas"].([]any)[0].(map[string]any)["points"], 2)
}
