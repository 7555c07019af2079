package hyperv_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv"
	"github.com/hikae/hikae/hyperv/hypervtest"
)

// The generations of hosts, their procedures with a writer, guests, and what the host does then, row by row.
var writerOrders = []struct {
	generation string
	procedure  hyperv.Procedure
	system     string
	vector     string
}{
	{"2008r2", hyperv.Writer2012, "windows", "2008r2-windows.txt"},
	{"2012", hyperv.Writer2012, "windows", "2008r2-windows.txt"},
	{"2012", hyperv.Writer2012, "linux", "2008r2-linux.txt"},
	{"2012r2", hyperv.Writer2012R2, "windows", "2012r2-windows.txt"},
	{"2012r2", hyperv.Writer2012R2, "linux", "2012r2-linux.txt"},
	{"2022", hyperv.Requested, "windows", "2016-windows.txt"},
	{"2022", hyperv.Requested, "linux", "2016-linux.txt"},
}

// R041–R060, R064–R079, R100–R103, on-host: the host's order of events, up to the set while it is read, and to its end when it is
// released; restored disks are what they were at the freeze, while the guest writes on throughout.
func TestWriterProcedures(t *testing.T) {
	for _, c := range writerOrders {
		t.Run(c.generation+" "+c.system, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, c.generation, c.system)
			gap(l)
			l.churn()
			p := l.provider(hyperv.ProviderOptions{Procedure: c.procedure})
			all, g := order(t, c.vector, 2), l.guests[0]
			s, err := p.Snapshot(t.Context(), g.ID(), nil)
			require.NoError(t, err)
			presented := 1
			for !strings.HasSuffix(all[presented-1], "shadow copy presented") {
				presented++
			}
			require.Equal(t, all[:presented], l.rows(g.ID()))
			want := hikae.Application
			if c.procedure == hyperv.Writer2012 && c.system == "linux" {
				want = hikae.Crash // it was put into saved state, and its memory is in no point
			}
			require.Equal(t, want, s.Consistency())
			frozen(t, s, g)
			require.NotEmpty(t, s.VM().Config)
			require.Equal(t, c.generation != "2008r2", s.VM().Config[hyperv.SettingsFile] != nil)
			require.NoError(t, s.Commit(t.Context()))
			require.NoError(t, s.Release(t.Context()))
			require.Eventually(t, func() bool { return len(l.rows(g.ID())) >= len(all) }, 5*time.Second, time.Millisecond)
			require.Equal(t, all, l.rows(g.ID()))
			l.clean()
			require.Empty(t, l.said)
		})
	}
}

// gap has each guest write where no writer holds it, between the freeze and the volume snapshot: R053.
func gap(l *lab) {
	o := hypervtest.VSSOptions{HardwareProvider: true, InGap: func(g *hypervtest.Guest) {
		if err := g.Write(0, mib, []byte("written in the gap")); err != nil {
			l.t.Error(err)
		}
	}}
	l.h.SetVSS(o)
}

// R051, R078: the same off-host: shadow copies that the host's VSS made are mounted where they are read, and both go in order.
func TestWriterProceduresOffHost(t *testing.T) {
	for _, c := range writerOrders {
		t.Run(c.generation+" "+c.system, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, c.generation, c.system, c.system)
			gap(l)
			l.churn()
			p := l.provider(hyperv.ProviderOptions{Procedure: c.procedure, Mode: hyperv.OffHost, Volumes: []hyperv.VolumeSnapshotter{array{l.h.Storage()}}})
			snaps, err := p.SnapshotGroup(t.Context(), l.ids(), nil)
			require.NoError(t, err)
			require.Equal(t, hypervtest.StorageCounts{Mounts: 1, Held: 1, Mounted: 1}, l.h.Storage().Counts())
			for i, s := range snaps {
				require.Equal(t, "off-host", s.VM().Facts["mode"])
				frozen(t, s, l.guests[i])
				require.NoError(t, s.Commit(t.Context()))
				require.NoError(t, s.Release(t.Context()))
				require.Equal(t, i == 0, len(l.h.Shadows()) > 0, "the set goes with the last VM")
			}
			l.clean()
			require.Empty(t, l.said)
		})
	}
}

// Without a storage that can bring shadow copies elsewhere there is no off-host, and nothing is left of the try.
func TestWriterOffHostNeedsTheStorage(t *testing.T) {
	l := newLab(t, "2012", "windows")
	l.h.SetVSS(hypervtest.VSSOptions{HardwareProvider: true})
	p := l.provider(hyperv.ProviderOptions{Mode: hyperv.OffHost, Volumes: []hyperv.VolumeSnapshotter{plain{array{l.h.Storage()}}}})
	_, err := p.Snapshot(t.Context(), l.guests[0].ID(), nil)
	var refused *hyperv.PlanError
	require.ErrorAs(t, err, &refused)
	require.ErrorContains(t, err, "shadow copies that the host's VSS makes can be mounted elsewhere (nothing is given that does)")
	l.clean()
	require.Empty(t, l.h.Events(), "nobody was asked for anything")
}

func warningsOf(s hikae.Snapshot) []string { return s.(interface{ Warnings() []string }).Warnings() }

// plain is a snapshotter that only pins.
type plain struct{ hyperv.VolumeSnapshotter }

// R036, R101: a VM whose guest cannot be asked is saved for a moment, and one that is off is read as it lies there.
func TestWriterProcedureMethods(t *testing.T) {
	for _, c := range writerOrders[:6] {
		l := newLab(t, c.generation, "windows", "windows")
		l.h.SetVSS(hypervtest.VSSOptions{})
		l.guests[0].SetVSS(hypervtest.VSSGuest{DynamicDisks: true, NoSCSI: true})
		require.NoError(t, l.guests[1].PowerOff())
		p := l.provider(hyperv.ProviderOptions{Procedure: c.procedure})
		snaps, err := p.SnapshotGroup(t.Context(), l.ids(), nil)
		require.NoError(t, err)
		for i, s := range snaps {
			frozen(t, s, l.guests[i])
			require.NoError(t, s.Release(t.Context()))
		}
		want := hikae.Crash
		if c.generation == "2022" {
			want = hikae.Application
		}
		require.Equal(t, want, snaps[0].Consistency(), c.generation)
		require.Equal(t, c.generation != "2022", strings.Contains(fmt.Sprint(warningsOf(snaps[0])), "stood still"), c.generation)
		require.Equal(t, hikae.Offline, snaps[1].Consistency(), c.generation)
		l.clean()
	}
}
