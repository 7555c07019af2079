package repo_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/storetest"
)

// hooked is a store whose calls a test can look at, answer or hold up.
type hooked struct {
	store.Store
	create func(ctx context.Context, name string, data []byte) error // nil: the store's own
}

func (h *hooked) Unwrap() store.Store { return h.Store }

func (h *hooked) Create(ctx context.Context, name string, data []byte) error {
	if h.create != nil {
		return h.create(ctx, name, data)
	}
	return h.Store.Create(ctx, name, data)
}

func read(t testing.TB, st store.Store, name string) []byte {
	t.Helper()
	b, err := store.ReadAll(t.Context(), st, name, 1<<30)
	require.NoError(t, err)
	return b
}

func named(t testing.TB, st store.Store, prefix string) (out []string) {
	for _, name := range names(t, st) {
		if strings.HasPrefix(name, prefix) {
			out = append(out, name)
		}
	}
	require.NotEmpty(t, out, prefix)
	return out
}

func begin(t testing.TB, r *repo.Repository, size int64, opts *pipe.PointOptions) (pipe.PointWriter, pipe.BlockTarget) {
	t.Helper()
	w, err := r.Begin(t.Context(), "vm", opts)
	require.NoError(t, err)
	t.Cleanup(func() { _ = w.Close() })
	d, err := w.Disk(t.Context(), "disk0", size)
	require.NoError(t, err)
	return w, d.(pipe.BlockTarget)
}

func random(n int) []byte {
	b := make([]byte, n)
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(rand.Uint32())
	}
	_, _ = rand.NewChaCha8(seed).Read(b)
	return b
}

// A store that tries again by itself answers "it exists" to the very writer that made it exist: the commit happened
// once, and is listed once.
func TestStoreThatTriesAgainByItself(t *testing.T) {
	t.Parallel()
	st := memstore.New(nil)
	h := &hooked{Store: st}
	r := newRepository(t, h, &repo.InitOptions{BlockSize: testBlock})
	h.create = func(ctx context.Context, name string, data []byte) error {
		if err := st.Create(ctx, name, data); err != nil {
			return err
		}
		return &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	id := mustBackup(t, r, "vm", disk(1), nil)
	h.create = nil
	require.Equal(t, []string{id}, pointsOf(t, r))
	require.Equal(t, []string{id}, pointsOf(t, reopen(t, st)))
	require.Len(t, named(t, st, "log/"), 4, "key, lease, commit, end")
}

// Numbers at the ends of int64 are refused, not computed with.
func TestRangesBeyondAnyDisk(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	r := newRepository(t, memstore.New(nil), &repo.InitOptions{BlockSize: testBlock})
	w, d := begin(t, r, testBlock+5, nil)
	for _, e := range []pipe.Extent{
		{Off: 1, Len: math.MaxInt64}, {Off: math.MaxInt64, Len: 1}, {Off: math.MaxInt64, Len: math.MaxInt64}, {Off: -1, Len: 1},
	} {
		require.ErrorIs(t, d.Mark(ctx, e), fs.ErrInvalid, "%v", e)
	}
	for _, off := range []int64{math.MaxInt64, math.MaxInt64 - 1, -1, testBlock + 5} {
		_, err := d.WriteAt(ctx, make([]byte, 10), off)
		require.ErrorIs(t, err, fs.ErrInvalid, "%d", off)
		_, err = d.PutBlock(ctx, off, pipe.ID{}, 5, pipe.Plain, make([]byte, 5))
		require.ErrorIs(t, err, fs.ErrInvalid, "%d", off)
	}
	for _, size := range []int64{math.MaxInt64, math.MaxInt64 - 1, 1<<62 + 1} {
		_, err := w.Disk(ctx, fmt.Sprint(size), size)
		require.ErrorIs(t, err, fs.ErrInvalid)
	}
	require.NoError(t, d.Mark(ctx, pipe.Extent{Len: d.Size()}))
	require.NoError(t, d.Commit(ctx))
	huge, err := w.Disk(ctx, "huge", 1<<62)
	require.NoError(t, err)
	require.NoError(t, huge.(pipe.ExtentTarget).Mark(ctx, pipe.Extent{Len: 1 << 62, Kind: pipe.Free}))
	block := random(testBlock)
	_, err = huge.WriteAt(ctx, block, 1<<62-testBlock)
	require.NoError(t, err)
	require.NoError(t, huge.Commit(ctx))
	id, err := w.Commit(ctx, nil)
	require.NoError(t, err)

	img, err := r.Open(ctx, id, "huge")
	require.NoError(t, err)
	defer img.Close()
	got := make([]byte, testBlock+1)
	n, err := img.ReadAt(ctx, got, 1<<62-testBlock)
	require.Equal(t, testBlock, n)
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, block, got[:n])
	for _, e := range [][2]int64{{1, math.MaxInt64}, {math.MaxInt64, math.MaxInt64}, {math.MaxInt64, 1}, {-1, 1}, {0, -1}} {
		failed := false
		for _, err := range img.(pipe.ExtentImage).Extents(ctx, e[0], e[1]) {
			require.ErrorIs(t, err, fs.ErrInvalid)
			failed = true
		}
		require.True(t, failed, "%v", e)
	}
	p, err := r.Resolve(ctx, id)
	require.NoError(t, err)
	require.Equal(t, int64(testBlock), p.Disks[1].Data)
	require.Equal(t, map[string]int64{"free": 1<<62 - testBlock}, p.Disks[1].Absent)
	rep, err := r.Verify(ctx, &repo.VerifyOptions{DataPercent: 100})
	require.NoError(t, err)
	require.True(t, rep.OK, "%+v", rep)
}

// Every border of a disk with a short tail: pieces of marks and writes at it, unchanged ones too.
func TestPiecesAtTheTail(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	r := newRepository(t, memstore.New(nil), &repo.InitOptions{BlockSize: testBlock})
	for _, size := range []int64{0, 1, testBlock - 1, testBlock, testBlock + 1, 2*testBlock + 777} {
		content := random(int(size))
		w, d := begin(t, r, size, nil)
		_, err := d.WriteAt(ctx, content, 0)
		require.NoError(t, err)
		require.NoError(t, d.Commit(ctx))
		base, err := w.Commit(ctx, nil)
		require.NoError(t, err)
		for _, cut := range []int64{1, 100, 776} {
			at := size - cut
			if at < 0 {
				continue
			}
			w, d := begin(t, r, size, &pipe.PointOptions{Base: base})
			require.NoError(t, d.Mark(ctx, pipe.Extent{Off: at, Len: cut, Kind: pipe.Unchanged}))
			require.NoError(t, d.Mark(ctx, pipe.Extent{Off: 0, Len: at, Kind: pipe.Unchanged}))
			require.NoError(t, d.Commit(ctx))
			id, err := w.Commit(ctx, nil)
			require.NoError(t, err)
			requireSame(t, r, id, pipe.FromReaderAt(strings.NewReader(string(content)), size))
		}
	}
}

// What a source could not read is told to the byte, also where it is a part of a block (law: never zero-fill silently).
func TestBadPartOfABlockIsTold(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	r := newRepository(t, memstore.New(nil), &repo.InitOptions{BlockSize: testBlock})
	w, d := begin(t, r, 2*testBlock, nil)
	_, err := d.WriteAt(ctx, random(100), 0)
	require.NoError(t, err)
	require.NoError(t, d.Mark(ctx, pipe.Extent{Off: 100, Len: 512, Kind: pipe.Bad}))
	_, err = d.WriteAt(ctx, random(2*testBlock-612), 612)
	require.NoError(t, err)
	require.NoError(t, d.Commit(ctx))
	id, err := w.Commit(ctx, nil)
	require.NoError(t, err)
	require.Equal(t, [][2]int64{{100, 512}}, r.BadOf(t, id, "disk0"))
}

// Names and values that JSON would change are refused before anything is stored, not after.
func TestTextThatJSONWouldChange(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	r := newRepository(t, memstore.New(nil), &repo.InitOptions{BlockSize: testBlock})
	_, err := r.Begin(ctx, "vm\xff", nil)
	require.ErrorIs(t, err, fs.ErrInvalid)
	w, d := begin(t, r, 0, &pipe.PointOptions{Facts: map[string]string{"os": "a\xffb"}})
	_, err = w.Disk(ctx, "\xc3", 1)
	require.ErrorIs(t, err, fs.ErrInvalid)
	require.ErrorIs(t, w.Blob(ctx, "\xc3", strings.NewReader("")), fs.ErrInvalid)
	require.NoError(t, d.Commit(ctx))
	_, err = w.Commit(ctx, map[string]string{"disk0": "\xff"})
	require.ErrorIs(t, err, fs.ErrInvalid, "a change id that reads back as another one")
	id, err := w.Commit(ctx, map[string]string{"disk0": "<\u2028>"})
	require.NoError(t, err)
	p, err := r.Resolve(ctx, id)
	require.NoError(t, err)
	require.Equal(t, "<\u2028>", p.Tracking["disk0"])
}

// A point whose description would be too large to read back is not committed.
func TestPointTooLargeToReadBack(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	r := newRepository(t, memstore.New(nil), &repo.InitOptions{BlockSize: testBlock})
	w, d := begin(t, r, 0, nil)
	require.NoError(t, d.Commit(ctx))
	_, err := w.Commit(ctx, map[string]string{"disk0": fmt.Sprintf("%x", random(9<<20))})
	require.ErrorIs(t, err, fs.ErrInvalid)
	require.Empty(t, pointsOf(t, r))
}

// A block is reused where it is as long as what it stands for, and nowhere else.
func TestBlockOfAnotherLengthIsNotReused(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	r := newRepository(t, memstore.New(nil), &repo.InitOptions{BlockSize: testBlock})
	for range 2 { // from this session's own packs, then from durable ones
		w, d := begin(t, r, testBlock+100, nil)
		block := []byte(strings.Repeat("hikae", testBlock/5+1))[:testBlock]
		id := d.Fingerprint(block)
		_, err := d.PutBlock(ctx, 0, id, testBlock, pipe.Plain, block)
		require.NoError(t, err)
		_, err = d.PutBlock(ctx, testBlock, id, 100, pipe.Plain, nil)
		require.ErrorIs(t, err, pipe.ErrBlockMismatch)
		_, err = d.PutBlock(ctx, testBlock, id, 100, pipe.Plain, block[:100])
		require.ErrorIs(t, err, pipe.ErrBlockMismatch)
		require.NoError(t, d.Mark(ctx, pipe.Extent{Off: testBlock, Len: 100}))
		require.NoError(t, d.Commit(ctx))
		_, err = w.Commit(ctx, nil)
		require.NoError(t, err)
	}
}

// A caller gives up while its full pack waits for room, and goes on with another context: the pack is not forgotten,
// and no point refers to what was never stored.
func TestGivingUpWhilePacksAreUploaded(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	st := memstore.New(nil)
	h := &hooked{Store: st}
	r := newRepository(t, h, &repo.InitOptions{BlockSize: 1 << 20, Compression: pipe.None})
	const blocks = 64
	content := random(blocks << 20)
	w, d := begin(t, r, int64(len(content)), nil)
	gate := make(chan struct{})
	open := sync.OnceFunc(func() { close(gate) })
	defer open()
	h.create = func(ctx context.Context, name string, data []byte) error {
		if strings.HasPrefix(name, "data/") {
			select {
			case <-gate:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return st.Create(ctx, name, data)
	}
	gaveUp := 0
	for i := range blocks {
		p := content[i<<20:][:1<<20]
		short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		_, err := d.WriteAt(short, p, int64(i)<<20)
		cancel()
		if err == nil {
			continue
		}
		require.ErrorIs(t, err, context.DeadlineExceeded)
		gaveUp++
		open()
		_, err = d.WriteAt(ctx, p, int64(i)<<20)
		require.NoError(t, err)
	}
	require.NotZero(t, gaveUp)
	require.NoError(t, d.Commit(ctx))
	id, err := w.Commit(ctx, nil)
	require.NoError(t, err)
	requireSame(t, reopen(t, st), id, pipe.FromReaderAt(strings.NewReader(string(content)), int64(len(content))))
}

// Commit gives up with its context while the store hangs, and a close while blocks are put ends all of it.
func TestHangingStore(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	st := memstore.New(nil)
	h := &hooked{Store: st}
	r := newRepository(t, h, &repo.InitOptions{BlockSize: 1 << 20, Compression: pipe.None})
	hang := func(ctx context.Context, name string, data []byte) error {
		if strings.HasPrefix(name, "data/") {
			<-ctx.Done()
			return ctx.Err()
		}
		return st.Create(ctx, name, data)
	}
	w, d := begin(t, r, 1<<20, nil)
	h.create = hang
	_, err := d.WriteAt(ctx, random(1<<20), 0)
	require.NoError(t, err)
	require.NoError(t, d.Commit(ctx))
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	started := time.Now()
	_, err = w.Commit(short, nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(started), 10*time.Second)
	require.NoError(t, w.Close())

	w, d = begin(t, r, 1<<30, nil)
	var wg sync.WaitGroup
	var put atomic.Int64
	block := random(1 << 20)
	for g := range 4 {
		wg.Go(func() {
			own := append([]byte(nil), block...)
			for i := g; ; i += 4 {
				own[0], own[1], own[2] = byte(i), byte(i>>8), 1
				if _, err := d.WriteAt(ctx, own, int64(i)<<20); err != nil {
					return
				}
				put.Add(1)
			}
		})
	}
	require.Eventually(t, func() bool { return put.Load() > 40 }, 20*time.Second, time.Millisecond)
	started = time.Now()
	require.NoError(t, w.Close())
	wg.Wait()
	require.Less(t, time.Since(started), 10*time.Second)
}

// After Close everything is refused, and nothing panics.
func TestUseAfterClose(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	st := memstore.New(nil)
	r, err := repo.Init(ctx, st, testKey, &repo.InitOptions{BlockSize: testBlock}, openOptions(t))
	require.NoError(t, err)
	id := mustBackup(t, r, "vm", disk(1), nil)
	img, err := r.Open(ctx, id, "disk0")
	require.NoError(t, err)
	w, d := begin(t, r, testBlock, nil)
	require.NoError(t, r.Close())
	_, err = img.ReadAt(ctx, make([]byte, testBlock), 0)
	require.Error(t, err)
	require.NoError(t, img.Close())
	_, err = r.Open(ctx, id, "disk0")
	require.ErrorIs(t, err, fs.ErrClosed)
	_, err = r.Begin(ctx, "vm", nil)
	require.ErrorIs(t, err, fs.ErrClosed)
	_, err = r.OpenBlob(ctx, id, "config")
	require.ErrorIs(t, err, fs.ErrClosed)
	_, err = r.Stats(ctx)
	require.ErrorIs(t, err, fs.ErrClosed)
	_, err = d.WriteAt(ctx, random(testBlock), 0)
	require.Error(t, err)
	require.NoError(t, w.Close())
	require.NoError(t, r.Close())
}

// A client that opened for reading never writes: not even the place of a log record that is missing.
func TestReadOnlyNeverWrites(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	st := memstore.New(nil)
	id := mustBackup(t, newRepository(t, st, &repo.InitOptions{BlockSize: testBlock}), "vm", disk(1), nil)
	require.NoError(t, st.Remove(ctx, "log/0000000000000002"))
	before := names(t, st)
	opts := openOptions(t)
	opts.ReadOnly = true
	r, err := repo.Open(ctx, st, testKey, opts)
	require.NoError(t, err)
	defer r.Close()
	requireSame(t, r, id, disk(1))
	_, err = r.Verify(ctx, &repo.VerifyOptions{DataPercent: 100, Repair: true})
	require.NoError(t, err)
	require.Equal(t, before, names(t, st))
}

// Two objects of one kind changed places, in one of their three places each: readers use the others, verify says so,
// and repair puts the right ones back, never the wrong ones over the right ones.
func TestSwappedVitalObjects(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	origin := memstore.New(nil)
	r := newRepository(t, origin, &repo.InitOptions{BlockSize: testBlock})
	want := map[string]pipe.Image{
		mustBackup(t, r, "vm", disk(1), nil): disk(1),
		mustBackup(t, r, "vm", disk(2), nil): disk(2),
	}
	other := memstore.New(nil)
	newRepository(t, other, nil)
	m := named(t, origin, "manifest/")
	for _, place := range []string{"", "copy1/", "copy2/"} {
		for _, swap := range [][2]string{
			{m[0], m[1]},
			{"log/0000000000000002", "log/0000000000000003"},
			{"log/0000000000000001", "log/0000000000000007"},
			{"header", ""},
		} {
			st := origin.Clone()
			a := place + swap[0]
			if swap[1] == "" {
				st.Set(a, read(t, other, "header"))
			} else {
				st.Set(a, read(t, origin, place+swap[1]))
				st.Set(place+swap[1], read(t, origin, a))
			}
			damaged := reopen(t, st)
			for id, img := range want {
				requireSame(t, damaged, id, img)
			}
			rep, err := damaged.Verify(ctx, &repo.VerifyOptions{Repair: true})
			require.NoError(t, err)
			require.Empty(t, rep.Affected)
			found := len(rep.Repaired)
			for _, d := range rep.Damaged {
				require.True(t, strings.HasPrefix(d.Object, place), "%s: %+v", a, d)
				require.True(t, d.Mendable, "%s: %+v", a, d)
				found++
			}
			require.NotZero(t, found, a)
			again := reopen(t, st)
			for id, img := range want {
				requireSame(t, again, id, img)
			}
			if place != "" || !strings.HasPrefix(swap[0], "log/") {
				rep, err = again.Verify(ctx, nil)
				require.NoError(t, err)
				require.True(t, rep.OK, "%s: %+v", a, rep.Damaged)
			}
		}
	}
}

// A record that is gone from all three places while later ones are there: what is known before it restores, nothing is
// written over the hole, and verify says what is missing. The same for a record that cannot be read anywhere.
func TestHoleInTheLog(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	origin := memstore.New(nil)
	r := newRepository(t, origin, &repo.InitOptions{BlockSize: testBlock})
	first := mustBackup(t, r, "vm", disk(1), nil)
	mustBackup(t, r, "vm", disk(2), nil)
	const hole = "log/0000000000000006"
	for _, damage := range []string{"lost", "zeros"} {
		st := origin.Clone()
		for _, prefix := range []string{"", "copy1/", "copy2/"} {
			if damage == "lost" {
				require.NoError(t, st.Remove(ctx, prefix+hole))
			} else {
				st.Set(prefix+hole, make([]byte, 4096))
			}
		}
		var warned []string
		opts := openOptions(t)
		opts.Warn = func(s string) { warned = append(warned, s) }
		before := names(t, st)
		damaged, err := repo.Open(ctx, st, testKey, opts)
		require.NoError(t, err, damage)
		defer damaged.Close()
		require.Contains(t, strings.Join(warned, "\n"), hole)
		requireSame(t, damaged, first, disk(1))
		var ids []string
		var last error
		for p, err := range damaged.Points(ctx, "") {
			if err != nil {
				last = err
				continue
			}
			ids = append(ids, p.ID)
		}
		require.Equal(t, []string{first}, ids)
		var corrupt *repo.ErrCorrupt
		require.ErrorAs(t, last, &corrupt, "a list that is not whole says so")
		require.Equal(t, hole, corrupt.Object)
		_, err = backup(ctx, damaged, "vm", disk(3), nil)
		require.ErrorAs(t, err, &corrupt)
		rep, err := damaged.Verify(ctx, nil)
		require.NoError(t, err)
		require.False(t, rep.OK)
		require.NotEmpty(t, rep.Damaged)
		require.Equal(t, hole, rep.Damaged[0].Object)
		require.False(t, rep.Damaged[0].Mendable)
		require.Equal(t, before, names(t, st))
	}
}

// A failure of the store is no damage: the error says what failed, so that the caller can try again.
func TestFailureIsNotDamage(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	st := memstore.New(nil)
	id := mustBackup(t, newRepository(t, st, &repo.InitOptions{BlockSize: testBlock}), "vm", disk(1), nil)
	faulty := storetest.NewFaulty(st)
	r := reopen(t, faulty)
	for _, prefix := range []string{"", "data/", "meta/", "manifest/", "copy"} {
		faulty.Heal()
		faulty.Add(storetest.Fault{Prefix: prefix, N: 1, Sticky: true})
		if prefix == "copy" {
			faulty.Add(storetest.Fault{Prefix: "manifest/", N: 1, Sticky: true})
		}
		err := same(ctx, r, id, disk(1))
		if prefix == "manifest/" {
			require.NoError(t, err, "there are two more")
			continue
		}
		require.ErrorIs(t, err, storetest.ErrInjected, prefix)
		var corrupt *repo.ErrCorrupt
		require.False(t, errors.As(err, &corrupt), "%s: %v", prefix, err)
		faulty.Heal()
		requireSame(t, r, id, disk(1))
	}
	// And what only failed once is not taken for damaged ever after.
	second := mustBackup(t, r, "vm", disk(1), nil)
	p, err := r.Resolve(ctx, second)
	require.NoError(t, err)
	require.Zero(t, p.New)
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	_, err = repo.Open(cancelled, st, testKey, openOptions(t))
	require.ErrorIs(t, err, context.Canceled)
}

// Content that is damaged in one pack and whole in another is had from there, also by a process that starts anew, and
// verify says that nothing is lost.
func TestAnotherCopyOfABlock(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	st := memstore.New(nil)
	r := newRepository(t, st, &repo.InitOptions{BlockSize: testBlock})
	first := mustBackup(t, r, "vm", disk(1), nil)
	for _, name := range append(named(t, st, "data/"), named(t, st, "meta/")...) {
		st.Set(name, make([]byte, len(read(t, st, name))))
	}
	damaged := reopen(t, st)
	require.Error(t, same(ctx, damaged, first, disk(1)))
	_, err := damaged.Verify(ctx, &repo.VerifyOptions{DataPercent: 100})
	require.NoError(t, err)
	second := mustBackup(t, damaged, "vm", disk(1), nil)
	for range 8 { // whatever order the index is loaded in
		later := reopen(t, st)
		requireSame(t, later, first, disk(1))
		requireSame(t, later, second, disk(1))
		rep, err := later.Verify(ctx, &repo.VerifyOptions{DataPercent: 100})
		require.NoError(t, err)
		require.False(t, rep.OK)
		require.Empty(t, rep.Affected)
		b, err := later.OpenBlob(ctx, first, "config")
		require.NoError(t, err)
		got, err := io.ReadAll(b)
		require.NoError(t, err)
		require.Equal(t, "vm", string(got))
	}
}

// A pack that lost its content while the index still names it is not deduplicated against (hazards H28, H39).
func TestEmptyPackIsNotReused(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for _, keep := range []int{0, 4096, 1 << 17} {
		st := memstore.New(nil)
		r := newRepository(t, st, &repo.InitOptions{BlockSize: testBlock})
		mustBackup(t, r, "vm", disk(1), nil)
		for _, name := range append(named(t, st, "data/"), named(t, st, "meta/")...) {
			b := read(t, st, name)
			st.Set(name, b[:min(keep, len(b)/2)])
		}
		damaged := reopen(t, st)
		second := mustBackup(t, damaged, "vm", disk(1), nil)
		requireSame(t, damaged, second, disk(1))
		requireSame(t, reopen(t, st), second, disk(1))
		_ = ctx
	}
}

// An increment does not refer to what its base has lost: it fails, with what is missing, instead of committing a point
// that cannot be restored.
func TestDamagedBase(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for _, prefix := range []string{"data/", "meta/"} {
		for _, how := range []string{"lost", "empty"} {
			st := memstore.New(nil)
			r := newRepository(t, st, &repo.InitOptions{BlockSize: testBlock})
			first := mustBackup(t, r, "vm", disk(1), nil)
			for _, name := range named(t, st, prefix) {
				if how == "lost" {
					require.NoError(t, st.Remove(ctx, name))
				} else {
					st.Set(name, nil)
				}
			}
			damaged := reopen(t, st)
			_, d := begin(t, damaged, disk(1).Size(), &pipe.PointOptions{Base: first})
			err := d.Mark(ctx, pipe.Extent{Len: d.Size(), Kind: pipe.Unchanged})
			if err == nil {
				err = d.Commit(ctx)
			}
			var corrupt *repo.ErrCorrupt
			require.ErrorAs(t, err, &corrupt, "%s %s", prefix, how)
		}
	}
}

// A mark file that a crash or a person emptied costs the memory of what was seen, not the repository.
func TestTornState(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	st := memstore.New(nil)
	state := t.TempDir()
	var warned []string
	opts := &repo.OpenOptions{StateDir: state, CacheDir: t.TempDir(), Warn: func(s string) { warned = append(warned, s) }}
	r, err := repo.Init(ctx, st, testKey, &repo.InitOptions{BlockSize: testBlock}, opts)
	require.NoError(t, err)
	mustBackup(t, r, "vm", disk(1), nil)
	require.NoError(t, r.Close())
	for _, file := range []string{"mark", "key"} {
		path := filepath.Join(state, "repositories", r.ID(), file)
		for _, content := range []string{"", "{", "\x00\x00\x00", "{}"} {
			require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
			warned = nil
			r, err := repo.Open(ctx, st, testKey, opts)
			require.NoError(t, err)
			rep, err := r.Verify(ctx, nil)
			require.NoError(t, err)
			if file == "mark" {
				require.Contains(t, strings.Join(rep.Notes, "\n"), "unproven")
			}
			mustBackup(t, r, "vm", disk(2), nil)
			require.Contains(t, strings.Join(warned, "\n"), path)
			require.NoError(t, r.Close())
		}
	}
}

// Of two processes that share a state folder the one that has seen less does not take back what the other has seen.
func TestMarkNeverGoesBack(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	st := memstore.New(nil)
	opts := &repo.OpenOptions{StateDir: t.TempDir(), CacheDir: t.TempDir()}
	a, err := repo.Init(ctx, st, testKey, &repo.InitOptions{BlockSize: testBlock}, opts)
	require.NoError(t, err)
	defer a.Close()
	old := st.Clone()
	b, err := repo.Open(ctx, old, testKey, opts) // the same repository, as it was
	require.NoError(t, err)
	defer b.Close()
	for i := range 3 {
		mustBackup(t, a, "vm", disk(uint64(i)), nil)
	}
	mustBackup(t, b, "vm", disk(9), nil)
	again, err := repo.Open(ctx, old, testKey, opts)
	require.NoError(t, err)
	defer again.Close()
	_, err = backup(ctx, again, "vm", disk(3), nil)
	var rollback *repo.ErrRollback
	require.ErrorAs(t, err, &rollback)
}

// No way of printing a secret shows it.
func TestSecretsDoNotPrint(t *testing.T) {
	t.Parallel()
	const identity = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX"
	age, err := repo.AgeIdentities(strings.NewReader(identity + "\n"))
	require.NoError(t, err)
	key := repo.KeyFile([32]byte{201, 202, 203})
	for _, s := range []repo.Secret{repo.Passphrase("correct horse"), age, key} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%T%v"} {
			for _, v := range []any{s, struct{ S repo.Secret }{s}, []repo.Secret{s}} {
				out := strings.ToLower(fmt.Sprintf(verb, v))
				for _, leak := range []string{"correct", "636f7272", "gfpyy", "201", "c9 ", "c9ca", "0xc9", "311"} {
					require.NotContains(t, out, leak, verb)
				}
			}
		}
	}
}

// Objects that belong to nothing are ignored and told.
func TestForeignObjectsAreTold(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	st := memstore.New(nil)
	r := newRepository(t, st, &repo.InitOptions{BlockSize: testBlock})
	id := mustBackup(t, r, "vm", disk(1), nil)
	pack := read(t, st, named(t, st, "data/")[0])
	foreign := []string{"readme.txt", "data/x", "log/readme", "index/old", "manifest/0", "copy1/notes", "beat/1"}
	for _, name := range foreign {
		st.Set(name, []byte("hello"))
	}
	twin := "data/00000000000000ff/" + named(t, st, "data/0000000000000002/")[0][len("data/0000000000000002/"):]
	st.Set(twin, pack)
	again := reopen(t, st)
	requireSame(t, again, id, disk(1))
	rep, err := again.Verify(ctx, &repo.VerifyOptions{DataPercent: 100})
	require.NoError(t, err)
	notes := strings.Join(rep.Notes, "\n")
	for _, name := range append(foreign, twin) {
		require.Contains(t, notes, name)
	}
	require.True(t, rep.OK, "%+v", rep)
}

// A writer died before it had copied its record: whoever goes on after it completes the copies first, so that no
// record is ever built on one that stands in one place only.
func TestCopiesOfADeadWritersRecord(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	st := memstore.New(nil)
	newRepository(t, st, &repo.InitOptions{BlockSize: testBlock})
	faulty := storetest.NewFaulty(st)
	r := reopen(t, faulty)
	mustBackup(t, r, "vm", disk(1), nil)
	faulty.Add(storetest.Fault{Op: storetest.Create, Prefix: "copy", Sticky: true})
	_, err := r.Begin(ctx, "vm", nil)
	require.Error(t, err)
	faulty.Heal()
	later := reopen(t, st)
	id := mustBackup(t, later, "vm", disk(2), nil)
	rep, err := later.Verify(ctx, nil)
	require.NoError(t, err)
	require.True(t, rep.OK, "%+v", rep.Damaged)
	requireSame(t, later, id, disk(2))
}
