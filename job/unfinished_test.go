package job

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/storetest"
)

// mortal is a repository, and sessions into it that die: from a moment on nothing that they do reaches the store or the host.
type mortal struct {
	t     *testing.T
	h     *host
	st    store.Store
	state string
	net   *storetest.Faulty
	r     *repo.Repository
	dead  atomic.Bool
}

func init() { checkpointLook = 5 * time.Millisecond }

var errDead = errors.New("the process is dead")

func newMortal(t *testing.T, h *host) *mortal {
	m := &mortal{t: t, h: h, st: memstore.New(nil), state: t.TempDir()}
	h.early = true
	r, err := repo.Init(t.Context(), m.st, nil, &repo.InitOptions{BlockSize: block, NoEncryption: true}, &repo.OpenOptions{StateDir: m.state})
	require.NoError(t, err)
	require.NoError(t, r.Close())
	m.open()
	t.Cleanup(func() { m.r.Close() })
	return m
}

// open is what the next process does.
func (m *mortal) open() {
	m.t.Helper()
	m.net = storetest.NewFaulty(m.st)
	m.dead.Store(false)
	m.h.hook = func(op string) error {
		if m.dead.Load() {
			return errDead
		}
		return nil
	}
	var err error
	m.r, err = repo.Open(m.t.Context(), m.net, nil, &repo.OpenOptions{StateDir: m.state})
	require.NoError(m.t, err)
}

func (m *mortal) die() {
	m.net.Add(storetest.Fault{Sticky: true, Err: errDead})
	m.dead.Store(true)
}

// slow reads so slowly that there are checkpoints in between.
func slow(_ context.Context, _ hikae.Disk, img pipe.Image) (pipe.Image, error) {
	return &slowImage{Image: img}, nil
}

type slowImage struct {
	pipe.Image
	turn sync.Mutex
}

func (s *slowImage) Unwrap() pipe.Image { return s.Image }

func (s *slowImage) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	s.turn.Lock()
	time.Sleep(time.Duration(len(p)) * time.Second / (40 << 20))
	s.turn.Unlock()
	return s.Image.ReadAt(ctx, p, off)
}

// pace lets a copy read no further than some steps ahead of what was made durable.
type pace struct {
	step int64       // bytes
	over func() bool // no checkpoint comes any more; nil: never

	mu    sync.Mutex
	read  int64
	count int
	more  chan struct{} // closed with the next checkpoint
}

func newPace(step int64) *pace { return &pace{step: step, more: make(chan struct{})} }

// note counts checkpoints, and says how many there were; zero for other events.
func (p *pace) note(e Event) int {
	if _, ok := e.(Unfinished); !ok {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count++
	close(p.more)
	p.more = make(chan struct{})
	return p.count
}

func (p *pace) wrap(_ context.Context, _ hikae.Disk, img pipe.Image) (pipe.Image, error) {
	return &pacedImage{img, p}, nil
}

type pacedImage struct {
	pipe.Image
	pace *pace
}

func (i *pacedImage) Unwrap() pipe.Image { return i.Image }

func (i *pacedImage) ReadAt(ctx context.Context, b []byte, off int64) (int, error) {
	if err := i.pace.wait(ctx, int64(len(b))); err != nil {
		return 0, err
	}
	return i.Image.ReadAt(ctx, b, off)
}

func (p *pace) wait(ctx context.Context, n int64) error {
	late := time.NewTimer(20 * time.Second) // no checkpoint comes any more: that is the test's to find out
	defer late.Stop()
	for {
		p.mu.Lock()
		more := p.more
		may := p.read == 0 || p.read+n <= p.step*int64(p.count+2)
		if may {
			p.read += n
		}
		p.mu.Unlock()
		if may || p.over != nil && p.over() {
			return nil
		}
		select {
		case <-more:
		case <-time.After(10 * time.Millisecond):
		case <-late.C:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// crash runs a backup that dies with its nth checkpoint, and opens the repository as the next process does, with what the dead
// session left swept.
func (m *mortal) crash(n int, opts BackupOptions) {
	m.t.Helper()
	p := newPace(1 << 20)
	opts.CheckpointBytes, opts.Wrap, opts.BufferBytes = 1, p.wrap, 1<<20
	opts.Events = func(e Event) {
		if p.note(e) == n {
			m.die()
		}
	}
	res, err := Backup(m.t.Context(), m.h, "", m.r, &opts)
	require.ErrorIs(m.t, err, errDead)
	require.Empty(m.t, res.Point)
	m.r.Close()
	m.open()
	m.sweep()
}

func (m *mortal) sweep() {
	m.t.Helper()
	keep, err := KeepIDs(m.t.Context(), m.r)
	require.NoError(m.t, err)
	m.h.sweep(keep)
}

// left is the unfinished point of the VM, and how many bytes of it are durable and were not in a base.
func (m *mortal) left() (found []pipe.UnfinishedPoint) {
	m.t.Helper()
	for p, err := range m.r.Unfinished(m.t.Context(), "") {
		require.NoError(m.t, err)
		found = append(found, p)
	}
	return found
}

func pendingOf(p pipe.UnfinishedPoint) (n int64) {
	for _, list := range p.Pending {
		n += total(list)
	}
	return n
}

func readOf(res Result) (n int64) {
	for _, d := range res.Disks {
		n += d.Read
	}
	return n
}

// dense is a host whose disks are full of data.
func dense(seed uint64, sizes ...int64) *host {
	h := newHost(sizes...)
	r := rand.New(rand.NewPCG(seed, 7))
	for _, key := range h.order {
		data := h.disks[key].data
		for i := 0; i < len(data); i += 8 {
			for j, v := 0, r.Uint64(); j < min(8, len(data)-i); j++ {
				data[i+j] = byte(v >> (8 * j))
			}
		}
	}
	return h
}

// A session that died costs the next one what was not durable, and no more: it reads that and what has changed since.
func TestGoesOnFromDurableBlocks(t *testing.T) {
	const size = 7<<20 + 512
	m := newMortal(t, dense(1, size))
	m.crash(4, BackupOptions{})
	left := m.left()
	require.Len(t, left, 1)
	require.Equal(t, "web1", left[0].VM)
	require.Empty(t, pointsOf(t, m.r))
	pending := pendingOf(left[0])
	require.Less(t, pending, int64(size*9/10))
	require.Positive(t, pending)

	m.h.write("d0", []byte("news in what was durable"), 3*block+9)
	m.h.write("d0", []byte("news in what was not"), size-100)
	res := run(t, m.h, m.r, &BackupOptions{Sample: -1})
	require.Equal(t, left[0].ID, res.Resumed)
	require.Equal(t, Changed, res.Disks[0].Method)
	require.Empty(t, res.Fallbacks)
	require.Empty(t, res.Warnings)
	durable := size - pending
	require.LessOrEqual(t, readOf(res), pending+2*block+durable/100)
	requirePoint(t, m.r, res.Point, m.h)
	require.Empty(t, m.left(), "it goes with the commit")
	require.Len(t, pointsOf(t, m.r), 1)
	require.Len(t, m.h.bases("d0"), 1, "the bases of both moments before are gone")
	p, err := FindPoint(t.Context(), m.r, res.Point)
	require.NoError(t, err)
	require.Empty(t, p.Facts["base"])
	requireGood(t, m.r)
}

func requireGood(t *testing.T, r *repo.Repository) {
	t.Helper()
	report, err := r.Verify(t.Context(), &repo.VerifyOptions{DataPercent: 100})
	require.NoError(t, err)
	require.True(t, report.OK, report)
}

// The same onto a base: of the ranges that changed since it those that were not durable are read, and of the rest of the disk
// what has changed since. The second of two disks was not begun when the session died.
func TestGoesOnWithAnIncrement(t *testing.T) {
	m := newMortal(t, dense(2, 12<<20, 3<<20))
	first := run(t, m.h, m.r, nil)
	fresh := make([]byte, 8<<20)
	rnd := rand.New(rand.NewPCG(5, 5))
	for i := range fresh {
		fresh[i] = byte(rnd.Uint32())
	}
	m.h.write("d0", fresh, 2<<20)
	m.h.write("d1", fresh[:block], 1<<20)
	m.crash(4, BackupOptions{})
	left := m.left()
	require.Len(t, left, 1)
	require.Equal(t, first.Point, left[0].Base)
	require.Equal(t, []string{first.Point}, pointsOf(t, m.r), "it is listed with no points")
	require.Len(t, m.h.bases("d0"), 2, "the committed point's base and the unfinished one's are both kept")
	pending := pendingOf(left[0])
	require.Less(t, pending, int64(len(fresh)+block))
	require.Equal(t, int64(block), total(left[0].Pending["d1"]), "the disk that was not begun")

	m.h.write("d0", []byte("more"), 11<<20)
	res := run(t, m.h, m.r, &BackupOptions{Sample: -1})
	require.Equal(t, left[0].ID, res.Resumed)
	require.Equal(t, first.Point, res.Base)
	require.LessOrEqual(t, readOf(res), pending+block+int64(len(fresh))/100)
	requirePoint(t, m.r, res.Point, m.h)
	requireGood(t, m.r)
	for _, key := range m.h.order {
		require.Len(t, m.h.bases(key), 1)
	}

	// And the increment after that is one as ever.
	m.h.write("d0", []byte("x"), 9)
	next := run(t, m.h, m.r, &BackupOptions{Sample: -1})
	require.Equal(t, int64(block), readOf(next))
	requirePoint(t, m.r, next.Point, m.h)
}

// A session that goes on may die, too: its unfinished point takes the place of the one before, and so does its base.
func TestGoesOnTwice(t *testing.T) {
	const size = 7 << 20
	m := newMortal(t, dense(3, size))
	m.crash(2, BackupOptions{})
	first := m.left()[0]
	m.h.write("d0", []byte("between"), 5)
	m.crash(3, BackupOptions{Sample: -1})
	left := m.left()
	require.Len(t, left, 1)
	require.NotEqual(t, first.ID, left[0].ID)
	require.Less(t, pendingOf(left[0]), pendingOf(first))
	require.Len(t, m.h.bases("d0"), 1, "the sweep removes the first one's base")
	m.h.write("d0", []byte("again"), size/2)
	res := run(t, m.h, m.r, &BackupOptions{Sample: -1})
	require.LessOrEqual(t, readOf(res), pendingOf(left[0])+block)
	requirePoint(t, m.r, res.Point, m.h)
	requireGood(t, m.r)
}

// A session that fails and can still clean up keeps what was durable just the same; both bases stay, and no others.
func TestGoesOnAfterAFailure(t *testing.T) {
	m := newMortal(t, dense(4, 8<<20))
	first := run(t, m.h, m.r, nil)
	m.h.write("d0", m.h.content("d0")[:6<<20], 1<<20)
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		p := newPace(1 << 20)
		_, err := Backup(ctx, m.h, "", m.r, &BackupOptions{CheckpointBytes: 1, Wrap: p.wrap, BufferBytes: 1 << 20, Sample: -1, Events: func(e Event) {
			if p.note(e) == 1 {
				cancel()
			}
		}})
		require.ErrorIs(t, err, context.Canceled)
		require.Zero(t, m.h.snapshots)
		require.Len(t, m.h.bases("d0"), 2)
	}
	pending := pendingOf(m.left()[0])
	res := run(t, m.h, m.r, &BackupOptions{Sample: -1})
	require.Equal(t, first.Point, res.Base)
	require.NotEmpty(t, res.Resumed)
	require.LessOrEqual(t, readOf(res), pending+block)
	requirePoint(t, m.r, res.Point, m.h)
	require.Len(t, m.h.bases("d0"), 1)
}

// What happens between the crash and the next run.
func TestBetweenCrashAndNextRun(t *testing.T) {
	tests := []struct {
		name    string
		between func(t *testing.T, m *mortal, first Result)
		resumes bool
	}{
		{"a prune", func(t *testing.T, m *mortal, _ Result) {
			rep, err := m.r.Prune(t.Context(), &repo.PruneOptions{Wait: -1, MaxUnused: 0.001})
			require.NoError(t, err, rep)
		}, true},
		{"the base is forgotten and a prune", func(t *testing.T, m *mortal, first Result) {
			require.NoError(t, m.r.Forget(t.Context(), []string{first.Point}, ""))
			_, err := m.r.Prune(t.Context(), &repo.PruneOptions{Wait: -1})
			require.NoError(t, err)
			m.sweep()
		}, true},
		{"the unfinished point is forgotten", func(t *testing.T, m *mortal, _ Result) {
			require.NoError(t, m.r.Forget(t.Context(), []string{m.left()[0].ID}, ""))
			_, err := m.r.Prune(t.Context(), &repo.PruneOptions{Wait: -1})
			require.NoError(t, err)
			m.sweep()
		}, false},
		{"tracking of the unfinished moment is lost", func(_ *testing.T, m *mortal, _ Result) {
			for _, d := range m.h.disks {
				d.bases = d.bases[:1]
			}
		}, false},
		{"all tracking is lost", func(_ *testing.T, m *mortal, _ Result) {
			for _, d := range m.h.disks {
				d.bases = nil
			}
		}, true},
		{"a disk was resized, another removed, one is new", func(_ *testing.T, m *mortal, _ Result) {
			d := m.h.disks["d0"]
			d.data = append(d.data, 1, 2, 3)
			d.bases = nil
			delete(m.h.disks, "d1")
			m.h.order = []string{"d0"}
			m.h.addDisk("d2", 3*block)
			m.h.write("d2", []byte("new"), 5)
		}, false},
		{"a disk was resized, another stayed, one is new", func(_ *testing.T, m *mortal, _ Result) {
			d := m.h.disks["d0"]
			d.data = append(d.data, 1, 2, 3)
			d.bases = nil
			m.h.addDisk("d2", 3*block)
			m.h.write("d2", []byte("new"), 5)
		}, true},
		{"the disks are listed in another order", func(_ *testing.T, m *mortal, _ Result) { m.h.order = []string{"d1", "d0"} }, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := newMortal(t, dense(6, 6<<20+100, 1<<20))
			first := run(t, m.h, m.r, nil)
			m.h.write("d0", m.h.content("d0")[:4<<20], 1<<20)
			m.h.write("d1", []byte("x"), 1<<19)
			m.crash(2, BackupOptions{Sample: -1})
			m.h.write("d0", []byte("y"), 4<<20)
			tt.between(t, m, first)
			res := run(t, m.h, m.r, &BackupOptions{Sample: -1})
			require.Equal(t, tt.resumes, res.Resumed != "", res.Notes)
			require.Empty(t, res.Warnings)
			requirePoint(t, m.r, res.Point, m.h)
			require.Empty(t, m.left())
			requireGood(t, m.r)
		})
	}
}

// Whatever call of the store a session dies in while it copies and commits, the next one's point is right, whatever it was
// built on.
func TestDeathAtAnyCall(t *testing.T) {
	rnd := rand.New(rand.NewPCG(9, 9))
	m := newMortal(t, dense(7, 4<<20))
	resumed := 0
	for n := 1; ; n += 1 + n/4 {
		scribble(m.h, rnd, "d0", 4)
		m.h.hook = func(op string) error {
			if m.net.Fired() > 0 {
				return errDead
			}
			return nil
		}
		paced := newPace(1 << 20)
		paced.over = func() bool { return m.net.Fired() > 0 }
		_, err := Backup(t.Context(), m.h, "", m.r, &BackupOptions{
			CheckpointBytes: 1, Full: n%4 != 0, Wrap: paced.wrap, BufferBytes: 1 << 20, Events: func(e Event) {
				paced.note(e)
				if p, ok := e.(PhaseStarted); ok && p.Phase == PhaseCopy {
					m.net.Add(storetest.Fault{N: n, Sticky: true, Err: errDead, Mode: storetest.Mode(n % 2)})
				}
			},
		})
		m.r.Close()
		fired := m.net.Fired() > 0
		m.open()
		m.sweep()
		scribble(m.h, rnd, "d0", 2)
		res := run(t, m.h, m.r, &BackupOptions{Full: n%7 == 0})
		if res.Resumed != "" {
			resumed++
		}
		requirePoint(t, m.r, res.Point, m.h)
		require.Empty(t, m.left())
		require.Len(t, m.h.bases("d0"), 1)
		require.NoError(t, m.r.Forget(t.Context(), slices.DeleteFunc(pointsOf(t, m.r), func(id string) bool { return id == res.Point }), ""))
		if !fired {
			require.NoError(t, err)
			break
		}
	}
	t.Logf("%d went on", resumed)
	require.Positive(t, resumed)
	requireGood(t, m.r)
}

// Where nothing tells a snapshot's change ids early, or points go where none are unfinished, a long session says so.
func TestSaysThatItWouldBeginAnew(t *testing.T) {
	h := dense(8, 4<<20)
	res, err := Backup(t.Context(), h, "", newRepository(t), &BackupOptions{CheckpointBytes: 1, Wrap: slow})
	require.NoError(t, err)
	require.Contains(t, res.Notes, "a session that breaks off here begins anew: the source does not tell the change ids of a snapshot before its end")

	m := newMortal(t, h)
	h.noTracking = true
	res, err = Backup(t.Context(), h, "", m.r, &BackupOptions{CheckpointBytes: 1, Wrap: slow})
	require.NoError(t, err)
	require.Contains(t, res.Notes, "a session that breaks off here begins anew: "+errUntracked.Error())
	require.Empty(t, m.left())
}

// A moment of which it is not sure any more that what was read is of it makes no unfinished point.
func TestDoubtfulMomentIsNotKept(t *testing.T) {
	m := newMortal(t, dense(9, 4<<20))
	m.h.hook = func(op string) error {
		if op == "early" {
			return errors.New("the snapshot is gone")
		}
		return nil
	}
	res, err := Backup(t.Context(), m.h, "", m.r, &BackupOptions{CheckpointBytes: 1, Wrap: slow, Events: func(e Event) {
		_, ok := e.(Unfinished)
		require.False(t, ok)
	}})
	require.NoError(t, err)
	require.Contains(t, res.Notes[len(res.Notes)-1], "could not be made durable")
	require.Empty(t, m.left())
}
