//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/kvm/kvmtest"
	"github.com/hikae/hikae/vmware/vmwaretest"
)

// jobFile writes a job and the password of its source, which is where the file says and nowhere else.
func jobFile(t *testing.T, home, repository, password, source, more string) string {
	t.Helper()
	t.Setenv(sourcePassword, "another one")
	require.NoError(t, os.WriteFile(home+"/source.password", []byte(password+"\n"), 0o600))
	name := filepath.Join(home, "job.yaml")
	text := fmt.Sprintf("name: lab\nrepository: {url: %q}\nsources:\n  - url: %q\n    password-file: %s/source.password\n%s", repository, source, home, more)
	require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
	return name
}

// vmsOf are the VMs in a job's document, by their names.
func vmsOf(t *testing.T, doc map[string]any) map[string]map[string]any {
	t.Helper()
	out := map[string]map[string]any{}
	for _, v := range doc["vms"].([]any) {
		vm := v.(map[string]any)
		out[vm["vm"].(string)] = vm
	}
	return out
}

// firstMethod is how the first disk of a VM was read.
func firstMethod(vm map[string]any) any { return disksOf(vm["result"].(map[string]any))[0]["method"] }

// R198, R203: a job over VMs of a vSphere: those that are meant, two at once, one of them tried again; the second time what changed.
func TestJobVSphere(t *testing.T) {
	l := newVSphereLab(t, "--vms", "3", "--hosts", "2", "--disks", "1", "--size", "4MiB")
	repository := l.repository("job")
	listed := l.hikae(outcome.Done, "vsphere", "list", l.address("&vm=web0"))["vms"].([]any)
	id := listed[0].(map[string]any)["id"].(string)
	file := jobFile(t, l.home, repository, labPassword, l.address("&quiesce=off"),
		"    include: \"web*\"\n    exclude: web1\nlimits: {tasks: 2, hosts: {\"*\": 2}, datastores: {\"*\": 2}}\nretry: {first: 10ms}\n")
	doc := l.hikae(outcome.Done, "job", "plan", file)
	vms := vmsOf(t, doc)
	require.Len(t, vms, 2)
	require.NotEqual(t, "localhost", vms["web0"]["host"])
	needs := fmt.Sprint(vms["web0"]["needs"])
	require.Contains(t, needs, "datastore/", "R201: limits know where its disks lie")
	require.Contains(t, needs, "host/"+vms["web0"]["host"].(string))
	require.Contains(t, needs, "repository/"+repository)
	l.clean()

	require.NoError(t, l.Fail(t.Context(), vmwaretest.Fault{Method: "CreateSnapshot_Task", Object: id, Times: 6, Cut: true})) // as often as the driver asks, for its tracking and for the snapshot
	doc = l.hikae(outcome.Done, "job", "run", file)
	vms = vmsOf(t, doc)
	require.Len(t, vms, 2)
	require.Equal(t, "done", doc["state"], "%v", doc["warnings"])
	require.Equal(t, 2.0, vms["web0"]["attempts"])
	require.Equal(t, 1.0, vms["web2"]["attempts"])
	l.clean()
	for _, name := range []string{"web0", "web2"} {
		l.restored(repository, name, l.sums(name, 1))
		l.scribble(name, 1)
	}
	vms = vmsOf(t, l.hikae(outcome.Done, "job", "run", file))
	for _, name := range []string{"web0", "web2"} {
		require.Equal(t, "changed", firstMethod(vms[name]))
		l.restored(repository, name, l.sums(name, 1))
	}
	require.NoError(t, os.WriteFile(l.home+"/source.password", []byte("wrong\n"), 0o600))
	doc = l.hikae(outcome.Failed, "job", "run", file)
	require.True(t, has(doc, "does not take this user"), "%v", doc)
	l.clean()
}

// R197, R198: a job over VMs of a Hyper-V host, those that share a set pinned together, and one left out.
func TestJobHyperV(t *testing.T) {
	l := buildHyperV(t).start(t, "--generation", "2019", "--vms", "3", "--disks", "1", "--size", "4MiB")
	repository, ids := l.repository("job"), map[string]string{}
	for _, vm := range l.ready.VMs {
		ids[vm.Name] = vm.ID
	}
	file := jobFile(t, l.home, repository, hypervPassword, l.address(""), "    exclude: [web1]\n")
	for _, method := range []string{"allocated", "changed"} {
		doc := l.hikae(outcome.Done, "job", "run", file)
		vms := vmsOf(t, doc)
		require.Len(t, vms, 2)
		for _, name := range []string{"web0", "web2"} {
			require.Equal(t, "done", vms[name]["state"], "%v", vms[name])
			require.Equal(t, method, firstMethod(vms[name]), "%v", vms[name])
			l.restored(repository, name, l.sums(ids[name], 1, true))
			l.scribble(ids[name], 1)
		}
		l.clean()
	}
}

// A job over a real guest of QEMU beside a VM of files.
func TestJobKVM(t *testing.T) {
	if !longTier() {
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
	disk := filepath.Join(dir, "disk.raw")
	require.NoError(t, kvmtest.MakeExt4(t.Context(), disk, 64<<20))
	guest, err := fixture.Start(t.Context(), dir, []kvmtest.GuestDisk{{Path: disk, Format: "raw", ID: "vda", Serial: "web1-system"}})
	require.NoError(t, err)
	defer guest.Kill()
	require.NoError(t, os.WriteFile(dir+"/files.raw", make([]byte, 1<<20), 0o600))
	command(t, dir, outcome.Done, "init", dir+"/repo", "--no-encryption")
	source := "kvm://" + guest.QMP() + "?agent=" + guest.Agent() + "&scratch=" + dir
	file := jobFile(t, dir, dir+"/repo", "unused", source, "  - {name: files, disks: ["+dir+"/files.raw]}\nretention: {keep: last=1, prune: true}\n")
	for run := range 2 {
		begun := time.Now()
		vms := vmsOf(t, command(t, dir, outcome.Done, "job", "run", file))
		require.Equal(t, "filesystem", vms["fx"]["result"].(map[string]any)["consistency"])
		require.Equal(t, []string{"allocated", "changed"}[run], firstMethod(vms["fx"]))
		t.Logf("run %d took %s", run, time.Since(begun))
	}
	require.Len(t, command(t, dir, outcome.Done, "points", "--repo", dir+"/repo")["points"], 2)
}
