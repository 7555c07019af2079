package smbstore_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// R175: what the server's kernel is asked to do: the file is synced under its temporary name, then it gets the other,
// then the folder is synced, before Create returns.
func TestSystemCallsOfTheServer(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed")
	}
	server := startSamba(t)
	server.kill()
	trace := filepath.Join(server.dir, "trace")
	server.run(strace, "-f", "-y", "-o", trace, "-e", "trace=fsync,fdatasync,rename,renameat,renameat2,mkdir,mkdirat",
		program(t, "smbd"), "--foreground", "--no-process-group", "-s", server.conf())
	st := server.open(t, "repo", nil)
	require.NoError(t, st.Create(t.Context(), "pack/first", content(1, 5000)))
	require.NoError(t, st.Create(t.Context(), "pack/second", content(1, 5000)))
	var steps []string
	require.Eventually(t, func() bool { // strace writes a little later
		steps = stepsIn(t, trace)
		return len(steps) > 0 && steps[len(steps)-1] == "sync repo/pack"
	}, 5*time.Second, 20*time.Millisecond)
	all := strings.Join(steps, "\n")
	require.Contains(t, all, "sync temp\nrename temp first\nsync repo/pack\nsync temp\nrename temp second\nsync repo/pack", all)
	require.Regexp(t, `sync repo\n(.*\n)*sync temp`, all, "a new folder's name comes first")
}

var (
	syncCall   = regexp.MustCompile(`(?:fsync|fdatasync)\(\d+<([^>]*)>`)
	renameCall = regexp.MustCompile(`rename(?:at2?)?\((.*)\) += 0`)
	quoted     = regexp.MustCompile(`"([^"]*)"`)
)

// stepsIn are the calls below the share, temporary names made equal.
func stepsIn(t *testing.T, trace string) (steps []string) {
	t.Helper()
	raw, err := os.ReadFile(trace)
	require.NoError(t, err)
	for line := range strings.Lines(string(raw)) {
		if m := syncCall.FindStringSubmatch(line); m != nil {
			if _, name, ok := strings.Cut(m[1], "/share/"); ok {
				steps = append(steps, "sync "+plain(name))
			}
		}
		if m := renameCall.FindStringSubmatch(line); m != nil {
			if names := quoted.FindAllStringSubmatch(m[1], 2); len(names) == 2 && strings.Contains(line, "/share/") {
				steps = append(steps, "rename temp "+filepath.Base(names[1][1]))
			}
		}
	}
	return steps
}

func plain(name string) string {
	if strings.Contains(name, "/.tmp/served-") {
		return "temp"
	}
	return name
}
