package hypervtest

import (
	"bytes"
	"context"
	"io/fs"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/helper/requester"
	"github.com/hikae/hikae/hyperv/vhdx"
	"github.com/hikae/hikae/pipe"
)

// mounted is a snapshot of the array as files.
type mounted struct {
	*Storage
	id string
}

func (m mounted) Open(ctx context.Context, name string) (pipe.Image, error) {
	return m.Storage.Open(ctx, m.id, name)
}

// What the array pins is of one moment, is read where it is mounted alone, and is gone when it is deleted (R096, R097, R099).
func TestStorage(t *testing.T) {
	ctx := context.Background()
	h, guests := vssHost(t, "2019", "windows")
	g, s := guests[0], h.Storage()
	tip := g.Tip(0)
	_, err := s.Volume(`\\fs1\vms\x.vhdx`)
	require.Error(t, err)
	volume, err := s.Volume(tip)
	require.NoError(t, err)
	require.Equal(t, `C:\`, volume)
	_, err = s.Snapshot(ctx, "m", []string{`Q:\`})
	require.Error(t, err)

	before := make([]byte, vssDisk)
	_, err = g.Now(0).ReadAt(before, 0)
	require.NoError(t, err)
	id, err := s.Snapshot(ctx, "markone", []string{volume})
	require.NoError(t, err)
	require.NoError(t, g.Write(0, 1<<20, fill(4096, 'z')))
	_, err = s.Open(ctx, id, tip)
	require.ErrorIs(t, err, fs.ErrNotExist, "it is not mounted")
	folders, err := s.Mount(ctx, id)
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(folders[volume], "VMs", "web1", "disk_1.vhdx"))
	_, err = s.Mount(ctx, id)
	require.ErrorIs(t, err, ErrMounted)
	require.ErrorIs(t, s.Delete(ctx, id), ErrMounted)
	img, err := vhdx.OpenIn(ctx, mounted{s, id}, tip, nil)
	require.NoError(t, err)
	got := make([]byte, vssDisk)
	_, err = img.ReadAt(ctx, got, 0)
	require.NoError(t, err)
	require.True(t, bytes.Equal(before, got))
	require.NoError(t, img.Close())
	require.Equal(t, []string{id}, s.Find("markone"))
	require.Equal(t, StorageCounts{Snapshots: 1, Mounts: 1, Held: 1, Mounted: 1}, s.Counts())
	require.NoError(t, s.Unmount(ctx, id))
	require.NoError(t, s.Unmount(ctx, id))
	h.Fail(Fault{Event: "storage.delete", Reason: "the array does not answer"})
	require.Error(t, s.Delete(ctx, id))
	require.NoError(t, s.Delete(ctx, id))
	require.NoError(t, s.Delete(ctx, id))
	require.Equal(t, StorageCounts{Snapshots: 1, Deleted: 1, Mounts: 1, Unmounts: 1}, s.Counts())
	require.Empty(t, h.Shadows())
}

// A transportable set is on no host: the array brings it to the proxy, and the host deletes it (R051).
func TestStorageTransport(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	h, guests := vssHost(t, "2012", "windows")
	g, s := guests[0], h.Storage()
	h.SetVSS(VSSOptions{HardwareProvider: true, InGap: func(g *Guest) { require.NoError(t, g.Write(0, 1<<20, fill(4096, 'x'))) }})
	tip := g.Tip(0)
	b, err := h.VSS().New(ctx)
	require.NoError(t, err)
	defer b.Close()
	require.NoError(t, b.Initialize(ctx))
	require.NoError(t, b.SetContext(ctx, requester.AttrTransportable))
	require.NoError(t, b.SetBackupState(ctx, requester.Copy))
	writers, err := b.GatherWriterMetadata(ctx)
	require.NoError(t, err)
	require.NoError(t, b.AddComponent(ctx, writers[0], writers[0].Components[0]))
	set, err := b.StartSnapshotSet(ctx)
	require.NoError(t, err)
	shadow, err := b.AddToSnapshotSet(ctx, `C:\`)
	require.NoError(t, err)
	require.NoError(t, b.PrepareForBackup(ctx))
	require.NoError(t, b.DoSnapshotSet(ctx))
	p, err := b.GetSnapshotProperties(ctx, shadow)
	require.NoError(t, err)
	require.Empty(t, p.Device)
	require.NotZero(t, p.Attributes&requester.AttrTransportable)
	_, err = h.OpenShadow(ctx, ShadowPrefix+`1\VMs\web1\disk_1.vhdx`)
	require.ErrorIs(t, err, fs.ErrNotExist)

	_, err = s.Import("m", "{00000000-0000-0000-0000-000000000000}")
	require.ErrorIs(t, err, fs.ErrNotExist)
	id, err := s.Import("m", string(set))
	require.NoError(t, err)
	_, err = s.Mount(ctx, id)
	require.NoError(t, err)
	img, err := vhdx.OpenIn(ctx, mounted{s, id}, tip, nil)
	require.NoError(t, err)
	got := make([]byte, vssDisk)
	_, err = img.ReadAt(ctx, got, 0)
	require.NoError(t, err)
	require.True(t, bytes.Equal(frozen(t, g, 0), got), "auto-recovery ran before it was brought away")
	require.NoError(t, img.Close())
	require.NoError(t, s.Unmount(ctx, id))
	require.NoError(t, s.Delete(ctx, id))
	require.Len(t, h.Shadows(), 1, "the shadow copies stay the host's")
	require.NoError(t, b.BackupComplete(ctx))
	require.NoError(t, b.DeleteSnapshots(ctx, set))
	require.Empty(t, h.Shadows())
	_, err = s.Mount(ctx, id)
	require.ErrorIs(t, err, fs.ErrNotExist)
}
