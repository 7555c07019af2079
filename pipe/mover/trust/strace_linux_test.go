package trust

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The true system calls fail, in another process that adds one token: the book is then the old one or the new one, and
// whole. What is lost at a power cut is what was not synced, so both syncs must be made and heeded.
func TestSystemCallsFail(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed")
	}
	if exec.CommandContext(t.Context(), strace, "-o", os.DevNull, "true").Run() != nil {
		t.Skip("strace may not trace here")
	}
	for name, c := range map[string]struct {
		inject string
		says   string
		killed bool
		added  bool
	}{
		"nothing":                        {"", "added", false, true},
		"sync of the file":               {"fsync:error=EIO:when=1", "input/output error", false, false},
		"sync of the name":               {"fsync:error=EIO:when=2", "input/output error", false, true},
		"a folder that cannot be synced": {"fsync:error=EINVAL:when=2", "added", false, true},
		"disk full":                      {"write:error=ENOSPC:when=1", "no space left", false, false},
		"a write that only says so":      {"write:retval=%size:when=1", "others", false, false},
		"rename":                         {"renameat:error=EACCES", "permission denied", false, false},
		"killed before the rename":       {"renameat:signal=KILL", "", true, false},
		"killed at the sync of the file": {"fsync:signal=KILL:when=1", "", true, false},
		"killed at the sync of the name": {"fsync:signal=KILL:when=2", "", true, true},
		"the lock":                       {"flock:error=ENOLCK", "no locks", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBook(t)
			id, _ := enrolled(t, b, "stays")
			before := bookBytes(t, b)
			args := []string{"-f", "-o", filepath.Join(t.TempDir(), "trace")}
			if c.inject != "" {
				args = append(args, "--inject="+strings.ReplaceAll(c.inject, "%size", sizeWithOneMore(t)))
			}
			exe, err := os.Executable()
			require.NoError(t, err)
			cmd := exec.CommandContext(t.Context(), strace, append(args, exe)...)
			cmd.Env = append(os.Environ(), childEnv+"="+b.dir, childEnv+"_ONCE=1")
			out, err := cmd.Output()
			require.Equal(t, c.killed, err != nil, "%v: %s", err, out)
			require.Contains(t, string(out), c.says)

			again, err := OpenBook(b.dir)
			require.NoError(t, err)
			_, err = again.Find(id.Pin())
			require.NoError(t, err)
			list, err := again.Peers()
			require.NoError(t, err)
			if c.added {
				require.Len(t, list, 2)
			} else {
				require.Len(t, list, 1)
				require.Equal(t, before, bookBytes(t, b))
			}
			require.NoError(t, again.Revoke("stays"), "the next one goes on")
		})
	}
}

// sizeWithOneMore is how long a book with the peer of this test and one token is.
func sizeWithOneMore(t *testing.T) string {
	b := newBook(t)
	enrolled(t, b, "stays")
	require.NoError(t, addOne(b))
	return strconv.Itoa(len(bookBytes(t, b)))
}

// The names of new folders are durable before anything that lies in them counts.
func TestNewFoldersAreSynced(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed")
	}
	if exec.CommandContext(t.Context(), strace, "-o", os.DevNull, "true").Run() != nil {
		t.Skip("strace may not trace here")
	}
	top, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	exe, err := os.Executable()
	require.NoError(t, err)
	log := filepath.Join(t.TempDir(), "trace")
	cmd := exec.CommandContext(t.Context(), strace, "-f", "-y", "-e", "trace=fsync", "-o", log, exe)
	cmd.Env = append(os.Environ(), childEnv+"="+filepath.Join(top, "a", "b"), childEnv+"_ONCE=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	trace, err := os.ReadFile(log)
	require.NoError(t, err)
	for _, folder := range []string{top, filepath.Join(top, "a"), filepath.Join(top, "a", "b")} {
		require.Contains(t, string(trace), "<"+folder+">", "the folder's names")
	}
}
