//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/internal/fatdisk"
	"github.com/hikae/hikae/internal/labca"
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

// killed starts a command that is killed later.
func killed(t *testing.T, home, words string, args ...string) (said *spoken, kill func()) {
	t.Helper()
	cmd := exec.Command("hikae", args...)
	cmd.Env = append(os.Environ(), "HIKAE_STATE_DIR="+home+"/state", "HIKAE_CACHE_DIR="+home+"/cache", "HOME="+home)
	said = &spoken{}
	cmd.Stdout, cmd.Stderr = said, said
	require.NoError(t, cmd.Start())
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(kill)
	require.Eventually(t, func() bool { return strings.Contains(said.String(), words) }, time.Minute, 10*time.Millisecond, "%q was not said: %s", words, said)
	return said, kill
}

// tlsQueue is a cluster of three over TLS, by the program, which lets in who has a certificate and the password. It returns the flags of a client.
func tlsQueue(t *testing.T, home string) (flags []string) {
	t.Helper()
	ca, err := labca.New()
	require.NoError(t, err)
	var peers, urls []string
	for range 6 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		peers = append(peers, l.Addr().String())
		require.NoError(t, l.Close())
	}
	require.NoError(t, os.WriteFile(home+"/queue", []byte("user=worker\npassword=correct horse\n"), 0o600))
	require.NoError(t, ca.Write(home, "worker", "127.0.0.1"))
	for i := range 3 {
		name := fmt.Sprintf("node%d", i)
		require.NoError(t, ca.Write(home, name, "127.0.0.1"))
		args := []string{"fleet", "serve", "--dir", home + "/" + name, "--credentials-file", home + "/queue", "--listen", peers[3+i],
			"--tls-cert", home + "/" + name + ".pem", "--tls-key", home + "/" + name + ".key", "--ca", home + "/ca.pem", "--client-ca", home + "/ca.pem",
			"--cluster", peers[i], "--name", name}
		for _, peer := range peers[:3] {
			args = append(args, "--peer", peer)
		}
		background(t, home, `"listening"`, args...)
		urls = append(urls, "tls://"+peers[3+i])
	}
	return []string{"--queue", strings.Join(urls, ","), "--credentials-file", home + "/queue", "--ca", home + "/ca.pem",
		"--tls-cert", home + "/worker.pem", "--tls-key", home + "/worker.key", "--replicas", "3", "--lease", "3s"}
}

// R204: a fleet over TLS, and a vSphere. A job that is run by hand beside it does not touch a VM that a worker is at. The worker is killed in the middle of
// a copy; another one, of another machine, removes its snapshot and makes the point, and the job that is run by hand has its turn.
func TestFleetOverTLSLosesAWorker(t *testing.T) {
	l := newVSphereLab(t, "--vms", "2", "--size", "8MiB")
	queue := tlsQueue(t, l.home)
	repository := l.repository("fleet")
	file := jobFile(t, l.home, repository, labPassword, l.address("&quiesce=off"), "retry: {attempts: 1}\n")
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	slow := l.home + "/slow.yaml"
	require.NoError(t, os.WriteFile(slow, append(text, "limits: {rate: 256KiB/s}\n"...), 0o600))
	other := t.TempDir()

	_, kill := killed(t, other, "works for", slices.Concat([]string{"worker", "--job", slow, "--name", "w1", "--slots", "1"}, queue)...)
	_, endRun := killed(t, l.home, "2 tasks", slices.Concat([]string{"fleet", "run", file, "--run", "r1"}, queue)...)
	var at string // the VM that w1 is at
	require.Eventually(t, func() bool {
		left, err := l.Leftovers(t.Context())
		require.NoError(t, err)
		for _, text := range left {
			if name := regexp.MustCompile(`snapshot .*\bweb[01]\b|\bweb[01]\b.*snapshot`).FindString(text); name != "" {
				at = regexp.MustCompile(`web[01]`).FindString(name)
			}
		}
		return at != ""
	}, time.Minute, 20*time.Millisecond)
	doc := command(t, l.home, outcome.Failed, slices.Concat([]string{"job", "run", file, "--only", at}, queue)...)
	require.Contains(t, fmt.Sprint(doc), "w1")
	kill()
	endRun()
	l.dead++
	background(t, l.home, "works for", slices.Concat([]string{"worker", "--job", file, "--name", "w2", "--slots", "1"}, queue)...)
	doc = command(t, l.home, outcome.Done, slices.Concat([]string{"fleet", "run", file, "--run", "r1"}, queue)...)
	require.Len(t, doc["outcomes"], 2)
	require.Len(t, command(t, l.home, outcome.Done, "points", "--repo", repository)["points"], 2)
	for _, name := range []string{"web0", "web1"} {
		l.restored(repository, name, l.sums(name, 1))
	}
	command(t, l.home, outcome.Done, slices.Concat([]string{"job", "run", file, "--only", at}, queue)...)
	require.Len(t, command(t, l.home, outcome.Done, "points", "--repo", repository)["points"], 3)
	l.clean()
	command(t, l.home, outcome.Misused, "job", "run", file, "--queue", "nats://127.0.0.1:1")
}
