//go:build linux

package kvm

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe/pipetest"
)

// Two disks of one size swap their keys between two backups, as libvirt's virtio-disk0 and virtio-disk1 do when their
// order is changed: neither is taken for the other, by a backup nor by a restore in place.
func TestSwappedDisks(t *testing.T) {
	t.Parallel()
	need(t, "qemu-img", "qemu-io", "qemu-nbd")
	dir, err := os.MkdirTemp("", "swap") // short, for sockets
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &parked{t: t, dir: dir, backend: pipetest.NewBackend(64 << 10), machine: Machine{QMP: filepath.Join(dir, "qmp"), Name: "web1"}}
	content := map[string][]byte{}
	for i, key := range []string{"disk0", "disk1"} {
		d := DiskImage{Key: key, Path: filepath.Join(dir, key+".qcow2"), Format: formatQcow2}
		s.machine.Disks = append(s.machine.Disks, d)
		s.run("qemu-img", "create", "-q", "-f", "qcow2", d.Path, "4M")
		s.run("qemu-io", "-f", "qcow2", "-c", []string{"write -P 1 0 2M", "write -P 2 1M 2M"}[i], d.Path)
		raw := filepath.Join(dir, key+".raw")
		s.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", d.Path, raw)
		content[key], err = os.ReadFile(raw)
		require.NoError(t, err)
	}
	backup := func() job.Result {
		res, err := job.Backup(t.Context(), New([]Machine{s.machine}, &Options{Scratch: dir}), s.machine.QMP, s.backend, nil)
		require.NoError(t, err)
		return res
	}
	first := backup()
	d := s.machine.Disks
	d[0].Path, d[1].Path = d[1].Path, d[0].Path
	second := backup()
	for point, want := range map[string][2]string{first.Point: {"disk0", "disk1"}, second.Point: {"disk1", "disk0"}} {
		for i, key := range []string{"disk0", "disk1"} {
			img, err := s.backend.Open(t.Context(), point, key)
			require.NoError(t, err)
			got := make([]byte, img.Size())
			_, err = img.ReadAt(t.Context(), got, 0)
			require.NoError(t, err)
			require.NoError(t, img.Close())
			require.True(t, bytes.Equal(content[want[i]], got), "%s of %s is not what the disk was", key, point)
		}
	}

	d[0].Path, d[1].Path = d[1].Path, d[0].Path
	info, err := job.FindPoint(t.Context(), s.backend, second.Point)
	require.NoError(t, err)
	_, err = job.Restore(t.Context(), s.backend, info, NewRestorer(&RestorerOptions{Machines: []Machine{s.machine}, Scratch: dir}),
		&job.RestoreOptions{InPlace: s.machine.QMP, Compare: true})
	require.NoError(t, err)
}

// A point's change id is what somebody wrote into a repository. A bitmap that is not ours is neither believed nor
// removed.
func TestForeignChangeID(t *testing.T) {
	t.Parallel()
	need(t, "qemu-img")
	path := filepath.Join(t.TempDir(), "a.qcow2")
	s := &parked{t: t}
	s.run("qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
	s.run("qemu-img", "bitmap", "--add", "-f", "qcow2", path, "theirs")
	m := Machine{QMP: filepath.Join(filepath.Dir(path), "qmp"), Name: "web1", Disks: []DiskImage{{Key: "a", Path: path, Format: formatQcow2}}}
	snap, err := New([]Machine{m}, nil).Snapshot(t.Context(), m.QMP, &hikae.SnapshotOptions{Since: map[string]hikae.ChangeID{"a": "theirs"}})
	require.NoError(t, err)
	require.NoError(t, snap.Commit(t.Context()))
	require.NoError(t, snap.Release(t.Context()))
	require.Contains(t, s.run("qemu-img", "info", "--output=json", path), `"theirs"`)
}
