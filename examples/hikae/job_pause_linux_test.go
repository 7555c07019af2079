package main

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
)

// SIGUSR1 pauses a run: what runs is finished, nothing is begun, and people are told; SIGUSR2 has it go on.
func TestJobPaused(t *testing.T) {
	dir := t.TempDir()
	sources := ""
	for _, name := range []string{"a", "b"} {
		require.NoError(t, os.WriteFile(dir+"/"+name+".raw", make([]byte, 1<<20), 0o600))
		sources += "  - {name: " + name + ", disks: [" + dir + "/" + name + ".raw]}\n"
	}
	hook := "while ! test -e " + dir + "/go; do sleep 0.05; done"
	text := "name: held\nrepository: {url: " + dir + "/repo}\nlimits: {tasks: 1}\nsources:\n" + sources +
		"hooks: [{when: before-vm, run: [/bin/sh, -c, '" + hook + "']}]\nreport: {json: " + dir + "/report.json}\n"
	require.NoError(t, os.WriteFile(dir+"/job.yaml", []byte(text), 0o600))
	command(t, dir, outcome.Done, "init", dir+"/repo", "--no-encryption")

	cmd := exec.Command("hikae", "job", "run", dir+"/job.yaml")
	cmd.Env = append(os.Environ(), "HIKAE_STATE_DIR="+dir+"/state", "HIKAE_CACHE_DIR="+dir+"/cache", "HOME="+dir)
	var said spoken
	cmd.Stdout, cmd.Stderr = &said, &said
	require.NoError(t, cmd.Start())
	overdue := time.AfterFunc(3*time.Minute, func() { cmd.Process.Kill() })
	defer overdue.Stop()
	hears := func(words string) {
		t.Helper()
		require.Eventually(t, func() bool { return strings.Contains(said.String(), words) }, time.Minute, 10*time.Millisecond, "%q was not said", words)
	}
	hears("a: begun")
	require.NoError(t, cmd.Process.Signal(syscall.SIGUSR1))
	hears("paused: what runs goes on")
	require.NoError(t, os.WriteFile(dir+"/go", nil, 0o600))
	hears("a: done")
	time.Sleep(300 * time.Millisecond) // b would have begun in a moment
	require.NotContains(t, said.String(), "b: begun")
	require.NoError(t, cmd.Process.Signal(syscall.SIGUSR2))
	require.NoError(t, cmd.Wait(), said.String())
	require.Contains(t, said.String(), "it goes on")
	require.Contains(t, said.String(), "2 of 2 VMs have a new point")
	report, err := os.ReadFile(dir + "/report.json")
	require.NoError(t, err)
	require.Contains(t, string(report), "the VMs that were left waited")
}
