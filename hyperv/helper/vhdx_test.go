package helper

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv"
	"github.com/hikae/hikae/hyperv/helper/requester"
	"github.com/hikae/hikae/hyperv/vhdx"
)

// R103: a virtual disk in a shadow copy reads as any other, while the production file goes on changing.
func TestDiskInSet(t *testing.T) {
	s, _ := machine(t, 1)
	ctx := t.Context()
	name := filepath.Join(s.Volumes[`C:\`], "VMs", "web2.vhdx")
	content := make([]byte, 3<<20)
	_, err := rand.NewChaCha8([32]byte{7}).Read(content)
	require.NoError(t, err)
	write := func(p []byte, off int64) {
		target, err := vhdx.Create(ctx, name, 64<<20, nil)
		require.NoError(t, err)
		_, err = target.WriteAt(ctx, p, off)
		require.NoError(t, err)
		require.NoError(t, target.Commit(ctx))
		require.NoError(t, target.Close())
	}
	write(content, 5<<20)
	const web2 = "0a1b2c3d-0000-4000-8000-0000000000a2"
	s.VMs = append(s.VMs, requester.Component{Type: requester.FileGroup, Name: web2, Caption: `Online\web2`, Files: []requester.FileSet{{Path: `C:\VMs`, Spec: "web2.vhdx"}}})
	r, _ := dial(t, s, nil)
	set, err := r.Take(ctx, hyperv.SetRequest{Mark: mark, VMs: []string{web2}})
	require.NoError(t, err)
	require.NoError(t, os.Remove(name))
	write([]byte("later"), 5<<20)

	disk, err := vhdx.OpenIn(ctx, set, `C:\VMs\web2.vhdx`, nil)
	require.NoError(t, err)
	defer disk.Close()
	require.Equal(t, int64(64<<20), disk.Size())
	got := make([]byte, len(content))
	_, err = disk.ReadAt(ctx, got, 5<<20)
	require.NoError(t, err)
	require.Equal(t, content, got)
}
