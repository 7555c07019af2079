package hyperv

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/cim"
	"github.com/hikae/hikae/hyperv/hypervtest"
)

// anothersCheckpoint has another program make a checkpoint for its backup; the function makes it a reference point and returns its id.
func anothersCheckpoint(l *lab, g *hypervtest.Guest) (checkpoint string, convert func() string) {
	t, ctx := l.t, context.WithoutCancel(l.t.Context())
	site := l.connect()
	h, err := site.Owner(ctx, g.ID())
	require.NoError(t, err)
	vm, err := h.vmRef(ctx, g.ID())
	require.NoError(t, err)
	service, err := h.service(ctx, "Msvm_VirtualSystemSnapshotService")
	require.NoError(t, err)
	there := map[string]bool{}
	list, err := h.checkpoints(ctx, g.ID())
	require.NoError(t, err)
	for _, in := range list {
		there[in.Text("InstanceID")] = true
	}
	_, err = h.client.Run(ctx, service, "CreateSnapshot", []cim.Property{{Name: "AffectedSystem", Value: vm},
		{Name: "SnapshotSettings", Value: ""}, {Name: "SnapshotType", Value: uint16(typeRecovery)}}, nil)
	require.NoError(t, err)
	list, err = h.checkpoints(ctx, g.ID())
	require.NoError(t, err)
	for _, in := range list {
		if there[in.Text("InstanceID")] || in.Text("VirtualSystemType") != recovery {
			continue
		}
		ref, err := in.Keyed(cim.Virtualization, "InstanceID")
		require.NoError(t, err)
		return in.Text("InstanceID"), func() string {
			had := map[string]bool{}
			for _, id := range l.fake.ReferencePoints(g.ID()) {
				had[id] = true
			}
			_, err = h.client.Run(ctx, service, "ConvertToReferencePoint", []cim.Property{{Name: "AffectedSnapshot", Value: ref},
				{Name: "ReferencePointSettings", Value: ""}}, nil)
			require.NoError(t, err)
			for _, id := range l.fake.ReferencePoints(g.ID()) {
				if !had[id] {
					return id
				}
			}
			require.Fail(t, "no reference point of another program's")
			return ""
		}
	}
	require.Fail(t, "no checkpoint of another program's")
	return "", nil
}

// A session died before it knew its reference point: one that is new since then is another product's, and stays.
func TestSweepLeavesAnothersReferencePoint(t *testing.T) {
	l := newLab(t, hypervtest.Options{})
	g := l.vm("web1", nil)
	_, convert := anothersCheckpoint(l, g)
	point := convert()
	e := hikae.Effect{ID: "1", Kind: kindReference, VM: g.ID(), Repository: "repo", Facts: map[string]string{"site": l.site.Address(), "host": "HV1",
		"mark": strings.Repeat("a", 26), "checkpoint": "Microsoft:11111111-2222-4333-8444-555555555555", "begun": time.Now().Add(-72 * time.Hour).UTC().Format(time.RFC3339)}}
	_ = l.provider(nil).Undo(t.Context(), e, nil)
	require.Equal(t, []string{point}, l.fake.ReferencePoints(g.ID()))
}

// The same with two repositories: a late sweep of one leaves the committed base of the other.
func TestSweepLeavesTheOtherRepositorysBase(t *testing.T) {
	l := newLab(t, hypervtest.Options{})
	g, p := l.vm("web1", nil), l.provider(nil)
	base, _, err := l.backup(p, g, nil, newNote()) // of repository "other", committed
	require.NoError(t, err)
	e := hikae.Effect{ID: "1", Kind: kindReference, VM: g.ID(), Repository: "first", Facts: map[string]string{"site": l.site.Address(), "host": "HV1",
		"mark": strings.Repeat("a", 26), "checkpoint": "Microsoft:11111111-2222-4333-8444-555555555555", "begun": time.Now().Add(-72 * time.Hour).UTC().Format(time.RFC3339)}}
	_ = p.Undo(t.Context(), e, nil)
	next, _, err := l.backup(p, g, base, newNote())
	require.NoError(t, err)
	require.Empty(t, next.lost, "a sweep of another repository took the base")
}

// The host refuses to convert; later another product makes its reference point: Release leaves it.
func TestRefusedConversionLeavesAnothersReferencePoint(t *testing.T) {
	l := newLab(t, hypervtest.Options{})
	g, p := l.vm("web1", nil), l.provider(nil)
	s, err := p.Snapshot(t.Context(), g.ID(), &hikae.SnapshotOptions{Journal: newNote(), Repository: "repo"})
	require.NoError(t, err)
	l.fake.Fail(hypervtest.Fault{Call: "ConvertToReferencePoint", Code: 32768})
	ids, err := s.Prepare(t.Context())
	require.NoError(t, err)
	require.Empty(t, ids)
	_, convert := anothersCheckpoint(l, g)
	point := convert()
	require.NoError(t, s.Commit(t.Context()))
	require.NoError(t, s.Release(t.Context()))
	require.Equal(t, []string{point}, l.fake.ReferencePoints(g.ID()))
}

// While the conversion is asked for, a person removes our checkpoint and another product makes a reference point, after the guest wrote.
// Its ids are of a later moment, and are not taken: what was written between would be in no increment.
func TestAnothersReferencePointIsNoBase(t *testing.T) {
	l := newLab(t, hypervtest.Options{})
	g, p := l.vm("web1", nil), l.provider(nil)
	l.fake.Fail(hypervtest.Fault{Call: "ConvertToReferencePoint", Do: func() {
		for _, id := range g.Checkpoints() {
			require.NoError(t, g.RemoveCheckpoint(id))
		}
		l.fake.Settled(10 * time.Second)
		require.NoError(t, g.Write(0, 5<<20, bytes.Repeat([]byte("lost"), 1000)))
		_, convert := anothersCheckpoint(l, g)
		convert()
		l.fake.Settled(10 * time.Second)
	}})
	base, _, err := l.backup(p, g, nil, newNote())
	if err != nil {
		return // good: the point is not made
	}
	require.NoError(t, g.Write(0, 0, []byte("later")))
	next, _, err := l.backup(p, g, base, newNote())
	require.NoError(t, err)
	l.same(g, next)
}

// Another product makes a reference point while ours is made: the host says which is ours.
func TestTwoReferencePointsAtOnce(t *testing.T) {
	l := newLab(t, hypervtest.Options{})
	g, p := l.vm("web1", nil), l.provider(nil)
	var foreign string
	l.fake.Fail(hypervtest.Fault{Call: "ConvertToReferencePoint", Do: func() {
		_, convert := anothersCheckpoint(l, g)
		foreign = convert()
		l.fake.Settled(10 * time.Second)
	}})
	j := newNote()
	pt, _, err := l.backup(p, g, nil, j)
	if err == nil {
		require.ElementsMatch(t, append(refs(pt), foreign), l.fake.ReferencePoints(g.ID()))
		return
	}
	for _, e := range j.left() {
		if err := p.Undo(t.Context(), e, nil); err != nil {
			t.Log(err)
		}
	}
	l.fake.Settled(10 * time.Second)
	require.Equal(t, []string{foreign}, l.fake.ReferencePoints(g.ID()), "ours is left, after Release and after a sweep")
}

// The host cannot say anything of one file for a moment, right after the checkpoint: there is no point without that disk.
func TestLostDiskIsAnError(t *testing.T) {
	l := newLab(t, hypervtest.Options{})
	g, p := l.vm("web1", nil), l.provider(nil)
	full, _, err := l.backup(p, g, nil, newNote())
	require.NoError(t, err)
	require.Len(t, full.content, 2)
	l.fake.Fail(hypervtest.Fault{Call: "CreateSnapshot", Do: func() {
		l.fake.Fail(hypervtest.Fault{Call: "GetVirtualHardDiskSettingData", Code: 32768})
	}})
	next, s, err := l.backup(p, g, full, newNote())
	if err != nil {
		return // good
	}
	require.Lenf(t, next.content, 2, "a disk is missing; warnings %q; disks %+v", s.(interface{ Warnings() []string }).Warnings(), s.VM().Disks)
}

// The node that has the VM goes down while the checkpoint stands, and the cluster has not brought the VM up yet: nothing is called gone.
func TestNodeDownAtRelease(t *testing.T) {
	c := cluster(t, 0, "2022", "2022")
	vm := c.AddVM("HV1", hypervtest.VM{Name: "web1", Version: "9.0", Disks: []hypervtest.Disk{{Size: labDisk, BlockSize: 1 << 20}}})
	site := clusterSite(t, c, "HV2")
	p, err := New(site, nil, nil)
	require.NoError(t, err)
	j := newNote()
	s, err := p.Snapshot(t.Context(), vm, &hikae.SnapshotOptions{Journal: j})
	require.NoError(t, err)
	g := c.Owner(vm).VM(vm)
	away(c, "HV1")
	require.NoError(t, c.SetDown("HV1", true))
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	err = s.Release(ctx)
	c.Host("HV1").Heal()
	require.NoError(t, c.SetDown("HV1", false))
	if err == nil && len(j.left()) == 0 {
		require.Empty(t, g.Checkpoints(), "Release said that all is gone and settled its effect; the checkpoint is there when its node is back")
	}
}

// A job that ends with warnings is told.
func TestWarningsOfTheHostAreTold(t *testing.T) {
	l := newLab(t, hypervtest.Options{})
	g, p := l.vm("web1", nil), l.provider(nil)
	l.fake.Fail(hypervtest.Fault{Job: "CreateSnapshot", Warn: true, Reason: "the guest was not quiesced"})
	s, err := p.Snapshot(t.Context(), g.ID(), nil)
	require.NoError(t, err)
	require.NoError(t, s.Release(t.Context()))
	require.NotEmpty(t, s.(interface{ Warnings() []string }).Warnings(), "consistency %v is reported, and the host's warning is not", s.Consistency())
}
