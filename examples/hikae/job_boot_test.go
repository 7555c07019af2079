//go:build linux

package main

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
)

// A new point is started from the repository, and a VM that does not come up fails the job; its point stays.
func TestJobBootCheck(t *testing.T) {
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("needs qemu-system-x86_64")
	}
	dir := t.TempDir()
	disk := make([]byte, 1<<20)
	copy(disk, []byte{
		0xBA, 0xF8, 0x03, // mov dx, 0x3F8: the serial port
		0xB0, 'O', 0xEE, // mov al, 'O'; out dx, al
		0xB0, 'K', 0xEE,
		0xF4, 0xEB, 0xFD, // hlt, again and again
	})
	disk[510], disk[511] = 0x55, 0xAA
	require.NoError(t, os.WriteFile(dir+"/boots.raw", disk, 0o600))
	disk[510] = 0
	require.NoError(t, os.WriteFile(dir+"/lies.raw", disk, 0o600))
	command(t, dir, outcome.Done, "init", dir+"/repo", "--no-encryption")
	file := func(name, deadline string) string {
		text := "name: boot\nrepository: {url: " + dir + "/repo}\nsources: [{name: " + name + ", disks: [" + dir + "/" + name + ".raw]}]\n" +
			"boot-check: {accel: tcg, wait-for: 'serial:O.', deadline: " + deadline + "}\n"
		require.NoError(t, os.WriteFile(dir+"/job.yaml", []byte(text), 0o600))
		return dir + "/job.yaml"
	}
	plan := command(t, dir, outcome.Done, "job", "plan", file("boots", "1m"))
	require.Equal(t, []any{"boots"}, plan["bootCheck"])
	doc := command(t, dir, outcome.Done, "job", "run", file("boots", "1m"))
	step := doc["steps"].([]any)[0].(map[string]any)
	require.Equal(t, "boot-check", step["what"])
	require.Equal(t, "done", step["state"])
	point := command(t, dir, outcome.Done, "points", "--repo", dir+"/repo")["points"].([]any)[0].(map[string]any)
	require.Equal(t, true, point["boot"].(map[string]any)["passed"], "the point is marked")

	doc = command(t, dir, outcome.Failed, "job", "run", file("lies", "3s"))
	require.Equal(t, "failed", doc["state"])
	step = doc["steps"].([]any)[0].(map[string]any)
	require.Equal(t, "failed", step["state"])
	points := command(t, dir, outcome.Done, "points", "--repo", dir+"/repo")["points"].([]any)
	require.Len(t, points, 2)
	for _, p := range points {
		point := p.(map[string]any)
		require.Equal(t, point["vm"] == "boots", point["boot"].(map[string]any)["passed"])
	}
}
