package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/guest/smbchannel/smbtest"
)

// R129, R139: a Windows guest is looked at over a real SMB server: what is open, by which steps a backup would come in, and
// what is wrong with a password, which is told to nobody.
func TestGuestBySMB(t *testing.T) {
	agents := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(agents, "windows-amd64", "hikae-agent.exe"),
		"../../guest/agent/hikae-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=windows", "GOARCH=amd64")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	g := smbtest.StartGuest(t, smbtest.Settings{}, nil)
	m := &machine{env: map[string]string{"HIKAE_AGENT_DIR": agents, "HIKAE_STATE_DIR": t.TempDir(), "HIKAE_GUEST_PASSWORD": smbtest.Password}}
	url := "smb://" + g.User + "@" + g.HostPort()

	status, text := m.run(t, "guest", "probe", url)
	require.Equal(t, outcome.Done, status, text)
	require.Contains(t, text, "windows")
	require.Contains(t, text, "runtime by ADMIN$")
	require.Empty(t, g.Left())

	m.env["HIKAE_GUEST_PASSWORD"] = "wr0ng-secret"
	status, text = m.run(t, "guest", "probe", url)
	require.Equal(t, outcome.Failed, status, text)
	require.Contains(t, text, "login")
	require.NotContains(t, text, "wr0ng-secret")
}
