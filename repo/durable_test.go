package repo

import (
	"context"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/dirstore"
	"github.com/hikae/hikae/repo/store/dirstore/vfs/vfstest"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/storetest"
)

// smallPacks makes a repository whose packs hold six blocks, so that a few MiB fill many.
func smallPacks(t testing.TB, st store.Store) *Repository {
	t.Helper()
	h, slot, err := newRepository(innerKey, &InitOptions{BlockSize: minBlockSize})
	require.NoError(t, err)
	h.PackSize = 8 * minBlockSize
	require.NoError(t, create(t.Context(), st, innerKey, h, slot))
	return openInner(t, st, nil)
}

// noiseBlocks are a disk's worth of blocks that do not compress, and their ids.
func noiseBlocks(seed uint64, blocks int, d pipe.BlockTarget) (content [][]byte, ids []pipe.ID) {
	rng := rand.New(rand.NewPCG(seed, 1))
	for range blocks {
		b := make([]byte, d.BlockSize())
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		content = append(content, b)
		ids = append(ids, d.Fingerprint(b))
	}
	return content, ids
}

func startDisk(t testing.TB, w pipe.PointWriter, blocks int) pipe.BlockTarget {
	t.Helper()
	d, err := w.Disk(t.Context(), "disk0", int64(blocks)*minBlockSize)
	require.NoError(t, err)
	return d.(pipe.BlockTarget)
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, 10*time.Second, time.Millisecond, what)
}

// What is durable follows what the store has taken, in order, and stops for good at a pack that could not be stored.
func TestDurableFollowsTheStore(t *testing.T) {
	ctx := t.Context()
	hold := &holding{Store: memstore.New(nil), open: make(chan struct{})}
	r := smallPacks(t, hold)
	w, err := r.Begin(ctx, "vm", nil)
	require.NoError(t, err)
	defer w.Close()
	durable := w.(pipe.Durable)
	d := startDisk(t, w, 32)
	content, ids := noiseBlocks(1, 32, d)
	put := func(i int) {
		_, err := d.PutBlock(ctx, int64(i)*minBlockSize, ids[i], minBlockSize, pipe.Plain, content[i])
		require.NoError(t, err)
	}
	require.Zero(t, durable.Stamp())
	for i := range 15 { // the first two packs and a half
		put(i)
		require.EqualValues(t, i+1, durable.Stamp())
		require.Zero(t, durable.Durable(), "the store has taken nothing")
	}
	require.NoError(t, w.Blob(ctx, "config", strings.NewReader(strings.Repeat("x", 3*minBlockSize))))
	require.EqualValues(t, 15, durable.Stamp(), "chunks and pages are not counted")
	hold.open <- struct{}{} // one of the two that wait
	hold.open <- struct{}{}
	eventually(t, "two packs of six or seven are stored", func() bool { return durable.Durable() >= 12 })
	before := durable.Durable()
	require.Less(t, before, uint64(15))
	put(3)
	require.EqualValues(t, 15, durable.Stamp(), "a block that is there is not written again")

	hold.fail.Store(true) // and from here on nothing is stored any more
	close(hold.open)
	for i := 15; i < 32; i++ {
		if _, err := d.PutBlock(ctx, int64(i)*minBlockSize, ids[i], minBlockSize, pipe.Plain, content[i]); err != nil {
			require.ErrorIs(t, err, storetest.ErrInjected)
			break
		}
	}
	eventually(t, "the session has failed", func() bool { return w.(*pointWriter).s.failed() != nil })
	require.Equal(t, before, durable.Durable())
	hold.fail.Store(false)
	require.NoError(t, w.Close())
	require.Equal(t, before, durable.Durable())
}

// Blocks of a session that died without a commit are found by their ids and used by the next one, after the index was
// made anew from the packs themselves, and whoever checks the repository finds nothing wrong with that.
func TestOrphansAreUsed(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := smallPacks(t, st)
	w, err := r.Begin(ctx, "vm", nil)
	require.NoError(t, err)
	d := startDisk(t, w, 20)
	content, ids := noiseBlocks(2, 20, d)
	for i := range 20 {
		_, err := d.PutBlock(ctx, int64(i)*minBlockSize, ids[i], minBlockSize, pipe.Plain, content[i])
		require.NoError(t, err)
	}
	eventually(t, "three packs are stored", func() bool { return w.(pipe.Durable).Durable() >= 18 })
	durable := int(w.(pipe.Durable).Durable())
	left := st.Clone() // the process is killed: no lease is ended, no index object written
	require.NoError(t, w.Close())

	next := openInner(t, left, nil)
	finish(t, next, content, ids, durable)
	report, err := next.Verify(ctx, &VerifyOptions{DataPercent: 100})
	require.NoError(t, err)
	require.True(t, report.OK, "%+v", report)
}

// finish makes a point of all blocks; the first of them need not be brought.
func finish(t testing.TB, r *Repository, content [][]byte, ids []pipe.ID, there int) {
	t.Helper()
	ctx := t.Context()
	w, err := r.Begin(ctx, "vm", nil)
	require.NoError(t, err)
	defer w.Close()
	d := startDisk(t, w, len(ids))
	missing, err := d.Missing(ctx, ids)
	require.NoError(t, err)
	for i, b := range content {
		data := b
		if i < there {
			require.False(t, missing[i], "block %d of %d that were durable", i, there)
			data = nil
		}
		_, err := d.PutBlock(ctx, int64(i)*minBlockSize, ids[i], minBlockSize, pipe.Plain, data)
		require.NoError(t, err, "block %d", i)
	}
	require.NoError(t, d.Commit(ctx))
	id, err := w.Commit(ctx, nil)
	require.NoError(t, err)
	img, err := r.Open(ctx, id, "disk0")
	require.NoError(t, err)
	defer img.Close()
	got := make([]byte, minBlockSize)
	for i := range content {
		_, err := img.ReadAt(ctx, got, int64(i)*minBlockSize)
		require.NoError(t, err)
		require.Equal(t, content[i], got)
	}
}

// RELIABILITY 1.2, DESIGN §7 (an acknowledgement means durable): cut the power at any moment; whatever was said to be
// durable before that is found by a repository that is opened on what the disk has kept.
func TestDurableSurvivesPowerCuts(t *testing.T) {
	const blocks, wanted = 40, 200
	ctx := t.Context()
	rng := rand.New(rand.NewPCG(11, 12))
	crashes := 0
	for round := 0; crashes < wanted; round++ {
		require.Less(t, round, 20, "there are too few moments to crash in")
		disk := vfstest.NewMem()
		shots := &snapshots{disk: disk, rng: rng}
		faulty := vfstest.NewFaulty(disk)
		st := dirstore.OpenFS(faulty, nil)
		r := smallPacks(t, st)
		w, err := r.Begin(ctx, "vm", nil)
		require.NoError(t, err)
		d := startDisk(t, w, blocks)
		content, ids := noiseBlocks(uint64(round)+100, blocks, d)
		shots.begin(w.(pipe.Durable))
		faulty.Before = func(string, string) { shots.maybe(0.4) }
		for i := range blocks {
			_, err := d.PutBlock(ctx, int64(i)*minBlockSize, ids[i], minBlockSize, pipe.Plain, content[i])
			require.NoError(t, err)
			shots.maybe(0.4)
		}
		eventually(t, "all full packs are stored", func() bool { return w.(pipe.Durable).Durable() >= blocks-6 })
		shots.maybe(1)
		shots.end()
		require.NoError(t, w.Close())
		require.NoError(t, st.Close())
		for i, shot := range shots.taken {
			crashes++
			after := lookAt(t, shot, ids)
			if i%25 == 0 {
				finish(t, after, content, ids, int(shot.durable))
			}
		}
		require.Greater(t, shots.taken[len(shots.taken)-1].durable, uint64(blocks/2), "nothing became durable: the test sees nothing")
	}
}

func lookAt(t testing.TB, shot snapshot, ids []pipe.ID) *Repository {
	t.Helper()
	after := openInner(t, dirstore.OpenFS(shot.disk, nil), nil)
	w, err := after.Begin(t.Context(), "vm", nil)
	require.NoError(t, err)
	defer w.Close()
	missing, err := startDisk(t, w, len(ids)).Missing(t.Context(), ids)
	require.NoError(t, err)
	for i := range shot.durable {
		require.False(t, missing[i], "block %d was durable (all below %d) and is gone", i, shot.durable)
	}
	return after
}

// snapshot is what a power cut leaves, and what was said to be durable before it.
type snapshot struct {
	disk    *vfstest.Mem
	durable uint64
}

type snapshots struct {
	disk *vfstest.Mem

	mu     sync.Mutex
	rng    *rand.Rand
	writer pipe.Durable
	taken  []snapshot
}

func (s *snapshots) begin(w pipe.Durable) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writer = w
}

func (s *snapshots) end() { s.begin(nil) }

func (s *snapshots) maybe(chance float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writer == nil || s.rng.Float64() > chance {
		return
	}
	durable := s.writer.Durable() // before the power goes
	s.taken = append(s.taken, snapshot{s.disk.Crash(s.rng, []float64{0, 0.3, 0.7, 1}[s.rng.IntN(4)]), durable})
}

// The figure costs next to nothing: it is asked after every block.
func TestDurableIsCheap(t *testing.T) {
	w := &pointWriter{s: &session{begun: map[*openPack]uint64{}, puts: 1 << 40}}
	for range 3 {
		w.s.begun[new(openPack)] = 7
	}
	require.Zero(t, testing.AllocsPerRun(100, func() { w.Durable() }))
	require.EqualValues(t, 7, w.Durable())
}

// holding is a store that takes a data pack only when it is told to.
type holding struct {
	store.Store
	open chan struct{}
	fail atomic.Bool
}

func (h *holding) Create(ctx context.Context, name string, data []byte) error {
	if strings.HasPrefix(name, "data/") {
		<-h.open
		if h.fail.Load() {
			return storetest.ErrInjected
		}
	}
	return h.Store.Create(ctx, name, data)
}

func (h *holding) Unwrap() store.Store { return h.Store }

// cutOff is a source that ended before it should have, and says so.
type cutOff struct{ io.Reader }

func (c cutOff) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// A blob of which the source was cut off is no blob.
func TestBlobThatWasCutOff(t *testing.T) {
	r := smallPacks(t, memstore.New(nil))
	w, err := r.Begin(t.Context(), "web1", nil)
	require.NoError(t, err)
	defer w.Close()
	require.ErrorIs(t, w.Blob(t.Context(), "config", cutOff{strings.NewReader("half")}), io.ErrUnexpectedEOF)
	require.NoError(t, w.Blob(t.Context(), "config", strings.NewReader("whole")))
}
