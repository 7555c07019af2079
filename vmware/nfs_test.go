package vmware

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/vmware/vmdk"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/simulator"
)

// TestNFS: a datastore that is mounted here is read as files, once it has shown that it is the datastore.
func TestNFS(t *testing.T) {
	const size = 5<<20 + 512
	s := newShop(t, simulator.VPX())
	want := pipetest.NewPattern(41, size, pipetest.RandomLayout(41, size, pipe.Zero, pipe.Data)...)
	p := s.put(t, "web1/web1.vmdk", vmdk.VMFS, want)
	tr := newNFS(map[string]string{s.store: s.dir}, newHTTPS())
	require.NoError(t, tr.Check(t.Context(), p))
	img, err := tr.Open(t.Context(), p)
	require.NoError(t, err)
	pipetest.TestImage(t, img, want)
	require.NoError(t, img.Close())
}

// TestNFSIsNotBelieved: a folder that is not the datastore, or is an older copy of it, or whose file is another disk, is not
// read from.
func TestNFSIsNotBelieved(t *testing.T) {
	const size = 1 << 20
	s := newShop(t, simulator.VPX())
	p := s.put(t, "web1/web1.vmdk", vmdk.VMFS, pipetest.NewPattern(42, size))
	var unfit *UnfitError
	require.ErrorAs(t, newNFS(nil, newHTTPS()).Check(t.Context(), p), &unfit)
	require.ErrorAs(t, newNFS(map[string]string{"other": s.dir}, newHTTPS()).Check(t.Context(), p), &unfit)

	copied := t.TempDir()
	require.NoError(t, os.CopyFS(copied, os.DirFS(s.dir)))
	tr := newNFS(map[string]string{s.store: copied}, newHTTPS())
	img, err := tr.Open(t.Context(), p)
	require.NoError(t, err, "a copy with the same content id holds the same content")
	require.NoError(t, img.Close())
	descriptor := filepath.Join(copied, "web1", "web1.vmdk")
	text, err := os.ReadFile(descriptor)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(descriptor, append(text, "# older\n"...), 0o600))
	_, err = tr.Open(t.Context(), p)
	require.ErrorAs(t, err, &unfit)
	require.Contains(t, unfit.Reason, "not the same")

	p.Disk.UUID = "6000c293-0000-0000-0000-000000000000"
	_, err = newNFS(map[string]string{s.store: s.dir}, newHTTPS()).Open(t.Context(), p)
	require.ErrorAs(t, err, &unfit)
	require.Contains(t, unfit.Reason, "the configuration says")
}

// TestNFSStaysInside: a link in the folder leads nowhere else, and no device is opened.
func TestNFSStaysInside(t *testing.T) {
	s := newShop(t, simulator.VPX())
	p := s.put(t, "web1/web1.vmdk", vmdk.VMFS, pipetest.NewPattern(43, 1<<20))
	outside := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(outside, make([]byte, 1<<20), 0o600))
	flat := filepath.Join(s.dir, "web1", "web1-flat.vmdk")
	require.NoError(t, os.Remove(flat))
	if err := os.Symlink(outside, flat); err != nil {
		t.Skip("no symbolic links: " + err.Error())
	}
	tr := newNFS(map[string]string{s.store: s.dir}, newHTTPS())
	_, err := tr.Open(t.Context(), p)
	require.Error(t, err)
	require.NoError(t, os.Remove(flat))
	require.NoError(t, os.Mkdir(flat, 0o700))
	_, err = tr.Open(t.Context(), p)
	require.ErrorIs(t, err, diskfile.ErrNotDisk)
}

// TestNFSFileChanges: a file that is written to while it is read is found out at the latest when it is closed.
func TestNFSFileChanges(t *testing.T) {
	s := newShop(t, simulator.VPX())
	p := s.put(t, "web1/web1.vmdk", vmdk.VMFS, pipetest.NewPattern(44, 1<<20))
	img, err := newNFS(map[string]string{s.store: s.dir}, newHTTPS()).Open(t.Context(), p)
	require.NoError(t, err)
	f, err := os.OpenFile(filepath.Join(s.dir, "web1", "web1-flat.vmdk"), os.O_WRONLY|os.O_APPEND, 0)
	require.NoError(t, err)
	_, err = f.Write(make([]byte, 512))
	require.NoError(t, err)
	require.NoError(t, f.Close())
	var changed *diskfile.ChangedError
	require.ErrorAs(t, img.Close(), &changed)
}
