package kvm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/kvm/qmp"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/dirstore"
)

// startBench is a repository with one point of two disks, and a QEMU whose processor stands still: what a guest would
// write is written by QEMU's own qemu-io.
type startBench struct {
	t       *testing.T
	dir     string
	repo    *repo.Repository
	point   pipe.PointInfo
	content map[string][]byte // of the disks, with what was written since
}

// startCommand is a machine without devices: a device would let nobody else write. The monitor is filled in.
var startCommand = []string{"qemu-system-x86_64", "-S", "-M", "none", "-nodefaults", "-display", "none",
	"-blockdev", "driver=qcow2,node-name=disk-root,discard=unmap,file.driver=file,file.filename={disk:root}",
	"-blockdev", "driver=qcow2,node-name=disk-data,discard=unmap,file.driver=file,file.filename={disk:data}"}

const startSectors = 512 // of the second disk, which ends in the middle of a cluster

func newStartBench(t *testing.T) *startBench {
	t.Helper()
	for _, name := range []string{"qemu-system-x86_64", "qemu-img"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skip(name + " is not installed")
		}
	}
	dir, err := os.MkdirTemp("", "start") // short, for sockets
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	b := &startBench{t: t, dir: dir, content: map[string][]byte{
		"root": append(noise(1, 12<<20), make([]byte, 20<<20)...),
		"data": append(make([]byte, 3<<20), noise(2, 2<<20+33*startSectors)...),
	}}
	copy(b.content["root"][24<<20:], noise(3, 5<<20+4096))
	st, err := dirstore.Init(filepath.Join(dir, "repo"))
	require.NoError(t, err)
	b.repo, err = repo.Init(t.Context(), st, nil, &repo.InitOptions{NoEncryption: true}, &repo.OpenOptions{StateDir: filepath.Join(dir, "state")})
	require.NoError(t, err)
	t.Cleanup(func() { b.repo.Close() })
	b.store()
	return b
}

func noise(seed uint64, n int) []byte {
	p := make([]byte, n)
	rnd := rand.New(rand.NewPCG(seed, seed))
	for i := 0; i+8 <= n; i += 8 {
		v := rnd.Uint64()
		for k := range 8 {
			p[i+k] = byte(v >> (8 * k))
		}
	}
	return p
}

func (b *startBench) store() {
	b.t.Helper()
	w, err := b.repo.Begin(b.t.Context(), "web1", nil)
	require.NoError(b.t, err)
	defer w.Close()
	for _, key := range []string{"root", "data"} {
		img := pipe.FromReaderAt(bytes.NewReader(b.content[key]), int64(len(b.content[key])))
		target, err := w.Disk(b.t.Context(), key, img.Size())
		require.NoError(b.t, err)
		_, err = pipe.Copy(b.t.Context(), target, img, nil)
		require.NoError(b.t, err)
		require.NoError(b.t, target.Commit(b.t.Context()))
	}
	id, err := w.Commit(b.t.Context(), nil)
	require.NoError(b.t, err)
	for p, err := range b.repo.Points(b.t.Context(), "web1") {
		require.NoError(b.t, err)
		if p.ID == id {
			b.point = p
		}
	}
}

func (b *startBench) folder() string { return filepath.Join(b.dir, "vm") }

// monitor does one thing at the VM's monitor.
func (b *startBench) monitor(do func(ctx context.Context, mon *qmp.Conn)) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 20*time.Second)
	defer cancel()
	for {
		mon, err := qmp.Dial(ctx, filepath.Join(b.folder(), "qmp.sock"))
		if gone(err) {
			time.Sleep(20 * time.Millisecond)
			require.NoError(b.t, ctx.Err())
			continue
		}
		require.NoError(b.t, err)
		defer mon.Close()
		do(ctx, mon)
		return
	}
}

// write does what a guest would do.
func (b *startBench) write(key string, value byte, off, n int) {
	b.t.Helper()
	copy(b.content[key][off:], bytes.Repeat([]byte{value}, n))
	b.io(key, fmt.Sprintf("write -P %d %d %d", value, off, n))
}

func (b *startBench) io(key, command string) {
	b.t.Helper()
	b.monitor(func(ctx context.Context, mon *qmp.Conn) {
		var said string
		require.NoError(b.t, mon.Execute(ctx, "human-monitor-command", map[string]any{
			"command-line": fmt.Sprintf("qemu-io disk-%s \"%s\"", key, command)}, &said))
		require.Empty(b.t, said)
	})
}

// killVM ends QEMU as a power cut of its host would, and waits for it.
func (b *startBench) killVM() {
	b.t.Helper()
	require.NoError(b.t, b.process().Kill())
	require.Eventually(b.t, func() bool {
		mon, err := qmp.Dial(b.t.Context(), filepath.Join(b.folder(), "qmp.sock"))
		if err == nil {
			mon.Close()
		}
		return gone(err)
	}, 10*time.Second, 20*time.Millisecond)
}

func (b *startBench) process() (p *os.Process) {
	b.t.Helper()
	b.monitor(func(_ context.Context, mon *qmp.Conn) {
		pid, ok := mon.PeerPID()
		require.True(b.t, ok)
		var err error
		p, err = os.FindProcess(int(pid))
		require.NoError(b.t, err)
	})
	return p
}

// check holds that the disks stand alone and hold what they must, that nothing but them and what the VM made is in the
// folder, and that QEMU has no job and no export's node.
func (b *startBench) check() {
	b.t.Helper()
	b.monitor(func(ctx context.Context, mon *qmp.Conn) {
		var jobs []qmp.Job
		require.NoError(b.t, mon.Execute(ctx, "query-jobs", nil, &jobs))
		require.Empty(b.t, jobs)
		nodes, err := takeNodes(ctx, mon)
		require.NoError(b.t, err)
		for name, n := range nodes {
			require.NotEqual(b.t, "nbd", n.Driver, name)
		}
	})
	b.killVM() // what the images hold without QEMU's memory
	b.checkFiles()
}

func (b *startBench) checkFiles() {
	b.t.Helper()
	for key, want := range b.content {
		path := filepath.Join(b.folder(), key+".qcow2")
		backing, err := backingOf(path)
		require.NoError(b.t, err)
		require.Empty(b.t, backing)
		raw := filepath.Join(b.dir, key+".raw")
		b.command("qemu-img", "check", "-q", path)
		b.command("qemu-img", "convert", "-O", "raw", path, raw)
		got, err := os.ReadFile(raw)
		require.NoError(b.t, err)
		require.Equal(b.t, len(want), len(got))
		for i := range want {
			if want[i] != got[i] {
				require.Fail(b.t, "content", "disk %s at %d: %d, not %d", key, i, got[i], want[i])
			}
		}
	}
	entries, err := os.ReadDir(b.folder())
	require.NoError(b.t, err)
	for _, e := range entries {
		require.NotContains(b.t, e.Name(), "hikae")
		require.NotContains(b.t, e.Name(), "nbd")
	}
}

func (b *startBench) command(name string, args ...string) string {
	b.t.Helper()
	out, err := exec.CommandContext(b.t.Context(), name, args...).CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && name == "qemu-img" && args[0] == "check" && exit.ExitCode() == 3 {
		return string(out) // leaked clusters after a kill cost room, and nothing else
	}
	require.NoError(b.t, err, "%s %v: %s", name, args, out)
	return string(out)
}

func (b *startBench) options() *StartOptions {
	return &StartOptions{Command: startCommand, Warn: func(text string) { b.t.Log(text) }}
}

func within20(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// half is a StartOptions.Progress that ends a context in the middle of the copy of a disk.
func half(key string, cancel func()) func(StartProgress) {
	return func(p StartProgress) {
		if p.Key == key && p.Done > 0 && p.Done < p.Total {
			cancel()
		}
	}
}

// The whole story without a fault: the guest writes before, and nothing needs the point afterwards.
func TestStart(t *testing.T) {
	t.Parallel()
	b := newStartBench(t)
	journal, err := hikae.OpenFileJournal(filepath.Join(b.dir, "journal"))
	require.NoError(t, err)
	defer journal.Close()
	opts := b.options()
	opts.Journal = journal
	seen := map[string]int64{}
	opts.Progress = func(p StartProgress) {
		require.LessOrEqual(t, p.Done, p.Total)
		seen[p.Key] = p.Done
	}
	s, err := Start(t.Context(), b.repo, b.point, b.folder(), opts)
	require.NoError(t, err)
	for _, d := range s.Disks() {
		b.command("qemu-img", "info", "-U", d.Path)
		backing, err := backingOf(d.Path)
		require.NoError(t, err)
		require.Contains(t, backing, b.point.ID)
	}
	b.write("root", 7, 1<<20+512, 100_000)
	b.write("root", 8, 20<<20, 1<<20)
	b.write("data", 9, len(b.content["data"])-4096, 4096)
	require.NoError(t, s.Finish(within20(t)))
	require.NoError(t, s.Close())
	require.Equal(t, map[string]int64{"root": b.point.Disks[0].Size, "data": b.point.Disks[1].Size}, seen)
	b.write("data", 3, 0, 65536)
	b.io("data", "flush")
	b.check()
	_, err = Resume(t.Context(), b.repo, b.folder(), b.options())
	require.ErrorIs(t, err, fs.ErrNotExist, "there is nothing to go on with")
	_, err = Start(t.Context(), b.repo, b.point, b.folder(), b.options())
	require.ErrorIs(t, err, fs.ErrExist, "disks that hold a VM are never written over")
	for e, err := range journal.Pending(t.Context()) {
		require.NoError(t, err)
		require.Fail(t, "an effect was left", "%v", e)
	}
}

// Interrupted in the middle, in good order: the VM runs on, and Resume finds it.
func TestStartDetached(t *testing.T) {
	t.Parallel()
	b := newStartBench(t)
	opts := b.options()
	opts.Limit = 4 << 20
	ctx, cancel := context.WithCancel(t.Context())
	opts.Progress = half("root", cancel)
	s, err := Start(t.Context(), b.repo, b.point, b.folder(), opts)
	require.NoError(t, err)
	require.ErrorIs(t, s.Finish(ctx), context.Canceled)
	var busy *hikae.BusyError
	_, err = Resume(t.Context(), b.repo, b.folder(), b.options())
	require.ErrorAs(t, err, &busy, "somebody serves the disks")
	require.NoError(t, s.Close())

	var started *StartedError
	_, err = Start(t.Context(), b.repo, b.point, b.folder(), b.options())
	require.ErrorAs(t, err, &started)
	require.Equal(t, b.point.ID, started.Point)
	b.monitor(func(ctx context.Context, mon *qmp.Conn) {
		job, err := findJob(ctx, mon, "hikae-copy-0")
		require.NoError(t, err)
		require.Nil(t, job)
	})
	s, err = Resume(t.Context(), b.repo, b.folder(), b.options())
	require.NoError(t, err)
	b.write("root", 5, 2<<20, 4096)
	require.NoError(t, s.Finish(within20(t)))
	require.NoError(t, s.Close())
	b.io("root", "flush")
	b.check()
}

// QEMU is killed in the middle: the overlay holds what was flushed, and is never taken for whole.
func TestStartVMKilled(t *testing.T) {
	t.Parallel()
	b := newStartBench(t)
	opts := b.options()
	opts.Limit = 4 << 20
	var vm *os.Process
	opts.Progress = half("root", func() { vm.Kill() })
	s, err := Start(t.Context(), b.repo, b.point, b.folder(), opts)
	require.NoError(t, err)
	vm = b.process()
	b.write("root", 6, 10<<20, 300_000)
	b.write("data", 6, 100_000, 300_000)
	b.io("root", "flush")
	b.io("data", "flush")
	require.ErrorIs(t, s.Finish(within20(t)), ErrVMEnded)
	require.NoError(t, s.Close())
	backing, err := backingOf(s.Disks()[0].Path)
	require.NoError(t, err)
	require.NotEmpty(t, backing)
	require.Error(t, exec.Command("qemu-img", "compare", s.Disks()[0].Path, s.Disks()[0].Path).Run(), "without its export it cannot be opened")

	s, err = Resume(t.Context(), b.repo, b.folder(), &StartOptions{})
	require.NoError(t, err)
	require.NoError(t, s.Finish(within20(t)))
	require.NoError(t, s.Close())
	b.check()
}

const startVictimEnv = "HIKAE_START_VICTIM"

type startVictim struct {
	Repo, State, Folder string
	Limit               int64
}

// TestStartVictim is no test of its own: it is the process that TestStartKilled kills.
func TestStartVictim(t *testing.T) {
	text := os.Getenv(startVictimEnv)
	if text == "" {
		t.Skip("the process that TestStartKilled kills")
	}
	var v startVictim
	require.NoError(t, json.Unmarshal([]byte(text), &v))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	st, err := dirstore.Open(v.Repo)
	require.NoError(t, err)
	r, err := repo.Open(ctx, st, nil, &repo.OpenOptions{StateDir: v.State})
	require.NoError(t, err)
	defer r.Close()
	point, err := r.Resolve(ctx, "web1@latest")
	require.NoError(t, err)
	s, err := Start(ctx, r, point, v.Folder, &StartOptions{Command: startCommand, Limit: v.Limit})
	if errors.Is(err, fs.ErrExist) {
		s, err = Resume(ctx, r, v.Folder, nil)
	}
	require.NoError(t, err)
	require.NoError(t, s.Finish(ctx))
	require.NoError(t, s.Close())
}

// kill -9 of the process that serves, again and again at times that nobody chose: the guest waits, and the next process
// goes on.
func TestStartKilled(t *testing.T) {
	t.Parallel()
	b := newStartBench(t)
	require.NoError(t, b.repo.Close())
	plan, err := json.Marshal(startVictim{Repo: filepath.Join(b.dir, "repo"), State: filepath.Join(b.dir, "state"), Folder: b.folder(), Limit: 6 << 20})
	require.NoError(t, err)
	run := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0], "-test.run=^TestStartVictim$")
		cmd.Env = append(os.Environ(), startVictimEnv+"="+string(plan))
		require.NoError(t, cmd.Start())
		return cmd
	}
	rounds := 3
	if long() {
		rounds = 30
	}
	rnd, kills := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1)), 0
	for range rounds {
		cmd := run()
		time.Sleep(time.Duration(100+rnd.IntN(1200)) * time.Millisecond)
		require.NoError(t, cmd.Process.Kill())
		if cmd.Wait() != nil {
			kills++
		}
		require.NoError(t, StartSweeper{}.Undo(t.Context(), hikae.Effect{Kind: KindStart, Facts: map[string]string{"folder": b.folder()}}, nil))
		if whole(b) {
			break
		}
	}
	t.Logf("killed %d times", kills)
	if !whole(b) {
		cmd := run()
		defer cmd.Wait()
		b.write("root", 4, 11<<20, 123_456) // reads what is not there for a part of a cluster, so it waits for the server
		require.NoError(t, cmd.Wait())
	}
	b.io("root", "flush")
	b.check()
}

func whole(b *startBench) bool {
	for key := range b.content {
		if backing, err := backingOf(filepath.Join(b.folder(), key+".qcow2")); err != nil || backing != "" {
			return false
		}
	}
	_, err := os.Stat(filepath.Join(b.folder(), startStateName))
	return err != nil
}

// What cannot work is refused before anything is there, and nothing is left of it.
func TestStartRefused(t *testing.T) {
	t.Parallel()
	b := newStartBench(t)
	for want, opts := range map[string]*StartOptions{
		"attaches no disk data":    {Command: []string{"qemu", "{disk:root}"}},
		"names no disk":            {Command: []string{"qemu", "{disk:root}", "{disk:data}", "{disk:other}"}},
		"has no disk \"other\"":    {Disks: []string{"other"}},
		"executable file not foun": {Command: []string{"no-such-program-here", "{disks}"}},
		"at most 107 bytes":        {Monitor: "/" + strings.Repeat("x", 200)},
	} {
		_, err := Start(t.Context(), b.repo, b.point, b.folder(), opts)
		require.ErrorContains(t, err, want)
		left, err := os.ReadDir(b.folder())
		require.NoError(t, err)
		require.LessOrEqual(t, len(left), 2, left) // the lock, and an empty log
		for _, e := range left {
			require.Contains(t, []string{startLockName, "vm.log"}, e.Name(), want)
		}
	}
	_, err := Start(t.Context(), b.repo, b.point, filepath.Join(b.dir, "a,b"), nil)
	require.ErrorContains(t, err, "comma")

	s, err := Start(t.Context(), b.repo, b.point, b.folder(), &StartOptions{Command: []string{"sh", "-c", "echo it does not work >&2; exit 3", "sh", "{disks}"}})
	require.NoError(t, err)
	err = s.Finish(within20(t))
	require.ErrorIs(t, err, ErrVMEnded)
	require.ErrorContains(t, err, "it does not work")
	require.NoError(t, s.Close())
	s, err = Resume(t.Context(), b.repo, b.folder(), b.options())
	require.NoError(t, err)
	require.NoError(t, s.Finish(within20(t)))
	require.NoError(t, s.Close())
	b.check()
}

// A state that somebody changed, or moved, is refused.
func TestStartHostileState(t *testing.T) {
	dir := t.TempDir()
	for _, text := range []string{
		"", "{", "[]", `{"version":2}`, `{"version":1,"stage":"given","point":"x","disks":[]}`,
		`{"version":1,"stage":"given","point":"x","disks":[{"key":"a","size":1,"path":"/etc/passwd"}]}`,
		`{"version":1,"stage":"other","point":"x","disks":[{"key":"a","size":1,"path":"` + dir + `/a.qcow2"}]}`,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, startStateName), []byte(text), 0o600))
		_, err := Resume(t.Context(), nil, dir, nil)
		require.Error(t, err, text)
	}
	victim := filepath.Join(dir, "a.qcow2")
	for _, text := range []string{"", "QFI", strings.Repeat("x", 200), "QFI\xfb\x00\x00\x00\x03\xff\xff\xff\xff\xff\xff\xff\xff" + strings.Repeat("\xff", 200)} {
		require.NoError(t, os.WriteFile(victim, []byte(text), 0o600))
		_, err := backingOf(victim)
		require.Error(t, err, text)
	}
	require.ErrorIs(t, StartSweeper{}.Undo(t.Context(), hikae.Effect{Kind: KindStart, Facts: map[string]string{"folder": "relative"}}, nil), fs.ErrInvalid)
}

// The sweeper takes back what nobody was given, and never what somebody was.
func TestStartSweeper(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vm")
	undo := func() {
		t.Helper()
		require.NoError(t, StartSweeper{}.Undo(t.Context(), hikae.Effect{Kind: KindStart, Facts: map[string]string{"folder": dir}}, nil))
	}
	undo() // it never came to anything
	f, err := makeStartFolder(dir)
	require.NoError(t, err)
	require.NoError(t, f.plan(pipe.PointInfo{ID: "p", Disks: []pipe.DiskInfo{{Key: "a", Size: 1 << 20}}}, nil))
	path := f.state.Disks[0].Path
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	f.state.Stage = stageGiven
	require.NoError(t, f.save())
	require.NoError(t, f.unlock())
	undo()
	require.FileExists(t, path)
	f, err = openStartFolder(dir)
	require.NoError(t, err)
	f.state.Stage = stageMade
	require.NoError(t, f.save())
	require.NoError(t, f.unlock())
	undo()
	require.NoDirExists(t, dir)
}

// Zeros are told by the overlay itself, on disks of every length, so that nobody copies them.
func TestOverlayZeros(t *testing.T) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("qemu-img is not installed")
	}
	for _, size := range []int64{1, 512, 65536, 65537, 512<<20 + 1, 5 << 40} {
		img := pipe.FromReaderAt(bytes.NewReader(nil), size)
		path := filepath.Join(t.TempDir(), "o.qcow2")
		require.NoError(t, createOverlay(t.Context(), path, "", allZero{img}))
		out, err := exec.Command("qemu-img", "check", path).CombinedOutput()
		require.NoError(t, err, string(out))
		out, err = exec.Command("qemu-img", "map", "--output=json", path).CombinedOutput()
		require.NoError(t, err, string(out))
		var list []struct {
			Start, Length int64
			Zero          bool
		}
		require.NoError(t, json.Unmarshal(out, &list))
		covered := int64(0)
		for _, e := range list {
			if e.Zero {
				covered += e.Length
			}
		}
		require.Equal(t, (size+511)&^511, covered)
		require.ErrorIs(t, createOverlay(t.Context(), path, "", allZero{img}), fs.ErrExist)
	}
}

// allZero is an image of zeros that knows that it is.
type allZero struct{ pipe.Image }

func (z allZero) Extents(_ context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) { yield(pipe.Extent{Off: off, Len: n, Kind: pipe.Zero}, nil) }
}
