package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/kvm/kvmtest"
	"github.com/hikae/hikae/kvm/qga"
	"github.com/hikae/hikae/kvm/qmp"
)

// replicaLab is a guest that writes numbered records without a pause, and a site for its replica.
type replicaLab struct {
	t       *testing.T
	dir     string
	monitor string
	source  string
	start   string   // a script that starts the guest, having kept its disk as it was
	replica []string // the command of the replica
	home    string   // where the disk is kept
}

func (l *replicaLab) path(name string) string { return filepath.Join(l.dir, name) }

func (l *replicaLab) run(name string, args ...string) {
	l.t.Helper()
	out, err := exec.CommandContext(l.t.Context(), name, args...).CombinedOutput()
	require.NoError(l.t, err, "%s %v: %s", name, args, out)
}

func newReplicaLab(t *testing.T) *replicaLab {
	t.Helper()
	if tier := os.Getenv("HIKAE_TEST_TIER"); tier != "long" && tier != "release" {
		t.Skip("a VM of its own: needs HIKAE_TEST_TIER=long")
	}
	fixture, err := kvmtest.Build(t.Context())
	if missing, ok := errors.AsType[*kvmtest.UnavailableError](err); ok {
		t.Skip(missing)
	}
	require.NoError(t, err)
	for _, name := range []string{"qemu-img", "e2fsck", "debugfs"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skip(name + " is not installed")
		}
	}
	dir, err := os.MkdirTemp("", "hr") // short, for sockets
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	l := &replicaLab{t: t, dir: dir, start: filepath.Join(dir, "start"), home: filepath.Join(dir, "home.qcow2")}
	raw, disk := l.path("disk.raw"), l.path("disk.qcow2")
	require.NoError(t, kvmtest.MakeExt4(t.Context(), raw, 48<<20))
	l.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk)
	for _, name := range []string{"vm", "again"} {
		require.NoError(t, os.Mkdir(l.path(name), 0o700))
	}
	guest, err := fixture.Start(t.Context(), l.path("vm"), []kvmtest.GuestDisk{{Path: disk, Format: "qcow2", ID: "vda", Serial: "web1-system"}})
	require.NoError(t, err)
	t.Cleanup(guest.Kill)
	l.monitor = guest.QMP()
	l.source = "kvm://" + l.monitor + "?name=web1&scratch=" + dir
	own := commandOf(t, l.monitor)
	for _, word := range own {
		word = strings.ReplaceAll(word, l.monitor, "{monitor}")
		word = strings.ReplaceAll(word, disk, "{disk:web1-system}")
		l.replica = append(l.replica, strings.ReplaceAll(word, l.path("vm"), l.path("again")))
	}
	for i, word := range own {
		own[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
	}
	script := fmt.Sprintf("#!/bin/sh\nset -e\ncp %s %s\nrm -f %s\nsetsid %s </dev/null >/dev/null 2>&1 &\n", disk, l.home, l.monitor, strings.Join(own, " "))
	require.NoError(t, os.WriteFile(l.start, []byte(script), 0o700))
	t.Cleanup(func() { quitVM(l.monitor) })
	return l
}

// commandOf is how the QEMU behind a monitor was started.
func commandOf(t *testing.T, monitor string) []string {
	t.Helper()
	mon, err := qmp.Dial(t.Context(), monitor)
	require.NoError(t, err)
	defer mon.Close()
	pid, ok := mon.PeerPID()
	require.True(t, ok)
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	require.NoError(t, err)
	return strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
}

// quitVM ends a VM as a power cut does.
func quitVM(monitor string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // the test's own may have ended
	defer cancel()
	mon, err := qmp.Dial(ctx, monitor)
	if err != nil {
		return // it has ended
	}
	defer mon.Close()
	_ = mon.Execute(ctx, "quit", nil, nil) // it may end before it answers
}

// acknowledged is the newest record that the guest's writer has synced; zero where it cannot be asked.
func (l *replicaLab) acknowledged(ctx context.Context, folder string) (synced int) {
	agent := qga.New(filepath.Join(l.path(folder), "qga.sock"), nil)
	defer agent.Close()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	r, err := agent.Exec(ctx, "/bin/fx", []string{"state"}, nil, 1<<20)
	if err != nil {
		return 0
	}
	written := 0
	if _, err := fmt.Sscanf(string(r.Stdout), "written %d synced %d", &written, &synced); err != nil {
		return 0
	}
	return synced
}

// awaitWrites waits until the guest has synced some records more.
func (l *replicaLab) awaitWrites(folder string) int {
	l.t.Helper()
	first, now := 0, 0
	require.Eventually(l.t, func() bool {
		now = l.acknowledged(l.t.Context(), folder)
		if first == 0 {
			first = now
		}
		return first > 0 && now > first+20
	}, 5*time.Minute, 100*time.Millisecond)
	return now
}

// watch asks the guest what it has synced until it is gone, or stop is called.
func (l *replicaLab) watch(folder string) (stop func() int) {
	ctx, cancel := context.WithCancel(l.t.Context())
	most := make(chan int, 1)
	go func() {
		n := 0
		for ctx.Err() == nil {
			n = max(n, l.acknowledged(ctx, folder))
		}
		most <- n
	}()
	return func() int {
		cancel()
		return <-most
	}
}

// records counts the records on a disk, whose file system must be clean once its journal is replayed, and of which none may be
// missing.
func (l *replicaLab) records(disk string) int {
	l.t.Helper()
	raw := l.path("read.raw")
	l.run("qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", disk, raw)
	_ = exec.CommandContext(l.t.Context(), "e2fsck", "-fp", raw).Run() // replays; what is wrong is found by the next
	l.run("e2fsck", "-fn", raw)
	l.run("debugfs", "-R", "dump /journal "+raw+".journal", raw)
	text, err := os.ReadFile(raw + ".journal")
	require.NoError(l.t, err)
	lines := strings.SplitAfter(string(text), "\n")
	lines = lines[:len(lines)-1] // the last is empty, or was being written
	for i, line := range lines {
		number, err := strconv.Atoi(strings.TrimLeft(line[:12], "0"))
		require.NoError(l.t, err, line)
		require.Equal(l.t, i+1, number, "a record is missing")
	}
	return len(lines)
}

// fileOf is the file of a point's disk.
func (l *replicaLab) fileOf(point string) string {
	l.t.Helper()
	files, err := filepath.Glob(l.path("site/web1/" + point + "/*.qcow2"))
	require.NoError(l.t, err)
	require.Len(l.t, files, 1)
	return files[0]
}

// hikae runs the program and returns its document. A guest that cannot be frozen is worth a warning, and nothing else is wrong.
func (l *replicaLab) hikae(args ...string) (doc map[string]any) {
	l.t.Helper()
	at := slices.Index(args, "--")
	if at < 0 {
		at = len(args)
	}
	cmd := exec.CommandContext(l.t.Context(), "hikae", slices.Insert(slices.Clone(args), at, "--json")...)
	cmd.Env = append(os.Environ(), "HIKAE_STATE_DIR="+l.dir+"/state", "HIKAE_CACHE_DIR="+l.dir+"/cache")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && outcome.Status(exit.ExitCode()) == outcome.Warned {
		err = nil
	}
	require.NoError(l.t, err, "%v: %s%s", args, out, stderr.String())
	require.NoError(l.t, json.Unmarshal(out, &doc), string(out))
	return doc
}

// killedAt runs a command until it says that it begins a step, and kills it then.
func (l *replicaLab) killedAt(step string, args ...string) {
	l.t.Helper()
	cmd := exec.CommandContext(l.t.Context(), "hikae", args...)
	cmd.Env = append(os.Environ(), "HIKAE_STATE_DIR="+l.dir+"/state", "HIKAE_CACHE_DIR="+l.dir+"/cache")
	said, err := cmd.StderrPipe()
	require.NoError(l.t, err)
	require.NoError(l.t, cmd.Start())
	lines, seen := bufio.NewScanner(said), []string{}
	for lines.Scan() {
		if seen = append(seen, lines.Text()); lines.Text() == "web1: "+step {
			require.NoError(l.t, cmd.Process.Kill())
		}
	}
	require.Error(l.t, cmd.Wait())
	require.Contains(l.t, seen, "web1: "+step)
}

// R146, R195: a guest that writes without a pause is replicated; it is moved to its replica and comes home, by commands that are
// killed at every step, and not one record is lost that it had synced.
func TestReplicaOfGuest(t *testing.T) {
	l := newReplicaLab(t)
	site := l.path("site")
	l.awaitWrites("vm")
	for range 3 {
		done := l.hikae("replica", "sync", site, l.source, "--keep", "2")
		t.Logf("figure: a sync of %v bytes took %v s", done["moved"], done["seconds"])
		l.awaitWrites("vm")
	}
	over := append([]string{"replica", "failover", site, "web1", "--planned", "--source", l.source, "--source-start", l.start, "--hard", "--within", "15s"},
		append([]string{"--"}, l.replica...)...)
	t.Cleanup(func() { quitVM(l.path("site/web1/run/qmp.sock")) })
	acknowledged := l.watch("vm")
	for _, step := range []string{"stopping", "last sync", "starting"} {
		l.killedAt(step, over...)
	}
	moved := l.hikae(over...)
	synced := acknowledged()
	require.Positive(t, synced)
	point := moved["point"].(string)
	l.run("qemu-img", "compare", "-U", l.path("disk.qcow2"), l.fileOf(point))
	require.GreaterOrEqual(t, l.records(l.fileOf(point)), synced, "a record is lost that was synced")
	t.Logf("figure: nothing ran for %v s, of which at most 15 s for a guest without a power button, and three kills", moved["down"])

	l.awaitWrites("again")
	acknowledged = l.watch("again")
	back := []string{"replica", "failback", site, "web1", "--to", l.source, "--source-start", l.start, "--hard", "--within", "15s"}
	for _, step := range []string{"stopping", "sealing", "restoring", "starting"} {
		l.killedAt(step, back...)
	}
	came := l.hikae(back...)
	synced = acknowledged()
	l.run("qemu-img", "compare", "-U", l.home, l.fileOf(came["point"].(string)))
	require.GreaterOrEqual(t, l.records(l.home), synced, "a record is lost that was synced")
	require.GreaterOrEqual(t, l.awaitWrites("vm"), synced)
	t.Logf("figure: nothing ran for %v s on the way home", came["down"])

	// the replica goes on from there; then the guest dies, and what was synced before its last point is there
	before := l.awaitWrites("vm")
	last := l.hikae("replica", "sync", site, l.source)
	l.awaitWrites("vm")
	quitVM(l.monitor)
	lost := l.hikae(append([]string{"replica", "failover", site, "web1", "--source", l.source, "--"}, l.replica...)...)
	require.Equal(t, last["point"], lost["point"])
	require.Positive(t, lost["age"])
	require.GreaterOrEqual(t, l.records(l.fileOf(lost["point"].(string))), before)
	l.awaitWrites("again")
	l.hikae("replica", "undo", site, "web1", "--stop", "--hard", "--within", "15s")
	require.Empty(t, l.hikae("replica", "check", site, "--deep")["damaged"])
}
