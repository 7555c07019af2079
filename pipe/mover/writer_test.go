package mover

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/blake3"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
	"github.com/hikae/hikae/pipe/pipetest"
)

// A source that was frozen and wakes up finds that a later session of the same peer has taken its VM: it can commit
// nothing, and what the later one writes is whole.
func TestFencing(t *testing.T) {
	t.Parallel()
	p := newPlace(t, nil)
	frozen, later := p.session("web", trust.Append, nil), p.session("web", trust.Append, nil)
	old, elsewhere := newPoint(t, frozen, "vm1", testBlock), newPointAt(t, frozen, 10, "vm2", testBlock)
	do[*wire.Placed](t, frozen, 20, old.block(0, chacha(1, testBlock)))
	do[*wire.OK](t, frozen, 21, &wire.SealDisk{Disk: old.disk})

	now := newPoint(t, later, "vm1", testBlock)
	for i, m := range []wire.Message{
		&wire.Commit{Writer: old.writer}, &wire.StartDisk{Writer: old.writer, Key: "disk1", Size: 1},
		&wire.StartBlob{Writer: old.writer, Name: "x"}, &wire.Usage{Writer: old.writer},
	} {
		fails(t, frozen, uint64(30+i), wire.CodeFenced, m)
	}
	do[*wire.OK](t, frozen, 40, &wire.DropPoint{Writer: old.writer})
	do[*wire.Placed](t, later, now.next(), now.block(0, chacha(2, testBlock)))
	id := now.commit(t)
	requireSame(t, p.repo, id, pipetest.Bytes(chacha(2, testBlock)))
	require.Len(t, do[*wire.PointList](t, later, now.next(), &wire.Points{VM: "vm1"}).Points, 1)

	// Another VM of the frozen session was not touched, and neither would have been another peer's of the same name.
	do[*wire.Placed](t, frozen, 50, elsewhere.block(0, chacha(3, testBlock)))
	elsewhere.call = 51
	elsewhere.commit(t)
	other := newPoint(t, p.session("db", trust.Append, nil), "vm1", testBlock)
	newPointAt(t, later, now.next()+100, "vm1", testBlock)
	do[*wire.Placed](t, other.handler, other.next(), other.block(0, chacha(2, testBlock)))
	other.commit(t)
}

// slow is a backend whose calls of one kind wait until they are let go, deaf to their contexts: a disk that hangs.
type slow struct {
	pipe.Backend
	begun, goOn chan struct{}
}

func (s *slow) Begin(ctx context.Context, vm string, opts *pipe.PointOptions) (pipe.PointWriter, error) {
	w, err := s.Backend.Begin(ctx, vm, opts)
	return &slowWriter{w, s}, err
}

type slowWriter struct {
	pipe.PointWriter
	s *slow
}

func (w *slowWriter) Commit(ctx context.Context, tracking map[string]string) (string, error) {
	w.s.begun <- struct{}{}
	<-w.s.goOn
	return w.PointWriter.Commit(context.WithoutCancel(ctx), tracking)
}

// A commit that is under way when its attempt is made again ends first. Then the new one is told of the point, and
// nothing is committed twice; another attempt begins behind it.
func TestCommitUnderWay(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]string{"the same attempt": "a", "another": "b"} {
		t.Run(name, func(t *testing.T) {
			s := &slow{begun: make(chan struct{}), goOn: make(chan struct{})}
			p := newPlace(t, func(h *host) { s.Backend, h.backend = h.backend, s })
			old := p.session("web", trust.Append, nil)
			b := do[*wire.Begun](t, old, 1, &wire.Begin{VM: "vm1", Facts: map[string]string{SessionFact: "a"}})
			committed := make(chan error, 1)
			go func() {
				_, err := old.Handle(context.Background(), 2, &wire.Commit{Writer: b.Writer})
				committed <- err
			}()
			<-s.begun
			begun := make(chan error, 1)
			later := p.session("web", trust.Append, nil)
			go func() {
				_, err := later.Handle(context.Background(), 1, &wire.Begin{VM: "vm1", Facts: map[string]string{SessionFact: again}})
				begun <- err
			}()
			select {
			case err := <-begun:
				t.Fatal("a point was begun while another of the VM was being committed", err)
			case <-time.After(50 * time.Millisecond):
			}
			close(s.goOn)
			require.NoError(t, <-committed)
			err := <-begun
			list := do[*wire.PointList](t, later, 3, &wire.Points{})
			require.Len(t, list.Points, 1)
			if again == "b" {
				require.NoError(t, err)
				return
			}
			f, ok := errors.AsType[*wire.Fail](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, wire.CodeExists, f.Code)
			require.Equal(t, list.Points[0].ID, f.Object)
		})
	}
}

// Who takes the VM from somebody who still waits for it waits for both: a commit that hangs is never overtaken.
func TestFencingInARow(t *testing.T) {
	t.Parallel()
	s := &slow{begun: make(chan struct{}), goOn: make(chan struct{})}
	p := newPlace(t, func(h *host) { s.Backend, h.backend = h.backend, s })
	first := p.session("web", trust.Append, nil)
	b := do[*wire.Begun](t, first, 1, &wire.Begin{VM: "vm1"})
	committed := make(chan error, 1)
	go func() {
		_, err := first.Handle(context.Background(), 2, &wire.Commit{Writer: b.Writer})
		committed <- err
	}()
	<-s.begun
	begun := make([]chan error, 3)
	for i := range begun {
		begun[i] = make(chan error, 1)
		h := p.session("web", trust.Append, nil)
		go func() {
			_, err := h.Handle(context.Background(), 1, &wire.Begin{VM: "vm1"})
			begun[i] <- err
		}()
		if i > 0 {
			require.Equal(t, wire.CodeFenced, toFail(<-begun[i-1]).Code)
		} else {
			time.Sleep(20 * time.Millisecond) // until it waits
		}
	}
	select {
	case err := <-begun[2]:
		t.Fatal("begun while the first was being committed", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(s.goOn)
	require.NoError(t, <-committed)
	require.NoError(t, <-begun[2])
}

// Points are begun in the order in which their sessions came; who gives up does not hold up the others; and beyond the
// queue nobody waits.
func TestAdmission(t *testing.T) {
	t.Parallel()
	p := newPlace(t, func(h *host) { h.admission = newAdmission(2, 5) })
	var first []*openPoint
	for i := range 2 {
		first = append(first, newPoint(t, p.session(fmt.Sprint("p", i), trust.Append, nil), "vm", testBlock))
	}
	begun := make(chan int, 10)
	var wg sync.WaitGroup
	waiting := make([]*handler, 5)
	cancel := make([]context.CancelFunc, 5)
	writers := make([]wire.Ref, 5)
	for i := range waiting {
		waiting[i] = p.session(fmt.Sprint("w", i), trust.Append, nil)
		var ctx context.Context
		ctx, cancel[i] = context.WithCancel(t.Context())
		wg.Go(func() {
			m, err := waiting[i].Handle(ctx, 1, &wire.Begin{VM: "vm"})
			if err == nil {
				writers[i] = m.(*wire.Begun).Writer
				begun <- i
			}
		})
		require.Eventually(t, func() bool { return p.admission.waiting.Load() == int64(i+1) }, 5*time.Second, time.Millisecond)
	}
	fails(t, p.session("late", trust.Append, nil), 1, wire.CodeBusy, &wire.Begin{VM: "vm"})
	require.EqualValues(t, 2, p.admission.writing.Load())
	cancel[1]()
	require.Eventually(t, func() bool { return p.admission.waiting.Load() == 4 }, 5*time.Second, time.Millisecond)

	do[*wire.OK](t, first[0].handler, 9, &wire.DropPoint{Writer: first[0].writer})
	require.Equal(t, 0, <-begun)
	require.NoError(t, first[1].Close(), "a session's end is its points' end")
	require.Equal(t, 2, <-begun)
	do[*wire.Committed](t, waiting[2], 2, &wire.Commit{Writer: writers[2]})
	require.Equal(t, 3, <-begun)
	require.NoError(t, waiting[3].Close())
	require.Equal(t, 4, <-begun)
	wg.Wait()
	require.EqualValues(t, 2, p.admission.writing.Load())
	require.NoError(t, waiting[0].Close())
	require.NoError(t, waiting[4].Close())
	require.EqualValues(t, 0, p.admission.writing.Load())
	for _, stop := range cancel {
		stop()
	}
}

// A mover that ends sends away those who wait for their turn.
func TestAdmissionEnds(t *testing.T) {
	t.Parallel()
	p := newPlace(t, func(h *host) { h.admission = newAdmission(1, 5) })
	newPoint(t, p.session("a", trust.Append, nil), "vm", testBlock)
	h := p.session("b", trust.Append, nil)
	done := make(chan error, 1)
	go func() {
		_, err := h.Handle(context.Background(), 1, &wire.Begin{VM: "vm"})
		done <- err
	}()
	require.Eventually(t, func() bool { return p.admission.waiting.Load() == 1 }, 5*time.Second, time.Millisecond)
	p.admission.shut()
	require.Equal(t, wire.CodeBusy, toFail(<-done).Code)
	fails(t, h, 2, wire.CodeBusy, &wire.Begin{VM: "vm"})
}

// The session ends at each step of a backup, as by kill -9 of the caller or of the target: earlier points are untouched,
// nothing of the broken one is seen, and the next run works without being unlocked.
func TestEndAtEachStep(t *testing.T) {
	t.Parallel()
	p := newPlace(t, nil)
	base := pipetest.Bytes(chacha(1, 6*testBlock))
	first := mustBackup(t, p.client("web", trust.Append), "vm1", base, nil)
	before := 1
	for step := 1; ; step++ {
		h := p.session("web", trust.Append, nil)
		whole := stepping(t, h, first, step)
		if whole {
			before++
		}
		next := p.session("web", trust.Append, nil)
		require.Len(t, do[*wire.PointList](t, next, 1, &wire.Points{}).Points, before, "after step %d", step)
		requireSame(t, p.repo, first, base)
		if whole {
			t.Logf("%d steps", step)
			break
		}
	}
	second := mustBackup(t, p.client("web", trust.Append), "vm1", base, &pipe.PointOptions{Base: first})
	requireSame(t, p.repo, second, base)
	require.EqualValues(t, 0, p.admission.writing.Load())
}

// stepping makes an increment over base and ends the session behind a step. It reports whether it came to the end.
func stepping(t *testing.T, h *handler, base string, last int) (whole bool) {
	n := 0
	var writer, disk, blob wire.Ref
	var key [32]byte
	data := chacha(uint64(last), testBlock)
	for _, step := range []func() wire.Message{
		func() wire.Message { return &wire.Points{VM: "vm1"} },
		func() wire.Message { return &wire.OpenDisk{Point: base, Disk: "disk0"} },
		func() wire.Message { return &wire.ImageExtents{Image: 1, Len: 6 * testBlock} },
		func() wire.Message { return &wire.Begin{VM: "vm1", Base: base} },
		func() wire.Message { return &wire.StartDisk{Writer: writer, Key: "disk0", Size: 6 * testBlock} },
		func() wire.Message {
			return &wire.Mark{Disk: disk, Extent: pipe.Extent{Off: testBlock, Len: 3 * testBlock, Kind: pipe.Unchanged}}
		},
		func() wire.Message { return &wire.Query{Disk: disk, IDs: []pipe.ID{keyedID(key, data)}} },
		func() wire.Message {
			return &wire.Put{Disk: disk, ID: keyedID(key, data), Plain: testBlock, Content: true, Data: data}
		},
		func() wire.Message {
			return &wire.Put{Disk: disk, Off: 4 * testBlock, ID: keyedID(key, data), Plain: testBlock}
		},
		func() wire.Message {
			return &wire.Write{Disk: disk, Off: 5 * testBlock, Sum: blake3.Sum256(data[:100]), Plain: 100, Data: data[:100]}
		},
		func() wire.Message {
			return &wire.Write{Disk: disk, Off: 5*testBlock + 100, Sum: blake3.Sum256(data[100:]), Plain: testBlock - 100, Data: data[100:]}
		},
		func() wire.Message { return &wire.SealDisk{Disk: disk} },
		func() wire.Message { return &wire.StartBlob{Writer: writer, Name: "config"} },
		func() wire.Message { return &wire.BlobPart{Blob: blob, Data: []byte("abc")} },
		func() wire.Message { return &wire.SealBlob{Blob: blob, Size: 3, Sum: blake3.Sum256([]byte("abc"))} },
		func() wire.Message { return &wire.Usage{Writer: writer} },
		func() wire.Message { return &wire.Commit{Writer: writer, Tracking: map[string]string{"disk0": "c2"}} },
	} {
		n++
		answer, err := h.Handle(t.Context(), uint64(n), step())
		require.NoError(t, err)
		switch m := answer.(type) {
		case *wire.Begun:
			writer, key = m.Writer, m.Key
		case *wire.DiskStarted:
			disk = m.Disk
		case *wire.BlobStarted:
			blob = m.Blob
		case *wire.Committed:
			return true
		}
		if n == last {
			require.NoError(t, h.Close())
			fails(t, h, uint64(n+1), wire.CodeLost, &wire.Commit{Writer: writer})
			return false
		}
	}
	return false
}

// Calls that are under way when the session ends are ended, and Close waits for them.
func TestCloseWithCallsUnderWay(t *testing.T) {
	t.Parallel()
	p := newPlace(t, nil)
	for range 20 {
		h := p.session("web", trust.Append, nil)
		o := newPoint(t, h, "vm1", 64*testBlock)
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				for k := range 4 {
					n := int64(4*i + k)
					_, _ = h.Handle(context.Background(), uint64(10+n), o.block(n*testBlock, chacha(uint64(n), testBlock)))
				}
			})
		}
		require.NoError(t, h.Close())
		wg.Wait()
	}
	require.EqualValues(t, 0, p.admission.writing.Load())
	require.Empty(t, p.claims.by)
}

// What is durable is told while a point is written, and never too much: calls that have not come, that are under way, or
// that the backend has only in memory hold the number back.
func TestDurableIsTold(t *testing.T) {
	t.Parallel()
	p := newPlace(t, nil)
	var mu sync.Mutex
	below := uint64(0)
	h := p.session("web", trust.Append, func(m wire.Message) {
		mu.Lock()
		defer mu.Unlock()
		below = m.(*wire.Durable).Below
	})
	told := func() uint64 { mu.Lock(); defer mu.Unlock(); return below }
	const blocks = 600 // 37 MiB: two packs and more
	o := newPoint(t, h, "vm1", blocks*testBlock)
	for i := range blocks / 2 {
		do[*wire.Placed](t, h, o.next(), o.block(int64(i)*testBlock, chacha(uint64(i), testBlock)))
	}
	require.Eventually(t, func() bool { return told() > 100 }, 20*time.Second, 10*time.Millisecond)
	require.LessOrEqual(t, told(), o.call)
	missing := o.next() // a call that another one overtakes
	for i := blocks / 2; i < blocks; i++ {
		do[*wire.Placed](t, h, o.next(), o.block(int64(i)*testBlock, chacha(uint64(i), testBlock)))
	}
	time.Sleep(2 * tellEvery)
	require.LessOrEqual(t, told(), missing)
	do[*wire.OK](t, h, missing, &wire.Mark{Disk: o.disk, Extent: pipe.Extent{Kind: pipe.Zero}})
	require.Eventually(t, func() bool { return told() > missing }, 20*time.Second, 10*time.Millisecond)
}

// An attempt that was committed is not begun again, however late its caller comes; another peer's number is nothing to it.
func TestAttemptIsCommittedOnce(t *testing.T) {
	t.Parallel()
	p := newPlace(t, nil)
	h := p.session("web", trust.Append, nil)
	begin := &wire.Begin{VM: "vm1", Facts: map[string]string{SessionFact: "a"}}
	id := do[*wire.Committed](t, h, 2, &wire.Commit{Writer: do[*wire.Begun](t, h, 1, begin).Writer}).Point
	for i := range uint64(2) {
		require.Equal(t, id, fails(t, p.session("web", trust.Append, nil), i+1, wire.CodeExists, begin).Object)
	}
	do[*wire.Begun](t, p.session("db", trust.Append, nil), 1, begin)
	c := newClaims()
	for i := range 3 * maxAttempts {
		c.committed(attempt{"web", fmt.Sprint(i)}, "p")
	}
	require.Len(t, c.done, maxAttempts)
	_, ok := c.pointOf(attempt{"web", fmt.Sprint(3*maxAttempts - 1)})
	require.True(t, ok)
}

// Who holds a turn and writes nothing loses it where others wait, and only then.
func TestIdleWriterLosesItsTurn(t *testing.T) {
	t.Parallel()
	p := newPlace(t, func(h *host) { h.admission = newAdmission(1, 5) })
	idle := newPoint(t, p.session("web", trust.Append, nil), "vm", testBlock)
	later := p.clock.now() + maxIdle + time.Minute
	p.evict(later)
	do[*wire.Placed](t, idle.handler, idle.next(), idle.block(0, chacha(1, testBlock)))
	h := p.session("db", trust.Append, nil)
	begun := make(chan error, 1)
	go func() {
		_, err := h.Handle(context.Background(), 1, &wire.Begin{VM: "vm"})
		begun <- err
	}()
	require.Eventually(t, func() bool { return p.admission.waiting.Load() == 1 }, 5*time.Second, time.Millisecond)
	p.evict(p.clock.now())
	require.EqualValues(t, 1, p.admission.waiting.Load())
	p.evict(later)
	require.NoError(t, <-begun)
	fails(t, idle.handler, idle.next(), wire.CodeRevoked, &wire.SealDisk{Disk: idle.disk})
	fails(t, idle.handler, idle.next(), wire.CodeRevoked, &wire.Commit{Writer: idle.writer})
}

// Disks of points that are gone take no numbers: a session may write any number of points.
func TestDisksOfDroppedPointsAreForgotten(t *testing.T) {
	t.Parallel()
	h := newPlace(t, nil).session("web", trust.Append, nil)
	for i := range uint64(4) {
		b := do[*wire.Begun](t, h, 1000*i+1, &wire.Begin{VM: "vm"})
		for k := range uint64(maxOpen) {
			do[*wire.DiskStarted](t, h, 1000*i+2+k, &wire.StartDisk{Writer: b.Writer, Key: fmt.Sprint(k), Size: 1})
		}
		fails(t, h, 1000*i+900, wire.CodeBusy, &wire.StartDisk{Writer: b.Writer, Key: "x", Size: 1})
		do[*wire.OK](t, h, 1000*i+901, &wire.DropPoint{Writer: b.Writer})
	}
	require.Empty(t, h.disks.by)
}
