package bandwidth

import (
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
)

// endless is a connection that takes and gives as much as it is asked to, and counts.
type endless struct {
	net.Conn
	moved  atomic.Int64
	pieces atomic.Int64 // the largest piece
	pause  time.Duration
}

func newEndless() *endless {
	a, _ := net.Pipe() // for its addresses
	return &endless{Conn: a}
}

func (e *endless) Write(p []byte) (int, error) { return e.Read(p) }
func (e *endless) Read(p []byte) (int, error) {
	time.Sleep(e.pause)
	e.moved.Add(int64(len(p)))
	if n := int64(len(p)); n > e.pieces.Load() {
		e.pieces.Store(n)
	}
	return len(p), nil
}
func (e *endless) SetDeadline(time.Time) error      { return nil }
func (e *endless) SetReadDeadline(time.Time) error  { return nil }
func (e *endless) SetWriteDeadline(time.Time) error { return nil }

// rig runs connections that are always busy, in a synctest bubble.
type rig struct {
	t      *testing.T
	shaper *Shaper
	conns  []net.Conn
	wg     sync.WaitGroup
}

func newRig(t *testing.T, rules Rules) *rig { return &rig{t: t, shaper: New(rules)} }

// busy opens connections of a session that write (or read) without pause in units of size bytes.
func (r *rig) busy(session string, conns, size int, read bool) []*endless {
	var list []*endless
	for range conns {
		e := newEndless()
		list = append(list, e)
		r.run(session, e, size, read)
	}
	return list
}

func (r *rig) run(session string, e *endless, size int, read bool) {
	c := r.shaper.Session(session).Conn(e)
	r.conns = append(r.conns, c)
	move := c.Write
	if read {
		move = c.Read
	}
	r.wg.Go(func() {
		for p := make([]byte, size); ; {
			if _, err := move(p); err != nil {
				return
			}
		}
	})
}

func (r *rig) end() {
	for _, c := range r.conns {
		c.Close()
	}
	r.wg.Wait()
	for _, p := range []*pool{r.shaper.in, r.shaper.out} {
		p.mu.Lock()
		assert.Empty(r.t, p.shares)
		assert.Empty(r.t, p.active)
		p.mu.Unlock()
	}
}

func moved(list []*endless) (n int64) {
	for _, e := range list {
		n += e.moved.Load()
	}
	return n
}

// during is what list moves in d.
func during(d time.Duration, list []*endless) float64 {
	before := moved(list)
	time.Sleep(d)
	synctest.Wait()
	return float64(moved(list) - before)
}

func TestLimitsAreKeptWithinFivePercent(t *testing.T) {
	levels := map[string]func(int64) Limits{
		"total":      func(r int64) Limits { return Limits{Total: r} },
		"session":    func(r int64) Limits { return Limits{PerSession: r} },
		"connection": func(r int64) Limits { return Limits{PerConnection: r} },
		"all":        func(r int64) Limits { return Limits{r, r, r} },
	}
	for name, limits := range levels {
		for _, rate := range []int64{1_000, 64_000, 2_500_000, 30_000_000} {
			for _, read := range []bool{false, true} {
				t.Run(name+" "+rateText(rate)+" read "+strconv.FormatBool(read), func(t *testing.T) {
					bubble.Test(t, func(t *testing.T) {
						r := newRig(t, Rules{Limits: limits(rate)})
						defer r.end()
						list := r.busy("a", 1, 100_000, read)
						for range 2 {
							assert.InEpsilon(t, 10*rate, during(10*time.Second, list), 0.05)
						}
					})
				})
			}
		}
	}
}

// A pause is not saved up: after it, ten seconds carry what ten seconds may carry.
func TestPauseIsNotSavedUp(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := New(Rules{Limits: Limits{Total: 1_000_000}})
		e := newEndless()
		c := s.Session("a").Conn(e)
		defer c.Close()
		_, err := c.Write(make([]byte, 1))
		require.NoError(t, err)
		time.Sleep(time.Hour)
		start := time.Now()
		_, err = c.Write(make([]byte, 10_000_000))
		require.NoError(t, err)
		assert.InEpsilon(t, 10, time.Since(start).Seconds(), 0.05)
	})
}

func TestShortTotalIsSharedEquallyAmongSessions(t *testing.T) {
	for _, test := range []struct {
		name         string
		rate         int64
		connsA, size int
		sizeB        int
		read         bool
	}{
		{"eight connections against one", 2_000_000, 8, 64 << 10, 64 << 10, false},
		{"eight connections against one, reading", 2_000_000, 8, 64 << 10, 64 << 10, true},
		{"eight connections against one, slow", 20_000, 8, 64 << 10, 64 << 10, false},
		{"eight connections against one, fast", 30_000_000, 8, 256 << 10, 256 << 10, false},
		{"large writes against small", 2_000_000, 1, 1 << 20, 700, false},
		{"eight with large writes against one with small", 8_000_000, 8, 1 << 20, 4000, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				r := newRig(t, Rules{Limits: Limits{Total: test.rate}})
				defer r.end()
				a := r.busy("a", test.connsA, test.size, test.read)
				b := r.busy("b", 1, test.sizeB, test.read)
				both := append(slices.Clone(a), b...)
				startA := moved(a)
				all := during(10*time.Second, both)
				ofA := float64(moved(a) - startA)
				assert.InEpsilon(t, 10*test.rate, all, 0.05)
				assert.InDelta(t, 0.5, ofA/all, 0.05)
				for _, e := range both {
					assert.LessOrEqual(t, e.pieces.Load(), int64(maxPiece))
				}
				// The connections of one session share what it gets.
				for _, e := range a {
					assert.InEpsilon(t, moved(a)/int64(len(a)), e.moved.Load(), 0.1)
				}
			})
		})
	}
}

func TestUnusedShareGoesToOthers(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t, Rules{Limits: Limits{Total: 4_000_000}})
		defer r.end()
		slow := newEndless()
		slow.pause = 10 * time.Millisecond
		r.run("slow", slow, 4_000, false) // 400 kB/s at most
		fast := r.busy("fast", 2, 64<<10, false)
		time.Sleep(time.Second)
		before := slow.moved.Load()
		assert.InEpsilon(t, 36_000_000, during(10*time.Second, fast), 0.05)
		assert.InEpsilon(t, 4_000_000, slow.moved.Load()-before, 0.12)
		assert.InEpsilon(t, 40_000_000, during(10*time.Second, append(fast, slow)), 0.05)
	})
}

func TestSessionThatEndsLeavesAllToTheOther(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t, Rules{Limits: Limits{Total: 1_000_000}})
		defer r.end()
		a := r.busy("a", 1, 10_000, false)
		b := r.busy("b", 3, 10_000, false)
		assert.InEpsilon(t, 5_000_000, during(10*time.Second, a), 0.05)
		for _, c := range r.conns[1:] {
			c.Close()
		}
		_ = b
		assert.InEpsilon(t, 10_000_000, during(10*time.Second, a), 0.05)
	})
}

func TestLimitsHoldAtEveryLevelAtOnce(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t, Rules{Limits: Limits{Total: 10_000_000, PerSession: 4_000_000, PerConnection: 1_000_000}})
		defer r.end()
		many := r.busy("many", 8, 64<<10, false)
		other := r.busy("other", 8, 64<<10, false)
		one := r.busy("one", 1, 64<<10, false)
		everything := slices.Concat(many, other, one)
		assert.InEpsilon(t, 90_000_000, during(10*time.Second, everything), 0.05)
		assert.InEpsilon(t, 40_000_000, during(10*time.Second, many), 0.05, "by session")
		assert.InEpsilon(t, 10_000_000, during(10*time.Second, one), 0.05, "by connection")
	})
}

// A connection with small writes does not keep one with large ones of the same session from its turn.
func TestSmallWritesLeaveRoomForLargeOnesOfTheSession(t *testing.T) {
	for _, limits := range []Limits{{Total: 500_000}, {PerSession: 500_000}} {
		bubble.Test(t, func(t *testing.T) {
			r := newRig(t, Rules{Limits: limits})
			defer r.end()
			small := r.busy("a", 1, 700, false)
			large := r.busy("a", 1, 256<<10, false)
			all := during(10*time.Second, append(small, large...))
			assert.InEpsilon(t, 5_000_000, all, 0.05)
			assert.Greater(t, moved(large), moved(small))
			assert.Greater(t, moved(small), int64(10*700), "and the other way round")
		})
	}
}

// A connection that waits for its own limit does not slow others down.
func TestFastConnectionsDoNotWaitForEachOther(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t, Rules{Limits: Limits{PerConnection: 50_000_000}})
		defer r.end()
		assert.InEpsilon(t, 4*50_000_000, during(time.Second, r.busy("a", 4, 256<<10, false)), 0.1)
	})
}

// 200 sessions on a slow line: each lane gets something through in time for heartbeats.
func TestManySessionsEachGetTheirShareInTime(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		const sessions = 200
		r := newRig(t, Rules{Limits: Limits{Total: 500_000}})
		defer r.end()
		var list []*endless
		for i := range sessions {
			list = append(list, r.busy(strconv.Itoa(i), 1, 256<<10, false)...)
		}
		time.Sleep(10 * time.Second)
		var before []int64
		for _, e := range list {
			before = append(before, e.moved.Load())
		}
		time.Sleep(5 * time.Second)
		for i, e := range list {
			require.Greater(t, e.moved.Load(), before[i], "session %d got nothing for 5 s", i)
		}
		assert.InEpsilon(t, 500_000*60, during(60*time.Second, list), 0.05)
	})
}

func TestRulesChangeWhileConnectionsWait(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t, Rules{Limits: Limits{Total: 1_000}})
		defer r.end()
		list := r.busy("a", 2, 64<<10, false)
		assert.InEpsilon(t, 10_000, during(10*time.Second, list), 0.06)
		r.shaper.Set(Rules{Limits: Limits{Total: 3_000_000}})
		assert.InEpsilon(t, 30_000_000, during(10*time.Second, list), 0.05)
		r.shaper.Set(Rules{Limits: Limits{PerConnection: 1_000_000}})
		assert.InEpsilon(t, 20_000_000, during(10*time.Second, list), 0.05)
		assert.Equal(t, Limits{PerConnection: 1_000_000}, r.shaper.Now())
	})
}

// A write that waits under a limit ends as soon as the limit is taken away.
func TestTakingTheLimitAwayEndsWaits(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := New(Rules{Limits: Limits{PerSession: 1_000}})
		c := s.Session("a").Conn(newEndless())
		defer c.Close()
		start := time.Now()
		time.AfterFunc(time.Minute, func() { s.Set(Rules{}) })
		_, err := c.Write(make([]byte, 64<<20))
		require.NoError(t, err)
		assert.Equal(t, time.Minute, time.Since(start))
	})
}

// The bubble's clock starts on Saturday, 1 January 2000, at midnight UTC.
func TestWindowsBeginAndEndWhileRunning(t *testing.T) {
	rules, err := ParseRules("1MB/s; sat 00:01-00:02 100kB/s; sat 00:02-00:03 off")
	require.NoError(t, err)
	rules.Location = time.UTC
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t, rules)
		defer r.end()
		e := newEndless()
		e.pause = time.Millisecond
		r.run("a", e, 50_000, false)
		list := []*endless{e}
		assert.InEpsilon(t, 60_000_000, during(time.Minute, list), 0.05)
		assert.InEpsilon(t, 6_000_000, during(time.Minute, list), 0.05)
		assert.InEpsilon(t, 60_000*50_000, during(time.Minute, list), 0.05, "no limit: as fast as the connection")
		assert.InEpsilon(t, 60_000_000, during(time.Minute, list), 0.05)
	})
}

func TestDeadlineEndsAWriteThatWaits(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := New(Rules{Limits: Limits{Total: 1_000}})
		e := newEndless()
		c := s.Session("a").Conn(e)
		defer c.Close()
		start := time.Now()
		require.NoError(t, c.SetWriteDeadline(start.Add(10*time.Second)))
		n, err := c.Write(make([]byte, 1<<20))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		var ne net.Error
		require.ErrorAs(t, err, &ne)
		require.True(t, ne.Timeout())
		require.Equal(t, 10*time.Second, time.Since(start))
		require.EqualValues(t, e.moved.Load(), n, "what it says is what went through")
		assert.InEpsilon(t, 10_000, n, 0.1)

		// Moved while somebody waits, both ways, and past.
		require.NoError(t, c.SetDeadline(time.Now().Add(time.Hour)))
		time.AfterFunc(time.Minute, func() { c.SetWriteDeadline(time.Now().Add(time.Second)) })
		start = time.Now()
		_, err = c.Write(make([]byte, 1<<20))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, 61*time.Second, time.Since(start))
		_, err = c.Write([]byte{1})
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.NoError(t, c.SetWriteDeadline(time.Time{}))
		_, err = c.Write([]byte{1})
		require.NoError(t, err)
	})
}

func TestCloseEndsWaitsAtOnce(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := New(Rules{Limits: Limits{Total: 1_000}})
		c := s.Session("a").Conn(newEndless())
		start := time.Now()
		var wg sync.WaitGroup
		for range 3 { // the one who waits for the limit, and those who wait for their turn
			wg.Go(func() {
				_, err := c.Write(make([]byte, 1<<20))
				assert.ErrorIs(t, err, net.ErrClosed)
			})
			wg.Go(func() {
				for p := make([]byte, 1<<20); ; {
					if _, err := c.Read(p); err != nil {
						assert.ErrorIs(t, err, net.ErrClosed)
						return
					}
				}
			})
		}
		time.Sleep(time.Second)
		require.NoError(t, c.Close())
		wg.Wait()
		require.Equal(t, time.Second, time.Since(start))
		require.NoError(t, c.Close())
		_, err := c.Write([]byte{1})
		require.ErrorIs(t, err, net.ErrClosed)
	})
}

// A read whose deadline passes while it pays loses nothing.
func TestDeadlineLosesNoData(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		c := New(Rules{Limits: Limits{Total: 4_000}}).Session("a").Conn(b)
		defer c.Close()
		sent := make([]byte, 20_000)
		for i := range sent {
			sent[i] = byte(i * 7)
		}
		go func() { a.Write(sent); a.Close() }()
		var got []byte
		timeouts := 0
		for p := make([]byte, 1_000); ; {
			_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)) // a pipe whose other end is closed refuses
			n, err := c.Read(p)
			got = append(got, p[:n]...)
			if err == io.EOF {
				break
			}
			if err != nil {
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				timeouts++
			}
		}
		require.Equal(t, sent, got)
		require.NotZero(t, timeouts)
	})
}

func TestOneNameIsOneSession(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newRig(t, Rules{Limits: Limits{PerSession: 1_000_000}})
		defer r.end()
		list := append(r.busy("a", 1, 10_000, false), r.busy("a", 1, 10_000, false)...)
		assert.InEpsilon(t, 10_000_000, during(10*time.Second, list), 0.05)
	})
}

func TestNetConnTellsWhatIsWrapped(t *testing.T) {
	e := newEndless()
	c := New(Rules{}).Session("a").Conn(e)
	defer c.Close()
	require.Same(t, e, c.(interface{ NetConn() net.Conn }).NetConn())
}

// On a real connection, with rules that change all the time: what arrives is what was sent.
func TestBytesArriveUnchangedOverTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	s := New(Rules{})
	const size = 8 << 20
	sent := make([]byte, size)
	for i := range sent {
		sent[i] = byte(i>>8) ^ byte(i)
	}
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
				s.Set(Rules{Limits: []Limits{{}, {Total: 40 << 20}, {PerSession: 20 << 20}, {PerConnection: 30 << 20}}[i%4]})
			}
		}
	})
	var pairs sync.WaitGroup
	for i := range 4 {
		pairs.Go(func() {
			conn, err := net.Dial("tcp", l.Addr().String())
			if !assert.NoError(t, err) {
				return
			}
			c := s.Session(strconv.Itoa(i % 2)).Conn(conn)
			defer c.Close()
			c.SetDeadline(time.Now().Add(30 * time.Second))
			_, err = c.Write(sent)
			assert.NoError(t, err)
		})
		pairs.Go(func() {
			conn, err := l.Accept()
			if !assert.NoError(t, err) {
				return
			}
			c := s.Session(strconv.Itoa(2 + i%2)).Conn(conn)
			defer c.Close()
			c.SetDeadline(time.Now().Add(30 * time.Second))
			got, err := io.ReadAll(c)
			assert.NoError(t, err)
			assert.True(t, slices.Equal(sent, got))
		})
	}
	pairs.Wait()
	close(done)
	wg.Wait()
}
