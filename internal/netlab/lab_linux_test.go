package netlab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// newLab is a lab for one test; without root or programs the test is skipped.
func newLab(t *testing.T) *Lab {
	t.Helper()
	if err := Check(); err != nil {
		t.Skip(err)
	}
	l, err := New(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

// sites are two sites with a road between them.
func sites(t *testing.T, line Line, opts *RoadOptions) (a, b *Space, r *Road) {
	t.Helper()
	l := newLab(t)
	a, err := l.Space(t.Context(), "a")
	require.NoError(t, err)
	b, err = l.Space(t.Context(), "b")
	require.NoError(t, err)
	r, err = l.Road(t.Context(), a, b, line, opts)
	require.NoError(t, err)
	return a, b, r
}

// datagrams are a socket in b that is read, and one in a that sends to it.
func datagrams(t *testing.T, a, b *Space, r *Road) (from, to net.PacketConn, addr net.Addr) {
	t.Helper()
	to, err := b.ListenPacket(t.Context(), "udp4", r.B+":0")
	require.NoError(t, err)
	t.Cleanup(func() { to.Close() })
	from, err = a.ListenPacket(t.Context(), "udp4", r.A+":0")
	require.NoError(t, err)
	t.Cleanup(func() { from.Close() })
	require.NoError(t, to.(*net.UDPConn).SetReadBuffer(8<<20))
	return from, to, to.LocalAddr()
}

// connect is a TCP connection from a to b.
func connect(t *testing.T, a, b *Space, address string) (from, to net.Conn) {
	t.Helper()
	l, err := b.Listen(t.Context(), "tcp4", address+":0")
	require.NoError(t, err)
	defer l.Close()
	from, err = a.Dial(t.Context(), "tcp4", l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { from.Close() })
	to, err = l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { to.Close() })
	return from, to
}

// soon measures until a figure is within a share of what it should be: on a machine that has other work, the first time
// may be off. Three times off is wrong.
func soon(t *testing.T, want, share float64, measure func() float64) {
	t.Helper()
	var seen []float64
	for range 3 {
		got := measure()
		if math.Abs(got-want) <= share*want {
			return
		}
		seen = append(seen, got)
	}
	assert.Fail(t, "not kept", "%v, want %v ± %v %%", seen, want, 100*share)
}

func TestDelayIsKept(t *testing.T) {
	a, b, r := sites(t, Line{Delay: 25 * time.Millisecond}, nil)
	from, to, addr := datagrams(t, a, b, r)
	go func() {
		for p := make([]byte, 100); ; {
			n, back, err := to.ReadFrom(p)
			if err != nil {
				return
			}
			to.WriteTo(p[:n], back)
		}
	}()
	soon(t, 52, 2./52, func() float64 { // milliseconds both ways: 2 ms either way at most, and never less than was asked for
		var times []time.Duration
		for range 15 {
			start := time.Now()
			_, err := from.WriteTo(make([]byte, 64), addr)
			require.NoError(t, err)
			require.NoError(t, from.SetReadDeadline(time.Now().Add(5*time.Second)))
			_, _, err = from.ReadFrom(make([]byte, 100))
			require.NoError(t, err)
			times = append(times, time.Since(start))
		}
		slices.Sort(times)
		require.GreaterOrEqual(t, times[0], 50*time.Millisecond)
		return times[len(times)/2].Seconds() * 1e3
	})
}

func TestLossDuplicatesAndOrderOfTenThousandPackets(t *testing.T) {
	a, b, r := sites(t, Line{Loss: 0.02, Duplicate: 0.01, Reorder: 0.05, HoldBack: 20 * time.Millisecond, Delay: time.Millisecond}, nil)
	from, to, addr := datagrams(t, a, b, r)
	var got []uint32
	var wg sync.WaitGroup
	wg.Go(func() {
		for p := make([]byte, 200); ; {
			to.SetReadDeadline(time.Now().Add(time.Second))
			if _, _, err := to.ReadFrom(p); err != nil {
				return
			}
			got = append(got, binary.BigEndian.Uint32(p))
		}
	})
	const packets = 10_000
	for i := range packets {
		p := make([]byte, 100)
		binary.BigEndian.PutUint32(p, uint32(i))
		_, err := from.WriteTo(p, addr)
		require.NoError(t, err)
		if i%50 == 0 {
			time.Sleep(5 * time.Millisecond)
		}
	}
	wg.Wait()
	seen, twice, late, highest := map[uint32]bool{}, 0, 0, uint32(0)
	for _, n := range got {
		if seen[n] {
			twice++
		}
		seen[n] = true
		if n < highest {
			late++
		}
		highest = max(highest, n)
	}
	assert.InDelta(t, 0.02*packets, packets-len(seen), 0.2*0.02*packets)
	assert.InDelta(t, 0.01*packets, twice, 0.3*0.01*packets)
	assert.Greater(t, late, packets*3/100)
	counts := r.There.Counts()
	assert.EqualValues(t, packets, counts.Packets)
	assert.EqualValues(t, packets*128, counts.Bytes, "with the headers of IP and UDP")
	assert.EqualValues(t, len(got), counts.Arrived)
	assert.EqualValues(t, packets-len(seen), counts.Lost)
	assert.Zero(t, r.Back.Counts().Packets)
}

func TestRateIsKept(t *testing.T) {
	a, b, r := sites(t, Line{Rate: 20_000_000, Delay: 10 * time.Millisecond, Queue: 100_000}, nil)
	from, to, addr := datagrams(t, a, b, r)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { // three times as much as goes through
		for p := make([]byte, 1_272); ; {
			select {
			case <-stop:
				return
			default:
				for range 12 {
					from.WriteTo(p, addr)
				}
				time.Sleep(2 * time.Millisecond)
			}
		}
	})
	go io.Copy(io.Discard, to.(*net.UDPConn))
	time.Sleep(300 * time.Millisecond)
	soon(t, 20e6, 0.05, func() float64 {
		before, start := r.There.Counts(), time.Now()
		time.Sleep(1500 * time.Millisecond)
		after, took := r.There.Counts(), time.Since(start)
		return float64(after.ArrivedBytes-before.ArrivedBytes) * 8 / took.Seconds()
	})
	close(stop)
	wg.Wait()
	assert.Positive(t, r.There.Counts().Overflowed)
}

func TestCutAndRestore(t *testing.T) {
	a, b, r := sites(t, Line{Delay: time.Millisecond}, nil)
	from, to := connect(t, a, b, r.B)
	echo(t, from, to)
	for _, severed := range []interface {
		Cut()
		Restore()
	}{r, r.There, r.Back} {
		severed.Cut()
		done := make(chan error, 1)
		_, err := from.Write([]byte("x"))
		require.NoError(t, err)
		go func() {
			p := make([]byte, 1)
			_, err := io.ReadFull(to, p)
			if err == nil {
				_, err = to.Write(p)
			}
			done <- err
		}()
		require.NoError(t, from.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
		_, err = from.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		severed.Restore()
		require.NoError(t, from.SetReadDeadline(time.Now().Add(10*time.Second)))
		_, err = io.ReadFull(from, make([]byte, 1))
		require.NoError(t, err, "TCP comes back after a cut")
		require.NoError(t, <-done)
	}
	require.Positive(t, r.There.Counts().Cut)
	require.Positive(t, r.Back.Counts().Cut)
}

// echo sends a word and gets it back.
func echo(t *testing.T, from, to net.Conn) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	require.NoError(t, from.SetDeadline(deadline))
	require.NoError(t, to.SetDeadline(deadline))
	for _, way := range [][2]net.Conn{{from, to}, {to, from}} {
		_, err := way[0].Write([]byte("word"))
		require.NoError(t, err)
		p := make([]byte, 4)
		_, err = io.ReadFull(way[1], p)
		require.NoError(t, err)
		require.Equal(t, "word", string(p))
	}
	require.NoError(t, to.SetDeadline(time.Time{}))
	require.NoError(t, from.SetDeadline(time.Time{}))
}

// A path that drops large packets without saying so: small writes pass, large ones hang.
func TestBlackHoleForLargePackets(t *testing.T) {
	a, b, r := sites(t, Line{MaxPacket: 1000}, nil)
	from, to := connect(t, a, b, r.B)
	echo(t, from, to)
	_, err := from.Write(make([]byte, 20_000))
	require.NoError(t, err)
	require.NoError(t, to.SetReadDeadline(time.Now().Add(300*time.Millisecond)))
	_, err = io.ReadFull(to, make([]byte, 20_000))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Positive(t, r.There.Counts().TooLarge)
}

func TestResetKillsConnections(t *testing.T) {
	a, b, r := sites(t, Line{}, nil)
	from, to := connect(t, a, b, r.B)
	other, otherTo := connect(t, a, b, r.B)
	echo(t, from, to)
	_, port, err := net.SplitHostPort(from.RemoteAddr().String())
	require.NoError(t, err)
	require.NoError(t, a.Reset(t.Context(), "dport = :"+port))
	for _, c := range []net.Conn{from, to} {
		require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
		_, err := c.Read(make([]byte, 1))
		require.Error(t, err)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	}
	echo(t, other, otherTo)
}

func TestCableHasARate(t *testing.T) {
	l := newLab(t)
	a, err := l.Space(t.Context(), "a")
	require.NoError(t, err)
	b, err := l.Space(t.Context(), "b")
	require.NoError(t, err)
	c, err := l.Cable(t.Context(), a, b, 200_000_000)
	require.NoError(t, err)
	from, to := connect(t, a, b, c.B)
	go func() {
		for p := make([]byte, 64<<10); ; {
			if _, err := from.Write(p); err != nil {
				return
			}
		}
	}()
	read := func(d time.Duration) float64 {
		start, n := time.Now(), 0
		for p := make([]byte, 256<<10); time.Since(start) < d; {
			m, err := to.Read(p)
			require.NoError(t, err)
			n += m
		}
		return float64(n) / time.Since(start).Seconds()
	}
	read(300 * time.Millisecond)
	soon(t, 25_000_000*1448/1514, 0.05, func() float64 { return read(time.Second) }) // the rest are headers
	sent, acks, err := c.Sent()
	require.NoError(t, err)
	assert.Greater(t, sent.Bytes, int64(25_000_000))
	assert.Positive(t, sent.Packets)
	assert.Less(t, acks.Bytes, sent.Bytes/10)
	require.NoError(t, c.SetRate(t.Context(), 0))
	read(100 * time.Millisecond)
	assert.Greater(t, read(300*time.Millisecond), 40e6)
}

func TestConnectionsAreCubic(t *testing.T) {
	a, b, r := sites(t, Line{}, nil)
	from, to := connect(t, a, b, r.B)
	for _, c := range []net.Conn{from, to} {
		raw, err := c.(*net.TCPConn).SyscallConn()
		require.NoError(t, err)
		require.NoError(t, raw.Control(func(fd uintptr) {
			name, err := unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION)
			assert.NoError(t, err)
			assert.Equal(t, "cubic", strings.TrimRight(name, "\x00"))
		}))
	}
	out, err := b.Run(t.Context(), "ss", "-tiH")
	require.NoError(t, err)
	require.Contains(t, out, "cubic")
	require.NotContains(t, out, "bbr")
}

func TestProgramsRunInASpace(t *testing.T) {
	l := newLab(t)
	s, err := l.Space(t.Context(), "a")
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), "ip", "netns", "identify")
	var said strings.Builder
	cmd.Stdout = &said
	require.NoError(t, s.Start(cmd))
	require.NoError(t, cmd.Wait())
	require.Equal(t, s.Name, strings.TrimSpace(said.String()))
	_, err = s.Run(t.Context(), "false")
	require.Error(t, err)
	_, err = s.Dial(t.Context(), "tcp4", "localhost:1")
	require.ErrorContains(t, err, "not an IP address")
}

// foreignThreads are this process's threads that are in another network namespace than its first.
func foreignThreads(t *testing.T) (list []string) {
	own, err := os.Readlink("/proc/self/ns/net")
	require.NoError(t, err)
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	require.NoError(t, err)
	for _, task := range tasks {
		ns, err := os.Readlink(task)
		if err == nil && ns != own {
			list = append(list, task+" "+ns)
		}
	}
	return list
}

func TestCloseLeavesNothing(t *testing.T) {
	if err := Check(); err != nil {
		t.Skip(err)
	}
	l, err := New(t.Context())
	require.NoError(t, err)
	a, err := l.Space(t.Context(), "a")
	require.NoError(t, err)
	b, err := l.Space(t.Context(), "b")
	require.NoError(t, err)
	r, err := l.Road(t.Context(), a, b, Line{Delay: time.Millisecond}, nil)
	require.NoError(t, err)
	listener, err := b.Listen(t.Context(), "tcp4", r.B+":0")
	require.NoError(t, err)
	c, err := a.Dial(t.Context(), "tcp4", listener.Addr().String())
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.NoError(t, listener.Close())
	require.NoError(t, l.Close())
	require.NoError(t, l.Close())
	for _, s := range []*Space{a, b, r.Router} {
		require.NoFileExists(t, filepath.Join(runDir, s.Name))
	}
	require.Eventually(t, func() bool { return len(foreignThreads(t)) == 0 }, 5*time.Second, 10*time.Millisecond)
	_, err = l.Space(t.Context(), "late")
	require.ErrorContains(t, err, "closed")
}

// A process that was killed leaves its namespaces; the next lab removes them, and no others.
func TestSweepRemovesWhatTheDeadLeft(t *testing.T) {
	if os.Getenv("NETLAB_CHILD") != "" {
		l, err := New(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		s, err := l.Space(context.Background(), "dead")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("space %s\n", s.Name)
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	l := newLab(t)
	mine, err := l.Space(t.Context(), "mine")
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "NETLAB_CHILD=1")
	out, err := cmd.Output()
	var exit *exec.ExitError
	require.True(t, errors.As(err, &exit), "%v %s", err, out)
	_, name, _ := strings.Cut(string(out), "space ")
	name, _, _ = strings.Cut(name, "\n")
	require.FileExists(t, filepath.Join(runDir, name))
	require.NoError(t, Sweep(t.Context()))
	require.NoFileExists(t, filepath.Join(runDir, name))
	require.FileExists(t, filepath.Join(runDir, mine.Name))
	require.False(t, orphan("hikae-1-x"))
	require.False(t, orphan("somebody-1-2-3-4"))
}

// What a clean road carries here, and what TCP makes of a bad one. Figures, and bounds that only a broken road misses.
func TestThroughput(t *testing.T) {
	if !long() {
		t.Skip("HIKAE_TEST_TIER is not long")
	}
	for name, test := range map[string]struct {
		line  Line
		least float64 // MB/s
	}{
		"clean":                       {Line{}, 50},
		"20 ms":                       {Line{Delay: 10 * time.Millisecond}, 25},
		"100 ms, 20 Mbit/s":           {Line{Delay: 50 * time.Millisecond, Rate: 20_000_000}, 1.8},
		"100 ms, 20 Mbit/s, 1 % loss": {Line{Delay: 50 * time.Millisecond, Rate: 20_000_000, Loss: 0.01}, 0.05},
		"100 ms, 100 Mbit/s":          {Line{Delay: 50 * time.Millisecond, Rate: 100_000_000}, 5},
	} {
		t.Run(name, func(t *testing.T) {
			a, b, r := sites(t, test.line, nil)
			from, to := connect(t, a, b, r.B)
			var wg sync.WaitGroup
			wg.Go(func() {
				from.SetWriteDeadline(time.Now().Add(8 * time.Second))
				for p := make([]byte, 256<<10); ; {
					if _, err := from.Write(p); err != nil {
						from.Close()
						return
					}
				}
			})
			start := time.Now()
			n, _ := io.Copy(io.Discard, to)
			rate := float64(n) / time.Since(start).Seconds() / 1e6
			wg.Wait()
			c := r.There.Counts()
			t.Logf("%.1f MB/s; %+v", rate, c)
			assert.Greater(t, rate, test.least)
		})
	}
}
