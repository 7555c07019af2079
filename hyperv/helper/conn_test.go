package helper

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/helper/wire"
	"github.com/hikae/hikae/internal/bubble"
)

// slowPipe brings what is read at a rate, as a thin link does.
type slowPipe struct {
	net.Conn
	rate int // bytes in a second
}

func (s slowPipe) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p[:min(len(p), 64<<10)])
	time.Sleep(time.Duration(n) * time.Second / time.Duration(s.rate))
	return n, err
}

// The helper grants an hour at most: a longer lease that is asked for is pinged as the one that there is, while nobody reads.
func TestLongLeaseIsPinged(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		pings := make(chan time.Duration, 100)
		lease := make(chan time.Duration, 1)
		began := time.Now()
		go func() {
			for {
				f, err := wire.Read(there)
				if err != nil {
					return
				}
				switch f.Kind {
				case wire.KindHello:
					var m wire.Hello
					_ = wire.Decode(f, &m)
					lease <- time.Duration(m.LeaseMillis) * time.Millisecond
					a, _ := wire.Encode(f.Call, &wire.HelloAnswer{Version: wire.Version})
					_ = wire.Write(there, a)
				case wire.KindPing:
					pings <- time.Since(began)
					a, _ := wire.Encode(f.Call, &wire.Done{Of: wire.KindPing})
					_ = wire.Write(there, a)
				}
			}
		}()
		r, err := Dial(t.Context(), here, &DialOptions{Lease: 6 * time.Hour})
		require.NoError(t, err)
		first := <-pings
		told := <-lease
		_ = there.Close()
		r.conn.shut()
		<-r.conn.done
		require.Less(t, first, told, "the first sign of life comes after %v, when the lease of %v that the helper was told is over", first, told)
	})
}

// Over a thin link (1 Mbit/s) data that are on their way keep back the answer to a Ping, and to the last read, for longer than either may
// take. As long as data come the link lives, and the set with it.
func TestThinLinkIsAlive(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		answers := make(chan wire.Frame, 64)
		go func() { // a helper that answers in order, each when the link has taken the one before
			for f := range answers {
				if wire.Write(there, f) != nil {
					return
				}
			}
		}()
		go func() {
			defer close(answers)
			for {
				f, err := wire.Read(there)
				if err != nil {
					return
				}
				var m wire.Message
				switch f.Kind {
				case wire.KindHello:
					m = &wire.HelloAnswer{Version: wire.Version}
				case wire.KindPing:
					m = &wire.Done{Of: wire.KindPing}
				case wire.KindRead:
					var q wire.ReadAt
					_ = wire.Decode(f, &q)
					m = &wire.ReadAnswer{Data: make([]byte, q.Length)}
				default:
					m = &wire.Done{Of: f.Kind}
				}
				a, _ := wire.Encode(f.Call, m)
				answers <- a
			}
		}()
		r, err := Dial(t.Context(), slowPipe{here, 125_000}, nil)
		require.NoError(t, err)
		img, err := newImage(r, "disk", &wire.OpenAnswer{File: 1, Size: 64 << 20})
		require.NoError(t, err)
		_, err = img.ReadAt(t.Context(), make([]byte, 8<<20), 0)
		_ = there.Close()
		r.conn.shut()
		<-r.conn.done
		require.NoError(t, err, "data came all the time")
	})
}

// RELIABILITY 1.2: a host that is silently gone is found in 30 s.
func TestSilentHostIsFound(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		go func() {
			for {
				f, err := wire.Read(there)
				if err != nil {
					return
				}
				if f.Kind == wire.KindHello {
					a, _ := wire.Encode(f.Call, &wire.HelloAnswer{Version: wire.Version})
					_ = wire.Write(there, a)
				}
			}
		}()
		r, err := Dial(t.Context(), here, nil)
		require.NoError(t, err)
		began := time.Now()
		img, err := newImage(r, "disk", &wire.OpenAnswer{File: 1, Size: 1 << 20})
		require.NoError(t, err)
		_, err = img.ReadAt(t.Context(), make([]byte, 4096), 0)
		took := time.Since(began)
		_ = there.Close()
		r.conn.shut()
		<-r.conn.done
		require.True(t, errors.Is(err, ErrLink), "%v", err)
		require.LessOrEqual(t, took, 30*time.Second)
	})
}
