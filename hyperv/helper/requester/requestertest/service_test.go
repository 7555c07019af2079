package requestertest

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/helper/requester"
)

// It holds its caller to the order, and a shadow copy is what the volume was.
func TestService(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a")
	require.NoError(t, os.WriteFile(file, []byte("before"), 0o600))
	s := &Service{Volumes: map[string]string{`C:\`: dir}}
	ctx := t.Context()
	b, err := s.New(ctx)
	require.NoError(t, err)
	var out *requester.Error
	require.ErrorAs(t, b.PrepareForBackup(ctx), &out)
	require.Equal(t, requester.BadState, out.Code)
	require.NoError(t, b.Initialize(ctx))
	require.NoError(t, b.SetContext(ctx, requester.ContextBackup))
	require.NoError(t, b.SetBackupState(ctx, requester.Copy))
	_, err = b.StartSnapshotSet(ctx)
	require.ErrorAs(t, err, &out)
	_, err = b.GatherWriterMetadata(ctx)
	require.NoError(t, err)
	_, err = b.StartSnapshotSet(ctx)
	require.NoError(t, err)
	v, err := s.Volume(ctx, `c:\x\`)
	require.NoError(t, err)
	id, err := b.AddToSnapshotSet(ctx, v.Name)
	require.NoError(t, err)
	require.NoError(t, b.PrepareForBackup(ctx))
	require.NoError(t, b.DoSnapshotSet(ctx))
	require.NoError(t, os.WriteFile(file, []byte("after"), 0o600))
	found, err := b.GetSnapshotProperties(ctx, id)
	require.NoError(t, err)
	f, err := s.Open(ctx, found.Device, "a")
	require.NoError(t, err)
	got, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
	require.NoError(t, err)
	require.Equal(t, "before", string(got))
	require.Len(t, s.Left(), 3)
	require.NoError(t, f.Close())
	require.NoError(t, b.Close())
	require.Empty(t, s.Left(), "what does not persist goes with its requester")
}
