//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hikae/hikae/kvm/kvmtest"
	"github.com/hikae/hikae/kvm/qmp"
)

// machineOf starts a QEMU whose processor stands still, with one disk, so that nothing but the backup is at work.
func (b *kvmBench) machineOf(ctx context.Context, format, disk string) (mon string, stop func(), err error) {
	mon = b.at("qmp.sock")
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-S", "-M", "q35", "-nodefaults", "-display", "none", "-name", "bench",
		"-blockdev", "driver="+format+",node-name=disk0,discard=unmap,file.driver=file,file.filename="+disk,
		"-device", "virtio-blk-pci,drive=disk0,serial=disk0", "-qmp", "unix:"+mon+",server=on,wait=off")
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		cmd.Process.Kill()
		cmd.Wait()
		os.Remove(mon)
	}
	if err := appears(ctx, mon); err != nil {
		stop()
		return "", nil, err
	}
	return mon, stop, nil
}

// full backs up a running VM into an empty repository, by the defaults, which leave out swap and free space; the peer
// copies the same disk out of the same QEMU and compresses the copy.
func (b *kvmBench) full(ctx context.Context, swap bool) error {
	disk := b.at("full.raw")
	if err := reflink(ctx, b.disk, disk); err != nil {
		return err
	}
	defer os.Remove(disk)
	mon, stop, err := b.machineOf(ctx, "raw", disk)
	if err != nil {
		return err
	}
	defer stop()
	repo := b.at("fullrepo")
	defer os.RemoveAll(repo)
	if _, _, err := measure(ctx, b.ours("init", "--no-encryption", repo)); err != nil {
		return err
	}
	ours := func() (float64, int64, error) {
		cost, _, err := measure(ctx, b.ours("backup", "--repo", repo, "kvm://"+mon+"?scratch="+b.dir))
		if err != nil {
			return 0, 0, err
		}
		stored, err := folderSize(repo)
		return cost.Wall, stored, err
	}
	theirs := func() (float64, int64, error) { return b.copyOut(ctx, mon) }
	return b.both(barFull, swap, ours, theirs)
}

// reflink copies a disk, with its holes.
func reflink(ctx context.Context, from, to string) error {
	_, _, err := measure(ctx, command{args: []string{"cp", "--sparse=always", "--reflink=auto", from, to}})
	if err == nil {
		err = warm(to)
	}
	return err
}

// copyOut is the peer's method.
func (b *kvmBench) copyOut(ctx context.Context, monitor string) (float64, int64, error) {
	socket, copied := b.at("out.sock"), b.at("out.raw")
	defer os.Remove(copied)
	defer os.Remove(copied + ".zst")
	mon, err := qmp.Dial(ctx, monitor)
	if err != nil {
		return 0, 0, err
	}
	defer mon.Close()
	err = errors.Join(
		mon.Execute(ctx, "nbd-server-start", map[string]any{"addr": map[string]any{"type": "unix", "data": map[string]any{"path": socket}}}, nil),
		mon.Execute(ctx, "block-export-add", map[string]any{"type": "nbd", "id": "out", "node-name": "disk0", "name": "out"}, nil))
	if err != nil {
		return 0, 0, err
	}
	defer mon.Execute(ctx, "nbd-server-stop", nil, nil)
	total := 0.0
	for _, c := range []command{b.nbdcopy(nbdURI(socket, "out"), copied), {dir: b.dir, args: []string{"zstd", "-1", "-q", "-f", copied}}} {
		cost, _, err := measure(ctx, c)
		if err != nil {
			return 0, 0, err
		}
		total += cost.Wall
	}
	fi, err := os.Stat(copied + ".zst")
	if err != nil {
		return 0, 0, err
	}
	return total, fi.Size(), nil
}

// quiet is an increment of a VM in which nothing happens. There is no peer; a pair's other half stays empty.
func (b *kvmBench) quiet(ctx context.Context, _ bool) error {
	disk, repo := b.at("quiet.qcow2"), b.at("quietrepo")
	defer os.Remove(disk)
	defer os.RemoveAll(repo)
	for _, c := range []command{
		{dir: b.dir, args: []string{"qemu-img", "convert", "-f", "raw", "-O", "qcow2", b.disk, disk}},
		{dir: b.dir, args: []string{"qemu-img", "resize", "-q", disk, "64G"}},
		b.ours("init", "--no-encryption", repo),
	} {
		if _, _, err := measure(ctx, c); err != nil {
			return err
		}
	}
	mon, stop, err := b.machineOf(ctx, "qcow2", disk)
	if err != nil {
		return err
	}
	defer stop()
	backup := b.ours("backup", "--repo", repo, "kvm://"+mon+"?scratch="+b.dir)
	if _, _, err := measure(ctx, backup); err != nil {
		return err
	}
	cost, _, err := measure(ctx, backup)
	if err == nil {
		b.results[barQuiet] = append(b.results[barQuiet], pair{Ours: cost.Wall})
		progress("%-8.2f s  %s", cost.Wall, barQuiet)
	}
	return err
}

// boot starts the same guest from its raw disk, and from a point of it.
func (b *kvmBench) boot(ctx context.Context, swap bool) error {
	fixture, err := kvmtest.Build(ctx)
	if err != nil {
		return err
	}
	dir := b.at("boot")
	defer os.RemoveAll(dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	raw, repo := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "repo")
	if err := kvmtest.MakeExt4(ctx, raw, 256<<20); err != nil {
		return err
	}
	for _, c := range []command{b.ours("init", "--no-encryption", repo), b.ours("backup", "--repo", repo, "--name", "fx", "disk0="+raw)} {
		if _, _, err := measure(ctx, c); err != nil {
			return err
		}
	}
	line, err := commandOf(ctx, fixture, dir, raw)
	if err != nil {
		return err
	}
	return b.both(barBoot, swap, func() (float64, int64, error) {
		vm := filepath.Join(dir, "vm")
		defer os.RemoveAll(vm)
		args := []string{"kvm", "start", "--repo", repo, "fx@latest", "--to", vm, "--"}
		for _, word := range line {
			word = strings.ReplaceAll(word, "driver=raw,node-name=disk0", "driver=qcow2,node-name=disk0")
			args = append(args, strings.ReplaceAll(word, raw, "{disk:disk0}"))
		}
		return b.untilReady(ctx, dir, b.ours(args...))
	}, func() (float64, int64, error) { return b.untilReady(ctx, dir, command{args: line}) })
}

// commandOf is how the fixture starts a guest with this disk.
func commandOf(ctx context.Context, fixture *kvmtest.Fixture, dir, raw string) ([]string, error) {
	guest, err := fixture.Start(ctx, dir, []kvmtest.GuestDisk{{Path: raw, Format: "raw", ID: "vd0"}})
	if err != nil {
		return nil, err
	}
	defer guest.Kill()
	mon, err := qmp.Dial(ctx, guest.QMP())
	if err != nil {
		return nil, err
	}
	defer mon.Close()
	pid, _ := mon.PeerPID()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(int(pid)), "cmdline"))
	return strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00"), err
}

// untilReady is the time from the start of a command to the guest's last boot message. The guest is ended.
func (b *kvmBench) untilReady(ctx context.Context, dir string, c command) (float64, int64, error) {
	log := filepath.Join(dir, "serial.log")
	for _, name := range []string{"serial.log", "qmp.sock", "qga.sock"} {
		os.Remove(filepath.Join(dir, name))
	}
	cmd := exec.CommandContext(ctx, c.args[0], c.args[1:]...)
	cmd.Env = append(os.Environ(), c.env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, 0, err
	}
	defer cmd.Wait()
	defer endGuest(ctx, filepath.Join(dir, "qmp.sock"))
	for time.Since(begun) < 2*time.Minute {
		text, _ := os.ReadFile(log)
		if bytes.Contains(text, []byte("FX-READY")) {
			return time.Since(begun).Seconds(), 0, nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return 0, 0, fmt.Errorf("no boot within 2 minutes: %s", stderr.String())
}

func endGuest(ctx context.Context, monitor string) {
	if mon, err := qmp.Dial(ctx, monitor); err == nil {
		mon.Execute(ctx, "quit", nil, nil)
		mon.Close()
	}
}

const kvmHeading = "## Virtual machines and NBD"

// kvmSection is the part of the page.
func (b *kvmBench) section(now time.Time) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s\n\nWritten by `make bench BENCH_FLAGS=-only=kvm` on %s; each figure is the median over rounds of pairs, run side by side.\nThe disk is day1 below; the VM stands still meanwhile, so that nothing but the backup is at work.\n\n", kvmHeading, now.Format("2006-01-02"))
	s.WriteString("| what | aim | measured | ours s | theirs s | rounds | |\n|---|---|---|--:|--:|--:|---|\n")
	for _, bar := range kvmBars() {
		list := b.results[bar.name]
		if len(list) == 0 {
			fmt.Fprintf(&s, "| %s | %s | not measured | | | 0 | |\n", bar.name, bar.aim)
			continue
		}
		got, met := bar.judge(list)
		verdict := "**short**"
		if met {
			verdict = "met"
		}
		fmt.Fprintf(&s, "| %s | %s | %s | %.2f | %.2f | %d | %s |\n", bar.name, bar.aim, got, middle(list, func(p pair) float64 { return p.Ours }),
			middle(list, func(p pair) float64 { return p.Theirs }), len(list), verdict)
	}
	for _, f := range b.failures {
		fmt.Fprintf(&s, "\n- failed: %s", f)
	}
	return strings.TrimRight(s.String(), "\n") + "\n"
}

func middle(list []pair, f func(pair) float64) float64 {
	var values []float64
	for _, p := range list {
		values = append(values, f(p))
	}
	return median(values)
}

// kvmBar is one aim.
type kvmBar struct {
	name, aim string
	judge     func([]pair) (got string, met bool)
}

func kvmBars() []kvmBar {
	speed := func(least float64) func([]pair) (string, bool) {
		return func(list []pair) (string, bool) {
			r := middle(list, func(p pair) float64 { return p.Theirs / p.Ours })
			return fmt.Sprintf("%.2f ×", r), r >= least
		}
	}
	return []kvmBar{
		{barServer, "≥ 0.70 × its speed", speed(0.7)}, {barBorg, "≥ 2 × its speed", speed(2)}, {barRestic, "≥ 2 × its speed", speed(2)},
		{barClient, "≥ 0.90 × its speed", speed(0.9)},
		{barFull, "≤ 0.8 × its time and ≤ its size", func(list []pair) (string, bool) {
			r := middle(list, func(p pair) float64 { return p.Ours / p.Theirs })
			z := middle(list, func(p pair) float64 { return float64(p.OurBytes) / float64(p.TheirBytes) })
			return fmt.Sprintf("%.2f × its time, %.2f × its size", r, z), r <= 0.8 && z <= 1
		}},
		{barQuiet, "≤ 5 s", func(list []pair) (string, bool) {
			s := middle(list, func(p pair) float64 { return p.Ours })
			return fmt.Sprintf("%.2f s", s), s <= 5
		}},
		{barBoot, "≤ 1.3 × its time", func(list []pair) (string, bool) {
			r := middle(list, func(p pair) float64 { return p.Ours / p.Theirs })
			return fmt.Sprintf("%.2f ×", r), r <= 1.3
		}},
	}
}

// withSection puts the section into a page, in the place of the one that is there, else before the last heading.
func withSection(page, section string) string {
	heading, _, _ := strings.Cut(section, "\n")
	before, after := page, ""
	if at := strings.Index(page, heading+"\n"); at >= 0 {
		before = page[:at]
		if next := strings.Index(page[at+2:], "\n## "); next >= 0 {
			after = page[at+2+next+1:]
		}
	} else if at := strings.Index(page, "## Input and machine"); at >= 0 {
		before, after = page[:at], page[at:]
	}
	return strings.Join(slices.DeleteFunc([]string{strings.TrimRight(before, "\n") + "\n", section, after}, func(s string) bool { return s == "" }), "\n")
}

// sectionOf is the section of a page; empty where it has none.
func sectionOf(page, heading string) string {
	at := strings.Index(page, heading+"\n")
	if at < 0 {
		return ""
	}
	section := page[at:]
	if next := strings.Index(section[2:], "\n## "); next >= 0 {
		section = section[:2+next+1]
	}
	return strings.TrimRight(section, "\n") + "\n"
}
