package mover

import (
	"context"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
	"github.com/hikae/hikae/pipe/pipetest"
)

// handles are what a peer has open, as it knows it. Whatever is asked to open something answers when it is let.
type handles struct {
	mu   sync.Mutex
	next wire.Ref
	open map[wire.Ref]wire.Kind
	at   func(kind wire.Kind) // before the answer
}

func (h *handles) answer(call uint64, req wire.Message) (wire.Message, error) {
	var ref wire.Ref
	switch m := req.(type) {
	case *wire.Begin:
		return &wire.Begun{Writer: h.add(m.Kind()), Key: [32]byte{7}}, nil
	case *wire.StartDisk:
		return &wire.DiskStarted{Disk: h.add(m.Kind()), BlockSize: testBlock, Marks: true}, nil
	case *wire.OpenDisk, *wire.OpenSource:
		return &wire.ImageOpened{Image: h.add(m.Kind()), Size: 1 << 20}, nil
	case *wire.StartBlob:
		return &wire.BlobStarted{Blob: h.add(m.Kind())}, nil
	case *wire.SealBlob:
		if m.Size != 1 { // one byte, of which none has come
			return honest(call, req)
		}
		ref = m.Blob
	case *wire.DropPoint:
		ref = m.Writer
	case *wire.DropDisk:
		ref = m.Disk
	case *wire.CloseImage:
		ref = m.Image
	default:
		return honest(call, req)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.open, ref)
	return &wire.OK{}, nil
}

func (h *handles) add(kind wire.Kind) wire.Ref {
	h.mu.Lock()
	h.next++
	ref := h.next
	if h.open == nil {
		h.open = map[wire.Ref]wire.Kind{}
	}
	h.open[ref] = kind
	at := h.at
	h.mu.Unlock()
	if at != nil {
		at(kind)
	}
	return ref
}

func (h *handles) are(kinds ...wire.Kind) func() bool {
	return func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		count := map[wire.Kind]int{}
		for _, k := range h.open {
			count[k]++
		}
		for _, k := range kinds {
			count[k]--
		}
		for _, n := range count {
			if n != 0 {
				return false
			}
		}
		return true
	}
}

// leaveAt cancels a context when something of a kind has been opened, and lets the answer come a moment later.
func (h *handles) leaveAt(t testing.TB, kind wire.Kind) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.at = func(k wire.Kind) {
		if k == kind {
			cancel()
			time.Sleep(20 * time.Millisecond)
		}
	}
	return ctx
}

// What was opened for a caller that has left is closed.
func TestHandlesOfCallersThatLeft(t *testing.T) {
	h := &handles{}
	c := scriptClient(t, h.answer)
	gone := func(kinds ...wire.Kind) {
		t.Helper()
		require.Eventually(t, h.are(kinds...), 5*time.Second, time.Millisecond)
	}
	_, err := c.Begin(h.leaveAt(t, wire.KindBegin), "vm", nil)
	require.ErrorIs(t, err, context.Canceled)
	gone()
	_, err = c.Open(h.leaveAt(t, wire.KindOpenDisk), "p", "d")
	require.ErrorIs(t, err, context.Canceled)
	gone()
	_, err = c.OpenImage(h.leaveAt(t, wire.KindOpenSource), "disk")
	require.ErrorIs(t, err, context.Canceled)
	gone()

	w, err := c.Begin(h.leaveAt(t, wire.KindOpenDisk), "vm", nil)
	require.NoError(t, err)
	_, err = w.Disk(h.leaveAt(t, wire.KindStartDisk), "d", testBlock)
	require.ErrorIs(t, err, context.Canceled)
	gone(wire.KindBegin)
	require.ErrorIs(t, w.Blob(h.leaveAt(t, wire.KindStartBlob), "config", strings.NewReader("x")), context.Canceled)
	gone(wire.KindBegin)
	require.NoError(t, w.Close())
	gone()
}

// A caller that leaves does not wait for a call that takes long, and nor does the end of the client.
func TestCallerLeavesACallThatTakesLong(t *testing.T) {
	stuck := make(chan struct{})
	defer close(stuck)
	h := &handles{at: func(wire.Kind) { <-stuck }}
	c := scriptClient(t, h.answer)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	begun := time.Now()
	_, err := c.Begin(ctx, "vm", nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, c.Close())
	require.Less(t, time.Since(begun), 5*time.Second)
	_, err = c.Open(t.Context(), "p", "d")
	require.ErrorIs(t, err, errClientClosed)
}

// The same over the network, against a real target: the VM is free and the turn given back.
func TestCancelledBeginLeavesNoWriter(t *testing.T) {
	b := &slowBegin{Backend: pipetest.NewBackend(testBlock)}
	y := newYard(t, &ServerOptions{Backend: b, MaxWriters: 1})
	c := y.dial(y.enrol("web", trust.Append))
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		b.begun.Store(&cancel)
		_, err := c.Begin(ctx, "vm", nil)
		require.ErrorIs(t, err, context.Canceled)
		require.Eventually(t, func() bool { return y.server.host.admission.writing.Load() == 0 }, 8*time.Second, 5*time.Millisecond)
	}
	b.begun.Store(nil)
	w, err := c.Begin(t.Context(), "another", nil)
	require.NoError(t, err)
	require.NoError(t, w.Close())
}

// slowBegin has somebody leave just when a point has been begun.
type slowBegin struct {
	pipe.Backend
	begun atomic.Pointer[context.CancelFunc]
}

func (b *slowBegin) Begin(ctx context.Context, vm string, o *pipe.PointOptions) (pipe.PointWriter, error) {
	w, err := b.Backend.Begin(ctx, vm, o)
	if cancel := b.begun.Load(); cancel != nil {
		(*cancel)()
		time.Sleep(20 * time.Millisecond)
	}
	return w, err
}

// A blob that fails is told to the target: the point can be committed without it, or with another of that name.
func TestFailedBlobIsGone(t *testing.T) {
	p := newPlace(t, nil)
	c := p.client("web", trust.Append)
	w, d := markedPoint(t, c, nil)
	require.NoError(t, d.Commit(t.Context()))
	half := func() io.Reader {
		return io.MultiReader(strings.NewReader("half of"), iotest.ErrReader(io.ErrNoProgress))
	}
	require.ErrorIs(t, w.Blob(t.Context(), "config", half()), io.ErrNoProgress)
	require.NoError(t, w.Blob(t.Context(), "config", strings.NewReader("half of it, and the rest")))
	require.ErrorIs(t, w.Blob(t.Context(), "nvram", half()), io.ErrNoProgress)
	id, err := w.Commit(t.Context(), nil)
	require.NoError(t, err)
	info, err := p.repo.Resolve(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, []pipe.BlobInfo{{Name: "config", Size: 24}}, info.Blobs)
}

// A caller that leaves while its point is put back leaves nothing of it there.
func TestReplayGivenUpLeavesNoWriter(t *testing.T) {
	for _, at := range []wire.Kind{wire.KindBegin, wire.KindStartDisk, wire.KindMark} {
		t.Run(at.String(), func(t *testing.T) {
			p := newPlace(t, nil)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			c := testClient(t, func(n int, push func(wire.Message)) (line, error) {
				d := newDirect(p.session("web", trust.Append, push))
				if n == 1 {
					return &dying{direct: d, at: wire.KindSealDisk}, nil
				}
				return &hooked{careful{d}, func(req wire.Message) {
					if req.Kind() == at {
						cancel()
					}
				}}, nil
			}, nil)
			w, d := markedPoint(t, c, nil)
			require.ErrorIs(t, d.Commit(ctx), context.Canceled)
			require.NoError(t, w.Close())
			require.Eventually(t, func() bool { return p.admission.writing.Load() == 0 }, 8*time.Second, 5*time.Millisecond)
		})
	}
}

// careful makes no calls for who has gone, as the real session.
type careful struct{ *direct }

func (c careful) CallNumbered(ctx context.Context, req wire.Message) (uint64, wire.Message, error) {
	if ctx.Err() != nil {
		return 0, nil, ctx.Err()
	}
	return c.direct.CallNumbered(ctx, req)
}

// Points that wait for their turn leave calls to the one that has it.
func TestWaitingBeginsLeaveCallsToTheWriter(t *testing.T) {
	y := newYard(t, &ServerOptions{Backend: pipetest.NewBackend(testBlock), MaxWriters: 1})
	c := y.dial(y.enrol("web", trust.Append))
	w, err := c.Begin(t.Context(), "first", nil)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const waiting = 128 // as many as there are calls
	begun := make(chan error, waiting)
	for i := range waiting {
		go func() {
			w, err := c.Begin(ctx, "vm"+strings.Repeat("x", i+1), nil)
			if err == nil {
				err = w.Close()
			}
			begun <- err
		}()
	}
	require.Eventually(t, func() bool { return y.server.host.admission.waiting.Load() == maxBegins }, 10*time.Second, 5*time.Millisecond)
	short, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	_, err = w.Disk(short, "d", testBlock)
	require.NoError(t, err)
	require.LessOrEqual(t, y.server.host.admission.waiting.Load(), int64(maxBegins))
	require.NoError(t, w.Close()) // and now each has its turn
	for range waiting {
		require.NoError(t, <-begun)
	}
}

// A call on an image ends with its own context, whoever else is opening the image again, and so does Close.
func TestReadDoesNotWaitForAnothersOpen(t *testing.T) {
	back := make(chan struct{}) // closed: the line is there again
	h := &handles{}
	c := testClient(t, func(n int, _ func(wire.Message)) (line, error) {
		return newScripted(t, func(call uint64, req wire.Message) (wire.Message, error) {
			if n > 1 && req.Kind() == wire.KindOpenDisk {
				h.add(wire.KindPing) // so that it is seen
				<-back
			}
			return h.answer(call, req)
		}), nil
	}, nil)
	img, err := c.Open(t.Context(), "p", "d")
	require.NoError(t, err)
	c.lost(c.current.Load())
	first := make(chan error, 1)
	go func() { _, err := img.ReadAt(t.Context(), make([]byte, 10), 0); first <- err }()
	require.Eventually(t, h.are(wire.KindOpenDisk, wire.KindPing), 5*time.Second, time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	done := make(chan error, 2)
	go func() { _, err := img.ReadAt(ctx, make([]byte, 10), 0); done <- err }()
	require.ErrorIs(t, within(t, done), context.DeadlineExceeded)
	go func() { done <- img.Close() }()
	require.NoError(t, within(t, done))
	close(back)
	require.ErrorIs(t, within(t, first), errImageClosed)
	require.Eventually(t, h.are(wire.KindOpenDisk, wire.KindPing), 5*time.Second, time.Millisecond,
		"what was opened for an image that is closed is closed as well; the first is gone with its session")
}

func within(t testing.TB, done <-chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(5 * time.Second):
		t.Fatal("it has not returned after 5 s")
		return nil
	}
}
