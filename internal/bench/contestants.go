//go:build linux

package main

import (
	"cmp"
	"context"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// The steps of a round, in order. Not every contestant has a command for each.
const (
	stepFull    = "full"
	stepNext    = "next day"
	stepOther   = "second machine"
	stepRestore = "restore"
	stepVerify  = "verify"
)

var steps = []string{stepFull, stepNext, stepOther, stepRestore, stepVerify}

// diskOf names the disk that a step backs up.
var diskOf = map[string]string{stepFull: "day1", stepNext: "day2", stepOther: "other"}

// contestant is one program in one configuration. Its commands run in a folder of their own, with the disk at
// disk.raw, the repository in repo and what is restored in out.
type contestant struct {
	name     string
	settings string // how it was called, for the report
	init     func(p place) []command
	step     func(p place, step string) (command, bool)
	restored func(p place) string // where restore puts the disk; nil: it restores nothing
	stats    func(p place) command
	lossy    bool // what differs in the restored disk must be zero there, and its file system sound
}

// place is a contestant's folder during one round.
type place struct {
	dir     string
	changes string // the list of changes of the second day
}

func (p place) at(name string) string { return filepath.Join(p.dir, name) }

// password is no secret: it protects repositories that are removed at the end of the round.
const password = "measure, do not keep"

func contestants(opts options) []contestant {
	list := []contestant{restic(), borg(), qemuImg()}
	if opts.peers {
		return list
	}
	return append(list,
		hikae(opts.hikae, manner{name: nameHikae}),
		hikae(opts.hikae, manner{name: nameFast, compression: "fast"}),
		hikae(opts.hikae, manner{name: nameKnown, changed: true}),
		hikae(opts.hikae, manner{name: nameLean, lean: true}))
}

const (
	nameHikae  = "hikae"
	nameFast   = "hikae fast"
	nameKnown  = "hikae --changed"
	nameLean   = "hikae excluding"
	nameRestic = "restic"
	nameBorg   = "borg"
	nameQemu   = "qemu-img"
)

// manner is how hikae is called.
type manner struct {
	name, compression string
	changed           bool // the next day's changes are known
	lean              bool // swap and free space are left out, as is the default; otherwise all programs store the same bytes
}

// hikae by the contract of its command line.
func hikae(program string, m manner) contestant {
	if abs, err := filepath.Abs(program); err == nil {
		program = abs
	}
	run := func(p place, args ...string) command {
		return command{dir: p.dir, args: append([]string{program, "--json"}, args...), env: []string{
			"HIKAE_PASSWORD=" + password, "HIKAE_STATE_DIR=" + p.at("state"), "HIKAE_CACHE_DIR=" + p.at("cache")}}
	}
	var settings []string
	if !m.lean {
		settings = append(settings, "--exclude-swap=false", "--exclude-free=false")
	}
	var compression []string
	if m.compression != "" {
		compression = []string{"--compression", m.compression}
		settings = append(settings, compression...)
	}
	backup := func(p place, vm string, extra ...string) command {
		args := slices.Concat([]string{"backup", "--repo", "repo", "--name", vm}, settings, extra, []string{"disk0=disk.raw"})
		return run(p, args...)
	}
	words := cmp.Or(strings.Join(settings, " "), "defaults: swap and free space left out")
	if m.changed {
		words += ", the next day with --changed"
	}
	return contestant{
		name:     m.name,
		settings: words,
		lossy:    m.lean,
		init: func(p place) []command {
			return []command{run(p, append([]string{"init", "repo"}, compression...)...)}
		},
		restored: func(p place) string { return p.at("out/disk.raw") },
		stats:    func(p place) command { return run(p, "stats", "--repo", "repo") },
		step: func(p place, step string) (command, bool) {
			switch {
			case step == stepFull:
				return backup(p, "web1"), true
			case step == stepNext && m.changed:
				return backup(p, "web1", "--changed", "disk0="+p.changes), true
			case step == stepNext:
				return backup(p, "web1"), true
			case step == stepOther && !m.changed:
				return backup(p, "db7"), true
			case step == stepRestore: // with --changed it shows that the increment is right
				return run(p, "restore", "--repo", "repo", "web1@latest", "--to", "out/disk.raw"), true
			case step == stepVerify && !m.changed:
				return run(p, "verify", "--repo", "repo", "--data", "all"), true
			}
			return command{}, false
		},
	}
}

func restic() contestant {
	run := func(p place, args ...string) command {
		return command{dir: p.dir, args: append([]string{"restic", "--quiet"}, args...), env: []string{
			"RESTIC_PASSWORD=" + password, "RESTIC_REPOSITORY=" + p.at("repo"), "RESTIC_CACHE_DIR=" + p.at("cache")}}
	}
	return contestant{
		name:     nameRestic,
		settings: "defaults (compression auto, encrypted)",
		init:     func(p place) []command { return []command{run(p, "init")} },
		restored: func(p place) string { return p.at("out/disk.raw") },
		step: func(p place, step string) (command, bool) {
			switch step {
			case stepRestore:
				return run(p, "restore", "latest", "--tag", diskOf[stepNext], "--target", "out"), true
			case stepVerify:
				return run(p, "check", "--read-data"), true
			}
			return run(p, "backup", "--tag", diskOf[step], "disk.raw"), true
		},
	}
}

func borg() contestant {
	run := func(dir string, p place, args ...string) command {
		return command{dir: dir, args: append([]string{"borg"}, args...), env: []string{
			"BORG_PASSPHRASE=" + password, "BORG_REPO=" + p.at("repo"), "BORG_BASE_DIR=" + p.at("cache")}}
	}
	return contestant{
		name:     nameBorg,
		settings: "--compression zstd,1, encryption repokey-blake2",
		init:     func(p place) []command { return []command{run(p.dir, p, "init", "--encryption", "repokey-blake2")} },
		restored: func(p place) string { return p.at("out/disk.raw") },
		step: func(p place, step string) (command, bool) {
			switch step {
			case stepRestore:
				return run(p.at("out"), p, "extract", "--sparse", "::"+diskOf[stepNext]), true
			case stepVerify:
				return run(p.dir, p, "check", "--verify-data"), true
			}
			return run(p.dir, p, "create", "--compression", "zstd,1", "::"+diskOf[step], "disk.raw"), true
		},
	}
}

func qemuImg() contestant {
	return contestant{
		name:     nameQemu,
		settings: "convert -c -o compression_type=zstd: no encryption, no deduplication, no parity",
		init:     func(place) []command { return nil },
		step: func(p place, step string) (command, bool) {
			return command{dir: p.dir, args: []string{"qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c",
				"-o", "compression_type=zstd", "disk.raw", "repo/disk.qcow2"}}, step == stepFull
		},
	}
}

// versions asks every program for its own.
func versions(ctx context.Context, opts options) map[string]string {
	ask := map[string][]string{
		nameRestic: {"restic", "version"}, nameBorg: {"borg", "--version"}, nameQemu: {"qemu-img", "--version"},
		"kernel": {"uname", "-sr"}, "go": {"go", "version"},
	}
	if !opts.peers {
		ask[nameHikae] = []string{opts.hikae, "version"}
	}
	out := map[string]string{}
	for name, args := range ask {
		text, err := exec.CommandContext(ctx, args[0], args[1:]...).Output()
		line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
		if err != nil {
			line = "unknown (" + err.Error() + ")"
		}
		out[name] = line
	}
	return out
}
