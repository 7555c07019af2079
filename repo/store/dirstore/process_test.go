package dirstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store/dirstore"
	"github.com/hikae/hikae/repo/store/storetest"
)

const (
	errCrowded   = syscall.EMFILE
	errorMessage = "create failed: "
)

var errUnsupported = errors.ErrUnsupported

// play is this binary as another process: it opens DIRSTORE_TEST_DIR and does what its role says.
func play(role string) int {
	runtime.LockOSThread() // strace counts calls for each thread
	st, err := dirstore.Open(os.Getenv("DIRSTORE_TEST_DIR"))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	ctx := context.Background()
	switch role {
	case "race":
		fmt.Println("ready")
		_, _ = os.Stdin.Read(make([]byte, 1))
		won, err := storetest.Race(ctx, st, fmt.Sprint("process ", os.Getpid()), raceNames())
		fmt.Println(strings.Join(won, " "))
		if err != nil {
			fmt.Println(err)
			return 1
		}
	case "create":
		err = st.Create(ctx, "pack/one", content())
		if err != nil {
			fmt.Println(errorMessage + err.Error())
			return 3
		}
	case "twice": // as a caller does that tries again
		if st.Create(ctx, "pack/one", content()) == nil {
			return 4
		}
		if err = st.Create(ctx, "pack/two", content()); err != nil {
			fmt.Println(errorMessage + err.Error())
			return 3
		}
	case "hang": // with a file unfinished
		if _, _, err := st.Unfinished(); err != nil {
			return 1
		}
		fmt.Println("ready")
		_, _ = os.Stdin.Read(make([]byte, 1))
	}
	if err := st.Close(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func content() []byte { return bytes.Repeat([]byte("0123456789abcdef"), 10_000) }

func raceNames() (names []string) {
	for i := range 200 {
		names = append(names, fmt.Sprintf("race/%d/%d", i%5, i))
	}
	return names
}

func process(t *testing.T, dir, role string, wrapper ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	args := append(wrapper, exe)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "DIRSTORE_TEST_ROLE="+role, "DIRSTORE_TEST_DIR="+dir, "GOMAXPROCS=1")
	return cmd
}

// Many processes create the same names at once: each name has one winner, who knows it, and is whole.
func TestProcessesRace(t *testing.T) {
	st, dir := open(t)
	const n = 5
	var cmds [n]*exec.Cmd
	var outs [n]bytes.Buffer
	var starts [n]interface{ Close() error }
	for i := range n {
		cmds[i] = process(t, dir, "race")
		cmds[i].Stdout = &outs[i]
		stdin, err := cmds[i].StdinPipe()
		require.NoError(t, err)
		starts[i] = stdin
		require.NoError(t, cmds[i].Start())
	}
	for i := range n {
		require.NoError(t, starts[i].Close()) // go
	}
	owner := map[string]int{}
	for i := range n {
		require.NoError(t, cmds[i].Wait(), outs[i].String())
		lines := strings.Split(outs[i].String(), "\n")
		require.Equal(t, "ready", lines[0])
		for _, name := range strings.Fields(lines[1]) {
			require.NotContains(t, owner, name, "two winners")
			owner[name] = cmds[i].Process.Pid
		}
	}
	for _, name := range raceNames() {
		winner, err := storetest.Winner(t.Context(), st, name)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint("process ", owner[name]), winner)
	}
	for _, name := range everything(t, dir) {
		require.False(t, strings.HasPrefix(name, ".tmp"), "%s stays", name)
	}
}

// What a living process writes is not swept; what a killed one left is.
func TestSweepAfterAKill(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("nothing is taken for dead on Windows")
	}
	st, dir := open(t)
	cmd := process(t, dir, "hang")
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = stdout.Read(make([]byte, 16))
	require.NoError(t, err)

	for _, alone := range []bool{false, true} {
		swept, err := st.Sweep(t.Context(), alone)
		require.NoError(t, err)
		assert.Equal(t, 0, swept.Removed)
		assert.Equal(t, 1, swept.Kept)
	}
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	found, err := st.Probe(t.Context())
	require.NoError(t, err)
	swept, err := st.Sweep(t.Context(), !found.FreshReads) // not a local file system: vouch for it
	require.NoError(t, err)
	assert.Equal(t, 1, swept.Removed)
	assert.Equal(t, 0, swept.Kept)
	assert.Empty(t, everything(t, dir))
}
