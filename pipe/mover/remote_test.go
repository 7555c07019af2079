package mover

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
	"github.com/hikae/hikae/pipe/pipetest"
)

// R010, R029: a far backend over TLS is as good as a near one. TestFarBackend has the same with a repository.
func TestFarBackendOverTLS(t *testing.T) {
	b := &changing{}
	y := newYard(t, &ServerOptions{Backend: b})
	c := y.dial(y.enrol("full", trust.Full))
	pipetest.TestBackend(t, func(testing.TB) pipe.Backend {
		b.Backend = pipetest.NewBackend(0)
		return c
	})
}

// changing is a backend that is emptied between two tests. What the mover remembers of its tenants stays, and must not
// be believed.
type changing struct{ pipe.Backend }

// disks is a backend of which the disks are targets of a kind, in memory.
type disks struct {
	*pipetest.Backend
	hide func(*pipe.Memory) pipe.Target
	last *pipe.Memory
}

func (b *disks) Begin(ctx context.Context, vm string, opts *pipe.PointOptions) (pipe.PointWriter, error) {
	w, err := b.Backend.Begin(ctx, vm, opts)
	return &disksWriter{w, b}, err
}

type disksWriter struct {
	pipe.PointWriter
	b *disks
}

func (w *disksWriter) Disk(_ context.Context, _ string, size int64) (pipe.Target, error) {
	w.b.last = pipe.NewMemory(size)
	return w.b.hide(w.b.last), nil
}

// bytesOnly takes bytes and nothing else.
type bytesOnly struct{ pipe.Target }

// A far disk has the abilities of the one at the other end, and keeps its contract.
func TestFarTargets(t *testing.T) {
	for name, test := range map[string]struct {
		hide  func(*pipe.Memory) pipe.Target
		marks bool
	}{
		"bytes": {func(m *pipe.Memory) pipe.Target { return bytesOnly{m} }, false},
		"marks": {func(m *pipe.Memory) pipe.Target { return m }, true},
	} {
		t.Run(name, func(t *testing.T) {
			b := &disks{Backend: pipetest.NewBackend(0), hide: test.hide}
			h := newHostFor(t, b, nil)
			c := testClient(t, func(_ int, push func(wire.Message)) (line, error) {
				s, err := newHandler(t.Context(), h, trust.Peer{Name: "x", Role: trust.Full}, push)
				return newDirect(s), err
			}, nil)
			pipetest.TestTarget(t, func(t testing.TB, size int64) (pipe.Target, func() pipe.Image) {
				w, err := c.Begin(t.Context(), "vm", nil)
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, w.Close()) })
				d, err := w.Disk(t.Context(), "disk0", size)
				require.NoError(t, err)
				_, marks := d.(pipe.ExtentTarget)
				_, blocks := d.(pipe.BlockTarget)
				require.Equal(t, test.marks, marks)
				require.False(t, blocks)
				require.Implements(t, (*pipe.Far)(nil), d)
				last := b.last
				return d, func() pipe.Image { return last }
			})
		})
	}
	t.Run("blocks", func(t *testing.T) {
		h := newHostFor(t, pipetest.NewBackend(0), nil)
		c := testClient(t, func(_ int, push func(wire.Message)) (line, error) {
			s, err := newHandler(t.Context(), h, trust.Peer{Name: "x", Role: trust.Full}, push)
			return newDirect(s), err
		}, nil)
		pipetest.TestTarget(t, func(t testing.TB, size int64) (pipe.Target, func() pipe.Image) {
			w, err := c.Begin(t.Context(), "vm", nil)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, w.Close()) })
			d, err := w.Disk(t.Context(), "disk0", size)
			require.NoError(t, err)
			require.Implements(t, (*pipe.BlockTarget)(nil), d)
			require.Implements(t, (*pipe.Accountant)(nil), d)
			return d, func() pipe.Image {
				id, err := w.Commit(t.Context(), nil)
				require.NoError(t, err)
				img, err := c.Open(t.Context(), id, "disk0")
				require.NoError(t, err)
				return img
			}
		})
	})
}

// relay is the line between two movers: it forwards connections, and cuts them.
type relay struct {
	l     net.Listener
	to    atomic.Pointer[string]
	cut   func(done int64) int64 // bytes, of both ways together, after which the next connection is cut; 0: never
	cuts  atomic.Int64
	bytes atomic.Int64
	all   sync.WaitGroup
}

func newRelay(t testing.TB, to string, cut func(done int64) int64) *relay {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r := &relay{l: l, cut: cut}
	r.to.Store(&to)
	ctx, cancel := context.WithCancel(context.Background())
	r.all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.all.Go(func() { r.carry(ctx, c) })
		}
	})
	t.Cleanup(func() { cancel(); l.Close(); r.all.Wait() })
	return r
}

func (r *relay) carry(ctx context.Context, near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", *r.to.Load())
	if err != nil {
		return
	}
	defer far.Close()
	var left atomic.Int64
	left.Store(r.cut(r.cuts.Load()))
	limited := left.Load() > 0
	closeBoth := func() { near.Close(); far.Close() }
	defer context.AfterFunc(ctx, closeBoth)()
	var ways sync.WaitGroup
	for _, way := range [2][2]net.Conn{{near, far}, {far, near}} {
		ways.Go(func() {
			defer closeBoth()
			buf := make([]byte, 32<<10)
			for {
				n, err := way[0].Read(buf)
				if limited && n > 0 {
					rest := left.Add(-int64(n))
					if rest <= 0 { // the byte at which the line breaks
						if m := int64(n) + rest; m > 0 {
							_, _ = way[1].Write(buf[:m])
							r.cuts.Add(1)
						}
						return
					}
				}
				if _, werr := way[1].Write(buf[:n]); err != nil || werr != nil {
					return
				}
				r.bytes.Add(int64(n))
			}
		})
	}
	ways.Wait()
}

// RELIABILITY bars 20, 21: the line is cut again and again, at any byte; what arrives is the same, nothing of the source
// is read twice, and little is sent twice. The fast tier cuts 40 times, the long one 200 times.
func TestLineThatIsCut(t *testing.T) {
	cuts, size := int64(40), int64(12<<20)
	if longTier() {
		cuts, size = 200, 64<<20
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	var mu sync.Mutex
	y := newYard(t, nil)
	r := newRelay(t, y.address, func(done int64) int64 {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case done >= cuts:
			return 0
		case done == 0: // not in the first handshake, which is the caller's to try again
			return 20_000
		}
		return 3000 + rnd.Int64N(2*size/cuts)
	})
	c, err := Dial(t.Context(), r.l.Addr().String(), &DialOptions{
		Identity: y.enrol("web", trust.Full), ServerPin: y.id.Pin(), CacheDir: t.TempDir(), GiveUp: time.Minute, Lanes: 2,
	})
	require.NoError(t, err)
	defer c.Close()
	src := pipe.Meter(dense(seed, size))
	id, err := backUp(t.Context(), c, nil, map[string]pipe.Image{"disk0": src})
	require.NoError(t, err)
	t.Logf("%d cuts, %d bytes over the line for %d, %+v", r.cuts.Load(), r.bytes.Load(), size, c.Stats())
	require.Equal(t, 1, c.Stats().Sessions, "a cut is the session's own matter")
	require.Greater(t, r.cuts.Load(), cuts/4)
	require.LessOrEqual(t, src.Counts().Bytes, size)
	img, err := c.Open(t.Context(), id, "disk0")
	require.NoError(t, err)
	defer img.Close()
	diff, err := pipe.Compare(t.Context(), img, dense(seed, size), nil)
	require.NoError(t, err)
	require.Empty(t, diff)
}

// dense is a disk that does not compress.
func dense(seed uint64, size int64) pipe.Image {
	b := make([]byte, size)
	s := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1})
	_, _ = s.Read(b)
	return pipetest.Bytes(b)
}

// What the target has made durable is not kept any more, and a target that comes back finds it by its ids.
func TestDurableContentIsLetGo(t *testing.T) {
	const size = 48 << 20
	y := newYard(t, nil)
	c := y.dial(y.enrol("web", trust.Append))
	w, err := c.Begin(t.Context(), "vm", nil)
	require.NoError(t, err)
	defer w.Close()
	d, err := w.Disk(t.Context(), "disk0", size)
	require.NoError(t, err)
	src := dense(1, size)
	_, err = pipe.Copy(t.Context(), d, src, nil)
	require.NoError(t, err)
	used := func() int64 {
		c.window.mu.Lock()
		defer c.window.mu.Unlock()
		return c.window.used
	}
	require.Eventually(t, func() bool { return used() < size/2 }, 10*time.Second, 10*time.Millisecond, "nothing is said to be durable")
	kept := used()
	y.stop()
	y.start(y.address)
	require.NoError(t, d.Commit(t.Context()))
	id, err := w.Commit(t.Context(), nil)
	require.NoError(t, err)
	st := c.Stats()
	t.Logf("kept %d, %+v", kept, st)
	require.Equal(t, 1, st.Replays)
	require.LessOrEqual(t, st.Resent, kept)
	require.Positive(t, st.Placed)
	require.NoError(t, w.Close())
	require.Zero(t, used(), "the window is given back")
	requireSame(t, y.opts.Backend, id, src)
}

// R029: the mover is restarted again and again while it is written to; nobody notices, and nothing is read twice.
func TestMoverRestartedWhileItIsWrittenTo(t *testing.T) {
	times := int64(4)
	if longTier() {
		times = 20
	}
	y := newYard(t, nil)
	c := y.dial(y.enrol("web", trust.Append))
	size := times * (2 << 20)
	src := pipe.Meter(dense(2, size))
	w, err := c.Begin(t.Context(), "vm", nil)
	require.NoError(t, err)
	defer w.Close()
	d, err := w.Disk(t.Context(), "disk0", size)
	require.NoError(t, err)
	defer d.Close()
	begin := make(chan struct{}, times)
	var restarts sync.WaitGroup
	restarts.Go(func() {
		for range begin {
			y.stop()
			y.start(y.address)
			for serving := false; !serving; time.Sleep(time.Millisecond) { // else the next stop would come first
				y.server.mu.Lock()
				serving = len(y.server.listeners) > 0
				y.server.mu.Unlock()
			}
		}
	})
	var put atomic.Int64
	_, err = pipe.Copy(t.Context(), &watched{d.(*farBlocks), func(n int) {
		if all := put.Add(int64(n)); all*times/size > (all-int64(n))*times/size {
			begin <- struct{}{}
		}
	}}, src, nil)
	close(begin)
	restarts.Wait()
	require.NoError(t, err)
	require.NoError(t, d.Commit(t.Context()))
	id, err := w.Commit(t.Context(), nil)
	require.NoError(t, err)
	t.Logf("%+v", c.Stats())
	require.Greater(t, c.Stats().Sessions, int(times)/3)
	require.LessOrEqual(t, src.Counts().Bytes, size)
	requireSame(t, y.opts.Backend, id, dense(2, size))
}

// watched is a far disk that tells of each block that was placed.
type watched struct {
	*farBlocks
	placed func(n int)
}

func (w *watched) PutBlock(ctx context.Context, off int64, id pipe.ID, plain int, codec pipe.Codec, data []byte) (pipe.PutResult, error) {
	res, err := w.farBlocks.PutBlock(ctx, off, id, plain, codec, data)
	if err == nil {
		w.placed(plain)
	}
	return res, err
}

// A machine becomes known by a token, once; a second attempt whose first answer was lost finds itself enrolled.
func TestEnrol(t *testing.T) {
	y := newYard(t, nil)
	token, err := y.book.AddToken(y.id.Pin(), "web", trust.Append, time.Hour)
	require.NoError(t, err)
	opts := &DialOptions{IdentityDir: t.TempDir(), CacheDir: t.TempDir(), GiveUp: 5 * time.Second}
	e, err := Enrol(t.Context(), y.address, token, opts)
	require.NoError(t, err)
	require.Equal(t, "web", e.Name)
	require.Equal(t, trust.Append, e.Role)
	require.Equal(t, "trusted", e.Mode)
	opts.ServerPin = e.Server
	c, err := Dial(t.Context(), y.address, opts)
	require.NoError(t, err)
	require.Equal(t, "web", c.Peer())
	require.NoError(t, c.Close())

	again, err := Enrol(t.Context(), y.address, token, opts)
	require.NoError(t, err)
	require.Equal(t, "web", again.Name)
	require.Equal(t, e.Key, again.Key)

	opts.IdentityDir = t.TempDir() // another machine with the same token
	_, err = Enrol(t.Context(), y.address, token, opts)
	require.ErrorIs(t, err, trust.ErrRefused)
	_, err = Dial(t.Context(), y.address, opts)
	require.ErrorIs(t, err, trust.ErrRefused)
	_, err = Dial(t.Context(), y.address, &DialOptions{ServerPin: e.Server})
	require.ErrorIs(t, err, fs.ErrInvalid)
	opts.ServerPin[0] ^= 1
	_, err = Dial(t.Context(), y.address, opts)
	require.ErrorIs(t, err, trust.ErrWrongServer)
}

// A key is changed while a point is written, and a change that was broken off is gone on with.
func TestRotate(t *testing.T) {
	y := newYard(t, nil)
	token, err := y.book.AddToken(y.id.Pin(), "web", trust.Append, time.Hour)
	require.NoError(t, err)
	dir := t.TempDir()
	opts := &DialOptions{IdentityDir: dir, CacheDir: t.TempDir(), GiveUp: 10 * time.Second, ServerPin: y.id.Pin()}
	_, err = Enrol(t.Context(), y.address, token, opts)
	require.NoError(t, err)
	old, err := trust.LoadIdentity(dir)
	require.NoError(t, err)
	c, err := Dial(t.Context(), y.address, opts)
	require.NoError(t, err)
	defer c.Close()
	w, err := c.Begin(t.Context(), "vm", nil)
	require.NoError(t, err)
	defer w.Close()
	img := dense(3, 1<<20)
	d, err := w.Disk(t.Context(), "disk0", img.Size())
	require.NoError(t, err)
	_, err = pipe.Copy(t.Context(), d, img, nil)
	require.NoError(t, err)

	require.NoError(t, c.Rotate(t.Context()))
	now, err := trust.LoadIdentity(dir)
	require.NoError(t, err)
	require.NotEqual(t, old.Pin(), now.Pin())
	require.NoError(t, d.Commit(t.Context()))
	id, err := w.Commit(t.Context(), nil)
	require.NoError(t, err)
	requireSame(t, y.opts.Backend, id, img)
	_, err = Dial(t.Context(), y.address, &DialOptions{Identity: old, ServerPin: y.id.Pin()})
	require.ErrorIs(t, err, trust.ErrRefused, "the old key is good for nothing")

	// Killed before the mover was told: the next Dial goes on with the key that is known.
	_, err = trust.NextIdentity(dir)
	require.NoError(t, err)
	again, err := Dial(t.Context(), y.address, opts)
	require.NoError(t, err)
	// Killed after it was told: the next Dial uses the new key, and it becomes the machine's own.
	next, err := trust.PendingIdentity(dir)
	require.NoError(t, err)
	req := &wire.Rotate{}
	copy(req.PublicKey[:], next.PublicKey())
	_, err = ask[*wire.OK](t.Context(), again, req)
	require.NoError(t, err)
	require.NoError(t, again.Close())
	again, err = Dial(t.Context(), y.address, opts)
	require.NoError(t, err)
	require.NoError(t, again.Close())
	own, err := trust.LoadIdentity(dir)
	require.NoError(t, err)
	require.Equal(t, next.Pin(), own.Pin())
}

// A peer that is revoked while it writes hears so, soon, and does not try for half an hour.
func TestRevokedWhileItWrites(t *testing.T) {
	y := newYard(t, nil)
	c := y.dial(y.enrol("web", trust.Append))
	w, err := c.Begin(t.Context(), "vm", nil)
	require.NoError(t, err)
	defer w.Close()
	d, err := w.Disk(t.Context(), "disk0", 1<<20)
	require.NoError(t, err)
	require.NoError(t, y.book.Revoke("web"))
	mark := pipe.Extent{Len: testBlock}
	require.Eventually(t, func() bool {
		err = d.(pipe.ExtentTarget).Mark(t.Context(), mark)
		return err != nil
	}, 5*time.Second, 10*time.Millisecond)
	require.True(t, errors.Is(err, fs.ErrPermission) || errors.Is(err, trust.ErrRefused), "%v", err)
	_, err = c.Begin(t.Context(), "vm", nil)
	require.True(t, errors.Is(err, fs.ErrPermission) || errors.Is(err, trust.ErrRefused), "%v", err)
}
