package mover

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/session"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// forgetful is a client of a peer that forgets the first session at the first call of a kind; later sessions are with
// then.
func forgetful(t testing.TB, at wire.Kind, then script) *Client {
	return testClient(t, func(n int, _ func(wire.Message)) (line, error) {
		if n > 1 {
			return newScripted(t, then), nil
		}
		return newScripted(t, func(call uint64, req wire.Message) (wire.Message, error) {
			if req.Kind() == at {
				return nil, fmt.Errorf("x: %w", session.ErrLost)
			}
			return honest(call, req)
		}), nil
	}, nil)
}

// A target that is not the same any more gets nothing put back into it.
func TestReplayIntoAnotherTarget(t *testing.T) {
	for name, then := range map[string]script{
		"another key": lie(wire.KindBegin, func(wire.Message, int) wire.Message { return &wire.Begun{Writer: 5, Key: [32]byte{9}} }),
		"other blocks": lie(wire.KindStartDisk, func(wire.Message, int) wire.Message {
			return &wire.DiskStarted{Disk: 1, BlockSize: 128 << 10, Marks: true}
		}),
		"no blocks": lie(wire.KindStartDisk, func(wire.Message, int) wire.Message { return &wire.DiskStarted{Disk: 1, Marks: true} }),
	} {
		t.Run(name, func(t *testing.T) {
			require.ErrorIs(t, writeSomething(t.Context(), forgetful(t, wire.KindSealDisk, then)), ErrLostContent)
		})
	}
	require.NoError(t, writeSomething(t.Context(), forgetful(t, wire.KindSealDisk, honest)))
}

// Nonsense is as wrong in a replay as before it.
func TestHostileAnswersToAReplay(t *testing.T) {
	for name, then := range map[string]script{
		"query":  lie(wire.KindQuery, func(wire.Message, int) wire.Message { return &wire.Known{} }),
		"put":    lie(wire.KindPut, func(wire.Message, int) wire.Message { return &wire.Placed{Stored: 1 << 50} }),
		"mark":   lie(wire.KindMark, func(wire.Message, int) wire.Message { return &wire.Placed{} }),
		"begin":  lie(wire.KindBegin, func(wire.Message, int) wire.Message { return &wire.OK{} }),
		"points": lie(wire.KindPoints, func(wire.Message, int) wire.Message { return &wire.PointList{More: true} }),
	} {
		t.Run(name, func(t *testing.T) {
			require.ErrorIs(t, writeSomething(t.Context(), forgetful(t, wire.KindCommit, then)), wire.ErrMalformed)
		})
	}
}

// A target that says it knows a block and then wants it is given what was kept.
func TestReplayOfABlockThatWasKnownAndIsNot(t *testing.T) {
	var asked atomic.Int64
	c := forgetful(t, wire.KindSealDisk, func(call uint64, req wire.Message) (wire.Message, error) {
		switch m := req.(type) {
		case *wire.Query:
			bits := bytes.Repeat([]byte{0xff}, (len(m.IDs)+7)/8)
			bits[len(bits)-1] <<= (8 - len(m.IDs)%8) % 8
			return &wire.Known{Bits: bits}, nil
		case *wire.Put:
			if !m.Content {
				asked.Add(1)
				return nil, &wire.Fail{Code: wire.CodeNeedBlock, Text: "gone"}
			}
		}
		return honest(call, req)
	})
	require.NoError(t, writeSomething(t.Context(), c))
	require.Positive(t, asked.Load())
}

// What was written by bytes is not in the notes; it is said rather than left out.
func TestReplayOfBytes(t *testing.T) {
	c := forgetful(t, wire.KindSealDisk, honest)
	w, err := c.Begin(t.Context(), "vm", nil)
	require.NoError(t, err)
	defer w.Close()
	d, err := w.Disk(t.Context(), "d0", 1<<20)
	require.NoError(t, err)
	_, err = d.WriteAt(t.Context(), []byte("abc"), 5)
	require.NoError(t, err)
	require.ErrorIs(t, d.Commit(t.Context()), ErrLostContent)
	_, err = w.Disk(t.Context(), "d1", 1<<20)
	require.ErrorIs(t, err, ErrLostContent, "and the writer is of no use any more")
}

// A target whose process ended behind the commit says so by the attempt's number.
func TestCommitThatTheTargetRemembers(t *testing.T) {
	c := forgetful(t, wire.KindCommit, func(call uint64, req wire.Message) (wire.Message, error) {
		if req.Kind() == wire.KindBegin {
			return nil, &wire.Fail{Code: wire.CodeExists, Object: "p9", Text: "this attempt was committed"}
		}
		return honest(call, req)
	})
	w, err := c.Begin(t.Context(), "vm", nil)
	require.NoError(t, err)
	defer w.Close()
	id, err := w.Commit(t.Context(), nil)
	require.NoError(t, err)
	require.Equal(t, "p9", id)
}

// A busy target is asked again, for as long as the caller wants.
func TestBusyTarget(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		c := scriptClient(t, func(call uint64, req wire.Message) (wire.Message, error) {
			if req.Kind() == wire.KindBegin && asked.Add(1) < 5 {
				return nil, &wire.Fail{Code: wire.CodeBusy, Text: "full"}
			}
			return honest(call, req)
		})
		require.NoError(t, writeSomething(t.Context(), c))
		asked.Store(-1000)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := c.Begin(ctx, "vm", nil)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, ErrBusy)
		require.Less(t, asked.Load(), int64(-980), "not in a hurry")
		require.NoError(t, c.Close())
	})
}

// After a session was given up, everybody gets that error at once, and who comes later tries anew.
func TestSessionThatWasGivenUp(t *testing.T) {
	var sessions atomic.Int64
	c := testClient(t, func(n int, _ func(wire.Message)) (line, error) {
		sessions.Store(int64(n))
		if n > 1 {
			return newScripted(t, honest), nil
		}
		return newScripted(t, func(call uint64, req wire.Message) (wire.Message, error) {
			if req.Kind() == wire.KindPut {
				return nil, session.ErrGaveUp
			}
			return honest(call, req)
		}), nil
	}, nil)
	require.ErrorIs(t, writeSomething(t.Context(), c), session.ErrGaveUp)
	require.EqualValues(t, 1, sessions.Load())
	require.NoError(t, writeSomething(t.Context(), c))
	require.EqualValues(t, 2, sessions.Load())
}

// A replay is bounded in time, whatever the target waits for.
func TestReplayIsGivenUp(t *testing.T) {
	stuck := make(chan struct{})
	defer close(stuck)
	c := testClient(t, func(n int, _ func(wire.Message)) (line, error) {
		return newScripted(t, func(call uint64, req wire.Message) (wire.Message, error) {
			switch {
			case n == 1 && req.Kind() == wire.KindSealDisk:
				return nil, session.ErrLost
			case n > 1 && req.Kind() == wire.KindBegin:
				<-stuck
			}
			return honest(call, req)
		}), nil
	}, func(s *settings) { s.GiveUp = 300 * time.Millisecond })
	require.ErrorIs(t, writeSomething(t.Context(), c), session.ErrGaveUp)
}

// A target that does not count is counted for.
func TestUsageOfATargetThatDoesNotCount(t *testing.T) {
	c := scriptClient(t, func(call uint64, req wire.Message) (wire.Message, error) {
		if req.Kind() == wire.KindUsage {
			return nil, &wire.Fail{Code: wire.CodeUnsupported, Text: "no"}
		}
		return honest(call, req)
	})
	w, err := c.Begin(t.Context(), "vm", nil)
	require.NoError(t, err)
	defer w.Close()
	d, err := w.Disk(t.Context(), "d0", 64<<10)
	require.NoError(t, err)
	b := d.(pipe.BlockTarget)
	p := bytes.Repeat([]byte{1}, 64<<10)
	_, err = b.PutBlock(t.Context(), 0, b.Fingerprint(p), len(p), pipe.Plain, p)
	require.NoError(t, err)
	require.Equal(t, pipe.Usage{Stored: 64 << 10}, w.(pipe.Accountant).Usage())
	for _, wrong := range []struct{ off, plain int64 }{{-64 << 10, 64 << 10}, {1, 64 << 10}, {64 << 10, 64 << 10}, {0, 5}, {0, 0}, {0, -1}} {
		_, err = b.PutBlock(t.Context(), wrong.off, pipe.ID{}, int(wrong.plain), pipe.Plain, nil)
		require.ErrorIs(t, err, fs.ErrInvalid, "%+v", wrong)
	}
}

// A peer that tells of writers that do not exist makes us remember little.
func TestDurableOfUnknownWriters(t *testing.T) {
	c := testClient(t, func(_ int, push func(wire.Message)) (line, error) {
		for i := range uint32(100_000) {
			push(&wire.Durable{Writer: i, Below: 1 << 60})
		}
		push(&wire.Credit{Undurable: 1 << 62})
		push(&wire.Drain{Seconds: 5})
		push(&wire.OK{})
		return newScripted(t, honest), nil
	}, nil)
	require.NoError(t, writeSomething(t.Context(), c))
	require.LessOrEqual(t, len(c.current.Load().settled), maxSettled)
	require.Zero(t, c.window.used, "all of it is said to be durable")
}
