package repo

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/retention"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/storetest"
)

const unfinishedSize = 9*minBlockSize + 100

func early(id string) func(context.Context) (map[string]string, error) {
	return func(context.Context) (map[string]string, error) { return map[string]string{"disk0": id}, nil }
}

func wholeOf(size int64) []pipe.Extent { return []pipe.Extent{{Len: size, Kind: pipe.Data}} }

// leave begins a point, writes the first n blocks of content, makes that an unfinished point and leaves it there as a session does
// that dies. It returns the id.
func leave(t testing.TB, r *Repository, vm, base string, content []byte, n int) (string, pipe.PointWriter) {
	t.Helper()
	w, err := r.Begin(t.Context(), vm, &pipe.PointOptions{Base: base, Facts: map[string]string{"hypervisor": "test"}})
	require.NoError(t, err)
	d, err := w.Disk(t.Context(), "disk0", int64(len(content)))
	require.NoError(t, err)
	_, err = d.WriteAt(t.Context(), content[:n*minBlockSize], 0)
	require.NoError(t, err)
	id, err := w.(pipe.Checkpointer).Checkpoint(t.Context(), pipe.CheckpointOptions{
		Disks:    []pipe.CheckpointDisk{{Key: "disk0", Size: int64(len(content)), Pending: wholeOf(int64(len(content)))}},
		Tracking: early("early 1"),
	})
	require.NoError(t, err)
	return id, w
}

func unfinishedOf(t testing.TB, r *Repository, vm string) (list []pipe.UnfinishedPoint) {
	t.Helper()
	for p, err := range r.Unfinished(t.Context(), vm) {
		require.NoError(t, err)
		list = append(list, p)
	}
	return list
}

// goOn finishes a point on an unfinished one, with what is pending in that.
func goOn(t testing.TB, r *Repository, u pipe.UnfinishedPoint, content []byte) string {
	t.Helper()
	ctx := t.Context()
	w, err := r.Begin(ctx, u.VM, &pipe.PointOptions{Base: u.ID})
	require.NoError(t, err)
	defer w.Close()
	d, err := w.Disk(ctx, "disk0", int64(len(content)))
	require.NoError(t, err)
	require.NoError(t, d.(pipe.ExtentTarget).Mark(ctx, pipe.Extent{Len: int64(len(content)), Kind: pipe.Unchanged}))
	for _, e := range u.Pending["disk0"] {
		_, err := d.WriteAt(ctx, content[e.Off:e.End()], e.Off)
		require.NoError(t, err)
	}
	require.NoError(t, d.Commit(ctx))
	id, err := w.Commit(ctx, map[string]string{"disk0": "2"})
	require.NoError(t, err)
	return id
}

func chance(seed uint64, n int) []byte {
	p := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}

func openAgain(t testing.TB, st store.Store) *Repository {
	t.Helper()
	return shortLog(t, st, nil)
}

// An unfinished point is none: whoever lists, restores, holds, counts or keeps by a policy does not see it. A verification
// names it, and says nothing else of it.
func TestUnfinishedIsNoPoint(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := initShort(t, st, nil)
	content := chance(1, unfinishedSize)
	first, _ := backupBytes(t, r, "web", content)
	id, w := leave(t, r, "web", first, chance(2, unfinishedSize), 4)
	defer w.Close()
	r = openAgain(t, st)
	for p, err := range r.Points(ctx, "") {
		require.NoError(t, err)
		require.Equal(t, first, p.ID)
	}
	newest, err := r.Resolve(ctx, "web@latest")
	require.NoError(t, err)
	require.Equal(t, first, newest.ID)
	for _, spec := range []string{id, id[:8], "web@latest~1"} {
		_, err = r.Resolve(ctx, spec)
		require.ErrorIs(t, err, fs.ErrNotExist, spec)
	}
	_, err = r.Open(ctx, id, "disk0")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = r.OpenBlob(ctx, id, "config")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = r.OpenUnfinished(ctx, first, "disk0")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = r.OpenUnfinished(ctx, id, "disk1")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorIs(t, r.Hold(ctx, []string{id}, ""), fs.ErrNotExist)
	stats, err := r.Stats(ctx)
	require.NoError(t, err)
	require.Equal(t, 1, stats.Points)
	plan, err := r.Retain(ctx, retention.Policy{Last: 1}, nil)
	require.NoError(t, err)
	require.Len(t, plan.Decisions, 1)
	rep := requireSound(t, r)
	require.Contains(t, strings.Join(rep.Notes, "\n"), "unfinished point "+id+" of web")
	require.Zero(t, rep.Reclaimable, "a prune keeps what it needs")
	list := unfinishedOf(t, r, "")
	require.Len(t, list, 1)
	require.Equal(t, []any{id, "web", first}, []any{list[0].ID, list[0].VM, list[0].Base})
	require.Equal(t, map[string]string{"disk0": "early 1"}, list[0].Tracking)
	require.Equal(t, []pipe.Extent{{Off: 4 * minBlockSize, Len: unfinishedSize - 4*minBlockSize, Kind: pipe.Data}}, list[0].Pending["disk0"])
	require.Empty(t, unfinishedOf(t, r, "another"))
}

// One is built on: what was written is taken from it, what was pending comes anew, and the base shows through nowhere.
func TestBuildOnUnfinished(t *testing.T) {
	st := memstore.New(nil)
	r := initShort(t, st, nil)
	first, _ := backupBytes(t, r, "web", chance(1, unfinishedSize))
	content := chance(2, unfinishedSize)
	id, w := leave(t, r, "web", first, content, 4)
	defer w.Close()
	r = openAgain(t, st)
	img, err := r.OpenUnfinished(t.Context(), id, "disk0")
	require.NoError(t, err)
	got := make([]byte, 4*minBlockSize)
	_, err = img.ReadAt(t.Context(), got, 0)
	require.NoError(t, err)
	require.True(t, bytes.Equal(content[:len(got)], got))
	require.NoError(t, img.Close())
	point := goOn(t, r, unfinishedOf(t, r, "web")[0], content)
	requireRestored(t, r, point, content)
	require.Empty(t, unfinishedOf(t, r, ""), "the commit takes it away")
	m, err := r.find(t.Context(), point)
	require.NoError(t, err)
	require.Equal(t, first, m.Base.String(), "not the one that nobody can look up any more")
	require.NoError(t, w.Close())
	require.NoError(t, r.Forget(t.Context(), []string{first}, ""))
	mustPrune(t, r, nil)
	mustPrune(t, r, nil)
	requireSound(t, r)
	requireRestored(t, openAgain(t, st), point, content)
	for info, err := range st.List(t.Context(), "manifest/") {
		require.NoError(t, err)
		require.NotContains(t, info.Name, id)
	}
}

// A prune keeps what an unfinished point needs, however often; and lets it go once it is forgotten, or after so many prunes.
func TestPruneKeepsUnfinished(t *testing.T) {
	st := memstore.New(nil)
	r := initShort(t, st, nil)
	content := chance(3, unfinishedSize)
	id, w := leave(t, r, "web", "", content, 5)
	_, w2 := leave(t, r, "db", "", chance(4, unfinishedSize), 2)
	require.NoError(t, w.Close())
	require.NoError(t, w2.Close())
	for range 3 {
		mustPrune(t, r, nil)
	}
	require.Len(t, unfinishedOf(t, r, ""), 2)
	require.NoError(t, r.Forget(t.Context(), []string{unfinishedOf(t, r, "db")[0].ID}, "gone"))
	mustPrune(t, r, nil)
	require.Len(t, unfinishedOf(t, openAgain(t, st), ""), 1)

	clone := st.Clone()
	point := goOn(t, openAgain(t, clone), unfinishedOf(t, r, "web")[0], content)
	requireRestored(t, openAgain(t, clone), point, content)

	for i := range maxPrunes - 4 {
		require.Len(t, unfinishedOf(t, r, "web"), 1, i)
		mustPrune(t, r, nil)
	}
	require.Empty(t, unfinishedOf(t, r, ""), "nobody came for %s", id)
	mustPrune(t, r, nil)
	for info, err := range st.List(t.Context(), "data/") {
		require.NoError(t, err)
		require.Fail(t, "it is needed by nobody", info.Name)
	}
}

// Whoever builds on an unfinished point goes on although it is replaced, and its content swept from under nobody.
func TestReplacedUnderABuilder(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := initShort(t, st, nil)
	content := chance(5, unfinishedSize)
	id, w := leave(t, r, "web", "", content, 6)
	require.NoError(t, w.Close())
	other := openAgain(t, st)
	builder, err := other.Begin(ctx, "web", &pipe.PointOptions{Base: id})
	require.NoError(t, err)
	d, err := builder.Disk(ctx, "disk0", unfinishedSize)
	require.NoError(t, err)

	_, w = leave(t, r, "web", "", chance(6, unfinishedSize), 1)
	require.NoError(t, w.Close())
	require.Len(t, unfinishedOf(t, r, ""), 1)
	rep := mustPrune(t, r, nil)
	require.Zero(t, rep.Deleted, "%+v", rep)
	_, err = r.Begin(ctx, "web", &pipe.PointOptions{Base: id})
	require.ErrorIs(t, err, fs.ErrNotExist)

	require.NoError(t, d.(pipe.ExtentTarget).Mark(ctx, pipe.Extent{Len: 6 * minBlockSize, Kind: pipe.Unchanged}))
	_, err = d.WriteAt(ctx, content[6*minBlockSize:], 6*minBlockSize)
	require.NoError(t, err)
	require.NoError(t, d.Commit(ctx))
	point, err := builder.Commit(ctx, nil)
	require.NoError(t, err)
	mustPrune(t, r, nil)
	mustPrune(t, r, nil)
	requireRestored(t, openAgain(t, st), point, content)
	requireSound(t, r)
}

// A checkpoint of the log tells unfinished points, those that somebody builds on after they went, and how many prunes they have
// outlived.
func TestUnfinishedInACheckpoint(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := initShort(t, st, nil)
	gone, w := leave(t, r, "db", "", chance(7, unfinishedSize), 2)
	defer w.Close()
	builder, err := r.Begin(ctx, "db", &pipe.PointOptions{Base: gone})
	require.NoError(t, err)
	defer builder.Close()
	id, w2 := leave(t, r, "web", "", chance(8, unfinishedSize), 3)
	defer w2.Close()
	require.NoError(t, r.Forget(ctx, []string{gone}, ""))
	mustPrune(t, r, nil)
	for range 8 {
		emptyPoint(t, r, "mail")
	}
	require.NoError(t, r.Condense(ctx))
	fresh := shortLog(t, st, nil)
	list := unfinishedOf(t, fresh, "")
	require.Len(t, list, 1)
	require.Equal(t, id, list[0].ID)
	fresh.log.view(func(l *ledger) {
		require.Positive(t, l.from)
		require.Equal(t, 1, l.unfinished[0].prunes)
		require.Len(t, l.stillLeaving(), 1)
		require.Equal(t, gone, l.stillLeaving()[0].point.String())
		require.True(t, l.stillLeaving()[0].unfinished)
		d := l.document([]AuditEntry{})
		again, err := d.state()
		require.NoError(t, err)
		require.Equal(t, l.unfinished, again.unfinished)
		require.Equal(t, l.stillLeaving(), again.leaving)
	})
}

// A damaged unfinished point holds up no prune, and no listing: it is given up.
func TestDamagedUnfinishedIsGivenUp(t *testing.T) {
	for _, what := range []string{"manifest/", "meta/", "data/"} {
		t.Run(what, func(t *testing.T) {
			ctx := t.Context()
			st := memstore.New(nil)
			r := initShort(t, st, nil)
			id, w := leave(t, r, "web", "", chance(9, unfinishedSize), 4)
			require.NoError(t, w.Close())
			for _, prefix := range copiesOf(what) {
				for info, err := range st.List(ctx, prefix) {
					require.NoError(t, err)
					require.NoError(t, st.Remove(ctx, info.Name))
				}
			}
			point, _ := backupBytes(t, r, "mail", chance(10, minBlockSize))
			rep, err := r.Verify(ctx, &VerifyOptions{DataPercent: 100})
			require.NoError(t, err)
			require.Empty(t, rep.Affected, "nobody restores it")
			notes := strings.Join(rep.Notes, "\n")
			require.Contains(t, notes, id)
			require.Contains(t, notes, "given up by the next prune")
			var warned []string
			r = shortLog(t, st, &OpenOptions{Warn: func(s string) { warned = append(warned, s) }})
			if what == "manifest/" {
				require.Empty(t, unfinishedOf(t, r, ""))
			}
			mustPrune(t, r, nil)
			require.Empty(t, unfinishedOf(t, r, ""))
			require.Contains(t, strings.Join(warned, "\n"), id)
			requireRestored(t, r, point, chance(10, minBlockSize))
			requireSound(t, r)
		})
	}
}

// Whatever call fails or loses its answer while a checkpoint is made, the point that is written is none the worse, and what is
// found afterwards is an unfinished point that is whole, or none.
func TestCheckpointThatFails(t *testing.T) {
	content := chance(11, unfinishedSize)
	for _, mode := range []storetest.Mode{storetest.Before, storetest.After, storetest.Middle} {
		for n := 1; ; n++ {
			ctx := t.Context()
			st := memstore.New(nil)
			r := initShort(t, st, nil)
			require.NoError(t, r.Close())
			net := storetest.NewFaulty(st)
			r = openAgain(t, net)
			w, err := r.Begin(ctx, "web", nil)
			require.NoError(t, err)
			d, err := w.Disk(ctx, "disk0", unfinishedSize)
			require.NoError(t, err)
			_, err = d.WriteAt(ctx, content[:5*minBlockSize], 0)
			require.NoError(t, err)
			net.Add(storetest.Fault{N: n, Mode: mode})
			_, err = w.(pipe.Checkpointer).Checkpoint(ctx, pipe.CheckpointOptions{
				Disks: []pipe.CheckpointDisk{{Key: "disk0", Size: unfinishedSize, Pending: wholeOf(unfinishedSize)}}, Tracking: early("e"),
			})
			fired := net.Fired() > 0
			net.Heal()
			after := openAgain(t, st.Clone())
			list := unfinishedOf(t, after, "")
			if err == nil {
				require.Len(t, list, 1, "call %d", n)
			}
			for _, u := range list {
				requireRestored(t, after, goOn(t, after, u, content), content)
			}
			if _, err = d.WriteAt(ctx, content[5*minBlockSize:], 5*minBlockSize); err == nil {
				require.NoError(t, d.Commit(ctx))
				point, err := w.Commit(ctx, nil)
				if err == nil {
					requireRestored(t, openAgain(t, st), point, content)
					require.Empty(t, unfinishedOf(t, r, ""))
				}
			}
			require.NoError(t, w.Close())
			if !fired {
				require.NoError(t, err)
				require.Greater(t, n, 8)
				break
			}
		}
	}
}

// Checkpoints are made beside writers of several disks, as fast as they can be, and each of them is right: what is not pending
// is what was written.
func TestCheckpointsBesideWriters(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := initShort(t, st, nil)
	content := chance(12, 120*minBlockSize)
	w, err := r.Begin(ctx, "web", nil)
	require.NoError(t, err)
	defer w.Close()
	size := int64(len(content))
	disks := []pipe.CheckpointDisk{{Key: "disk0", Size: size, Pending: wholeOf(size)}, {Key: "disk1", Size: size, Pending: wholeOf(size)}}
	var writers sync.WaitGroup
	defer writers.Wait()
	for _, key := range []string{"disk0", "disk1"} {
		d, err := w.Disk(ctx, key, size)
		require.NoError(t, err)
		writers.Go(func() {
			for i, n := range rand.New(rand.NewPCG(3, uint64(len(key)))).Perm(120) {
				off := int64(n) * minBlockSize
				if _, err := d.WriteAt(ctx, content[off:off+minBlockSize], off); err != nil {
					t.Error(err)
				}
				if i%8 == 0 {
					time.Sleep(time.Millisecond)
				}
			}
			if err := d.Commit(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	done := make(chan struct{})
	go func() { writers.Wait(); close(done) }()
	other := openAgain(t, st)
	seen := 0
	for over := false; !over; seen++ {
		select {
		case <-done:
			over = true
		default:
		}
		id, err := w.(pipe.Checkpointer).Checkpoint(ctx, pipe.CheckpointOptions{Disks: disks, Tracking: early("e")})
		require.NoError(t, err)
		list := unfinishedOf(t, other, "web")
		require.Len(t, list, 1)
		require.Equal(t, id, list[0].ID)
		for _, key := range []string{"disk0", "disk1"} {
			img, err := other.OpenUnfinished(ctx, id, key)
			require.NoError(t, err)
			got := make([]byte, size)
			_, err = img.ReadAt(ctx, got, 0)
			require.NoError(t, err)
			require.NoError(t, img.Close())
			for _, e := range list[0].Pending[key] {
				copy(got[e.Off:e.End()], content[e.Off:e.End()])
			}
			require.True(t, bytes.Equal(content, got), "checkpoint %d, %s", seen, key)
		}
		if over {
			require.Empty(t, list[0].Pending)
		}
	}
	_, err = w.Commit(ctx, nil)
	require.NoError(t, err)
	requireSound(t, r)
}

// Who may only write makes none, and a moment of which nobody is sure makes none either.
func TestCheckpointRefused(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := initShort(t, st, nil)
	key, err := r.EnrolWriter(ctx, []string{"web"})
	require.NoError(t, err)
	client, err := OpenWriter(ctx, st, memstore.New(nil), key, &OpenOptions{CacheDir: t.TempDir()})
	require.NoError(t, err)
	defer client.Close()
	w, err := client.Begin(ctx, "web", nil)
	require.NoError(t, err)
	defer w.Close()
	_, err = w.(pipe.Checkpointer).Checkpoint(ctx, pipe.CheckpointOptions{Tracking: early("e")})
	require.ErrorIs(t, err, errors.ErrUnsupported)

	ours, err := r.Begin(ctx, "web", nil)
	require.NoError(t, err)
	defer ours.Close()
	gone := errors.New("the snapshot is gone")
	_, err = ours.(pipe.Checkpointer).Checkpoint(ctx, pipe.CheckpointOptions{
		Tracking: func(context.Context) (map[string]string, error) { return nil, gone },
	})
	require.ErrorIs(t, err, gone)
	require.Empty(t, unfinishedOf(t, r, ""))
	require.NoError(t, ours.Close())
	_, err = ours.(pipe.Checkpointer).Checkpoint(ctx, pipe.CheckpointOptions{Disks: []pipe.CheckpointDisk{{Key: "d", Size: 1}}, Tracking: early("e")})
	require.ErrorIs(t, err, fs.ErrClosed)
}

// The claims of an unfinished manifest are held against its disks.
func TestPendingBounds(t *testing.T) {
	for what, p := range map[string][][2]int64{
		"empty": {{0, 0}}, "negative": {{-1, 2}}, "past the end": {{90, 11}}, "overlap": {{0, 10}, {9, 2}}, "not in order": {{50, 1}, {3, 1}}, "huge": {{1, 1<<63 - 1}},
	} {
		m := &manifest{VM: "v", Unfinished: true, Disks: []manifestDisk{{Key: "d", Size: 100, Pending: p}}}
		require.Error(t, m.check(), what)
	}
	m := &manifest{VM: "v", Disks: []manifestDisk{{Key: "d", Size: 100, Pending: [][2]int64{{0, 100}}}}}
	require.Error(t, m.check(), "of a point")
	m.Unfinished = true
	require.NoError(t, m.check())
}

// Many ranges are made coarser, and none of them is lost.
func TestCoarsen(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	disks := make([][]pipe.Extent, 3)
	for i := range disks {
		for off := int64(0); len(disks[i]) < 500; off += 1 << (16 + r.IntN(20)) {
			disks[i] = append(disks[i], pipe.Extent{Off: off, Len: 1})
			off++
		}
	}
	before := [][]pipe.Extent{append([]pipe.Extent{}, disks[0]...), append([]pipe.Extent{}, disks[1]...), append([]pipe.Extent{}, disks[2]...)}
	coarsen(disks, 100)
	n := 0
	for i, list := range disks {
		n += len(list)
		for _, e := range before[i] {
			found := false
			for _, c := range list {
				found = found || c.Off <= e.Off && e.End() <= c.End()
			}
			require.True(t, found)
		}
	}
	require.LessOrEqual(t, n, 100)
	require.Greater(t, n, 3)
}
