package repo_test

import (
	"bytes"
	"context"
	"io/fs"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
)

// kept is a state in memory.
type kept struct {
	mu    sync.Mutex
	doc   []byte
	saves int
}

func (k *kept) Load(context.Context) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.doc == nil {
		return nil, fs.ErrNotExist
	}
	return k.doc, nil
}

func (k *kept) Save(_ context.Context, doc []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.doc = append([]byte{}, doc...)
	k.saves++
	return nil
}

// metered counts what is read of packs, and can kill a run after so many bytes.
type metered struct {
	store.Store
	read atomic.Int64
	pack atomic.Int64 // of it, of whole packs
	kill context.CancelFunc
	at   int64
}

func (m *metered) Unwrap() store.Store { return m.Store }

func (m *metered) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	n, err := m.Store.ReadAt(ctx, name, p, off)
	if strings.HasPrefix(name, "data/") {
		if n > 200_000 {
			m.pack.Add(int64(n))
		}
		if m.read.Add(int64(n)) > m.at && m.kill != nil {
			m.kill()
		}
	}
	return n, err
}

// manyPacks is a repository with a pack for each of many points.
func manyPacks(t testing.TB, points int) *memstore.Store {
	st := memstore.New(nil)
	r := newRepository(t, st, &repo.InitOptions{BlockSize: testBlock})
	for i := range points {
		mustBackup(t, r, "vm", pipetest.NewPattern(uint64(i+1), 12*testBlock).Blank(), nil)
	}
	return st
}

func sizeOf(t testing.TB, st store.Store, prefix string) (n int64) {
	for info, err := range st.List(t.Context(), prefix) {
		require.NoError(t, err)
		n += info.Size
	}
	return n
}

// Bar 19: a run that is killed goes on where it was; what is read twice is what was under way.
func TestVerifyGoesOn(t *testing.T) {
	t.Parallel()
	st := manyPacks(t, 30)
	total := sizeOf(t, st, "data/")
	state := &kept{}
	opts := &repo.VerifyOptions{DataPercent: 100, Resume: true, State: state}
	var read int64
	for _, share := range []int64{30, 30, 100} {
		ctx, kill := context.WithCancel(t.Context())
		m := &metered{Store: st, kill: kill, at: total * share / 100}
		if share == 100 {
			m.kill = nil
		}
		r, err := repo.Open(t.Context(), m, testKey, openOptions(t))
		require.NoError(t, err)
		rep, err := r.Verify(ctx, opts)
		kill()
		require.NoError(t, r.Close())
		read += m.pack.Load()
		if share < 100 {
			require.ErrorIs(t, err, context.Canceled)
			continue
		}
		require.NoError(t, err)
		require.True(t, rep.OK)
		require.Greater(t, rep.Checked.Resumed, total*40/100)
	}
	// Twice is read what was under way when a run was killed: a pack or two for each processor, and there are 30.
	underWay := int64(2 * (runtime.GOMAXPROCS(0) + 1))
	require.LessOrEqual(t, read-total, underWay*total/30, "read %d of %d", read, total)
	require.Greater(t, state.saves, 10)

	r := reopen(t, st)
	rep, err := r.Verify(t.Context(), opts)
	require.NoError(t, err)
	require.Zero(t, rep.Checked.Resumed, "a run that ended is not gone on with")
}

// A state that is rubbish, or another repository's, costs a run from the start and nothing else.
func TestVerifyWithForeignState(t *testing.T) {
	t.Parallel()
	r := reopen(t, manyPacks(t, 2))
	for _, doc := range []string{"", "{", `{"format":2}`, `{"format":1,"repo":"00000000000000000000000000000000"}`, "null"} {
		rep, err := r.Verify(t.Context(), &repo.VerifyOptions{DataPercent: 100, Resume: true, State: &kept{doc: []byte(doc)}})
		require.NoError(t, err, doc)
		require.True(t, rep.OK)
		require.NotEmpty(t, rep.Notes)
		require.Zero(t, rep.Checked.Resumed)
	}
	_, err := r.Verify(t.Context(), &repo.VerifyOptions{Rotation: &repo.Rotation{}, DataPercent: 5})
	require.ErrorIs(t, err, fs.ErrInvalid)
	bare, err := repo.Open(t.Context(), manyPacks(t, 1), testKey, nil)
	require.NoError(t, err)
	defer bare.Close()
	_, err = bare.Verify(t.Context(), &repo.VerifyOptions{Rotation: &repo.Rotation{}})
	require.ErrorIs(t, err, fs.ErrInvalid, "nothing to keep the state in")
}

// A rotation reads everything within its days, what is new within one, and never only that.
func TestVerifyRotation(t *testing.T) {
	st := manyPacks(t, 24) // outside: decoders are made once, and one that belongs to a bubble is of no use to others
	bubble.Test(t, func(t *testing.T) {
		state := &kept{}
		opts := &repo.VerifyOptions{Rotation: &repo.Rotation{Days: 8}, State: state}
		run := func() int64 {
			m := &metered{Store: st}
			r, err := repo.Open(t.Context(), m, testKey, nil)
			require.NoError(t, err)
			defer r.Close()
			before := m.read.Load()
			rep, err := r.Verify(t.Context(), opts)
			require.NoError(t, err)
			require.True(t, rep.OK)
			return m.read.Load() - before
		}
		whole := run()
		require.GreaterOrEqual(t, whole, sizeOf(t, st, "data/"), "the first run reads all")
		again := run()
		require.Less(t, again, whole/3, "twice on a day: tables")
		sum := int64(0)
		for range 8 {
			time.Sleep(24 * time.Hour)
			synctest.Wait()
			day := run() - again
			require.Less(t, day, whole/2)
			sum += day
		}
		require.GreaterOrEqual(t, sum+again, sizeOf(t, st, "data/"), "all of it in 8 days; whose turn it is gives no table besides")

		newer := reopenIn(t, st)
		size := sizeOf(t, st, "data/")
		mustBackup(t, newer, "vm", pipetest.NewPattern(99, 12*testBlock).Blank(), nil)
		grown := sizeOf(t, st, "data/") - size
		require.NoError(t, newer.Close())
		require.GreaterOrEqual(t, run()-again, grown, "what is new is read at once")
		time.Sleep(100 * 24 * time.Hour)
		synctest.Wait()
		require.GreaterOrEqual(t, run(), whole, "who leaves days out reads all")
	})
}

func reopenIn(t testing.TB, st store.Store) *repo.Repository {
	r, err := repo.Open(t.Context(), st, testKey, nil)
	require.NoError(t, err)
	return r
}

// A rate bounds what a run reads.
func TestVerifyRate(t *testing.T) {
	st := manyPacks(t, 8)
	bubble.Test(t, func(t *testing.T) {
		r := reopenIn(t, st)
		defer r.Close()
		start := time.Now()
		total := sizeOf(t, st, "data/") + sizeOf(t, st, "meta/")
		_, err := r.Verify(t.Context(), &repo.VerifyOptions{DataPercent: 100, Rate: total / 100})
		require.NoError(t, err)
		require.InDelta(t, 100, time.Since(start).Seconds(), 15)
		_, err = r.Verify(t.Context(), &repo.VerifyOptions{Rate: -1})
		require.ErrorIs(t, err, fs.ErrInvalid)
	})
}

// Bar 9, without a key: a scrub finds a damaged byte wherever it is and mends it, byte for byte: every byte of every file
// in the release tier, a sample before.
func TestScrubWithoutKeys(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	g := newGolden(t, &repo.InitOptions{BlockSize: testBlock})
	rnd := seeded(t)
	all := names(t, g.st)
	flip := func(name string, at int) {
		good := read(t, g.st, name)
		b := bytes.Clone(good)
		b[at] ^= 1 << rnd.IntN(8)
		st := g.st.Clone()
		st.Set(name, b)
		p, err := repo.OpenPublic(ctx, st, func(string) {})
		require.NoError(t, err)
		rep, err := p.Scrub(ctx, nil)
		require.NoError(t, err)
		require.False(t, rep.OK)
		require.Equal(t, name, rep.Damaged[0].Object)
		rep, err = p.Scrub(ctx, &repo.ScrubOptions{Repair: true})
		require.NoError(t, err)
		require.True(t, rep.OK, "%+v", rep)
		require.Equal(t, []string{name}, rep.Repaired)
		require.True(t, bytes.Equal(good, read(t, st, name)), "%s at %d", name, at)
	}
	for range sampled(80, 3_000, 0) {
		name := all[rnd.IntN(len(all))]
		flip(name, rnd.IntN(len(read(t, g.st, name))))
	}
	for _, name := range all[:sampled(0, 0, len(all))] {
		for at := range len(read(t, g.st, name)) {
			flip(name, at)
		}
	}
	p, err := repo.OpenPublic(ctx, opaque{g.st}, func(string) {})
	require.NoError(t, err)
	_, err = p.Scrub(ctx, &repo.ScrubOptions{Repair: true})
	require.ErrorIs(t, err, repo.ErrCannotMend)
}

// Bar 11: holes in packs of 16 MiB at 10 %, as long as the whole parity allows, in one piece or in any pattern: mended at
// every offset, without keys.
func TestScrubOfHolesInFullPacks(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	st := memstore.New(nil)
	r := newRepository(t, st, &repo.InitOptions{ParityPermille: 100})
	mustBackup(t, r, "vm", pipetest.NewPattern(1, 26<<20).Blank(), nil)
	name, good := "", []byte(nil)
	for _, n := range named(t, st, "data/") {
		if b := read(t, st, n); len(b) > len(good) {
			name, good = n, b
		}
	}
	require.Greater(t, len(good), 14<<20)
	for _, n := range named(t, st, "data/") {
		if n != name {
			require.NoError(t, st.Remove(ctx, n)) // a scrub does not miss them, and is quicker
		}
	}
	rnd := seeded(t)
	budget := budgetOf(len(good), 100)
	p, err := repo.OpenPublic(ctx, st, func(string) {})
	require.NoError(t, err)
	for i := range sampled(5, 150, 1_000) {
		b := bytes.Clone(good)
		switch i % 5 {
		case 3:
			at := rnd.IntN(len(b)/4096-budget) * 4096
			fill(rnd, b[at:at+budget*4096])
		case 4:
			for _, c := range rnd.Perm(len(b) / 4096)[:budget] {
				b[c*4096+rnd.IntN(4096)] ^= 0x55
			}
		default:
			n := []int{512, 4096, 64 << 10}[i%5]
			at := rnd.IntN(len(b)/n) * n
			clear(b[at : at+n])
		}
		if bytes.Equal(b, good) {
			continue
		}
		st.Set(name, b)
		rep, err := p.Scrub(ctx, &repo.ScrubOptions{Repair: true, Workers: 1})
		require.NoError(t, err)
		require.True(t, rep.OK, "case %d: %+v", i, rep)
		require.Equal(t, []string{name}, rep.Repaired)
		require.True(t, bytes.Equal(good, read(t, st, name)))
	}
	b := bytes.Clone(good) // one more than the budget is not mended, and not made worse
	for _, c := range rnd.Perm(len(b) / 4096)[:budget+1] {
		b[c*4096] ^= 1
	}
	st.Set(name, b)
	rep, err := p.Scrub(ctx, &repo.ScrubOptions{Repair: true})
	require.NoError(t, err)
	require.False(t, rep.OK)
	require.True(t, bytes.Equal(b, read(t, st, name)))
}

// What stands under another's name is told by a scrub and never mended into it.
func TestScrubOfMisplacedFiles(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	g := newGolden(t, &repo.InitOptions{BlockSize: testBlock})
	other := newGolden(t, &repo.InitOptions{BlockSize: testBlock})
	packs := named(t, g.st, "data/")
	for _, b := range [][]byte{read(t, g.st, packs[1]), read(t, other.st, named(t, other.st, "data/")[0]), {}, make([]byte, 9000)} {
		if len(b) > 5000 {
			b[5000] ^= 1 // so that there is something to mend
		}
		st := g.st.Clone()
		st.Set(packs[0], b)
		p, err := repo.OpenPublic(ctx, st, func(string) {})
		require.NoError(t, err)
		rep, err := p.Scrub(ctx, &repo.ScrubOptions{Repair: true})
		require.NoError(t, err)
		require.False(t, rep.OK)
		require.Equal(t, packs[0], rep.Damaged[0].Object)
		require.Empty(t, rep.Repaired)
		require.Equal(t, b, read(t, st, packs[0]))
	}
}

// A rotation that is cut off has not read those packs of which it looked at the table alone: when it goes on, and their turn has
// come meanwhile, they are read.
func TestVerifyRotationCutOff(t *testing.T) {
	st := manyPacks(t, 24)
	bubble.Test(t, func(t *testing.T) {
		opts := &repo.VerifyOptions{Rotation: &repo.Rotation{Days: 4}, State: &kept{}}
		run := func(cut int64) int64 {
			ctx, kill := context.WithCancel(t.Context())
			defer kill()
			m := &metered{Store: st}
			if cut > 0 {
				m.kill, m.at = kill, cut
			}
			r, err := repo.Open(t.Context(), m, testKey, nil)
			require.NoError(t, err)
			defer r.Close()
			_, err = r.Verify(ctx, opts)
			require.Equal(t, cut > 0, err != nil)
			return m.pack.Load()
		}
		whole, sum := run(0), int64(0)
		for day := range 4 {
			time.Sleep(24 * time.Hour)
			synctest.Wait()
			cut := int64(0)
			if day == 0 {
				cut = whole / 4
			}
			sum += run(cut)
		}
		require.GreaterOrEqual(t, sum, whole, "all of it in 4 days")
	})
}

// A clock that was ten years ahead once does not stop a rotation for ten years.
func TestVerifyRotationAfterAWrongClock(t *testing.T) {
	st := manyPacks(t, 8)
	state := &kept{}
	opts := &repo.VerifyOptions{Rotation: &repo.Rotation{Days: 2}, State: state}
	bubble.Test(t, func(t *testing.T) {
		run := func() int64 {
			m := &metered{Store: st}
			r, err := repo.Open(t.Context(), m, testKey, nil)
			require.NoError(t, err)
			defer r.Close()
			_, err = r.Verify(t.Context(), opts)
			require.NoError(t, err)
			return m.pack.Load()
		}
		whole := run()
		ahead := regexp.MustCompile(`"day":\d+`)
		require.Regexp(t, ahead, string(state.doc))
		state.doc = ahead.ReplaceAll(state.doc, []byte(`"day":99999`))
		sum := run()
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		require.GreaterOrEqual(t, sum+run(), whole)
	})
}
