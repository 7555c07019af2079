//go:build linux

package main

import (
	"bytes"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/hyperv"
	"github.com/hikae/hikae/hyperv/hypervtest"
)

const hypervPassword = "the fake host's own"

// What keeps a backup from being made is said in words, with a kind for scripts and a hint for people, and nothing is touched.
func TestHyperVErrors(t *testing.T) {
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	h, err := hypervtest.Start(&hypervtest.Options{Generation: "2022", User: "backup", Password: hypervPassword, Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(h.Close)
	for _, name := range []string{"web0", "twin", "twin"} {
		h.AddVM(hypervtest.VM{Name: name, Disks: []hypervtest.Disk{{Size: 1 << 20}}})
	}
	old, err := hypervtest.Start(&hypervtest.Options{Generation: "2012r2", User: "backup", Password: hypervPassword, Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(old.Close)
	old.AddVM(hypervtest.VM{Name: "web0", Disks: []hypervtest.Disk{{Size: 1 << 20}}})
	home := t.TempDir()
	repository := filepath.Join(home, "repo")
	command(t, home, outcome.Done, "init", repository, "--no-encryption")
	at := func(parameters string) string { return "hyperv://backup@" + h.Addr() + "/?" + parameters }
	backup := func(source string) []string { return []string{"backup", "--repo", repository, source} }
	restore := func(to string, more ...string) []string {
		return append([]string{"restore", "--repo", repository, "x@latest", "--to", to}, more...)
	}
	t.Setenv("HIKAE_AGENT_DIR", filepath.Join(home, "nowhere"))
	for name, c := range map[string]struct {
		password            string
		args                []string
		status              outcome.Status
		kind, hint, message string
	}{
		"wrong password":      {"wrong", backup(at("vm=web0")), 1, "secret", "HIKAE_SOURCE_PASSWORD", "log on to .*: the host does not take this user with this password"},
		"no password":         {"", backup(at("vm=web0")), 1, "secret", "HIKAE_SOURCE_PASSWORD", "there is no password for backup"},
		"no user":             {hypervPassword, backup("hyperv://" + h.Addr() + "/"), 2, "usage", "backup@", "names no user"},
		"password in the URL": {hypervPassword, backup("hyperv://u:hush@" + h.Addr() + "/"), 2, "usage", "", "a password does not belong here"},
		"nobody listens":      {hypervPassword, backup("hyperv://u@127.0.0.1:1/?vm=web0"), 1, "failed", "", "log on to 127.0.0.1:1"},
		"no such VM":          {hypervPassword, backup(at("vm=nix")), 1, "not-found", "hikae hyperv list", `VM "nix" is not there`},
		"a name of two":       {hypervPassword, backup(at("vm=twin")), 1, "ambiguous", "hikae hyperv list", "2 VMs are called"},
		"two of a name":       {hypervPassword, backup(at("match=twin")), 1, "ambiguous", "vm=GUID", "several of the VMs that are meant are called twin"},
		"unknown parameter":   {hypervPassword, backup(at("vn=web0")), 2, "usage", "", `"vn" is unknown`},
		"unknown procedure":   {hypervPassword, backup(at("vm=web0&procedure=magic")), 2, "usage", "", `procedure "magic"`},
		"a procedure of old":  {hypervPassword, backup(at("vm=web0&procedure=writer2012")), 1, "failed", "hikae hyperv check", "2008 R2 or 2012"},
		"the same, unchecked": {hypervPassword, backup(at("vm=web0&procedure=writer2012&check=off")), 1, "unsupported", "hikae hyperv check", "2008 R2 or 2012"},
		"off-host of C:":      {hypervPassword, backup(at("vm=web0&mode=off-host&check=off")), 1, "failed", "", "nobody can pin the volume of C:"},
		"no helper":           {hypervPassword, backup("hyperv://backup@" + old.Addr() + "/?vm=web0&check=off"), 1, "not-found", "make agents", "there is no helper for Hyper-V hosts"},
		"two and a name":      {hypervPassword, append(backup(at("match=*")), "--name", "x"), 2, "usage", "&vm=", "3 are meant"},
		"changed ranges":      {hypervPassword, append(backup(at("vm=web0")), "--changed", "a=b"), 2, "usage", "", "are for disk image files"},
		"selftest of three":   {hypervPassword, []string{"hyperv", "selftest", at("")}, 2, "usage", "&vm=", "3 VMs are meant"},
		"restore of a name":   {hypervPassword, restore(at("vm=web0")), 2, "usage", "&name=", "--in-place"},
		"in place of a name":  {hypervPassword, restore(at("vm=web0&name=x"), "--in-place"), 2, "usage", "", "&name= is for a new VM"},
		"a new one taken":     {hypervPassword, restore(at("takeover=yes")), 2, "usage", "", "&takeover= is for --in-place"},
		"power of a new one":  {hypervPassword, restore(at("power=off")), 2, "usage", "", "&power=off is for --in-place"},
		"no switch":           {hypervPassword, restore(at("switch=a")), 2, "usage", "OLD", "&switch=a is not OLD=NEW"},
		"no memory":           {hypervPassword, restore(at("memory=lots")), 2, "usage", "", "&memory= is a size"},
		"full restore":        {hypervPassword, restore(at("full=1")), 2, "usage", "switch", "&full= is for backups"},
		"by a procedure":      {hypervPassword, restore(at("procedure=auto")), 2, "usage", "switch", "&procedure= is for backups"},
		"ignore of nothing":   {hypervPassword, backup(at("vm=web0&ignore=scsi9-9")), 2, "usage", "scsi0-0", "names no disk"},
		"generation 3":        {hypervPassword, restore(at("generation=3")), 2, "usage", "", "number from 1 to 2"},
		"a word":              {hypervPassword, restore(at("provisioning=thick")), 2, "usage", "", "dynamic or fixed"},
		"nothing to do":       {hypervPassword, []string{"hyperv"}, 2, "usage", "--help", "what to do is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(sourcePassword, c.password)
			doc := command(t, home, c.status, c.args...)
			problem := doc["error"].(map[string]any)
			require.Equal(t, c.kind, problem["kind"], "%v", problem)
			require.Contains(t, problem["hint"], c.hint, "%v", problem)
			require.Regexp(t, c.message, problem["message"])
			require.NotContains(t, problem["message"], "hush")
			require.Empty(t, h.Leftovers())
			require.Empty(t, old.Leftovers())
		})
	}
}

// A target's parameters are the restorer's options; what is not said is as recorded.
func TestHyperVTarget(t *testing.T) {
	own, err := url.ParseQuery(`host=HV2&path=D:\VMs&switch=old=new&switch=lan=-&network=off&provisioning=fixed&power=on&identity=new&cpus=4&memory=8GiB&generation=1`)
	require.NoError(t, err)
	o, err := hypervTargetOptions(own)
	require.NoError(t, err)
	require.Equal(t, &hyperv.RestorerOptions{Host: "HV2", Path: `D:\VMs`, Switches: map[string]string{"old": "new", "lan": hyperv.NoSwitch}, NoNetwork: true,
		Provisioning: hyperv.FixedDisks, PowerOn: true, NewIDs: true, CPUs: 4, MemoryMB: 8192, Generation: 1}, o)
	o, err = hypervTargetOptions(url.Values{"checkpoints": {"under"}, "takeover": {"yes"}, "power": {"off"}})
	require.NoError(t, err)
	require.Equal(t, &hyperv.RestorerOptions{UnderCheckpoints: true, TakeOver: true, PowerOff: true}, o)
	o, err = hypervTargetOptions(nil)
	require.NoError(t, err)
	require.Equal(t, &hyperv.RestorerOptions{}, o)
}

// What a sweep leaves on purpose is no failure: a merge that goes on, a restore in place that can be repeated.
func TestHyperVStanding(t *testing.T) {
	stands, err := leftStanding(&hyperv.PendingError{VM: "web1", What: "merge of disk_1.avhdx", Hint: "It goes on by itself."})
	require.NoError(t, err)
	require.Len(t, stands, 1)
	require.Contains(t, stands[0], "It goes on by itself.")
	stands, err = leftStanding(&hyperv.UnprovenError{VM: "web1", What: "checkpoint", Candidates: []hyperv.Candidate{{ID: "Microsoft:A", Name: "nightly"}}, Hint: "Remove it."})
	require.NoError(t, err)
	require.Equal(t, []string{`VM web1: a checkpoint may be ours, and nothing proves it, so it was left as it is: "nightly" (Microsoft:A). Remove it.`}, stands)
	stands, err = leftStanding(&hyperv.IncompleteError{VM: "web1", Mark: "m"})
	require.NoError(t, err)
	require.Len(t, stands, 1)
	_, err = leftStanding(&hyperv.IncompleteError{VM: "web1", Mark: "m", New: true})
	require.Error(t, err, "half of a new VM is to be removed")
}

// Who reads docs/hyperv.md finds what an address of a restore has, too; and help has a page on addresses.
func TestHyperVDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/hyperv.md")
	require.NoError(t, err)
	for _, name := range ofNewHyperV {
		require.Contains(t, string(page), "`"+name+"=", "parameter %s", name)
	}
	var out bytes.Buffer
	tool := &tool{stdout: &out, stderr: &out, env: func(string) string { return "" }}
	require.Equal(t, outcome.Done, tool.run(t.Context(), []string{"help", "hyperv-addresses"}))
	for _, name := range []string{"procedure=", "mode=", "quiesce=", "transport=dcom"} {
		require.Contains(t, out.String(), name)
	}
}
