package repo

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store/dirstore"
	"github.com/hikae/hikae/repo/store/dirstore/vfs"
	"github.com/hikae/hikae/repo/store/dirstore/vfs/vfstest"
)

// moments runs a story on a file system in memory, and hands over the moment before each of its calls.
type moments struct {
	disk *vfstest.Mem
	next chan chan struct{}

	mu   sync.Mutex
	told told
}

// has is what was reported, by now.
func (m *moments) has() told {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.told)
}

func (m *moments) tell(change func(told)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(m.told)
}

// pause is one moment: it lasts until somebody has looked.
func (m *moments) pause() {
	looked := make(chan struct{})
	m.next <- looked
	<-looked
}

// play runs the story, on a file system that lie may make worse. The channel is closed when it is over.
func (m *moments) play(ctx context.Context, story pruneStory, lie func(vfs.FS) vfs.FS) (ended <-chan error) {
	done := make(chan error, 1)
	faulty := vfstest.NewFaulty(lie(m.disk))
	go func() {
		defer close(m.next)
		st := dirstore.OpenFS(faulty, nil)
		r, err := Open(ctx, st, innerKey, nil)
		if err != nil {
			done <- errors.Join(err, st.Close())
			return
		}
		faulty.Before = func(string, string) { m.pause() }
		err = story.tell(ctx, r, m.tell)
		faulty.Before = nil
		done <- errors.Join(err, r.Close(), st.Close())
	}()
	return done
}

// tell is run, for who looks on meanwhile: what is told is changed by tell.
func (s pruneStory) tell(ctx context.Context, r *Repository, tell func(func(told))) error {
	base, ids := "", []string{}
	for _, blocks := range [][]uint64{s.first, s.second, s.third} {
		id, err := keepPoint(ctx, r, "vm", noiseDisk(blocks...), base)
		if err != nil {
			return err
		}
		tell(func(t told) { t[id] = blocks })
		base, ids = id, append(ids, id)
	}
	shrink := func(gone ...string) error {
		tell(func(t told) {
			maps.DeleteFunc(t, func(id string, _ []uint64) bool { return slices.Contains(gone, id) })
		})
		if err := r.Forget(ctx, gone, ""); err != nil {
			return err
		}
		_, err := r.Prune(ctx, &PruneOptions{Wait: -1, MaxUnused: 1})
		return err
	}
	if err := shrink(ids[0], ids[1]); err != nil {
		return err
	}
	id, err := keepPoint(ctx, r, "vm", noiseDisk(s.first...), base)
	if err != nil {
		return err
	}
	tell(func(t told) { t[id] = s.first })
	return shrink(ids[2])
}

// powerCut is how a test cuts the power, and what it has seen.
type powerCut struct {
	rng     *rand.Rand
	chance  float64 // that a moment is looked at
	percent []int   // of what was not synced, that is kept: one crash each
	subsets int     // crashes a moment that keep, or lose, up to three changes of those that were not synced
	lie     func(vfs.FS) vfs.FS

	moments, crashes, states int
	seen                     map[uint64]bool
	seed                     maphash.Seed
}

// everywhere plays the story and looks at what power cuts leave. It returns what was wrong.
func (c *powerCut) everywhere(t *testing.T, look func(t testing.TB, after *vfstest.Mem, points told) error) (wrong []error) {
	t.Helper()
	c.seen, c.seed = map[uint64]bool{}, maphash.MakeSeed()
	if c.lie == nil {
		c.lie = func(fsys vfs.FS) vfs.FS { return fsys }
	}
	disk := vfstest.NewMem()
	h, slot, err := newRepository(innerKey, &InitOptions{BlockSize: minBlockSize})
	require.NoError(t, err)
	h.PackSize = 8 * minBlockSize
	st := dirstore.OpenFS(disk, nil)
	require.NoError(t, create(t.Context(), st, innerKey, h, slot))
	require.NoError(t, st.Close())
	m := &moments{disk: disk.Reopen(), next: make(chan chan struct{}), told: told{}}
	ended := m.play(t.Context(), newPruneStory(), c.lie)
	for looked := range m.next {
		c.moments++
		if c.rng.Float64() < c.chance {
			points := m.has()
			for after := range c.after(disk) {
				c.crashes++
				if key := after.Fingerprint(c.seed) ^ uint64(len(points))<<60; !c.seen[key] {
					c.seen[key] = true
					c.states++
					if err := look(t, after, points); err != nil {
						wrong = append(wrong, fmt.Errorf("moment %d, crash %d: %w", c.moments, c.crashes, err))
					}
				}
			}
		}
		close(looked)
	}
	require.NoError(t, <-ended)
	return wrong
}

// after yields what may be left of a disk.
func (c *powerCut) after(disk *vfstest.Mem) func(yield func(*vfstest.Mem) bool) {
	return func(yield func(*vfstest.Mem) bool) {
		for _, p := range c.percent {
			if !yield(disk.Crash(c.rng, float64(p)/100)) {
				return
			}
		}
		n := disk.Unsynced()
		for _, few := range c.fewOf(n) {
			lost := c.rng.IntN(2) == 0
			if !yield(disk.CrashKeeping(func(change int) bool { return few[change] != lost }, c.rng)) {
				return
			}
		}
	}
}

// fewOf are sets of up to three of n numbers: all of them, or where there are too many, any.
func (c *powerCut) fewOf(n int) (sets []map[int]bool) {
	if n == 0 || c.subsets == 0 {
		return nil
	}
	for i := range n {
		for j := i; j < n; j++ {
			for k := j; k < n; k++ {
				sets = append(sets, map[int]bool{i: true, j: true, k: true})
			}
		}
	}
	c.rng.Shuffle(len(sets), func(i, j int) { sets[i], sets[j] = sets[j], sets[i] })
	return sets[:min(len(sets), c.subsets)]
}

// lookAfterCut opens what a power cut has left: all that was told restores, a full check finds nothing, a prune leaves no leak, and
// the next backup works.
func lookAfterCut(t testing.TB, disk *vfstest.Mem, points told) (err error) {
	ctx := t.Context()
	st := dirstore.OpenFS(disk, nil)
	r, err := Open(ctx, st, innerKey, nil)
	if err != nil {
		return errors.Join(err, st.Close())
	}
	defer func() { err = errors.Join(err, r.Close(), st.Close()) }()
	restored := func() error {
		for id, blocks := range points {
			if err := sameDisk(ctx, r, id, noiseDisk(blocks...)); err != nil {
				return err
			}
		}
		return nil
	}
	sound := func(repair bool) (VerifyReport, error) {
		rep, err := r.Verify(ctx, &VerifyOptions{DataPercent: 100, Repair: repair})
		if err == nil && !rep.OK {
			err = fmt.Errorf("a check has found %+v", rep)
		}
		return rep, err
	}
	if err := restored(); err != nil {
		return err
	}
	if _, err := sound(true); err != nil {
		return err
	}
	endAll(t, r)
	pruned, err := r.Prune(ctx, &PruneOptions{Wait: -1, MaxUnused: 1})
	if err != nil || pruned.Deferred > 0 {
		return errors.Join(err, fmt.Errorf("the next prune: %+v", pruned))
	}
	rep, err := sound(false)
	if err != nil {
		return err
	}
	if rep.Reclaimable > 0 {
		return fmt.Errorf("%d bytes were leaked", rep.Reclaimable)
	}
	if err := restored(); err != nil {
		return err
	}
	next, err := keepPoint(ctx, r, "vm", noiseDisk(7, 8, 9), "")
	if err != nil {
		return err
	}
	return sameDisk(ctx, r, next, noiseDisk(7, 8, 9))
}

// figureOf is a tier's figure.
func figureOf[T any](fast, long, release T) T {
	switch tierOf() {
	case "long":
		return long
	case "release":
		return release
	}
	return fast
}

// RELIABILITY bar 2: the power is cut before every call to the file system of a full backup, three increments, forgettings and prunes
// that remove and rewrite. Nothing, a part or all of what was not synced is kept, or lost; also each few of the changes that were not
// synced alone. Whatever is left: all that was reported restores, nothing is wrong, the next prune and the next backup work.
func TestPowerCutAnywhereInAStory(t *testing.T) {
	t.Parallel()
	for range figureOf(1, 1, 5) {
		seed, began := rand.Uint64(), time.Now()
		c := &powerCut{rng: rand.New(rand.NewPCG(seed, 2)), percent: []int{0, 30, 50, 50, 100},
			subsets: figureOf(1, 8, 40), chance: figureOf(0.004, 1, 1)}
		for _, err := range c.everywhere(t, lookAfterCut) {
			t.Error(err)
		}
		t.Logf("seed %d: %d moments, %d crashes, %d states that differ, in %v", seed, c.moments, c.crashes, c.states, time.Since(began).Round(time.Second))
		require.Greater(t, c.moments, 2000)
	}
}

// forgetful is a file system that syncs nothing.
type forgetful struct{ vfs.FS }

func (f forgetful) Create(name string) (vfs.File, error) {
	file, err := f.FS.Create(name)
	return forgetfulFile{file}, err
}

type forgetfulFile struct{ vfs.File }

func (forgetfulFile) Sync() error { return nil }

// The same on a file system that lies shows that the test above can fail.
func TestPowerCutInAStoryOnALiar(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Log("seed", seed)
	c := &powerCut{rng: rand.New(rand.NewPCG(seed, 2)), percent: []int{0}, chance: 0.003, lie: func(fsys vfs.FS) vfs.FS { return forgetful{fsys} }}
	require.NotEmpty(t, c.everywhere(t, func(t testing.TB, after *vfstest.Mem, points told) error {
		if len(points) == 0 {
			return nil
		}
		return lookAfterCut(t, after, points)
	}))
}
