package kvm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

var buildTool = sync.OnceValues(func() (path string, err error) {
	if toolDir, err = os.MkdirTemp("", "hikae-tool"); err != nil {
		return "", err
	}
	path = filepath.Join(toolDir, "hikae")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", path, "../examples/hikae")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the tool: %w: %s", err, out)
	}
	return path, nil
})

const passphrase = "a secret of the tests"

// tool is the command line of one administrator.
type tool struct {
	t    *testing.T
	path string
	home string // state and cache
}

func newTool(t *testing.T, home string) *tool {
	t.Helper()
	path, err := buildTool()
	require.NoError(t, err)
	return &tool{t, path, home}
}

func (c *tool) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(c.t.Context(), c.path, append(args, "--json")...)
	cmd.Env = append(os.Environ(), "HIKAE_STATE_DIR="+c.home+"/state", "HIKAE_CACHE_DIR="+c.home+"/cache", "HIKAE_PASSWORD="+passphrase)
	return cmd
}

// run runs the tool, which must end with the given exit status, and reads its document.
func (c *tool) run(status int, out any, args ...string) {
	c.t.Helper()
	cmd := c.command(args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil {
		require.ErrorAs(c.t, err, &exit)
	}
	require.Equal(c.t, status, cmd.ProcessState.ExitCode(), "%v: %s%s", args, stdout, stderr.String())
	if out != nil {
		require.NoError(c.t, json.Unmarshal(stdout, out), "%s", stdout)
	}
}

// backedUp is what the tool says of a backup.
type backedUp struct {
	Point string `json:"point"`
	Disks []struct {
		Key     string           `json:"key"`
		Size    int64            `json:"size"`
		Read    int64            `json:"read"`
		Skipped map[string]int64 `json:"skipped"`
		Stored  int64            `json:"stored"`
	} `json:"disks"`
	Consistency string `json:"consistency"`
	Fallbacks   []struct {
		Disk, From, To, Reason string
	} `json:"fallbacks"`
	Warnings []string `json:"warnings"`
	Notes    []string `json:"notes"`
	Seconds  float64  `json:"seconds"`
}
