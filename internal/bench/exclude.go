//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// skipped is what hikae says it left out of one backup, by reason, and how long it took to find out.
type skipped struct {
	Bytes    map[string]int64 `json:"bytes"`
	Analysis float64          `json:"analysis"` // seconds
}

func (s skipped) dropped() int64 { return s.Bytes["free"] + s.Bytes["swap"] + s.Bytes["excluded"] }

func reportedSkipped(out []byte) skipped {
	var doc struct {
		Disks []struct {
			Skipped map[string]int64 `json:"skipped"`
		} `json:"disks"`
		Phases map[string]float64 `json:"phases"`
	}
	s := skipped{Bytes: map[string]int64{}}
	if json.Unmarshal(out, &doc) != nil {
		return s
	}
	for _, d := range doc.Disks {
		for reason, n := range d.Skipped {
			s.Bytes[reason] += n
		}
	}
	s.Analysis = doc.Phases["exclude"]
	return s
}

// soundWithout holds a disk from which something was left out against what that promises: where it differs from the
// original it reads as zero, and its file system has no error.
func soundWithout(ctx context.Context, disk string, diff []byteRange) error {
	f, err := os.Open(disk)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	for _, r := range diff {
		for at := r.Start; at < r.Start+r.Length; at += int64(len(buf)) {
			p := buf[:min(int64(len(buf)), r.Start+r.Length-at)]
			if _, err := f.ReadAt(p, at); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			for i, b := range p {
				if b != 0 {
					return fmt.Errorf("the restored disk differs at %d, and is not zero there", at+int64(i))
				}
			}
		}
	}
	return tool(ctx, "e2fsck", "-f", "-n", (&ext4{disk: disk}).device())
}

// busy is the first disk in use: mounted, and written to while it was copied from underneath.
type busy struct {
	Clean  skipped `json:"clean"`
	InUse  skipped `json:"inUse"`
	Full   cost    `json:"full"`   // of the disk in use
	Whole  cost    `json:"whole"`  // restore of the disk
	Single cost    `json:"single"` // restore of one file of 1 GiB from it
}

const bigFile = 1 << 30

func measureBusy(ctx context.Context, opts options, fx *fixture) (*busy, error) {
	work := filepath.Join(opts.dir, "work")
	defer os.RemoveAll(work)
	if err := os.MkdirAll(work, 0o755); err != nil {
		return nil, err
	}
	inUse, atRest := filepath.Join(work, "busy.raw"), filepath.Join(work, "rest.raw")
	if err := useDisk(ctx, fx.disk("day1"), inUse, atRest); err != nil {
		return nil, err
	}
	res := &busy{}
	if err := mustReplay(ctx, inUse); err != nil {
		return nil, err
	}
	c := hikae(opts.hikae, manner{name: nameLean, lean: true})
	p := place{dir: filepath.Join(work, "repo-busy")}
	if err := prepare(ctx, c, p); err != nil {
		return nil, err
	}
	for _, run := range []struct {
		disk string
		into *skipped
		cost *cost
	}{{atRest, &res.Clean, &cost{}}, {inUse, &res.InUse, &res.Full}} {
		if err := giveDisk(run.disk, p.at("disk.raw")); err != nil {
			return nil, err
		}
		cmd, _ := c.step(p, stepOther) // a machine of its own
		spent, out, err := measure(ctx, cmd)
		if err != nil {
			return nil, err
		}
		*run.cost = spent
		*run.into = reportedSkipped(out)
		progress("%-16s %-15s left out %s, found in %.2f s", nameLean, filepath.Base(run.disk), size(run.into.dropped()), run.into.Analysis)
	}
	return res, res.restores(ctx, c, p, inUse)
}

// runBusy is -only=busy.
func runBusy(ctx context.Context, opts options, fx *fixture) error {
	res := &record{Fixture: fx}
	var err error
	if res.Busy, err = measureBusy(ctx, opts, fx); err != nil {
		return err
	}
	for _, b := range []bar{res.busyBar(), res.analysisBar(), res.singleFileBar()} {
		fmt.Fprintf(os.Stderr, "%s: %s: %s: %s\n", b.what, b.want, b.got, b.verdict())
	}
	return nil
}

// restores times the whole disk and one large file of it, in turns.
func (b *busy) restores(ctx context.Context, c contestant, p place, disk string) error {
	whole, _ := c.step(p, stepRestore)
	for i, arg := range whole.args {
		if arg == "web1@latest" {
			whole.args[i] = "db7@latest"
		}
	}
	single := whole
	single.args = append([]string{}, whole.args...)
	for i, arg := range single.args {
		if arg == "--to" {
			single.args[i+1] = "out/files"
		}
	}
	single.args = append(single.args, "--file", "/big.bin")
	var wholes, singles []cost
	for range 3 {
		for _, run := range []struct {
			cmd  command
			list *[]cost
		}{{whole, &wholes}, {single, &singles}} {
			os.RemoveAll(p.at("out"))
			if err := os.Mkdir(p.at("out"), 0o755); err != nil {
				return err
			}
			spent, _, err := measure(ctx, run.cmd)
			if err != nil {
				return err
			}
			*run.list = append(*run.list, spent)
		}
	}
	info, err := os.Stat(p.at("out/files/big.bin"))
	if err != nil || info.Size() != bigFile {
		return fmt.Errorf("the single file was not restored: %w", err)
	}
	b.Whole, b.Single = typicalCost(wholes), typicalCost(singles)
	return nil
}

// typicalCost is the run with the median wall time.
func typicalCost(list []cost) cost {
	var walls []float64
	for _, c := range list {
		walls = append(walls, c.Wall)
	}
	m := median(walls)
	for _, c := range list {
		if c.Wall == m {
			return c
		}
	}
	return list[0]
}

// useDisk makes a copy of a disk, mounts it by the machine's own kernel, works in it, and copies it from underneath while
// it is mounted and written to, as a snapshot without a freeze would. live is the disk after it was unmounted.
func useDisk(ctx context.Context, from, to, live string) (err error) {
	if err := tool(ctx, "cp", "--sparse=always", from, live); err != nil {
		return err
	}
	at, err := os.MkdirTemp("", "hikae-bench-")
	if err != nil {
		return err
	}
	defer os.Remove(at)
	if err := tool(ctx, "mount", "-o", "loop,offset="+strconv.Itoa(partitionStart), live, at); err != nil {
		return err
	}
	defer func() {
		if stop := tool(context.WithoutCancel(ctx), "umount", at); err == nil {
			err = stop
		}
	}()
	rnd := rand.New(rand.NewPCG(11, 11))
	if err := writeBig(filepath.Join(at, "big.bin"), rnd); err != nil {
		return err
	}
	if err := tool(ctx, "sync", "--file-system", at); err != nil {
		return err
	}
	stop := make(chan struct{})
	done := make(chan error, 1)
	go func() { done <- churn(filepath.Join(at, "home", "churn"), rnd, stop) }()
	time.Sleep(3 * time.Second)
	err = tool(ctx, "cp", "--sparse=always", live, to)
	close(stop)
	return errors.Join(err, <-done)
}

// writeBig writes a file of 1 GiB that compresses to half.
func writeBig(name string, rnd *rand.Rand) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	piece := make([]byte, 1<<20)
	for range bigFile / len(piece) {
		copy(piece, noise(rnd, len(piece)/2))
		if _, err := f.Write(piece); err != nil {
			return err
		}
	}
	return f.Close()
}

// churn makes, fills and removes files, each one made durable, so that the log is always in use.
func churn(dir string, rnd *rand.Rand, stop <-chan struct{}) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for n := 0; ; n++ {
		select {
		case <-stop:
			return nil
		default:
		}
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("f%04d", rnd.IntN(2000))))
		if err != nil {
			return err
		}
		_, err = f.Write(noise(rnd, 1+rnd.IntN(64<<10)))
		if n%10 == 0 {
			err = errors.Join(err, f.Sync())
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		if n%3 == 0 {
			os.Remove(filepath.Join(dir, fmt.Sprintf("f%04d", rnd.IntN(2000))))
		}
	}
}

// mustReplay holds that a mount would replay the log of an ext4 file system: without that the disk was not in use.
func mustReplay(ctx context.Context, disk string) error {
	out, err := exec.CommandContext(ctx, "dumpe2fs", "-h", (&ext4{disk: disk}).device()).Output()
	if err != nil {
		return fmt.Errorf("dumpe2fs: %w", err)
	}
	if !strings.Contains(string(out), "needs_recovery") {
		return errors.New("the copy of the mounted disk has nothing to replay: it is no test")
	}
	return nil
}

// leanSizeBar: what is left out must show in the repository.
func (r *record) leanSizeBar() bar {
	b := bar{what: "repository after the three disks, swap and free space left out", want: "≤ 0.85 × the smallest peer"}
	ours, restic, borg := r.repository(nameLean, stepOther), r.repository(nameRestic, stepOther), r.repository(nameBorg, stepOther)
	if ours == 0 || restic == 0 || borg == 0 {
		return b
	}
	ratio := float64(ours) / float64(min(restic, borg))
	b.known, b.met, b.got = true, ratio <= 0.85, fmt.Sprintf("%.2f × (%s against %s)", ratio, size(ours), size(min(restic, borg)))
	return b
}

func (r *record) busyBar() bar {
	b := bar{what: "left out of the same disk mounted and busy", want: "≥ 90 % of what is left out of it at rest"}
	if r.Busy == nil || r.Busy.Clean.dropped() == 0 {
		return b
	}
	ratio := float64(r.Busy.InUse.dropped()) / float64(r.Busy.Clean.dropped())
	b.known, b.met = true, ratio >= 0.9
	b.got = fmt.Sprintf("%.0f %% (%s against %s)", 100*ratio, size(r.Busy.InUse.dropped()), size(r.Busy.Clean.dropped()))
	return b
}

func (r *record) analysisBar() bar {
	b := bar{what: "analysis of an 8 GiB disk", want: "≤ 300 ms"}
	if r.Busy == nil || r.Busy.Clean.Analysis == 0 {
		return b
	}
	most := max(r.Busy.Clean.Analysis, r.Busy.InUse.Analysis)
	b.known, b.met = true, most <= 0.3
	b.got = fmt.Sprintf("%.0f ms at rest, %.0f ms busy", 1000*r.Busy.Clean.Analysis, 1000*r.Busy.InUse.Analysis)
	return b
}

// singleFileBar compares bytes a second; of the whole disk those count that are not holes.
func (r *record) singleFileBar() bar {
	b := bar{what: "restore of a single file of 1 GiB", want: "≥ 60 % of the whole disk's speed"}
	if r.Busy == nil || r.Busy.Single.Wall == 0 {
		return b
	}
	data := float64(r.Fixture.Used["day1"]+bigFile) - float64(r.Busy.InUse.dropped())
	whole, single := data/r.Busy.Whole.Wall, bigFile/r.Busy.Single.Wall
	b.known, b.met = true, single >= 0.6*whole
	b.got = fmt.Sprintf("%.0f %% (%.0f against %.0f MB/s)", 100*single/whole, single/1e6, whole/1e6)
	return b
}
