package vmware

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/vmware/vmwaretest"
)

// place begins a restore of web0's first disk in place.
func (l *lab) place(j hikae.Journal, o RestorerOptions, transport string) (*placeDraft, error) {
	l.Helper()
	o.Transports = &TransportOptions{Order: []string{transport}}
	r, err := NewRestorer(l.client, &o)
	require.NoError(l, err)
	d, err := r.InPlace(l.Context(), l.vm().Ref().Value, &hikae.RestoreOptions{Journal: j})
	if err != nil {
		return nil, err
	}
	l.Cleanup(func() { _ = d.Close() }) // what it leaves is looked at before
	disk := l.vm().Disk(0)
	return d.(*placeDraft), d.(job.Placer).Ready(l.Context(), []hikae.Disk{{Key: disk.Key(), Size: disk.Size()}}, nil)
}

// fill writes the disk full of one byte.
func (l *lab) fill(d *placeDraft, b byte) error {
	l.Helper()
	to, err := d.OpenDisk(l.Context(), l.vm().Disk(0).Key())
	if err != nil {
		return err
	}
	return l.write(to, b)
}

func (l *lab) write(to pipe.Target, b byte) error {
	l.Helper()
	_, err := to.WriteAt(l.Context(), bytes.Repeat([]byte{b}, int(to.Size())), 0)
	require.NoError(l, err)
	return to.Commit(l.Context())
}

// elsewhere has this process forget what it knows of restores, as if it were another one.
func elsewhere(l *lab) {
	for _, known := range []interface {
		Range(func(k, v any) bool)
		Delete(any)
	}{&placedVMs, &deadPlacings} {
		known.Range(func(k, _ any) bool {
			if s := k.(string); len(s) == 26 || strings.Contains(s, l.client.Address()) {
				known.Delete(k)
			}
			return true
		})
	}
}

func (l *lab) placed() placing {
	l.Helper()
	m, err := l.client.machine(l.Context(), l.vm().Ref())
	require.NoError(l, err)
	p, _ := placingOf(m.Config)
	return p
}

// R188: of two processes that restore into one VM the second gives way. One that takes over has the VM alone.
func TestTwoRestoresOfOneVM(t *testing.T) {
	l := newLab(t, vmwaretest.Options{PoweredOff: true, DiskBytes: 1 << 20})
	a, err := l.place(nil, RestorerOptions{}, NBDSSL)
	require.NoError(t, err)
	elsewhere(l)
	var busy *hikae.BusyError
	_, err = l.place(nil, RestorerOptions{}, NBDSSL)
	require.ErrorAs(t, err, &busy)
	require.Contains(t, busy.Owner, machineName())
	require.Equal(t, a.mark, l.placed().mark)

	elsewhere(l)
	b, err := l.place(nil, RestorerOptions{TakeOver: true}, NBDSSL)
	require.NoError(t, err)
	require.ErrorAs(t, l.fill(a, 'a'), &busy)
	require.NoError(t, a.Close())
	require.Equal(t, b.mark, l.placed().mark, "a takes its own mark away, and no other")
	require.NoError(t, l.fill(b, 'b'))
	_, err = b.Commit(t.Context())
	require.NoError(t, err)
	require.Empty(t, l.placed())
	for _, content := range l.contents(l.vm()) {
		require.True(t, bytes.Equal(bytes.Repeat([]byte{'b'}, len(content)), content))
	}
	require.Empty(t, l.leftovers())
}

// Marks that are written between the look and our own are found by the look after it, and at each disk.
func TestMarkIsLookedAtAgain(t *testing.T) {
	l := newLab(t, vmwaretest.Options{PoweredOff: true, DiskBytes: 1 << 20})
	a, err := l.place(nil, RestorerOptions{}, NBDSSL)
	require.NoError(t, err)
	to, err := a.OpenDisk(t.Context(), l.vm().Disk(0).Key())
	require.NoError(t, err)
	set := func(value string) {
		l.reconfigure(l.vm(), types.VirtualMachineConfigSpec{ExtraConfig: []types.BaseOptionValue{&types.OptionValue{Key: keyPlacing, Value: value}}})
	}
	set("")
	var altered *AlteredError
	_, err = a.unaltered(t.Context())
	require.ErrorAs(t, err, &altered)
	set(placing{mark: newMark(), since: "2026-01-01T00:00:00Z"}.String())
	var busy *hikae.BusyError
	require.ErrorAs(t, l.write(to, 'a'), &busy)
	_, err = a.Commit(t.Context())
	require.Error(t, err)
	var incomplete *IncompleteError
	require.ErrorAs(t, a.Close(), &incomplete, "it has written")
	require.NotEqual(t, a.mark, l.placed().mark)
	require.NotEmpty(t, l.placed().mark)
}

// R188: a restore that was killed is repeated from where it ran, by its journal, and by nobody else unasked.
func TestInterruptedRestoreIsRepeated(t *testing.T) {
	l := newLab(t, vmwaretest.Options{PoweredOff: true, DiskBytes: 1 << 20})
	res, want, err := l.try(nil)
	require.NoError(t, err)
	j, err := hikae.OpenFileJournal(l.journal)
	require.NoError(t, err)
	d, err := l.place(j, RestorerOptions{}, NBDSSL)
	require.NoError(t, err)
	require.NoError(t, l.fill(d, 'x'))
	require.NoError(t, j.Close()) // the session dies
	elsewhere(l)

	other, err := hikae.OpenFileJournal(t.TempDir())
	require.NoError(t, err)
	var busy *hikae.BusyError
	_, err = l.place(other, RestorerOptions{}, NBDSSL)
	require.ErrorAs(t, err, &busy)
	require.NoError(t, other.Close())

	j, err = hikae.OpenFileJournal(l.journal)
	require.NoError(t, err)
	n, err := j.Sweep(t.Context(), map[string]hikae.Sweeper{"vmware.": l.provider()}, nil)
	var incomplete *IncompleteError
	require.ErrorAs(t, err, &incomplete)
	require.Equal(t, 1, n, "what was disabled")
	require.NoError(t, j.Close())
	require.Empty(t, l.leftovers())

	_, err = l.restoreBy(NBDSSL, res.Point, job.RestoreOptions{InPlace: l.vm().Ref().Value, Compare: true})
	require.NoError(t, err)
	require.Equal(t, want, l.contents(l.vm()))
	require.Empty(t, l.placed())
	require.Equal(t, 1, l.sweep())
	l.clean()
}

// A snapshot that somebody takes while the VM is written over is not written over, and neither is what it keeps.
func TestSnapshotWhileItIsWrittenOver(t *testing.T) {
	for _, transport := range []string{NBDSSL, HTTPS} {
		for _, open := range []bool{false, true} {
			if open && transport == NBDSSL {
				continue // it writes at once into the file that it has open: see guard
			}
			l := newLab(t, vmwaretest.Options{PoweredOff: true, DiskBytes: 1 << 20})
			before := l.contents(l.vm())
			d, err := l.place(nil, RestorerOptions{}, transport)
			require.NoError(t, err)
			var to pipe.Target
			if open {
				to, err = d.OpenDisk(t.Context(), l.vm().Disk(0).Key())
				require.NoError(t, err)
			}
			_, err = l.vm().CreateSnapshot("mine, of now", "") // from within the server, where nothing is disabled
			require.NoError(t, err)
			if open {
				err = l.write(to, 'x')
			} else {
				err = l.fill(d, 'x')
			}
			var snapshots *SnapshotsError
			require.ErrorAs(t, err, &snapshots)
			require.Equal(t, []string{"mine, of now"}, snapshots.Names)
			require.Equal(t, before, l.contents(l.vm()))
			_, err = d.Commit(t.Context())
			require.Error(t, err)
			_ = d.Close() // half restored or not, by what was handed to the target
			require.Empty(t, l.leftovers())
		}
	}
}

// What is in the way of a restore cannot be begun by others while the server keeps them from it, and can afterwards.
func TestOthersAreKeptOffWhileRestoring(t *testing.T) {
	l := newLab(t, vmwaretest.Options{PoweredOff: true, DiskBytes: 1 << 20})
	d, err := l.place(nil, RestorerOptions{}, NBDSSL)
	require.NoError(t, err)
	_, err = methods.CreateSnapshot_Task(t.Context(), l.client.Vim(), &types.CreateSnapshot_Task{This: l.vm().Ref(), Name: "mine"})
	require.Error(t, err)
	_, err = methods.PowerOnVM_Task(t.Context(), l.client.Vim(), &types.PowerOnVM_Task{This: l.vm().Ref()})
	require.Error(t, err)
	require.NoError(t, l.vm().PowerOn())
	var running *RunningError
	require.ErrorAs(t, l.fill(d, 'x'), &running)
	require.NoError(t, l.vm().PowerOff())
	require.NoError(t, l.fill(d, 'x'))
	_, err = d.Commit(t.Context())
	require.NoError(t, err)
	require.Empty(t, d.Notes()[1:], "but for how it was written")
	require.Empty(t, l.leftovers())
	_, err = methods.PowerOnVM_Task(t.Context(), l.client.Vim(), &types.PowerOnVM_Task{This: l.vm().Ref()})
	require.NoError(t, err)
}

// A single host has no such means: the note says so, and the looks remain.
func TestHostCannotKeepOthersOff(t *testing.T) {
	l := newLab(t, vmwaretest.Options{ESX: true, PoweredOff: true, DiskBytes: 1 << 20})
	d, err := l.place(nil, RestorerOptions{}, NBDSSL)
	require.NoError(t, err)
	require.Contains(t, strings.Join(d.Notes(), "\n"), "was not prevented")
	require.NoError(t, d.Close())
	require.Empty(t, l.placed())
	require.Empty(t, l.leftovers())
}

// Tracking that is turned on over snapshots tells wrong changes: after a restore under them it stays off, whatever an older mark
// asks for.
func TestRestoreUnderSnapshotsLeavesTrackingOff(t *testing.T) {
	l := newLab(t, vmwaretest.Options{DiskBytes: 8 << 20})
	res, _, err := l.try(nil)
	require.NoError(t, err)
	user, err := l.vm().CreateSnapshot("mine", "")
	require.NoError(t, err)
	require.NoError(t, l.vm().PowerOff())
	l.scribbleAll(3)
	d, err := l.place(nil, RestorerOptions{UnderSnapshots: true}, NBDSSL)
	require.NoError(t, err)
	require.True(t, l.placed().tracked)
	require.NoError(t, l.fill(d, 'x'))
	var incomplete *IncompleteError
	require.ErrorAs(t, d.Close(), &incomplete)
	require.NoError(t, l.vm().PowerOn()) // in spite of the note
	require.NoError(t, l.vm().PowerOff())

	info, err := job.FindPoint(t.Context(), l.repo, res.Point)
	require.NoError(t, err)
	r, err := NewRestorer(l.client, &RestorerOptions{UnderSnapshots: true, Transports: &TransportOptions{Order: []string{NBDSSL}}})
	require.NoError(t, err)
	back, err := job.Restore(t.Context(), l.repo, info, r, &job.RestoreOptions{InPlace: l.vm().Ref().Value, Compare: true, Workers: 1})
	require.NoError(t, err)
	require.Contains(t, strings.Join(back.Notes, "\n"), "cannot be enabled while the VM has snapshots")
	m, err := l.client.machine(t.Context(), l.vm().Ref())
	require.NoError(t, err)
	require.False(t, isTrue(m.Config.ChangeTrackingEnabled))
	require.NoError(t, l.vm().PowerOn())
	for range 2 {
		l.scribbleAll(4)
		res := l.point(&job.BackupOptions{Sample: -1})
		require.Equal(t, job.Allocated, res.Disks[0].Method)
	}
	require.NoError(t, l.vm().RemoveSnapshot(user, false))
	l.point(nil)
	l.changed()
}

func TestPlacingIsReadAsWritten(t *testing.T) {
	for _, p := range []placing{{mark: "m", since: "t"}, {mark: "m", since: "t", tracked: true}, {mark: "m", since: "t", by: "box", tracked: true}} {
		config := &types.VirtualMachineConfigInfo{ExtraConfig: []types.BaseOptionValue{&types.OptionValue{Key: keyPlacing, Value: p.String()}}}
		back, ok := placingOf(config)
		require.True(t, ok)
		require.Equal(t, p, back)
	}
}

func TestMethodsOfAnEffect(t *testing.T) {
	list, err := methodsOf(hikae.Effect{Facts: map[string]string{}})
	require.NoError(t, err)
	require.Equal(t, relocation, list, "as older versions wrote it")
	_, err = methodsOf(hikae.Effect{Facts: map[string]string{"methods": "RelocateVM_Task,Destroy_Task"}})
	require.Error(t, err)
}

// A VM that is being written over is not backed up beside that.
func TestBackupBesideARestore(t *testing.T) {
	l := newLab(t, vmwaretest.Options{PoweredOff: true, DiskBytes: 1 << 20})
	_, err := l.place(nil, RestorerOptions{}, NBDSSL)
	require.NoError(t, err)
	_, _, err = l.try(nil)
	var incomplete *IncompleteError
	require.ErrorAs(t, err, &incomplete)
}
