package repo

import (
	"context"
	"errors"
	stdflag "flag"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
)

// turns lets clients of one store take turns: each call of each client waits until it is told to go on.
type turns struct {
	mu      sync.Mutex
	changed *sync.Cond
	waiting [][]chan struct{} // by client: calls that wait
	busy    []bool            // by client: it is at work on a command
	free    bool              // nobody waits any more
}

func newTurns(clients int) *turns {
	s := &turns{waiting: make([][]chan struct{}, clients), busy: make([]bool, clients)}
	s.changed = sync.NewCond(&s.mu)
	return s
}

func (s *turns) wait(client int) {
	s.mu.Lock()
	if s.free {
		s.mu.Unlock()
		return
	}
	c := make(chan struct{})
	s.waiting[client] = append(s.waiting[client], c)
	s.changed.Broadcast()
	s.mu.Unlock()
	<-c
}

func (s *turns) work(client int, on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy[client] = on
	s.changed.Broadcast()
}

// next lets one call of a client go on: of client i, or where that has none, of the next one that has. It returns false when
// no client is at work.
func (s *turns) next(i int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.settled() {
		s.changed.Wait()
	}
	for k := range s.waiting {
		c := (i + k) % len(s.waiting)
		if w := s.waiting[c]; len(w) > 0 {
			s.waiting[c] = w[1:]
			close(w[0])
			return true
		}
	}
	return slices.Contains(s.busy, true)
}

// settled: every client that is at work waits for its turn.
func (s *turns) settled() bool {
	for c, busy := range s.busy {
		if busy && len(s.waiting[c]) == 0 {
			return false
		}
	}
	return true
}

func (s *turns) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free = true
	for c := range s.waiting {
		for _, w := range s.waiting[c] {
			close(w)
		}
		s.waiting[c] = nil
	}
}

// turnStore is the store as one client has it.
type turnStore struct {
	store.Store
	turns  *turns
	client int
}

func (s *turnStore) Unwrap() store.Store { return s.Store }

func (s *turnStore) Create(ctx context.Context, name string, data []byte) error {
	s.turns.wait(s.client)
	return s.Store.Create(ctx, name, data)
}

func (s *turnStore) Remove(ctx context.Context, name string) error {
	s.turns.wait(s.client)
	return s.Store.Remove(ctx, name)
}

func (s *turnStore) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	if s.client == modelReader && !strings.Contains(name, "log/") { // of the others it is of no matter when they read
		s.turns.wait(s.client)
	}
	return s.Store.ReadAt(ctx, name, p, off)
}

func (s *turnStore) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	s.turns.wait(s.client)
	return s.Store.List(ctx, prefix)
}

// history is what writers, pruners and a reader of one store do, and what must come of it.
type history struct {
	st    *memstore.Store
	turns *turns

	mu     sync.Mutex
	points map[string][]uint64 // those whose commit was reported, and which nobody has begun to forget
	maybe  map[string]bool     // whose forgetting has begun
	errs   []error
}

func (h *history) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.errs = append(h.errs, err)
}

// any is one of the points, by number.
func (h *history) any(n int) (id string, blocks []uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var ids []string
	for id := range h.points {
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return "", nil
	}
	slices.Sort(ids)
	id = ids[n%len(ids)]
	return id, h.points[id]
}

// contentOf gives disks that share blocks with each other, across VMs and times.
func contentOf(n int) []uint64 {
	var list []uint64
	for i := range 9 {
		list = append(list, uint64(1+(n*5+i*(1+n%3))%23))
	}
	return list
}

// tolerable are errors that a client may meet because of what others do.
func tolerable(err error) bool {
	var busy *BusyError
	return err == nil || errors.Is(err, ErrRevoked) || errors.Is(err, ErrForgotten) || errors.As(err, &busy) || errors.Is(err, errAppendRefused)
}

func (h *history) write(r *Repository, n int) {
	ctx := context.Background()
	base := ""
	if n%2 == 0 {
		base, _ = h.any(n)
	}
	blocks := contentOf(n)
	id, err := keepPoint(ctx, r, fmt.Sprint("vm", n%2), noiseDisk(blocks...), base)
	if err != nil {
		if !tolerable(err) && !strings.Contains(err.Error(), "not exist") { // the base may have gone before it was pinned
			h.fail(fmt.Errorf("write %d: %w", n, err))
		}
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.points[id] = blocks
}

func (h *history) forget(r *Repository, n int) {
	id, _ := h.any(n)
	if id == "" {
		return
	}
	h.mu.Lock()
	h.maybe[id] = true
	delete(h.points, id)
	h.mu.Unlock()
	if err := r.Forget(context.Background(), []string{id}, ""); !tolerable(err) && !strings.Contains(err.Error(), "not exist") {
		h.fail(fmt.Errorf("forget: %w", err))
	}
}

func (h *history) prune(r *Repository, n int) {
	opts := &PruneOptions{Wait: -1, MaxUnused: []float64{0.0001, 20, -1}[n%3]}
	if _, err := r.Prune(context.Background(), opts); !tolerable(err) {
		h.fail(fmt.Errorf("prune: %w", err))
	}
}

func (h *history) read(r *Repository, n int) {
	id, blocks := h.any(n)
	if id == "" {
		return
	}
	err := sameDisk(context.Background(), r, id, noiseDisk(blocks...))
	h.mu.Lock()
	gone := h.maybe[id]
	h.mu.Unlock()
	if err != nil && !(gone && (errors.Is(err, ErrForgotten) || strings.Contains(err.Error(), "not exist"))) {
		h.fail(fmt.Errorf("read %s: %w", id, err))
	}
}

// revoke ends the oldest lease of a writer or pruner, as a pruner does that takes it for dead: whoever it was is a zombie now.
func (h *history) revoke(r *Repository) {
	ctx := context.Background()
	key, err := r.signingKey(ctx)
	if err == nil {
		_, err = r.log.append(ctx, key, func() (*record, error) {
			for n := uint64(1); n <= r.log.n; n++ {
				if s := r.log.leases[n]; s != nil && !s.over {
					return &record{Kind: recordRevoke, Lease: n}, nil
				}
			}
			return nil, errAppendRefused
		})
	}
	if !tolerable(err) {
		h.fail(fmt.Errorf("revoke: %w", err))
	}
}

const (
	modelWriters = 3
	modelPruners = 2
	modelReader  = modelWriters + modelPruners
	modelClients = modelReader + 1
)

// run plays a history: each client has its commands, and order says whose call is next.
func (h *history) run(t *rapid.T, start *memstore.Store, commands [][]int, order []int, zombies bool) {
	var all sync.WaitGroup
	for c := range modelClients {
		h.turns.work(c, true)
		all.Go(func() {
			defer h.turns.work(c, false)
			r, err := Open(context.Background(), &turnStore{start, h.turns, c}, innerKey, nil)
			if err != nil {
				h.fail(err)
				return
			}
			for _, n := range commands[c] {
				switch {
				case c < modelWriters && n%5 == 4:
					h.forget(r, n)
				case c < modelWriters:
					h.write(r, n)
				case c < modelReader && zombies && n%4 == 3:
					h.revoke(r)
				case c < modelReader:
					h.prune(r, n)
				default:
					h.read(r, n)
				}
			}
			if err := r.Close(); !tolerable(err) {
				h.fail(fmt.Errorf("close: %w", err))
			}
		})
	}
	ended := make(chan struct{})
	go func() { all.Wait(); close(ended) }()
	go func() {
		for i := 0; ; i++ {
			c := i
			if i < len(order) {
				c = order[i]
			}
			if !h.turns.next(c) {
				return
			}
		}
	}()
	select {
	case <-ended:
		h.turns.release()
	case <-time.After(time.Minute):
		t.Fatalf("the clients do not come to an end")
	}
}

// check opens what is left with another client: every point that was reported and not forgotten restores, nothing refers to
// what is gone, and one more prune leaves no leak.
func (h *history) check(t *rapid.T) {
	ctx := context.Background()
	require.Empty(t, h.errs)
	r, err := Open(ctx, h.st, innerKey, nil)
	require.NoError(t, err)
	defer r.Close()
	listed := map[string]bool{}
	for p, err := range r.Points(ctx, "") {
		require.NoError(t, err)
		listed[p.ID] = true
	}
	for id, blocks := range h.points {
		require.True(t, listed[id], "point %s", id)
		require.NoError(t, sameDisk(ctx, r, id, noiseDisk(blocks...)))
	}
	rep, err := r.Verify(ctx, &VerifyOptions{DataPercent: 100})
	require.NoError(t, err)
	require.True(t, rep.OK, "%+v", rep)
	var open []uint64
	r.log.view(func(l *ledger) { open = l.openBelow(l.n+1, 0) })
	for range open {
		h.revoke(r)
	}
	for range 2 {
		_, err = r.Prune(ctx, &PruneOptions{Wait: -1, MaxUnused: 0.0001})
		require.NoError(t, err)
	}
	rep, err = r.Verify(ctx, &VerifyOptions{DataPercent: 100})
	require.NoError(t, err)
	require.True(t, rep.OK, "%+v", rep)
	require.Zero(t, rep.Reclaimable)
	for id, blocks := range h.points {
		require.NoError(t, sameDisk(ctx, r, id, noiseDisk(blocks...)))
	}
}

// modelStart is a repository with points, most of them forgotten, made once.
var modelStart = sync.OnceValues(func() (*memstore.Store, map[string][]uint64) {
	ctx := context.Background()
	st := memstore.New(nil)
	h, slot, err := newRepository(innerKey, &InitOptions{BlockSize: minBlockSize})
	if err == nil {
		h.PackSize = 8 * minBlockSize
		err = create(ctx, st, innerKey, h, slot)
	}
	var r *Repository
	if err == nil {
		r, err = Open(ctx, st, innerKey, nil)
	}
	points := map[string][]uint64{}
	for n := range 6 { // most of them forgotten: what writers will bring again lies in packs that nobody needs
		if err == nil {
			var id string
			id, err = keepPoint(ctx, r, fmt.Sprint("vm", n), noiseDisk(contentOf(n)...), "")
			if err == nil && n%3 > 0 {
				err = r.Forget(ctx, []string{id}, "")
			} else {
				points[id] = contentOf(n)
			}
		}
	}
	if err == nil {
		err = r.Close()
	}
	if err != nil {
		panic(err)
	}
	return st, points
})

// RELIABILITY bar 28, hazards H01, H02: histories of three writers, two pruners, one reader, and what takes some of them for
// dead, whose calls come in any order. Nothing that was reported is ever lost, and nothing refers to what is gone.
func TestHistoriesOfWritersAndPruners(t *testing.T) {
	lanes, checks := figureOf(1, 2, 4), figureOf("12", "500", "2500") // side by side: a history waits for its own turns most of the time
	f := stdflag.Lookup("rapid.checks")
	before := f.Value.String()
	require.NoError(t, f.Value.Set(checks))
	t.Cleanup(func() { require.NoError(t, f.Value.Set(before)) })
	for range lanes {
		t.Run("lane", func(t *testing.T) {
			t.Parallel()
			histories(t)
		})
	}
}

func histories(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		st, points := modelStart()
		h := &history{st: st.Clone(), turns: newTurns(modelClients), points: map[string][]uint64{}, maybe: map[string]bool{}}
		for id, blocks := range points {
			h.points[id] = blocks
		}
		commands := rapid.SliceOfN(rapid.SliceOfN(rapid.IntRange(0, 59), 1, 4), modelClients, modelClients).Draw(t, "commands")
		runs := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) [2]int {
			return [2]int{rapid.IntRange(0, modelClients-1).Draw(t, "client"), rapid.SampledFrom([]int{1, 2, 5, 10, 20, 40, 80, 300}).Draw(t, "calls")}
		}), 0, 40).Draw(t, "order")
		var order []int
		for _, run := range runs {
			order = append(order, slices.Repeat([]int{run[0]}, run[1])...)
		}
		h.run(t, h.st, commands, order, rapid.Bool().Draw(t, "zombies"))
		h.check(t)
	})
}
