package repo_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/storetest"
)

// enrol makes a key for a write-only client, and takes it through its file.
func enrol(t testing.TB, r *repo.Repository, vms ...string) repo.WriterKey {
	t.Helper()
	made, err := r.EnrolWriter(t.Context(), vms)
	require.NoError(t, err)
	text, err := made.MarshalText()
	require.NoError(t, err)
	key, err := repo.ParseWriterKey(text)
	require.NoError(t, err)
	require.Equal(t, made, key)
	return key
}

func openWriter(t testing.TB, st, cache store.Store, key repo.WriterKey) *repo.Repository {
	t.Helper()
	r, err := repo.OpenWriter(t.Context(), st, cache, key, openOptions(t))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

// increment copies only what differs from the base, as a hypervisor's list of changes would say.
func increment(t testing.TB, r *repo.Repository, vm, base string, img pipe.Image, changed pipe.Extent) string {
	t.Helper()
	ctx := t.Context()
	w, err := r.Begin(ctx, vm, &pipe.PointOptions{Base: base})
	require.NoError(t, err)
	defer w.Close()
	d, err := w.Disk(ctx, "disk0", img.Size())
	require.NoError(t, err)
	require.NoError(t, d.(pipe.ExtentTarget).Mark(ctx, pipe.Extent{Len: img.Size(), Kind: pipe.Unchanged}))
	p := make([]byte, changed.Len)
	_, err = img.ReadAt(ctx, p, changed.Off)
	require.NoError(t, err)
	_, err = d.WriteAt(ctx, p, changed.Off)
	require.NoError(t, err)
	require.NoError(t, d.Commit(ctx))
	id, err := w.Commit(ctx, nil)
	require.NoError(t, err)
	return id
}

// changedDisk is disk(seed) with one range of it from disk(other).
func changedDisk(t testing.TB, seed, other uint64, e pipe.Extent) pipe.Image {
	t.Helper()
	b := make([]byte, disk(seed).Size())
	_, err := disk(seed).ReadAt(t.Context(), b, 0)
	require.NoError(t, err)
	_, err = disk(other).ReadAt(t.Context(), b[e.Off:e.End()], e.Off)
	require.NoError(t, err)
	return pipetest.Bytes(b)
}

// DESIGN §6 and §7: a write-only client adds points, builds an increment on what its cache has, and sends a full
// without it; who opens a slot restores them all, and verifies every byte of them.
func TestWriteOnlyClient(t *testing.T) {
	for name, opts := range map[string]*repo.InitOptions{
		"encrypted": {BlockSize: testBlock},
		"clear":     {BlockSize: testBlock, NoEncryption: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st, cache := memstore.New(nil), memstore.New(nil)
			full := newRepository(t, st, opts)
			secret := testKey
			if opts.NoEncryption {
				secret = nil
			}
			others := mustBackup(t, full, "db", disk(1), nil)
			key := enrol(t, full, "web", "web2")

			w := openWriter(t, st, cache, key)
			first := mustBackup(t, w, "web", disk(1), nil)
			require.Equal(t, []string{first}, pointsOf(t, w))
			require.NoError(t, w.Close())

			w = openWriter(t, st, cache, key) // another process, with the same cache
			require.Equal(t, []string{first}, pointsOf(t, w))
			change := pipe.Extent{Off: 6 * testBlock, Len: testBlock}
			second := increment(t, w, "web", first, changedDisk(t, 1, 2, change), change)
			p, err := w.Resolve(t.Context(), second)
			require.NoError(t, err)
			require.Less(t, p.New, int64(2*testBlock), "an increment")
			same1 := mustBackup(t, w, "web2", disk(1), nil) // the same blocks again, of another VM: the cache knows them
			p, err = w.Resolve(t.Context(), "web2@latest")
			require.NoError(t, err)
			require.Less(t, p.New, int64(testBlock))

			bare := openWriter(t, st, memstore.New(nil), key) // the cache is lost
			require.Empty(t, pointsOf(t, bare))
			third := mustBackup(t, bare, "web", disk(3), nil)

			reader, err := repo.Open(t.Context(), st, secret, openOptions(t))
			require.NoError(t, err)
			defer reader.Close()
			require.Equal(t, []string{others, first, second, same1, third}, pointsOf(t, reader))
			requireSame(t, reader, first, disk(1))
			requireSame(t, reader, second, changedDisk(t, 1, 2, change))
			requireSame(t, reader, same1, disk(1))
			requireSame(t, reader, third, disk(3))
			requireSame(t, reader, others, disk(1))
			blob, err := reader.OpenBlob(t.Context(), first, "config")
			require.NoError(t, err)
			var b bytes.Buffer
			_, err = b.ReadFrom(blob)
			require.NoError(t, err)
			require.Equal(t, "web", b.String())
			rep, err := reader.Verify(t.Context(), &repo.VerifyOptions{DataPercent: 100})
			require.NoError(t, err)
			require.True(t, rep.OK, "%+v", rep)
			stats, err := reader.Stats(t.Context())
			require.NoError(t, err)
			require.Equal(t, 5, stats.Points)
			_, err = backup(t.Context(), reader, "web", disk(1), &pipe.PointOptions{Base: first})
			require.ErrorIs(t, err, repo.ErrNoBase, "whoever opens a slot names blocks otherwise")
			again := mustBackup(t, reader, "web", disk(1), nil)
			requireSame(t, reader, again, disk(1))
		})
	}
}

// What a write-only client may not do it is told before anything goes anywhere.
func TestWriteOnlyClientIsRefused(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	full := newRepository(t, st, &repo.InitOptions{BlockSize: testBlock})
	theirs := mustBackup(t, full, "db", disk(1), nil)
	key := enrol(t, full, "web")
	cache := memstore.New(nil)
	w := openWriter(t, st, cache, key)
	mine := mustBackup(t, w, "web", disk(1), nil)
	before := st.Clone()

	_, err := w.Begin(ctx, "db", nil)
	require.ErrorIs(t, err, fs.ErrPermission)
	img, err := w.Open(ctx, mine, "disk0")
	require.NoError(t, err)
	data := int64(0)
	for e, err := range img.(pipe.ExtentImage).Extents(ctx, 0, img.Size()) {
		require.NoError(t, err)
		if e.Kind == pipe.Data {
			data += e.Len
		}
	}
	info, err := w.Resolve(ctx, mine)
	require.NoError(t, err)
	require.Equal(t, info.Disks[0].Data, data, "where data is it knows, for increments")
	require.NotZero(t, data)
	_, err = img.ReadAt(ctx, make([]byte, testBlock), 0)
	require.ErrorIs(t, err, fs.ErrPermission)
	_, err = img.ReadAt(ctx, make([]byte, 10), 100)
	require.ErrorIs(t, err, fs.ErrPermission)
	require.NoError(t, img.Close())
	_, err = w.Open(ctx, theirs, "disk0")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = w.OpenBlob(ctx, mine, "config")
	require.ErrorIs(t, err, fs.ErrPermission)
	_, err = w.Verify(ctx, nil)
	require.ErrorIs(t, err, fs.ErrPermission)
	_, err = w.Stats(ctx)
	require.ErrorIs(t, err, fs.ErrPermission)
	_, err = w.EnrolWriter(ctx, []string{"db"})
	require.ErrorIs(t, err, fs.ErrPermission)
	_, err = w.Begin(ctx, "web", &pipe.PointOptions{Base: theirs})
	require.ErrorIs(t, err, fs.ErrNotExist)
	requireStoresEqual(t, before, st)

	for _, vms := range [][]string{nil, {""}, {"a", "a"}, make([]string, 1025)} {
		_, err = full.EnrolWriter(ctx, vms)
		require.ErrorIs(t, err, fs.ErrInvalid)
	}
	requireStoresEqual(t, before, st)

	other := newRepository(t, memstore.New(nil), &repo.InitOptions{BlockSize: testBlock})
	foreign := enrol(t, other, "web")
	_, err = repo.OpenWriter(ctx, st, memstore.New(nil), foreign, openOptions(t))
	require.ErrorIs(t, err, repo.ErrSecret, "another repository's header")
	_, err = repo.OpenWriter(ctx, st, cache, enrol(t, full, "web"), openOptions(t))
	require.ErrorContains(t, err, "another repository or key")
}

// What a write-only client stores, it cannot open by itself: neither its blocks, nor anything of others. Its key's
// file shows what it must, and no format prints it.
func TestWriterKeyIsASecret(t *testing.T) {
	st := memstore.New(nil)
	full := newRepository(t, st, &repo.InitOptions{BlockSize: testBlock})
	key := enrol(t, full, "web", "db")
	require.Equal(t, full.ID(), key.Repository())
	require.Equal(t, []string{"web", "db"}, key.VMs())
	text, err := key.MarshalText()
	require.NoError(t, err)
	for _, f := range []string{"%v", "%+v", "%s", "%#v", "%x", "%q"} {
		require.Equal(t, "(secret)", fmt.Sprintf(f, key))
	}
	for _, bad := range []string{
		"", "{}", "null", string(text[:len(text)-2]), string(text) + " {}", strings.Replace(string(text), `"format":1`, `"format":2`, 1),
		strings.Replace(string(text), `"web"`, `"db"`, 1), strings.Replace(string(text), `"vms":`, `"other":`, 1),
	} {
		_, err := repo.ParseWriterKey([]byte(bad))
		require.Error(t, err, "%q", bad)
	}
}

// The cache is damaged or loses objects, one after the other: the next backup works, whole or as an increment, whichever
// the cache still gives, and what it makes restores to the byte.
func TestDamagedWriterCache(t *testing.T) {
	ctx := t.Context()
	st, cache := memstore.New(nil), memstore.New(nil)
	full := newRepository(t, st, &repo.InitOptions{BlockSize: testBlock})
	key := enrol(t, full, "web")
	w := openWriter(t, st, cache, key)
	first := mustBackup(t, w, "web", disk(1), nil)
	require.NoError(t, w.Close())
	increments, fulls := 0, 0
	for _, name := range names(t, cache) {
		for _, harm := range []string{"gone", "flipped", "cut"} {
			st, cache := st.Clone(), cache.Clone()
			data, err := store.ReadAll(ctx, cache, name, 1<<30)
			require.NoError(t, err)
			switch harm {
			case "gone":
				data = nil
			case "flipped":
				data = bytes.Clone(data)
				for i := range data {
					data[i] ^= 0x55
				}
			case "cut":
				data = data[:len(data)/2]
			}
			cache.Set(name, data)
			w, err := repo.OpenWriter(ctx, st, cache, key, openOptions(t))
			if name == "owner" && harm != "gone" {
				require.Error(t, err)
				continue
			}
			require.NoError(t, err)
			change, based := pipe.Extent{Off: testBlock, Len: testBlock}, false
			if known := pointsOf(t, w); len(known) > 0 {
				base, err := w.Open(ctx, known[0], "disk0") // as job does before it builds on it
				if based = err == nil; based {
					require.NoError(t, base.Close())
				}
			}
			id := ""
			if based {
				increments++
				id = increment(t, w, "web", first, changedDisk(t, 1, 2, change), change)
			} else {
				fulls++
				id = mustBackup(t, w, "web", changedDisk(t, 1, 2, change), nil)
			}
			require.NoError(t, w.Close())
			reader := reopen(t, st)
			requireSame(t, reader, id, changedDisk(t, 1, 2, change))
			requireSame(t, reader, first, disk(1))
		}
	}
	require.NotZero(t, increments)
	require.NotZero(t, fulls)
}

// requireStoresEqual compares two stores byte by byte.
func requireStoresEqual(t testing.TB, want, got store.Store) {
	t.Helper()
	ctx := t.Context()
	a, err := storetest.Collect(want.List(ctx, ""))
	require.NoError(t, err)
	b, err := storetest.Collect(got.List(ctx, ""))
	require.NoError(t, err)
	require.Equal(t, a, b)
	for name := range a {
		x, err := store.ReadAll(ctx, want, name, 1<<30)
		require.NoError(t, err)
		y, err := store.ReadAll(ctx, got, name, 1<<30)
		require.NoError(t, err)
		require.True(t, bytes.Equal(x, y), name)
	}
}

// Fail every call that a write-only client's incremental backup makes afar, once, before and after it took effect: the
// points that were there restore, a point is listed only if it was reported or its answer was lost, and the next run
// works without any help (laws a, c, e).
func TestEveryCallOfAWriterFails(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	origin, cached := memstore.New(nil), memstore.New(nil)
	full := newRepository(t, origin, &repo.InitOptions{BlockSize: testBlock})
	key := enrol(t, full, "web")
	w := openWriter(t, origin, cached, key)
	first := mustBackup(t, w, "web", disk(1), nil)
	require.NoError(t, w.Close())
	step := 1
	if tier := os.Getenv("HIKAE_TEST_TIER"); tier != "long" && tier != "release" {
		step = 5
	}
	for _, mode := range []storetest.Mode{storetest.Before, storetest.After} {
		for n := 1 + rand.IntN(step); ; n += step {
			st, cache := origin.Clone(), cached.Clone()
			faulty := storetest.NewFaulty(st, storetest.Fault{Op: storetest.Any, N: n, Mode: mode})
			id, err := func() (string, error) {
				r, err := repo.OpenWriter(ctx, faulty, cache, key, openOptions(t))
				if err != nil {
					return "", err
				}
				defer r.Close()
				return backup(ctx, r, "web", disk(2), &pipe.PointOptions{Base: first})
			}()
			reader := reopen(t, st)
			ids := pointsOf(t, reader)
			require.Equal(t, first, ids[0], "call %d", n)
			if err == nil {
				require.Equal(t, []string{first, id}, ids, "a point that was reported is listed")
			}
			for i, id := range ids {
				requireSame(t, reader, id, disk(uint64(i+1)))
			}
			next := openWriter(t, st, cache, key)
			third := mustBackup(t, next, "web", disk(3), &pipe.PointOptions{Base: first})
			requireSame(t, reader, third, disk(3))
			if faulty.Fired() == 0 {
				require.Greater(t, n, 25)
				break
			}
		}
	}
}

// On a store that only one may write to, a write-only client waits for nobody and ends nobody's lease.
func TestWriterOnAnUnsharedStore(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(&memstore.Options{Less: store.Abilities{ExclusiveCreate: true}})
	full := newRepository(t, st, &repo.InitOptions{BlockSize: testBlock})
	key := enrol(t, full, "web")
	living, err := full.Begin(ctx, "db", nil)
	require.NoError(t, err)
	w := openWriter(t, st, memstore.New(nil), key)
	_, err = w.Begin(ctx, "web", nil)
	require.ErrorIs(t, err, repo.ErrReadOnly)
	require.NoError(t, living.Close())
	mustBackup(t, w, "web", disk(1), nil)
}

// A write-only client that remembers the log sees that an older state was put back, and writes nothing then.
func TestWriterSeesARollback(t *testing.T) {
	ctx := t.Context()
	st, cache := memstore.New(nil), memstore.New(nil)
	full := newRepository(t, st, &repo.InitOptions{BlockSize: testBlock})
	key := enrol(t, full, "web")
	opts := openOptions(t)
	opts.StateDir = t.TempDir()
	open := func(st store.Store) *repo.Repository {
		r, err := repo.OpenWriter(ctx, st, cache, key, opts)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, r.Close()) })
		return r
	}
	old := st.Clone()
	mustBackup(t, open(st), "web", disk(1), nil)
	_, err := backup(ctx, open(old), "web", disk(2), nil)
	var rollback *repo.ErrRollback
	require.ErrorAs(t, err, &rollback)
}
