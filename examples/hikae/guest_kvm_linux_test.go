package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/kvm/kvmtest"
)

// R119, R120, R121, R144, R183, R187, R188: a server with PostgreSQL, which no network leads to, is backed up
// application-consistent: the component goes in by QEMU's guest agent, freezes right around the snapshot, and is gone
// afterwards. What PostgreSQL needs for a restore lies in the point.
func TestServerWithoutNetwork(t *testing.T) {
	if tier := os.Getenv("HIKAE_TEST_TIER"); tier != "long" && tier != "release" {
		t.Skip("a server of its own: needs HIKAE_TEST_TIER=long")
	}
	server, err := kvmtest.BuildServer(t.Context())
	if missing, ok := errors.AsType[*kvmtest.UnavailableError](err); ok {
		t.Skip(missing)
	}
	require.NoError(t, err)
	dir, err := os.MkdirTemp("", "hk") // short, for sockets
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	t.Setenv("HIKAE_AGENT_DIR", buildAgents(t))
	disks, err := server.Disks(t.Context(), dir)
	require.NoError(t, err)
	vm, err := server.Start(t.Context(), dir, disks, &kvmtest.ServerOptions{Ledgers: []string{kvmtest.Journal, kvmtest.Postgres}})
	require.NoError(t, err)
	defer vm.Kill()

	repository, source, way := filepath.Join(dir, "repo"), "kvm://"+vm.QMP()+"?scratch="+dir+"&name=web1", "qga://"+vm.Agent()
	command(t, dir, outcome.Done, "init", repository, "--no-encryption")
	doc := command(t, dir, outcome.Done, "backup", "--repo", repository, "--guest", way, "--guest-index", source)
	require.Equal(t, "application", doc["consistency"], "%v", doc)
	inside := doc["guest"].(map[string]any)
	require.NotEmpty(t, inside["frozen"])
	require.Contains(t, inside["way"], "qga")
	t.Logf("frozen %v for %v ms, applications %v, phases %v", inside["frozen"], inside["frozenMillis"], inside["applications"], doc["phases"])
	require.Greater(t, inside["files"], float64(1000))
	found := command(t, dir, outcome.Done, "find", "--repo", repository, "web1@latest", "postgresql.conf")
	require.NotEmpty(t, found["found"])
	require.Equal(t, "index", found["source"], "%v", found)
	left := command(t, dir, outcome.Done, "guest", "remove", way)
	require.Zero(t, left["waiting"])
}

// buildAgents builds the component for this kind of machine, as make agents does.
func buildAgents(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w -X main.version=1.2.0", "-o", filepath.Join(dir, "linux-amd64", "hikae-agent"),
		"../../guest/agent/hikae-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	require.NoError(t, os.WriteFile(filepath.Join(dir, versionFile), []byte("1.2.0\n"), 0o600))
	return dir
}
