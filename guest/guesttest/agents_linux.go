package guesttest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// buildLimit bounds a build of the component: the first on a machine compiles the standard library.
const buildLimit = 5 * time.Minute

// agents is what was built, and how many tests use it now.
var agents struct {
	mu    sync.Mutex
	dir   string
	users int
}

// Agents builds the component for this system and returns the folder that guest.ProgramsIn takes. Tests that run at the
// same time share it; it goes with the last of them.
func Agents(t testing.TB) string {
	t.Helper()
	agents.mu.Lock()
	defer agents.mu.Unlock()
	if agents.dir == "" {
		agents.dir = build(t)
	}
	agents.users++
	t.Cleanup(func() {
		agents.mu.Lock()
		agents.users--
		agents.mu.Unlock()
		RemoveAgents()
	})
	return agents.dir
}

// RemoveAgents removes what Agents has built, where no test uses it any more.
func RemoveAgents() {
	agents.mu.Lock()
	defer agents.mu.Unlock()
	if agents.users == 0 && agents.dir != "" {
		os.RemoveAll(agents.dir)
		agents.dir = ""
	}
}

func build(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "agents")
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), buildLimit)
	defer cancel()
	to := filepath.Join(dir, runtime.GOOS+"-"+runtime.GOARCH, "hikae-agent")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", to, "github.com/hikae/hikae/guest/agent/hikae-agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		os.RemoveAll(dir)
		require.NoError(t, err, string(out))
	}
	return dir
}
