//go:build unix

package main

import (
	"bufio"
	"bytes"
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
)

// pairOf is a mover and a machine that brings backups to it, as programs of their own.
type pairOf struct {
	t     *testing.T
	dir   string
	at    string // the mover's address, once it runs
	mover *exec.Cmd
	log   *bytes.Buffer // what the mover says
}

func (p *pairOf) file(name string) string { return filepath.Join(p.dir, name) }

func (p *pairOf) command(home string, args ...string) *exec.Cmd {
	cmd := exec.Command("hikae", args...)
	cmd.Dir = p.dir
	cmd.Env = append(os.Environ(), "HIKAE_STATE_DIR="+p.file(home), "HIKAE_CACHE_DIR="+p.file(home+".cache"), "GORACE=atexit_sleep_ms=0")
	return cmd
}

func (p *pairOf) run(home string, args ...string) []byte {
	p.t.Helper()
	out, err := p.command(home, args...).Output()
	if exit, ok := err.(*exec.ExitError); ok {
		p.t.Logf("%v: %s", args, exit.Stderr)
	}
	require.NoError(p.t, err, args)
	return out
}

func (p *pairOf) serve() {
	listen := p.at
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	p.mover = p.command("b", "mover", "serve", "--repo", "r", "--listen", listen)
	p.mover.Stderr = p.log
	out, err := p.mover.StdoutPipe()
	require.NoError(p.t, err)
	require.NoError(p.t, p.mover.Start())
	line, err := bufio.NewReader(out).ReadBytes('\n')
	require.NoError(p.t, err)
	var ready struct{ Listening string }
	require.NoError(p.t, json.Unmarshal(line, &ready))
	p.at = ready.Listening
}

func (p *pairOf) end(sig syscall.Signal) {
	_ = p.mover.Process.Signal(sig)
	_ = p.mover.Wait()
}

// Either mover is killed at many moments of a backup. Whatever the moment: the point is there whole or not at all, earlier
// points stay as they were, the next run needs no help, and a source whose mover comes back goes on.
func TestMoverKilled(t *testing.T) {
	kills := 3
	if tier := os.Getenv("HIKAE_TEST_TIER"); tier == "long" || tier == "release" {
		kills = 40
	}
	p := &pairOf{t: t, dir: t.TempDir(), log: &bytes.Buffer{}}
	p.run("b", "init", "--no-encryption", "r")
	require.NoError(t, os.WriteFile(p.file("token"), p.run("b", "mover", "token", "--repo", "r", "site-a"), 0o600))
	p.serve()
	defer func() { p.end(syscall.SIGKILL) }()
	p.run("a", "mover", "enrol", p.at, "--token-file", "token")
	rnd := rand.New(rand.NewPCG(3, 9))
	disk := make([]byte, 24<<20)
	fill(rnd, disk[:8<<20])
	backup := func(limit string) *exec.Cmd {
		return p.command("a", "backup", "--json", "--repo", "mover://"+p.at+"/site-a", "--name", "web1", "--line-limit", limit, "disk.raw")
	}
	contents := map[string][]byte{} // of points that were reported
	var newest string
	keep := func(out []byte) {
		var r struct{ Point string }
		require.NoError(t, json.Unmarshal(out, &r))
		contents[r.Point], newest = bytes.Clone(disk), r.Point
	}
	write := func() {
		fill(rnd, disk[rnd.IntN(16)<<20:][:4<<20])
		require.NoError(t, os.WriteFile(p.file("disk.raw"), disk, 0o600))
	}
	write()
	out, err := backup("off").Output()
	require.NoError(t, err)
	keep(out)
	points := func() (ids []string) {
		var list struct{ Points []struct{ ID string } }
		require.NoError(t, json.Unmarshal(p.run("a", "points", "--json", "--repo", "mover://"+p.at+"/site-a"), &list))
		for _, point := range list.Points {
			ids = append(ids, point.ID)
		}
		return ids
	}
	for i := range 2 * kills {
		write()
		had := points()
		wait := time.Duration(rnd.IntN(900)) * time.Millisecond
		cmd := backup("8MB/s") // so that there is a middle to be killed in
		var out, log bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &log
		require.NoError(t, cmd.Start())
		time.Sleep(wait)
		if i%2 == 0 {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			if now := points(); len(now) > len(had) { // it was killed behind its commit
				require.Len(t, now, len(had)+1)
				contents[now[len(now)-1]] = bytes.Clone(disk)
			}
		} else {
			p.end(syscall.SIGKILL)
			p.serve()
			err := cmd.Wait()
			if err != nil && strings.Contains(log.String(), "error: mover at ") { // killed before there was a line
				again := backup("off")
				out.Reset()
				again.Stdout = &out
				err = again.Run()
			}
			require.NoError(t, err, "the source goes on with the mover that came back; killed after %v: %s\n%s", wait, &log, p.log)
			keep(out.Bytes())
		}
		require.Subset(t, points(), had)
	}
	write()
	out, err = backup("off").Output()
	require.NoError(t, err)
	keep(out)
	p.end(syscall.SIGTERM)
	p.run("b", "verify", "--repo", "r", "--data", "all")
	for id, content := range contents {
		p.run("b", "restore", "--repo", "r", id, "--to", "again.raw", "--force")
		again, err := os.ReadFile(p.file("again.raw"))
		require.NoError(t, err)
		require.True(t, bytes.Equal(content, again), id)
	}
	require.Contains(t, contents, newest)
}

func fill(rnd *rand.Rand, p []byte) {
	for i := range p {
		p[i] = byte(rnd.Uint32())
	}
}
