package replica_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/diskvm"
	"github.com/hikae/hikae/job/replica"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/memstore"
)

// R146, R195: a VM goes to its replica and comes home, and nothing that it wrote is lost on either way.
func TestThereAndBack(t *testing.T) {
	l := newLab(t)
	_, r, err := l.open(&replica.Options{Keep: 2})
	require.NoError(t, err)
	for i := range 4 {
		l.write(t, int64(i)<<16, byte(10+i), 1<<16)
		_, err = r.Sync(t.Context(), l.source())
		require.NoError(t, err)
	}
	s, r, err := l.open(nil)
	require.NoError(t, err)
	require.Len(t, pointsOf(t, s), 2, "the oldest are merged")

	l.write(t, 1<<20, 42, 4096) // while it is on its way
	over, err := r.PlannedFailover(t.Context(), l.source(), &machine{l: l, name: "source"})
	require.NoError(t, err)
	require.Equal(t, "planned failover", over.What)
	require.Len(t, over.Syncs, 2)
	require.Equal(t, "offline", over.Syncs[1].Consistency)
	require.Zero(t, over.Age)
	require.True(t, l.runs("replica"))
	require.False(t, l.runs("source"))
	same(t, l.disk(t), l.readReplica(t))

	_, err = r.Sync(t.Context(), l.source())
	var under *replica.UnderWayError
	require.ErrorAs(t, err, &under, "a replica that runs is not written over")
	again, err := r.PlannedFailover(t.Context(), l.source(), &machine{l: l, name: "source"})
	require.NoError(t, err)
	require.True(t, again.Already)

	l.writeReplica(t, 3<<16, 77, 70000)
	want := l.readReplica(t)
	opts := &replica.FailbackOptions{Home: l.home, Original: &machine{l: l, name: "source"}}
	plan, err := r.PlanFailback(t.Context(), opts)
	require.NoError(t, err)
	require.Equal(t, over.Point, plan.Point)
	require.NotEmpty(t, plan.Problems, "it runs, and nobody would stop it")
	_, err = r.Failback(t.Context(), opts)
	var busy *hikae.BusyError
	require.ErrorAs(t, err, &busy)
	opts.Replica = &machine{l: l, name: "replica"}
	back, err := r.Failback(t.Context(), opts)
	require.NoError(t, err)
	same(t, want, l.disk(t))
	require.True(t, l.runs("source"))
	require.False(t, l.runs("replica"))
	require.NotNil(t, back.Restore)
	require.False(t, l.runs(twoRan))

	next, err := r.Sync(t.Context(), l.source())
	require.NoError(t, err, "the replica is ready again")
	p := pointsOf(t, s)
	require.Equal(t, next.Point, p[len(p)-1].ID)
	require.Contains(t, ids(p), back.Point)
	require.Less(t, next.Syncs[0].Stored, int64(diskSize)/2, "the sealed point is the base")
}

func pointsOf(t *testing.T, b pipe.Backend) (out []pipe.PointInfo) {
	t.Helper()
	for p, err := range b.Points(t.Context(), vmName) {
		require.NoError(t, err)
		out = append(out, p)
	}
	return out
}

func ids(points []pipe.PointInfo) (out []string) {
	for _, p := range points {
		out = append(out, p.ID)
	}
	return out
}

// R195: a replica is made of the points of a repository, the newest each time, and what it has is not written again.
func TestFromRepository(t *testing.T) {
	l := newLab(t)
	r, err := repo.Init(t.Context(), memstore.New(nil), nil, &repo.InitOptions{BlockSize: 64 << 10, NoEncryption: true}, &repo.OpenOptions{StateDir: t.TempDir()})
	require.NoError(t, err)
	defer r.Close()
	s, rep, err := l.open(nil)
	require.NoError(t, err)
	from := &replica.FromPoints{From: r}
	_, err = rep.Sync(t.Context(), from)
	require.ErrorIs(t, err, os.ErrNotExist)

	backup := func() job.Result {
		vm, err := diskvm.Open(t.Context(), vmName, []diskvm.File{{Key: "disk0", Path: l.path("disk.raw")}}, nil)
		require.NoError(t, err)
		res, err := job.Backup(t.Context(), vm, "", r, nil)
		require.NoError(t, err)
		return res
	}
	backup()
	first, err := rep.Sync(t.Context(), from)
	require.NoError(t, err)
	require.False(t, first.Syncs[0].Direct)
	again, err := rep.Sync(t.Context(), from)
	require.NoError(t, err)
	require.True(t, again.Syncs[0].Already)
	require.Equal(t, first.Point, again.Point)
	l.write(t, 1<<20, 9, 1000)
	made := backup()
	second, err := rep.Sync(t.Context(), from)
	require.NoError(t, err)
	require.Equal(t, made.Point, second.Syncs[0].Copied.From)
	require.Less(t, second.Syncs[0].Stored, first.Syncs[0].Stored/4)
	require.LessOrEqual(t, second.Syncs[0].Moved, int64(64<<10), "of the point only what differs is read")
	require.Len(t, pointsOf(t, s), 2)

	_, err = rep.PlannedFailover(t.Context(), from, &machine{l: l, name: "source"})
	var not *replica.NotOfflineError
	require.ErrorAs(t, err, &not, "a point of yesterday is none of a VM that was just stopped")
	require.True(t, l.runs("source"), "it is started again")
	l.write(t, 0, 8, 10)
	require.NoError(t, os.Remove(l.path("source")))
	over, err := rep.Failover(t.Context(), &replica.FailoverOptions{Source: &machine{l: l, name: "source"}})
	require.NoError(t, err)
	require.Equal(t, second.Point, over.Point)
	require.Positive(t, over.Age)
	want := l.disk(t)
	copy(want, content(1)[:10]) // at most what came after the point is lost
	same(t, want, l.readReplica(t))
}

// H: a failover that nobody vouches for would make two of a VM.
func TestNeverTwo(t *testing.T) {
	l := newLab(t)
	_, r, err := l.open(nil)
	require.NoError(t, err)
	synced, err := r.Sync(t.Context(), l.source())
	require.NoError(t, err)
	for name, o := range map[string]*replica.FailoverOptions{
		"nobody asked": nil,
		"it runs":      {Source: &machine{l: l, name: "source"}},
		"no answer":    {Source: &machine{l: l, name: "source", silent: true}},
	} {
		_, err := r.Failover(t.Context(), o)
		var two *replica.TwoError
		require.ErrorAs(t, err, &two, name)
		require.Equal(t, name == "it runs", two.Running, name)
	}
	state, under, err := r.State(t.Context())
	require.NoError(t, err)
	require.Equal(t, replica.Ready, state.Stage)
	require.Nil(t, under)

	done, err := r.Failover(t.Context(), &replica.FailoverOptions{Source: &machine{l: l, name: "source", silent: true}, Force: true})
	require.NoError(t, err)
	require.Len(t, done.Warnings, 1)
	require.Equal(t, synced.Point, done.Point)

	_, err = r.Failback(t.Context(), &replica.FailbackOptions{Home: l.home, Original: &machine{l: l, name: "source"}, Replica: &machine{l: l, name: "replica"}})
	var two *replica.TwoError
	require.ErrorAs(t, err, &two, "the original still runs")
	require.True(t, l.runs("replica"), "and the replica was not stopped for it")
	require.NoError(t, os.Remove(l.path("replica")))
	undone, err := r.Undo(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, undone.Warnings, "nobody stopped the VM")
	again, err := r.Undo(t.Context(), nil)
	require.NoError(t, err)
	require.True(t, again.Already)
}

// Whatever fails before the replica runs, the VM is started again.
func TestPlannedFails(t *testing.T) {
	wrong := errors.New("wrong")
	for name, c := range map[string]struct {
		source  machine
		broken  bool // the last sync fails
		started error
	}{
		"stop":     {source: machine{stop: wrong}},
		"sync":     {broken: true},
		"failover": {started: wrong},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			s, r, err := l.open(nil)
			require.NoError(t, err)
			s.fail = c.started
			source := &c.source
			source.l, source.name = l, "source"
			from := l.source()
			open, n := from.Open, 0
			from.Open = func(ctx context.Context) (hikae.SnapshotProvider, string, *job.BackupOptions, error) {
				if n++; n == 2 && c.broken {
					return nil, "", nil, wrong
				}
				return open(ctx)
			}
			_, err = r.PlannedFailover(t.Context(), from, source)
			require.ErrorIs(t, err, wrong)
			require.True(t, l.runs("source"))
			_, under, err := r.State(t.Context())
			require.NoError(t, err)
			require.Nil(t, under)

			source.fail, source.stop, s.fail = errors.New("nor that"), nil, wrong
			_, err = r.PlannedFailover(t.Context(), from, source)
			var off *replica.OffError
			require.ErrorAs(t, err, &off)
			require.ErrorIs(t, err, wrong)
			source.fail = nil
			undone, err := r.Undo(t.Context(), &replica.UndoOptions{Source: source})
			require.NoError(t, err, "%v", undone)
			require.True(t, l.runs("source"))
			require.False(t, l.runs(twoRan))
		})
	}
}

// A newest point that is damaged is passed over, and said.
func TestDamagedNewest(t *testing.T) {
	l := newLab(t)
	s, r, err := l.open(nil)
	require.NoError(t, err)
	first, err := r.Sync(t.Context(), l.source())
	require.NoError(t, err)
	before := l.disk(t)
	l.write(t, 1<<20, 9, 1<<17)
	second, err := r.Sync(t.Context(), l.source())
	require.NoError(t, err)
	files, err := filepath.Glob(filepath.Join(s.Dir(), "*", second.Point, "*.qcow2"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	require.NoError(t, os.Chmod(files[0], 0o600))
	require.NoError(t, os.Truncate(files[0], 1000))
	require.NoError(t, os.Remove(l.path("source")))
	source := &machine{l: l, name: "source"}
	_, err = r.Failover(t.Context(), &replica.FailoverOptions{Source: source, Point: second.Point})
	var bad *replica.DamagedError
	require.ErrorAs(t, err, &bad, "one that is named is not passed over")
	over, err := r.Failover(t.Context(), &replica.FailoverOptions{Source: source})
	require.NoError(t, err)
	require.Equal(t, first.Point, over.Point)
	require.Len(t, over.Warnings, 1)
	same(t, before, l.readReplica(t))
}

// The book refuses what it never wrote, and one call at a time works on a VM.
func TestBook(t *testing.T) {
	l := newLab(t)
	_, r, err := l.open(nil)
	require.NoError(t, err)
	_, err = r.Sync(t.Context(), l.source())
	require.NoError(t, err)
	from, inside := l.source(), error(nil)
	open := from.Open
	from.Open = func(ctx context.Context) (hikae.SnapshotProvider, string, *job.BackupOptions, error) {
		_, inside = r.Undo(ctx, nil)
		return open(ctx)
	}
	_, err = r.Sync(t.Context(), from)
	require.NoError(t, err)
	var busy *hikae.BusyError
	require.ErrorAs(t, inside, &busy)

	_, err = r.Failover(t.Context(), &replica.FailoverOptions{Force: true})
	require.NoError(t, err)
	entries, err := filepath.Glob(filepath.Join(l.path("site"), ".procedures", "*.json"))
	require.NoError(t, err)
	require.Len(t, entries, 1)
	whole, err := os.ReadFile(entries[0])
	require.NoError(t, err)
	for _, bad := range [][]byte{nil, []byte("{}"), bytes.Replace(whole, []byte(`"running"`), []byte(`"sealing"`), 1), bytes.Replace(whole, []byte(`"version":1`), []byte(`"version":2`), 1),
		bytes.Replace(whole, []byte(vmName), []byte("web2"), 1), append(bytes.Clone(whole), make([]byte, 1<<20)...)} {
		require.NoError(t, os.WriteFile(entries[0], bad, 0o600))
		_, _, err := r.State(t.Context())
		require.Error(t, err, "%.100q", bad)
		_, err = r.Sync(t.Context(), l.source())
		require.Error(t, err)
	}
	require.NoError(t, os.WriteFile(entries[0], whole, 0o600))
	_, under, err := r.State(t.Context())
	require.NoError(t, err)
	require.Equal(t, "running", under.Step)
	require.WithinDuration(t, time.Now(), under.Begun, time.Hour)
}
