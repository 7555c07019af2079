//go:build linux

package kvmtest

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/kvm/qga"
)

// The guest comes up from its volume group as its /etc/fstab says: file systems, and both swap areas.
func TestLVM(t *testing.T) {
	if tier := os.Getenv("HIKAE_TEST_TIER"); tier != "long" && tier != "release" {
		t.Skip("a test of package kvm boots it; alone it needs HIKAE_TEST_TIER=long")
	}
	l, err := BuildLVM(t.Context())
	var missing *UnavailableError
	if errors.As(err, &missing) {
		t.Skip(err)
	}
	require.NoError(t, err)
	dir, err := os.MkdirTemp("", "kvmtest") // short, for sockets
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	disk, err := l.Disk(t.Context(), dir+"/disk")
	require.NoError(t, err)
	begun := time.Now()
	g, err := l.Start(t.Context(), dir, []GuestDisk{disk}, nil)
	require.NoError(t, err)
	t.Cleanup(g.Kill)
	t.Logf("ready after %v", time.Since(begun))
	require.NotContains(t, g.Console(), "FX ")
	c := qga.New(g.Agent(), nil)
	defer c.Close()
	out, err := c.Exec(t.Context(), "/bin/sh", []string{"-c", "swapon --show=TYPE,UUID --noheadings --raw; findmnt -rno TARGET,FSTYPE -t ext2,ext4,xfs; df"}, nil, 1<<20)
	require.NoError(t, err)
	text := string(out.Stdout)
	t.Log(text)
	for _, line := range []string{"partition " + LVMSwapUUID, "file " + LVMFileUUID, "/ ext4", "/boot ext2", "/data xfs"} {
		require.Contains(t, text, line+"\n")
	}
}

// A program comes with what it is linked with, and with what that is linked with; what is in no package is named.
func TestAddLibraries(t *testing.T) {
	sh, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Skip("there is no /bin/sh")
	}
	if findLibrary("/", "libc.so.6") == "" {
		t.Skip("libraries lie elsewhere than in Debian")
	}
	files := map[string]string{}
	require.NoError(t, addLibraries(files, "/", sh))
	require.Contains(t, slices.Collect(maps.Values(files)), "/"+findLibrary("/", "libc.so.6"))
	var missing *UnavailableError
	require.ErrorAs(t, addLibraries(files, t.TempDir(), sh), &missing)
	require.ErrorContains(t, missing, "libc.so.6")
}
