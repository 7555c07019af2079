//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/kvm/kvmtest"
)

// command runs the program and returns its document.
func command(t *testing.T, home string, want outcome.Status, args ...string) map[string]any {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "hikae", append(args, "--json")...)
	cmd.Env = append(os.Environ(), "HIKAE_STATE_DIR="+home+"/state", "HIKAE_CACHE_DIR="+home+"/cache")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	got := outcome.Done
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got, err = outcome.Status(exit.ExitCode()), nil
	}
	require.NoError(t, err)
	require.Equal(t, want, got, "%v: %s%s", args, stdout, stderr.String())
	var doc map[string]any
	require.NoError(t, json.Unmarshal(stdout, &doc), string(stdout))
	return doc
}

// The command line on a running VM: full, incremental, restored. The story of docs/kvm.md.
func TestRunningVM(t *testing.T) {
	if tier := os.Getenv("HIKAE_TEST_TIER"); tier != "long" && tier != "release" {
		t.Skip("a VM of its own: needs HIKAE_TEST_TIER=long")
	}
	fixture, err := kvmtest.Build(t.Context())
	if missing, ok := errors.AsType[*kvmtest.UnavailableError](err); ok {
		t.Skip(missing)
	}
	require.NoError(t, err)
	dir, err := os.MkdirTemp("", "hk") // short, for sockets
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	disk, repository := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "repo")
	require.NoError(t, kvmtest.MakeExt4(t.Context(), disk, 64<<20))
	guest, err := fixture.Start(t.Context(), dir, []kvmtest.GuestDisk{{Path: disk, Format: "raw", ID: "vda", Serial: "web1-system"}})
	require.NoError(t, err)
	defer guest.Kill()

	source := "kvm://" + guest.QMP() + "?agent=" + guest.Agent() + "&scratch=" + dir
	command(t, dir, outcome.Done, "init", repository, "--no-encryption")
	full := command(t, dir, outcome.Done, "backup", "--repo", repository, source)
	require.Equal(t, "fx", full["vm"], "the name that QEMU was started with")
	require.Equal(t, "filesystem", full["consistency"])
	inc := command(t, dir, outcome.Done, "backup", "--repo", repository, "--name", "fx", source)
	require.Empty(t, inc["fallbacks"])
	first := func(doc map[string]any) map[string]any { return doc["disks"].([]any)[0].(map[string]any) }
	require.Equal(t, "web1-system", first(inc)["key"])
	require.Less(t, first(inc)["read"], first(full)["read"])

	to := filepath.Join(dir, "restored.raw")
	command(t, dir, outcome.Done, "restore", "--repo", repository, "fx@latest", "--to", to)
	info, err := os.Stat(to)
	require.NoError(t, err)
	require.Equal(t, int64(64<<20), info.Size())
	require.NoError(t, os.Remove(to))

	for _, bad := range []string{"kvm:///q?agent=a", "kvm://host/q"} {
		require.Contains(t, command(t, dir, outcome.Misused, "backup", "--repo", repository, bad), "error")
	}
	command(t, dir, outcome.Misused, "backup", "--repo", repository, "--force-live", source)
	gone := command(t, dir, outcome.Failed, "backup", "--repo", repository, "kvm://"+dir+"/none")
	require.Equal(t, "not-found", gone["error"].(map[string]any)["kind"])
}
