//go:build linux

package kvm

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/kvm/qga"
)

// A folder that was given to QEMU's user is QEMU's: what stands under our file's name may be a link to a file of root's.
func TestGiveFollowsNoLink(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	target, link := filepath.Join(t.TempDir(), "shadow"), filepath.Join(t.TempDir(), "fleece0.qcow2")
	require.NoError(t, os.WriteFile(target, make([]byte, 100), 0o600))
	require.NoError(t, os.Symlink(target, link))
	owner{uid: 12345, gid: 12345}.give(link)
	info, err := os.Stat(target)
	require.NoError(t, err)
	require.Zero(t, info.Sys().(*syscall.Stat_t).Uid)
	require.Error(t, resize(link, 1<<20))
	info, err = os.Stat(target)
	require.NoError(t, err)
	require.EqualValues(t, 100, info.Size())
}

// What a VM printed may be more than there is memory.
func TestOverReadsTheEnd(t *testing.T) {
	log := filepath.Join(t.TempDir(), "vm.log")
	f, err := os.Create(log)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("the end"), 64<<20)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	l := &launched{ended: make(chan struct{}), log: log}
	close(l.ended)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	ended, why := l.over()
	runtime.ReadMemStats(&after)
	require.True(t, ended)
	require.ErrorContains(t, why, "the end")
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(8<<20))
}

// Two disks with long names of one beginning are two nodes.
func TestOptionsOfLongKeys(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, key := range []string{"scsi-0QEMU_QEMU_HARDDISK_drive-scsi0-0-0", "scsi-0QEMU_QEMU_HARDDISK_drive-scsi0-0-1", "a_b", "a-b"} {
		_, node, _ := strings.Cut(strings.Join(StartedDisk{Key: key, Path: "/x"}.Options(), ","), "node-name=")
		node, _, _ = strings.Cut(node, ",")
		require.False(t, seen[node], node)
		require.LessOrEqual(t, len(node), 31)
		seen[node] = true
	}
}

// A raw disk of which nobody said that it is raw: its guest wrote a qcow2 header there that leads to another file. QEMU's
// programs would write there.
func TestGuestsHeaderIsNotWrittenThrough(t *testing.T) {
	t.Parallel()
	need(t, "qemu-img")
	dir := t.TempDir()
	disk, data := filepath.Join(dir, "disk.img"), filepath.Join(dir, "other.raw")
	s := &parked{t: t}
	s.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file="+data+",data_file_raw=on", disk, "1M")
	m := Machine{QMP: filepath.Join(dir, "qmp"), Name: "web1", Disks: []DiskImage{{Key: "a", Path: disk}}}
	_, err := NewRestorer(&RestorerOptions{Machines: []Machine{m}}).InPlace(t.Context(), m.QMP, nil)
	require.ErrorContains(t, err, "qcow2:")
	_, err = New([]Machine{m}, nil).Snapshot(t.Context(), m.QMP, nil)
	require.ErrorContains(t, err, "qcow2:")
	m.Disks[0].Format = formatQcow2
	draft, err := NewRestorer(&RestorerOptions{Machines: []Machine{m}}).InPlace(t.Context(), m.QMP, nil)
	require.NoError(t, err, "it was said that it is one")
	require.NoError(t, draft.Close())
	snap, err := New([]Machine{m}, nil).Snapshot(t.Context(), m.QMP, nil)
	require.NoError(t, err)
	require.NoError(t, snap.Release(t.Context()))
}

// A point of a VM that is off names fewer disks than the VM had: whoever restores it would miss them.
func TestOfflineMissesDisk(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.img")
	require.NoError(t, os.WriteFile(path, make([]byte, 1<<20), 0o600))
	m := Machine{QMP: filepath.Join(t.TempDir(), "qmp"), Name: "web1", Disks: []DiskImage{{Key: "a", Path: path, Format: formatRaw}},
		Config: map[string][]byte{recordBlob: []byte(`{"disks":[{"key":"a","path":"/a"},{"key":"b","path":"/b"},{"key":"c","path":"/c","skip":"why"}]}`)}}
	snap, err := New([]Machine{m}, nil).Snapshot(t.Context(), m.QMP, nil)
	require.NoError(t, err)
	defer snap.Release(context.Background())
	warnings := snap.(interface{ Warnings() []string }).Warnings()
	require.Len(t, warnings, 1)
	require.Contains(t, warnings[0], "disk b ")
}

// An image whose bitmaps say that QEMU did not end in good order is not that of a guest that was shut down.
func TestOfflineAfterACrash(t *testing.T) {
	t.Parallel()
	s := newParked(t)
	p := New([]Machine{s.machine}, &Options{Scratch: s.dir})
	snap, err := p.Snapshot(t.Context(), s.machine.QMP, nil)
	require.NoError(t, err)
	require.Equal(t, hikae.Offline, snap.Consistency())
	require.NoError(t, snap.Commit(t.Context()))
	require.NoError(t, snap.Release(t.Context()))
	s.on()
	s.write(cowDisk, "write -P 9 0 4k")
	require.NoError(t, s.cmd.Process.Kill())
	<-s.ended
	snap, err = p.Snapshot(t.Context(), s.machine.QMP, nil)
	require.NoError(t, err)
	require.Equal(t, hikae.Crash, snap.Consistency())
	require.NotEmpty(t, snap.(interface{ Warnings() []string }).Warnings())
	require.NoError(t, snap.Release(t.Context()))
}

// What a guest says goes into reports: not as much as it likes.
func TestGuestsWordsAreBounded(t *testing.T) {
	t.Parallel()
	c := qga.Via(func(context.Context, []byte) ([]byte, error) {
		return []byte(`{"error": {"class": "` + strings.Repeat("c", 1<<20) + `", "desc": "` + strings.Repeat("é", 1<<20) + `"}}`), nil
	})
	defer c.Close()
	err := c.Do(t.Context(), "x", nil, nil)
	require.True(t, qga.Refused(err))
	require.Less(t, len(err.Error()), 4<<10)
	require.Less(t, len(err.(*qga.Error).Class), 4<<10)
}
