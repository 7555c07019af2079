package hyperv_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv"
	"github.com/hikae/hikae/hyperv/hypervtest"
)

func offHost(l *lab) *hyperv.Provider {
	return l.provider(hyperv.ProviderOptions{Procedure: hyperv.Production, Mode: hyperv.OffHost, Volumes: []hyperv.VolumeSnapshotter{array{l.h.Storage()}}})
}

// steps are the events of the rows that off-host production is made of, of all VMs, in order.
func steps(l *lab, rows ...string) (list []string) {
	for _, e := range l.h.Events() {
		if slices.Contains(rows, e.Row) {
			name := ""
			for i, g := range l.guests {
				if e.VM == g.ID() {
					name = fmt.Sprintf(" of web%d", i+1)
				}
			}
			list = append(list, e.Row+" "+e.Name+name)
		}
	}
	return list
}

// R096–R099, R197: two counts. A VM's checkpoint is merged when that VM is released; the volume snapshot, which the VMs share, is
// deleted when the last of them is.
func TestProductionOffHost(t *testing.T) {
	for _, system := range []string{"windows", "linux"} {
		t.Run(system, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, "2022", system, system, system)
			l.churn()
			p := offHost(l)
			groups, err := p.Group(t.Context(), l.ids())
			require.NoError(t, err)
			require.Equal(t, [][]string{l.ids()}, groups)
			snaps, err := p.SnapshotGroup(t.Context(), l.ids(), nil)
			require.NoError(t, err)
			require.Len(t, snaps, 3)
			seen := steps(l, "R096", "R097", "R092")
			require.Contains(t, seen[len(seen)-2], "R096", "all checkpoints are made before the volume is pinned: %v", seen)
			require.Contains(t, seen[len(seen)-1], "R097")
			for i, s := range snaps {
				frozen(t, s, l.guests[i])
				_, err := s.Prepare(t.Context())
				require.NoError(t, err)
				require.NoError(t, s.Commit(t.Context()))
				require.NoError(t, s.Release(t.Context()))
				require.Equal(t, l.tips[i], l.guests[i].Tip(0), "its checkpoint is merged with its own release: R098")
				for j := i + 1; j < 3; j++ {
					require.NotEqual(t, l.tips[j], l.guests[j].Tip(0), "the others' are not")
				}
				require.Equal(t, i < 2, l.h.Storage().Counts().Held == 1, "R099")
			}
			counts := l.h.Storage().Counts()
			require.Equal(t, [4]int{1, 1, 1, 1}, [4]int{counts.Snapshots, counts.Deleted, counts.Mounts, counts.Unmounts})
			l.clean()
		})
	}
}

// A VM that fails at any step of a group stops nobody; a storage that fails leaves nothing.
func TestProductionOffHostFails(t *testing.T) {
	l := newLab(t, "2022", "windows", "windows", "windows")
	p := offHost(l)
	l.h.Fail(hypervtest.Fault{Job: "CreateSnapshot", VM: l.guests[1].ID(), Times: 2, Code: 32768, Reason: "no memory"})
	snaps, err := p.SnapshotGroup(t.Context(), l.ids(), nil)
	var some *hyperv.GroupError
	require.ErrorAs(t, err, &some)
	require.Len(t, some.VMs, 1)
	require.ErrorContains(t, some.VMs[l.guests[1].ID()], "no memory")
	require.Len(t, snaps, 2)
	for _, s := range snaps {
		require.NoError(t, s.Release(t.Context()))
	}
	l.clean()
	l.h.Heal()

	for _, event := range []string{"storage.snapshot", "storage.mount"} {
		l.h.Fail(hypervtest.Fault{Event: event, Reason: "the array is busy"})
		snaps, err := p.SnapshotGroup(t.Context(), l.ids(), nil)
		require.ErrorContains(t, err, "the array is busy")
		require.Empty(t, snaps)
		l.clean()
	}
	for _, event := range []string{"storage.unmount", "storage.delete"} {
		snaps, err := p.SnapshotGroup(t.Context(), l.ids()[:1], nil)
		require.NoError(t, err)
		l.h.Fail(hypervtest.Fault{Event: event, Reason: "the array is busy"})
		require.ErrorContains(t, snaps[0].Release(t.Context()), "the array is busy")
		require.Equal(t, 1, l.h.Storage().Counts().Held)
		require.NoError(t, snaps[0].Release(t.Context()), "and it is called again")
		l.clean()
	}
}

// A volume snapshot that is lost while it is read fails the read: files are never read where they lie.
func TestOffHostSnapshotIsLost(t *testing.T) {
	l := newLab(t, "2022", "windows")
	p := offHost(l)
	s, err := p.Snapshot(t.Context(), l.guests[0].ID(), nil)
	require.NoError(t, err)
	ids := arrayIDs(l)
	require.Len(t, ids, 1)
	require.NoError(t, l.h.Storage().Unmount(t.Context(), ids[0]))
	require.NoError(t, l.h.Storage().Delete(t.Context(), ids[0]))
	_, err = s.OpenDisk(t.Context(), s.VM().Disks[0].Key)
	require.Error(t, err)
	require.NoError(t, s.Release(t.Context()))
	l.clean()
}

func arrayIDs(l *lab) (ids []string) {
	for n := 1; n < 10; n++ {
		id := fmt.Sprintf("array-%d", n)
		if _, err := l.h.Storage().Mount(context.Background(), id); errors.Is(err, hypervtest.ErrMounted) {
			ids = append(ids, id)
		}
	}
	return ids
}

// Killed after each effect was written down, and after it was undone: a later start leaves nothing of the group.
func TestOffHostKilledAtEachEffect(t *testing.T) {
	for _, c := range []struct {
		generation string
		procedure  hyperv.Procedure
	}{{"2022", hyperv.Production}, {"2012r2", hyperv.Writer2012R2}, {"2012", hyperv.Writer2012}} {
		t.Run(c.generation, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, c.generation, "windows", "windows")
			l.h.SetVSS(hypervtest.VSSOptions{HardwareProvider: true})
			o := hyperv.ProviderOptions{Procedure: c.procedure, Mode: hyperv.OffHost, Volumes: []hyperv.VolumeSnapshotter{array{l.h.Storage()}}}
			stride := 1
			if c.procedure == hyperv.Production && os.Getenv("HIKAE_TEST_TIER") == "" {
				stride = 3 // merges make it slow; kill_test.go and the long tier have each step
			}
			for kill, ended := 1, false; !ended; kill += stride {
				require.Less(t, kill, 60)
				dir := filepath.Join(t.TempDir(), "journal")
				j, err := hikae.OpenFileJournal(dir)
				require.NoError(t, err)
				ctx, die := context.WithCancelCause(t.Context())
				mortal := &mortalJournal{Journal: j, kill: kill, die: die}
				err = wholeGroup(ctx, l.provider(o), l.ids(), mortal)
				ended = err == nil && mortal.step < kill
				die(nil)
				require.NoError(t, j.Close())
				l.cut() // the session's own; what it did not undo stays, or is undone by the helper that is left alone
				next, err := hikae.OpenFileJournal(dir)
				require.NoError(t, err)
				_, err = next.Sweep(t.Context(), map[string]hikae.Sweeper{"hyperv": l.provider(o)}, nil)
				require.NoError(t, err, "kill %d", kill)
				for e, err := range next.Pending(t.Context()) {
					t.Errorf("kill %d: effect %v %v stays", kill, e, err)
				}
				require.NoError(t, next.Close())
				require.Eventually(t, func() bool {
					return len(l.h.Shadows()) == 0 && l.guests[0].Tip(0) == l.tips[0] && l.guests[1].Tip(0) == l.tips[1]
				}, 10*time.Second, time.Millisecond, "kill %d", kill)
				require.Zero(t, l.h.Storage().Counts().Held, "kill %d", kill)
			}
		})
	}
}

var errDead = errors.New("the session was killed")

// mortalJournal kills its session at a step: from then on nothing more is written down or settled, and the context is over.
type mortalJournal struct {
	hikae.Journal
	step, kill int
	die        context.CancelCauseFunc
}

func (m *mortalJournal) alive() error {
	if m.step++; m.step < m.kill {
		return nil
	}
	m.die(errDead)
	return errDead
}

func (m *mortalJournal) Intend(ctx context.Context, e hikae.Effect) (func(context.Context) error, error) {
	done, err := m.Journal.Intend(ctx, e)
	return func(ctx context.Context) error {
		if err := m.alive(); err != nil {
			return err
		}
		return done(ctx)
	}, errors.Join(err, m.alive())
}

func wholeGroup(ctx context.Context, p *hyperv.Provider, ids []string, j hikae.Journal) error {
	snaps, err := p.SnapshotGroup(ctx, ids, &hikae.SnapshotOptions{Journal: j})
	for _, s := range snaps {
		if ctx.Err() != nil {
			return errors.Join(err, ctx.Err()) // it is dead: nothing is released
		}
		_, prepared := s.Prepare(ctx)
		err = errors.Join(err, prepared, s.Commit(ctx), s.Release(ctx))
	}
	return err
}
