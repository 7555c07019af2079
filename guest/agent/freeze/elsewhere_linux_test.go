package freeze

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest/agent/wire"
)

// R142: a file system that a service's or a container's namespace alone has is named, when the guest is looked at and when
// it is frozen.
func TestOtherNamespaceIsNamed(t *testing.T) {
	here := mounted(t, "ext4")
	file, point := filepath.Join(t.TempDir(), "image"), filepath.Join(t.TempDir(), "other")
	require.NoError(t, os.Mkdir(point, 0o700))
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.NoError(t, os.Truncate(file, 16<<20))
	run(t, "mkfs.ext4", "-q", file)
	cmd := exec.CommandContext(soon(t), "unshare", "-m", "--propagation", "private", "sh", "-c",
		`mount -o loop "$0" "$1" && echo up && read x; umount "$1"`, file, point)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	if err := cmd.Start(); err != nil {
		t.Skipf("needs unshare: %v", err)
	}
	defer cmd.Wait()
	defer in.Close()
	if said, _ := bufio.NewReader(out).ReadString('\n'); said != "up\n" {
		t.Skip("needs mount namespaces and loop devices")
	}
	named := func(v wire.Volume) bool { return v.Mount == point && v.Skip == skipElsewhere }
	volumes, err := New(nil).Volumes(soon(t))
	require.NoError(t, err)
	require.True(t, slices.ContainsFunc(volumes, named))
	z, err := freezeNow(soon(t), New(nil), wire.FreezeArgs{Mounts: []string{here}, HoldMillis: 8000})
	require.NoError(t, err)
	require.True(t, slices.ContainsFunc(z.Answer().Skipped, named))
	_, held, err := z.Thaw(soon(t))
	require.NoError(t, err)
	require.True(t, held)
}

// What is ready and not wanted any more is let go, its watchdog too.
func TestReadyIsGivenUp(t *testing.T) {
	point := mounted(t, "ext4")
	r, err := New(nil).Ready(soon(t), wire.FreezeArgs{Mounts: []string{point}, HoldMillis: 8000})
	require.NoError(t, err)
	require.NoError(t, r.Close())
	<-r.(*ready).z.dog.gone
	require.NoError(t, r.Close())
	require.NoError(t, os.WriteFile(filepath.Join(point, "file"), nil, 0o600))
}

// The words by which what a snapshot is good for is read off the answer.
func TestWordsOfTheProtocol(t *testing.T) {
	require.Equal(t, []string{"read-only", "lives on another machine", "served by a program in the guest, which would stand still",
		"an overlay: its layers lie on other file systems", "in memory", "mounted on demand", "no block device"},
		[]string{skipReadOnly, skipNetwork, skipProgram, skipOverlay, skipMemory, skipAuto, skipDevice})
}
