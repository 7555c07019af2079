package nbd_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/nbd"
	"github.com/hikae/hikae/pipe/pipetest"
)

// Further connections open where the server has several, and share the work.
func TestSeveralConnections(t *testing.T) {
	src := sparse(21, 8<<20)
	uri := serve(t, nil, nbd.Export{Image: src})
	c := dial(t, uri(""), &nbd.Options{Connections: 3})
	require.Eventually(t, func() bool { return c.Connections() == 3 }, 5*time.Second, time.Millisecond)
	checkContent(t, c, src)
}

// A lost connection fails what comes next, by name of the range; with Reconnect the next request finds a new one.
func TestLostConnection(t *testing.T) {
	src := sparse(22, 2<<20)
	uri := serve(t, nil, nbd.Export{Image: src})
	c := dial(t, uri(""), &nbd.Options{Connections: 1})
	c.CutConnections()
	_, err := c.ReadAt(t.Context(), make([]byte, 100), 4096)
	require.ErrorIs(t, err, nbd.ErrLost)
	at, ok := errors.AsType[*pipe.RangeError](err)
	require.True(t, ok)
	require.EqualValues(t, 4096, at.Off)
	require.True(t, pipe.WorthRetry(err), "pipe.Retry may try again: %v", err)

	again := dial(t, uri(""), &nbd.Options{Reconnect: 10 * time.Second})
	for range 5 {
		again.CutConnections()
		checkContent(t, again, src)
	}
}

// While connections break all the time, a client that reconnects still reads the right bytes.
func TestReadsAcrossBrokenConnections(t *testing.T) {
	src := sparse(23, 4<<20)
	uri := serve(t, nil, nbd.Export{Image: src})
	c := dial(t, uri(""), &nbd.Options{Reconnect: 20 * time.Second, RequestBytes: 64 << 10})
	stop, cutter := make(chan struct{}), sync.WaitGroup{}
	cutter.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				c.CutConnections()
			}
		}
	})
	for range 5 {
		checkContent(t, c, src)
	}
	close(stop)
	cutter.Wait()
}

// A write that no flush covers may be lost with its connection, so that Commit fails although the server is back.
func TestCommitAfterLostWrites(t *testing.T) {
	disk, err := nbd.OpenOverlay(filepath.Join(t.TempDir(), "s"), pipe.NewMemory(1<<20), nil)
	require.NoError(t, err)
	defer disk.Close()
	uri := serve(t, nil, nbd.Export{Image: disk})
	c := dial(t, uri(""), &nbd.Options{Connections: 1, Reconnect: 10 * time.Second})
	target, err := c.Target(nil)
	require.NoError(t, err)
	_, err = target.WriteAt(t.Context(), []byte("one"), 0)
	require.NoError(t, err)
	require.NoError(t, target.Flush(t.Context()))
	c.CutConnections()
	require.Eventually(t, func() bool { return target.Flush(t.Context()) == nil }, 5*time.Second, time.Millisecond, "nothing was lost")
	_, err = target.WriteAt(t.Context(), []byte("two"), 3)
	require.NoError(t, err)
	c.CutConnections()
	time.Sleep(50 * time.Millisecond)
	require.ErrorIs(t, target.Commit(t.Context()), nbd.ErrLost)
	_, err = target.WriteAt(t.Context(), []byte("x"), 0)
	require.ErrorIs(t, err, fs.ErrClosed)
}

// In place: with a base, Unchanged leaves what is there.
func TestTargetWithBase(t *testing.T) {
	base := sparse(24, 1<<20)
	disk, err := nbd.OpenOverlay(filepath.Join(t.TempDir(), "s"), base, nil)
	require.NoError(t, err)
	defer disk.Close()
	target, err := nbd.DialTarget(t.Context(), serve(t, nil, nbd.Export{Image: disk})(""), nil, &nbd.TargetOptions{Base: true})
	require.NoError(t, err)
	defer target.Close()
	require.NoError(t, target.Mark(t.Context(), pipe.Extent{Len: 1 << 20, Kind: pipe.Unchanged}))
	require.NoError(t, target.Commit(t.Context()))
	pipetest.TestImage(t, disk, base)
}

// A context that ends in the middle of an answer returns at once, and the buffer is the caller's: nobody writes into it.
func TestCancelledInTheMiddle(t *testing.T) {
	gate := make(chan struct{})
	half := be(be(uint32(0x668e33ef), uint16(1), uint16(1), uint64(1), uint32(1<<20+8), uint64(0), make([]byte, 300_000)))
	opts := &nbd.Options{Connections: 1, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go server.Write(structured(8 << 20))
		go func() {
			b := make([]byte, 4096)
			for n, err := 0, error(nil); err == nil; n, err = server.Read(b) {
				if bytes.HasPrefix(b[:n], be(uint32(0x25609513), uint16(0), uint16(0))) { // the read
					server.Write(half)
					close(gate)
				}
			}
		}()
		return client, nil
	}}
	c := dial(t, "nbd://server", opts)
	ctx, cancel := context.WithCancel(t.Context())
	b := make([]byte, 1<<20)
	result := make(chan error, 1)
	go func() {
		_, err := c.ReadAt(ctx, b, 0)
		result <- err
	}()
	<-gate
	cancel()
	start := time.Now()
	require.ErrorIs(t, <-result, context.Canceled)
	require.Less(t, time.Since(start), 2*time.Second)
	for i := range b { // the race detector looks on
		b[i] = 1
	}
}

// A server that ends lets what is under way finish, and a client that stays idle does not hold it up.
func TestServerEnds(t *testing.T) {
	slow := &slowImage{Image: sparse(25, 1<<20), begun: make(chan struct{})}
	l, err := nbd.Listen(t.Context(), "unix:"+filepath.Join(socketDir(t), "s"))
	require.NoError(t, err)
	server, err := nbd.NewServer([]nbd.Export{{Image: slow}}, nil)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, l) }()
	uri := unixURI(l.Addr().String(), "")
	idle, busy := dial(t, uri, nil), dial(t, uri, &nbd.Options{Connections: 1})
	result := make(chan error, 1)
	go func() {
		_, err := busy.ReadAt(context.Background(), make([]byte, 4096), 0)
		result <- err
	}()
	<-slow.begun
	cancel()
	require.NoError(t, <-result, "what is under way is answered")
	require.NoError(t, <-ended)
	_, err = idle.ReadAt(t.Context(), make([]byte, 1), 0)
	require.ErrorIs(t, err, nbd.ErrLost)
	_, err = os.Stat(l.Addr().String())
	require.ErrorIs(t, err, fs.ErrNotExist)
}

type slowImage struct {
	pipe.Image
	begun chan struct{}
	once  atomic.Bool
}

func (s *slowImage) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if !s.once.Swap(true) {
		close(s.begun)
	}
	time.Sleep(200 * time.Millisecond)
	return s.Image.ReadAt(ctx, p, off)
}

// An error of the image reaches the client with its place, and what came before it is there.
func TestImageErrorsReachTheClient(t *testing.T) {
	src := pipetest.BadSectors(sparse(26, 4<<20), pipe.Extent{Off: 2<<20 + 512, Len: 512})
	uri := serve(t, nil, nbd.Export{Image: src})
	for form := range nbd.Forms {
		c := dial(t, uri(""), nbd.Options{Connections: 1}.AtMost(form))
		_, err := c.ReadAt(t.Context(), make([]byte, 3<<20), 0)
		at, ok := errors.AsType[*pipe.RangeError](err)
		require.True(t, ok, "%s: %v", form, err)
		require.GreaterOrEqual(t, at.Off, int64(2<<20), form)
		require.LessOrEqual(t, at.Off, int64(2<<20+512), form)
		e, ok := errors.AsType[*nbd.ServerError](err)
		require.True(t, ok, "%s: %v", form, err)
		require.Equal(t, nbd.EIO, e.Errno)
		_, err = c.ReadAt(t.Context(), make([]byte, 4096), 0)
		require.NoError(t, err, "the connection is as good as before")
	}
}

// More connections than there are places wait, and get theirs.
func TestConnectionsAreBounded(t *testing.T) {
	src := sparse(27, 1<<20)
	uri := serve(t, &nbd.ServerOptions{Connections: 1}, nbd.Export{Image: src})
	first, err := nbd.Dial(t.Context(), uri(""), &nbd.Options{Connections: 1})
	require.NoError(t, err)
	_, err = nbd.Dial(t.Context(), uri(""), &nbd.Options{Timeout: 200 * time.Millisecond})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, first.Close())
	checkContent(t, dial(t, uri(""), &nbd.Options{Connections: 1}), src)
}
