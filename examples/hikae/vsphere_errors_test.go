//go:build linux

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/vmware/nfc/nfctest"
	"github.com/hikae/hikae/vmware/vmwaretest"
)

func sumOfFile(t *testing.T, path string) string {
	t.Helper()
	p, err := os.ReadFile(path)
	require.NoError(t, err)
	sum := sha256.Sum256(p)
	return hex.EncodeToString(sum[:])
}

// What keeps a backup from being made is said in words, with a kind for scripts and a hint for people, and nothing is touched.
func TestVSphereErrors(t *testing.T) {
	server, err := vmwaretest.Start(&vmwaretest.Options{VMs: 2, DisksPerVM: 2, DiskBytes: 1 << 20})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	server.VM("web1").SetQuiescing(vmwaretest.QuiesceNoTools)
	server.AddUser("weak", "pass", []string{"VirtualMachine.State.CreateSnapshot"})
	server.AddUser("mute", "pass", []string{"System.View"})
	home, print := t.TempDir(), url.QueryEscape(server.Thumbprint())
	repository := filepath.Join(home, "repo")
	command(t, home, outcome.Done, "init", repository, "--no-encryption")
	at := func(user, parameters string) string {
		return "vsphere://" + user + "@" + server.URL().Host + "/?" + parameters
	}
	right := at(server.User(), "thumbprint="+print)
	backup := func(source string) []string { return []string{"backup", "--repo", repository, source} }
	for name, c := range map[string]struct {
		password   string
		restricted bool
		args       []string
		status     outcome.Status
		kind, hint string
		message    string
	}{
		"wrong password":       {"wrong", false, backup(right + "&vm=web0"), 1, "secret", "HIKAE_SOURCE_PASSWORD", "log in to .*: the server does not take this user with this password"},
		"no password":          {"", false, backup(right + "&vm=web0"), 1, "secret", "HIKAE_SOURCE_PASSWORD", "there is no password for"},
		"no user":              {server.Password(), false, backup("vsphere://" + server.URL().Host + "/"), 2, "usage", "backup@", "names no user"},
		"password in the URL":  {server.Password(), false, backup("vsphere://u:hush@" + server.URL().Host + "/"), 2, "usage", "", "a password does not belong here"},
		"wrong thumbprint":     {server.Password(), false, backup(at("u", "thumbprint=00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33")), 1, "permission", "another certificate", "shows a certificate with the thumbprint"},
		"unknown authority":    {server.Password(), false, backup(at("u", "vm=web0")), 1, "permission", "&ca=FILE", "is not trusted"},
		"no such VM":           {server.Password(), false, backup(right + "&vm=nix"), 1, "not-found", "hikae vsphere list", `VM "nix" is not there`},
		"unknown parameter":    {server.Password(), false, backup(right + "&vn=web0"), 2, "usage", "", `"vn" is unknown`},
		"unknown transport":    {server.Password(), false, backup(right + "&vm=web0&transport=pigeon"), 2, "usage", "", `transport "pigeon"`},
		"no transport":         {server.Password(), false, backup(right + "&vm=web0&quiesce=off&transport=vddk"), 1, "unsupported", "docs/vmware.md", "no transport; not vddk: no VDDK was named"},
		"free licence":         {server.Password(), true, backup(right + "&vm=web0&quiesce=off"), 1, "unsupported", "free ESXi", "."},
		"privileges":           {"pass", false, backup(at("weak", "vm=web0&quiesce=off&thumbprint="+print)), 1, "permission", "hikae vsphere check", "VirtualMachine.State.RemoveSnapshot"},
		"privileges, no check": {"pass", false, backup(at("mute", "vm=web0&quiesce=off&check=off&thumbprint="+print)), 1, "permission", "hikae vsphere check", "."},
		"quiescing":            {server.Password(), false, backup(right + "&vm=web1&quiesce=require"), 1, "failed", "check=off", "VMware Tools do not run"},
		"two names":            {server.Password(), false, append(backup(right+"&match=web*"), "--name", "x"), 2, "usage", "&vm=", "2 are meant"},
		"changed ranges":       {server.Password(), false, append(backup(right+"&vm=web0"), "--changed", "a=b"), 2, "usage", "", "are for disk image files"},
		"selftest of two":      {server.Password(), false, []string{"vsphere", "selftest", right}, 2, "usage", "&vm=", "2 VMs are meant"},
		"restore of a name":    {server.Password(), false, []string{"restore", "--repo", repository, "x@latest", "--to", right + "&vm=web0"}, 2, "usage", "&name=", "--in-place"},
		"nothing to do":        {server.Password(), false, []string{"vsphere"}, 2, "usage", "--help", "what to do is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(sourcePassword, c.password)
			server.Restrict(c.restricted)
			defer server.Restrict(false)
			doc := command(t, home, c.status, c.args...)
			problem := doc["error"].(map[string]any)
			require.Equal(t, c.kind, problem["kind"], "%v", problem)
			require.Contains(t, problem["hint"], c.hint, "%v", problem)
			require.Regexp(t, c.message, problem["message"])
			require.NotContains(t, problem["message"], "hush")
			require.Empty(t, server.Leftovers())
		})
	}
	t.Run("nobody listens", func(t *testing.T) {
		if tier := os.Getenv("HIKAE_TEST_TIER"); tier != "long" && tier != "release" {
			t.Skip("the client tries again for some seconds: needs HIKAE_TEST_TIER=long")
		}
		t.Setenv(sourcePassword, "pass")
		problem := command(t, home, outcome.Failed, backup("vsphere://u@127.0.0.1:1/")...)["error"].(map[string]any)
		require.Contains(t, problem["hint"], "port 443")
	})
	t.Run("check names what is missing", func(t *testing.T) {
		t.Setenv(sourcePassword, "pass")
		doc := command(t, home, outcome.Failed, "vsphere", "check", at("weak", "vm=web0&thumbprint="+print))
		require.True(t, has(doc, "VirtualMachine.State.RemoveSnapshot"), "%v", doc)
		require.False(t, has(doc, "VirtualMachine.State.CreateSnapshot"), "%v", doc)
	})
}

// A connection that is cut in the middle of a disk: the next transport goes on, and the report says from where.
func TestVSphereFailsOver(t *testing.T) {
	server, err := vmwaretest.Start(&vmwaretest.Options{DiskBytes: 16 << 20})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	t.Setenv(sourcePassword, server.Password())
	disk := server.VM("web0").Disk(0)
	for off := int64(0); off < disk.Size(); off += 1 << 20 {
		require.NoError(t, disk.Write(off, bytes.Repeat([]byte{byte(off>>20) + 1}, 1<<20)))
	}
	// A look at its file systems, then some of the copy; and it does not come back.
	server.DiskService().Fail(nfctest.Fault{Kind: nfctest.Drop, After: 6 << 20, Together: true, Times: -1})
	home := t.TempDir()
	repository, out := filepath.Join(home, "repo"), filepath.Join(home, "disk.raw")
	command(t, home, outcome.Done, "init", repository, "--no-encryption")
	source := "vsphere://" + server.User() + "@" + server.URL().Host + "/?vm=web0&quiesce=off&transport=nbdssl,https&thumbprint=" + url.QueryEscape(server.Thumbprint())
	doc := command(t, home, outcome.Done, "backup", "--repo", repository, source)
	one := disksOf(doc)[0]
	require.Equal(t, "https", one["transport"], "%v", one)
	tried := one["tried"].([]any)[0].(map[string]any)
	require.Equal(t, "nbdssl", tried["transport"])
	require.Greater(t, tried["offset"], float64(0))
	fell := doc["fallbacks"].([]any)[0].(map[string]any)
	require.Equal(t, []any{"nbdssl", "https"}, []any{fell["from"], fell["to"]})
	require.Contains(t, fell["reason"], "at ")
	require.Empty(t, server.Leftovers())
	command(t, home, outcome.Done, "restore", "--repo", repository, "web0@latest", "--to", out)
	want, err := disk.Read(0, int(disk.Size()))
	require.NoError(t, err)
	got, err := os.ReadFile(out)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
}
