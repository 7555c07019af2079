package vss

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var hyperV = GUID{0x66841CD4, 0x6DED, 0x4F4B, [8]byte{0x8F, 0x17, 0xFD, 0x23, 0xF8, 0xDD, 0xC3, 0xDE}}

// A set of a caller's own, with one writer: every slot and every argument is as the published headers have it.
func TestWindowsBackup(t *testing.T) {
	calls := fake(t, "")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b, err := OpenBackup(hyperV)
	require.NoError(t, err)
	require.NoError(t, b.Initialize(ctx))
	require.NoError(t, b.SetContext(ctx, 0x40))
	require.NoError(t, b.SetBackupState(ctx, 5))
	require.NoError(t, b.EnableWriterClasses(ctx, []GUID{hyperV}))
	writers, err := b.Writers(ctx)
	require.NoError(t, err)
	require.Len(t, writers, 1)
	require.Equal(t, hyperV, writers[0].Class)
	require.Len(t, writers[0].Components, 2)
	vm := writers[0].Components[1]
	require.Equal(t, Component{Type: FileGroup, Name: "0A1B2C3D-0000-4000-8000-0000000000A1", Caption: `Online\web1`, Selectable: true,
		Folders: []string{`C:\VMs\`}, Files: []FileSet{{Path: `C:\VMs\`, Spec: "webß.vhdx"}}}, vm)
	require.NoError(t, b.Add(ctx, writers[0], vm))
	set, err := b.StartSet(ctx)
	require.NoError(t, err)
	require.Equal(t, "{07070707-0707-0707-0707-070707070707}", set.String())
	shadow, err := b.AddVolume(ctx, `\\?\Volume{a}\`)
	require.NoError(t, err)
	require.NoError(t, b.Prepare(ctx))
	status, err := b.Status(ctx)
	require.NoError(t, err)
	require.Len(t, status, 1)
	require.NoError(t, status[0].Err())
	require.NoError(t, b.Snapshot(ctx))
	found, err := b.Properties(ctx, shadow)
	require.NoError(t, err)
	require.Equal(t, set, found.Set)
	require.Equal(t, uint32(0x00400000), found.Attributes)
	require.Equal(t, `\\?\GLOBALROOT\Device\HarddiskVolumeShadowCopy5`, found.Device)
	require.Equal(t, `\\?\Volume{a}\`, found.Volume)
	require.Equal(t, 2021, found.Created.UTC().Year())
	all, err := b.Query(ctx)
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.NoError(t, b.Succeeded(ctx, writers[0], vm, false))
	require.NoError(t, b.Complete(ctx))
	require.NoError(t, b.DeleteSet(ctx, set))
	var e *Error
	require.ErrorAs(t, b.DeleteSet(ctx, set), &e)
	require.Equal(t, HResult(0x80042308), e.Code)
	all, err = b.Query(ctx)
	require.NoError(t, err)
	require.Len(t, all, 1, "another program's")
	require.NoError(t, b.Close())
	require.Equal(t, []string{"InitializeForBackup", "SetContext 64", "SetBackupState 1 0 5 0", "EnableWriterClasses 1 1", "GatherWriterMetadata",
		"AddComponent 2 0A1B2C3D-0000-4000-8000-0000000000A1 1", "StartSnapshotSet", `AddToSnapshotSet \\?\Volume{a}\`, "PrepareForBackup",
		"GatherWriterStatus", "DoSnapshotSet", "Query", "SetBackupSucceeded 2 0A1B2C3D-0000-4000-8000-0000000000A1 0", "BackupComplete",
		"DeleteSnapshots 1", "DeleteSnapshots 0", "Query", freed, gone}, calls())
}
