//go:build linux

package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/internal/fatdisk"
)

// background starts a command that stays, and waits until it has said something.
func background(t *testing.T, home, words string, args ...string) *spoken {
	t.Helper()
	cmd := exec.Command("hikae", args...)
	cmd.Env = append(os.Environ(), "HIKAE_STATE_DIR="+home+"/state", "HIKAE_CACHE_DIR="+home+"/cache", "HOME="+home)
	said := &spoken{}
	cmd.Stdout, cmd.Stderr = said, said
	require.NoError(t, cmd.Start())
	overdue := time.AfterFunc(2*time.Minute, func() { _ = cmd.Process.Kill() })
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		require.NoError(t, cmd.Wait(), said.String())
		overdue.Stop()
	})
	require.Eventually(t, func() bool { return strings.Contains(said.String(), words) }, 30*time.Second, 10*time.Millisecond, "%q was not said", words)
	return said
}

// A queue, two workers and a run of three VMs, by the program alone: the story of docs/fleet.md on one machine.
func TestFleet(t *testing.T) {
	home := t.TempDir()
	sources := ""
	for i, vm := range []string{"a", "b", "c"} {
		disk, err := fatdisk.Sample(filepath.Join(home, vm+".raw"), 8<<20, uint64(i+1))
		require.NoError(t, err)
		require.NoError(t, disk.Close())
		sources += "  - {name: " + vm + ", disks: [" + home + "/" + vm + ".raw]}\n"
	}
	file := home + "/nightly.yaml"
	require.NoError(t, os.WriteFile(file, []byte("name: nightly\nrepository: {url: "+home+"/repo}\nsources:\n"+sources), 0o600))
	require.NoError(t, os.WriteFile(home+"/queue", []byte("user=worker\npassword=correct horse\n"), 0o600))
	command(t, home, outcome.Done, "init", home+"/repo", "--no-encryption")

	said := background(t, home, `"listening"`, "fleet", "serve", "--dir", home+"/q", "--listen", "127.0.0.1:0", "--credentials-file", home+"/queue")
	var ready struct{ Listening string }
	require.NoError(t, json.Unmarshal([]byte(strings.SplitAfter(said.String(), "\n")[0]), &ready), said.String())
	queue := []string{"--queue", ready.Listening, "--credentials-file", home + "/queue"}
	for _, name := range []string{"w1", "w2"} {
		background(t, home, "works for", slices.Concat([]string{"worker", "--job", file, "--name", name, "--slots", "1"}, queue)...)
	}
	doc := command(t, home, outcome.Done, slices.Concat([]string{"fleet", "run", file, "--run", "r1"}, queue)...)
	require.Equal(t, "done", doc["state"], doc)
	require.Len(t, doc["outcomes"], 3)
	again := command(t, home, outcome.Done, slices.Concat([]string{"fleet", "run", file, "--run", "r1"}, queue)...)
	require.Equal(t, doc["outcomes"], again["outcomes"], "a run that is over is not done again")
	points := command(t, home, outcome.Done, "points", "--repo", home+"/repo")["points"].([]any)
	require.Len(t, points, 3)
	status := command(t, home, outcome.Done, slices.Concat([]string{"fleet", "status"}, queue)...)
	require.Equal(t, map[string]any{"done": 3.0}, status["runs"].([]any)[0].(map[string]any)["states"])
	require.Zero(t, status["waiting"])
	command(t, home, outcome.Misused, "worker", "--queue", "nats://192.0.2.1:4222", "--credentials-file", home+"/queue", "--job", file)
}
