package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
)

// sharedJob writes a job of two VMs of one host, of which a hook holds that it is at one at a time. Another job's makes it fail.
func sharedJob(t *testing.T, home, name, more string) (file string) {
	t.Helper()
	sources := ""
	for _, vm := range []string{name + "1", name + "2"} {
		disk := filepath.Join(home, vm+".raw")
		require.NoError(t, os.WriteFile(disk, make([]byte, 1<<20), 0o600))
		sources += "  - {name: " + vm + ", disks: [" + disk + "]}\n"
	}
	hook := `mkdir $HOME/at && until test -e $HOME/go; do sleep 0.05; done; rmdir $HOME/at`
	file = filepath.Join(home, name+".yaml")
	require.NoError(t, os.WriteFile(file, []byte("name: "+name+"\nrepository: {url: "+home+"/repo}\nsources:\n"+sources+
		"hooks:\n  - {when: before-vm, run: [/bin/sh, -c, '"+hook+"'], on-failure: stop}\nretry: {attempts: 1}\n"+more), 0o600))
	return file
}

// R201, R203: two jobs of one machine that share their limits are at one VM of a host at a time, both together; plan says which limits are shared.
func TestJobsShareLimits(t *testing.T) {
	home := t.TempDir()
	command(t, home, outcome.Done, "init", home+"/repo", "--no-encryption")
	const shared = "limits: {shared: true, hosts: {\"*\": 1}}\n"
	first, second := sharedJob(t, home, "first", shared), sharedJob(t, home, "second", shared)
	require.Equal(t, true, command(t, home, outcome.Done, "job", "plan", first)["shared"])

	other, _ := killed(t, home, "first1: begun", "job", "run", first)
	cmd := exec.CommandContext(t.Context(), "hikae", "job", "run", second)
	cmd.Env = append(os.Environ(), "HIKAE_STATE_DIR="+home+"/state", "HIKAE_CACHE_DIR="+home+"/cache", "HOME="+home)
	said := &spoken{}
	cmd.Stdout, cmd.Stderr = said, said
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { return strings.Contains(said.String(), "waits for host/localhost") }, time.Minute, 10*time.Millisecond, "%s", other)
	require.Contains(t, said.String(), "(job first, run ")
	require.NotContains(t, said.String(), ": begun")
	require.NoError(t, os.WriteFile(home+"/go", nil, 0o600))
	require.NoError(t, cmd.Wait(), said.String())
	require.Contains(t, said.String(), "2 of 2 VMs have a new point")
	require.Eventually(t, func() bool { return strings.Contains(other.String(), "2 of 2 VMs have a new point") }, time.Minute, 10*time.Millisecond, "%s", other)
}

// R201: what the file's limits bound is said by the plan, by datastores of VMs of KVM too.
func TestJobPlanTellsDatastores(t *testing.T) {
	m, dir := newMachine(t), t.TempDir()
	other, err := os.MkdirTemp("/dev/shm", "hikae")
	if err != nil {
		t.Skip("needs /dev/shm: ", err)
	}
	defer os.RemoveAll(other)
	sources := ""
	for name, folder := range map[string]string{"a": dir, "b": dir, "c": other} {
		require.NoError(t, os.WriteFile(folder+"/"+name+".raw", make([]byte, 1<<20), 0o600))
		sources += "  - {url: \"kvm://" + dir + "/none?name=" + name + "&disk=vda=raw:" + folder + "/" + name + ".raw\"}\n"
	}
	file := dir + "/job.yaml"
	require.NoError(t, os.WriteFile(file, []byte("name: off\nrepository: {url: "+dir+"/repo}\nsources:\n"+sources+"limits: {datastores: {\"*\": 1}}\n"), 0o600))
	m.must(t, "init", dir+"/repo", "--no-encryption")
	text := m.must(t, "job", "plan", file)
	require.Contains(t, text, "other jobs that run at the same time do not count")
	said := m.must(t, "job", "run", file)
	require.Contains(t, said, "3 of 3 VMs have a new point")
	require.Equal(t, 1, strings.Count(said, "waits for datastore/"), "a or b for the other, and c for nobody: %s", said)
	require.NotContains(t, said, "datastore//dev/shm")
}
