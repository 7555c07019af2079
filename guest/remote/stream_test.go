package remote

import (
	"bytes"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A line that was given up may still be about to send: what it took after the new one began would be lost.
func TestOldLineTakesNothing(t *testing.T) {
	t.Parallel()
	s := newStream(func() {})
	_, err := s.Write([]byte("hello"))
	require.NoError(t, err)
	old := s.current()
	require.NoError(t, s.resume(0))
	_, ok := s.next(old)
	require.False(t, ok)
	f, ok := s.next(s.current())
	require.True(t, ok)
	require.Equal(t, frame{kind: kindData, payload: []byte("hello")}, f)
}

// Bytes arrive once and in order, over however many lines, each of which loses what was on its way.
func TestStreamOverBadLines(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	want := make([]byte, 5*window)
	for i := range want {
		want[i] = byte(rnd.Uint32())
	}
	a, b := newStream(func() {}), newStream(func() {})
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := a.Write(want)
		if err == nil {
			a.finish("that was all")
		}
	})
	var got bytes.Buffer
	wg.Go(func() {
		_, err := io.Copy(&got, b)
		require.EqualError(t, err, "the component's stream ended: that was all")
	})
	over := func() bool { b.mu.Lock(); defer b.mu.Unlock(); return b.ended && len(b.in) == 0 }
	for !over() {
		require.NoError(t, a.resume(b.received()))
		require.NoError(t, b.resume(a.received()))
		line := a.current()
		for range rnd.IntN(40) {
			moved := false
			if f, ok := a.next(line); ok {
				require.NoError(t, f.to(b))
				moved = true
			}
			if f, ok := b.next(b.current()); ok {
				require.NoError(t, f.to(a))
				moved = true
			}
			a.mu.Lock()
			kept := len(a.out)
			a.mu.Unlock()
			require.LessOrEqual(t, kept, window)
			if !moved {
				time.Sleep(10 * time.Microsecond)
			}
		}
		_, _ = a.next(line) // lost
	}
	wg.Wait()
	require.True(t, bytes.Equal(want, got.Bytes()))
}

// What does not fit is the end of the line, never of the process.
func TestStreamIsStrict(t *testing.T) {
	t.Parallel()
	s := newStream(func() {})
	_, _ = s.Write([]byte("12345"))
	_, _ = s.next(0)
	require.NoError(t, s.put(0, []byte("abc")))
	for name, err := range map[string]error{
		"a gap":                s.put(4, []byte("x")),
		"again":                s.put(0, []byte("abc")),
		"more than fits":       s.put(3, make([]byte, window)),
		"an ack of the future": s.ack(6),
		"an end elsewhere":     s.end(9, ""),
		"more than was sent":   s.resume(6),
		"far too much":         s.ack(1 << 63),
	} {
		require.ErrorIs(t, err, ErrMalformed, name)
	}
	require.NoError(t, s.ack(3))
	require.NoError(t, s.ack(2), "word that comes late")
	require.ErrorIs(t, s.resume(2), ErrMalformed, "what it has said that it had")
	require.NoError(t, s.resume(3))
	f, ok := s.next(s.current())
	require.True(t, ok)
	require.Equal(t, frame{kind: kindData, number: 3, payload: []byte("45")}, f)
}

// Close throws away what comes, and the other side goes on.
func TestStreamClose(t *testing.T) {
	t.Parallel()
	s := newStream(func() {})
	require.NoError(t, s.put(0, make([]byte, window)))
	require.NoError(t, s.Close())
	_, err := s.Read(make([]byte, 1))
	require.Error(t, err)
	_, err = s.Write([]byte("x"))
	require.Error(t, err)
	for at := uint64(window); at < 4*window; at += maxData {
		require.NoError(t, s.put(at, make([]byte, maxData)))
	}
	f, ok := s.next(0)
	require.True(t, ok)
	require.Equal(t, frame{kind: kindAck, number: 4 * window}, f)
	f, ok = s.next(0)
	require.True(t, ok)
	require.Equal(t, kindEnd, f.kind)
	require.NoError(t, s.end(4*window, ""))
	require.NoError(t, s.Close())
}
