//go:build linux

package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/guest/smbchannel/smbtest"
	"github.com/hikae/hikae/hyperv/hypervtest"
)

// shellSnap makes shadow copies by copying a folder.
const shellSnap = `#!/bin/sh
set -e
case "$1" in
check) echo "$2" ;;
create) d=$(mktemp -d %SNAPS%/copy.XXXXXX); cp -a "$2/." "$d"; echo "$d" ;;
delete) rm -rf "$3" ;;
esac
`

// startSnapServer is a real Samba whose agent makes shadow copies of a folder that it shares as vms. Snaps is where copies are.
func startSnapServer(t *testing.T, folder string) (s *smbtest.Samba, snaps string) {
	t.Helper()
	for _, name := range []string{"/usr/libexec/samba/rpcd_fsrvp", "/usr/lib/x86_64-linux-gnu/samba/vfs/shell_snap.so"} {
		if _, err := os.Stat(name); err != nil {
			t.Skip("Samba's agent for shadow copies is not installed (Debian: samba, samba-vfs-modules)")
		}
	}
	program, err := exec.LookPath("net")
	if err != nil {
		t.Skip("Samba's program net is not installed (Debian: samba-common-bin)")
	}
	snaps = t.TempDir()
	script := filepath.Join(t.TempDir(), "snap")
	require.NoError(t, os.WriteFile(script, []byte(strings.ReplaceAll(shellSnap, "%SNAPS%", snaps)), 0o755))
	s = smbtest.StartSamba(t, smbtest.Settings{Helpers: true, NoAdmin: true, Global: []string{"registry shares = yes", "include = registry", "rpcd_fsrvp:num_workers = 1"},
		Shares: []smbtest.Share{{Name: "vms", Path: folder, Lines: []string{"vfs objects = shell_snap", "shell_snap:check path command = " + script + " check",
			"shell_snap:create command = " + script + " create", "shell_snap:delete command = " + script + " delete"}}}})
	out, err := exec.CommandContext(t.Context(), program, "-s", s.Config(), "groupmap", "add", "sid=S-1-5-32-551", "unixgroup=root", "type=builtin").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return s, snaps
}

// R093, R099, R196: two VMs that lie on a share are read from one shadow copy of it, which a file server makes, and not by their
// host; what is restored is what the guests had at the freeze, and nothing is left on either.
func TestHyperVOffHost(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "UNC", "fs1", "vms")
	require.NoError(t, os.MkdirAll(folder, 0o755))
	server, snaps := startSnapServer(t, folder)
	h, err := hypervtest.Start(&hypervtest.Options{Generation: "2019", User: server.User, Password: smbtest.Password, Dir: dir})
	require.NoError(t, err)
	t.Cleanup(h.Close)
	t.Setenv(sourcePassword, smbtest.Password)
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	home := t.TempDir()
	repository := filepath.Join(home, "repo")
	command(t, home, outcome.Done, "init", repository, "--no-encryption", "--block-size", "64KiB")
	var ids []string
	for _, name := range []string{"web0", "web1"} {
		id := h.AddVM(hypervtest.VM{Name: name, GuestOS: "windows", Folder: `\\fs1\vms\` + name, Disks: []hypervtest.Disk{{Size: 2 << 20}}})
		require.NoError(t, h.VM(id).Write(0, 1<<20, []byte("content of "+name+strings.Repeat(" and more", 100_000))))
		ids = append(ids, id)
	}
	doc := command(t, home, outcome.Done, "backup", "--repo", repository,
		"hyperv://"+server.User+"@"+h.Addr()+"/?mode=off-host&smb="+server.HostPort()+"&smb.fs1="+server.HostPort())
	for i, r := range doc["results"].([]any) {
		one := r.(map[string]any)
		require.Equal(t, "off-host", one["facts"].(map[string]any)["mode"])
		require.Equal(t, "application", one["consistency"])
		out := filepath.Join(home, one["vm"].(string)+".raw")
		command(t, home, outcome.Done, "restore", "--repo", repository, one["vm"].(string)+"@latest", "--to", out)
		want, err := io.ReadAll(io.NewSectionReader(h.VM(ids[i]).AtFreeze(0), 0, 2<<20))
		require.NoError(t, err)
		got, err := os.ReadFile(out)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	left, err := os.ReadDir(snaps)
	require.NoError(t, err)
	require.Empty(t, left)
	require.Empty(t, h.Leftovers())
}
