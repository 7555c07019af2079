package hostfs_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/hostfs"
	"github.com/hikae/hikae/hyperv/vhdx"
	"github.com/hikae/hikae/pipe"
)

// A file is made once, written to in any order by several at once, and is what was written.
func TestWrite(t *testing.T) {
	h := startHost(t)
	s := h.open(t, nil)
	require.NoError(t, s.MakeDir(t.Context(), `C:\VMs\new\disks`))
	f, err := s.Create(t.Context(), `C:\VMs\new\disks\a.vhdx`)
	require.NoError(t, err)
	_, err = s.Create(t.Context(), `C:\VMs\new\disks\A.VHDX`)
	require.ErrorIs(t, err, hostfs.ErrBusy)
	_, err = s.OpenFile(t.Context(), `c:\VMs\NEW\disks\a.vhdx`)
	require.ErrorIs(t, err, hostfs.ErrBusy, "one writer at a time")
	want := noise(1, 6<<20+5)
	require.NoError(t, f.Truncate(t.Context(), int64(len(want))+1000))
	var all sync.WaitGroup
	for from := 0; from < len(want); from += 1<<20 + 1000 {
		all.Go(func() {
			p := want[from:min(len(want), from+1<<20+1000)]
			n, err := f.WriteAt(t.Context(), p, int64(from))
			if err != nil || n != len(p) {
				t.Errorf("%d, %v", n, err)
			}
		})
	}
	all.Wait()
	require.NoError(t, f.Sync(t.Context()))
	require.Equal(t, int64(len(want))+1000, f.Size())
	got := make([]byte, len(want)+1000)
	_, err = f.ReadAt(t.Context(), got, 0)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got[:len(want)]))
	require.Equal(t, make([]byte, 1000), got[len(want):])
	require.NoError(t, f.Truncate(t.Context(), int64(len(want))))
	_, err = f.WriteAt(t.Context(), []byte("x"), -1)
	require.ErrorIs(t, err, fs.ErrInvalid)
	require.ErrorIs(t, f.Truncate(t.Context(), -1), fs.ErrInvalid)
	require.NoError(t, f.Close())
	require.NoError(t, f.Close())
	_, err = f.WriteAt(t.Context(), []byte("x"), 0)
	require.ErrorIs(t, err, fs.ErrClosed)
	there, err := os.ReadFile(filepath.Join(h.c, "VMs/new/disks/a.vhdx"))
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, there))

	_, err = s.Create(t.Context(), `C:\VMs\new\disks\a.vhdx`)
	require.ErrorIs(t, err, fs.ErrExist)
	_, err = s.Create(t.Context(), `C:\VMs\nowhere\a.vhdx`)
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = s.OpenFile(t.Context(), `C:\VMs\new\disks\b.vhdx`)
	require.ErrorIs(t, err, fs.ErrNotExist)
	f, err = s.OpenFile(t.Context(), `C:\VMs\new\disks\a.vhdx`)
	require.NoError(t, err)
	require.Equal(t, int64(len(want)), f.Size())
	require.NoError(t, f.Close())
}

// A write far behind everything goes there in strides, and leaves zeros between.
func TestWriteFarAhead(t *testing.T) {
	h := startHost(t)
	f, err := h.open(t, nil).Create(t.Context(), `C:\a`)
	require.NoError(t, err)
	defer f.Close()
	const far = 5<<30 + 17
	require.NoError(t, f.Truncate(t.Context(), 8<<30))
	_, err = f.WriteAt(t.Context(), []byte("far"), far)
	require.NoError(t, err)
	_, err = f.WriteAt(t.Context(), []byte("near"), 1<<30-2)
	require.NoError(t, err)
	p := make([]byte, 1<<20)
	for _, off := range []int64{0, 1<<30 - 1<<19, 2<<30 - 1<<19, 5<<30 - 1<<19} {
		_, err := f.ReadAt(t.Context(), p, off)
		require.NoError(t, err)
		want := make([]byte, len(p))
		if at := int64(1<<30-2) - off; at >= 0 && at < int64(len(p)) {
			copy(want[at:], "near")
		}
		if at := int64(far) - off; at >= 0 && at < int64(len(p)) {
			copy(want[at:], "far")
		}
		require.True(t, bytes.Equal(want, p), "at %d", off)
	}
}

// A file whose connection is lost is lost, by name, and the next who opens it has it to himself.
func TestWriteLost(t *testing.T) {
	h := startHost(t)
	s := h.open(t, nil)
	f, err := s.Create(t.Context(), `C:\a`)
	require.NoError(t, err)
	_, err = f.WriteAt(t.Context(), []byte("before"), 0)
	require.NoError(t, err)
	h.wire.cut(false)
	_, err = f.WriteAt(t.Context(), []byte("after"), 0)
	require.ErrorIs(t, err, hostfs.ErrLost)
	require.ErrorIs(t, f.Sync(t.Context()), hostfs.ErrLost)
	require.ErrorIs(t, f.Close(), hostfs.ErrLost)
	f, err = s.OpenFile(t.Context(), `C:\a`)
	require.NoError(t, err)
	got := make([]byte, 6)
	_, err = f.ReadAt(t.Context(), got, 0)
	require.NoError(t, err)
	require.Equal(t, "before", string(got))
	require.NoError(t, f.Close())
}

// What others have open: a reader lets us read, one who writes too; who deletes waits, for a while.
func TestSharing(t *testing.T) {
	h := startHost(t)
	one, other := h.open(t, nil), h.open(t, nil)
	h.put(t, "a", noise(1, 100))
	f, err := one.OpenFile(t.Context(), `C:\a`)
	require.NoError(t, err)
	img, err := other.Open(t.Context(), `C:\a`)
	require.NoError(t, err)
	require.ErrorIs(t, other.Remove(t.Context(), `C:\a`), hostfs.ErrBusy)
	require.NoError(t, img.Close())
	require.NoError(t, f.Close())
	require.NoError(t, other.Remove(t.Context(), `C:\a`))
	require.NoError(t, other.Remove(t.Context(), `C:\a`))
	require.NoError(t, other.Remove(t.Context(), `C:\nowhere\a`))
}

// Folders are made with those above them, listed without what is no name, and removed when they are empty.
func TestFolders(t *testing.T) {
	h := startHost(t, "mangled names = no")
	s := h.open(t, nil)
	require.NoError(t, s.MakeDir(t.Context(), `C:\a\b\c`))
	require.NoError(t, s.MakeDir(t.Context(), `C:\a\b\c`))
	require.NoError(t, s.MakeDir(t.Context(), `C:\`))
	require.NoError(t, s.MakeDir(t.Context(), `\\fs1\vms\x`))
	var want []string
	for i := range 1010 {
		name := fmt.Sprintf("disk %04d.vhdx", i)
		h.put(t, `a\b\`+name, nil)
		want = append(want, name)
	}
	h.put(t, `a\b\what is no name `, nil)
	want = append(want, "c")
	slices.Sort(want)
	got, err := s.List(t.Context(), `C:\a\b`)
	require.NoError(t, err)
	slices.Sort(got)
	require.True(t, slices.Equal(want, got), "%d names", len(got))
	got, err = s.List(t.Context(), `C:\a\b\c`)
	require.NoError(t, err)
	require.Empty(t, got)
	_, err = s.List(t.Context(), `C:\a\nowhere`)
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = s.List(t.Context(), `C:\a\b\disk 0001.vhdx`)
	require.Error(t, err)
	require.Error(t, s.MakeDir(t.Context(), `C:\a\b\disk 0001.vhdx\d`))
	require.Error(t, s.MakeDir(t.Context(), `C:\a\b\disk 0001.vhdx`))
	require.Error(t, s.Remove(t.Context(), `C:\a\b`), "it is not empty")
	require.DirExists(t, filepath.Join(h.c, "a/b"))
	require.ErrorIs(t, s.Remove(t.Context(), `C:\`), fs.ErrInvalid)
	require.NoError(t, s.Remove(t.Context(), `C:\a\b\c`))
	require.NoDirExists(t, filepath.Join(h.c, "a/b/c"))

	free, err := s.Free(t.Context(), `C:\a\b\not\yet\there.vhdx`)
	require.NoError(t, err)
	require.Positive(t, free)
	root, err := s.Free(t.Context(), `C:\`)
	require.NoError(t, err)
	require.InDelta(t, root, free, 1<<30)
	_, err = s.Free(t.Context(), `Q:\`)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// A chain as a running VM with a checkpoint of its user's has it, on two volumes, is read and written through the host's own
// names. R092, R094.
func TestDisksOnTheHost(t *testing.T) {
	h := startHost(t)
	s := h.open(t, nil)
	const size = 9<<20 + 512
	want := noise(1, size)
	require.NoError(t, s.MakeDir(t.Context(), `C:\VMs\web1`))
	f, err := s.Create(t.Context(), `C:\VMs\web1\disk.vhdx`)
	require.NoError(t, err)
	target, err := vhdx.CreateOn(t.Context(), f, size, `C:\VMs\web1\disk.vhdx`, &vhdx.CreateOptions{BlockSize: 1 << 20})
	require.NoError(t, err)
	_, err = pipe.Copy(t.Context(), target, pipe.FromReaderAt(bytes.NewReader(want), size), nil)
	require.NoError(t, err)
	_, err = vhdx.OpenIn(t.Context(), s, `C:\VMs\web1\disk.vhdx`, nil)
	require.ErrorIs(t, err, vhdx.ErrCorrupt, "it is none before Commit")
	require.NoError(t, target.Commit(t.Context()))

	base := filepath.Join(h.c, "VMs/web1/disk.vhdx")
	middle, tip := filepath.Join(h.c, "VMs/web1/disk_1.avhdx"), filepath.Join(h.vms, "disk_2.avhdx")
	for _, c := range []struct{ path, parent, name string }{
		{middle, base, `C:\VMs\web1\disk.vhdx`}, {tip, middle, `\\?\UNC\HV1\C$\VMs\web1\disk_1.avhdx`},
	} {
		child, err := vhdx.Create(t.Context(), c.path, 0, &vhdx.CreateOptions{
			Parent: c.parent, ParentName: c.name, Open: vhdx.Options{Folder: filepath.Dir(h.c)},
		})
		require.NoError(t, err)
		off := rand.IntN(size - 70_000)
		copy(want[off:], noise(2, 70_000))
		_, err = child.WriteAt(t.Context(), want[off:off+70_000], int64(off))
		require.NoError(t, err)
		require.NoError(t, child.Commit(t.Context()))
	}
	name := `\\fs1\vms\disk_2.avhdx`
	requireDisk(t, s, name, want, 3)
	info, err := vhdx.InspectIn(t.Context(), s, name)
	require.NoError(t, err)
	require.Equal(t, int64(size), info.Size)
	require.Equal(t, vhdx.Differencing, info.Type)

	f, err = s.OpenFile(t.Context(), name)
	require.NoError(t, err)
	d, err := vhdx.OpenDiskIn(t.Context(), f, name, &vhdx.Options{Parents: s})
	require.NoError(t, err)
	copy(want[100:], "in place")
	_, err = d.WriteAt(t.Context(), []byte("in place"), 100)
	require.NoError(t, err)
	require.NoError(t, d.Commit(t.Context()))
	requireDisk(t, s, name, want, 3)

	h.wire.cut(false)
	requireDisk(t, s, name, want, 3)
	require.NoError(t, os.Remove(middle))
	_, err = vhdx.OpenIn(context.Background(), s, name, nil)
	require.ErrorIs(t, err, vhdx.ErrParentMissing)
}

func requireDisk(t *testing.T, s *hostfs.Store, name string, want []byte, depth int) {
	t.Helper()
	img, err := vhdx.OpenIn(t.Context(), s, name, nil)
	require.NoError(t, err)
	defer img.Close()
	require.Equal(t, depth, img.Info().Depth)
	require.Positive(t, img.Flight().Reads)
	got := make([]byte, len(want))
	_, err = img.ReadAt(t.Context(), got, 0)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
	require.NoError(t, img.Changed())
}
