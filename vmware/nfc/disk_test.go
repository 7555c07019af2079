package nfc

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
)

// sparse has content in every third 64 KiB only.
func sparse(n int) []byte {
	p := noise(uint64(n), n)
	for i := 0; i < n; i += 64 << 10 {
		if i/(64<<10)%3 != 0 {
			clear(p[i:min(n, i+64<<10)])
		}
	}
	return p
}

// Pieces come in any order, of many requests at once: a disk is an image like any other (R113).
func TestImage(t *testing.T) {
	content := sparse(3<<20 + 5*512)
	for name, opts := range map[string]Options{
		"nbd": {Clear: true}, "many pieces": {Buffer: 4096, InFlight: 64},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, content)
			opts.Size = int64(len(content))
			d := h.open(t, false, &opts)
			pipetest.TestImage(t, d, pipetest.Bytes(content))
			require.NoError(t, d.Close())
			require.NoError(t, d.Close())
			_, err := d.ReadAt(t.Context(), make([]byte, 512), 0)
			require.ErrorIs(t, err, fs.ErrClosed)
			h.idle(t)
			require.Equal(t, []uint32{5, 3, 4}, h.log[len(h.log)-3:], "file, session and connection are closed in this order")
		})
	}
}

// idle waits until the host has seen the end of every connection.
func (h *host) idle(t testing.TB) {
	require.Eventually(t, func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.conns) == 0
	}, 5*time.Second, time.Millisecond)
}

// What is allocated is told in chunks, and a host that does not tell makes everything data.
func TestExtents(t *testing.T) {
	h := newHost(t, sparse(1<<20+512))
	list := func(d *Disk) (list []pipe.Extent) {
		for e, err := range d.Extents(t.Context(), 0, d.Size()) {
			require.NoError(t, err)
			list = append(list, e)
		}
		return list
	}
	got := list(h.open(t, false, nil))
	require.Equal(t, pipe.Extent{Off: 64 << 10, Len: 128 << 10, Kind: pipe.Zero}, got[1])
	require.Equal(t, pipe.Extent{Off: 1 << 20, Len: 512, Kind: pipe.Data}, got[len(got)-1], "the host is not asked about what is no whole chunk")

	all := []pipe.Extent{{Len: 1<<20 + 512, Kind: pipe.Data}}
	require.Equal(t, all, list(h.open(t, true, nil)), "a disk that is being written")
	h.mangle = func(a *answer) []answer {
		if a.kind == 13 {
			a.kind, a.payload, a.size, a.extra = 1, []byte{6, 0, 0, 0}, 4, nil
		}
		return []answer{*a}
	}
	d := h.open(t, false, nil)
	require.Equal(t, all, list(d))
	var refused *HostError
	require.ErrorAs(t, d.Untold(), &refused)
	require.EqualValues(t, 6, refused.Code)
}

// Reads of many goroutines share the connection, and overtake each other.
func TestPipelined(t *testing.T) {
	content := noise(1, 4<<20)
	h := newHost(t, content)
	d := h.open(t, false, &Options{InFlight: 8, Buffer: 64 << 10})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 12 {
				off := int64((g*7919*i + g*123457) % (3 << 20))
				p := make([]byte, 1+(g*31337+i*70001)%300_000)
				n, err := d.ReadAt(t.Context(), p, off)
				if err != nil || n != len(p) || !bytes.Equal(p, content[off:off+int64(n)]) {
					t.Errorf("read of %d at %d: %d, %v", len(p), off, n, err)
				}
			}
		})
	}
	wg.Wait()
}

// A caller that gives up leaves its request behind and nobody else's.
func TestCancel(t *testing.T) {
	content := noise(2, 2<<20)
	h := newHost(t, content)
	hold := make(chan struct{})
	d := h.open(t, false, nil)
	h.mangle = func(a *answer) []answer {
		if a.kind == 7 {
			<-hold
		}
		return []answer{*a}
	}
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error)
	go func() {
		_, err := d.ReadAt(ctx, make([]byte, 1<<20), 0)
		got <- err
	}()
	time.Sleep(20 * time.Millisecond)
	cancel()
	require.ErrorIs(t, <-got, context.Canceled)
	close(hold)
	p := make([]byte, 1<<20)
	_, err := d.ReadAt(t.Context(), p, 1<<20)
	require.NoError(t, err)
	require.Equal(t, content[1<<20:], p)
}

// A target that is used up, and one that must not be.
func TestTargetRefusals(t *testing.T) {
	h := newHost(t, noise(3, 1<<20))
	_, err := h.open(t, false, nil).Target(nil)
	require.ErrorIs(t, err, fs.ErrPermission)
	target, err := h.open(t, true, nil).Target(&TargetOptions{Base: true})
	require.NoError(t, err)
	require.NoError(t, target.Mark(t.Context(), pipe.Extent{Len: 1 << 20, Kind: pipe.Unchanged}))
	before := h.frames.Load()
	require.NoError(t, target.Commit(t.Context()))
	require.EqualValues(t, 1, h.frames.Load()-before, "the file was closed and nothing written")
	require.ErrorIs(t, target.Commit(t.Context()), fs.ErrClosed)
	_, err = target.WriteAt(t.Context(), make([]byte, 512), 0)
	require.ErrorIs(t, err, fs.ErrClosed)
	require.NoError(t, target.Close())

	fresh, err := h.open(t, true, nil).Target(&TargetOptions{Fresh: true})
	require.NoError(t, err)
	before = h.frames.Load()
	require.NoError(t, fresh.Mark(t.Context(), pipe.Extent{Len: 1 << 20, Kind: pipe.Free}))
	require.EqualValues(t, 0, h.frames.Load()-before, "a fresh disk's zeros stay as they are")
	h.mangle = func(a *answer) []answer {
		if a.kind == 5 {
			a.kind, a.payload, a.size = 1, []byte{8, 0, 0, 0}, 4
		}
		return []answer{*a}
	}
	var refused *HostError
	require.ErrorAs(t, fresh.Commit(t.Context()), &refused, "a file that the host cannot close is not committed")
	require.EqualValues(t, 8, refused.Code)
}

// Opening tells a wrong path, a wrong size, and a second disk.
func TestOpen(t *testing.T) {
	h := newHost(t, noise(4, 1<<20))
	c, err := Dial(t.Context(), h.ticket(), &Options{Size: 2 << 20})
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Open(t.Context(), "[datastore1] other.vmdk", false)
	var refused *HostError
	require.ErrorAs(t, err, &refused)
	require.ErrorContains(t, err, "[datastore1] other.vmdk")
	_, err = c.Open(t.Context(), h.path, false)
	require.ErrorIs(t, err, ErrChanged)
	require.ErrorIs(t, err, fs.ErrInvalid)
	_, err = c.Open(t.Context(), h.path, false)
	require.ErrorIs(t, err, fs.ErrExist)
	for _, path := range []string{"", "a\x00b", string(make([]byte, 5000))} {
		_, err = c.Open(t.Context(), path, false)
		require.ErrorIs(t, err, fs.ErrInvalid)
	}
	require.NoError(t, c.Close())
	_, err = c.Open(t.Context(), h.path, false)
	require.ErrorIs(t, err, fs.ErrClosed)
	h.idle(t)
	require.Equal(t, []uint32{5, 3, 4}, h.log[len(h.log)-3:], "the file of a failed opening is closed too")
}

// After a break the reads go on over a new connection, with a new ticket and the same file.
func TestRedial(t *testing.T) {
	content := noise(5, 8<<20)
	h := newHost(t, content)
	var asked int
	opts := &Options{Buffer: 64 << 10, Redial: func(context.Context) (Ticket, error) {
		asked++
		return h.ticket(), nil
	}}
	h.cut = func(conn int) int64 {
		if conn <= 4 {
			return int64(conn) * 700_000
		}
		return -1
	}
	d := h.open(t, false, opts)
	got := make([]byte, len(content))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			img := pipe.Retry(d, &pipe.RetryOptions{Wait: time.Millisecond}) // a break of all four tries is the caller's
			if _, err := img.ReadAt(t.Context(), got[i<<20:(i+1)<<20], int64(i)<<20); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.True(t, bytes.Equal(content, got))
	require.EqualValues(t, 5, h.served.Load())
	require.Equal(t, 4, asked)

	h.drop()
	h.size += 512
	_, err := d.ReadAt(t.Context(), got, 0)
	require.ErrorIs(t, err, ErrChanged, "another disk in the same place")
	require.False(t, pipe.WorthRetry(err))
	h.size -= 512
	uuid, err := d.Property(t.Context(), "uuid")
	require.NoError(t, err)
	require.Equal(t, "60 00 C2 9d", uuid)
	_, err = d.Property(t.Context(), "isDigest")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = d.Property(t.Context(), "two words")
	require.ErrorIs(t, err, fs.ErrInvalid)
	h.drop()
	h.uuid = "60 00 C2 9e"
	_, err = d.ReadAt(t.Context(), got, 0)
	require.ErrorIs(t, err, ErrChanged, "another disk of the same size")
}

// Writes that were not answered are written again, whole.
func TestRedialWrites(t *testing.T) {
	want := noise(6, 4<<20)
	h := newHost(t, make([]byte, len(want)))
	seen := 0
	h.mangle = func(a *answer) []answer { // the third write of each connection is done, and not answered for
		h.mu.Lock()
		defer h.mu.Unlock()
		if a.kind == 7 && a.payload[8] == 0 {
			if seen++; seen%3 == 0 && seen < 12 {
				for c := range h.conns {
					c.Close()
				}
				a.silent = true
			}
		}
		return []answer{*a}
	}
	opts := &Options{Buffer: 256 << 10, Redial: func(context.Context) (Ticket, error) { return h.ticket(), nil }}
	target, err := h.open(t, true, opts).Target(nil)
	require.NoError(t, err)
	_, err = pipe.Copy(t.Context(), target, pipetest.Bytes(want), nil)
	require.NoError(t, err)
	require.NoError(t, target.Commit(t.Context()))
	require.NoError(t, target.Close())
	require.True(t, bytes.Equal(want, h.disk))
	require.Greater(t, h.served.Load(), int64(2))
}

// Without a way to a new ticket, a break is an error that says what it is; with one that fails, too.
func TestLost(t *testing.T) {
	h := newHost(t, noise(7, 1<<20))
	d := h.open(t, false, nil)
	h.drop()
	n, err := d.ReadAt(t.Context(), make([]byte, 4096), 8192)
	require.ErrorIs(t, err, ErrLost)
	require.Zero(t, n)
	require.True(t, pipe.WorthRetry(err))
	require.ErrorContains(t, err, h.path)
	var where *pipe.RangeError
	require.ErrorAs(t, err, &where)
	require.EqualValues(t, 8192, where.Off)
	require.NoError(t, d.Close())

	denied := errors.New("no tickets today")
	d = h.open(t, false, &Options{Redial: func(context.Context) (Ticket, error) { return Ticket{}, denied }})
	h.drop()
	_, err = d.ReadAt(t.Context(), make([]byte, 4096), 0)
	require.ErrorIs(t, err, denied)
	require.NoError(t, d.Close())
}

// Close ends a wait for a new ticket, and is bounded where the host does not answer.
func TestCloseIsBounded(t *testing.T) {
	h := newHost(t, noise(8, 1<<20))
	waiting := make(chan struct{})
	d := h.open(t, false, &Options{Redial: func(ctx context.Context) (Ticket, error) {
		close(waiting)
		<-ctx.Done()
		return Ticket{}, ctx.Err()
	}})
	h.drop()
	got := make(chan error)
	go func() {
		_, err := d.ReadAt(t.Context(), make([]byte, 512), 0)
		got <- err
	}()
	<-waiting
	require.NoError(t, d.Close())
	require.Error(t, <-got)

	d = h.open(t, true, &Options{CloseTimeout: 50 * time.Millisecond})
	h.mangle = func(a *answer) []answer { return nil }
	start := time.Now()
	require.ErrorIs(t, d.Close(), ErrLost, "nobody knows what became of the file")
	require.Less(t, time.Since(start), 3*time.Second)
}

// What waits for its turn when the disk is closed is not sent after the file's end.
func TestCloseWithReaders(t *testing.T) {
	h := newHost(t, noise(10, 1<<20))
	hold := make(chan struct{})
	d := h.open(t, false, &Options{InFlight: 2})
	h.mangle = func(a *answer) []answer {
		if a.kind == 7 {
			<-hold
		}
		return []answer{*a}
	}
	var wg sync.WaitGroup
	for i := range int64(40) {
		wg.Go(func() {
			if _, err := d.ReadAt(t.Context(), make([]byte, 512), i*512); err != nil && !errors.Is(err, fs.ErrClosed) {
				t.Error(err)
			}
		})
	}
	require.Eventually(t, func() bool { return h.frames.Load() >= 8 }, 5*time.Second, time.Millisecond)
	time.AfterFunc(20*time.Millisecond, func() { close(hold) })
	require.NoError(t, d.Close())
	wg.Wait()
	h.idle(t)
	require.Equal(t, []uint32{5, 3, 4}, h.log[len(h.log)-3:])

	d = h.open(t, false, nil)
	l, handle, err := d.c.standing()
	require.NoError(t, err)
	require.True(t, l.drain(t.Context()))
	require.ErrorIs(t, l.do(t.Context(), newRead(handle, make([]byte, 512), 0)), fs.ErrClosed, "one that was late")
}

// A silent host is found out, and one that drips.
func TestSilence(t *testing.T) {
	h := newHost(t, noise(9, 1<<20))
	d := h.open(t, false, &Options{Timeout: 500 * time.Millisecond})
	h.mangle = func(a *answer) []answer { return nil }
	start := time.Now()
	_, err := d.ReadAt(t.Context(), make([]byte, 512), 0)
	require.ErrorIs(t, err, ErrLost)
	require.Less(t, time.Since(start), patience*500*time.Millisecond, "silence is found before the request is overdue")
	require.False(t, errors.Is(err, context.DeadlineExceeded))

	// a port that accepts and says nothing
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	ticket := h.ticket()
	ticket.Port = ln.Addr().(*net.TCPAddr).Port
	_, err = Dial(t.Context(), ticket, &Options{DialTimeout: 60 * time.Millisecond})
	require.ErrorIs(t, err, ErrLost)
	require.True(t, pipe.WorthRetry(err))
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Millisecond)
	defer cancel()
	_, err = Dial(ctx, ticket, nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}
