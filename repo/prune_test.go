package repo

import (
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
)

// noiseDisk is a disk of that many blocks of which each is told by a number: two disks share what has the same numbers.
func noiseDisk(blocks ...uint64) pipe.Image {
	var parts []byte
	for _, n := range blocks {
		b := make([]byte, minBlockSize)
		if n > 0 {
			rng := rand.New(rand.NewPCG(n, 7))
			for i := 0; i < len(b); i += 8 {
				binary.LittleEndian.PutUint64(b[i:], rng.Uint64())
			}
		}
		parts = append(parts, b...)
	}
	return pipe.FromReaderAt(strings.NewReader(string(parts)), int64(len(parts)))
}

// keepPoint makes a point of a disk.
func keepPoint(ctx context.Context, r *Repository, vm string, img pipe.Image, base string) (string, error) {
	w, err := r.Begin(ctx, vm, &pipe.PointOptions{Base: base})
	if err != nil {
		return "", err
	}
	defer w.Close()
	return writePoint(ctx, w, vm, img)
}

func writePoint(ctx context.Context, w pipe.PointWriter, vm string, img pipe.Image) (string, error) {
	d, err := w.Disk(ctx, "disk0", img.Size())
	if err != nil {
		return "", err
	}
	defer d.Close()
	if _, err := pipe.Copy(ctx, d, img, nil); err != nil {
		return "", err
	}
	if err := d.Commit(ctx); err != nil {
		return "", err
	}
	if err := w.Blob(ctx, "config", strings.NewReader(vm)); err != nil {
		return "", err
	}
	return w.Commit(ctx, nil)
}

func mustPoint(t testing.TB, r *Repository, vm string, img pipe.Image) string {
	t.Helper()
	id, err := keepPoint(t.Context(), r, vm, img, "")
	require.NoError(t, err)
	return id
}

func requireDisk(t testing.TB, r *Repository, point string, want pipe.Image) {
	t.Helper()
	require.NoError(t, sameDisk(t.Context(), r, point, want))
}

func sameDisk(ctx context.Context, r *Repository, point string, want pipe.Image) error {
	img, err := r.Open(ctx, point, "disk0")
	if err != nil {
		return err
	}
	defer img.Close()
	diff, err := pipe.Compare(ctx, img, want, nil)
	if err != nil {
		return err
	}
	if len(diff) > 0 {
		return fmt.Errorf("point %s differs: %+v", point, diff)
	}
	return nil
}

func mustPrune(t testing.TB, r *Repository, opts *PruneOptions) PruneReport {
	t.Helper()
	if opts == nil {
		opts = &PruneOptions{Wait: -1}
	}
	rep, err := r.Prune(t.Context(), opts)
	require.NoError(t, err)
	return rep
}

func requireSound(t testing.TB, r *Repository) VerifyReport {
	t.Helper()
	rep, err := r.Verify(t.Context(), &VerifyOptions{DataPercent: 100})
	require.NoError(t, err)
	require.True(t, rep.OK, "%+v", rep)
	return rep
}

func countOf(t testing.TB, st store.Store, prefix string) (n int) {
	t.Helper()
	for _, err := range st.List(t.Context(), prefix) {
		require.NoError(t, err)
		n++
	}
	return n
}

func seq(from, to uint64) (list []uint64) {
	for n := from; n < to; n++ {
		list = append(list, n)
	}
	return list
}

// What only forgotten points needed is gone, with their manifests and the caches; all else restores, by any client.
func TestPruneRemovesWhatNobodyNeeds(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := smallPacks(t, st)
	a := mustPoint(t, r, "a", noiseDisk(seq(1, 20)...))
	b := mustPoint(t, r, "b", noiseDisk(seq(100, 120)...))
	require.NoError(t, r.Forget(ctx, []string{a}, ""))
	dry := mustPrune(t, r, &PruneOptions{DryRun: true})
	before := countOf(t, st, "data/")
	rep := mustPrune(t, r, nil)
	require.Positive(t, rep.Freed)
	require.Equal(t, dry.Repacked, rep.Repacked)
	require.Zero(t, rep.Deferred)
	require.Less(t, countOf(t, st, "data/"), before)
	require.Equal(t, 1, countOf(t, st, "manifest/"))
	require.Equal(t, 1, countOf(t, st, "copy2/manifest/"))
	require.Equal(t, 1, countOf(t, st, "index/"))
	require.Zero(t, countOf(t, st, "beat/"))
	for _, c := range []*Repository{r, openInner(t, st, nil)} {
		requireDisk(t, c, b, noiseDisk(seq(100, 120)...))
		require.Zero(t, requireSound(t, c).Reclaimable)
	}
	c := mustPoint(t, r, "a", noiseDisk(seq(1, 20)...)) // nothing refers to what is gone
	requireDisk(t, r, c, noiseDisk(seq(1, 20)...))
	requireSound(t, openInner(t, st, nil))
	require.Zero(t, mustPrune(t, r, nil).Deleted)
}

// Packs that are needed in part are written anew, until no more dead weight is left than was asked for.
func TestPruneRepacks(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := smallPacks(t, st)
	all := seq(1, 61)
	a := mustPoint(t, r, "vm", noiseDisk(all...))
	kept := make([]uint64, len(all))
	for i, n := range all {
		if i%3 == 0 {
			kept[i] = n
		}
	}
	b := mustPoint(t, r, "vm", noiseDisk(kept...))
	require.NoError(t, r.Forget(ctx, []string{a}, ""))
	lazy := mustPrune(t, r, &PruneOptions{MaxUnused: -1, Wait: -1})
	require.Zero(t, lazy.Repacked)
	require.Greater(t, lazy.Unused, lazy.KeptBytes/2)
	dry := mustPrune(t, r, &PruneOptions{DryRun: true})
	rep := mustPrune(t, r, nil)
	require.Positive(t, rep.Repacked)
	require.Equal(t, rep.Repacked, dry.Repacked, "what is told beforehand is what happens")
	require.InEpsilon(t, rep.Freed, dry.Freed, 0.2)
	require.InEpsilon(t, rep.Written, dry.Written, 0.2)
	require.LessOrEqual(t, float64(rep.Unused), 0.05*float64(rep.KeptBytes))
	require.Less(t, rep.KeptBytes, lazy.KeptBytes/2)
	for _, c := range []*Repository{r, openInner(t, st, nil)} {
		requireDisk(t, c, b, noiseDisk(kept...))
		requireSound(t, c)
	}
}

func tierOf() string { return os.Getenv("HIKAE_TEST_TIER") }

// A prune, and the forgetting before it, work on a store without a free byte (RELIABILITY 1.3, bar 6).
func TestPruneOfAFullStore(t *testing.T) {
	ctx := t.Context()
	for _, free := range []int64{0, 1, 5000, 40_000} {
		origin := memstore.New(nil)
		r := smallPacks(t, origin)
		var ids []string
		for n := range uint64(20) {
			ids = append(ids, mustPoint(t, r, "vm", noiseDisk(seq(1+n*5, 10+n*5)...)))
		}
		used := int64(0)
		for info, err := range origin.List(ctx, "") {
			require.NoError(t, err)
			used += info.Size
		}
		st := memstore.New(&memstore.Options{Capacity: used + free})
		for info := range origin.List(ctx, "") {
			b, err := store.ReadAll(ctx, origin, info.Name, info.Size)
			require.NoError(t, err)
			require.NoError(t, st.Create(ctx, info.Name, b))
		}
		full := openInner(t, st, &OpenOptions{Warn: func(s string) { t.Log(s) }})
		_, err := keepPoint(ctx, full, "vm", noiseDisk(seq(500, 600)...), "")
		require.ErrorIs(t, err, memstore.ErrFull)
		require.NoError(t, full.Forget(ctx, ids[:19], ""))
		rep := mustPrune(t, full, nil)
		require.Positive(t, rep.Freed)
		after := openInner(t, st, nil)
		requireDisk(t, after, ids[19], noiseDisk(seq(96, 105)...))
		requireSound(t, after)
		mustPoint(t, after, "vm", noiseDisk(seq(500, 520)...))
	}
}

// The decoder is made once for the process, and hands out what it needs over a channel: made in a bubble of synctest, it would
// be of no use outside.
func init() {
	enc, err := pipe.NewEncoder(pipe.Default, minBlockSize)
	if err != nil {
		panic(err)
	}
	data, codec := enc.Encode(nil, make([]byte, minBlockSize))
	if _, err := pipe.Decode(nil, data, codec, minBlockSize); err != nil {
		panic(err)
	}
}

// What a prune is told has bounds, and what it is not told a default: a few percent that nobody needs are not worth writing packs anew.
func TestPruneOptionsHaveBounds(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := smallPacks(t, st)
	a := mustPoint(t, r, "vm", noiseDisk(seq(1, 121)...))
	mustPoint(t, r, "vm", noiseDisk(seq(1, 118)...))
	require.NoError(t, r.Forget(ctx, []string{a}, ""))
	for _, o := range []PruneOptions{{MaxUnused: math.NaN()}, {MaxUnused: 100.1}, {MaxRepack: -1}, {Rate: -1}} {
		_, err := r.Prune(ctx, &o)
		require.ErrorIs(t, err, fs.ErrInvalid, "%+v", o)
	}
	for _, o := range []*PruneOptions{{DryRun: true}, {MaxUnused: 100, DryRun: true}, {Wait: -1}, {MaxUnused: 100, Wait: -1}} {
		rep := mustPrune(t, r, o)
		require.Zero(t, rep.Repacked, "%+v", o)
		require.Positive(t, rep.Unused, "%+v", o)
		require.Equal(t, o.DryRun, rep.DryRun)
	}
	require.Positive(t, mustPrune(t, r, &PruneOptions{Wait: -1, MaxUnused: 0.1}).Repacked)
}

// A prune beside a session that lives takes none of what the session has made for others to see: heartbeats, index, packs.
func TestPruneLeavesALivingSessionAlone(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := smallPacks(t, st)
	gone := mustPoint(t, r, "vm", noiseDisk(seq(1, 20)...))
	mustPoint(t, r, "vm", noiseDisk(seq(21, 40)...))
	require.NoError(t, r.Forget(ctx, []string{gone}, ""))
	w, err := r.Begin(ctx, "vm", nil)
	require.NoError(t, err)
	defer w.Close()
	lease := w.(Leased).Lease()
	for _, dir := range []string{"beat/", "index/", "anchor/"} { // it may have them at any time
		st.Set(fmt.Sprintf("%s%016x/7", dir, lease), []byte("hers"))
		st.Set(fmt.Sprintf("%s%016x/7", dir, lease-1), []byte("left"))
	}
	before := namesUnder(t, st, "")
	rep := mustPrune(t, openInner(t, st, nil), &PruneOptions{Wait: -1})
	require.Positive(t, rep.Deleted+rep.Deferred)
	after := namesUnder(t, st, "")
	for _, name := range before {
		if strings.Contains(name, fmt.Sprintf("/%016x/", lease)) {
			require.Contains(t, after, name)
		}
	}
	require.NotContains(t, after, fmt.Sprintf("beat/%016x/7", lease-1))
}
