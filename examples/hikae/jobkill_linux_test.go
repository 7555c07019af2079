package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
)

// reaper stands between the tool and a server, and kills the tool with what it says for the nth time: before the server hears it, or
// after.
type reaper struct {
	net.Listener
	to string

	mu     sync.Mutex
	said   int
	at     int // 0: nobody dies
	heard  bool
	victim *os.Process
	away   bool
	open   map[net.Conn]bool
}

func newReaper(t *testing.T, to string) *reaper {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r := &reaper{Listener: l, to: to, open: map[net.Conn]bool{}}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go r.serve(c)
		}
	}()
	return r
}

func (r *reaper) serve(client net.Conn) {
	defer client.Close()
	if !r.begin(client) {
		return
	}
	defer r.forget(client)
	server, err := net.DialTimeout("tcp", r.to, time.Minute)
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		defer client.Close()
		_, _ = io.Copy(client, server)
	}()
	p := make([]byte, 64<<10)
	for {
		n, err := client.Read(p)
		if err != nil || r.count(false) {
			return
		}
		if _, err := server.Write(p[:n]); err != nil || r.count(true) {
			return
		}
	}
}

// cut cuts the line, and keeps it cut until it is told otherwise.
func (r *reaper) cut(away bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.away = away
	for c := range r.open {
		if away {
			c.Close()
		}
	}
}

func (r *reaper) begin(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.away {
		r.open[c] = true
	}
	return !r.away
}

func (r *reaper) forget(c net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, c)
}

// count kills where it is time to. It counts what is said before it is heard.
func (r *reaper) count(heard bool) (dead bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !heard {
		r.said++
	}
	if r.at == 0 || r.said < r.at || heard != r.heard && r.said == r.at {
		return false
	}
	_ = r.victim.Kill()
	return true
}

// watch begins to count anew.
func (r *reaper) watch(victim *os.Process, at int, heard bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said, r.at, r.heard, r.victim = 0, at, heard, victim
}

// mortalJob is a job that is killed again and again, over VMs of a fake hypervisor.
type mortalJob struct {
	*testing.T
	*reaper
	home, file, repository string
	vms                    []string
	scribble               func(vm string)
	restored               func(vm string)
	clean                  func()
	died                   func()
}

// run runs the job; killed is whether it died of the reaper.
func (j *mortalJob) run(at int, heard bool) (killed bool) {
	j.Helper()
	cmd := exec.Command("hikae", "job", "run", j.file, "--json")
	cmd.Env = append(os.Environ(), "HIKAE_STATE_DIR="+j.home+"/state", "HIKAE_CACHE_DIR="+j.home+"/cache")
	var out, log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &log
	j.watch(nil, 0, false)
	require.NoError(j, cmd.Start())
	if at > 0 {
		j.watch(cmd.Process, at, heard)
	}
	overdue := time.AfterFunc(5*time.Minute, func() { cmd.Process.Kill() })
	err := cmd.Wait()
	require.True(j, overdue.Stop(), "it hangs: %s", &log)
	j.mu.Lock()
	j.at = 0
	j.mu.Unlock()
	if err != nil && !cmd.ProcessState.Exited() {
		return true
	}
	var doc map[string]any
	require.NoError(j, json.Unmarshal(out.Bytes(), &doc), "%s", &log)
	require.NoError(j, err, "%s%s", &out, &log)
	require.Equal(j, "done", doc["state"], "%v", doc)
	return false
}

// sweepThrough kills the job at steps that lie evenly over all that it says to its server. The next run has to sweep what the dead one left,
// to leave alone what is others', and to bring each VM's newest point up to its moment.
func (j *mortalJob) sweepThrough(steps int) {
	j.Helper()
	require.False(j, j.run(0, false))
	for _, vm := range j.vms {
		j.scribble(vm)
	}
	require.False(j, j.run(0, false))
	j.mu.Lock()
	all := j.said
	j.mu.Unlock()
	require.Greater(j, all, steps)
	deaths, slowest := 0, time.Duration(0)
	for i := range steps {
		at, heard := 1+i*(all-1)/max(1, steps-1), i%2 == 1
		for _, vm := range j.vms {
			j.scribble(vm)
		}
		if j.run(at, heard) {
			deaths++
			j.died()
		}
		begun := time.Now()
		require.False(j, j.run(0, false), "after death %d of %d, heard %v", at, all, heard)
		slowest = max(slowest, time.Since(begun))
		j.clean()
		for _, vm := range j.vms {
			j.restored(vm)
		}
	}
	j.Logf("%d of %d runs died, at steps of %d; the run after it took at most %v", deaths, steps, all, slowest.Round(time.Millisecond))
	require.GreaterOrEqual(j, deaths, steps*3/4, "runs differ in length by little")
	require.Less(j, slowest, time.Minute, "what is left is swept within a minute")
}

func killSteps() int {
	if longTier() {
		return 32
	}
	return 4
}

// R188, R198: a job over VMs of a vSphere dies at any step of it, and the next run makes it good.
func TestJobKilledOnVSphere(t *testing.T) {
	l := newVSphereLab(t, "--vms", "2", "--hosts", "1", "--disks", "1", "--size", "4MiB")
	repository := l.repository("mortal")
	r := newReaper(t, l.ready.Listening)
	source := strings.Replace(l.address("&quiesce=off"), l.ready.Listening, r.Addr().String(), 1)
	file := jobFile(t, l.home, repository, labPassword, source, "retry: {first: 10ms, most: 1s}\n")
	j := &mortalJob{T: t, reaper: r, home: l.home, file: file, repository: repository, vms: []string{"web0", "web1"},
		scribble: func(vm string) { l.Helper(); l.scribble(vm, 1) },
		restored: func(vm string) { l.Helper(); l.restored(repository, vm, l.sums(vm, 1)) },
		clean:    l.clean, died: func() { l.dead++ }}
	j.sweepThrough(killSteps())
	for _, vm := range j.vms {
		l.scribble(vm, 1)
	}
	for name, vm := range vmsOf(t, l.hikae(outcome.Done, "job", "run", file)) {
		require.Equal(t, "changed", firstMethod(vm), "%s: the base is whole after all of that", name)
	}
	require.NotEmpty(t, fmt.Sprint(l.hikae(outcome.Done, "verify", "--repo", repository, "--data", "all")))
}

// The same on a Hyper-V host.
func TestJobKilledOnHyperV(t *testing.T) {
	l := buildHyperV(t).start(t, "--generation", "2019", "--vms", "2", "--disks", "1", "--size", "4MiB")
	repository, ids := l.repository("mortal"), map[string]string{}
	for _, vm := range l.ready.VMs {
		ids[vm.Name] = vm.ID
	}
	r := newReaper(t, l.ready.Listening)
	source := strings.Replace(l.address(""), l.ready.Listening, r.Addr().String(), 1)
	file := jobFile(t, l.home, repository, hypervPassword, source, "retry: {first: 10ms, most: 1s}\n")
	j := &mortalJob{T: t, reaper: r, home: l.home, file: file, repository: repository, vms: []string{"web0", "web1"},
		scribble: func(vm string) { l.Helper(); l.scribble(ids[vm], 1) },
		restored: func(vm string) { l.Helper(); l.restored(repository, vm, l.sums(ids[vm], 1, true)) },
		clean:    l.clean, died: func() {}}
	j.sweepThrough(killSteps())
	for _, vm := range j.vms {
		l.scribble(ids[vm], 1)
	}
	for name, vm := range vmsOf(t, l.hikae(outcome.Done, "job", "run", file)) {
		require.Equal(t, "changed", firstMethod(vm), "%s: the base is whole after all of that", name)
	}
	l.hikae(outcome.Done, "verify", "--repo", repository, "--data", "all")
}
