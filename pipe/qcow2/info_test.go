package qcow2_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/diskfile"
	"github.com/hikae/hikae/pipe/qcow2"
)

// TestSnapshots reads the states that QEMU has kept within an image.
func TestSnapshots(t *testing.T) {
	needs(t, "qemu-img", "qemu-io")
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", path, "4M")
	qemuIO(t, path, "write -P 1 0 1M")
	run(t, "qemu-img", "snapshot", "-c", "first", path)
	qemuIO(t, path, "write -P 2 512k 1M")
	run(t, "qemu-img", "snapshot", "-c", "second", path)
	run(t, "qemu-img", "resize", "-q", "-f", "qcow2", path, "6M")
	qemuIO(t, path, "write -P 3 0 6M")

	want := bytes.Repeat([]byte{1}, 4<<20)
	clear(want[1<<20:])
	for name, id := range map[string]string{"first": "1", "second": "2"} {
		if name == "second" {
			copy(want[512<<10:], bytes.Repeat([]byte{2}, 1<<20))
		} else {
			copy(want[512<<10:], bytes.Repeat([]byte{1}, 512<<10))
			clear(want[1<<20:])
		}
		for _, by := range []string{name, id} {
			img, err := qcow2.Open(t.Context(), path, &qcow2.Options{Snapshot: by})
			require.NoError(t, err)
			require.Equal(t, int64(4<<20), img.Size())
			require.Equal(t, -1, firstDifference(want, readAll(t, img, 1<<20)), by)
			require.Len(t, img.Info().Snapshots, 2)
			require.NoError(t, img.Close())
		}
	}
	img, err := qcow2.Open(t.Context(), path, nil)
	require.NoError(t, err)
	require.Equal(t, bytes.Repeat([]byte{3}, 6<<20), readAll(t, img, 1<<20))
	require.NoError(t, img.Close())
	_, err = qcow2.Open(t.Context(), path, &qcow2.Options{Snapshot: "third"})
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// TestInfo: what QEMU was told to make is what the image says.
func TestInfo(t *testing.T) {
	needs(t, "qemu-img")
	dir := t.TempDir()
	base, path := filepath.Join(dir, "base.qcow2"), filepath.Join(dir, "disk.qcow2")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10,cluster_size=4k", base, "1M")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "extended_l2=on,compression_type=zstd,cluster_size=128k",
		"-b", "base.qcow2", "-F", "qcow2", path, "1M")
	run(t, "qemu-img", "bitmap", "-f", "qcow2", "--add", "-g", "32k", path, "daily")
	run(t, "qemu-img", "bitmap", "-f", "qcow2", "--add", "--disable", path, "weekly")
	img, err := qcow2.Open(t.Context(), path, nil)
	require.NoError(t, err)
	defer img.Close()
	require.Equal(t, qcow2.Info{
		Version: 3, ClusterSize: 128 << 10, Compression: qcow2.Zstd, Subclusters: true, Backing: "base.qcow2", Depth: 2,
		Bitmaps: []qcow2.Bitmap{
			{Name: "daily", Granularity: 32 << 10, Auto: true},
			{Name: "weekly", Granularity: 64 << 10},
		},
	}, img.Info())
	old, err := qcow2.Open(t.Context(), base, nil)
	require.NoError(t, err)
	defer old.Close()
	require.Equal(t, qcow2.Info{Version: 2, ClusterSize: 4096, Depth: 1}, old.Info())
}

// TestFormat: the table finds qcow2 by content, and raw for what only has the name.
func TestFormat(t *testing.T) {
	formats := diskfile.Formats{qcow2.Format(nil, &qcow2.CreateOptions{ClusterSize: 4096}), diskfile.Raw()}
	path := filepath.Join(t.TempDir(), "disk.raw")
	f, err := formats.ByName("qcow2")
	require.NoError(t, err)
	target, err := f.Create(t.Context(), path, 1<<20, nil)
	require.NoError(t, err)
	require.NoError(t, target.Commit(t.Context()))
	_, err = f.Create(t.Context(), path, 1<<20, nil)
	require.ErrorIs(t, err, fs.ErrExist)
	img, err := formats.Open(t.Context(), path, "", nil)
	require.NoError(t, err)
	require.Equal(t, int64(1<<20), img.Size())
	require.Equal(t, int64(4096), img.(*qcow2.Image).Info().ClusterSize)
	require.NoError(t, img.Close())

	name := filepath.Join(t.TempDir(), "disk.qcow2")
	require.NoError(t, os.WriteFile(name, []byte("no qcow2"), 0o600))
	found, err := formats.Detect(t.Context(), name)
	require.NoError(t, err)
	require.Equal(t, "raw", found.Name())
	_, err = formats.Open(t.Context(), name, "qcow2", nil)
	require.ErrorIs(t, err, qcow2.ErrCorrupt)
}
