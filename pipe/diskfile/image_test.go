package diskfile_test

import (
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

// sparse makes a raw file of 8 MiB with data in [1 MiB, 1 MiB+64 KiB) and in its last byte.
func sparse(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	data := make([]byte, 64<<10)
	for i := range data {
		data[i] = byte(i + i>>8)
	}
	_, err = f.WriteAt(data, 1<<20)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte{7}, 8<<20-1)
	require.NoError(t, err)
	return path
}

func extents(t *testing.T, img pipe.Image, off, n int64) []pipe.Extent {
	t.Helper()
	var all []pipe.Extent
	for e, err := range pipe.Extents(t.Context(), img, off, n) {
		require.NoError(t, err)
		require.Equal(t, off, e.Off)
		off = e.End()
		all = append(all, e)
	}
	return all
}

func TestOpen(t *testing.T) {
	img, err := diskfile.Open(sparse(t), nil)
	require.NoError(t, err)
	require.Equal(t, int64(8<<20), img.Size())

	p := make([]byte, 20)
	n, err := img.ReadAt(t.Context(), p, 8<<20-5)
	require.Equal(t, io.EOF, err)
	require.Equal(t, []byte{0, 0, 0, 0, 7}, p[:n])
	n, err = img.ReadAt(t.Context(), p, 1<<20)
	require.NoError(t, err)
	require.Equal(t, byte(19), p[n-1])
	_, err = img.ReadAt(t.Context(), p, 9<<20)
	require.Equal(t, io.EOF, err)
	_, err = img.ReadAt(t.Context(), p, -1)
	require.ErrorIs(t, err, fs.ErrInvalid)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = img.ReadAt(ctx, p, 0)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, img.Close())
}

func TestExtents(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("file systems elsewhere may have other holes")
	}
	img, err := diskfile.Open(sparse(t), nil)
	require.NoError(t, err)
	defer img.Close()
	all := extents(t, img, 0, img.Size())
	require.Equal(t, []pipe.Extent{
		{Off: 0, Len: 1 << 20, Kind: pipe.Zero},
		{Off: 1 << 20, Len: 64 << 10, Kind: pipe.Data},
		{Off: 1<<20 + 64<<10, Len: 7<<20 - 64<<10 - 4<<10, Kind: pipe.Zero},
		{Off: 8<<20 - 4<<10, Len: 4 << 10, Kind: pipe.Data},
	}, all)
	require.Equal(t, []pipe.Extent{{Off: 1<<20 + 100, Len: 50, Kind: pipe.Data}}, extents(t, img, 1<<20+100, 50))
	require.Empty(t, extents(t, img, 8<<20, 0))
	for _, err := range img.Extents(t.Context(), 8<<20, 1) {
		require.ErrorIs(t, err, fs.ErrInvalid)
	}
}

// TestChanged: a file that is written to while it is read is found out (R182).
func TestChanged(t *testing.T) {
	for name, change := range map[string]func(path string) error{
		"written": func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteAt([]byte("x"), 5)
			return err
		},
		"shortened": func(path string) error { return os.Truncate(path, 100) },
		"grown":     func(path string) error { return os.Truncate(path, 9<<20) },
	} {
		t.Run(name, func(t *testing.T) {
			path := sparse(t)
			img, err := diskfile.Open(path, nil)
			require.NoError(t, err)
			require.NoError(t, diskfile.Changed(img))
			time.Sleep(20 * time.Millisecond) // older kernels tick that slowly
			require.NoError(t, change(path))
			var changed *diskfile.ChangedError
			require.ErrorAs(t, diskfile.Changed(img), &changed)
			if name == "shortened" {
				_, err := img.ReadAt(t.Context(), make([]byte, 10), 1<<20)
				require.ErrorAs(t, err, &changed)
			}
			require.ErrorAs(t, img.Close(), &changed)

			live, err := diskfile.Open(path, &diskfile.OpenOptions{Live: true})
			require.NoError(t, err)
			time.Sleep(20 * time.Millisecond)
			require.NoError(t, os.Truncate(path, 7))
			require.ErrorAs(t, live.Changed(), &changed)
			require.NoError(t, live.Close())
		})
	}
}

// TestChangedNot: a file whose name goes, or gets another file, is still the same content.
func TestChangedNot(t *testing.T) {
	path := sparse(t)
	img, err := diskfile.Open(path, nil)
	require.NoError(t, err)
	require.NoError(t, os.Rename(path, path+".old"))
	require.NoError(t, os.WriteFile(path, []byte("another"), 0o600))
	require.NoError(t, img.Close())
}

func TestChangedOfOthers(t *testing.T) {
	require.NoError(t, diskfile.Changed(pipe.FromReaderAt(nil, 0)))
}
