package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/netlab"
)

// offsite is docs/offsite.md: two sites, a router with a bad line between them, and the tool at both ends.
type offsite struct {
	t    *testing.T
	dir  string
	a, b *netlab.Space
	road *netlab.Road
	port string
	stop func(sig os.Signal)
}

func newOffsite(t *testing.T, line netlab.Line) *offsite {
	if err := netlab.Check(); err != nil {
		t.Skipf("no network namespaces here: %v", err)
	}
	ctx := t.Context()
	lab, err := netlab.New(ctx)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, lab.Close()) })
	o := &offsite{t: t, dir: t.TempDir(), port: "0"}
	o.a, err = lab.Space(ctx, "site-a")
	require.NoError(t, err)
	o.b, err = lab.Space(ctx, "site-b")
	require.NoError(t, err)
	o.road, err = lab.Road(ctx, o.a, o.b, line, nil)
	require.NoError(t, err)
	return o
}

func (o *offsite) at(name string) string { return filepath.Join(o.dir, name) }

// command is the tool at one of the sites.
func (o *offsite) command(site *netlab.Space, args ...string) *exec.Cmd {
	home := "a"
	if site == o.b {
		home = "b"
	}
	cmd := exec.Command("hikae", args...)
	cmd.Dir = o.dir
	cmd.Env = append(os.Environ(), "HIKAE_PASSWORD=secret", "HIKAE_STATE_DIR="+o.at(home), "HIKAE_CACHE_DIR="+o.at(home+".cache"), "GORACE=atexit_sleep_ms=0")
	return cmd
}

// run runs the tool to its end and returns what it printed.
func (o *offsite) run(site *netlab.Space, args ...string) string {
	o.t.Helper()
	out, err := o.start(site, args...)()
	require.NoError(o.t, err)
	return out
}

// start starts the tool; the function that it returns waits for its end.
func (o *offsite) start(site *netlab.Space, args ...string) (wait func() (string, error)) {
	o.t.Helper()
	var out, log bytes.Buffer
	cmd := o.command(site, args...)
	cmd.Stdout, cmd.Stderr = &out, &log
	require.NoError(o.t, site.Start(cmd))
	kill := time.AfterFunc(4*time.Minute, func() { _ = cmd.Process.Kill() })
	return func() (string, error) {
		defer kill.Stop()
		err := cmd.Wait()
		if err != nil {
			o.t.Logf("%s\n%s%s", strings.Join(args, " "), out.String(), log.String())
		}
		return out.String(), err
	}
}

// serve starts the repository's mover, at the same port as before.
func (o *offsite) serve() {
	cmd := o.command(o.b, "mover", "serve", "--repo", "r", "--listen", o.road.B+":"+o.port)
	log, err := os.OpenFile(o.at("mover.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(o.t, err)
	cmd.Stderr = log
	stdout, err := cmd.StdoutPipe()
	require.NoError(o.t, err)
	require.NoError(o.t, o.b.Start(cmd))
	require.NoError(o.t, log.Close())
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	require.NoError(o.t, err)
	var ready struct{ Listening string }
	require.NoError(o.t, json.Unmarshal(line, &ready))
	o.port = ready.Listening[strings.LastIndex(ready.Listening, ":")+1:]
	done := false
	o.stop = func(sig os.Signal) {
		if !done {
			done = true
			_ = cmd.Process.Signal(sig)
			_ = cmd.Wait()
		}
	}
	stop := o.stop
	o.t.Cleanup(func() { stop(os.Kill) })
}

// Two sites and a line that is slow, lossy and cut again and again, the connections reset and the mover killed and started
// again: what was backed up comes back over the same line, identical (R029, R030, R031).
func TestOffsite(t *testing.T) {
	size, cuts := 12<<20, 3
	if tier := os.Getenv("HIKAE_TEST_TIER"); tier == "long" || tier == "release" {
		size, cuts = 64<<20, 25
	}
	o := newOffsite(t, netlab.Line{Delay: 20 * time.Millisecond, Jitter: 2 * time.Millisecond, Loss: 0.005, Duplicate: 0.005, Reorder: 0.01, Rate: 20e6})
	disk := make([]byte, 4*size)
	rnd := rand.New(rand.NewPCG(7, 7))
	fill(rnd, disk[size:2*size])
	require.NoError(t, os.WriteFile(o.at("disk.raw"), disk, 0o600))

	o.run(o.b, "init", "r")
	require.NoError(t, os.WriteFile(o.at("token"), []byte(o.run(o.b, "mover", "token", "--repo", "r", "site-a")), 0o600))
	o.serve()
	at := o.road.B + ":" + o.port
	o.run(o.a, "mover", "enrol", at, "--token-file", "token")

	trouble := func(wait func() (string, error)) string {
		ctx, end := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := range cuts {
				select {
				case <-ctx.Done():
					return
				case <-time.After(time.Duration(400+rnd.IntN(800)) * time.Millisecond):
				}
				switch i % 3 {
				case 0:
					o.road.CutFor(ctx, time.Duration(300+rnd.IntN(1500))*time.Millisecond)
				case 1:
					_ = o.b.Reset(ctx, "")
				case 2:
					o.stop(os.Kill)
					o.serve()
				}
			}
		}()
		out, err := wait()
		end()
		<-done
		require.NoError(t, err)
		return out
	}
	var first, second struct {
		Point string
		Disks []struct{ Moved int64 }
	}
	backup := []string{"backup", "--json", "--repo", "mover://" + at + "/site-a", "--name", "web1", "disk.raw"}
	require.NoError(t, json.Unmarshal([]byte(trouble(o.start(o.a, backup...))), &first))
	fill(rnd, disk[size+size/2:][:size/4])
	require.NoError(t, os.WriteFile(o.at("disk.raw"), disk, 0o600))
	before := o.road.There.Counts().Bytes
	require.NoError(t, json.Unmarshal([]byte(trouble(o.start(o.a, backup...))), &second))
	require.LessOrEqual(t, second.Disks[0].Moved, int64(size/4+256<<10))
	t.Logf("%d bytes changed, %d went over the line", size/4, o.road.There.Counts().Bytes-before)

	require.NoError(t, os.WriteFile(o.at("token"), []byte(o.run(o.b, "mover", "token", "--repo", "r", "desk", "--role", "full")), 0o600))
	o.run(o.a, "mover", "enrol", at, "--token-file", "token")
	trouble(o.start(o.a, "restore", "--repo", "mover://"+at+"/desk", "site-a/web1@latest", "--to", "again.raw"))
	again, err := os.ReadFile(o.at("again.raw"))
	require.NoError(t, err)
	require.True(t, bytes.Equal(disk, again), "what came back is not what went")
	o.stop(syscall.SIGTERM)
	o.run(o.b, "verify", "--repo", "r", "--data", "all")
	require.Contains(t, o.run(o.b, "points", "--repo", "r", "site-a/web1", "--json"), first.Point)
}
