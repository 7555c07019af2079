package wire

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pipe joins an outbox and an inbox, as two peers do.
func pipe(ctx context.Context) (io.WriteCloser, *Inbox, *Gate) {
	gate := NewGate()
	in := NewInbox(gate.More)
	return NewOutbox(ctx, gate, func(p []byte) error { return in.Put(p) }), in, gate
}

func TestWindow(t *testing.T) {
	t.Parallel()
	want := make([]byte, 3*Window+12345)
	rand.NewChaCha8([32]byte{}).Read(want)
	out, in, _ := pipe(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := io.CopyBuffer(struct{ io.Writer }{out}, bytes.NewReader(want), make([]byte, 300<<10))
		done <- errors.Join(err, out.Close())
	}()
	got, err := io.ReadAll(in)
	require.NoError(t, err)
	require.NoError(t, <-done)
	require.True(t, bytes.Equal(want, got))
}

// A receiver that does not read holds up its own sender alone, and what waits is a window at most.
func TestWindowSlow(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	out, in, _ := pipe(ctx)
	n, err := out.Write(make([]byte, 2*Window))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, Window, n)
	in.End(io.ErrUnexpectedEOF)
	got, err := io.ReadAll(in)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF, "what arrived is read first")
	require.Len(t, got, Window)
}

// A sender that does not keep to the window, and a receiver that opens it too far, are not served.
func TestWindowBroken(t *testing.T) {
	t.Parallel()
	in := NewInbox(func() error { return nil })
	for range Window / MaxData {
		require.NoError(t, in.Put(make([]byte, MaxData)))
	}
	require.ErrorIs(t, in.Put([]byte{0}), ErrMalformed)
	require.ErrorIs(t, NewGate().More(), ErrMalformed)
	gate := NewGate()
	gate.End(io.ErrClosedPipe)
	require.ErrorIs(t, gate.Pass(t.Context(), 1), io.ErrClosedPipe)
	in = NewInbox(func() error { return nil })
	require.NoError(t, in.Put(nil))
	require.NoError(t, in.Put([]byte("late")), "what comes late is dropped")
	_, err := in.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
}
