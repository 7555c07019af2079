package mover

import (
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/pipetest"
)

// narrow passes connections on to a mover, at so many bytes a second on the way up.
func narrow(t *testing.T, to string, rate int64) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			in.(*net.TCPConn).SetReadBuffer(64 << 10)
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			go func() {
				defer out.Close()
				start, sent := time.Now(), int64(0)
				for {
					n, err := io.CopyN(out, in, 32<<10)
					if sent += n; err != nil {
						return
					}
					time.Sleep(time.Until(start.Add(time.Duration(sent) * time.Second / time.Duration(rate))))
				}
			}()
			go func() { io.Copy(in, out); in.Close() }()
		}
	}()
	return l.Addr().String()
}

// Over a narrow line the network is what a copy waits for, and the report can say so; over a wide one it is not.
func TestNetworkIsTheBottleneck(t *testing.T) {
	t.Parallel()
	content := make([]byte, 24<<20)
	rnd := rand.New(rand.NewPCG(5, 6))
	for i := range content {
		content[i] = byte(rnd.Uint32())
	}
	copied := func(address string, y *yard, id *trust.Identity) pipe.Stats {
		c, err := Dial(t.Context(), address, &DialOptions{Identity: id, ServerPin: y.id.Pin(), CacheDir: t.TempDir(), Lanes: 1})
		require.NoError(t, err)
		defer c.Close()
		w, err := c.Begin(t.Context(), "vm", nil)
		require.NoError(t, err)
		defer w.Close()
		target, err := w.Disk(t.Context(), "disk0", int64(len(content)))
		require.NoError(t, err)
		stats, err := pipe.Copy(t.Context(), target, pipetest.Bytes(content), nil)
		require.NoError(t, err)
		t.Logf("%.1fs %+v", stats.Duration.Seconds(), stats.Stages)
		return stats
	}
	y := newYard(t, nil)
	id := y.enrol("web", trust.Append)
	slow := copied(narrow(t, y.address, 8<<20), y, id)
	require.Equal(t, pipe.SideNetwork, slow.Bottleneck())
	y = newYard(t, nil)
	id = y.enrol("web", trust.Append)
	fast := copied(y.address, y, id)
	// On a busy machine a server that is late to read fills any line for a while, so the sums are compared, not the names.
	require.Less(t, waited(fast), waited(slow)/2)
}

// waited is how many seconds a copy's line was full.
func waited(s pipe.Stats) float64 {
	for _, st := range s.Stages {
		if st.Side == pipe.SideNetwork {
			return st.Busy * s.Duration.Seconds()
		}
	}
	return 0
}
