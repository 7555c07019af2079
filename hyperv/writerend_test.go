package hyperv_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv"
	"github.com/hikae/hikae/hyperv/hypervtest"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
)

var (
	errVeto  = errors.New("VSS_E_PROVIDER_VETO: the shadow copies stay")
	errInUse = errors.New("hikae-hyperv.exe is in use")
)

// begin pins a lab's first VM by a meddled provider, with a journal.
func (l *lab) begin(m *meddle, o hyperv.ProviderOptions) (hikae.Snapshot, *notes) {
	l.t.Helper()
	j := &notes{}
	s, err := l.meddled(m, o).Snapshot(l.t.Context(), l.guests[0].ID(), &hikae.SnapshotOptions{Journal: j})
	require.NoError(l.t, err)
	return s, j
}

// R052, R079, law (f): a set that its requester cannot delete goes with that requester, and another one looks for what is left.
func TestWriterSetGoesWithItsRequester(t *testing.T) {
	for _, c := range writerHomes[1:] {
		t.Run(c.generation, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, c.generation, "windows")
			m := &meddle{refuse: func(what string) error {
				if what == "Delete" {
					return errVeto
				}
				return nil
			}}
			s, j := l.begin(m, hyperv.ProviderOptions{Procedure: c.procedure})
			require.NoError(t, s.Release(t.Context()))
			require.Contains(t, strings.Join(l.said, "\n"), errVeto.Error())
			require.Equal(t, 2, m.opened)
			require.Zero(t, m.connected())
			require.Empty(t, j.pending())
			l.clean()
		})
	}
}

// R052, law (f): a set that nobody can delete keeps no requester connected, which would keep the set; its effect stays, and the next
// call goes on.
func TestWriterSetThatStays(t *testing.T) {
	l := newLab(t, "2012", "windows")
	stays := true
	m := &meddle{refuse: func(what string) error {
		if stays && what != "Close" {
			return errVeto
		}
		return nil
	}}
	s, j := l.begin(m, hyperv.ProviderOptions{})
	for range 2 {
		require.ErrorIs(t, s.Release(t.Context()), errVeto)
		require.Zero(t, m.connected())
		require.Len(t, j.pending(), 1)
	}
	stays = false
	require.NoError(t, s.Release(t.Context()))
	require.Empty(t, j.pending())
	require.Zero(t, m.connected())
	l.clean()
}

// Law (f): the link to the helper is cut while a set is read, and its host takes the set back. That is the end of it: the requester is let
// go of, and nothing stays.
func TestWriterLinkIsLost(t *testing.T) {
	for _, c := range writerHomes[1:] {
		t.Run(c.generation, func(t *testing.T) {
			t.Parallel()
			l, m := newLab(t, c.generation, "windows"), &meddle{}
			s, j := l.begin(m, hyperv.ProviderOptions{Procedure: c.procedure})
			require.NoError(t, s.Commit(t.Context()))
			l.cut()
			require.NoError(t, s.Release(t.Context()))
			require.Contains(t, strings.Join(l.said, "\n"), "is lost", "the writer was not told, and a person is")
			require.Zero(t, m.connected())
			require.Empty(t, j.pending())
			l.clean()
		})
	}
}

// Law (f): the same while the set is made, when it is not known whether there is one.
func TestWriterLinkIsLostWithinTake(t *testing.T) {
	l := newLab(t, "2012r2", "windows")
	m := &meddle{take: l.cut}
	j := &notes{}
	_, err := l.meddled(m, hyperv.ProviderOptions{}).Snapshot(t.Context(), l.guests[0].ID(), &hikae.SnapshotOptions{Journal: j})
	require.Error(t, err)
	require.Equal(t, 2, m.opened, "another one looks for what is left")
	require.Zero(t, m.connected())
	require.Empty(t, j.pending())
	l.clean()
}

// Law (f): what could not be closed is closed by the next call.
func TestWriterCloseIsTriedAgain(t *testing.T) {
	l := newLab(t, "2012", "windows")
	refusals := 2
	m := &meddle{refuse: func(what string) error {
		if what == "Close" && refusals > 0 {
			refusals--
			return errInUse
		}
		return nil
	}}
	s, j := l.begin(m, hyperv.ProviderOptions{})
	for range 2 {
		require.ErrorIs(t, s.Release(t.Context()), errInUse)
		require.Equal(t, 1, m.connected())
		require.Empty(t, j.pending(), "the set is gone; what was brought has an effect of its own")
	}
	require.NoError(t, s.Release(t.Context()))
	require.Zero(t, m.connected())
	l.clean()
}

// R079: a set that no VM can be read from has checkpoints that the host merges all the same. One that has no end is told, and its
// effect stays for a later start.
func TestWriterMergeOfAnAbandonedSet(t *testing.T) {
	l := newLab(t, "2012r2", "windows")
	l.h.Fail(hypervtest.Fault{Event: "merge", Times: -1, Hang: true})
	p := l.meddled(&meddle{part: errors.New("its part failed")}, hyperv.ProviderOptions{MergeLimit: 200 * time.Millisecond})
	j := &notes{}
	g := l.guests[0]
	_, err := p.Snapshot(t.Context(), g.ID(), &hikae.SnapshotOptions{Journal: j})
	require.ErrorContains(t, err, "its part failed")
	require.NotEqual(t, l.tips[0], g.Tip(0), "the VM writes into the backup checkpoint's file")
	require.Contains(t, strings.Join(l.said, "\n"), "clean-up is pending")
	left := j.pending()
	require.Len(t, left, 1)
	require.Contains(t, left[0].Facts["files"], g.Tip(0))
	l.h.Heal()
	require.Eventually(t, func() bool { return g.Tip(0) == l.tips[0] }, 10*time.Second, time.Millisecond)
	require.NoError(t, p.Undo(t.Context(), left[0], nil))
	l.clean()
}

// R197: the session that asked for a group is cancelled while its VMs are adopted. The others' sessions have their parts.
func TestGroupOutlivesItsFirstSession(t *testing.T) {
	l := newLab(t, "2012", "windows", "windows")
	l.churn()
	first, cancel := context.WithCancel(t.Context())
	m := &meddle{outcome: func(vm string) {
		if vm == l.ids()[1] {
			cancel()
		}
	}}
	g, err := job.NewGrouped(t.Context(), l.meddled(m, hyperv.ProviderOptions{}), l.ids(), nil)
	require.NoError(t, err)
	a, err := g.Snapshot(first, l.ids()[0], nil)
	require.NoError(t, err, "it is pinned; its session ends by itself")
	require.NoError(t, a.Release(t.Context()))
	b, err := g.Snapshot(t.Context(), l.ids()[1], nil)
	require.NoError(t, err, "nobody cancelled this VM's session")
	require.NotContains(t, strings.Join(warningsOf(b), "\n"), "by itself")
	frozen(t, b, l.guests[1])
	require.NoError(t, b.Release(t.Context()))
	require.NoError(t, g.Close(t.Context()))
	l.clean()
}

// cancelling ends its session when an effect of a kind is written down.
type cancelling struct {
	hikae.Journal
	kind   string
	cancel context.CancelFunc
}

func (c cancelling) Intend(ctx context.Context, e hikae.Effect) (func(context.Context) error, error) {
	done, err := c.Journal.Intend(ctx, e)
	if e.Kind == c.kind {
		c.cancel()
	}
	return done, err
}

// A group whose VMs go several ways is one: where its session ends between them no VM has failed by itself, and nothing is left.
func TestGroupEndsAcrossKinds(t *testing.T) {
	l := newLab(t, "2022", "windows")
	old := l.h.AddVM(hypervtest.VM{Name: "old", Version: "5.0", Disks: []hypervtest.Disk{{Size: mib, BlockSize: mib}}})
	m := &meddle{}
	j := &notes{}
	ctx, cancel := context.WithCancel(t.Context())
	snaps, err := l.meddled(m, hyperv.ProviderOptions{}).SnapshotGroup(ctx, []string{old, l.ids()[0]},
		&hikae.SnapshotOptions{Journal: cancelling{j, "hyperv.checkpoint", cancel}})
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, snaps)
	require.Equal(t, 1, m.opened, "the set was made")
	require.Zero(t, m.connected())
	l.clean()
}

// onlyNamed is an array that mounts the volumes that it was asked for, as the contract of Transport says, and no others.
type onlyNamed struct{ array }

func (a onlyNamed) Transport(ctx context.Context, host, mark, set string, volumes []string, j hikae.Journal) (hyperv.VolumeSnapshot, error) {
	v, err := a.array.Transport(ctx, host, mark, set, volumes, j)
	if err != nil {
		return nil, err
	}
	return onlyNamedSnapshot{v.(*arraySnapshot), volumes}, nil
}

type onlyNamedSnapshot struct {
	*arraySnapshot
	volumes []string
}

func (v onlyNamedSnapshot) Open(ctx context.Context, name string) (pipe.Image, error) {
	volume, err := v.of.s.Volume(name)
	if err != nil || !slices.Contains(v.volumes, volume) {
		return nil, fmt.Errorf("%s: volume %s was not asked for: %w", name, volume, fs.ErrNotExist)
	}
	return v.arraySnapshot.Open(ctx, name)
}

// R051, R078: a VM's configuration may lie on another volume than its disks; off-host all volumes of the writer's files are mounted.
func TestWriterOffHostMountsAllVolumes(t *testing.T) {
	for _, c := range writerHomes[1:] {
		l := newLab(t, c.generation, "windows")
		l.h.SetVSS(hypervtest.VSSOptions{HardwareProvider: true})
		id := l.h.AddVM(hypervtest.VM{Name: "db1", Folder: `C:\VMs\db1`, Disks: []hypervtest.Disk{{Path: `D:\Disks\db1.vhdx`, Size: 2 * mib, BlockSize: mib}}})
		p := l.provider(hyperv.ProviderOptions{Procedure: c.procedure, Mode: hyperv.OffHost, Volumes: []hyperv.VolumeSnapshotter{onlyNamed{array{l.h.Storage()}}}})
		s, err := p.Snapshot(t.Context(), id, nil)
		require.NoError(t, err, c.generation)
		require.NotEmpty(t, s.VM().Config)
		frozen(t, s, l.h.VM(id))
		require.NoError(t, s.Release(t.Context()))
		l.clean()
	}
}

// Ids are GUIDs in any letters: a job of them in capitals is grouped, and each VM has its part, or its own error, by the id that
// it was asked for by.
func TestGroupOfCapitalIDs(t *testing.T) {
	l := newLab(t, "2012r2", "windows", "windows", "windows")
	f, err := l.h.LocalFiles().Create(t.Context(), strings.TrimSuffix(l.tips[1], ".vhdx")+"-AutoRecovery.avhdx")
	require.NoError(t, err)
	require.NoError(t, f.Close())
	var ids []string
	for _, id := range l.ids() {
		ids = append(ids, strings.ToUpper(id))
	}
	g, err := job.NewGrouped(t.Context(), l.provider(hyperv.ProviderOptions{}), ids, nil)
	require.NoError(t, err)
	require.Equal(t, [][]string{ids}, g.Groups())
	for i, id := range ids {
		s, err := g.Snapshot(t.Context(), id, nil)
		if i == 1 {
			require.ErrorContains(t, err, "AutoRecovery", "a file of an earlier backup keeps it out")
			continue
		}
		require.NoError(t, err)
		require.NotContains(t, strings.Join(warningsOf(s), "\n"), "by itself")
		frozen(t, s, l.guests[i])
		require.NoError(t, s.Release(t.Context()))
	}
	require.NoError(t, g.Close(t.Context()))
	l.clean()
}
