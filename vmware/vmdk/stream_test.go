package vmdk_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/vmware/vmdk"
)

// streamed reads a stream in one pass.
func streamed(t testing.TB, b []byte) ([]byte, error) {
	s, err := vmdk.ReadStream(t.Context(), bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	out := make([]byte, s.Size())
	for g, err := range s.Grains(t.Context()) {
		if err != nil {
			return nil, err
		}
		copy(out[g.Off:], g.Data)
	}
	return out, nil
}

func requireStream(t testing.TB, path string, want []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	got, err := streamed(t, b)
	require.NoError(t, err)
	require.Equal(t, -1, firstDifference(want, got))
}

// TestStream writes images as streams, and reads them in one pass, at random, and with QEMU.
func TestStream(t *testing.T) {
	needs(t, "qemu-img")
	const table = 32 << 20 // what one covers
	for seed, size := range []int64{0, 512, 65536, 65536 + 512, 3<<20 + 1024, table + 1<<20} {
		layout := pipetest.RandomLayout(uint64(seed), size, pipe.Data, pipe.Zero)
		if size > table {
			layout = []pipe.Extent{
				{Len: 99_999, Kind: pipe.Data}, {Off: 99_999, Len: table - 200_000, Kind: pipe.Zero},
				{Off: table - 100_001, Len: 300_000, Kind: pipe.Data}, {Off: table + 199_999, Len: size - table - 199_999, Kind: pipe.Zero},
			}
		}
		src := pipetest.NewPattern(uint64(seed), size, layout...)
		var buf bytes.Buffer
		n, err := vmdk.WriteStream(t.Context(), &buf, src, &vmdk.StreamOptions{Name: "a b.vmdk", DDB: map[string]string{"uuid": "60 00"}})
		require.NoError(t, err)
		require.Equal(t, int64(buf.Len()), n)
		want := readAll(t, src.Blank(), 1<<20)
		got, err := streamed(t, buf.Bytes())
		require.NoError(t, err)
		require.Equal(t, -1, firstDifference(want, got))
		path := filepath.Join(t.TempDir(), "other.vmdk")
		require.NoError(t, os.WriteFile(path, buf.Bytes(), 0o600))
		if size > 0 { // QEMU takes a disk of no bytes for a descriptor
			require.Equal(t, -1, firstDifference(want, qemuContent(t, path)), "%d bytes", size)
		}
		img, err := vmdk.Open(t.Context(), path, nil)
		require.NoError(t, err)
		pipetest.TestImage(t, img, src.Blank())
		require.Equal(t, "60 00", img.Info().DDB["uuid"])
		require.NoError(t, img.Close())
	}
}

// TestStreamOfQEMU reads what qemu-img writes as a stream, which has its tables in front and no end.
func TestStreamOfQEMU(t *testing.T) {
	needs(t, "qemu-img")
	dir := t.TempDir()
	src := pipetest.NewPattern(3, 5<<20+512, pipetest.RandomLayout(3, 5<<20+512, pipe.Data, pipe.Zero)...)
	want := readAll(t, src.Blank(), 1<<20)
	raw, path := filepath.Join(dir, "raw"), filepath.Join(dir, "disk.vmdk")
	require.NoError(t, os.WriteFile(raw, want, 0o600))
	run(t, "qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, path)
	requireStream(t, path, want)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	_, err = streamed(t, b[:len(b)/2/512*512])
	require.ErrorIs(t, err, vmdk.ErrCorrupt, "one that ends between grains is told by its tables")
}

// TestStreamCut: a stream that ends anywhere is never taken for a whole one, in one pass or as a file.
func TestStreamCut(t *testing.T) {
	var buf bytes.Buffer
	_, err := vmdk.WriteStream(t.Context(), &buf, pipetest.NewPattern(1, 70_000), nil)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "cut.vmdk")
	for n := 0; n < buf.Len(); n += 1 + min(n%512*7, 300) {
		_, err := streamed(t, buf.Bytes()[:n])
		require.ErrorIs(t, err, vmdk.ErrCorrupt, "%d bytes", n)
		require.NoError(t, os.WriteFile(path, buf.Bytes()[:n], 0o600))
		_, err = vmdk.Open(t.Context(), path, nil)
		require.ErrorIs(t, err, vmdk.ErrCorrupt, "%d bytes", n)
	}
}

// TestStreamErrors: errors of both ends come back, and stopping early is no error.
func TestStreamErrors(t *testing.T) {
	src := pipetest.NewPattern(1, 3<<20)
	full := errors.New("full")
	for n := range 4 {
		_, err := vmdk.WriteStream(t.Context(), &failing{n, full}, src, nil)
		require.ErrorIs(t, err, full)
	}
	bad := pipetest.BadSectors(src, pipe.Extent{Off: 2 << 20, Len: 512})
	_, err := vmdk.WriteStream(t.Context(), &bytes.Buffer{}, bad, nil)
	require.Error(t, err)
	var buf bytes.Buffer
	_, err = vmdk.WriteStream(t.Context(), &buf, src, nil)
	require.NoError(t, err)
	s, err := vmdk.ReadStream(t.Context(), &buf)
	require.NoError(t, err)
	for range s.Grains(t.Context()) {
		break
	}
	for _, err := range s.Grains(t.Context()) {
		require.Error(t, err, "a stream is read once")
	}
}

// failing takes n writes.
type failing struct {
	n   int
	err error
}

func (f *failing) Write(p []byte) (int, error) {
	if f.n--; f.n < 0 {
		return 0, f.err
	}
	return len(p), nil
}
