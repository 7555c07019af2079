package repo_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/storetest"
)

// tier is which figures a test has: fast, long or release.
func tier() string { return os.Getenv("HIKAE_TEST_TIER") }

// sampled is how many of the release tier's cases a run takes.
func sampled(fast, long, release int) int {
	switch tier() {
	case "release":
		return release
	case "long":
		return long
	}
	return fast
}

// seeded is a source of chance whose seed is told.
func seeded(t testing.TB) *rand.Rand {
	seed := rand.Uint64()
	t.Log("seed", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// golden is a small repository with two points, of which the second shares most with the first.
type golden struct {
	st     *memstore.Store
	points map[string]pipe.Image
}

func newGolden(t testing.TB, opts *repo.InitOptions) *golden {
	t.Helper()
	g := &golden{st: memstore.New(nil), points: map[string]pipe.Image{}}
	r := newRepository(t, g.st, opts)
	first := mustBackup(t, r, "vm", disk(1), nil)
	second := mustBackup(t, r, "vm", disk(2), &pipe.PointOptions{Base: first})
	g.points[first], g.points[second] = disk(1), disk(2)
	return g
}

// requireWhole checks that everything restores, and that a client that comes anew finds nothing wrong.
func (g *golden) requireWhole(t testing.TB, st store.Store, about ...any) {
	t.Helper()
	r, err := repo.Open(t.Context(), st, testKey, openOptions(t))
	require.NoError(t, err, about...)
	defer r.Close()
	rep, err := r.Verify(t.Context(), &repo.VerifyOptions{DataPercent: 100})
	require.NoError(t, err, about...)
	require.True(t, rep.OK, "%v: %+v", about, rep)
	for id, img := range g.points {
		require.NoError(t, same(t.Context(), r, id, img), about...)
	}
}

// mended repairs a store and holds the report against what there is.
func (g *golden) mended(t testing.TB, st store.Store, opts *repo.RepairOptions, about ...any) repo.RepairReport {
	t.Helper()
	r, err := repo.Open(t.Context(), st, testKey, openOptions(t))
	require.NoError(t, err, about...)
	defer r.Close()
	rep, err := r.Repair(t.Context(), opts)
	require.NoError(t, err, about...)
	require.True(t, rep.OK, "%v: %+v", about, rep)
	return rep
}

// Bar 9: every byte of every file of a small repository is flipped in turn: found every time, repaired every time, and
// what is restored after that is right. The fast tier takes a sample.
func TestRepairOfEveryByte(t *testing.T) {
	t.Parallel()
	g := newGolden(t, &repo.InitOptions{BlockSize: testBlock})
	rnd := seeded(t)
	all := names(t, g.st)
	flips := func(name string, at int) {
		b := read(t, g.st, name)
		b[at] ^= 1 << rnd.IntN(8)
		st := g.st.Clone()
		st.Set(name, b)
		rep := g.mended(t, st, nil, name, at)
		require.NotEmpty(t, rep.Found, "%s at %d", name, at)
		g.requireWhole(t, st, name, at)
	}
	for range sampled(40, 2_000, 20_000) {
		name := all[rnd.IntN(len(all))]
		flips(name, rnd.IntN(len(read(t, g.st, name))))
	}
}

// Bar 13: any single file is lost: all comes back but what stood in a pack, of which the list is exact, and the rest
// restores.
func TestRepairOfLostFiles(t *testing.T) {
	t.Parallel()
	g := newGolden(t, &repo.InitOptions{BlockSize: testBlock})
	for _, name := range names(t, g.st) {
		st := g.st.Clone()
		require.NoError(t, st.Remove(t.Context(), name))
		if !strings.HasPrefix(name, "data/") && !strings.HasPrefix(name, "meta/") {
			g.mended(t, st, nil, name)
			g.requireWhole(t, st, name)
			continue
		}
		g.requireExact(t, st, name)
	}
}

// requireExact repairs what cannot be repaired wholly, and checks that what the report calls lost is lost, and nothing else.
func (g *golden) requireExact(t testing.TB, st store.Store, about ...any) repo.RepairReport {
	t.Helper()
	r, err := repo.Open(t.Context(), st, testKey, openOptions(t))
	require.NoError(t, err, about...)
	defer r.Close()
	rep, err := r.Repair(t.Context(), nil)
	require.NoError(t, err, about...)
	require.False(t, rep.OK, "%v: %+v", about, rep)
	require.NotEmpty(t, rep.Affected, about...)
	for id, want := range g.points {
		g.requireHoles(t, r, id, want, rep.Affected, about...)
	}
	return rep
}

func (g *golden) requireHoles(t testing.TB, r *repo.Repository, id string, want pipe.Image, affected []repo.Affected, about ...any) {
	t.Helper()
	img, err := r.Open(t.Context(), id, "disk0")
	require.NoError(t, err, about...)
	defer img.Close()
	a, b := make([]byte, testBlock), make([]byte, testBlock)
	for off := int64(0); off < img.Size(); off += testBlock {
		n := min(testBlock, img.Size()-off)
		lost := slices.ContainsFunc(affected, func(x repo.Affected) bool {
			return x.Point == id && x.Disk == "disk0" && x.Offset <= off && off < x.Offset+x.Length
		})
		_, err := img.ReadAt(t.Context(), a[:n], off)
		if lost {
			require.Error(t, err, "%v: %s at %d", about, id, off)
			continue
		}
		require.NoError(t, err, "%v: %s at %d", about, id, off)
		_, err = want.ReadAt(t.Context(), b[:n], off)
		require.NoError(t, err)
		require.Equal(t, b[:n], a[:n], "%v: %s at %d", about, id, off)
	}
}

// Bar 11: holes of 512 bytes, 4 KiB and 64 KiB, and as much as the parity allows in any pattern, are repaired wherever
// they are.
func TestRepairOfHoles(t *testing.T) {
	t.Parallel()
	g := newGolden(t, &repo.InitOptions{BlockSize: testBlock, ParityPermille: 100})
	rnd := seeded(t)
	packs := slices.Concat(named(t, g.st, "data/"), named(t, g.st, "meta/"))
	for i := range sampled(12, 200, 1_000) {
		name := packs[rnd.IntN(len(packs))]
		b := read(t, g.st, name)
		budget := budgetOf(len(b), 100)
		switch i % 4 {
		case 3: // the whole budget, in any pattern
			for _, c := range rnd.Perm(len(b) / 4096)[:budget] {
				fill(rnd, b[c*4096:(c+1)*4096])
			}
		default:
			n := []int{512, 4096, 64 << 10}[i%4]
			n = min(n, budget*4096) // small packs have no budget for the longest
			at := rnd.IntN((len(b)-n)/n+1) * n
			clear(b[at : at+n])
		}
		if string(b) == string(read(t, g.st, name)) {
			continue
		}
		st := g.st.Clone()
		st.Set(name, b)
		rep := g.mended(t, st, nil, name)
		require.NotEmpty(t, rep.Found)
		require.Equal(t, []string{name}, rep.Spent)
		g.requireWhole(t, st, name)
	}
}

// budgetOf is how many cells of a file of that length its parity gives back.
func budgetOf(file, permille int) (m int) {
	cells := file / 4096
	for n := 1; n < cells; n++ {
		if m = max(2, (n*permille+999)/1000); n+m == cells {
			return m
		}
	}
	return 0
}

func fill(rnd *rand.Rand, p []byte) {
	for i := range p {
		p[i] = byte(rnd.Uint32())
	}
}

// A pack that is lost comes back from another repository with the same id key, pages included, and from the live disk.
func TestRepairFromElsewhere(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	g := newGolden(t, &repo.InitOptions{BlockSize: testBlock})
	origin := reopen(t, g.st)
	second, err := repo.Init(ctx, memstore.New(nil), testKey, &repo.InitOptions{CopyFrom: origin}, openOptions(t))
	require.NoError(t, err)
	defer second.Close()
	for _, img := range g.points {
		mustBackup(t, second, "vm", img, nil)
	}
	for _, name := range slices.Concat(named(t, g.st, "data/"), named(t, g.st, "meta/")) {
		st := g.st.Clone()
		require.NoError(t, st.Remove(ctx, name))
		dry := reopen(t, st)
		before := names(t, st)
		rep, err := dry.Repair(ctx, &repo.RepairOptions{DryRun: true, From: []*repo.Repository{second}})
		require.NoError(t, err)
		require.False(t, rep.OK)
		require.NotZero(t, rep.Fetched)
		require.Equal(t, before, names(t, st), "nothing is written by a dry run")
		rep = g.mended(t, st, &repo.RepairOptions{From: []*repo.Repository{second}}, name)
		require.NotZero(t, rep.Fetched)
		require.Equal(t, []string{name}, rep.Repaired)
		g.requireWhole(t, st, name)
	}
	stranger := newRepository(t, memstore.New(nil), &repo.InitOptions{BlockSize: testBlock})
	_, err = origin.Repair(ctx, &repo.RepairOptions{From: []*repo.Repository{stranger}})
	require.ErrorIs(t, err, repo.ErrOtherIDs)
}

// live is the disk that was backed up, as it is now: all but one block is what it was.
type live struct {
	img   pipe.Image
	other int64 // block that has changed
	asked int
}

func (l *live) ReadBlock(ctx context.Context, at repo.Place, p []byte) error {
	l.asked++
	if at.Disk != "disk0" || at.VM != "vm" {
		return fs.ErrNotExist
	}
	_, err := l.img.ReadAt(ctx, p, at.Offset)
	if at.Offset == l.other*testBlock {
		p[7]++
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return err
}

// What the live disk still holds comes back from it; what has changed there since is not taken, and stays on the list.
func TestRepairFromTheLiveDisk(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	g := &golden{st: memstore.New(nil), points: map[string]pipe.Image{}}
	r := newRepository(t, g.st, &repo.InitOptions{BlockSize: testBlock})
	g.points[mustBackup(t, r, "vm", disk(1), nil)] = disk(1)
	for _, name := range named(t, g.st, "data/") {
		require.NoError(t, g.st.Remove(ctx, name))
	}
	stats, err := r.Stats(ctx)
	require.NoError(t, err)
	damaged := reopen(t, g.st)
	source := &live{img: disk(1), other: 6}
	rep, err := damaged.Repair(ctx, &repo.RepairOptions{Source: source})
	require.NoError(t, err)
	require.False(t, rep.OK)
	require.EqualValues(t, stats.Blocks-1, rep.Reread)
	require.Len(t, rep.Affected, 1)
	require.Equal(t, repo.Affected{Point: pointsOf(t, r)[0], VM: "vm", Disk: "disk0", Offset: 6 * testBlock, Length: testBlock}, rep.Affected[0])
	for id, img := range g.points {
		g.requireHoles(t, reopen(t, g.st), id, img, rep.Affected)
	}
	source.other = -1
	rep = g.mended(t, g.st, &repo.RepairOptions{Source: source})
	require.EqualValues(t, 1, rep.Reread)
	g.requireWhole(t, g.st)
}

// Hazard H28: what one client has found bad is stored again by every other one when it next appears, also by one that has
// never verified anything, and none refers to the bad place.
func TestBadContentIsKnownToAll(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	st := memstore.New(nil)
	r := newRepository(t, st, &repo.InitOptions{BlockSize: testBlock})
	old := mustBackup(t, r, "vm", disk(1), nil)
	third := reopen(t, st)                           // has the index in memory, and verifies nothing
	requireSame(t, third, old, disk(1))              // from before the damage
	ruin(t, st, named(t, st, "data/")[0], 5*4096, 6) // more cells than the parity mends
	trusting := st.Clone()

	finder := reopen(t, st)
	rep, err := finder.Verify(ctx, &repo.VerifyOptions{DataPercent: 100, Declare: true})
	require.NoError(t, err)
	require.False(t, rep.OK)
	require.NotEmpty(t, rep.Affected)
	records := len(named(t, st, "log/"))
	_, err = finder.Verify(ctx, &repo.VerifyOptions{DataPercent: 100, Declare: true})
	require.NoError(t, err)
	require.Len(t, named(t, st, "log/"), records, "what the log knows is not said again")

	again := mustBackup(t, third, "other", disk(1), nil)
	fresh := reopen(t, st)
	requireSame(t, fresh, again, disk(1))
	requireSame(t, fresh, old, disk(1)) // and with it the old point is whole again
	rep, err = fresh.Verify(ctx, &repo.VerifyOptions{DataPercent: 100})
	require.NoError(t, err)
	require.Empty(t, rep.Affected)

	unaware := reopen(t, trusting) // the same without the record: who does not know refers to what is bad
	id := mustBackup(t, unaware, "other", disk(1), nil)
	require.Error(t, same(ctx, unaware, id, disk(1)), "the test sees the difference")
}

// ruin overwrites cells of an object from a place on.
func ruin(t testing.TB, st *memstore.Store, name string, at, cells int) {
	t.Helper()
	b := read(t, st, name)
	require.Greater(t, len(b), at+cells*4096)
	clear(b[at : at+cells*4096])
	st.Set(name, b)
}

// Bar 10: files cut at any length are found, and all that does not stand in a cut pack comes back.
func TestRepairOfCutFiles(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	g := newGolden(t, &repo.InitOptions{BlockSize: testBlock})
	rnd := seeded(t)
	all := names(t, g.st)
	for range sampled(40, 1_000, 10_000) {
		name := all[rnd.IntN(len(all))]
		b := read(t, g.st, name)
		b = b[:rnd.IntN(len(b))]
		st := g.st.Clone()
		st.Set(name, b)
		r, err := repo.Open(ctx, st, testKey, openOptions(t))
		require.NoError(t, err)
		rep, err := r.Repair(ctx, nil)
		require.NoError(t, err)
		require.NotEmpty(t, rep.Found, "%s cut at %d", name, len(b))
		require.Equal(t, rep.OK, len(rep.Affected) == 0 && len(rep.Left) == 0)
		if !strings.HasPrefix(name, "data/") && !strings.HasPrefix(name, "meta/") {
			require.True(t, rep.OK, "%s cut at %d: %+v", name, len(b), rep)
		}
		for id, want := range g.points {
			g.requireHoles(t, r, id, want, rep.Affected, name, len(b))
		}
		require.NoError(t, r.Close())
	}
}

// Files that are swapped, stand twice, come from an older state or from another repository, or are empty: each is found,
// nothing wrong is restored, and what can be had from elsewhere comes back (FORMAT.md sections 2 and 3: an object says
// itself what it is).
func TestRepairOfMisplacedFiles(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	g := newGolden(t, &repo.InitOptions{BlockSize: testBlock})
	other := newGolden(t, &repo.InitOptions{BlockSize: testBlock})
	rnd := seeded(t)
	all := names(t, g.st)
	theirs := names(t, other.st)
	for i := range sampled(40, 600, 3_000) {
		name := all[rnd.IntN(len(all))]
		was := read(t, g.st, name)
		st := g.st.Clone()
		what := ""
		switch i % 4 {
		case 0:
			twin := all[rnd.IntN(len(all))]
			what = "swapped with " + twin
			st.Set(name, read(t, g.st, twin))
			st.Set(twin, was)
		case 1:
			twin := all[rnd.IntN(len(all))]
			what = "a copy of " + twin
			st.Set(name, read(t, g.st, twin))
		case 2:
			twin := theirs[rnd.IntN(len(theirs))]
			what = "another repository's " + twin
			st.Set(name, read(t, other.st, twin))
		case 3:
			what = "empty"
			st.Set(name, []byte{})
		}
		if unchanged(t, g.st, st, all) {
			continue
		}
		r, err := repo.Open(ctx, st, testKey, openOptions(t))
		require.NoError(t, err, "%s is %s", name, what)
		rep, err := r.Repair(ctx, nil)
		require.NoError(t, err, "%s is %s", name, what)
		require.NotEmpty(t, rep.Found, "%s is %s", name, what)
		for id, want := range g.points {
			g.requireHoles(t, r, id, want, rep.Affected, name, what)
		}
		require.NoError(t, r.Close())
	}
}

func unchanged(t testing.TB, a, b store.Store, names []string) bool {
	for _, name := range names {
		if string(read(t, a, name)) != string(read(t, b, name)) {
			return false
		}
	}
	return true
}

// opaque hides what a store can do besides the five methods.
type opaque struct{ store.Store }

func (o opaque) Probe(ctx context.Context) (store.Abilities, error) {
	p, _ := store.As[store.Prober](o.Store)
	return p.Probe(ctx)
}

// A store that cannot replace an object in one step: everything comes back all the same, but the first place of a log
// record, which is never removed and is read from its copies.
func TestRepairWithoutMending(t *testing.T) {
	t.Parallel()
	g := newGolden(t, &repo.InitOptions{BlockSize: testBlock})
	for _, name := range names(t, g.st) {
		b := read(t, g.st, name)
		b[len(b)/2] ^= 1
		st := g.st.Clone()
		st.Set(name, b)
		r, err := repo.Open(t.Context(), opaque{st}, testKey, openOptions(t))
		require.NoError(t, err)
		rep, err := r.Repair(t.Context(), nil)
		require.NoError(t, err)
		require.NotEmpty(t, rep.Found, name)
		if strings.HasPrefix(name, "log/") {
			require.False(t, rep.OK, name)
			require.Len(t, rep.Left, 1)
			require.True(t, rep.Left[0].Mendable)
			require.Equal(t, b, read(t, st, name), "it was never touched")
		} else {
			require.True(t, rep.OK, "%s: %+v", name, rep)
			g.requireWhole(t, st, name)
		}
		require.NoError(t, r.Close())
	}
}

// A repair that is cut off at any call of the store has made nothing worse, and the next one finishes (hazard H36).
func TestRepairThatIsCutOff(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	g := newGolden(t, &repo.InitOptions{BlockSize: testBlock})
	for _, prefix := range []string{"data/", "meta/", "index/", "header", "manifest/"} {
		b := read(t, g.st, named(t, g.st, prefix)[0])
		b[100] ^= 1
		origin := g.st.Clone()
		origin.Set(named(t, g.st, prefix)[0], b)
		for _, mode := range []storetest.Mode{storetest.Before, storetest.After} {
			for n := 1; ; n += sampled(9, 1, 1) {
				st := origin.Clone()
				faulty := storetest.NewFaulty(st, storetest.Fault{Op: storetest.Create, N: n, Mode: mode, Sticky: true})
				r, err := repo.Open(ctx, faulty, testKey, openOptions(t))
				if err == nil {
					_, _ = r.Repair(ctx, nil)
					_ = r.Close()
				}
				after := reopen(t, st)
				for id, img := range g.points {
					require.NoError(t, same(ctx, after, id, img), "%s, call %d", prefix, n)
				}
				g.mended(t, st, nil, prefix, n)
				g.requireWhole(t, st, prefix, n)
				if faulty.Fired() == 0 {
					break
				}
			}
		}
	}
}

// A prune takes away what a repair has made needless, and nothing else.
func TestPruneAfterRepair(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for i := range 6 {
		g := newGolden(t, &repo.InitOptions{BlockSize: testBlock})
		packs := slices.Concat(named(t, g.st, "data/"), named(t, g.st, "meta/"))
		name := packs[i%len(packs)]
		b := read(t, g.st, name)
		b[len(b)/3] ^= 1
		g.st.Set(name, b)
		rep := g.mended(t, g.st, nil)
		require.Equal(t, []string{name}, rep.Spent)
		r := reopen(t, g.st)
		pruned, err := r.Prune(ctx, nil)
		require.NoError(t, err)
		_, err = g.st.Stat(ctx, name)
		require.ErrorIs(t, err, fs.ErrNotExist, "%d: %s: %+v", i, name, pruned)
		g.requireWhole(t, g.st)
		rep = g.mended(t, g.st, nil)
		require.Empty(t, rep.Found)
		require.Empty(t, rep.Spent)
	}
}

// What the log was told of, and a repair that died right after did not write again, is still had from parity, and a prune
// that comes then keeps it.
func TestPruneOfWhatIsOnlyDeclared(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	g := newGolden(t, &repo.InitOptions{BlockSize: testBlock})
	name := named(t, g.st, "data/")[0]
	b := read(t, g.st, name)
	b[5000] ^= 1
	g.st.Set(name, b)
	leases := len(named(t, g.st, "log/"))
	faulty := storetest.NewFaulty(g.st, storetest.Fault{Op: storetest.Create, Prefix: "data/", N: 1, Sticky: true})
	r, err := repo.Open(ctx, faulty, testKey, openOptions(t))
	require.NoError(t, err)
	_, err = r.Repair(ctx, nil)
	require.ErrorIs(t, err, storetest.ErrInjected)
	require.NoError(t, r.Close())
	require.Greater(t, len(named(t, g.st, "log/")), leases+1, "the log was told")
	next := reopen(t, g.st)
	_, err = next.Prune(ctx, nil)
	require.NoError(t, err)
	for id, img := range g.points {
		requireSame(t, reopen(t, g.st), id, img)
	}
	g.mended(t, g.st, nil)
	g.requireWhole(t, g.st)
}

// Two repairs at once: each does what it finds, and neither harms what the other did.
func TestTwoRepairsAtOnce(t *testing.T) {
	g := newGolden(t, nil)
	st := g.st.Clone()
	for _, name := range names(t, st) {
		if strings.HasPrefix(name, "data/") || strings.HasPrefix(name, "meta/") {
			ruin(t, st, name, 1, 1)
		}
	}
	errs, oks := make([]error, 2), make([]bool, 2)
	var wg sync.WaitGroup
	for i := range errs {
		r := reopen(t, st)
		wg.Go(func() {
			rep, err := r.Repair(t.Context(), nil)
			errs[i], oks[i] = err, rep.OK
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	require.Equal(t, []bool{true, true}, oks)
	_, err := reopen(t, st).Prune(t.Context(), nil)
	require.NoError(t, err)
	g.requireWhole(t, st)
}

// Packs that were exchanged, or renamed, are known by their own ids and put back: byte for byte what was there before, and nothing is stored
// again. Cut off at any call, the next repair ends it.
func TestRepairOfSwappedPacks(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	g := newGolden(t, &repo.InitOptions{BlockSize: testBlock})
	before := contentsOf(t, g.st)
	var packs []string
	for _, name := range names(t, g.st) {
		if strings.HasPrefix(name, "data/") {
			packs = append(packs, name)
		}
	}
	require.GreaterOrEqual(t, len(packs), 2)
	a, b := packs[0], packs[1]
	for what, hurt := range map[string]func(st *memstore.Store){
		"exchanged": func(st *memstore.Store) { st.Set(a, []byte(before[b])); st.Set(b, []byte(before[a])) },
		"renamed": func(st *memstore.Store) {
			st.Set(b, []byte(before[a]))
			require.NoError(t, st.Remove(ctx, a))
		},
	} {
		origin := g.st.Clone()
		hurt(origin)
		for n := 1; ; n += sampled(13, 1, 1) {
			st := origin.Clone()
			faulty := storetest.NewFaulty(st, storetest.Fault{Op: storetest.Any, N: n, Sticky: true})
			r, err := repo.Open(ctx, faulty, testKey, openOptions(t))
			if err == nil {
				_, _ = r.Repair(ctx, nil)
				_ = r.Close()
			}
			if what == "renamed" { // what stood under the other name is gone for good
				g.requireExact(t, st, what, n)
				require.Equal(t, before[a], string(read(t, st, a)), "%s: cut off at call %d", what, n)
			} else {
				rep := g.mended(t, st, nil, what, n)
				require.Zero(t, rep.Mended+rep.Written)
				for name, content := range before {
					if strings.HasPrefix(name, "data/") {
						require.Equal(t, content, string(read(t, st, name)), "%s: cut off at call %d", what, n)
					}
				}
				g.requireWhole(t, st, what, n)
			}
			for _, name := range names(t, st) {
				require.False(t, strings.HasPrefix(name, "stray/"), name)
			}
			if faulty.Fired() == 0 {
				break
			}
		}
	}
}
