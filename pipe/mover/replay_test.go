package mover

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/session"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/storetest"
)

// mortal is a target whose process is killed again and again. What is in the store and in the state folder outlives
// it; nothing else does, and a process that was killed changes neither any more.
type mortal struct {
	t     testing.TB
	disk  store.Store
	state string
	cache string

	// when says after which call of its life the nth process is killed, 0: never; and whether that call is carried out
	// and only its answer lost.
	when func(n int) (calls uint64, carriedOut bool)
	kind wire.Kind // only calls of this kind count; 0: all
	// fatal says instead whether the nth process is killed at a call; nil: as when says. It is asked by many at once.
	fatal func(n int, req wire.Message) bool

	mu    sync.Mutex
	lives int
	last  *life
}

// life is one process.
type life struct {
	repo    *repo.Repository
	faulty  *storetest.Faulty
	tenants *tenants
	handler *handler
	inner   *direct
	once    sync.Once
	dead    chan struct{}
	answer  bool
	fatal   func(req wire.Message) bool
}

func newMortal(t testing.TB) *mortal {
	return &mortal{
		t: t, disk: memstore.New(nil), state: t.TempDir(), cache: t.TempDir(),
		when: func(int) (uint64, bool) { return 0, false },
	}
}

func (m *mortal) client(change func(*settings)) *Client {
	c := testClient(m.t, m.begin, change)
	m.t.Cleanup(func() {
		require.NoError(m.t, c.Close())
		m.mu.Lock()
		defer m.mu.Unlock()
		m.last.end()
	})
	return c
}

// begin starts the next process and a session with it.
func (m *mortal) begin(_ int, push func(wire.Message)) (line, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last.end()
	n := m.lives
	m.lives++
	l := &life{faulty: storetest.NewFaulty(m.disk), dead: make(chan struct{})}
	ctx, opts, key := context.Background(), &repo.OpenOptions{CacheDir: m.cache}, repo.KeyFile([32]byte{1})
	var err error
	if n == 0 {
		l.repo, err = repo.Init(ctx, l.faulty, key, &repo.InitOptions{BlockSize: testBlock}, opts)
	} else {
		l.repo, err = repo.Open(ctx, l.faulty, key, opts)
	}
	if err != nil {
		return nil, err
	}
	host, err := newHost(&ServerOptions{Backend: l.repo, StateDir: m.state}, nil)
	if err != nil {
		return nil, err
	}
	l.tenants = host.tenants
	if l.handler, err = newHandler(ctx, host, trust.Peer{Name: "web", Role: trust.Full}, push); err != nil {
		return nil, err
	}
	l.inner = newDirect(l.handler)
	calls, carriedOut := m.when(n)
	l.answer = !carriedOut
	l.fatal = m.fatalAt(calls)
	if m.fatal != nil {
		l.fatal = func(req wire.Message) bool { return m.fatal(n, req) }
	}
	m.last = l
	return l, nil
}

// fatalAt counts a life's calls.
func (m *mortal) fatalAt(calls uint64) func(req wire.Message) bool {
	kind := m.kind
	var left atomic.Int64
	left.Store(int64(calls))
	return func(req wire.Message) bool { return (kind == 0 || req.Kind() == kind) && left.Add(-1) == 0 }
}

// CallNumbered kills where it is the time.
func (l *life) CallNumbered(ctx context.Context, req wire.Message) (uint64, wire.Message, error) {
	select {
	case <-l.dead:
		return 0, nil, session.ErrLost
	default:
	}
	kill := l.fatal(req)
	if kill && l.answer {
		l.kill()
	}
	select {
	case <-l.dead:
		return 0, nil, session.ErrLost
	default:
	}
	type result struct {
		n      uint64
		answer wire.Message
		err    error
	}
	done := make(chan result, 1)
	go func() {
		n, answer, err := l.inner.CallNumbered(ctx, req)
		done <- result{n, answer, err}
	}()
	select {
	case r := <-done:
		if kill {
			l.kill()
		}
		select {
		case <-l.dead: // nobody was there to send the answer
			return r.n, nil, session.ErrLost
		default:
			return r.n, r.answer, r.err
		}
	case <-l.dead:
		return 0, nil, session.ErrLost
	}
}

func (l *life) kill() {
	l.once.Do(func() {
		l.faulty.Add(storetest.Fault{Sticky: true})
		close(l.dead)
	})
}

func (l *life) Close() error { l.kill(); return nil }

// end frees what a process of the system would have freed by ending.
func (l *life) end() {
	if l == nil {
		return
	}
	l.kill()
	_ = l.handler.Close()
	_ = l.tenants.close()
	_ = l.repo.Close()
}

// requireDisk compares a disk of a point in the store with what it must hold, by a process that lives.
func (m *mortal) requirePoint(point string, disks map[string]pipe.Image) {
	m.t.Helper()
	r, err := repo.Open(m.t.Context(), m.disk, repo.KeyFile([32]byte{1}), &repo.OpenOptions{CacheDir: m.t.TempDir()})
	require.NoError(m.t, err)
	defer r.Close()
	for key, want := range disks {
		img, err := r.Open(m.t.Context(), point, key)
		require.NoError(m.t, err)
		diff, err := pipe.Compare(m.t.Context(), img, want, nil)
		require.NoError(m.t, err)
		require.Empty(m.t, diff)
		require.NoError(m.t, img.Close())
	}
}

func (m *mortal) points() (ids []string) {
	m.t.Helper()
	r, err := repo.Open(m.t.Context(), m.disk, repo.KeyFile([32]byte{1}), &repo.OpenOptions{CacheDir: m.t.TempDir()})
	require.NoError(m.t, err)
	defer r.Close()
	for p, err := range r.Points(m.t.Context(), "") {
		require.NoError(m.t, err)
		ids = append(ids, p.ID)
	}
	return ids
}

const mortalSize = 6<<20 + 5000

// source is a disk with data, holes and repetitions.
func source(seed uint64) *pipetest.Pattern {
	return pipetest.NewPattern(seed, mortalSize, pipetest.RandomLayout(seed, mortalSize, pipe.Data, pipe.Data, pipe.Data, pipe.Zero)...)
}

// backUp writes a point of two disks and a blob.
func backUp(ctx context.Context, c *Client, opts *pipe.PointOptions, disks map[string]pipe.Image) (string, error) {
	w, err := c.Begin(ctx, "vm", opts)
	if err != nil {
		return "", err
	}
	defer w.Close()
	for key, img := range disks {
		d, err := w.Disk(ctx, key, img.Size())
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
		if err := d.Close(); err != nil { // as who defers it does
			return "", err
		}
	}
	if err := w.Blob(ctx, "config", bytes.NewReader(bytes.Repeat([]byte("config"), 400_000))); err != nil {
		return "", err
	}
	return w.Commit(ctx, map[string]string{"d0": "7"})
}

// harvest counts the places of a disk at which a block was put, in whatever life, and condemns each life at a place of
// its own: the nth when so many places are known. Calls that a condemned life still takes do not count.
type harvest struct {
	condemn []int // ascending

	mu     sync.Mutex
	places map[int64]struct{}
	killed int
}

func (h *harvest) fatal(n int, req wire.Message) bool {
	put, ok := req.(*wire.Put)
	if !ok {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if n != h.killed || n >= len(h.condemn) {
		return false
	}
	h.places[put.Off] = struct{}{}
	if len(h.places) < h.condemn[n] {
		return false
	}
	h.killed++
	return true
}

// RELIABILITY bar 25, 1.2: the target is killed 20 times in the middle of a backup; the point is what the source was,
// and no byte of the source is read twice.
func TestTargetKilledTwentyTimes(t *testing.T) {
	const kills = 20
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	disk := func() pipe.Image { // 81 blocks of data, and a hole
		return pipetest.NewPattern(seed, mortalSize, pipe.Extent{Len: 3 << 20, Kind: pipe.Data}, pipe.Extent{Off: 3 << 20, Len: 1 << 20, Kind: pipe.Zero},
			pipe.Extent{Off: 4 << 20, Len: mortalSize - 4<<20, Kind: pipe.Data})
	}
	h := &harvest{places: map[int64]struct{}{}}
	for n := range kills {
		h.condemn = append(h.condemn, 3*(n+1)+r.IntN(3))
	}
	m := newMortal(t)
	m.fatal = h.fatal
	m.when = func(n int) (uint64, bool) { return 0, n%2 == 0 }
	c := m.client(func(s *settings) { s.Replays = kills })
	src := pipe.Meter(disk())
	id, err := backUp(t.Context(), c, nil, map[string]pipe.Image{"d0": src})
	require.NoError(t, err)
	t.Logf("%+v", c.Stats())
	require.Equal(t, kills, h.killed)
	require.Equal(t, kills+1, m.lives, "every life but the last was ended by us")
	require.Equal(t, kills, c.Stats().Replays)
	m.requirePoint(id, map[string]pipe.Image{"d0": disk()})
	require.Equal(t, []string{id}, m.points())
	require.LessOrEqual(t, src.Counts().Bytes, int64(mortalSize), "nothing is read twice")

	blob, err := c.OpenBlob(t.Context(), id, "config")
	require.NoError(t, err)
	got, err := io.ReadAll(blob)
	require.NoError(t, err)
	require.Equal(t, bytes.Repeat([]byte("config"), 400_000), got)
}

// The same for an increment, whose unchanged ranges are notes too.
func TestTargetKilledInAnIncrement(t *testing.T) {
	m := newMortal(t)
	c := m.client(nil)
	first := source(3)
	base, err := backUp(t.Context(), c, nil, map[string]pipe.Image{"d0": first})
	require.NoError(t, err)
	m.when = func(n int) (uint64, bool) {
		if n > 6 {
			return 0, false
		}
		return uint64(9 * n), n%2 == 0
	}
	m.last.kill()
	changed := pipetest.NewPattern(9, mortalSize, pipe.Extent{Len: 1 << 20, Kind: pipe.Unchanged}, pipe.Extent{Off: 1 << 20, Len: 3 << 20, Kind: pipe.Data},
		pipe.Extent{Off: 4 << 20, Len: mortalSize - 4<<20, Kind: pipe.Unchanged})
	id, err := backUp(t.Context(), c, &pipe.PointOptions{Base: base}, map[string]pipe.Image{"d0": changed})
	require.NoError(t, err)
	require.Greater(t, m.lives, 2)
	want := pipe.NewMemory(mortalSize)
	_, err = pipe.Copy(t.Context(), want, first, nil)
	require.NoError(t, err)
	part := make([]byte, 3<<20)
	_, err = changed.ReadAt(t.Context(), part, 1<<20)
	require.NoError(t, err)
	_, err = want.WriteAt(t.Context(), part, 1<<20)
	require.NoError(t, err)
	m.requirePoint(id, map[string]pipe.Image{"d0": want})
}

// A commit whose answer was lost with the process is found, and not made again.
func TestCommitWhoseAnswerWasLost(t *testing.T) {
	for _, carriedOut := range []bool{true, false} {
		m := newMortal(t)
		m.kind = wire.KindCommit
		m.when = func(n int) (uint64, bool) {
			if n == 0 {
				return 1, carriedOut
			}
			return 0, false
		}
		c := m.client(nil)
		id, err := backUp(t.Context(), c, nil, map[string]pipe.Image{"d0": source(4)})
		require.NoError(t, err)
		require.Equal(t, 2, m.lives)
		require.Equal(t, []string{id}, m.points(), "exactly one point")
		m.requirePoint(id, map[string]pipe.Image{"d0": source(4)})
	}
}

// Each call in turn is the one before which, or behind which, the target dies: the bar "kill -9 of either mover at every
// step". The fast tier takes every third.
func TestTargetKilledAtEveryStep(t *testing.T) {
	small := func() pipe.Image { return pipetest.NewPattern(1, 5*testBlock+100) }
	step := uint64(3)
	if longTier() {
		step = 1
	}
	for i, carriedOut := range []bool{false, true} {
		for n := 1 + uint64(i)%step; ; n += step {
			m := newMortal(t)
			m.when = func(life int) (uint64, bool) {
				if life == 0 {
					return n, carriedOut
				}
				return 0, false
			}
			c := m.client(nil)
			id, err := backUp(t.Context(), c, nil, map[string]pipe.Image{"d0": small(), "d1": small()})
			require.NoError(t, err, "killed at call %d", n)
			m.requirePoint(id, map[string]pipe.Image{"d0": small(), "d1": small()})
			require.Equal(t, []string{id}, m.points(), "killed at call %d", n)
			if m.lives == 1 {
				require.Greater(t, n, uint64(10))
				break
			}
		}
	}
}

// A target that falls over the point itself is not started for ever.
func TestReplaysEnd(t *testing.T) {
	m := newMortal(t)
	m.kind = wire.KindPut
	m.when = func(int) (uint64, bool) { return 1, false }
	c := m.client(nil)
	_, err := backUp(t.Context(), c, nil, map[string]pipe.Image{"d0": source(5)})
	require.ErrorIs(t, err, ErrLostContent)
	require.Less(t, m.lives, 10)
	require.Empty(t, m.points())
}

// A block that stands in many places is brought once, whatever has to be put back.
func TestReplayBringsABlockOnce(t *testing.T) {
	m := newMortal(t)
	m.kind = wire.KindSealDisk
	m.when = func(n int) (uint64, bool) { return uint64(1 - min(n, 1)), false }
	c := m.client(nil)
	block := make([]byte, testBlock)
	_, _ = rand.NewChaCha8([32]byte{5}).Read(block)
	src := pipetest.Bytes(bytes.Repeat(block, 1500))
	id, err := backUp(t.Context(), c, nil, map[string]pipe.Image{"d0": src})
	require.NoError(t, err)
	require.Equal(t, 2, m.lives)
	require.LessOrEqual(t, c.Stats().Resent, int64(testBlock))
	m.requirePoint(id, map[string]pipe.Image{"d0": src})
}

// What is neither known nor kept ends the writer, and the next attempt finds what became durable.
func TestLostContentIsSaidAndTheNextAttemptIsRight(t *testing.T) {
	m := newMortal(t)
	m.kind = wire.KindSealDisk
	m.when = func(n int) (uint64, bool) {
		if n == 0 {
			return 1, false
		}
		return 0, false
	}
	c := m.client(func(s *settings) { s.Keep, s.impatient, s.patience = 512<<10, 1, 1 })
	_, err := backUp(t.Context(), c, nil, map[string]pipe.Image{"d0": source(6)})
	require.ErrorIs(t, err, ErrLostContent)
	require.Positive(t, c.Stats().Unkept)
	id, err := backUp(t.Context(), c, nil, map[string]pipe.Image{"d0": source(6)})
	require.NoError(t, err)
	m.requirePoint(id, map[string]pipe.Image{"d0": source(6)})
	require.Equal(t, []string{id}, m.points())
}

// An image that is being read is opened again.
func TestReadingGoesOnInTheNextLife(t *testing.T) {
	m := newMortal(t)
	c := m.client(nil)
	id, err := backUp(t.Context(), c, nil, map[string]pipe.Image{"d0": source(7)})
	require.NoError(t, err)
	img, err := c.Open(t.Context(), id, "d0")
	require.NoError(t, err)
	defer img.Close()
	m.when = func(n int) (uint64, bool) {
		if n > 3 {
			return 0, false
		}
		return uint64(3 * n), n%2 == 1
	}
	m.last.kill()
	diff, err := pipe.Compare(t.Context(), img, source(7), nil)
	require.NoError(t, err)
	require.Empty(t, diff)
	require.Greater(t, m.lives, 3)
}

// A caller that goes away while the point is put back does not spoil it for others.
func TestReplayThatIsCancelledStartsAgain(t *testing.T) {
	m := newMortal(t)
	c := m.client(nil)
	w, err := c.Begin(t.Context(), "vm", nil)
	require.NoError(t, err)
	defer w.Close()
	src := source(8)
	d, err := w.Disk(t.Context(), "d0", src.Size())
	require.NoError(t, err)
	_, err = pipe.Copy(t.Context(), d, src, nil)
	require.NoError(t, err)
	hole := pipe.Extent{Len: testBlock}
	require.NoError(t, d.(pipe.ExtentTarget).Mark(t.Context(), hole))
	for range 3 {
		m.last.kill()
		ctx, cancel := context.WithCancel(t.Context())
		m.when = func(int) (uint64, bool) { cancel(); return 0, false }
		require.ErrorIs(t, d.(pipe.ExtentTarget).Mark(ctx, hole), context.Canceled)
	}
	require.NoError(t, d.Commit(t.Context()))
	id, err := w.Commit(t.Context(), nil)
	require.NoError(t, err)
	want := pipe.NewMemory(src.Size())
	_, err = pipe.Copy(t.Context(), want, src, nil)
	require.NoError(t, err)
	require.NoError(t, want.Mark(t.Context(), hole))
	m.requirePoint(id, map[string]pipe.Image{"d0": want})
}
