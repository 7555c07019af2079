//go:build linux

package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/hyperv/hypervtest"
)

// TestHyperV is the real tool against a Hyper-V host in a process of its own, one of the release that has all that there is.
func TestHyperV(t *testing.T) {
	l := buildHyperV(t).start(t, "--generation", "2019", "--vms", "2", "--disks", "2", "--size", "4MiB")
	t.Run("looks", func(t *testing.T) { l.as(t, l.looks) })
	t.Run("cycle", func(t *testing.T) { l.as(t, l.cycle) })
	t.Run("killed", func(t *testing.T) { l.as(t, l.killed) })
	t.Run("writer", func(t *testing.T) { l.as(t, l.writer) })
}

// R085 to R089, R141: what an address means, and how its VMs would be backed up, are told before anything is touched.
func (l *hypervLab) looks() {
	doc := l.hikae(outcome.Done, "hyperv", "list", l.address(""))
	require.Len(l, doc["vms"], 2)
	doc = l.hikae(outcome.Done, "hyperv", "check", l.address("&match=WEB*"))
	require.Len(l, doc["vms"], 2)
	one := doc["vms"].([]any)[0].(map[string]any)
	require.Equal(l, true, one["ok"])
	plan := one["plan"].(map[string]any)
	require.Equal(l, "production", plan["procedure"])
	require.Equal(l, "on-host", plan["mode"])
	require.True(l, has(plan["reasons"], "configuration version at least 8.0"), "%v", plan)
	doc = l.hikae(outcome.Failed, "hyperv", "check", l.address("&vm=web0&procedure=writer2012"))
	require.True(l, has(doc, "2008 R2 or 2012"), "%v", doc)
	doc = l.hikae(outcome.Done, "hyperv", "selftest", l.address("&vm=web1"), "--scratch", l.home)
	require.Equal(l, true, doc["ok"])
	require.False(l, has(doc, "HV1"), "names are told only with --names")
	l.clean()
}

// R092 to R098, R034, R142: full, and by the host's change tracking, while the guest writes; restored to files, as a new VM and in
// place, byte for byte as the guest had it at the freeze; and the report says how.
func (l *hypervLab) cycle() {
	id, repository, source := l.ready.VMs[0].ID, l.repository("cycle"), l.address("&vm=web0")
	check := func(doc map[string]any, method string) {
		l.Helper()
		require.Equal(l, "application", doc["consistency"], "%v", doc["warnings"])
		facts := doc["facts"].(map[string]any)
		require.Equal(l, "production", facts["procedure"])
		require.Contains(l, facts["reasons"], "configuration version at least 8.0")
		for _, d := range disksOf(doc) {
			require.Equal(l, method, d["method"], "%v", doc["fallbacks"])
		}
		require.Empty(l, doc["warnings"])
	}
	require.NoError(l, l.Churn(l.Context(), id, 1))
	check(l.hikae(outcome.Done, "backup", "--repo", repository, source), "allocated")
	l.restored(repository, "web0", l.sums(id, 2, true))
	require.NoError(l, l.StopChurn(l.Context(), id))
	l.clean()

	l.scribble(id, 2)
	want := l.sums(id, 2, false)
	check(l.hikae(outcome.Done, "backup", "--repo", repository, source), "changed")
	l.clean()
	l.restored(repository, "web0", want)
	report := l.hikae(outcome.Done, "report", "latest~1")
	require.True(l, has(report, "production"), "%v", report)

	l.hikae(outcome.Done, "restore", "--repo", repository, "web0@latest", "--to", l.address("&name=again"))
	require.Equal(l, want, l.sums(l.idOf("again"), 2, false))
	doc := l.hikae(outcome.Failed, "restore", "--repo", repository, "web0@latest", "--in-place", "--to", l.address("&vm=web0"))
	require.True(l, has(doc, "must be off"), "%v", doc)
	require.True(l, has(doc, "power=off"), "%v", doc)
	l.scribble(id, 2)
	require.NotEqual(l, want, l.sums(id, 2, false))
	l.hikae(outcome.Done, "restore", "--repo", repository, "web0@latest", "--in-place", "--to", l.address("&vm=web0&power=off"))
	require.Equal(l, want, l.sums(id, 2, false))
	other := l.sums(l.ready.VMs[1].ID, 2, false)
	doc = l.hikae(outcome.Misused, "restore", "--repo", repository, "web0@latest", "--in-place", "--to", l.address("&vm=web1&power=off"))
	require.True(l, has(doc, "would write over VM web1"), "%v", doc)
	require.Equal(l, other, l.sums(l.ready.VMs[1].ID, 2, false))
	l.clean()
}

// R188: a command that is killed with a checkpoint on the host: the sweep, or the next backup from there, removes it, and the next
// increment is right. One that is killed when its point is durable leaves what that rests on, whoever sweeps.
func (l *hypervLab) killed() {
	id, repository, source := l.ready.VMs[1].ID, l.repository("killed"), l.address("&vm=web1")
	l.hikae(outcome.Done, "backup", "--repo", repository, source)
	ways := []struct{ next, job, there string }{{"sweep", "ConvertToReferencePoint", "checkpoint"}, {"sweep", "DestroyReferencePoint", "Removing a reference point"}}
	if longTier() {
		ways = append(ways, ways...)
		ways[2].next, ways[3].next = "backup", "backup"
	}
	for _, way := range ways {
		l.scribble(id, 1)
		require.NoError(l, l.ClearEvents(l.Context()))
		require.NoError(l, l.Fail(l.Context(), "", hypervtest.Fault{Job: way.job, Delay: 2 * time.Second}))
		victim := exec.Command("hikae", "backup", "--repo", repository, source)
		victim.Env = append(os.Environ(), "HIKAE_STATE_DIR="+l.home+"/state", "HIKAE_CACHE_DIR="+l.home+"/cache")
		require.NoError(l, victim.Start())
		require.Eventually(l, func() bool {
			left, err := l.Leftovers(l.Context())
			return err == nil && strings.Contains(strings.Join(left, "\n"), way.there)
		}, 30*time.Second, 5*time.Millisecond)
		require.NoError(l, victim.Process.Kill())
		victim.Wait()
		require.NoError(l, l.Heal(l.Context()))
		if way.next == "sweep" {
			doc := l.hikae(outcome.Done, "hyperv", "sweep", l.address(""))
			require.True(l, doc["undone"] != 0.0 || has(doc["stands"], "the restore points of its repository tell"), "%v", doc)
		}
		want := l.sums(id, 2, false)
		doc := l.hikae(outcome.Done, "backup", "--repo", repository, source)
		require.Equal(l, "changed", disksOf(doc)[0]["method"], "%v", doc["fallbacks"])
		l.clean()
		l.restored(repository, "web1", want)
	}
}

// R100 to R103: by the host's VSS alone, where that is asked for: the helper comes over SMB, and goes.
func (l *hypervLab) writer() {
	if !longTier() {
		l.Skip("hosts of older releases stand for it, by the same helper: needs HIKAE_TEST_TIER=long")
	}
	id, repository := l.ready.VMs[1].ID, l.repository("writer")
	doc := l.hikae(outcome.Done, "backup", "--repo", repository, l.address("&vm=web1&procedure=requester"))
	require.Equal(l, "requester", doc["facts"].(map[string]any)["procedure"])
	l.restored(repository, "web1", l.sums(id, 2, true))
	l.clean()
}

// R037, R038 to R079: hosts of older releases, each by its own procedure, with the helper brought over SMB: two VMs share one set, what is
// restored is what the guests had at the freeze, and nothing is left.
func TestHyperVGenerations(t *testing.T) {
	programs := buildHyperV(t)
	for _, g := range []struct{ generation, procedure, format string }{
		{"2012r2", "writer2012r2", "vhdx"}, {"2012", "writer2012", "vhdx"}, {"2008r2", "writer2012", "vhd"},
	} {
		t.Run(g.generation, func(t *testing.T) {
			if g.generation == "2012" && !longTier() {
				t.Skip("2008 R2 stands for it, by the same procedure: needs HIKAE_TEST_TIER=long")
			}
			l := programs.start(t, "--generation", g.generation, "--format", g.format, "--vms", "2", "--size", "2MiB")
			repository := l.repository("repo")
			require.NoError(t, l.Churn(t.Context(), l.ready.VMs[0].ID, 2))
			doc := l.hikae(outcome.Done, "backup", "--repo", repository, l.address(""))
			require.NoError(t, l.StopChurn(t.Context(), l.ready.VMs[0].ID))
			results, sets := doc["results"].([]any), map[any]bool{}
			require.Len(t, results, 2)
			for _, r := range results {
				one := r.(map[string]any)
				facts := one["facts"].(map[string]any)
				require.Equal(t, g.procedure, facts["procedure"])
				require.Equal(t, "application", one["consistency"], "%v", one["warnings"])
				sets[facts["set"]] = true
			}
			require.Len(t, sets, 1, "VMs of one volume share a set: R197")
			for _, vm := range l.ready.VMs {
				l.restored(repository, vm.Name, l.sums(vm.ID, 1, true))
			}
			l.clean()
		})
	}
}
