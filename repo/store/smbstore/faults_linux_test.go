package smbstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/smbstore"
	"github.com/hikae/hikae/repo/store/storetest"
)

func long() bool {
	tier := os.Getenv("HIKAE_TEST_TIER")
	return tier == "long" || tier == "release"
}

func content(seed uint64, n int) []byte {
	p := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 7})
	_, _ = rng.Read(p)
	return p
}

// cutter makes connections that break after so many bytes, both ways counted, whatever stands there.
type cutter struct {
	mu   sync.Mutex
	rng  *rand.Rand
	left int // cuts to come
	cuts atomic.Int64
	mean int
}

func (c *cutter) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left == 0 {
		return conn, nil
	}
	c.left--
	cut := &cutConn{Conn: conn, c: c}
	cut.budget.Store(1 + int64(c.rng.IntN(2*c.mean)))
	return cut, nil
}

type cutConn struct {
	net.Conn
	c      *cutter
	budget atomic.Int64
	once   sync.Once
}

var errCut = errors.New("cut")

// spend lets at most n bytes through, and cuts at the end.
func (c *cutConn) spend(n int) (int, bool) {
	left := c.budget.Add(-int64(n))
	if left > 0 {
		return n, false
	}
	return max(0, n+int(left)), true
}

func (c *cutConn) cut() error {
	c.once.Do(func() {
		c.c.cuts.Add(1)
		if tcp, ok := c.Conn.(*net.TCPConn); ok && c.c.cuts.Load()%2 == 0 {
			_ = tcp.SetLinger(0) // a reset, every other time
		}
		_ = c.Conn.Close()
	})
	return errCut
}

func (c *cutConn) Write(p []byte) (int, error) {
	n, over := c.spend(len(p))
	n, err := c.Conn.Write(p[:n])
	if over {
		err = c.cut()
	}
	return n, err
}

func (c *cutConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	n, over := c.spend(n)
	if over {
		err = c.cut()
	}
	return n, err
}

// RELIABILITY §1.3, bar 20: the connection is cut at random bytes, in requests, answers, logons and data. Every call
// succeeds, everything is there whole, exactly once, and nothing is left over.
func TestCutAtRandomBytes(t *testing.T) {
	t.Parallel()
	cuts := 20
	if long() {
		cuts = 200
	}
	server := startSamba(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	c := &cutter{rng: rand.New(rand.NewPCG(seed, 1)), left: cuts, mean: 300_000}
	opts := quick()
	opts.Dial, opts.GiveUp = c.dial, time.Minute
	calm := server.open(t, "repo", nil)
	var st *smbstore.Store
	for try := 0; st == nil; try++ { // Open does not wait for anybody
		var err error
		st, err = smbstore.Open(t.Context(), server.address("repo"), server.creds, opts)
		require.True(t, err == nil || try < cuts, "%v", err)
	}
	defer func() { require.NoError(t, st.Close()) }()

	want := map[string][]byte{}
	for i := 0; c.cuts.Load() < int64(cuts); i++ {
		require.Less(t, i, 40*cuts, "too few cuts: %d", c.cuts.Load())
		name := fmt.Sprintf("pack/%d/%d", i%3, i)
		data := content(uint64(i), rand.IntN(300_000))
		require.NoError(t, st.Create(t.Context(), name, data), "create %d, %d cuts", i, c.cuts.Load())
		want[name] = data
		require.ErrorIs(t, st.Create(t.Context(), name, data), fs.ErrExist, "create %d again", i)
		got, err := store.ReadAll(t.Context(), st, name, 1<<20)
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, got), "read %d", i)
		if i%5 == 4 {
			require.NoError(t, st.Remove(t.Context(), name))
			delete(want, name)
		}
	}
	found, err := storetest.Collect(calm.List(t.Context(), ""))
	require.NoError(t, err)
	require.Len(t, found, len(want))
	for name, data := range want {
		got, err := store.ReadAll(t.Context(), calm, name, 1<<20)
		require.NoError(t, err, name)
		require.True(t, bytes.Equal(data, got), name)
	}
	t.Logf("%d cuts, %d objects", c.cuts.Load(), len(want))
	require.NoError(t, st.Close())
	requireNothingUnfinished(t, calm, server.folder("repo"))
}

// requireNothingUnfinished sweeps and looks at the server's disk.
func requireNothingUnfinished(t *testing.T, st *smbstore.Store, dir string) {
	t.Helper()
	require.Eventually(t, func() bool { // the server has to see that connections are gone
		swept, err := st.Sweep(t.Context(), false)
		return err == nil && swept.Kept == 0
	}, 10*time.Second, 50*time.Millisecond)
	var left []string
	entries, err := os.ReadDir(filepath.Join(dir, ".tmp"))
	require.True(t, err == nil || errors.Is(err, fs.ErrNotExist))
	for _, e := range entries {
		inside, err := os.ReadDir(filepath.Join(dir, ".tmp", e.Name()))
		if err != nil || len(inside) != 1 { // the sweeping store's own folder, with its hold
			left = append(left, e.Name())
		}
	}
	require.LessOrEqual(t, len(entries), 1)
	require.Empty(t, left)
}

// Two stores on connections that break race for the same names: each name has one winner, who is told so or whose
// object stands there.
func TestRaceOverBadLines(t *testing.T) {
	server := startSamba(t)
	names := make([]string, 40)
	for i := range names {
		names[i] = fmt.Sprintf("log/%d", i)
	}
	var wg sync.WaitGroup
	won := make([][]string, 3)
	for w := range won {
		c := &cutter{rng: rand.New(rand.NewPCG(uint64(w), 1)), left: 10, mean: 60_000}
		opts := quick()
		opts.GiveUp = time.Minute
		st := server.open(t, "repo", opts) // the folder, and the first connection, are made before anything breaks
		if w > 0 {
			opts.Dial = c.dial
			for try := 0; ; try++ {
				var err error
				if st, err = smbstore.Open(t.Context(), server.address("repo"), server.creds, opts); err == nil {
					break
				}
				require.Less(t, try, 20)
			}
			t.Cleanup(func() { require.NoError(t, st.Close()) })
		}
		wg.Go(func() {
			var err error
			won[w], err = storetest.Race(t.Context(), st, fmt.Sprint("writer ", w), names)
			assert.NoError(t, err)
		})
	}
	wg.Wait()
	calm := server.open(t, "repo", nil)
	owner := map[string]string{}
	for w := range won {
		for _, name := range won[w] {
			require.Empty(t, owner[name], "%s was won twice", name)
			owner[name] = fmt.Sprint("writer ", w)
		}
	}
	for _, name := range names {
		got, err := storetest.Winner(t.Context(), calm, name)
		require.NoError(t, err)
		require.Equal(t, owner[name], got, name)
	}
}

// The server is killed in the middle of writing, again and again, and comes back: the caller sees nothing of it.
func TestServerIsRestarted(t *testing.T) {
	t.Parallel()
	server := startSamba(t)
	st := server.open(t, "repo", nil)
	rounds := 2
	if long() {
		rounds = 10
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var made atomic.Int64
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			name, data := fmt.Sprintf("pack/%d", i), content(uint64(i), 1<<20)
			if !assert.NoError(t, st.Create(t.Context(), name, data)) {
				return
			}
			got, err := store.ReadAll(t.Context(), st, name, 4<<20)
			if !assert.NoError(t, err) || !assert.True(t, bytes.Equal(data, got)) {
				return
			}
			made.Add(1)
		}
	})
	for range rounds {
		before := made.Load()
		require.Eventually(t, func() bool { return made.Load() > before }, 30*time.Second, 5*time.Millisecond)
		server.kill()
		time.Sleep(300 * time.Millisecond)
		server.restart()
	}
	before := made.Load()
	require.Eventually(t, func() bool { return made.Load() > before+1 }, 30*time.Second, 5*time.Millisecond)
	close(stop)
	wg.Wait()
	found, err := storetest.Collect(st.List(t.Context(), "pack/"))
	require.NoError(t, err)
	require.Len(t, found, int(made.Load()))
}

// A server that stays away is an error after the time that was allowed, not before, and a caller who leaves need not
// wait for it.
func TestServerStaysAway(t *testing.T) {
	t.Parallel()
	server := startSamba(t)
	opts := quick()
	opts.GiveUp = time.Second
	st := server.open(t, "repo", opts)
	require.NoError(t, st.Create(t.Context(), "one", []byte("1")))
	patient, leaving := server.open(t, "repo", quick()), server.open(t, "repo", nil)
	require.NoError(t, leaving.Create(t.Context(), "left", nil))
	server.kill()

	start := time.Now()
	_, err := st.Stat(t.Context(), "one")
	require.ErrorIs(t, err, smbstore.ErrAway)
	require.NotErrorIs(t, err, fs.ErrNotExist)
	require.Greater(t, time.Since(start), 400*time.Millisecond)
	err = st.Create(t.Context(), "two", []byte("2"))
	require.ErrorIs(t, err, smbstore.ErrAway)
	_, err = smbstore.Open(t.Context(), server.address("repo"), server.creds, quick())
	require.ErrorIs(t, err, syscall.ECONNREFUSED, "opening does not wait")

	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	for what, call := range map[string]func() error{
		"stat":   func() error { _, err := patient.Stat(ctx, "one"); return err },
		"read":   func() error { _, err := patient.ReadAt(ctx, "one", make([]byte, 1), 0); return err },
		"create": func() error { return patient.Create(ctx, "two", []byte("2")) },
		"remove": func() error { return patient.Remove(ctx, "one") },
		"list":   func() error { _, err := storetest.Collect(patient.List(ctx, "")); return err },
		"probe":  func() error { _, err := patient.Probe(ctx); return err },
	} {
		start := time.Now()
		require.ErrorIs(t, call(), context.DeadlineExceeded, what)
		require.Less(t, time.Since(start), 3*time.Second, what)
	}
	start = time.Now()
	require.NoError(t, leaving.Close())
	require.Less(t, time.Since(start), 10*time.Second, "closing does not wait for long")

	server.start(program(t, "smbd"))
	_, err = st.Stat(t.Context(), "one")
	require.NoError(t, err)
	_, err = st.Stat(t.Context(), "two")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// deaf lets everything through until it is told to swallow it, as a line does whose other end has lost its power.
type deaf struct {
	mu    sync.Mutex
	conns []*deafConn
	on    atomic.Bool
}

type deafConn struct {
	net.Conn
	d    *deaf
	gone chan struct{}
	once sync.Once
}

func (d *deaf) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if d.on.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &deafConn{Conn: conn, d: d, gone: make(chan struct{})}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conns = append(d.conns, c)
	return c, nil
}

func (c *deafConn) Write(p []byte) (int, error) {
	if c.d.on.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *deafConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.d.on.Load() {
		<-c.gone
		return 0, io.ErrClosedPipe
	}
	return n, err
}

func (c *deafConn) Close() error {
	c.once.Do(func() { close(c.gone) })
	return c.Conn.Close()
}

// A line that swallows everything is found after Timeout, and a caller who leaves is let go soon.
func TestLineThatSwallowsEverything(t *testing.T) {
	t.Parallel()
	server := startSamba(t)
	d := &deaf{}
	opts := quick()
	opts.Dial, opts.Timeout, opts.GiveUp = d.dial, 700*time.Millisecond, 10*time.Second
	st := server.open(t, "repo", opts)
	require.NoError(t, st.Create(t.Context(), "one", []byte("1")))
	d.on.Store(true)
	go func() { time.Sleep(1500 * time.Millisecond); d.on.Store(false) }()
	start := time.Now()
	_, err := st.Stat(t.Context(), "one")
	require.NoError(t, err)
	require.Greater(t, time.Since(start), 600*time.Millisecond)
	require.Less(t, time.Since(start), 8*time.Second)
}

// What answers need not be a server: junk, a length and nothing after it, silence. It ends in an error, in time.
func TestNoServer(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	junk := make([]byte, 4096)
	for i := range junk {
		junk[i] = byte(rng.Uint32())
	}
	header := append([]byte{0, 0, 1, 0, 0xfe, 'S', 'M', 'B', 64, 0}, make([]byte, 250)...)
	for name, answer := range map[string][]byte{
		"junk": junk, "framed junk": append([]byte{0, 0, 16, 0}, junk...), "a header and zeros": header,
		"half a header": header[:20], "the longest length": {0, 0xff, 0xff, 0xff, 1}, "silence": nil,
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			var wg sync.WaitGroup
			wg.Go(func() {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = conn.Write(answer)
				_, _ = io.Copy(io.Discard, conn)
				_ = conn.Close()
			})
			opts := quick()
			opts.Timeout = 400 * time.Millisecond
			start := time.Now()
			_, err = smbstore.Open(t.Context(), smbstore.Address{Host: l.Addr().String(), Share: "x"},
				func(context.Context) (smbstore.Credentials, error) {
					return smbstore.Credentials{User: "u", Password: "Secret-1234"}, nil
				}, opts)
			require.Error(t, err)
			require.NotContains(t, err.Error(), "Secret")
			require.Less(t, time.Since(start), 5*time.Second)
			require.NoError(t, l.Close())
			wg.Wait()
		})
	}
}

// R175, RELIABILITY §1.3: a share that is full says so, keeps nothing of what did not fit, and works again when there
// is room.
func TestShareIsFull(t *testing.T) {
	server := startSamba(t)
	if err := syscall.Mount("none", server.folder(""), "tmpfs", 0, "size=6m,mode=755"); err != nil {
		t.Skipf("a small file system cannot be mounted here: %v", err)
	}
	defer func() { require.NoError(t, syscall.Unmount(server.folder(""), syscall.MNT_DETACH)) }()
	st := server.open(t, "repo", nil)
	defer st.Close()
	free, err := st.Free(t.Context())
	require.NoError(t, err)
	require.InDelta(t, 6<<20, free, 1<<20)
	require.NoError(t, st.Create(t.Context(), "pack/1", content(1, 4<<20)))
	err = st.Create(t.Context(), "pack/2", content(2, 4<<20))
	require.ErrorIs(t, err, syscall.ENOSPC)
	var pe *fs.PathError
	require.ErrorAs(t, err, &pe)
	require.Equal(t, "pack/2", pe.Path)
	_, err = st.Stat(t.Context(), "pack/2")
	require.ErrorIs(t, err, fs.ErrNotExist)
	free, err = st.Free(t.Context())
	require.NoError(t, err)
	require.Greater(t, free, int64(1500<<10), "nothing of it stays")
	require.NoError(t, st.Remove(t.Context(), "pack/1"))
	require.NoError(t, st.Create(t.Context(), "pack/2", content(2, 4<<20)))
}
