package repo

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
)

// warnings are what a repository told a person.
type warnings struct {
	mu   sync.Mutex
	list []string
}

func (w *warnings) add(s string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = append(w.list, s)
}

func (w *warnings) have(part string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.list, func(s string) bool { return strings.Contains(s, part) })
}

// cachedStore is a store with a few points, and the cache file of its index.
func cachedStore(t *testing.T) (st *memstore.Store, dir, file string) {
	t.Helper()
	st, dir = memstore.New(nil), t.TempDir()
	r := initInner(t, st)
	for seed := range uint64(3) {
		_, err := backupInner(t.Context(), r, seed+1)
		require.NoError(t, err)
	}
	reopen(t, st, dir)
	files := cacheFiles(t, dir)
	require.Len(t, files, 1)
	return st, dir, files[0]
}

func cacheFiles(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "indexes", "*", "*"+cacheSuffix))
	require.NoError(t, err)
	return files
}

// reopen opens a repository in a process of its own, as far as that goes, and gives its index.
func reopen(t *testing.T, st store.Store, dir string) (*Repository, *index, *warnings) {
	t.Helper()
	w := &warnings{}
	r := openInner(t, st, &OpenOptions{CacheDir: dir, Warn: w.add})
	x, err := r.index(t.Context(), scope{})
	require.NoError(t, err)
	return r, x, w
}

// placesIn is what an index says: for each id the packs that hold it.
func placesIn(t *testing.T, x *index) map[pipe.ID][]packRef {
	t.Helper()
	out := map[pipe.ID][]packRef{}
	require.NoError(t, x.each(func(id pipe.ID, _ location) { out[id] = nil }))
	for id := range out {
		require.NoError(t, x.all(id, func(l location) bool {
			out[id] = append(out[id], x.packs[l.pack])
			return true
		}))
		slices.SortFunc(out[id], func(a, b packRef) int { return strings.Compare(a.name(), b.name()) })
	}
	return out
}

// requireSame opens with a cache and without one, and wants the same of both.
func requireSame(t *testing.T, st store.Store, dir string) (*index, *warnings) {
	t.Helper()
	_, with, w := reopen(t, st, dir)
	_, without, _ := reopen(t, st, "")
	require.False(t, without.cached())
	require.Equal(t, placesIn(t, without), placesIn(t, with))
	return with, w
}

// What the second run finds in the cache is what the packs say; what has come since is added to it.
func TestIndexCacheLasts(t *testing.T) {
	t.Parallel()
	st, dir, file := cachedStore(t)
	x, w := requireSame(t, st, dir)
	require.NotNil(t, x.records.base)
	require.Empty(t, w.list)
	_, err := backupInner(t.Context(), openInner(t, st, nil), 9)
	require.NoError(t, err)
	x, _ = requireSame(t, st, dir)
	require.NotNil(t, x.records.base)
	require.Greater(t, x.records.n, x.records.base.records, "only what is new was read")
	require.Equal(t, []string{file}, cacheFiles(t, dir), "a few new packs are worth no new file")
}

// Enough that is new makes a new file, and the old one goes.
func TestIndexCacheIsWrittenAnew(t *testing.T) {
	t.Parallel()
	st, dir, file := cachedStore(t)
	r := openInner(t, st, &OpenOptions{CacheDir: t.TempDir()})
	smallBlocks(t, r, cacheWorthIt+100, func(int) bool { return false })
	_, x, _ := reopen(t, st, dir)
	require.Greater(t, x.records.n, x.records.base.records)
	files := cacheFiles(t, dir)
	require.Len(t, files, 1)
	require.NotEqual(t, file, files[0])
	x, _ = requireSame(t, st, dir)
	require.Equal(t, x.records.n, x.records.base.records)
}

// Whatever byte of a cache is another one, and wherever it ends: it is not believed, nothing of it is used, and it is made anew.
func TestIndexCacheDamaged(t *testing.T) {
	t.Parallel()
	st, dir, file := cachedStore(t)
	good, err := os.ReadFile(file)
	require.NoError(t, err)
	r, _, _ := reopen(t, st, "")
	x, err := newIndex(t.TempDir())
	require.NoError(t, err)
	defer x.close()
	x.trusted = true
	r.opts.CacheDir = dir
	c := r.indexCache(x)
	present, err := r.packsOf(t.Context(), scope{})
	require.NoError(t, err)
	bad := filepath.Join(t.TempDir(), "bad")
	refused := func(b []byte, what string, at int) {
		require.NoError(t, os.WriteFile(bad, b, 0o600))
		_, err := c.loadFile(x, bad, present)
		require.ErrorIs(t, err, errCacheFile, "%s %d", what, at)
		require.Zero(t, x.len())
		require.Empty(t, x.packs)
	}
	few := len(good) - 1000 // the fast tier flips all of the head, of the packs and of the last records, and some between
	for i := range good {
		if i > cacheHead+cacheHeadTag+1000 && i < few && i%61 != 0 && tierOf() == "" {
			continue
		}
		b := slices.Clone(good)
		b[i] ^= 1 << (i % 8)
		refused(b, "flipped", i)
	}
	for n := 0; n < len(good); n += 397 {
		refused(good[:n], "cut at", n)
	}
	refused(append(slices.Clone(good), 0), "longer than", len(good))

	good[len(good)/2] ^= 1
	require.NoError(t, os.WriteFile(file, good, 0o600))
	loaded, w := requireSame(t, st, dir)
	require.Nil(t, loaded.records.base)
	require.True(t, w.have("made anew"))
	loaded, w = requireSame(t, st, dir)
	require.NotNil(t, loaded.records.base)
	require.Empty(t, w.list)
}

// A cache that is changed after it was opened is found at the next look.
func TestIndexCacheChangedUnderneath(t *testing.T) {
	t.Parallel()
	st, dir, file := cachedStore(t)
	_, x, _ := reopen(t, st, dir)
	id := pipe.ID{}
	require.NoError(t, x.each(func(each pipe.ID, _ location) { id = each }))
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	require.NoError(t, err)
	b[x.records.base.parts[sectionRecords].at+40] ^= 1
	_, err = f.WriteAt(b, 0)
	require.NoError(t, errors.Join(err, f.Close()))
	_, _, err = x.lookup(id)
	require.ErrorIs(t, err, errCacheFile)
}

// A cache of another repository, of one with the same blocks, and one that another process is making: none is used.
func TestIndexCacheOfAnother(t *testing.T) {
	t.Parallel()
	st, dir, file := cachedStore(t)
	other, otherDir, otherFile := cachedStore(t)
	foreign, err := os.ReadFile(otherFile)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, foreign, 0o600))
	x, w := requireSame(t, st, dir)
	require.Nil(t, x.records.base)
	require.True(t, w.have("head is of another one"))
	requireSame(t, other, otherDir)

	torn := filepath.Join(filepath.Dir(file), newCachePrefix+"1")
	require.NoError(t, os.WriteFile(torn, foreign[:100], 0o600))
	long := time.Now().Add(-2 * tornAge)
	require.NoError(t, os.Chtimes(torn, long, long))
	_, err = backupInner(t.Context(), openInner(t, st, nil), 10)
	require.NoError(t, err)
	for _, name := range cacheFiles(t, dir) {
		require.NoError(t, os.Remove(name))
	}
	requireSame(t, st, dir)
	require.NoFileExists(t, torn)
}

// A copied repository that has gone its own way, and one of which an older state was put back: the cache is newer than what is
// there, and speaks only for packs that are.
func TestIndexCacheOfAForkAndARollback(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	st, dir, _ := cachedStore(t)
	older := st.Clone()
	r := openInner(t, st, nil)
	_, err := backupInner(ctx, r, 20)
	require.NoError(t, err)
	for _, name := range cacheFiles(t, dir) {
		require.NoError(t, os.Remove(name))
	}
	_, newer, _ := reopen(t, st, dir)
	all := placesIn(t, newer)

	x, _ := requireSame(t, older, dir)
	require.Less(t, len(placesIn(t, x)), len(all))
	require.True(t, x.doubtful())

	_, err = backupInner(ctx, openInner(t, older, nil), 21)
	require.NoError(t, err)
	requireSame(t, older, dir)
	requireSame(t, st, dir)
}

// Content that a prune has removed is stored again, whatever the cache has of it (hazards H01, H35).
func TestIndexCacheBeforeAPrune(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	st, dir := memstore.New(nil), t.TempDir()
	r := initInner(t, st)
	first, err := backupInner(ctx, r, 1)
	require.NoError(t, err)
	_, err = backupInner(ctx, r, 2)
	require.NoError(t, err)
	held, was, _ := reopen(t, st, dir) // a process that goes on
	require.NotEmpty(t, placesIn(t, was))
	forget(t, r, first)
	rep, err := r.Prune(ctx, &PruneOptions{Wait: -1})
	require.NoError(t, err)
	require.Positive(t, rep.Deleted)
	for _, again := range []*Repository{held, openInner(t, st, &OpenOptions{CacheDir: dir})} {
		id, err := backupInner(ctx, again, 1)
		require.NoError(t, err)
		img, err := openInner(t, st, nil).Open(ctx, id, "disk0")
		require.NoError(t, err)
		diff, err := pipe.Compare(ctx, img, pattern(1), nil)
		require.NoError(t, err)
		require.Empty(t, diff)
		require.NoError(t, img.Close())
		forget(t, r, id)
		_, err = r.Prune(ctx, &PruneOptions{Wait: -1})
		require.NoError(t, err)
	}
	requireSame(t, st, dir)
}

// A pack whose file is not as long as it was is asked itself.
func TestIndexCacheOfAPackOfAnotherLength(t *testing.T) {
	t.Parallel()
	st, dir, _ := cachedStore(t)
	r, x, _ := reopen(t, st, dir)
	present, err := r.packsOf(t.Context(), scope{})
	require.NoError(t, err)
	some := x.pack(0)
	present[some]--
	fresh, err := newIndex(t.TempDir())
	require.NoError(t, err)
	defer fresh.close()
	fresh.trusted = true
	require.False(t, r.indexCache(fresh).load(fresh, present))
	require.False(t, fresh.has(some))
	require.Len(t, fresh.packs, len(present)-1)
}

// Several processes at once each find a cache that is right, or none.
func TestIndexCacheShared(t *testing.T) {
	t.Parallel()
	st, dir, file := cachedStore(t)
	require.NoError(t, os.Remove(file))
	_, plain, _ := reopen(t, st, "")
	want := placesIn(t, plain)
	var all sync.WaitGroup
	for range 6 {
		all.Go(func() {
			for n := range 5 {
				r, err := Open(t.Context(), st, innerKey, &OpenOptions{CacheDir: dir})
				if err != nil {
					t.Error(err)
					return
				}
				x, err := r.index(t.Context(), scope{})
				if err != nil || x.len() < len(want) {
					t.Errorf("round %d: %v", n, err)
				}
				if files, _ := filepath.Glob(filepath.Join(dir, "indexes", "*", "*"+cacheSuffix)); n%2 == 1 && len(files) > 0 {
					_ = os.Remove(files[0])
				}
				if err := r.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	requireSame(t, st, dir)
}

// A folder in which nothing can be written: a warning, and everything goes on.
func TestIndexCacheFolderRefuses(t *testing.T) {
	t.Parallel()
	st, _, _ := cachedStore(t)
	dir := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(dir, nil, 0o600)) // no folder can be made there, by root neither
	r, x, w := reopen(t, st, dir)
	require.NotEmpty(t, placesIn(t, x))
	require.True(t, w.have("temporary files is used"))
	require.True(t, w.have("not kept for the next run"))
	_, err := backupInner(t.Context(), r, 30)
	require.NoError(t, err)
}

// The scratch file goes on elsewhere where there is no room for it, and the cache is not written.
func TestIndexCacheFolderIsFull(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("there is no /dev/full here")
	}
	x, err := newIndex(t.TempDir())
	require.NoError(t, err)
	defer x.close()
	x.addPack(packRef{Kind: kindData})
	const n = 3 * tailSize / recordSize
	id := func(i int) pipe.ID { return pipe.ID{byte(i), byte(i >> 8), 2: 1, 9: byte(i), 20: byte(i >> 8)} }
	for i := range n {
		if i == tailSize/recordSize+5 {
			full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
			require.NoError(t, err)
			x.records.file = &fullFile{x.records.file, full}
		}
		require.NoError(t, x.add(id(i), location{ordinal: uint32(i), typ: 1, codec: pipe.S2}))
	}
	require.True(t, x.records.moved)
	for i := range n {
		loc, ok, err := x.lookup(id(i))
		require.NoError(t, err)
		require.True(t, ok)
		require.EqualValues(t, i, loc.ordinal)
	}
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	require.NoError(t, err)
	defer full.Close()
	require.Error(t, writeCache(full, &cacheIdentity{}, x, map[packRef]int64{{Kind: kindData}: 1}))
}

// fullFile can be read, and takes nothing more.
type fullFile struct {
	scratch
	full *os.File
}

func (f *fullFile) WriteAt(b []byte, off int64) (int, error) { return f.full.WriteAt(b, off) }
func (f *fullFile) Close() error                             { return errors.Join(f.full.Close(), f.scratch.Close()) }
