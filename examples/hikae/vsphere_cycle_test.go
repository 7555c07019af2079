//go:build linux

package main

import (
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/vmware/vmwaretest"
)

// TestVSphere is the real tool against a vSphere in a process of its own.
func TestVSphere(t *testing.T) {
	l := newVSphereLab(t, "--vms", "3", "--hosts", "2", "--disks", "2", "--size", "4MiB")
	t.Run("transports", func(t *testing.T) { l.as(t, l.transports) })
	t.Run("killed", func(t *testing.T) { l.as(t, l.killed) })
	t.Run("several", func(t *testing.T) { l.as(t, l.several) }) // the last: its fault stays
}

// as lets a part of the test be one of its own.
func (l *vsphereLab) as(t *testing.T, part func()) {
	defer func(outer *testing.T) { l.T = outer }(l.T)
	l.T = t
	part()
}

// R104 to R118: full, incremental, restored as a new VM and in place, through each transport by itself, byte for byte. HotAdd wants
// a proxy VM: package vmware's own tests have one. VDDK is the user's own, and its tests speak to an nbdkit.
func (l *vsphereLab) transports() {
	name, folder := l.datastore()
	mount := "&mount=" + url.QueryEscape(name+"="+folder)
	for _, c := range []struct{ read, write string }{
		{"nbdssl", "nbdssl"}, {"nbd", "nbd"}, {"https", "https,nbdssl"}, {"export", "nbdssl"}, {"nfs" + mount, "nbdssl"},
	} {
		transport := strings.TrimSuffix(c.read, mount)
		l.Run(transport, func(t *testing.T) {
			l.as(t, func() { l.throughTransport(transport, "&transport="+c.read, "&transport="+c.write) })
		})
	}
}

func (l *vsphereLab) throughTransport(transport, read, write string) {
	l.Helper()
	repository, source := l.repository("by-"+transport), l.address("&vm=web0&quiesce=off"+read)
	check := func(doc map[string]any, method string) {
		l.Helper()
		require.Equal(l, "crash", doc["consistency"])
		for _, d := range disksOf(doc) {
			require.Equal(l, transport, d["transport"], "%v", d)
			require.Equal(l, method, d["method"], "%v", doc["fallbacks"])
			require.Empty(l, d["tried"])
		}
		require.Empty(l, doc["fallbacks"])
		l.clean()
	}
	l.scribble("web0", 2)
	check(l.hikae(outcome.Done, "backup", "--repo", repository, source), "allocated")
	l.scribble("web0", 2)
	want := l.sums("web0", 2)
	doc := l.hikae(outcome.Done, "backup", "--repo", repository, source)
	check(doc, "changed")
	for _, d := range disksOf(doc) {
		require.Less(l, d["read"], float64(2<<20))
	}

	again := "again-" + transport
	l.hikae(outcome.Done, "restore", "--repo", repository, "web0@latest", "--to", l.address("&name="+again+write))
	require.Equal(l, want, l.sums(again, 2))
	l.scribble("web0", 2)
	require.NotEqual(l, want, l.sums("web0", 2))
	l.hikae(outcome.Done, "restore", "--repo", repository, "web0@latest", "--in-place", "--to", l.address("&vm=web0&power=off"+write))
	require.Equal(l, want, l.sums("web0", 2))
	other := l.sums("web1", 2)
	doc = l.hikae(outcome.Misused, "restore", "--repo", repository, "web0@latest", "--in-place", "--to", l.address("&vm=web1&power=off"+write))
	require.True(l, has(doc, "would write over VM web1"), "%v", doc)
	require.Equal(l, other, l.sums("web1", 2))
	l.clean()
	require.NoError(l, l.PowerOn(l.Context(), "web0"))
}

// R118, R198: several VMs by one command; where a transport is refused the next one is taken, and the report says so.
func (l *vsphereLab) several() {
	t, repository := l.T, l.repository("several")
	doc := l.hikae(outcome.Done, "vsphere", "list", l.address("&match=web*"))
	require.Len(t, doc["vms"], 3)
	doc = l.hikae(outcome.Done, "vsphere", "check", l.address("&vm=web0&vm=web1"))
	require.Len(t, doc["vms"], 2)

	require.NoError(t, l.Fail(t.Context(), vmwaretest.Fault{Method: "GET /folder/", Times: -1, Status: http.StatusForbidden}))
	doc = l.hikae(outcome.Done, "backup", "--repo", repository, l.address("&vm=web0&vm=web2&quiesce=off&transport=https,nbdssl"))
	results := doc["results"].([]any)
	require.Len(t, results, 2)
	for i, name := range []string{"web0", "web2"} {
		one := results[i].(map[string]any)
		require.Equal(t, name, one["vm"])
		require.Equal(t, "crash", one["consistency"])
		disk := disksOf(one)[0]
		require.Equal(t, "nbdssl", disk["transport"])
		tried := disk["tried"].([]any)[0].(map[string]any)
		require.Equal(t, "https", tried["transport"])
		require.NotEmpty(t, tried["reason"])
		require.Equal(t, float64(-1), tried["offset"], "before the first byte")
	}
	l.clean()
	for _, name := range []string{"web0", "web2"} {
		l.restored(repository, name, l.sums(name, 2))
	}

	doc = l.hikae(outcome.Failed, "backup", "--repo", repository, l.address("&vm=web0&vm=nix"))
	require.True(t, has(doc, `"kind":"not-found"`), "%v", doc)
	doc = l.hikae(outcome.Done, "vsphere", "reset-tracking", l.address("&vm=web1"))
	require.Equal(t, "web1", doc["name"])
	doc = l.hikae(outcome.Done, "vsphere", "selftest", l.address("&vm=web1&transport=nbdssl"), "--scratch", l.home)
	require.Equal(t, true, doc["ok"])
	l.clean()
}

// restored restores the newest point of a VM to files, and compares.
func (l *vsphereLab) restored(repository, vm string, want []string) {
	l.Helper()
	out, err := os.MkdirTemp(l.home, vm)
	require.NoError(l, err)
	doc := l.hikae(outcome.Done, "restore", "--repo", repository, vm+"@latest", "--to", out+"/")
	for i, d := range disksOf(doc) {
		require.Equal(l, want[i], sumOfFile(l.T, filepath.Join(out, d["key"].(string)+".raw")))
	}
}

// R188: a command that is killed with a snapshot on the server: the next one from there removes it.
func (l *vsphereLab) killed() {
	t := l.T
	repository, source := l.repository("killed"), l.address("&vm=web0&quiesce=off")
	l.hikae(outcome.Done, "backup", "--repo", repository, source)
	for _, next := range []string{"sweep", "backup"} {
		l.scribble("web0", 1)
		require.NoError(t, l.Fail(t.Context(), vmwaretest.Fault{Method: "RemoveSnapshot_Task", Delay: 2 * time.Second, InTask: true}))
		victim := exec.Command("hikae", "backup", "--repo", repository, source)
		victim.Env = append(os.Environ(), "HIKAE_STATE_DIR="+l.home+"/state", "HIKAE_CACHE_DIR="+l.home+"/cache")
		require.NoError(t, victim.Start())
		require.Eventually(t, func() bool {
			left, err := l.Leftovers(t.Context())
			return err == nil && strings.Contains(strings.Join(left, "\n"), "snapshot")
		}, 30*time.Second, 5*time.Millisecond)
		require.NoError(t, victim.Process.Kill())
		victim.Wait()
		l.dead++
		if next == "sweep" {
			doc := l.hikae(outcome.Done, "vsphere", "sweep", l.address(""))
			require.NotZero(t, doc["undone"])
		}
		want := l.sums("web0", 2)
		doc := l.hikae(outcome.Done, "backup", "--repo", repository, source)
		require.Equal(t, "changed", disksOf(doc)[0]["method"], "%v", doc["fallbacks"])
		l.clean()
		l.restored(repository, "web0", want)
	}
}
