//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/internal/fatdisk"
)

// following is a job that a process of its own follows.
type following struct {
	*testing.T
	home, file string
}

func newFollowing(t *testing.T, hook string) *following {
	f := &following{T: t, home: t.TempDir()}
	disk, err := fatdisk.Sample(filepath.Join(f.home, "a.raw"), 8<<20, 1)
	require.NoError(t, err)
	require.NoError(t, disk.Close())
	f.file = filepath.Join(f.home, "job.yaml")
	text := "name: followed\nrepository: {url: " + f.home + "/repo}\nsources: [{name: a, disks: [" + f.home + "/a.raw]}]\n" +
		"schedule: {at: every 30 minutes, catch-up: 2h}\nhooks:\n  - {when: before-vm, run: [/bin/sh, -c, '" + hook + "']}\n"
	require.NoError(t, os.WriteFile(f.file, []byte(text), 0o600))
	command(t, f.home, outcome.Done, "init", f.home+"/repo", "--no-encryption")
	return f
}

// remember puts a memory there: what a follower has known before.
func (f *following) remember(m memory) {
	data, err := json.Marshal(m)
	require.NoError(f, err)
	require.NoError(f, os.MkdirAll(f.home+"/state/jobs", 0o700))
	require.NoError(f, os.WriteFile(f.memory(), data, 0o600))
}

func (f *following) memory() string { return f.home + "/state/jobs/followed.json" }

func (f *following) known() (m memory) {
	data, err := os.ReadFile(f.memory())
	require.NoError(f, err)
	require.NoError(f, json.Unmarshal(data, &m))
	return m
}

// until runs it until it has said something, sends a signal, and returns its exit status.
func (f *following) until(words string, signal os.Signal, args ...string) (int, string) {
	f.Helper()
	cmd := exec.Command("hikae", append([]string{"job", "run", f.file, "--follow"}, args...)...)
	cmd.Env = append(os.Environ(), "HIKAE_STATE_DIR="+f.home+"/state", "HIKAE_CACHE_DIR="+f.home+"/cache", "HOME="+f.home)
	var said spoken
	cmd.Stdout, cmd.Stderr = &said, &said
	require.NoError(f, cmd.Start())
	overdue := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer overdue.Stop()
	require.Eventually(f, func() bool { return strings.Contains(said.String(), words) }, 30*time.Second, 10*time.Millisecond, "%q was not said", words)
	require.NoError(f, cmd.Process.Signal(signal))
	_ = cmd.Wait() // how it ended is what is asked for next
	return cmd.ProcessState.ExitCode(), said.String()
}

// spoken is what a process has said so far.
type spoken struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (h *spoken) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.buf.Write(p)
}

func (h *spoken) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.buf.String()
}

func (f *following) points() int {
	doc := command(f.T, f.home, outcome.Done, "points", "--repo", f.home+"/repo")
	return len(doc["points"].([]any))
}

// R203: a job is followed by its schedule: what was missed is made up for by one run, SIGTERM is its ordinary end, and Ctrl-C is not.
func TestJobFollowed(t *testing.T) {
	f := newFollowing(t, "true")
	status, said := f.until("next run", syscall.SIGTERM)
	require.Zero(t, status, said)
	require.Zero(t, f.points(), "where nothing ever ran nothing was missed")

	f.remember(memory{Meant: time.Now().Add(-100 * time.Minute)})
	status, said = f.until("next run", syscall.SIGTERM, "--only", "none")
	require.Zero(t, status, said)
	assert.Contains(t, said, "no VM of the job is called that", "a run that fails does not end it")

	f.remember(memory{Meant: time.Now().Add(-100 * time.Minute)})
	status, said = f.until("next run", os.Interrupt)
	require.Equal(t, 130, status, said)
	require.Equal(t, 1, f.points(), "three were missed: %s", said)
	assert.Contains(t, said, "1 of 1 VMs have a new point")
	assert.Less(t, time.Since(f.known().Meant), 31*time.Minute)
	assert.Empty(t, f.known().Open)
}

// What was ended in the middle is gone on with: the same run, and no VM twice.
func TestJobFollowedGoesOn(t *testing.T) {
	f := newFollowing(t, `test -e $HOME/quick || exec sleep 30`)
	f.remember(memory{Meant: time.Now().Add(-time.Hour)})
	status, said := f.until("a: begun", syscall.SIGTERM)
	require.Zero(t, status, said)
	require.Contains(t, said, "the next start goes on with it")
	run := f.known().Open
	require.NotEmpty(t, run)
	require.Zero(t, f.points())

	require.NoError(t, os.WriteFile(f.home+"/quick", nil, 0o600))
	status, said = f.until("next run", syscall.SIGTERM)
	require.Zero(t, status, said)
	require.Contains(t, said, "going on with run "+run)
	require.Equal(t, 1, f.points())
	require.Empty(t, f.known().Open)

	f.remember(memory{Meant: time.Now(), Open: run})
	status, said = f.until("next run", syscall.SIGTERM)
	require.Zero(t, status, said)
	require.Contains(t, said, "run "+run+": done")
	require.Equal(t, 1, f.points(), "it was made by this run before")
}

func TestJobMemoryThatCannotBeRead(t *testing.T) {
	f := newFollowing(t, "true")
	require.NoError(t, os.MkdirAll(f.home+"/state/jobs", 0o700))
	require.NoError(t, os.WriteFile(f.memory(), []byte("{"), 0o600))
	doc := command(t, f.home, outcome.Failed, "job", "run", f.file, "--follow")
	require.Equal(t, f.memory(), doc["error"].(map[string]any)["object"])
}

// R203: a job is followed by one process of a machine at a time; who is second hears who the first is, and does nothing. One that was killed
// is in nobody's way.
func TestJobFollowedTwice(t *testing.T) {
	f := newFollowing(t, `test -e $HOME/quick || exec sleep 60`)
	f.remember(memory{Meant: time.Now().Add(-time.Hour)})
	said, kill := killed(t, f.home, "a: begun", "job", "run", f.file, "--follow")
	run := f.known().Open
	require.NotEmpty(t, run)
	doc := command(t, f.home, outcome.Failed, "job", "run", f.file, "--follow")
	problem := doc["error"].(map[string]any)
	require.Equal(t, "busy", problem["kind"], "%v", doc)
	require.Regexp(t, `job followed is in use by hikae job run --follow, process \d+, since`, problem["message"])
	require.Equal(t, run, f.known().Open, "%s", said)
	kill()

	require.NoError(t, os.WriteFile(f.home+"/quick", nil, 0o600))
	status, words := f.until("next run", syscall.SIGTERM)
	require.Zero(t, status, words)
	require.Contains(t, words, "going on with run "+run)
	require.Equal(t, 1, f.points())
}
