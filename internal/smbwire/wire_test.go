package smbwire

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What is not encrypted does not reach the wire.
func TestSealed(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	w := newWire(ours, time.Second)
	w.Sealed.Store(true)
	n, err := w.Write([]byte{0, 0, 0, 64})
	require.NoError(t, err)
	require.Equal(t, 4, n)
	signed := make([]byte, 64)
	copy(signed, smb2head)
	signed[flagsAt] = flagSigned
	_, err = w.Write(signed) // nobody reads: had it been sent, this would wait
	require.ErrorIs(t, err, ErrNotEncrypted)
	require.True(t, w.Plain.Load())
}

// A call ends when its time is over, and so does one that its caller left; a panic in the library is an answer.
func TestCallsEnd(t *testing.T) {
	line := func(timeout time.Duration) *Line {
		ours, theirs := net.Pipe()
		t.Cleanup(func() { ours.Close(); theirs.Close() })
		return NewLine(ours, timeout)
	}
	l := line(50 * time.Millisecond)
	left, err := l.Run(t.Context(), func() error { <-l.Done().Done(); return errors.New("cut") })
	require.False(t, left)
	require.EqualError(t, err, "cut")
	require.True(t, l.Dead())
	_, err = l.Run(t.Context(), func() error { panic("not reached") })
	require.ErrorIs(t, err, ErrKilled)

	l = line(time.Minute)
	_, err = l.Run(t.Context(), func() error { panic("its own fault") })
	require.ErrorContains(t, err, "makes no sense")
	require.True(t, l.Dead())

	l = line(50 * time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	left, err = l.Run(ctx, func() error { cancel(); <-l.Done().Done(); return net.ErrClosed })
	require.True(t, left)
	require.ErrorIs(t, err, net.ErrClosed)
	left, err = l.Run(ctx, func() error { panic("not reached") })
	require.True(t, left)
	require.ErrorIs(t, err, context.Canceled)
}
