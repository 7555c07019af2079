package hypervtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/helper/requester"
	"github.com/hikae/hikae/hyperv/vhdx"
	"github.com/hikae/hikae/pipe"
)

const vssDisk = 8 << 20

// vssHost is a host of a generation with VMs that have two disks each.
func vssHost(t *testing.T, generation string, systems ...string) (*Host, []*Guest) {
	t.Helper()
	h, err := Start(&Options{Generation: generation, JobTime: time.Millisecond})
	require.NoError(t, err)
	t.Cleanup(h.Close)
	var guests []*Guest
	for i, os := range systems {
		id := h.AddVM(VM{Name: fmt.Sprintf("web%d", i+1), GuestOS: os, Disks: []Disk{{Size: vssDisk, BlockSize: 1 << 20}, {Size: vssDisk, BlockSize: 1 << 20, Fixed: true}}})
		g := h.VM(id)
		require.Equal(t, 2, g.Disks())
		for disk := range 2 {
			require.NoError(t, g.Write(disk, 1<<20, fill(64<<10, byte('a'+disk))))
			require.NoError(t, g.Write(disk, 5<<20, fill(4096, 'b')))
		}
		guests = append(guests, g)
	}
	return h, guests
}

func fill(n int, c byte) []byte { return bytes.Repeat([]byte{c}, n) }

// vssSession is a requester that got as far as a set with these VMs and volumes.
type vssSession struct {
	t       *testing.T
	ctx     context.Context
	v       requester.VSS
	b       requester.Backup
	writer  requester.Writer
	parts   []requester.Component
	set     requester.ID
	shadows map[string]requester.ID // by where the volume is mounted
	devices map[string]string
}

func prepared(t *testing.T, h *Host, kind requester.BackupType, guests ...*Guest) *vssSession {
	t.Helper()
	s := &vssSession{t: t, v: h.VSS(), shadows: map[string]requester.ID{}, devices: map[string]string{}}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	s.ctx = ctx
	var err error
	s.b, err = s.v.New(ctx)
	require.NoError(t, err)
	t.Cleanup(func() { s.b.Close() })
	require.NoError(t, s.b.Initialize(ctx))
	require.NoError(t, s.b.SetContext(ctx, requester.ContextBackup))
	require.NoError(t, s.b.SetBackupState(ctx, kind))
	require.NoError(t, s.b.EnableWriterClasses(ctx, requester.HyperVWriter))
	writers, err := s.b.GatherWriterMetadata(ctx)
	require.NoError(t, err)
	require.Len(t, writers, 1)
	s.writer = writers[0]
	volumes := map[string]requester.Volume{}
	for _, c := range s.writer.Components {
		for _, g := range guests {
			if strings.ToLower(c.Name) != g.ID() {
				continue
			}
			require.NoError(t, s.b.AddComponent(ctx, s.writer, c))
			s.parts = append(s.parts, c)
			for _, f := range c.Files {
				vol, err := s.v.Volume(ctx, f.Path+f.Spec)
				require.NoError(t, err)
				volumes[vol.Mount] = vol
			}
		}
	}
	require.Len(t, s.parts, len(guests))
	s.set, err = s.b.StartSnapshotSet(ctx)
	require.NoError(t, err)
	for mount, vol := range volumes {
		s.shadows[mount], err = s.b.AddToSnapshotSet(ctx, vol.Name)
		require.NoError(t, err)
	}
	require.NoError(t, s.b.PrepareForBackup(ctx))
	return s
}

// taken goes on until the set is there.
func taken(t *testing.T, h *Host, guests ...*Guest) *vssSession {
	t.Helper()
	s := prepared(t, h, requester.Copy, guests...)
	require.NoError(t, s.b.DoSnapshotSet(s.ctx))
	s.well()
	s.look()
	return s
}

func (s *vssSession) well() {
	s.t.Helper()
	list, err := s.b.GatherWriterStatus(s.ctx)
	require.NoError(s.t, err)
	for _, w := range list {
		require.NoError(s.t, w.Err)
	}
}

func (s *vssSession) look() {
	for mount, id := range s.shadows {
		p, err := s.b.GetSnapshotProperties(s.ctx, id)
		require.NoError(s.t, err)
		require.Equal(s.t, s.set, p.Set)
		s.devices[mount] = p.Device
	}
}

func (s *vssSession) finish() {
	s.t.Helper()
	for _, c := range s.parts {
		require.NoError(s.t, s.b.SetBackupSucceeded(s.ctx, s.writer, c, true))
	}
	require.NoError(s.t, s.b.BackupComplete(s.ctx))
	require.NoError(s.t, s.b.DeleteSnapshots(s.ctx, s.set))
	require.NoError(s.t, s.b.Close())
}

// Open leads production names into the set.
func (s *vssSession) Open(ctx context.Context, name string) (pipe.Image, error) {
	for mount, device := range s.devices {
		if rest, ok := strings.CutPrefix(name, mount); ok {
			f, err := s.v.Open(ctx, device, rest)
			if err != nil {
				return nil, err
			}
			return pipe.FromReaderAt(f, f.Size()), nil
		}
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// disk reads a disk from the set as a client does: the auto-recovery file where there is one, which is called after the last of the
// chain.
func (s *vssSession) disk(name string, recovered bool) []byte {
	s.t.Helper()
	img, err := vhdx.OpenIn(s.ctx, s, name, nil)
	require.NoError(s.t, err)
	defer func() { require.NoError(s.t, img.Close()) }()
	files := img.Files()
	base, ending := stem(files[len(files)-1])
	if auto := base + "-AutoRecovery.a" + ending[1:]; recovered && s.has(auto) {
		require.NoError(s.t, img.Close())
		img, err = vhdx.OpenIn(s.ctx, s, auto, nil)
		require.NoError(s.t, err)
		require.True(s.t, strings.EqualFold(name, img.Files()[1]), "it stands on %s", name)
	}
	p := make([]byte, img.Size())
	_, err = img.ReadAt(s.ctx, p, 0)
	require.NoError(s.t, err)
	return p
}

func (s *vssSession) has(name string) bool {
	f, err := s.Open(s.ctx, name)
	if err == nil {
		f.Close()
	}
	return err == nil
}

func frozen(t *testing.T, g *Guest, disk int) []byte {
	t.Helper()
	p := make([]byte, g.Size(disk))
	_, err := g.AtFreeze(disk).ReadAt(p, 0)
	require.NoError(t, err)
	return p
}

// settled waits until nothing of the writer's is left on a VM.
func settled(t *testing.T, h *Host, g *Guest) {
	t.Helper()
	require.Eventually(t, func() bool {
		h.Lock()
		defer h.Unlock()
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.status() == 0 && len(g.checkpoints) == 0 && len(g.drives[0].nodes) == 1
	}, 10*time.Second, time.Millisecond)
}

// vector is an order of events from testdata.
func vector(t *testing.T, name string, disks int) (lines []string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "hostvss", name))
	require.NoError(t, err)
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		n := 1
		if strings.HasPrefix(line, "[") {
			line, n = strings.Trim(line, "[]"), disks
		}
		f := strings.Fields(line)
		for range n {
			lines = append(lines, strings.Join([]string{f[0], f[1], strings.Join(f[2:], " ")}, " "))
		}
	}
	require.NotEmpty(t, lines)
	return lines
}

// orderOf are the events of one VM and of the set, but for those that A's checkpoints and merges record beside them.
func orderOf(h *Host, vm string) (lines []string) {
	for _, e := range h.Events() {
		if e.VM != "" && e.VM != vm || strings.HasPrefix(e.Name, "merge") || e.Name == "backup complete" || e.Name == "remove" {
			continue
		}
		row := e.Row
		if row == "" {
			row = "-"
		}
		lines = append(lines, strings.Join([]string{row, e.Actor, e.Name}, " "))
	}
	return lines
}

// TestHostVSSOrder holds the order of R041–R060, R064–R079 and R100–R103, and that what is read is what the guest had at its
// quiescing, while it writes on.
func TestHostVSSOrder(t *testing.T) {
	for _, c := range []struct{ generation, os, vector string }{
		{"2008r2", "windows", "2008r2-windows.txt"},
		{"2012", "windows", "2008r2-windows.txt"},
		{"2008r2", "linux", "2008r2-linux.txt"},
		{"2012", "linux", "2008r2-linux.txt"},
		{"2012r2", "windows", "2012r2-windows.txt"},
		{"2012r2", "linux", "2012r2-linux.txt"},
		{"2016", "windows", "2016-windows.txt"},
		{"2022", "linux", "2016-linux.txt"},
	} {
		t.Run(c.generation+" "+c.os, func(t *testing.T) {
			h, guests := vssHost(t, c.generation, c.os)
			g := guests[0]
			h.SetVSS(VSSOptions{InGap: func(g *Guest) { // what is written in the gap is not in the backup (R053)
				require.NoError(t, g.Write(0, 1<<20, fill(8<<10, 'x')))
				require.NoError(t, g.Write(1, 7<<20, fill(512, 'x')))
			}})
			tips := []string{g.Tip(0), g.Tip(1)}
			stop := g.Churn(7)
			defer stop()
			s := taken(t, h, g)
			for disk := range 2 {
				require.True(t, bytes.Equal(frozen(t, g, disk), s.disk(tips[disk], true)), "disk %d differs from the freeze", disk)
			}
			s.finish()
			require.Empty(t, h.Shadows())
			settled(t, h, g)
			stop()
			want := vector(t, c.vector, 2)
			require.Eventually(t, func() bool { return len(orderOf(h, g.ID())) >= len(want) }, 5*time.Second, time.Millisecond)
			require.Equal(t, want, orderOf(h, g.ID()))
			require.Equal(t, tips, []string{g.Tip(0), g.Tip(1)})
			for disk := range 2 { // what the backup did left nothing in the VM
				now := make([]byte, vssDisk)
				_, err := g.Now(disk).ReadAt(now, 0)
				require.NoError(t, err)
				got, err := g.Read(disk, 0, vssDisk)
				require.NoError(t, err)
				require.True(t, bytes.Equal(now, got))
			}
		})
	}
}

// Without the rolling back a reader would get what was written in the gap: the model really has the gap (R053, R058, R070).
func TestHostVSSGap(t *testing.T) {
	for _, generation := range []string{"2012", "2012r2"} {
		h, guests := vssHost(t, generation, "windows")
		g := guests[0]
		h.SetVSS(VSSOptions{InGap: func(g *Guest) { require.NoError(t, g.Write(0, 1<<20, fill(8<<10, 'x'))) }})
		tip := g.Tip(0)
		s := taken(t, h, g)
		if generation == "2012r2" { // the disk itself is as at the backup checkpoint
			require.Equal(t, fill(8<<10, 'x'), s.disk(tip, false)[1<<20:][:8<<10])
		}
		require.Equal(t, fill(8<<10, 'a'), s.disk(tip, true)[1<<20:][:8<<10])
		s.finish()
		got, err := g.Read(0, 1<<20, 8<<10)
		require.NoError(t, err)
		require.Equal(t, fill(8<<10, 'x'), got, "production keeps what was written in the gap")
	}
}

// Disks that lie on several volumes, and have checkpoints of a user's below them, VHD and VHDX.
func TestHostVSSChains(t *testing.T) {
	for _, c := range []struct{ generation, format string }{{"2008r2", "vhd"}, {"2012", "vhdx"}, {"2012r2", "vhd"}, {"2012r2", "vhdx"}, {"2019", "vhdx"}} {
		t.Run(c.generation+" "+c.format, func(t *testing.T) {
			h, err := Start(&Options{Generation: c.generation, JobTime: time.Millisecond})
			require.NoError(t, err)
			t.Cleanup(h.Close)
			disks := []Disk{{Size: vssDisk, Format: c.format}, {Size: vssDisk, Path: `D:\Disks\data.` + c.format, Fixed: c.format == "vhd"}}
			g := h.VM(h.AddVM(VM{Name: "web1", Disks: disks}))
			write := func(c byte) {
				for disk := range 2 {
					require.NoError(t, g.Write(disk, 1<<20, fill(20<<10, c)))
					require.NoError(t, g.Write(disk, 2<<20+int64(c)*4096, fill(512, c)))
				}
			}
			write('a')
			_, err = g.Checkpoint("before the update")
			require.NoError(t, err)
			write('b')
			h.SetVSS(VSSOptions{InGap: func(*Guest) { write('x') }})
			tips := []string{g.Tip(0), g.Tip(1)}
			defer g.Churn(3)()
			s := taken(t, h, g)
			require.Len(t, s.devices, 2)
			for disk := range 2 {
				require.True(t, bytes.Equal(frozen(t, g, disk), s.disk(tips[disk], true)), "disk %d differs from the freeze", disk)
			}
			s.finish()
			require.Empty(t, h.Shadows())
			require.Eventually(t, func() bool { return g.Tip(0) == tips[0] && g.Tip(1) == tips[1] }, 5*time.Second, time.Millisecond)
			require.Eventually(t, func() bool { return len(h.Leftovers()) == 0 }, 5*time.Second, time.Millisecond)
		})
	}
}

// A VM that is off is read as it lies there, in any generation.
func TestHostVSSOffline(t *testing.T) {
	for _, generation := range []string{"2012", "2012r2", "2019"} {
		h, guests := vssHost(t, generation, "windows")
		g := guests[0]
		require.NoError(t, g.PowerOff())
		tip := g.Tip(0)
		s := taken(t, h, g)
		require.True(t, bytes.Equal(frozen(t, g, 0), s.disk(tip, true)))
		s.finish()
		var got []string
		for _, line := range orderOf(h, g.ID()) {
			if !strings.HasSuffix(line, "turned off") {
				_, what, _ := strings.Cut(line, " ")
				got = append(got, "- "+what)
			}
		}
		require.Subset(t, got, vector(t, "offline.txt", 2), generation)
		require.NotContains(t, fmt.Sprint(got), "checkpoint")
	}
}

// Captions by generation and condition, R036.
func TestHostVSSCaptions(t *testing.T) {
	b, err := os.ReadFile("testdata/hostvss/captions.txt")
	require.NoError(t, err)
	rows := 0
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.Fields(line)
		gen, err := generationOf(f[0])
		require.NoError(t, err)
		h := &Host{gen: gen}
		o := h.vssOffer(f[1] == "running", f[2] == "linux", f[2] != "no-components", "web1", VSSGuest{
			SnapshotsElsewhere: f[2] == "elsewhere", DynamicDisks: f[2] == "dynamic-disks", NoSnapshots: f[2] == "fat", NoSCSI: f[2] == "no-scsi"})
		require.Equal(t, strings.Join(f[4:], " "), o.caption, line)
		require.Equal(t, map[string]vssMethod{"online": vssOnline, "saved": vssSaved, "offline": vssOffline}[f[3]], o.method, line)
		rows++
	}
	require.Equal(t, 19, rows)
}

// On 2012 R2 a VM without a SCSI controller cannot be given the disk that is recovered: it is saved for a moment.
func TestHostVSSNoSCSI(t *testing.T) {
	h, err := Start(&Options{Generation: "2012r2", JobTime: time.Millisecond})
	require.NoError(t, err)
	t.Cleanup(h.Close)
	g := h.VM(h.AddVM(VM{Name: "old", Generation: 1, Disks: []Disk{{Size: vssDisk, IDE: true}}}))
	s := taken(t, h, g)
	require.Equal(t, `Offline\old`, s.parts[0].Caption)
	require.Contains(t, orderOf(h, g.ID()), "- writer saves the VM")
	require.NoError(t, g.Write(0, 0, fill(512, 'w')), "it runs again")
	s.finish()
}

// One failing VM fails the set: nothing of the other is recovered, and nothing stays when it is taken back.
func TestHostVSSOneFails(t *testing.T) {
	for _, code := range []requester.Code{requester.WriterTimeout, requester.WriterRetryable, requester.WriterNonRetryable} {
		h, guests := vssHost(t, "2012r2", "windows", "windows")
		h.Fail(Fault{Event: "freeze", VM: guests[1].ID(), Code: uint32(code), Reason: "the guest's writers did not answer"})
		s := prepared(t, h, requester.Copy, guests...)
		require.NoError(t, s.b.DoSnapshotSet(s.ctx))
		list, err := s.b.GatherWriterStatus(s.ctx)
		require.NoError(t, err)
		var failed *requester.Error
		require.ErrorAs(t, list[0].Err, &failed)
		require.Equal(t, code, failed.Code)
		require.Equal(t, guests[1].ID(), failed.Object)
		require.NoError(t, s.b.AbortBackup(s.ctx))
		require.NoError(t, s.b.DeleteSnapshots(s.ctx, s.set))
		require.NoError(t, s.b.Close())
		require.Empty(t, h.Shadows())
		settled(t, h, guests[0])
		require.Zero(t, h.Requesters())
	}
}

// An AutoRecovery file that lies there from before fails the next backup (facts: KB3175561).
func TestHostVSSStaleRecovery(t *testing.T) {
	h, guests := vssHost(t, "2012r2", "windows")
	g := guests[0]
	h.Fail(Fault{Event: "stale", VM: g.ID()})
	taken(t, h, g).finish()
	settled(t, h, g)
	s := prepared(t, h, requester.Copy, g)
	err := s.b.DoSnapshotSet(s.ctx)
	var failed *requester.Error
	require.ErrorAs(t, err, &failed)
	require.Equal(t, requester.AutorecoveryFailed, failed.Code)
	require.NoError(t, s.b.Close())
	settled(t, h, g)
	require.Empty(t, h.Shadows())
	base, _ := stem(g.Tip(0))
	require.True(t, h.exists(base+"-AutoRecovery.avhdx"), "what lay there is nobody's to remove")
}

// Auto-recovery takes its time (R061), and can be given up.
func TestHostVSSSlowRecovery(t *testing.T) {
	h, guests := vssHost(t, "2012", "windows")
	h.SetVSS(VSSOptions{Recover: time.Hour})
	s := prepared(t, h, requester.Copy, guests[0])
	ctx, cancel := context.WithTimeout(s.ctx, 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, s.b.DoSnapshotSet(ctx), context.DeadlineExceeded)
	require.Empty(t, h.Shadows())
	h.Fail(Fault{Event: "recover", Code: 1, Reason: "the disk could not be mounted"})
	h.SetVSS(VSSOptions{})
	s = prepared(t, h, requester.Copy, guests[0])
	var failed *requester.Error
	require.ErrorAs(t, s.b.DoSnapshotSet(s.ctx), &failed)
	require.Equal(t, requester.AutorecoveryFailed, failed.Code)
	require.Empty(t, h.Shadows())
}

// The set goes with its requester, whatever that was doing, and files that are open in it end.
func TestHostVSSRequesterDies(t *testing.T) {
	h, guests := vssHost(t, "2012r2", "windows")
	g := guests[0]
	s := taken(t, h, g)
	f, err := s.Open(s.ctx, g.folder+`\disk_1.vhdx`)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, h.KillRequester())
	_, err = f.ReadAt(s.ctx, make([]byte, 10), 0)
	require.ErrorIs(t, err, ErrShadowGone)
	require.Empty(t, h.Shadows())
	settled(t, h, g)
	require.Error(t, s.b.BackupComplete(s.ctx))

	h.SetVSS(VSSOptions{Recover: time.Hour}) // while it makes one
	s = prepared(t, h, requester.Copy, g)
	done := make(chan error, 1)
	go func() { done <- s.b.DoSnapshotSet(s.ctx) }()
	time.Sleep(20 * time.Millisecond)
	require.NoError(t, h.KillRequester())
	require.Error(t, <-done)
	require.Empty(t, h.Shadows())
	settled(t, h, g)
}

// What comes at the wrong time is VSS_E_BAD_STATE, and harms nothing.
func TestHostVSSStrictOrder(t *testing.T) {
	h, guests := vssHost(t, "2016", "windows")
	ctx := context.Background()
	bad := func(err error) {
		t.Helper()
		var e *requester.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, requester.BadState, e.Code)
	}
	b, err := h.VSS().New(ctx)
	require.NoError(t, err)
	defer b.Close()
	bad(b.SetContext(ctx, requester.ContextBackup))
	bad(b.SetBackupState(ctx, requester.Copy))
	_, err = b.GatherWriterMetadata(ctx)
	bad(err)
	_, err = b.GatherWriterStatus(ctx)
	bad(err)
	bad(b.AbortBackup(ctx))
	bad(b.DeleteSnapshots(ctx, "{x}"))
	require.NoError(t, b.Initialize(ctx))
	bad(b.Initialize(ctx))
	require.NoError(t, b.SetContext(ctx, requester.ContextBackup))
	bad(b.SetContext(ctx, requester.ContextBackup))
	_, err = b.StartSnapshotSet(ctx)
	bad(err)
	require.NoError(t, b.SetBackupState(ctx, requester.Copy))
	writers, err := b.GatherWriterMetadata(ctx)
	require.NoError(t, err)
	_, err = b.GatherWriterMetadata(ctx)
	bad(err)
	bad(b.SetBackupState(ctx, requester.Full))
	_, err = b.AddToSnapshotSet(ctx, `C:\`)
	bad(err)
	bad(b.PrepareForBackup(ctx))
	set, err := b.StartSnapshotSet(ctx)
	require.NoError(t, err)
	_, err = b.StartSnapshotSet(ctx)
	bad(err)
	w := writers[0]
	require.NoError(t, b.AddComponent(ctx, w, w.Components[0]))
	var e *requester.Error
	require.ErrorAs(t, b.AddComponent(ctx, w, w.Components[0]), &e)
	require.EqualValues(t, 0x8004230D, e.Code)
	require.ErrorIs(t, b.AddComponent(ctx, w, requester.Component{Type: requester.FileGroup, Name: "nobody"}), fs.ErrNotExist)
	require.NoError(t, b.PrepareForBackup(ctx))
	bad(b.DoSnapshotSet(ctx)) // no volume is in it
	bad(b.AddComponent(ctx, w, w.Components[0]))
	bad(b.SetBackupSucceeded(ctx, w, w.Components[0], true))
	bad(b.BackupComplete(ctx))
	require.ErrorIs(t, b.DeleteSnapshots(ctx, set), fs.ErrNotExist)
	require.NoError(t, b.AbortBackup(ctx))
	bad(b.AbortBackup(ctx))
	require.NoError(t, b.Close())
	require.Error(t, b.Initialize(ctx))
	require.Empty(t, h.Shadows())
	taken(t, h, guests[0]).finish()
}

// One set at a time; volumes that nobody pins are refused, as are transportable sets without a provider for them.
func TestHostVSSRefusals(t *testing.T) {
	h, guests := vssHost(t, "2016", "windows")
	s := prepared(t, h, requester.Copy, guests[0])
	other, err := h.VSS().New(s.ctx)
	require.NoError(t, err)
	defer other.Close()
	require.NoError(t, other.Initialize(s.ctx))
	require.NoError(t, other.SetContext(s.ctx, requester.AttrTransportable))
	require.NoError(t, other.SetBackupState(s.ctx, requester.Copy))
	_, err = other.GatherWriterMetadata(s.ctx)
	require.NoError(t, err)
	var e *requester.Error
	_, err = other.StartSnapshotSet(s.ctx)
	require.ErrorAs(t, err, &e)
	require.EqualValues(t, 0x80042304, e.Code)
	h.SetVSS(VSSOptions{HardwareProvider: true})
	_, err = other.StartSnapshotSet(s.ctx)
	require.ErrorAs(t, err, &e)
	require.Equal(t, requester.SetInProgress, e.Code)
	require.True(t, e.Again)
	require.NoError(t, s.b.DoSnapshotSet(s.ctx))
	_, err = other.StartSnapshotSet(s.ctx)
	require.NoError(t, err)
	_, err = other.AddToSnapshotSet(s.ctx, `Q:\`)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, h.write(`\\fs1\vms\x.vhdx`, nil))
	share, err := h.VSS().Volume(s.ctx, `\\fs1\vms\x.vhdx`)
	require.NoError(t, err)
	require.Equal(t, requester.Volume{Name: `\\fs1\vms\`, Mount: `\\fs1\vms\`}, share)
	_, err = other.AddToSnapshotSet(s.ctx, share.Name)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	_, err = h.VSS().Volume(s.ctx, `C:\VMs\..\..\x`)
	require.Error(t, err)
	_, err = h.VSS().Volume(s.ctx, `Q:\VMs\x`)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// Shadow copies are seen and deleted by whoever asks for all of the machine: as a sweep does for a dead session.
func TestHostVSSSweep(t *testing.T) {
	h, guests := vssHost(t, "2016", "windows")
	s := taken(t, h, guests[0])
	b, err := h.VSS().New(s.ctx)
	require.NoError(t, err)
	defer b.Close()
	require.NoError(t, b.Initialize(s.ctx))
	own, err := b.Query(s.ctx)
	require.NoError(t, err)
	require.Empty(t, own)
	require.NoError(t, b.SetContext(s.ctx, requester.ContextAll))
	all, err := b.Query(s.ctx)
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.Equal(t, s.set, all[0].Set)
	require.NoError(t, b.DeleteSnapshots(s.ctx, all[0].Set))
	require.ErrorIs(t, b.DeleteSnapshots(s.ctx, all[0].Set), fs.ErrNotExist)
	require.Empty(t, h.Shadows())
}

// Paths lead to files of the shadow copy only.
func TestHostVSSPaths(t *testing.T) {
	h, guests := vssHost(t, "2016", "windows")
	s := taken(t, h, guests[0])
	device := s.devices[`C:\`]
	_, err := s.v.Open(s.ctx, device, `vms\WEB1\disk_1.VHDX`)
	require.NoError(t, err)
	for _, bad := range []string{`..\x`, `VMs\..\..\x`, `VMs/web1/disk_1.vhdx`, `VMs\web1\none`, ""} {
		_, err := s.v.Open(s.ctx, device, bad)
		require.Error(t, err, bad)
	}
	_, err = s.v.Open(s.ctx, device+"0", `VMs\web1\disk_1.vhdx`)
	require.ErrorIs(t, err, fs.ErrNotExist)
	list, err := s.v.List(s.ctx, device, "VMs")
	require.NoError(t, err)
	require.Equal(t, []requester.Entry{{Name: "web1", Dir: true}}, list)
	var config int
	for _, f := range s.parts[0].Files { // R103: disk files and configuration
		file, err := s.v.Open(s.ctx, device, strings.TrimPrefix(f.Path+f.Spec, `C:\`))
		require.NoError(t, err, f.Spec)
		require.NoError(t, file.Close())
		if strings.Contains(f.Path, "Virtual Machines") {
			config++
		}
	}
	require.Equal(t, 3, config)
	s.finish()
	_, err = s.v.Open(s.ctx, device, `VMs\web1\disk_1.vhdx`)
	require.True(t, errors.Is(err, fs.ErrNotExist))
}

// A set that the host loses in mid-read is an error that says so, and what the writer has left to do is still done.
func TestHostVSSLost(t *testing.T) {
	h, guests := vssHost(t, "2012r2", "windows")
	g := guests[0]
	s := taken(t, h, g)
	f, err := s.v.Open(s.ctx, s.devices[`C:\`], `VMs\web1\disk_1.vhdx`)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, h.LoseShadows())
	_, err = f.ReadAt(make([]byte, 1), 0)
	require.ErrorIs(t, err, ErrShadowGone)
	require.ErrorIs(t, s.b.DeleteSnapshots(s.ctx, s.set), fs.ErrNotExist)
	require.NoError(t, s.b.AbortBackup(s.ctx))
	require.NoError(t, s.b.Close())
	settled(t, h, g)
	require.Eventually(t, func() bool { return len(h.Leftovers()) == 0 }, 5*time.Second, time.Millisecond, "nothing is left")
}

// Each call can fail, and after each failure nothing is left and the next backup is good.
func TestHostVSSFaults(t *testing.T) {
	h, guests := vssHost(t, "2012r2", "windows")
	g := guests[0]
	for _, event := range []string{"vss.do", "vss.volume", "recover", "checkpoint"} {
		h.Fail(Fault{Event: event, Code: 0x80042306, Reason: "the provider does not want to"})
		s := prepared(t, h, requester.Copy, g)
		err := s.b.DoSnapshotSet(s.ctx)
		if err == nil { // the writer's own failures are told by its state
			list, gathered := s.b.GatherWriterStatus(s.ctx)
			require.NoError(t, gathered)
			err = list[0].Err
		}
		var failed *requester.Error
		require.ErrorAs(t, err, &failed, event)
		require.NoError(t, s.b.Close())
		settled(t, h, g)
		require.Eventually(t, func() bool { return len(h.Leftovers()) == 0 }, 5*time.Second, time.Millisecond, event)
	}
	for _, event := range []string{"vss.complete", "vss.delete"} {
		h.Fail(Fault{Event: event, Code: 0x80042306, Reason: "the provider does not want to"})
		s := taken(t, h, g)
		if event == "vss.complete" {
			require.Error(t, s.b.BackupComplete(s.ctx))
		} else {
			require.Error(t, s.b.DeleteSnapshots(s.ctx, s.set))
		}
		s.finish()
		settled(t, h, g)
	}
	tip := g.Tip(0)
	s := taken(t, h, g)
	require.True(t, bytes.Equal(frozen(t, g, 0), s.disk(tip, true)))
	s.finish()
}

// The merge of R079 that does not end leaves the VM at work on the child, and goes on when it can.
func TestHostVSSMergeHangs(t *testing.T) {
	h, guests := vssHost(t, "2012r2", "windows")
	g := guests[0]
	h.Fail(Fault{Event: "merge", VM: g.ID(), Hang: true})
	taken(t, h, g).finish()
	h.Lock()
	require.EqualValues(t, statusMerging, g.status())
	h.Unlock()
	require.Contains(t, g.Tip(0), ".avhdx")
	h.Heal()
	settled(t, h, g)
	require.NotContains(t, g.Tip(0), ".avhdx")
}

// A VM that moved to another node during the backup has its backup checkpoint merged there.
func TestHostVSSMoved(t *testing.T) {
	c := cluster(t, &ClusterOptions{Host: Options{Generation: "2012r2", JobTime: time.Millisecond}})
	nodes := c.Hosts()
	id := c.AddVM(nodes[0].Name(), VM{Name: "web1", Disks: []Disk{{Size: vssDisk}}})
	g := nodes[0].VM(id)
	require.NoError(t, g.Write(0, 0, fill(4096, 'a')))
	tip := g.Tip(0)
	s := taken(t, nodes[0], g)
	require.Equal(t, []string{`C:\ClusterStorage\Volume1\`}, slices.Collect(maps.Keys(s.devices)))
	require.NoError(t, c.Move(id, nodes[1].Name()))
	require.True(t, bytes.Equal(frozen(t, g, 0), s.disk(tip, true)))
	s.finish()
	settled(t, nodes[1], g)
	require.Equal(t, tip, g.Tip(0))
}
