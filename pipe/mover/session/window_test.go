package session

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// A call that waits for long, small or large, keeps no other out, whatever that costs; and two that wait do not hold up
// those behind them.
func TestCallsThatLastAreApart(t *testing.T) {
	t.Parallel()
	facts := map[string]string{}
	for i := range 250 {
		facts[fmt.Sprint("fact", i)] = strings.Repeat("v", 1024)
	}
	for name, begin := range map[string]*wire.Begin{"small": {VM: "vm"}, "large": {VM: "vm", Facts: facts}} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				s := newSite(t, &ServerOptions{Window: leastWindow})
				defer s.close()
				c := s.client(nil)
				defer c.Close()
				putAll(t, c, 1, 10, 1)
				s.book(0).hold = func(ctx context.Context, req wire.Message) error {
					if req.Kind() == wire.KindBegin {
						<-ctx.Done()
						return ctx.Err()
					}
					return nil
				}
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{}, 4)
				for range cap(done) {
					go func() { _, _ = c.Call(ctx, begin); done <- struct{}{} }()
				}
				synctest.Wait()
				short, stop := context.WithTimeout(t.Context(), time.Minute)
				defer stop()
				for off := int64(20); off < 23; off++ {
					data := append([]byte{byte(off)}, make([]byte, 1<<20)...)
					_, err := c.Call(short, &wire.Put{Disk: 1, Off: off, Content: true, Plain: 1 << 20, Data: data})
					require.NoError(t, err)
				}
				cancel()
				for range cap(done) {
					<-done
				}
			})
		})
	}
}

// What a call takes of memory until it is answered counts.
func TestCostOfTables(t *testing.T) {
	t.Parallel()
	table := map[string]string{}
	for i := range 256 {
		table[strings.Repeat("k", i%200)+string(rune('a'+i/200))] = strings.Repeat("v", 1024)
	}
	for _, m := range []wire.Message{&wire.Begin{VM: "vm", Facts: table}, &wire.Commit{Tracking: table}} {
		b, err := wire.Append(nil, wire.Frame{Call: 1, Message: m})
		require.NoError(t, err)
		require.InDelta(t, len(b), cost(m), 2048)
	}
}

// A caller that was cloned, or set back to a snapshot, with its memory comes back with numbers that were used for
// something else: it never gets the answer of another call, and its session ends.
func TestNumberOfAnotherCall(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	defer s.close()
	put := func(off int64) *wire.Put {
		return &wire.Put{Disk: 1, Off: off, Content: true, Plain: 1, Data: []byte{byte(off)}}
	}
	a := s.raw("peer")
	a.hello(1, 0)
	require.NoError(t, a.send(1, put(3)))
	a.next()
	b := s.raw("peer") // the same key, the same session
	b.hello(1, 1)
	require.NoError(t, b.send(1, put(3)))
	require.IsType(t, &wire.Placed{}, b.next(), "the same call is answered again")
	require.NoError(t, b.send(1, put(7)))
	last := b.gone()
	require.NotNil(t, last)
	require.Equal(t, wire.CodeInvalid, last.Code)
	a.gone()
	s.book(0).mu.Lock()
	defer s.book(0).mu.Unlock()
	require.Equal(t, map[int64]int{3: 1}, s.book(0).times)
}
