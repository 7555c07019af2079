package hyperv

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/hypervtest"
)

// R080–R084, R090–R095, R142: a full and an increment, while the guest goes on writing; the order of events step by step.
func TestProductionCycle(t *testing.T) {
	windows := []string{"request R090", "freeze R091", "checkpoint R092", "checkpoint R092", "thaw R091", "backup type", "read R094", "convert",
		"merge begins R095", "merge begins R095", "merge R095", "merge R095"}
	linux := []string{"request R090", "freeze R091", "checkpoint R092", "checkpoint R092", "thaw R091", "read R094", "convert",
		"merge begins R095", "merge begins R095", "merge R095", "merge R095"}
	for _, c := range []struct {
		os    string
		level hikae.Consistency
		rows  []string
	}{{"windows", hikae.Application, windows}, {"linux", hikae.Filesystem, linux}} {
		t.Run(c.os, func(t *testing.T) {
			l := newLab(t, hypervtest.Options{})
			g := l.vm("web1", func(v *hypervtest.VM) { v.GuestOS = c.os })
			l.tells(g, c.os)
			p := l.provider(nil)
			stop := g.Churn(1)
			defer stop()
			full, s, err := l.backup(p, g, nil, newNote())
			require.NoError(t, err)
			l.same(g, full)
			require.Empty(t, s.(interface{ Warnings() []string }).Warnings())
			require.Len(t, full.ids, 2)
			require.EqualValues(t, labDisk*3/2, full.read)
			require.Equal(t, c.level, full.consistency)
			l.clean(g, refs(full)...)
			require.Equal(t, c.rows, l.rows(g))
			require.Equal(t, c.os == "linux", slices.ContainsFunc(l.fake.Events(), func(e hypervtest.Event) bool {
				return e.Name == "freeze" && strings.Contains(e.Detail, "fsfreeze") // R142
			}))

			l.clearEvents()
			next, _, err := l.backup(p, g, full, newNote())
			require.NoError(t, err)
			stop()
			l.same(g, next)
			require.Empty(t, next.lost)
			require.Less(t, next.read, full.read)
			l.clean(g, refs(next)...)
			require.NotEqual(t, refs(full), refs(next))
			require.Equal(t, append(c.rows, "destroy reference point"), l.rows(g))
		})
	}
}

// R103: the native configuration is the checkpoint's files byte for byte, with the virtual TPM's state; our own record is beside them.
func TestProductionConfiguration(t *testing.T) {
	l := newLab(t, hypervtest.Options{})
	g := l.vm("web1", func(v *hypervtest.VM) { v.TPM = true })
	pt, _, err := l.backup(l.provider(nil), g, nil, nil)
	require.NoError(t, err)
	ends := map[string]int{}
	for name, data := range pt.config {
		require.NotEmpty(t, data, name)
		ends[name[len(name)-5:]]++
	}
	require.Equal(t, map[string]int{".vmcx": 1, ".vmrs": 1, ".vmgs": 1, ".json": 1}, ends)
	require.Contains(t, string(pt.config[SettingsFile]), "Msvm_ProcessorSettingData")
}

// Trap 6: what is reached is said, and no level is taken in place of another silently.
func TestProductionQuiescePolicy(t *testing.T) {
	fail := func(l *lab) {
		l.fake.Fail(hypervtest.Fault{Event: "freeze", Code: 0x800423F4, Reason: "a writer of the guest failed (0x800423F4)"})
	}
	t.Run("try", func(t *testing.T) {
		l := newLab(t, hypervtest.Options{})
		g := l.vm("web1", nil)
		fail(l)
		pt, s, err := l.backup(l.provider(nil), g, nil, newNote())
		require.NoError(t, err)
		require.Equal(t, hikae.Crash, pt.consistency)
		require.Contains(t, s.(interface{ Warnings() []string }).Warnings()[0], "0x800423F4")
		l.same(g, pt)
		l.clean(g, refs(pt)...)
	})
	t.Run("require", func(t *testing.T) {
		l := newLab(t, hypervtest.Options{})
		g := l.vm("web1", nil)
		fail(l)
		j := newNote()
		_, _, err := l.backup(l.provider(&ProviderOptions{Quiesce: RequireQuiesce}), g, nil, j)
		var q *hikae.QuiesceError
		require.ErrorAs(t, err, &q)
		require.Equal(t, "snapshot", q.Stage)
		require.Empty(t, j.left())
		l.clean(g)
	})
	t.Run("off", func(t *testing.T) {
		l := newLab(t, hypervtest.Options{})
		g := l.vm("web1", nil)
		pt, _, err := l.backup(l.provider(&ProviderOptions{Quiesce: NoQuiesce}), g, nil, newNote())
		require.NoError(t, err)
		require.Equal(t, hikae.Crash, pt.consistency)
		require.NotContains(t, l.rows(g), "freeze R091")
	})
	t.Run("the VM is off", func(t *testing.T) {
		l := newLab(t, hypervtest.Options{})
		g := l.vm("web1", nil)
		require.NoError(t, g.PowerOff())
		pt, _, err := l.backup(l.provider(nil), g, nil, newNote())
		require.NoError(t, err)
		require.Equal(t, hikae.Offline, pt.consistency)
		l.same(g, pt)
		l.clean(g, refs(pt)...)
	})
}

// Trap 7: a copy unless a full backup was asked for, and nothing at all on a host that does not know the word.
func TestProductionGuestBackupType(t *testing.T) {
	for _, c := range []struct {
		generation string
		full       bool
		want       string
	}{{"2022", false, "copy: logs are left alone"}, {"2022", true, "full: logs may be truncated"}, {"2016", false, "full: logs may be truncated"}} {
		l := newLab(t, hypervtest.Options{Generation: c.generation})
		g := l.vm("web1", func(v *hypervtest.VM) { v.Version = "8.0" })
		_, _, err := l.backup(l.provider(&ProviderOptions{Full: c.full}), g, nil, newNote())
		require.NoError(t, err)
		var got string
		for _, e := range l.fake.Events() {
			if e.Name == "backup type" {
				got = e.Detail
			}
		}
		require.Equal(t, c.want, got)
	}
}
