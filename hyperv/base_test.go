package hyperv

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/hypervtest"
)

// newPoint does what a session does up to where its point is durable, with a full backup of whatever procedure.
func (l *lab) newPoint(p *Provider, g *hypervtest.Guest, past *point, j hikae.Journal) (hikae.Snapshot, *point) {
	l.t.Helper()
	s, err := p.Snapshot(l.t.Context(), g.ID(), &hikae.SnapshotOptions{Journal: j, Repository: "repo", Past: past.ids})
	require.NoError(l.t, err)
	pt := &point{}
	pt.ids, err = s.Prepare(l.t.Context())
	require.NoError(l.t, err)
	return s, pt
}

// Trap 14, facts §1.1.10: what a point leaves behind goes with it, however the point is made: a full backup that asks for no changes, one
// that is not tracked, a conversion that the host refuses. Without Commit it stays, for the next increment.
func TestOldReferencePointsGo(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		options ProviderOptions
		fault   *hypervtest.Fault
		heir    bool
	}{
		"active full": {heir: true},
		"not tracked": {options: ProviderOptions{NoTracking: true}},
		"refused":     {fault: &hypervtest.Fault{Call: "ConvertToReferencePoint", Code: 32768}},
		"job fails":   {fault: &hypervtest.Fault{Job: "ConvertToReferencePoint", Code: 32768, Reason: "it failed"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, hypervtest.Options{})
			g, p := l.vm("web1", nil), l.provider(&c.options)
			base, _, err := l.backup(l.provider(nil), g, nil, newNote())
			require.NoError(t, err)
			fail := func() {
				if c.fault != nil {
					l.fake.Fail(*c.fault)
				}
			}
			fail()
			j := newNote()
			s, _ := l.newPoint(p, g, base, j)
			require.NoError(t, s.Release(t.Context()))
			require.Empty(t, j.left())
			l.clean(g, refs(base)...)

			fail()
			s, pt := l.newPoint(p, g, base, j)
			require.Equal(t, c.heir, len(pt.ids) > 0)
			require.NoError(t, s.Commit(t.Context()))
			require.NoError(t, s.Release(t.Context()))
			require.Empty(t, j.left())
			l.clean(g, refs(pt)...)
		})
	}
}

// The same where the session dies before Commit: what no point names goes, and what one names stays, with the effect.
func TestSweepOfAnOldBase(t *testing.T) {
	t.Parallel()
	l := newLab(t, hypervtest.Options{})
	g, p, j := l.vm("web1", nil), l.provider(&ProviderOptions{NoTracking: true}), newNote()
	base, _, err := l.backup(l.provider(nil), g, nil, newNote())
	require.NoError(t, err)
	s, _ := l.newPoint(p, g, base, j)
	var e hikae.Effect
	for _, e = range j.left() {
		if e.Kind == kindBase {
			break
		}
	}
	require.Equal(t, kindBase, e.Kind)
	require.Equal(t, "repo", e.Repository)
	var keep []hikae.ChangeID
	for _, id := range base.ids { // in other letters
		m, err := parseMoment(id)
		require.NoError(t, err)
		m.ref = strings.ToLower(m.ref)
		keep = append(keep, m.change())
	}
	var pending *PendingError
	require.ErrorAs(t, p.Undo(t.Context(), e, keep), &pending)
	require.Equal(t, refs(base), l.fake.ReferencePoints(g.ID()))
	require.NoError(t, p.Undo(t.Context(), e, nil))
	require.Empty(t, l.fake.ReferencePoints(g.ID()))
	require.NoError(t, p.Undo(t.Context(), e, keep))
	require.NoError(t, s.Release(t.Context()))
}

// A point that was copied from another repository names that one's reference point, which is not let go of here.
func TestOtherRepositorysBaseStays(t *testing.T) {
	t.Parallel()
	l := newLab(t, hypervtest.Options{})
	g, p := l.vm("web1", nil), l.provider(nil)
	base, _, err := l.backup(p, g, nil, newNote())
	require.NoError(t, err)
	s, err := p.Snapshot(t.Context(), g.ID(), &hikae.SnapshotOptions{Journal: newNote(), Repository: "another", Since: base.ids, Past: base.ids})
	require.NoError(t, err)
	ids, err := s.Prepare(t.Context())
	require.NoError(t, err)
	require.NoError(t, s.Commit(t.Context()))
	require.NoError(t, s.Release(t.Context()))
	require.ElementsMatch(t, append(refs(base), referencesOf(slices.Collect(maps.Values(ids)))...), l.fake.ReferencePoints(g.ID()))
	next, _, err := l.backup(p, g, base, newNote())
	require.NoError(t, err)
	require.Empty(t, next.lost)
}

// Between two tracked points there is one of the requester alone, which knows no changes: what the first left goes with it.
func TestRequestedLeavesNoOldBase(t *testing.T) {
	t.Parallel()
	l := newLab(t, hypervtest.Options{})
	g := l.vm("web1", func(v *hypervtest.VM) { v.ID = vmGUID(1) })
	v := newVSSHost(t, l.fake)
	base, _, err := l.backup(l.provider(nil), g, nil, newNote())
	require.NoError(t, err)
	j := newNote()
	s, pt := l.newPoint(l.provider(&ProviderOptions{Procedure: Requested, Requester: v.connect}), g, base, j)
	require.Empty(t, pt.ids)
	require.NoError(t, s.Commit(t.Context()))
	require.NoError(t, s.Release(t.Context()))
	require.Empty(t, j.left())
	require.Empty(t, l.fake.ReferencePoints(g.ID()))
}

// A VM that ran for a moment while its checkpoint was made is off before and after, and its disks are as after a power cut.
func TestOffForAMoment(t *testing.T) {
	t.Parallel()
	l := newLab(t, hypervtest.Options{})
	g, p := l.vm("web1", nil), l.provider(nil)
	require.NoError(t, g.PowerOff())
	l.fake.Fail(hypervtest.Fault{Call: "CreateSnapshot", Do: func() {
		require.NoError(t, g.PowerOn())
		require.NoError(t, g.PowerCut())
	}})
	for _, level := range []hikae.Consistency{hikae.Crash, hikae.Offline} {
		s, err := p.Snapshot(t.Context(), g.ID(), nil)
		require.NoError(t, err)
		require.Equal(t, level, s.Consistency())
		require.Equal(t, level == hikae.Crash, len(s.(*snapshot).Warnings()) > 0)
		require.NoError(t, s.Release(t.Context()))
		l.fake.Settled(10 * time.Second)
	}
}

// A restore that comes between the look at the VM and its checkpoint: neither word is true of what is read.
func TestRestoredMeanwhile(t *testing.T) {
	t.Parallel()
	l := newLab(t, hypervtest.Options{})
	g := l.vm("web1", nil)
	l.fake.Fail(hypervtest.Fault{Call: "CreateSnapshot", Do: func() { l.notes(g, RestoredNote+"2026-11-22T10:00:00Z") }})
	_, err := l.provider(nil).Snapshot(t.Context(), g.ID(), nil)
	var changed *ChangedError
	require.ErrorAs(t, err, &changed)
	l.clean(g)
}

// A file that the host cannot read may stand on any other: that the checkpoint is merged is not known then, and the effect stays.
func TestMergeThatNobodyCanSee(t *testing.T) {
	t.Parallel()
	l := newLab(t, hypervtest.Options{})
	g, j := l.vm("web1", nil), newNote()
	p := l.provider(&ProviderOptions{NoTracking: true, MergeLimit: 2 * time.Second})
	s, err := p.Snapshot(t.Context(), g.ID(), &hikae.SnapshotOptions{Journal: j})
	require.NoError(t, err)
	l.fake.Fail(hypervtest.Fault{Call: "GetVirtualHardDiskSettingData", Code: 32768, Times: -1})
	require.NoError(t, s.Release(t.Context()))
	require.Contains(t, strings.Join(s.(*snapshot).Warnings(), "\n"), "not known")
	require.Len(t, j.left(), 1)
	var pending *PendingError
	require.ErrorAs(t, p.Undo(t.Context(), j.left()[0], nil), &pending)
	l.fake.Heal()
	require.NoError(t, l.provider(nil).Undo(t.Context(), j.left()[0], nil))
	l.clean(g)
}
