package kvm

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/kvm/qmp"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/pipe/qcow2"
)

// parked is a machine of a real QEMU whose processors never run, so that it is there in a moment; what a guest would
// write is written through its devices by the monitor. It has a qcow2 disk and a raw one.
type parked struct {
	t       *testing.T
	dir     string
	machine Machine
	backend *pipetest.Backend
	points  map[string]map[string][]byte // content of the disks, by key, that a point must hold
	cmd     *exec.Cmd
	ended   chan struct{}
}

const (
	parkedSize = 4*mib + 512
	cowDisk    = "cow-1"
	rawDisk    = "raw-1"
)

func newParked(t *testing.T) *parked {
	t.Helper()
	need(t, "qemu-system-x86_64", "qemu-img", "qemu-io", "qemu-nbd")
	dir, err := os.MkdirTemp("", "parked") // short, for sockets
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &parked{t: t, dir: dir, backend: pipetest.NewBackend(64 << 10), points: map[string]map[string][]byte{}}
	s.machine = Machine{QMP: filepath.Join(dir, "qmp"), Name: "web1", Disks: []DiskImage{
		{Key: cowDisk, Path: filepath.Join(dir, "cow.qcow2")}, {Key: rawDisk, Path: filepath.Join(dir, "raw.img"), Format: "raw"},
	}}
	s.run("qemu-img", "create", "-q", "-f", "qcow2", s.path(cowDisk), fmt.Sprint(parkedSize))
	require.NoError(t, os.WriteFile(s.path(rawDisk), bytes.Repeat([]byte("raw."), 2*mib/4), 0o600))
	s.poke(cowDisk, "write -P 1 0 1M", "write -P 2 3M 512k")
	return s
}

func (s *parked) path(key string) string {
	i := slices.IndexFunc(s.machine.Disks, func(d DiskImage) bool { return d.Key == key })
	return s.machine.Disks[i].Path
}

func (s *parked) run(name string, args ...string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	require.NoError(s.t, err, "%s %v: %s", name, args, out)
	return string(out)
}

// poke writes to a disk of the machine while it is off, as its guest would while it runs.
func (s *parked) poke(key string, commands ...string) {
	s.t.Helper()
	format := "raw"
	if key == cowDisk {
		format = "qcow2"
	}
	args := []string{"-f", format}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	s.run("qemu-io", append(args, s.path(key))...)
}

// on starts QEMU.
func (s *parked) on(more ...string) {
	s.t.Helper()
	args := []string{"-S", "-M", "q35", "-accel", "tcg", "-m", "64", "-nodefaults", "-no-user-config", "-display", "none", "-name", "web1",
		"-qmp", "unix:" + s.machine.QMP + ",server=on,wait=off"}
	for i, d := range s.machine.Disks {
		format := "qcow2"
		if d.Key == rawDisk {
			format = "raw"
		}
		args = append(args, "-blockdev", fmt.Sprintf("driver=file,node-name=file%d,filename=%s", i, d.Path),
			"-blockdev", fmt.Sprintf("driver=%s,node-name=disk%d,file=file%d", format, i, i),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=disk%d,id=vd%d,serial=%s", i, i, d.Key))
	}
	var stderr tail
	s.cmd, s.ended = exec.Command("qemu-system-x86_64", append(args, more...)...), make(chan struct{})
	s.cmd.Stderr = &stderr
	require.NoError(s.t, s.cmd.Start())
	go func(cmd *exec.Cmd, ended chan struct{}) { cmd.Wait(); close(ended) }(s.cmd, s.ended)
	s.t.Cleanup(s.kill)
	require.Eventually(s.t, func() bool {
		mon, err := qmp.Dial(context.Background(), s.machine.QMP)
		if err == nil {
			mon.Close()
		}
		return err == nil
	}, 20*time.Second, 20*time.Millisecond, "%v", &stderr)
}

// off ends QEMU in good order; kill as a power cut does.
func (s *parked) off() {
	s.t.Helper()
	require.NoError(s.t, s.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-s.ended:
	case <-time.After(20 * time.Second):
		require.Fail(s.t, "QEMU does not end")
	}
}

func (s *parked) kill() {
	s.cmd.Process.Kill()
	<-s.ended
}

// write is what a guest writes.
func (s *parked) write(key string, commands ...string) {
	s.t.Helper()
	mon, err := qmp.Dial(s.t.Context(), s.machine.QMP)
	require.NoError(s.t, err)
	defer mon.Close()
	i := slices.IndexFunc(s.machine.Disks, func(d DiskImage) bool { return d.Key == key })
	for _, c := range append(commands, "flush") {
		var out string
		require.NoError(s.t, mon.Execute(s.t.Context(), "human-monitor-command", map[string]any{
			"command-line": fmt.Sprintf(`qemu-io -d /machine/peripheral/vd%d/virtio-backend "%s"`, i, c)}, &out))
		require.NotContains(s.t, out, "rror", c)
	}
}

// content is what a disk holds.
func (s *parked) content(key string) []byte {
	s.t.Helper()
	to := filepath.Join(s.dir, "content")
	defer os.Remove(to)
	format := "raw"
	if key == cowDisk {
		format = "qcow2"
	}
	s.run("qemu-img", "convert", "-U", "-f", format, "-O", "raw", s.path(key), to)
	data, err := os.ReadFile(to)
	require.NoError(s.t, err)
	return data
}

func (s *parked) provider() *Provider { return New([]Machine{s.machine}, &Options{Scratch: s.dir}) }

func (s *parked) journal() *hikae.FileJournal {
	s.t.Helper()
	j, err := hikae.OpenFileJournal(filepath.Join(s.dir, "journal"))
	require.NoError(s.t, err)
	return j
}

func (s *parked) backup(o job.BackupOptions) (job.Result, error) {
	s.t.Helper()
	j := s.journal()
	defer j.Close()
	o.Journal = j
	want := map[string][]byte{cowDisk: s.content(cowDisk), rawDisk: s.content(rawDisk)}
	res, err := job.Backup(s.t.Context(), s.provider(), "", s.backend, &o)
	if err == nil {
		s.points[res.Point] = want
	}
	return res, err
}

// point makes a point in which the qcow2 disk was read by this method.
func (s *parked) point(want job.Method) job.Result {
	s.t.Helper()
	res, err := s.backup(job.BackupOptions{})
	require.NoError(s.t, err)
	require.Equal(s.t, cowDisk, res.Disks[0].Key)
	require.Equal(s.t, want, res.Disks[0].Method, res.Fallbacks)
	return res
}

// sweep is what the next start does.
func (s *parked) sweep() (undone int, err error) {
	s.t.Helper()
	keep, err := job.KeepIDs(s.t.Context(), s.backend)
	require.NoError(s.t, err)
	j := s.journal()
	defer j.Close()
	return j.Sweep(s.t.Context(), map[string]hikae.Sweeper{"kvm.": New(nil, nil)}, keep)
}

// bitmaps are the names of those in the qcow2 image.
func (s *parked) bitmaps() (names []string) {
	s.t.Helper()
	var info struct {
		Specific struct {
			Data struct {
				Bitmaps []struct{ Name string }
			}
		} `json:"format-specific"`
	}
	require.NoError(s.t, json.Unmarshal([]byte(s.run("qemu-img", "info", "-U", "--output=json", s.path(cowDisk))), &info))
	for _, b := range info.Specific.Data.Bitmaps {
		names = append(names, b.Name)
	}
	return names
}

// clean: what is in the image is what the newest point names, and the journal is empty.
func (s *parked) clean() {
	s.t.Helper()
	newest, err := job.FindPoint(s.t.Context(), s.backend, "web1@latest")
	require.NoError(s.t, err)
	require.Equal(s.t, nonEmpty(newest.Tracking[cowDisk]), s.bitmaps())
	j := s.journal()
	defer j.Close()
	for e, err := range j.Pending(s.t.Context()) {
		require.NoError(s.t, err)
		require.Fail(s.t, "an effect was left", "%+v", e)
	}
}

// checkPoints: every point holds what the disks held.
func (s *parked) checkPoints() {
	s.t.Helper()
	for id, want := range s.points {
		for key, data := range want {
			img, err := s.backend.Open(s.t.Context(), id, key)
			require.NoError(s.t, err)
			diff, err := pipe.Compare(s.t.Context(), img, pipetest.Bytes(data), nil)
			require.NoError(s.t, err)
			require.Empty(s.t, diff, "disk %s of point %s", key, id)
			require.NoError(s.t, img.Close())
		}
	}
}

// R014: a VM goes on and off between backups. What changed is known across that, by one record that both ways of reading
// go on with; after a QEMU that was killed the disk is read whole, and the one after that is incremental again.
func TestOff(t *testing.T) {
	s := newParked(t)
	res := s.point(job.Allocated)
	require.Equal(t, "offline", res.Consistency)
	require.Empty(t, res.Fallbacks)
	require.Empty(t, res.Warnings)
	s.clean()

	s.on()
	s.write(cowDisk, "write -P 3 64k 64k", "write -z 512k 128k", "discard 3M 64k")
	res = s.point(job.Changed)
	require.LessOrEqual(t, res.Disks[0].Read, int64(64<<10))
	s.write(cowDisk, "write -P 4 2M 1k")
	s.off()
	s.poke(cowDisk, "write -P 5 1M 64k")
	s.poke(rawDisk, "write -P 6 1M 64k")
	res = s.point(job.Changed)
	require.Equal(t, "offline", res.Consistency)
	require.LessOrEqual(t, res.Disks[0].Read, int64(3*64<<10))
	require.Equal(t, job.Allocated, res.Disks[1].Method)
	require.Len(t, res.Fallbacks, 1)
	require.Empty(t, res.Warnings)
	s.clean()
	require.Zero(t, s.point(job.Changed).Disks[0].Read, "nothing changed")

	s.on()
	s.write(cowDisk, "write -P 7 0 4k")
	s.point(job.Changed)
	s.write(cowDisk, "write -P 8 1M 4k")
	s.kill()
	res = s.point(job.Allocated)
	require.Contains(t, res.Fallbacks[0].Reason, "change tracking was lost")
	s.clean()
	s.poke(cowDisk, "write -P 9 1M 4k")
	s.point(job.Changed)
	s.clean()

	s.run("qemu-img", "resize", "-q", "-f", "qcow2", s.path(cowDisk), fmt.Sprint(6*mib))
	s.poke(cowDisk, "write -P 10 5M 4k")
	res = s.point(job.Allocated)
	require.Contains(t, res.Fallbacks[0].Reason, "resized")
	s.poke(cowDisk, "write -P 11 5M 4k")
	s.point(job.Changed)
	s.clean()
	s.resized()
	s.checkPoints()
}

// resized: a disk that grows while the VM runs is read whole once, whatever becomes of its bitmaps.
func (s *parked) resized() {
	s.t.Helper()
	s.on()
	mon, err := qmp.Dial(s.t.Context(), s.machine.QMP)
	require.NoError(s.t, err)
	require.NoError(s.t, mon.Execute(s.t.Context(), "block_resize", map[string]any{"node-name": "disk0", "size": 8 * mib}, nil))
	require.NoError(s.t, mon.Close())
	s.write(cowDisk, "write -P 12 7M 4k")
	res := s.point(job.Allocated)
	require.Contains(s.t, res.Fallbacks[0].Reason, "resized")
	s.write(cowDisk, "write -P 13 7M 4k")
	s.point(job.Changed)
	s.off()
	s.point(job.Changed)
	s.clean()
}

// An image of qcow2's first version keeps no bitmaps. It is read whole each time, and nobody is warned each time.
func TestOffOldImage(t *testing.T) {
	s := newParked(t)
	s.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", s.path(cowDisk), fmt.Sprint(parkedSize))
	s.poke(cowDisk, "write -P 1 0 1M")
	require.Empty(t, s.point(job.Allocated).Warnings)
	res := s.point(job.Allocated)
	require.Empty(t, res.Warnings)
	require.Len(t, res.Fallbacks, 2)
	s.clean()
	s.checkPoints()
}

// A VM that is off stays off while it is read, and one that runs is not taken for one that is off.
func TestOffIsHeld(t *testing.T) {
	s := newParked(t)
	s.point(job.Allocated)
	_, err := s.backup(job.BackupOptions{Wrap: func(_ context.Context, d hikae.Disk, img pipe.Image) (pipe.Image, error) {
		out, err := exec.CommandContext(t.Context(), "qemu-io", "-f", "raw", "-c", "write 0 1", s.path(d.Key)).CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(out), `Failed to get "write" lock`)
		return img, nil
	}})
	require.NoError(t, err)
	s.clean()

	s.on()
	s.machine.QMP += "-elsewhere" // it runs, but not at that monitor
	_, err = s.backup(job.BackupOptions{})
	var busy *hikae.BusyError
	require.ErrorAs(t, err, &busy)
	require.Contains(t, busy.What, cowDisk)
	require.Contains(t, busy.Owner, "qemu-system")
	s.machine.QMP = filepath.Join(s.dir, "qmp")
	s.off()
	s.clean()

	_, err = s.backup(job.BackupOptions{Wrap: failing})
	require.ErrorIs(t, err, errWrap)
	s.clean()
	s.point(job.Changed)

	target, err := diskfile.OpenTarget(s.path(rawDisk), nil)
	require.NoError(t, err)
	_, err = s.provider().Snapshot(t.Context(), s.machine.QMP, nil)
	require.ErrorAs(t, err, &busy)
	require.Contains(t, busy.What, rawDisk)
	require.NoError(t, target.Close())
	s.clean()
	s.checkPoints()
}

// R188: a session on a VM that is off dies at each of its steps. The next start, with the VM off or on by then, removes
// what it left, and the next increment is right.
func TestOffKilled(t *testing.T) {
	s := newParked(t)
	s.point(job.Allocated)
	for _, running := range []bool{false, true} {
		for _, step := range []string{"intended", "added", "held", "durable"} {
			s.poke(cowDisk, "write -P 20 1M 4k")
			s.die(step)
			if running {
				s.on()
			}
			n, err := s.sweep()
			require.NoError(t, err)
			require.Equal(t, 1, n, step)
			if running {
				s.write(cowDisk, "write -P 21 2M 4k")
				s.off()
			}
			s.clean()
			s.point(job.Changed)
		}
	}
	s.diedRunning()
	s.checkPoints()
}

// diedRunning: what a session on a running VM left in its images goes also while the VM is off.
func (s *parked) diedRunning() {
	s.t.Helper()
	newest, err := job.FindPoint(s.t.Context(), s.backend, "web1@latest")
	require.NoError(s.t, err)
	s.on()
	j := s.journal()
	_, err = s.provider().Snapshot(s.t.Context(), s.machine.QMP, &hikae.SnapshotOptions{Journal: j,
		Since: map[string]hikae.ChangeID{cowDisk: hikae.ChangeID(newest.Tracking[cowDisk])}})
	require.NoError(s.t, err)
	require.NoError(s.t, j.Close())
	s.off()
	require.Len(s.t, s.bitmaps(), 2)
	_, err = s.sweep()
	require.NoError(s.t, err)
	s.clean()
	s.point(job.Changed)
	s.clean()
}

// die leaves a machine as a session that is killed after a step does.
func (s *parked) die(step string) {
	s.t.Helper()
	newest, err := job.FindPoint(s.t.Context(), s.backend, "web1@latest")
	require.NoError(s.t, err)
	j := s.journal()
	defer j.Close() // what is not done is pending from now on
	snap := &offSnapshot{provider: s.provider(), machine: s.machine, mark: newFootprint(s.machine.QMP).Mark,
		opts: hikae.SnapshotOptions{Journal: j, Since: map[string]hikae.ChangeID{cowDisk: hikae.ChangeID(newest.Tracking[cowDisk])}}}
	for i, image := range s.machine.Disks {
		d := &offDisk{DiskImage: image, Base: string(snap.opts.Since[image.Key]), Next: bitmapOf(snap.mark, i)}
		require.NoError(s.t, d.look(s.t.Context()))
		snap.disks = append(snap.disks, d)
	}
	defer snap.letGo()
	require.NoError(s.t, snap.intend(s.t.Context()))
	if step == "intended" {
		return
	}
	require.NoError(s.t, snap.addBitmaps(s.t.Context()))
	if step == "added" {
		return
	}
	require.NoError(s.t, snap.hold(s.t.Context()))
	require.NoError(s.t, snap.verify(s.t.Context()))
	if step == "held" {
		return
	}
	s.durable(newest, snap)
}

// durable makes the point of a session durable, and no more.
func (s *parked) durable(base pipe.PointInfo, snap *offSnapshot) {
	s.t.Helper()
	w, err := s.backend.Begin(s.t.Context(), "web1", &pipe.PointOptions{})
	require.NoError(s.t, err)
	defer w.Close()
	want := map[string][]byte{}
	for _, d := range snap.disks {
		target, err := w.Disk(s.t.Context(), d.Key, d.size)
		require.NoError(s.t, err)
		img, err := snap.OpenDisk(s.t.Context(), d.Key)
		require.NoError(s.t, err)
		_, err = pipe.Copy(s.t.Context(), target, img, nil)
		require.NoError(s.t, err)
		require.NoError(s.t, target.Commit(s.t.Context()))
		require.NoError(s.t, img.Close())
		want[d.Key] = s.content(d.Key)
	}
	ids, err := snap.Prepare(s.t.Context())
	require.NoError(s.t, err)
	id, err := w.Commit(s.t.Context(), map[string]string{cowDisk: string(ids[cowDisk])})
	require.NoError(s.t, err)
	require.NotEqual(s.t, base.ID, id)
	s.points[id] = want
}

// An image that stands on another one: both are held, what is below is never written to, and one that only looks like an
// image leads nowhere.
func TestOffChain(t *testing.T) {
	s := newParked(t)
	below := filepath.Join(s.dir, "templates", "base.qcow2")
	require.NoError(t, os.Mkdir(filepath.Dir(below), 0o700))
	require.NoError(t, os.Rename(s.path(cowDisk), below))
	s.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2", s.path(cowDisk))
	_, err := s.provider().Snapshot(t.Context(), s.machine.QMP, nil)
	var reference *qcow2.ReferenceError
	require.ErrorAs(t, err, &reference)

	s.machine.Disks[0].Format = "qcow2"
	template, err := os.ReadFile(below)
	require.NoError(t, err)
	first := s.point(job.Allocated).Point
	s.poke(cowDisk, "write -P 90 1M 64k", "discard 3M 64k")
	_, err = s.backup(job.BackupOptions{Wrap: func(_ context.Context, d hikae.Disk, img pipe.Image) (pipe.Image, error) {
		out, err := exec.CommandContext(t.Context(), "qemu-io", "-f", "qcow2", "-c", "write 0 1", below).CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(out), `Failed to get "write" lock`)
		return img, nil
	}})
	require.NoError(t, err)
	s.clean()
	_, err = s.inPlace(first, job.RestoreOptions{Compare: true})
	require.NoError(t, err)
	s.requireContent(first)
	now, err := os.ReadFile(below)
	require.NoError(t, err)
	require.True(t, bytes.Equal(template, now))
	s.point(job.Changed)
	s.checkPoints()
}
