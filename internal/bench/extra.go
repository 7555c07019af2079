//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// sparse compares a huge disk that is nearly empty with a small one of the same data.
type sparse struct {
	Small cost `json:"small"` // 1 GiB of data in 1 GiB
	Huge  cost `json:"huge"`  // the same in 8 TiB
}

const (
	sparseData  = 1 << 30
	sparseSize  = 8 << 40
	sparsePiece = 16 << 20
)

func measureSparse(ctx context.Context, opts options, fx *fixture) (*sparse, error) {
	work := filepath.Join(opts.dir, "work")
	defer os.RemoveAll(work)
	small, huge := filepath.Join(work, "small.raw"), filepath.Join(work, "huge.raw")
	if err := os.MkdirAll(work, 0o755); err != nil {
		return nil, err
	}
	if err := spread(fx.disk("day1"), small, sparseData); err != nil {
		return nil, err
	}
	if err := spread(fx.disk("day1"), huge, sparseSize); err != nil {
		return nil, err
	}
	res := &sparse{}
	for _, run := range []struct {
		disk string
		cost *cost
	}{{small, &res.Small}, {huge, &res.Huge}} {
		c := hikae(opts.hikae, manner{name: nameHikae})
		p := place{dir: filepath.Join(work, "repo-"+filepath.Base(run.disk))}
		if err := prepare(ctx, c, p); err != nil {
			return nil, err
		}
		if err := giveDisk(run.disk, p.at("disk.raw")); err != nil {
			return nil, err
		}
		cmd, _ := c.step(p, stepFull)
		var err error
		if *run.cost, _, err = measure(ctx, cmd); err != nil {
			return nil, err
		}
		progress("%-16s %-15s wall %6.1f s  CPU %6.1f s  peak %s", nameHikae, filepath.Base(run.disk),
			run.cost.Wall, run.cost.CPU, size(run.cost.RSS))
	}
	return res, nil
}

// spread copies the first GiB of a disk's data into a file of the given length, in pieces at equal distances.
func spread(from, to string, length int64) error {
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := out.Truncate(length); err != nil {
		return err
	}
	const pieces = sparseData / sparsePiece
	n := int64(0)
	err = eachChunk(from, sparsePiece, func(p []byte, _ int64) error {
		if n == pieces || len(p) < sparsePiece {
			return nil
		}
		_, err := out.WriteAt(p, length/pieces*n)
		n++
		return err
	})
	if err != nil {
		return err
	}
	if n < pieces {
		return fmt.Errorf("%s has less than 1 GiB of data", from)
	}
	return out.Close()
}

// startup is how long a command takes on a repository with very many blocks.
type startup struct {
	Blocks  int  `json:"blocks"`
	Fill    cost `json:"fill"`
	Points  cost `json:"points"`
	Stats   cost `json:"stats"`
	Restore cost `json:"restore"` // of a disk of 1 MiB: all of it is starting
}

const startupBlock = 64 << 10

// measureStartup fills a repository with a disk of which every 64 KiB block is different.
func measureStartup(ctx context.Context, opts options) (*startup, error) {
	p := place{dir: filepath.Join(opts.dir, "work")}
	defer os.RemoveAll(p.dir)
	for _, dir := range []string{"cache", "state", "out"} {
		if err := os.MkdirAll(p.at(dir), 0o755); err != nil {
			return nil, err
		}
	}
	if err := distinctBlocks(p.at("many.raw"), opts.blocks); err != nil {
		return nil, err
	}
	tiny := noise(rand.New(rand.NewPCG(9, 9)), 1<<20)
	if err := os.WriteFile(p.at("tiny.raw"), tiny, 0o644); err != nil {
		return nil, err
	}
	program, err := filepath.Abs(opts.hikae)
	if err != nil {
		return nil, err
	}
	res := &startup{Blocks: opts.blocks}
	ignored := cost{}
	for _, run := range []struct {
		cost *cost
		args []string
	}{
		{&ignored, []string{"init", "repo", "--block-size", "64KiB"}},
		{&res.Fill, []string{"backup", "--repo", "repo", "--name", "many", "many.raw"}},
		{&ignored, []string{"backup", "--repo", "repo", "--name", "tiny", "tiny.raw"}},
		{&res.Points, []string{"points", "--repo", "repo"}},
		{&res.Stats, []string{"stats", "--repo", "repo"}},
		{&res.Restore, []string{"restore", "--repo", "repo", "tiny@latest", "--to", "out/tiny.raw"}},
	} {
		cmd := command{dir: p.dir, args: append([]string{program, "--json"}, run.args...), env: []string{
			"HIKAE_PASSWORD=" + password, "HIKAE_STATE_DIR=" + p.at("state"), "HIKAE_CACHE_DIR=" + p.at("cache")}}
		if *run.cost, _, err = measure(ctx, cmd); err != nil {
			return nil, err
		}
		progress("%-16s %-15s wall %6.1f s  CPU %6.1f s  peak %s", nameHikae, run.args[0]+" (many)",
			run.cost.Wall, run.cost.CPU, size(run.cost.RSS))
	}
	return res, nil
}

// distinctBlocks writes one page into each block, with the block's number in it; the rest of the block is a hole.
func distinctBlocks(name string, blocks int) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(int64(blocks) * startupBlock); err != nil {
		return err
	}
	page := make([]byte, fsBlock)
	for i := range blocks {
		binary.LittleEndian.PutUint64(page, uint64(i)+1)
		if _, err := f.WriteAt(page, int64(i)*startupBlock); err != nil {
			return err
		}
	}
	return f.Close()
}
