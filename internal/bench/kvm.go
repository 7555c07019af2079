//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// kvmNeeds are what the part for virtual machines and NBD needs beside needs.
var kvmNeeds = map[string]string{
	"qemu-system-x86_64": "qemu-system-x86", "qemu-nbd": "qemu-utils", "nbdcopy": "libnbd-bin", "zstd": "zstd", "fusermount": "fuse",
}

// pairs are what is measured side by side, by the name of the bar: of each round our seconds and the other's.
type pairs map[string][]pair

type pair struct {
	Ours, Theirs         float64 // seconds
	OurBytes, TheirBytes int64   // stored; 0 where nothing is
}

// Names of the bars.
const (
	barServer = "NBD server: nbdcopy from a point, against pipe.Copy to a null target"
	barBorg   = "NBD server: nbdcopy from a point, against dd from `borg mount`"
	barRestic = "NBD server: nbdcopy from a point, against dd from `restic mount`"
	barClient = "NBD client: our copy of an export, against nbdcopy"
	barFull   = "running VM, full backup by the defaults, against nbdcopy of the same disk, then zstd -1"
	barQuiet  = "running VM of 64 GiB, quiet: increment, from start to committed point"
	barBoot   = "start from the repository: to the guest's last boot message, against the raw disk"
)

// kvmBench is the part's folder and programs.
type kvmBench struct {
	dir, hikae, nullcopy, disk string
	failures                   []string
	results                    pairs
}

// measureKVM runs all pairs, round by round.
func measureKVM(ctx context.Context, opts options, fx *fixture) (*kvmBench, error) {
	for program, pkg := range kvmNeeds {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("missing program %s, install %s", program, pkg)
		}
	}
	b := &kvmBench{dir: filepath.Join(opts.dir, "kvm"), disk: fx.disk("day1"), results: pairs{}}
	var err error
	if b.hikae, err = filepath.Abs(opts.hikae); err != nil {
		return nil, err
	}
	b.nullcopy = filepath.Join(b.dir, "nullcopy")
	if err := errors.Join(os.RemoveAll(b.dir), os.MkdirAll(b.dir, 0o755)); err != nil {
		return nil, err
	}
	defer os.RemoveAll(b.dir)
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", b.nullcopy, "./internal/bench/nullcopy").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build nullcopy: %w: %s", err, out)
	}
	if err := b.prepare(ctx); err != nil {
		return nil, err
	}
	parts := []struct {
		name string
		run  func(ctx context.Context, swap bool) error
	}{
		{barServer, b.server}, {barClient, b.client}, {barBorg, b.mounts}, {barFull, b.full}, {barQuiet, b.quiet}, {barBoot, b.boot},
	}
	for round := range opts.rounds {
		for _, part := range parts {
			progress("round %d of %d: %s", round+1, opts.rounds, part.name)
			if err := part.run(ctx, round%2 == 1); err != nil {
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
				progress("FAILED %s: %v", part.name, err)
				first, _, _ := strings.Cut(err.Error(), "\n")
				b.failures = append(b.failures, part.name+": "+first)
			}
		}
	}
	return b, nil
}

// prepare makes the repositories that are read: of each program one, with the first disk.
func (b *kvmBench) prepare(ctx context.Context) error {
	if err := warm(b.disk); err != nil {
		return err
	}
	for _, c := range []command{
		b.ours("init", "--no-encryption", "repo"),
		b.ours("backup", "--repo", "repo", "--name", "web1", "--exclude-swap=false", "--exclude-free=false", "disk0="+b.disk),
		b.borg("init", "--encryption", "repokey-blake2"), b.borg("create", "--compression", "zstd,1", "::day1", b.disk),
		b.restic("init"), b.restic("backup", b.disk),
	} {
		if _, _, err := measure(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

func (b *kvmBench) at(name string) string { return filepath.Join(b.dir, name) }

func (b *kvmBench) ours(args ...string) command {
	return command{dir: b.dir, args: append([]string{b.hikae, "--json"}, args...), env: []string{
		"HIKAE_STATE_DIR=" + b.at("state"), "HIKAE_CACHE_DIR=" + b.at("cache")}, ok: []int{3}} // a VM that stands still is a warning
}

func (b *kvmBench) borg(args ...string) command {
	return command{dir: b.dir, args: append([]string{"borg"}, args...), env: []string{
		"BORG_PASSPHRASE=" + password, "BORG_REPO=" + b.at("borg"), "BORG_BASE_DIR=" + b.at("borgbase")}}
}

func (b *kvmBench) restic(args ...string) command {
	return command{dir: b.dir, args: append([]string{"restic", "--quiet"}, args...), env: []string{
		"RESTIC_PASSWORD=" + password, "RESTIC_REPOSITORY=" + b.at("restic"), "RESTIC_CACHE_DIR=" + b.at("resticcache")}}
}

// both measures ours and theirs, in an order that changes with the rounds, and notes the pair.
func (b *kvmBench) both(name string, swap bool, ours, theirs func() (float64, int64, error)) error {
	var p pair
	var err error
	mine := func() { var e error; p.Ours, p.OurBytes, e = ours(); err = errors.Join(err, e) }
	other := func() { var e error; p.Theirs, p.TheirBytes, e = theirs(); err = errors.Join(err, e) }
	if swap {
		other()
		mine()
	} else {
		mine()
		other()
	}
	if err != nil {
		return err
	}
	progress("%-8.2f against %8.2f s  %s", p.Ours, p.Theirs, name)
	b.results[name] = append(b.results[name], p)
	return nil
}

// timed runs a program, which stores nothing.
func (b *kvmBench) timed(ctx context.Context, c command) func() (float64, int64, error) {
	return func() (float64, int64, error) {
		cost, _, err := measure(ctx, c)
		return cost.Wall, 0, err
	}
}

// serve runs a server until stop, once its socket is there.
func (b *kvmBench) serve(ctx context.Context, socket string, c command) (stop func(), err error) {
	cmd := exec.CommandContext(ctx, c.args[0], c.args[1:]...)
	cmd.Dir, cmd.Env = c.dir, append(os.Environ(), c.env...)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() {
		cmd.Process.Signal(os.Interrupt)
		kill := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
		defer kill.Stop()
		cmd.Wait()
		os.Remove(socket)
	}
	if err := appears(ctx, socket); err != nil {
		stop()
		return nil, err
	}
	return stop, nil
}

// appears waits for a file, for a minute at most.
func appears(ctx context.Context, path string) error {
	for range 1200 {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return fmt.Errorf("%s does not appear", path)
}

func nbdURI(socket, export string) string { return "nbd+unix:///" + export + "?socket=" + socket }

func (b *kvmBench) nbdcopy(uri, to string) command {
	return command{dir: b.dir, args: []string{"nbdcopy", uri, to}}
}

// serveMap is the server with the point.
func (b *kvmBench) servePoint(ctx context.Context) (uri string, stop func(), err error) {
	socket := b.at("point.sock")
	stop, err = b.serve(ctx, socket, b.ours("serve", "nbd", "--repo", "repo", "web1@latest", "--listen", "unix:"+socket))
	return nbdURI(socket, "disk0"), stop, err
}

func (b *kvmBench) server(ctx context.Context, swap bool) error {
	uri, stop, err := b.servePoint(ctx)
	if err != nil {
		return err
	}
	defer stop()
	return b.both(barServer, swap, b.timed(ctx, b.nbdcopy(uri, "null:")), func() (float64, int64, error) {
		_, out, err := measure(ctx, command{dir: b.dir, args: []string{b.nullcopy, "repo", "web1@latest", "disk0"}})
		var doc struct{ Seconds float64 }
		return doc.Seconds, 0, errors.Join(err, errOr(json.Unmarshal(out, &doc), &doc.Seconds))
	})
}

// errOr says that a figure is missing.
func errOr(err error, figure *float64) error {
	if err == nil && *figure <= 0 {
		err = errors.New("no time was told")
	}
	return err
}

func (b *kvmBench) client(ctx context.Context, swap bool) error {
	socket := b.at("raw.sock")
	stop, err := b.serve(ctx, socket, command{dir: b.dir, args: []string{"qemu-nbd", "-r", "-t", "-f", "raw", "--shared=8", "-k", socket, b.disk}})
	if err != nil {
		return err
	}
	defer stop()
	uri := nbdURI(socket, "")
	return b.both(barClient, swap, b.timed(ctx, command{dir: b.dir, args: []string{b.nullcopy, uri}}), b.timed(ctx, b.nbdcopy(uri, "null:")))
}

// mounts reads the same bytes through the file systems that the peers mount: the first 2 GiB, holes and all.
func (b *kvmBench) mounts(ctx context.Context, swap bool) error {
	uri, stop, err := b.servePoint(ctx)
	if err != nil {
		return err
	}
	defer stop()
	ours := b.timed(ctx, b.nbdcopy(uri, "null:"))
	at := b.at("mnt")
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	borg := b.borg("mount", "--foreground", "::day1", at)
	err = b.mounted(ctx, borg, at, filepath.Join(at, b.disk), func(dd command) error { return b.both(barBorg, swap, ours, b.timed(ctx, dd)) })
	restic := b.restic("mount", at)
	return errors.Join(err, b.mounted(ctx, restic, at, filepath.Join(at, "snapshots/latest", b.disk), func(dd command) error {
		return b.both(barRestic, swap, ours, b.timed(ctx, dd))
	}))
}

func (b *kvmBench) mounted(ctx context.Context, mount command, at, file string, do func(dd command) error) error {
	cmd := exec.CommandContext(ctx, mount.args[0], mount.args[1:]...)
	cmd.Env = append(os.Environ(), mount.env...)
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		exec.Command("fusermount", "-u", at).Run() // one that did not come up is no mount
		kill := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
		defer kill.Stop()
		cmd.Wait()
	}()
	if err := appears(ctx, file); err != nil {
		return err
	}
	return do(command{dir: b.dir, args: []string{"dd", "if=" + file, "of=/dev/null", "bs=1M", "status=none"}})
}
