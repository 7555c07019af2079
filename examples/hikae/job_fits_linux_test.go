package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
)

// R161: what a job file says of a VM that is not in the job is told, before and when the job is run; a plan shows the replicas.
func TestNamesThatFitNoVM(t *testing.T) {
	home := t.TempDir()
	at := func(name string) string { return filepath.Join(home, name) }
	require.NoError(t, os.WriteFile(at("web1.raw"), make([]byte, 1<<20), 0o600))
	require.NoError(t, os.WriteFile(at("job.yaml"), []byte("name: nightly\nrepository: {url: "+at("repo")+"}\nsources: [{name: web1, disks: ["+at("web1.raw")+"]}]\n"+
		"replicas: [{to: "+at("site")+", vms: ['w?b*', 'x*']}, {to: "+at("other")+", vms: [db1]}]\n"), 0o600))
	command(t, home, outcome.Done, "init", at("repo"), "--no-encryption")
	plan := command(t, home, outcome.Done, "job", "plan", at("job.yaml"))
	require.Equal(t, []any{"web1 at " + at("site"), "none at " + at("other")}, plan["replicas"])
	want := []any{"replicas[0].vms: x* fits no VM of this job", "replicas[1].vms: db1 fits no VM of this job"}
	require.Equal(t, want, plan["warnings"])
	run := command(t, home, outcome.Warned, "job", "run", at("job.yaml"))
	require.Subset(t, run["warnings"], want)

	problem := command(t, home, outcome.Misused, "job", "plan", at("missing.yaml"))["error"].(map[string]any)
	require.Contains(t, problem["message"], "there is no job file")
}
