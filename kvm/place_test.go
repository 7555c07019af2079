//go:build linux

package kvm

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
)

// A restore in place was killed and left a disk half restored. The next one fails before it has written anything: the
// disk is half restored still, and nothing may say that it is whole.
func TestInPlaceKeepsMarkerOfKilled(t *testing.T) {
	t.Parallel()
	s := newParked(t)
	point := s.point(job.Allocated).Point
	require.NoError(t, setMarker(marker{Mark: newFootprint("").Mark, VM: "web1", Path: s.path(cowDisk)}))
	fault := pipetest.FailNth(1, true, "open")
	info, err := job.FindPoint(t.Context(), s.backend, point)
	require.NoError(t, err)
	_, err = job.Restore(t.Context(), pipetest.HookBackend(s.backend, fault.Hook), info,
		NewRestorer(&RestorerOptions{Machines: []Machine{s.machine}, Scratch: s.dir}), &job.RestoreOptions{InPlace: s.machine.QMP})
	require.ErrorIs(t, err, pipetest.ErrFault)
	var incomplete *IncompleteError
	require.ErrorAs(t, err, &incomplete)
	require.ErrorAs(t, unbroken(s.path(cowDisk)), &incomplete)
	_, err = New([]Machine{s.machine}, nil).Snapshot(t.Context(), s.machine.QMP, nil)
	require.ErrorAs(t, err, &incomplete)

	_, err = s.inPlace(point, job.RestoreOptions{})
	require.NoError(t, err)
	s.noMarkers()
}

// Between one disk and the next, and until the end, nobody can start the machine on what is half restored.
func TestInPlaceHoldsAllDisks(t *testing.T) {
	t.Parallel()
	s := newParked(t)
	draft, err := NewRestorer(&RestorerOptions{Machines: []Machine{s.machine}, Scratch: s.dir}).InPlace(t.Context(), s.machine.QMP, nil)
	require.NoError(t, err)
	defer draft.Close()
	refused := func(key, when string) {
		t.Helper()
		format := map[string]string{cowDisk: "qcow2", rawDisk: "raw"}[key]
		out, err := exec.CommandContext(t.Context(), "qemu-io", "-f", format, "-c", "flush", s.path(key)).CombinedOutput()
		require.True(t, err != nil || strings.Contains(string(out), "lock"), "%s: %s could be opened for writing: %s", when, key, out)
	}
	var disks []hikae.Disk
	for _, d := range draft.(*placeDraft).disks {
		disks = append(disks, hikae.Disk{Key: d.Key, Size: d.size})
	}
	require.NoError(t, draft.(*placeDraft).Ready(t.Context(), disks, nil))
	for _, d := range disks {
		refused(cowDisk, "before "+d.Key)
		refused(rawDisk, "before "+d.Key)
		target, err := draft.OpenDisk(t.Context(), d.Key)
		require.NoError(t, err)
		refused(d.Key, "while it is written")
		require.NoError(t, target.(pipe.ExtentTarget).Mark(t.Context(), pipe.Extent{Len: d.Size, Kind: pipe.Zero}))
		require.NoError(t, target.Commit(t.Context()))
		require.NoError(t, target.Close())
		refused(d.Key, "after it was written")
	}
	_, err = draft.Commit(t.Context())
	require.NoError(t, err)
	require.NoError(t, draft.Close())
	s.poke(cowDisk, "write 0 4k")
	s.poke(rawDisk, "write 0 4k")
}

// A restore in place that begins after a backup has looked for one, and before the backup holds the images.
func TestOfflineLooksForMarkersWhileItHolds(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.img")
	require.NoError(t, os.WriteFile(path, make([]byte, 1<<20), 0o600))
	d := &offDisk{DiskImage: DiskImage{Key: "a", Path: path, Format: formatRaw}}
	s := &offSnapshot{disks: []*offDisk{d}}
	require.NoError(t, s.verify(t.Context()))
	require.NoError(t, setMarker(marker{Mark: newFootprint("").Mark, Path: path}))
	var incomplete *IncompleteError
	require.ErrorAs(t, s.verify(t.Context()), &incomplete)
}

// The marker of an image is found by whatever name the image goes: a link to it is the same disk.
func TestMarkerByAnyName(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, link := filepath.Join(dir, "a.img"), filepath.Join(dir, "links", "b.img")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	require.NoError(t, os.Mkdir(filepath.Dir(link), 0o700))
	require.NoError(t, os.Symlink(path, link))
	require.NoError(t, setMarker(marker{Path: link}))
	require.Error(t, unbroken(path))
	require.NoError(t, removeMarker(path))
	require.NoError(t, unbroken(link))
}

// QEMU names some disks by options rather than by a path. They have no marker, and are no reason to fail.
func TestCompareLongName(t *testing.T) {
	t.Parallel()
	s := &snapshot{}
	s.Disks = []disk{{Key: "a"}}
	file := `json:{"driver":"qcow2","file":{"driver":"rbd","conf":"` + strings.Repeat("c", 300) + `"}}`
	err := s.compare(record{Disks: []recordedDisk{{DiskImage: DiskImage{Key: "a", Path: file, Format: "qcow2"}}}})
	require.NoError(t, err)
	require.Empty(t, s.Disks[0].File)
	require.False(t, errors.Is(err, os.ErrNotExist))
}
