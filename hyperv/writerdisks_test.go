package hyperv_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv"
	"github.com/hikae/hikae/hyperv/hypervtest"
)

var writerHomes = []struct {
	generation string
	procedure  hyperv.Procedure
}{{"2008r2", hyperv.Writer2012}, {"2012", hyperv.Writer2012}, {"2012r2", hyperv.Writer2012R2}, {"2022", hyperv.Requested}}

// person has somebody take a checkpoint of a VM, once, after which its guest writes on.
func person(t *testing.T, g *hypervtest.Guest) func() {
	return sync.OnceFunc(func() {
		_, err := g.Checkpoint("by a person")
		require.NoError(t, err)
		require.NoError(t, g.Write(0, mib+4096, []byte("written after the person's checkpoint")))
		require.NoError(t, g.Flush(0))
	})
}

// gone: sets and requesters are, whatever became of the VM's own files.
func (l *lab) gone() {
	l.t.Helper()
	require.Eventually(l.t, func() bool { return len(l.h.Shadows()) == 0 && l.h.Requesters() == 0 }, 10*time.Second, time.Millisecond)
}

// R050, law (b): between the plan and the set somebody takes a checkpoint, or puts another disk in place of one. The set is read by what
// the VM is made of then.
func TestWriterVMChangesAfterThePlan(t *testing.T) {
	for _, c := range writerHomes {
		for name, change := range map[string]func(t *testing.T, g *hypervtest.Guest){
			"checkpoint": func(t *testing.T, g *hypervtest.Guest) { person(t, g)() },
			"checkpoint, and off": func(t *testing.T, g *hypervtest.Guest) {
				person(t, g)()
				require.NoError(t, g.PowerOff())
			},
			"another disk": func(t *testing.T, g *hypervtest.Guest) {
				require.NoError(t, g.PowerOff())
				require.NoError(t, g.Replace(1, hypervtest.Disk{Size: 2 * mib, Path: g.Folder() + `\new.vhdx`, BlockSize: mib}))
				require.NoError(t, g.PowerOn())
				require.NoError(t, g.Write(1, 0, []byte("on another disk")))
			},
		} {
			t.Run(c.generation+" "+name, func(t *testing.T) {
				t.Parallel()
				l := newLab(t, c.generation, "windows")
				l.h.SetVSS(hypervtest.VSSOptions{})
				g := l.guests[0]
				p := l.slow(func() { change(t, g) }, hyperv.ProviderOptions{Procedure: c.procedure})
				s, err := p.Snapshot(t.Context(), g.ID(), nil)
				require.NoError(t, err)
				frozen(t, s, g)
				require.NoError(t, s.Release(t.Context()))
				l.gone()
			})
		}
	}
}

// R050, law (b): within the making of the set somebody takes a checkpoint, so that the planned file, which the writer names, is old in
// it. The VM fails by name, and nobody else; nothing is left.
func TestWriterVMChangesWithinTheSet(t *testing.T) {
	for _, c := range writerHomes {
		t.Run(c.generation, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, c.generation, "windows", "windows")
			change, m := person(t, l.guests[0]), &meddle{}
			o := hypervtest.VSSOptions{InGap: func(*hypervtest.Guest) { change() }}
			if c.procedure == hyperv.Requested {
				o.InGap, m.take = nil, change // no gap there: the guests stand still
			}
			l.h.SetVSS(o)
			p := l.meddled(m, hyperv.ProviderOptions{Procedure: c.procedure, MergeLimit: 5 * time.Second})
			snaps, err := p.SnapshotGroup(t.Context(), l.ids(), nil)
			var some *hyperv.GroupError
			require.ErrorAs(t, err, &some)
			var changed *hyperv.ChangedError
			require.ErrorAs(t, some.VMs[l.ids()[0]], &changed)
			require.Equal(t, l.ids()[0], changed.VM)
			require.Contains(t, changed.What, l.tips[0])
			require.Len(t, snaps, 1)
			frozen(t, snaps[0], l.guests[1])
			require.NoError(t, snaps[0].Release(t.Context()))
			l.gone()
			require.Len(t, l.guests[0].Checkpoints(), 1, "the person's checkpoint is nobody else's")
		})
	}
}

// The same by another product's checkpoint for a backup, which on hosts of 2016 and later looks like the writer's own: the writer names
// its file, and names its own only afterwards.
func TestWriterAnotherProductsCheckpointWithinTheSet(t *testing.T) {
	l := newLab(t, "2022", "windows")
	l.h.SetVSS(hypervtest.VSSOptions{})
	g := l.guests[0]
	var other hikae.Snapshot
	p := l.meddled(&meddle{take: func() {
		var err error
		other, err = l.provider(hyperv.ProviderOptions{Procedure: hyperv.Production}).Snapshot(t.Context(), g.ID(), nil)
		require.NoError(t, err)
	}}, hyperv.ProviderOptions{Procedure: hyperv.Requested, MergeLimit: time.Millisecond})
	_, err := p.Snapshot(t.Context(), g.ID(), nil)
	var changed *hyperv.ChangedError
	require.ErrorAs(t, err, &changed)
	require.Contains(t, changed.What, "the writer names")
	require.NoError(t, other.Release(t.Context()))
	l.clean()
}

// A disk that cannot be read any more after the plan is not left out in silence: the VM is planned anew, and refused.
func TestWriterDiskIsLostAfterThePlan(t *testing.T) {
	l := newLab(t, "2012", "windows")
	l.h.SetVSS(hypervtest.VSSOptions{})
	g := l.guests[0]
	require.NoError(t, g.PowerOff())
	p := l.slow(func() { require.NoError(t, l.h.LocalFiles().Remove(t.Context(), g.Tip(1))) }, hyperv.ProviderOptions{})
	_, err := p.Snapshot(t.Context(), g.ID(), nil)
	var plan *hyperv.PlanError
	require.ErrorAs(t, err, &plan)
	l.gone()
}

// A disk that is put in the place of one while the set is made is caught: nobody knows which of them is in it.
func TestWriterDiskIsReplacedWithinTheSet(t *testing.T) {
	l := newLab(t, "2012", "windows")
	l.h.SetVSS(hypervtest.VSSOptions{})
	g := l.guests[0]
	require.NoError(t, g.PowerOff())
	p := l.meddled(&meddle{took: func() {
		require.NoError(t, g.Replace(1, hypervtest.Disk{Size: 2 * mib, Path: g.Folder() + `\new.vhdx`, BlockSize: mib}))
	}}, hyperv.ProviderOptions{})
	_, err := p.Snapshot(t.Context(), g.ID(), nil)
	var changed *hyperv.ChangedError
	require.ErrorAs(t, err, &changed)
	require.Contains(t, changed.What, "new.vhdx")
	l.gone()
}

// R079: a checkpoint that a person takes after the set was made does no harm, and is not taken for the writer's own: nobody waits
// until it is merged, and no effect stays for as long as the person keeps it.
func TestWriterPersonsCheckpointAfterTheSet(t *testing.T) {
	for _, c := range writerHomes {
		t.Run(c.generation, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, c.generation, "windows")
			l.h.SetVSS(hypervtest.VSSOptions{})
			g := l.guests[0]
			p := l.meddled(&meddle{took: person(t, g)}, hyperv.ProviderOptions{Procedure: c.procedure, MergeLimit: 10 * time.Second})
			j := &notes{}
			s, err := p.Snapshot(t.Context(), g.ID(), &hikae.SnapshotOptions{Journal: j})
			require.NoError(t, err)
			frozen(t, s, g)
			require.NoError(t, s.Commit(t.Context()))
			require.NoError(t, s.Release(t.Context()))
			require.Empty(t, warningsOf(s))
			require.Empty(t, j.pending())
			require.Len(t, g.Checkpoints(), 1)
			l.gone()
		})
	}
}

// R069, R075: the consistent state of 2012 R2 is in the file of the auto-recovery checkpoint. Where a set does not have it, the VM
// is as after a power cut, which is told, or refused where more is required.
func TestWriterSetWithoutRecoveryFile(t *testing.T) {
	for _, procedure := range []hyperv.Procedure{hyperv.Writer2012R2, hyperv.Requested} {
		l := newLab(t, "2012r2", "windows")
		gap(l)
		m := &meddle{hide: "-AutoRecovery.avhdx"}
		s, err := l.meddled(m, hyperv.ProviderOptions{Procedure: procedure}).Snapshot(t.Context(), l.guests[0].ID(), nil)
		require.NoError(t, err)
		require.Equal(t, hikae.Crash, s.Consistency())
		require.Contains(t, strings.Join(warningsOf(s), "\n"), "auto-recovery")
		require.NoError(t, s.Release(t.Context()))
		_, err = l.meddled(m, hyperv.ProviderOptions{Procedure: procedure, Quiesce: hyperv.RequireQuiesce}).Snapshot(t.Context(), l.guests[0].ID(), nil)
		var q *hikae.QuiesceError
		require.ErrorAs(t, err, &q)
		l.clean()
	}
}

// slow has requesters that take long to be brought: something happens meanwhile.
func (l *lab) slow(meanwhile func(), o hyperv.ProviderOptions) *hyperv.Provider {
	l.t.Helper()
	return l.meddled(&meddle{bring: sync.OnceFunc(meanwhile)}, o)
}
