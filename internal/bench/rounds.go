//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// record is all that a run measured; the page is made from it and from nothing else.
type record struct {
	Time     time.Time         `json:"time"`
	CPUs     int               `json:"cpus"`
	CPU      string            `json:"cpu"`
	Memory   int64             `json:"memory"`
	Versions map[string]string `json:"versions"`
	Settings map[string]string `json:"settings"`
	Fixture  *fixture          `json:"fixture"`
	Rounds   []round           `json:"rounds"`
	Limits   [][]part          `json:"limits"` // one list a round
	Sparse   *sparse           `json:"sparse,omitempty"`
	Startup  *startup          `json:"startup,omitempty"`
	Busy     *busy             `json:"busy,omitempty"`
	Load     []string          `json:"load"` // of the machine before each round: one, five, fifteen minutes
	Failures []string          `json:"failures"`
}

// round is what one round measured, by contestant.
type round map[string]*score

// score is one contestant's round.
type score struct {
	Steps    map[string]cost    `json:"steps"`
	Sizes    map[string]int64   `json:"sizes"`             // repository, in bytes, after each step
	Read     map[string]int64   `json:"read"`              // bytes read from the source, as the program itself reports them
	Skipped  map[string]skipped `json:"skipped,omitempty"` // bytes left out, by step
	Restored int64              `json:"restored"`          // bytes of the restored disk that are not holes
	Unique   int64              `json:"unique"`            // plain bytes that verify had to look at, as hikae itself reports them
}

func measureAll(ctx context.Context, opts options, fx *fixture) (*record, error) {
	res := &record{Time: time.Now().UTC().Truncate(time.Second), CPUs: runtime.NumCPU(), CPU: cpuName(),
		Memory: memorySize(), Versions: versions(ctx, opts), Settings: map[string]string{}, Fixture: fx}
	all := contestants(opts)
	for _, c := range all {
		res.Settings[c.name] = c.settings
	}
	for n := range opts.rounds {
		progress("round %d of %d", n+1, opts.rounds)
		res.Load = append(res.Load, loadAverage())
		r, err := runRound(ctx, opts, fx, all, n, res)
		if err != nil {
			return nil, err
		}
		res.Rounds = append(res.Rounds, r)
		limit, err := measureLimit(fx.disk("day1"))
		if err != nil {
			return nil, err
		}
		res.Limits = append(res.Limits, limit)
	}
	if opts.peers {
		return res, nil
	}
	var err error
	if res.Sparse, err = measureSparse(ctx, opts, fx); err != nil {
		res.fail("sparse disk", err)
	}
	if res.Busy, err = measureBusy(ctx, opts, fx); err != nil {
		res.fail("busy disk", err)
	}
	if opts.blocks > 0 {
		if res.Startup, err = measureStartup(ctx, opts); err != nil {
			res.fail("start-up", err)
		}
	}
	return res, ctx.Err()
}

// fail notes a step that did not work. The run goes on: the page says what failed.
func (r *record) fail(what string, err error) {
	progress("FAILED %s: %v", what, err)
	first, _, _ := strings.Cut(err.Error(), "\n")
	r.Failures = append(r.Failures, what+": "+first)
}

// runRound runs every step by every contestant in turn, beginning with another one each round. Contestants of one
// step see the machine in the same minute.
func runRound(ctx context.Context, opts options, fx *fixture, all []contestant, n int, res *record) (round, error) {
	work := filepath.Join(opts.dir, "work")
	if err := os.RemoveAll(work); err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	r, failed := round{}, map[string]bool{}
	note := func(c contestant, step string, err error) {
		failed[c.name] = true
		res.fail(fmt.Sprintf("round %d, %s, %s", n+1, c.name, step), err)
	}
	places := map[string]place{}
	for _, c := range all {
		places[c.name] = place{filepath.Join(work, strings.ReplaceAll(c.name, " ", "")), fx.changes()}
		r[c.name] = &score{Steps: map[string]cost{}, Sizes: map[string]int64{}, Read: map[string]int64{}, Skipped: map[string]skipped{}}
		if err := prepare(ctx, c, places[c.name]); err != nil {
			note(c, "init", err)
		}
	}
	for _, step := range steps {
		for i := range all {
			c := all[(i+n)%len(all)]
			if failed[c.name] {
				continue
			}
			if err := runStep(ctx, c, places[c.name], step, fx, r[c.name]); err != nil {
				note(c, step, err)
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
		}
	}
	return r, nil
}

func prepare(ctx context.Context, c contestant, p place) error {
	for _, dir := range []string{"repo", "cache", "state", "out"} {
		if err := os.MkdirAll(p.at(dir), 0o755); err != nil {
			return err
		}
	}
	for _, cmd := range c.init(p) {
		if _, _, err := measure(ctx, cmd); err != nil {
			return err
		}
	}
	return nil
}

// runStep gives a contestant its disk, measures one command and looks at what it left.
func runStep(ctx context.Context, c contestant, p place, step string, fx *fixture, s *score) error {
	cmd, ok := c.step(p, step)
	if !ok {
		return nil
	}
	if disk, ok := diskOf[step]; ok {
		if err := giveDisk(fx.disk(disk), p.at("disk.raw")); err != nil {
			return err
		}
	}
	unix.Sync() // what an earlier command left to be written is not this one's
	spent, out, err := measure(ctx, cmd)
	if err != nil {
		return err
	}
	s.Steps[step], s.Read[step] = spent, reportedRead(out)
	if c.lossy {
		s.Skipped[step] = reportedSkipped(out)
	}
	if s.Sizes[step], err = folderSize(p.at("repo")); err != nil {
		return err
	}
	progress("%-16s %-15s wall %6.1f s  CPU %6.1f s  peak %s  repository %s", c.name, step, spent.Wall, spent.CPU,
		size(spent.RSS), size(s.Sizes[step]))
	switch {
	case step == stepRestore:
		return s.checkRestored(ctx, c.restored(p), fx.disk(diskOf[stepNext]), c.lossy)
	case step == stepVerify && c.stats != nil:
		return s.askUnique(ctx, c.stats(p))
	}
	return nil
}

func (s *score) askUnique(ctx context.Context, stats command) error {
	_, out, err := measure(ctx, stats)
	if err != nil {
		return err
	}
	var doc struct {
		Unique int64 `json:"unique"`
	}
	err = json.Unmarshal(out, &doc)
	s.Unique = doc.Unique
	return err
}

// giveDisk puts the disk of a step where the contestant looks for it, and into the page cache.
func giveDisk(disk, at string) error {
	if err := os.Remove(at); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := os.Link(disk, at); err != nil {
		return err
	}
	return warm(at)
}

// checkRestored compares the restored disk with the original: a program that restores something else has no speed.
func (s *score) checkRestored(ctx context.Context, got, want string, lossy bool) error {
	defer os.Remove(got)
	diff, err := differences(want, got, fsBlock)
	if err != nil {
		return err
	}
	if lossy {
		if err := soundWithout(ctx, got, diff); err != nil {
			return err
		}
	} else if len(diff) > 0 {
		return fmt.Errorf("the restored disk differs in %d ranges, the first at %d", len(diff), diff[0].Start)
	}
	s.Restored, err = dataBytes(got)
	return err
}

// reportedRead takes the bytes that hikae says it read from its disks; 0 for other output.
func reportedRead(out []byte) (n int64) {
	var doc struct {
		Disks []struct {
			Read int64 `json:"read"`
		} `json:"disks"`
	}
	if json.Unmarshal(out, &doc) != nil {
		return 0
	}
	for _, d := range doc.Disks {
		n += d.Read
	}
	return n
}

func cpuName() string {
	data, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(data)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.TrimSpace(strings.TrimLeft(name, "\t :"))
		}
	}
	return runtime.GOARCH
}

func loadAverage() string {
	data, _ := os.ReadFile("/proc/loadavg")
	fields := strings.Fields(string(data))
	return strings.Join(fields[:min(3, len(fields))], " ")
}

func memorySize() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit)
}
