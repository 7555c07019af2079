//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hikae/hikae/internal/netlab"
)

// wanNeeds are what the part for bad lines needs beside needs.
var wanNeeds = map[string]string{"sshd": "openssh-server", "ssh": "openssh-client", "ip": "iproute2"}

// wanLine is the line of the bar: 100 ms there and back, 1 % lost, 20 Mbit/s each way.
var wanLine = netlab.Line{Delay: 50 * time.Millisecond, Loss: 0.01, Rate: 20e6}

const (
	barWANRestic = "over 20 Mbit/s, 100 ms, 1 % loss: full backup, against restic over sftp"
	barWANBorg   = "over 20 Mbit/s, 100 ms, 1 % loss: full backup, against borg over ssh"
	wanBytes     = 24 << 20 // of a real system's data
)

// runWAN is -only=wan.
func runWAN(ctx context.Context, opts options, fx *fixture) error {
	results, err := measureWAN(ctx, opts, fx)
	if err != nil {
		return err
	}
	for _, bar := range []string{barWANRestic, barWANBorg} {
		var ours, theirs, ratio []float64
		for _, p := range results[bar] {
			ours, theirs, ratio = append(ours, p.Ours), append(theirs, p.Theirs), append(ratio, p.Ours/p.Theirs)
		}
		fmt.Printf("%s: %.2f x its time (%.1f against %.1f s, median of %d rounds; aim 0.50)\n", bar, median(ratio), median(ours), median(theirs), len(ratio))
	}
	return nil
}

// wanBench is two sites and a bad line between them, with the same machine's programs at both.
type wanBench struct {
	dir, hikae string
	lab        *netlab.Lab
	a, b       *netlab.Space
	road       *netlab.Road
	results    pairs
}

// measureWAN backs up a small disk over a bad line, round by round, with each program.
func measureWAN(ctx context.Context, opts options, fx *fixture) (_ pairs, err error) {
	for program, pkg := range wanNeeds {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("missing program %s, install %s", program, pkg)
		}
	}
	if err := netlab.Check(); err != nil {
		return nil, err
	}
	w := &wanBench{dir: filepath.Join(opts.dir, "wan"), results: pairs{}}
	if w.hikae, err = filepath.Abs(opts.hikae); err != nil {
		return nil, err
	}
	if err := errors.Join(os.RemoveAll(w.dir), os.MkdirAll(w.dir, 0o700)); err != nil {
		return nil, err
	}
	defer os.RemoveAll(w.dir)
	if err := cutData(fx.disk("day1"), w.at("disk.raw"), wanBytes); err != nil {
		return nil, err
	}
	if w.lab, err = netlab.New(ctx); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.lab.Close()) }()
	if w.a, err = w.lab.Space(ctx, "site-a"); err != nil {
		return nil, err
	}
	if w.b, err = w.lab.Space(ctx, "site-b"); err != nil {
		return nil, err
	}
	if w.road, err = w.lab.Road(ctx, w.a, w.b, wanLine, nil); err != nil {
		return nil, err
	}
	stop, err := w.sshd(ctx)
	if err != nil {
		return nil, err
	}
	defer stop()
	for round := range opts.rounds {
		if err := w.round(ctx, round); err != nil {
			return nil, err
		}
	}
	return w.results, nil
}

func (w *wanBench) at(name string) string { return filepath.Join(w.dir, name) }

// round measures each program once into a new repository.
func (w *wanBench) round(ctx context.Context, round int) error {
	ours, err := w.ours(ctx, fmt.Sprintf("hikae%d", round))
	if err != nil {
		return err
	}
	for _, peer := range []struct {
		bar string
		run func(context.Context, string) (float64, error)
	}{{barWANRestic, w.restic}, {barWANBorg, w.borg}} {
		theirs, err := peer.run(ctx, fmt.Sprintf("peer%d", round))
		if err != nil {
			return err
		}
		progress("%-8.2f against %8.2f s  %s", ours, theirs, peer.bar)
		w.results[peer.bar] = append(w.results[peer.bar], pair{Ours: ours, Theirs: theirs})
	}
	return nil
}

// ours backs the disk up through two movers.
func (w *wanBench) ours(ctx context.Context, name string) (float64, error) {
	repo, env := w.at(name), []string{"HIKAE_PASSWORD=" + password}
	far := append([]string{"HIKAE_STATE_DIR=" + w.at(name+".b"), "HIKAE_CACHE_DIR=" + w.at(name+".bc")}, env...)
	near := []string{"HIKAE_STATE_DIR=" + w.at(name+".a"), "HIKAE_CACHE_DIR=" + w.at(name+".ac")}
	if _, _, err := measure(ctx, command{dir: w.dir, args: []string{w.hikae, "init", repo}, env: far}); err != nil {
		return 0, err
	}
	_, token, err := measure(ctx, command{dir: w.dir, args: []string{w.hikae, "mover", "token", "--repo", repo, "site-a"}, env: far})
	if err == nil {
		err = os.WriteFile(w.at("token"), token, 0o600)
	}
	if err != nil {
		return 0, err
	}
	port, stop, err := w.serve(ctx, repo, far)
	if err != nil {
		return 0, err
	}
	defer stop()
	address := w.road.B + ":" + port
	if _, _, err := measure(ctx, command{dir: w.dir, space: w.a, args: []string{w.hikae, "mover", "enrol", address, "--token-file", w.at("token")}, env: near}); err != nil {
		return 0, err
	}
	took, _, err := measure(ctx, command{dir: w.dir, space: w.a, env: near, args: []string{w.hikae, "--json", "backup",
		"--repo", "mover://" + address + "/site-a", "--name", "web1", "--exclude-swap=false", "--exclude-free=false", w.at("disk.raw")}})
	return took.Wall, err
}

// serve starts a mover at site b.
func (w *wanBench) serve(ctx context.Context, repo string, env []string) (port string, stop func(), err error) {
	cmd := exec.CommandContext(ctx, w.hikae, "mover", "serve", "--repo", repo, "--listen", w.road.B+":0")
	cmd.Env, cmd.Stderr = append(os.Environ(), env...), os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := w.b.Start(cmd); err != nil {
		return "", nil, err
	}
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}
	var ready struct {
		Listening string `json:"listening"`
	}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &ready)
	}
	if err != nil {
		stop()
		return "", nil, fmt.Errorf("the mover did not start: %w", err)
	}
	return ready.Listening[strings.LastIndex(ready.Listening, ":")+1:], stop, nil
}

// ssh is how the peers reach site b.
func (w *wanBench) ssh() string {
	return fmt.Sprintf("ssh -F /dev/null -i %s -o UserKnownHostsFile=%s -o StrictHostKeyChecking=yes -o BatchMode=yes root@%s", w.at("client"), w.at("known"), w.road.B)
}

func (w *wanBench) restic(ctx context.Context, name string) (float64, error) {
	run := func(args ...string) (cost, error) {
		took, _, err := measure(ctx, command{dir: w.dir, space: w.a, env: []string{"RESTIC_PASSWORD=" + password, "RESTIC_CACHE_DIR=" + w.at(name+".cache")},
			args: append([]string{"restic", "--quiet", "-o", "sftp.command=" + w.ssh() + " -s sftp", "-r", "sftp:root@" + w.road.B + ":" + w.at(name+".restic")}, args...)})
		return took, err
	}
	if _, err := run("init"); err != nil {
		return 0, err
	}
	took, err := run("backup", w.at("disk.raw"))
	return took.Wall, err
}

func (w *wanBench) borg(ctx context.Context, name string) (float64, error) {
	run := func(args ...string) (cost, error) {
		shell, host, _ := strings.Cut(w.ssh(), " root@")
		took, _, err := measure(ctx, command{dir: w.dir, space: w.a, args: append([]string{"borg"}, args...), env: []string{
			"BORG_PASSPHRASE=" + password, "BORG_RSH=" + shell, "BORG_BASE_DIR=" + w.at(name+".base"), "BORG_REPO=ssh://root@" + host + w.at(name+".borg")}})
		return took, err
	}
	if _, err := run("init", "--encryption", "repokey-blake2"); err != nil {
		return 0, err
	}
	took, err := run("create", "--compression", "zstd,3", "::day1", w.at("disk.raw"))
	return took.Wall, err
}

// sshd starts a server for the peers at site b, with keys of its own.
func (w *wanBench) sshd(ctx context.Context) (stop func(), err error) {
	for _, key := range []string{"host", "client"} {
		if out, err := exec.CommandContext(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", w.at(key)).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("ssh-keygen: %w: %s", err, out)
		}
	}
	public, err := os.ReadFile(w.at("host.pub"))
	if err != nil {
		return nil, err
	}
	config := fmt.Sprintf("ListenAddress %s:22\nHostKey %s\nAuthorizedKeysFile %s\nPidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n",
		w.road.B, w.at("host"), w.at("client.pub"))
	if err := errors.Join(os.WriteFile(w.at("known"), []byte(w.road.B+" "+string(public)), 0o600), os.WriteFile(w.at("sshd.conf"), []byte(config), 0o600),
		os.MkdirAll("/run/sshd", 0o755)); err != nil {
		return nil, err
	}
	program, err := exec.LookPath("sshd")
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program, "-D", "-e", "-f", w.at("sshd.conf"))
	cmd.Stderr = io.Discard
	if err := w.b.Start(cmd); err != nil {
		return nil, err
	}
	stop = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		conn, err := w.a.Dial(ctx, "tcp", w.road.B+":22")
		if err == nil {
			return stop, conn.Close()
		}
		if time.Now().After(end) {
			stop()
			return nil, fmt.Errorf("sshd: %w", err)
		}
	}
}

// cutData copies the first n bytes of a disk that are data, without its holes.
func cutData(disk, to string, n int64) error {
	in, err := os.Open(disk)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	for at := int64(0); err == nil && n > 0; {
		var end int64
		if at, err = unix.Seek(int(in.Fd()), at, unix.SEEK_DATA); err == nil {
			end, err = unix.Seek(int(in.Fd()), at, unix.SEEK_HOLE)
		}
		if err == nil {
			var copied int64
			copied, err = io.Copy(out, io.NewSectionReader(in, at, min(n, end-at)))
			at, n = end, n-copied
		}
	}
	return errors.Join(err, out.Close())
}
