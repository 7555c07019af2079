//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The repository at work, against programs that do the like. Each round has a new repository of each, and the two of a pair run one
// after the other, in an order that changes with the rounds.
const (
	barPrune   = "prune, 30 % dead, against `restic prune`"
	barCompact = "prune, 30 % dead, against `borg compact`"
	barReading = "verify --data all, against `restic check --read-data`"
	barScrub   = "verify --repair: every cell of every pack, against `restic check --read-data`"
	barParity  = "CPU of a full backup with parity of 3 %, against the least, 0.1 %"
	barStriped = "backup to 4+2 folders, against one folder"

	repositoryHeading = "## The repository at work"
)

// repositoryAims are what the bars ask for, as the greatest share of the other's time.
var repositoryAims = []struct {
	name string
	most float64
}{{barPrune, 0.5}, {barCompact, 0}, {barReading, 0}, {barScrub, 0}, {barParity, 1.10}, {barStriped, 1 / 0.55}}

// repositoryBench measures in one folder, which is made anew for each round.
type repositoryBench struct {
	kvmBench
	blocks int
}

// fileBytes is one small blob; a disk has each of them in a block of its own.
const fileBytes = fsBlock

func measureRepository(ctx context.Context, opts options) (pairs, error) {
	program, err := filepath.Abs(opts.hikae)
	if err != nil {
		return nil, err
	}
	b := &repositoryBench{blocks: opts.blocks}
	b.dir, b.hikae, b.results = filepath.Join(opts.dir, "work"), program, pairs{}
	for i := range opts.rounds {
		if err := b.round(ctx, i%2 == 1); err != nil {
			return nil, err
		}
	}
	return b.results, nil
}

// round makes the input, and measures each pair once. What is dead is three tenths of the blobs.
func (b *repositoryBench) round(ctx context.Context, swap bool) error {
	defer os.RemoveAll(b.dir)
	if err := errors.Join(os.RemoveAll(b.dir), os.MkdirAll(b.dir, 0o755)); err != nil {
		return err
	}
	dead := b.blocks * 3 / 10
	for name, n := range map[string]int{"kept": b.blocks - dead, "dead": dead} {
		if err := errors.Join(distinctBlocks(b.at(name+".raw"), n), distinctFiles(b.at(name), n)); err != nil {
			return err
		}
	}
	for _, c := range []command{
		b.own("init", "--block-size", "64KiB", "repo"), b.restic("init"), b.borg("init", "--encryption", "repokey-blake2"),
		b.own("backup", "--repo", "repo", "--name", "kept", "kept.raw"), b.own("backup", "--repo", "repo", "--name", "dead", "dead.raw"),
		b.restic("backup", "--tag", "kept", "kept"), b.restic("backup", "--tag", "dead", "dead"),
		b.borg("create", "--compression", "zstd,1", "::kept", "kept"), b.borg("create", "--compression", "zstd,1", "::dead", "dead"),
	} {
		if _, _, err := measure(ctx, c); err != nil {
			return err
		}
	}
	return errors.Join(b.reading(ctx, swap), b.removing(ctx, swap), b.writing(ctx, swap))
}

// own is hikae with a password: what the others do is encrypted too.
func (b *repositoryBench) own(args ...string) command {
	c := b.ours(args...)
	c.env = append(c.env, "HIKAE_PASSWORD="+password)
	return c
}

func (b *repositoryBench) reading(ctx context.Context, swap bool) error {
	theirs := b.timed(ctx, b.restic("check", "--read-data"))
	return errors.Join(
		b.both(barReading, swap, b.timed(ctx, b.own("verify", "--repo", "repo", "--data", "all")), theirs),
		b.both(barScrub, swap, b.timed(ctx, b.own("verify", "--repo", "repo", "--repair")), theirs))
}

// removing has the dead forgotten first, which is not timed. A copy of the repository is pruned beside each of the others.
func (b *repositoryBench) removing(ctx context.Context, swap bool) error {
	for _, c := range []command{
		b.own("forget", "--repo", "repo", "dead@latest"), b.restic("forget", "--tag", "dead", "--keep-tag", "kept"), b.borg("delete", "::dead"),
	} {
		if _, _, err := measure(ctx, c); err != nil {
			return err
		}
	}
	prune := b.timed(ctx, b.own("prune", "--repo", "repo"))
	var took float64
	once := func() (float64, int64, error) {
		if took > 0 {
			return took, 0, nil // there is nothing to remove a second time
		}
		var err error
		took, _, err = prune()
		return took, 0, err
	}
	return errors.Join(b.both(barPrune, swap, once, b.timed(ctx, b.restic("prune"))),
		b.both(barCompact, swap, once, b.timed(ctx, b.borg("compact"))))
}

// writing backs up noise, which compresses to nothing less, so that storing is what there is to do.
func (b *repositoryBench) writing(ctx context.Context, swap bool) error {
	if err := os.WriteFile(b.at("noise.raw"), noise(rand.New(rand.NewPCG(7, 7)), 512<<20), 0o644); err != nil {
		return err
	}
	var set strings.Builder
	for i := range 6 {
		fmt.Fprintf(&set, "place%d %s\n", i, b.at(fmt.Sprint("place", i)))
	}
	if err := os.WriteFile(b.at("set.txt"), []byte(set.String()), 0o644); err != nil {
		return err
	}
	for _, c := range []command{
		b.own("init", "parity", "--parity", "3%"), b.own("init", "bare", "--parity", "0.1%"), b.own("init", "single"),
		b.own("repo", "stripe", "create", "set.txt", "--data", "4", "--parity", "2", "--arbiter", "place0"), b.own("init", "stripe:set.txt"),
	} {
		if _, _, err := measure(ctx, c); err != nil {
			return err
		}
	}
	backup := func(repo string) command { return b.own("backup", "--repo", repo, "--name", "noise", "noise.raw") }
	return errors.Join(b.both(barParity, swap, b.cpu(ctx, backup("parity")), b.cpu(ctx, backup("bare"))),
		b.both(barStriped, swap, b.timed(ctx, backup("stripe:set.txt")), b.timed(ctx, backup("single"))))
}

// cpu is timed by the processor's clock.
func (b *repositoryBench) cpu(ctx context.Context, c command) func() (float64, int64, error) {
	return func() (float64, int64, error) {
		cost, _, err := measure(ctx, c)
		return cost.CPU, 0, err
	}
}

// distinctFiles writes one small file for each blob, in folders of a thousand.
func distinctFiles(dir string, n int) error {
	page := make([]byte, fileBytes)
	for i := range n {
		folder := filepath.Join(dir, fmt.Sprint(i/1000))
		if i%1000 == 0 {
			if err := os.MkdirAll(folder, 0o755); err != nil {
				return err
			}
		}
		binary.LittleEndian.PutUint64(page, uint64(i)+1)
		binary.LittleEndian.PutUint64(page[8:], uint64(len(dir))) // other content in each folder
		if err := os.WriteFile(filepath.Join(folder, fmt.Sprint(i)), page, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// repositorySection is the part of the page.
func repositorySection(results pairs, opts options, now time.Time, load string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\nWritten by `make bench BENCH_FLAGS=-only=repository` on %s, with %d small blobs or blocks and 512 MiB of noise; each figure is the\n"+
		"median over rounds of pairs, run one after the other. Load of the machine before (1, 5, 15 minutes): %s.\n\n"+
		"| what | aim | measured | ours s | theirs s | rounds | |\n|---|---|---|--:|--:|--:|---|\n", repositoryHeading, now.Format("2006-01-02"), opts.blocks, load)
	for _, aim := range repositoryAims {
		list := results[aim.name]
		if len(list) == 0 {
			continue
		}
		var ratio, ours, theirs []float64
		for _, p := range list {
			ratio, ours, theirs = append(ratio, p.Ours/max(p.Theirs, 1e-9)), append(ours, p.Ours), append(theirs, p.Theirs)
		}
		want, verdict := "none", ""
		if aim.most > 0 {
			want, verdict = fmt.Sprintf("≤ %.2f × its time", aim.most), "**short**"
			if median(ratio) <= aim.most {
				verdict = "met"
			}
		}
		fmt.Fprintf(&b, "| %s | %s | %.2f × its time | %.2f | %.2f | %d | %s |\n", aim.name, want, median(ratio), median(ours), median(theirs), len(list), verdict)
	}
	return b.String()
}
