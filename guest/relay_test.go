//go:build unix

package guest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest/agent"
	"github.com/hikae/hikae/guest/agent/wire"
	"github.com/hikae/hikae/internal/bubble"
)

// staying is a component that is spoken to by asks, and the runs that bring them; those of a real program are tested with
// it. Every so many runs one fails, in turns before and after it was carried out.
func staying(t *testing.T, opts *agent.Options, every int32) *relay {
	t.Helper()
	dir, err := os.MkdirTemp("", agent.Prefix) // short, for the socket
	require.NoError(t, err)
	p, err := agent.OpenPlace(dir)
	require.NoError(t, err)
	l, err := agent.Listen(p)
	require.NoError(t, err)
	served := make(chan struct{})
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		defer close(served)
		agent.New(opts).Relay().Serve(ctx, l)
	}()
	t.Cleanup(func() {
		stop()
		<-served
		os.RemoveAll(dir)
	})
	var mu sync.Mutex
	seen, n := map[string]bool{}, int32(0)
	// turn is 0 for a run that is made again: a channel that fails twice is lost.
	turn := func(args []string) int32 {
		mu.Lock()
		defer mu.Unlock()
		key := strings.Join(args, " ")
		if seen[key] || every == 0 {
			return 0
		}
		seen[key] = true
		n++
		return n % (2 * every)
	}
	return newRelay(func(ctx context.Context, args []string, stdin []byte) (hikae.RunResult, error) {
		ask := agent.Ask{}
		for i := 1; i+1 < len(args); i += 2 {
			v, _ := strconv.ParseInt(args[i+1], 10, 64)
			switch args[i] {
			case "--call":
				ask.Call = uint32(v)
			case "--in":
				ask.In = v
			case "--out":
				ask.Out = v
			case "--wait":
				ask.Wait = time.Duration(v) * time.Millisecond
			case "--max":
				ask.Max = int(v)
			}
		}
		now := turn(args)
		if every > 0 && now == every {
			return hikae.RunResult{}, errors.New("before it")
		}
		var out bytes.Buffer
		err := agent.Bring(ctx, dir, ask, bytes.NewReader(stdin), &out)
		switch {
		case errors.Is(err, agent.ErrNoDaemon):
			return hikae.RunResult{ExitCode: exitNoDaemon}, nil
		case err != nil:
			return hikae.RunResult{ExitCode: 1, Stderr: []byte(err.Error())}, nil
		case every > 0 && now == 2*every-1:
			return hikae.RunResult{}, errors.New("after it")
		}
		return hikae.RunResult{Stdout: out.Bytes()}, nil
	}, dir)
}

// Data of both directions, larger than any run and any window, over runs that fail: all of it, once, in order.
func TestRelayData(t *testing.T) {
	t.Parallel()
	for name, every := range map[string]int32{"good": 0, "bad": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x, in := &indexer{data: content(wire.Window + 3<<20 + 17)}, &packages{}
			c, err := Dial(soon(t), staying(t, &agent.Options{Indexer: x, Installer: in}, every), nil)
			require.NoError(t, err)
			defer c.Close()
			var got bytes.Buffer
			a, err := c.Index(soon(t), wire.IndexArgs{}, &got)
			require.NoError(t, err)
			require.EqualValues(t, len(x.data), a.Bytes)
			require.True(t, bytes.Equal(x.data, got.Bytes()))
			_, err = c.Install(soon(t), wire.InstallArgs{}, bytes.NewReader(x.data))
			require.NoError(t, err)
			require.True(t, bytes.Equal(x.data, in.got.Bytes()))
		})
	}
}

// A freeze whose answer was lost is not made twice.
func TestRelayOnce(t *testing.T) {
	t.Parallel()
	s := &still{}
	c, err := Dial(soon(t), staying(t, &agent.Options{Freezer: s}, 2), nil)
	require.NoError(t, err)
	defer c.Close()
	for i := range 20 {
		q := c.Quiesce(wire.FreezeArgs{})
		require.NoError(t, q.Freeze(soon(t)))
		require.NoError(t, q.Thaw(soon(t)))
		require.EqualValues(t, i+1, s.freezes.Load())
	}
}

// Remove is answered although the component is gone then, and whoever asks after that hears so.
func TestRelayRemove(t *testing.T) {
	t.Parallel()
	c, err := Dial(soon(t), staying(t, &agent.Options{}, 0), nil)
	require.NoError(t, err)
	short, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err = c.Remove(short)
	require.NoError(t, err)
	_, err = c.Inspect(soon(t), wire.InspectArgs{})
	require.ErrorIs(t, err, ErrLost)
}

// A call that is cancelled while its run waits is told at once.
func TestRelayCancel(t *testing.T) {
	t.Parallel()
	cancelled := make(chan struct{})
	c, err := Dial(soon(t), staying(t, &agent.Options{Freezer: &stuck{cancelled: cancelled}}, 0), nil)
	require.NoError(t, err)
	defer c.Close()
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = c.Freeze(short, wire.FreezeArgs{})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	select {
	case <-cancelled:
	case <-time.After(5 * time.Second):
		t.Fatal("the component was not told")
	}
}

// stuck freezes until it is told not to.
type stuck struct {
	still
	cancelled chan struct{}
}

func (s *stuck) Ready(context.Context, wire.FreezeArgs) (agent.Ready, error) { return s, nil }
func (s *stuck) Freeze(ctx context.Context) (agent.Frozen, error) {
	<-ctx.Done()
	close(s.cancelled)
	return nil, ctx.Err()
}

// A program that answers nothing at once, which it should not, is not started without end.
func TestRelayPauses(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		runs := atomic.Int32{}
		r := newRelay(func(context.Context, []string, []byte) (hikae.RunResult, error) {
			runs.Add(1)
			return hikae.RunResult{}, nil
		}, "/tmp/x")
		payload, err := wire.Encode(wire.Request{Verb: wire.Lease})
		require.NoError(t, err)
		require.NoError(t, wire.Write(r, wire.Frame{Kind: wire.KindRequest, Call: 1, Payload: payload}))
		time.Sleep(10*relayPause + relayPause/2)
		require.InDelta(t, 10, runs.Load(), 2)
		require.NoError(t, r.Close())
	})
}
