package kvm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
)

// inPlace brings a point back into the machine.
func (s *parked) inPlace(point string, o job.RestoreOptions) (job.RestoreResult, error) {
	s.t.Helper()
	info, err := job.FindPoint(s.t.Context(), s.backend, point)
	require.NoError(s.t, err)
	j := s.journal()
	defer j.Close()
	o.InPlace, o.Journal = s.machine.QMP, j
	return job.Restore(s.t.Context(), s.backend, info, NewRestorer(&RestorerOptions{Machines: []Machine{s.machine}, Scratch: s.dir}), &o)
}

func (s *parked) requireContent(point string) {
	s.t.Helper()
	for key, want := range s.points[point] {
		require.True(s.t, bytes.Equal(want, s.content(key)), key)
	}
}

// noMarkers: nothing says that a disk is half restored, and nothing of a session is left.
func (s *parked) noMarkers() {
	s.t.Helper()
	left, err := os.ReadDir(s.dir)
	require.NoError(s.t, err)
	for _, f := range left {
		require.False(s.t, strings.Contains(f.Name(), "hikae-"), f.Name())
	}
}

// history makes four points of a machine that is off at the end; what differs between them is little.
func (s *parked) history() (points []string) {
	s.t.Helper()
	points = append(points, s.point(job.Allocated).Point)
	s.poke(cowDisk, "write -P 30 256k 8k", "write -z 3M 64k")
	s.poke(rawDisk, "write -P 31 1M 8k", "write -z 0 64k")
	points = append(points, s.point(job.Changed).Point)
	s.on()
	s.write(cowDisk, "write -P 32 1536k 4k", "write -P 33 3M 4k")
	s.write(rawDisk, "write -P 34 64k 4k")
	points = append(points, s.point(job.Changed).Point)
	s.write(cowDisk, "write -P 35 2M 4k")
	s.off()
	return append(points, s.point(job.Changed).Point)
}

// Every point comes back into the machine itself, whatever was restored before; only what differs is written; and the
// next backup builds on what the image's own record tells, which what a restore wrote is part of.
func TestInPlace(t *testing.T) {
	s := newParked(t)
	points := s.history()
	order := []int{0, 3}
	if long() {
		order = []int{1, 3, 0, 2, 2, 3}
	}
	for _, i := range order {
		s.poke(cowDisk, "write -P 40 700k 4k")
		s.poke(rawDisk, "write -P 41 300k 4k")
		res, err := s.inPlace(points[i], job.RestoreOptions{Compare: true})
		require.NoError(t, err)
		require.Equal(t, s.machine.QMP, res.ID)
		s.requireContent(points[i])
		s.noMarkers()
		s.clean()
		for _, d := range res.Disks {
			require.True(t, d.Compared)
			require.GreaterOrEqual(t, d.Written, int64(4<<10), d.Key)
			require.LessOrEqual(t, d.Written, int64(160<<10), d.Key)
		}
		p := s.point(job.Changed)
		require.LessOrEqual(t, p.Disks[0].Read, int64(640<<10))
		s.clean()
	}
	s.checkPoints()

	newest := s.point(job.Changed)
	s.on()
	s.write(cowDisk, "write -P 50 128k 4k", "write -z 1536k 8k")
	s.off()
	res, err := s.inPlace(newest.Point, job.RestoreOptions{})
	require.NoError(t, err)
	s.requireContent(newest.Point)
	require.LessOrEqual(t, res.Disks[0].Read, int64(128<<10), "the point's own bitmap says where to look")
	require.Greater(t, res.Disks[0].Skipped["unchanged"], int64(3*mib))
	require.Len(t, res.Notes, 1, "the raw disk was compared as a whole")
	s.point(job.Changed)
	s.checkPoints()
}

// A machine that runs, another size, a disk that it does not have, a disk that somebody has open: nothing is touched.
func TestInPlaceRefused(t *testing.T) {
	s := newParked(t)
	point := s.point(job.Allocated).Point
	s.on()
	_, err := s.inPlace(point, job.RestoreOptions{})
	var running *RunningError
	require.ErrorAs(t, err, &running)
	require.Contains(t, running.Hint(), s.machine.QMP)
	monitor := s.machine.QMP
	s.machine.QMP = filepath.Join(s.dir, "another")
	_, err = s.inPlace(point, job.RestoreOptions{})
	require.ErrorAs(t, err, &running)
	var busy *hikae.BusyError
	require.ErrorAs(t, err, &busy)
	require.NotContains(t, running.Hint(), "socat")
	s.machine.QMP = monitor
	s.off()

	disks := s.machine.Disks
	s.machine.Disks = disks[:1]
	_, err = s.inPlace(point, job.RestoreOptions{})
	require.ErrorIs(t, err, fs.ErrNotExist)
	s.machine.Disks = nil
	_, err = s.inPlace(point, job.RestoreOptions{})
	require.ErrorIs(t, err, fs.ErrInvalid)
	s.machine.Disks = disks
	before := s.content(cowDisk)
	s.run("qemu-img", "resize", "-q", "-f", "raw", s.path(rawDisk), fmt.Sprint(3*mib))
	s.poke(cowDisk, "write -P 60 0 4k")
	changed := s.content(cowDisk)
	require.NotEqual(t, before, changed)
	_, err = s.inPlace(point, job.RestoreOptions{})
	require.ErrorContains(t, err, "resize it first")
	require.Equal(t, changed, s.content(cowDisk), "nothing was touched")
	s.noMarkers()
	s.clean()

	res, err := s.inPlace(point, job.RestoreOptions{Disks: []string{cowDisk}})
	require.NoError(t, err)
	require.Len(t, res.Disks, 1)
	require.Equal(t, before, s.content(cowDisk))
	s.noMarkers()
	s.clean()
}

// R188: a restore in place that does not come to its end is known to be broken, in the journal and beside the disk:
// backups refuse it, sweeps tell of it, and the next restore makes it whole. An error before anything was written leaves
// no trace.
func TestInPlaceBroken(t *testing.T) {
	s := newParked(t)
	points := s.history()
	_, err := s.inPlace(points[0], job.RestoreOptions{Wrap: failing})
	require.ErrorIs(t, err, errWrap)
	s.noMarkers()
	s.clean()

	var incomplete *IncompleteError
	broken := func(err error) {
		require.ErrorAs(t, err, &incomplete)
		_, err = s.sweep()
		require.ErrorAs(t, err, &incomplete)
		_, err = s.backup(job.BackupOptions{})
		require.ErrorAs(t, err, &incomplete)
	}
	_, err = s.inPlace(points[0], job.RestoreOptions{Wrap: failingLater})
	require.ErrorIs(t, err, errWrap)
	broken(err)
	require.Contains(t, incomplete.Error(), "web1")
	s.on()
	_, err = s.backup(job.BackupOptions{})
	require.ErrorAs(t, err, &incomplete, "while it runs too")
	s.off()

	_, err = s.inPlace(points[1], job.RestoreOptions{})
	require.NoError(t, err)
	s.requireContent(points[1])
	n, err := s.sweep()
	require.NoError(t, err)
	require.Equal(t, 1, n)
	s.noMarkers()
	s.clean()
	s.point(job.Changed)

	for round, point := range []string{points[0], points[3]} {
		s.killedInPlace(point, round)
		broken(s.broken())
		s.requireUnused()
		_, err = s.inPlace(points[2], job.RestoreOptions{Compare: true})
		require.NoError(t, err)
		s.requireContent(points[2])
		_, err = s.sweep()
		require.NoError(t, err)
		s.noMarkers()
		res, err := s.backup(job.BackupOptions{})
		require.NoError(t, err)
		t.Logf("after a kill the next backup read the disk by %q", res.Disks[0].Method)
		s.clean()
		s.point(job.Changed)
	}
	s.checkPoints()
}

// broken is what a backup says of the machine.
func (s *parked) broken() error {
	_, err := s.backup(job.BackupOptions{})
	return err
}

// requireUnused: the server of a session that was killed is gone.
func (s *parked) requireUnused() {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		release, err := (&offDisk{DiskImage: DiskImage{Key: cowDisk, Path: s.path(cowDisk), Format: formatQcow2}}).hold(s.t.Context())
		if err != nil {
			return false
		}
		return release() == nil
	}, 20*time.Second, 50*time.Millisecond)
}

// failingLater is a disk that cannot be read after the first read.
func failingLater(_ context.Context, _ hikae.Disk, img pipe.Image) (pipe.Image, error) {
	var reads atomic.Int64
	return pipetest.HookImage(img, func(_ context.Context, op *pipetest.Op) error {
		if op.Name == "readat" && reads.Add(1) > 1 {
			time.Sleep(200 * time.Millisecond) // what was read before is written by then
			return errWrap
		}
		return nil
	}), nil
}

// placeEnv makes of the test program one that writes over an image and does not come to its end. It holds the folder.
const placeEnv = "HIKAE_KVM_PLACE"

// killedInPlace kills a process in the middle of a restore in place.
func (s *parked) killedInPlace(point string, round int) {
	s.t.Helper()
	want := filepath.Join(s.dir, "want")
	require.NoError(s.t, os.WriteFile(want, s.points[point][cowDisk], 0o600))
	defer os.Remove(want)
	s.poke(cowDisk, fmt.Sprintf("write -P %d 0 1M", 70+round))
	cmd := exec.Command(os.Args[0], "-test.run=^TestPlaceVictim$")
	cmd.Env = append(os.Environ(), placeEnv+"="+mustJSON(s.t, placePlan{Machine: s.machine, Dir: s.dir, Want: want}))
	out, err := cmd.StdoutPipe()
	require.NoError(s.t, err)
	require.NoError(s.t, cmd.Start())
	said := make([]byte, 100)
	n, err := out.Read(said)
	require.NoError(s.t, err)
	require.Contains(s.t, string(said[:n]), "written")
	require.NoError(s.t, cmd.Process.Kill())
	cmd.Wait()
}

type placePlan struct {
	Machine   Machine
	Dir, Want string
}

// TestPlaceVictim is no test: it is the process that is killed.
func TestPlaceVictim(t *testing.T) {
	text := os.Getenv(placeEnv)
	if text == "" {
		t.Skip("only as a process of its own")
	}
	var plan placePlan
	require.NoError(t, json.Unmarshal([]byte(text), &plan))
	j, err := hikae.OpenFileJournal(filepath.Join(plan.Dir, "journal"))
	require.NoError(t, err)
	d, err := NewRestorer(&RestorerOptions{Machines: []Machine{plan.Machine}, Scratch: plan.Dir}).InPlace(t.Context(), plan.Machine.QMP, &hikae.RestoreOptions{Journal: j})
	require.NoError(t, err)
	want, err := os.ReadFile(plan.Want)
	require.NoError(t, err)
	require.NoError(t, d.(job.Placer).Ready(t.Context(), []hikae.Disk{{Key: cowDisk, Size: int64(len(want))}}, nil))
	target, err := d.OpenDisk(t.Context(), cowDisk)
	require.NoError(t, err)
	_, err = target.WriteAt(t.Context(), want[:512<<10], 0)
	require.NoError(t, err)
	fmt.Println("written")
	time.Sleep(time.Minute)
}

// A new machine is a folder: disks in their format, a script that starts it, all that the point kept.
func TestRestoreNew(t *testing.T) {
	s := newParked(t)
	vars := filepath.Join(s.dir, "it's, vars.fd")
	require.NoError(t, os.WriteFile(vars, bytes.Repeat([]byte("VARS"), 1<<18), 0o600))
	code := filepath.Join(s.dir, "code.fd")
	require.NoError(t, os.WriteFile(code, make([]byte, mib), 0o600))
	s.on("-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+code,
		"-drive", "if=pflash,format=raw,unit=1,file="+strings.ReplaceAll(vars, ",", ",,"))
	point := s.point(job.Allocated).Point
	info, err := job.FindPoint(t.Context(), s.backend, point)
	require.NoError(t, err)
	j := s.journal()
	defer j.Close()
	folder := filepath.Join(s.dir, "new, again")
	r := NewRestorer(&RestorerOptions{Folder: folder})
	_, err = job.Restore(t.Context(), s.backend, info, r, &job.RestoreOptions{Journal: j, Wrap: failing})
	require.ErrorIs(t, err, errWrap)
	s.noMarkers()
	require.NoDirExists(t, folder)

	res, err := job.Restore(t.Context(), s.backend, info, r, &job.RestoreOptions{Journal: j, Compare: true})
	require.NoError(t, err)
	require.Equal(t, folder, res.ID)
	require.Empty(t, res.Notes)
	require.FileExists(t, filepath.Join(folder, "config", "command-line"))
	_, err = job.Restore(t.Context(), s.backend, info, r, &job.RestoreOptions{Journal: j})
	require.ErrorIs(t, err, fs.ErrExist)
	s.noMarkers()

	script := filepath.Join(folder, startScript)
	text, err := os.ReadFile(script)
	require.NoError(t, err)
	out, err := exec.CommandContext(t.Context(), "sh", script).CombinedOutput()
	require.Error(t, err, "the machine runs")
	require.Contains(t, string(out), "a running machine listens at "+s.machine.QMP)
	s.off()

	s.cmd, s.ended = exec.Command("sh", script), make(chan struct{})
	var stderr tail
	s.cmd.Stderr = &stderr
	require.NoError(t, s.cmd.Start())
	go func(cmd *exec.Cmd, ended chan struct{}) { cmd.Wait(); close(ended) }(s.cmd, s.ended)
	var vm hikae.VM
	require.Eventually(t, func() bool {
		vm, err = s.provider().describe(t.Context(), Machine{QMP: s.machine.QMP})
		return err == nil
	}, 20*time.Second, 50*time.Millisecond, "%v %s", &stderr, text)
	require.Len(t, vm.Disks, 2)
	snap, err := s.provider().Snapshot(t.Context(), s.machine.QMP, nil)
	require.NoError(t, err)
	again, err := RecordedDisks(snap.VM().Config)
	require.NoError(t, err)
	require.Equal(t, []DiskImage{
		{Key: cowDisk, Path: filepath.Join(folder, cowDisk+".qcow2"), Format: "qcow2"}, {Key: rawDisk, Path: filepath.Join(folder, rawDisk+".raw"), Format: "raw"},
	}, again)
	require.Equal(t, bytes.Repeat([]byte("VARS"), 1<<18), firmwareOf(t, snap.VM().Config))
	require.NoError(t, snap.Release(t.Context()))
	_, started, _ := strings.Cut(string(text), "\nexec ")
	for _, d := range s.machine.Disks {
		require.NotContains(t, started, d.Path)
	}
	s.machine.Disks = again
	s.off()
	s.requireContent(point)
}

// firmwareOf is the content of the only variable store.
func firmwareOf(t *testing.T, config map[string][]byte) []byte {
	t.Helper()
	r, ok, err := readRecord(config)
	require.True(t, ok)
	require.NoError(t, err)
	require.Len(t, r.Firmware, 1)
	return config[r.Firmware[0].Blob]
}

// A folder that was being made when the process died goes with the next sweep.
func TestRestoreNewKilled(t *testing.T) {
	dir := t.TempDir()
	j, err := hikae.OpenFileJournal(filepath.Join(dir, "journal"))
	require.NoError(t, err)
	d, err := NewRestorer(&RestorerOptions{Folder: filepath.Join(dir, "vm")}).Create(t.Context(),
		hikae.VM{Name: "web1", Disks: []hikae.Disk{{Key: "a", Size: mib}}}, &hikae.RestoreOptions{Journal: j})
	require.NoError(t, err)
	target, err := d.OpenDisk(t.Context(), "a")
	require.NoError(t, err)
	require.NoError(t, target.Commit(t.Context()))
	require.NoError(t, j.Close())
	j, err = hikae.OpenFileJournal(filepath.Join(dir, "journal"))
	require.NoError(t, err)
	defer j.Close()
	n, err := j.Sweep(t.Context(), map[string]hikae.Sweeper{"kvm.": New(nil, nil)}, nil)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1, "the journal alone")

	bad := hikae.Effect{Kind: kindDraft, Facts: map[string]string{"mark": "hikae-aaaaaaaaaaaaaaaa", "folder": dir}}
	require.ErrorIs(t, New(nil, nil).Undo(t.Context(), bad, nil), fs.ErrInvalid)
	require.True(t, errors.Is(New(nil, nil).Undo(t.Context(), hikae.Effect{Kind: kindPlace, Facts: map[string]string{"mark": "x", "images": "[]"}}, nil), fs.ErrInvalid))
}
