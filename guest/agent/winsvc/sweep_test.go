package winsvc

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const program = "hikae-agent.exe"

func folder(t *testing.T, parent, name string, files ...string) string {
	t.Helper()
	dir := filepath.Join(parent, name)
	require.NoError(t, os.Mkdir(dir, 0o700))
	for _, f := range files {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, f)), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, f), []byte("x"), 0o600))
	}
	return dir
}

// What dead components left goes; a young folder, one that is not ours, and our own stay.
func TestSweep(t *testing.T) {
	t.Parallel()
	if emulated() {
		t.Skip("wine has no FileDispositionInformationEx, which os.RemoveAll needs")
	}
	parent := t.TempDir()
	own := folder(t, parent, "hikae-00000000000000000000", program)
	dead := folder(t, parent, "hikae-dead0000000000000000", program, "sub/file")
	empty := folder(t, parent, "hikae-empty000000000000000")
	stays := []string{own, folder(t, parent, "hikae-others00000000000000", "their.doc"), folder(t, parent, "Hikae-XXXX", program),
		folder(t, parent, "other", program), folder(t, parent, "hikae-a b c d", program)}
	outside := folder(t, t.TempDir(), "precious", "file")
	require.NoError(t, os.Symlink(outside, filepath.Join(dead, "link")))
	require.NoError(t, os.Symlink(outside, filepath.Join(parent, "hikae-link0000000000000000")))

	gone, err := sweep(own, program, time.Now())
	require.NoError(t, err)
	require.Empty(t, gone, "all are younger than an hour")
	gone, err = sweep(own, program, time.Now().Add(2*time.Hour))
	require.NoError(t, err)
	require.ElementsMatch(t, []string{dead, empty}, gone)
	for _, dir := range append(stays, outside) {
		require.DirExists(t, dir)
	}
	require.FileExists(t, filepath.Join(outside, "file"))

	_, err = sweep(filepath.Join(parent, "none", "hikae-00000000000000000000"), program, time.Now())
	require.ErrorIs(t, err, os.ErrNotExist)
}

// R121: all that a component can take away itself goes; its program and its folder are named as what goes with its end.
func TestLeave(t *testing.T) {
	if emulated() {
		t.Skip("wine has no FileDispositionInformationEx, which os.RemoveAll needs")
	}
	t.Parallel()
	dir := folder(t, t.TempDir(), "hikae-00000000000000000000", program, "work/log.bak", "state")
	gone, last, err := Leave(dir, program)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{filepath.Join(dir, "work"), filepath.Join(dir, "state")}, gone)
	require.Equal(t, []string{filepath.Join(dir, program), dir}, last)
	rest, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, rest, 1)
}

func TestNameRule(t *testing.T) {
	t.Parallel()
	require.NoError(t, checkName("hikae-0123"))
	for _, bad := range []string{"", "-a", "A", `a\b`, "a/b", "a b", `a"`, "a\x00", "é", strings.Repeat("a", 65)} {
		require.Error(t, checkName(bad), bad)
	}
	require.Equal(t, `\\.\pipe\hikae-1`, PipePath("hikae-1"))
}

// R128: one rule, for one port of one program.
func TestFirewallRule(t *testing.T) {
	t.Parallel()
	args, err := allowArguments(`C:\Program Files\Hikae\hikae-agent.exe`, 7421)
	require.NoError(t, err)
	require.Equal(t, []string{"advfirewall", "firewall", "add", "rule", "name=Hikae installer service", "dir=in", "action=allow",
		"protocol=TCP", "localport=7421", `program=C:\Program Files\Hikae\hikae-agent.exe`, "enable=yes"}, args)
	require.Equal(t, args[4], forbidArguments()[4])
	for _, port := range []int{0, -1, 65536} {
		_, err = allowArguments("x", port)
		require.Error(t, err)
	}
	_, err = allowArguments("a\" protocol=any", 1)
	require.Error(t, err)
}
