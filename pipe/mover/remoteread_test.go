package mover

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/session"
	"github.com/hikae/hikae/pipe/mover/wire"
	"github.com/hikae/hikae/pipe/pipetest"
)

// shelf answers reads of one image, and notes them.
type shelf struct {
	content []byte
	fail    int64 // a part that begins here cannot be read; -1: none

	mu    sync.Mutex
	reads []pipe.Extent
	here  int
	most  int
}

func (s *shelf) answer(call uint64, req wire.Message) (wire.Message, error) {
	switch m := req.(type) {
	case *wire.OpenDisk:
		return &wire.ImageOpened{Image: 1, Size: int64(len(s.content))}, nil
	case *wire.ReadImage:
		s.mu.Lock()
		s.reads = append(s.reads, pipe.Extent{Off: m.Off, Len: int64(m.Len)})
		s.here++
		s.most = max(s.most, s.here)
		s.mu.Unlock()
		time.Sleep(5 * time.Millisecond)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.here--
		if m.Off == s.fail {
			return nil, &wire.Fail{Code: wire.CodeFailed, Text: "a bad spot"}
		}
		return &wire.Content{Plain: m.Len, Data: s.content[m.Off : m.Off+int64(m.Len)]}, nil
	}
	return honest(call, req)
}

// A read comes in parts, side by side, which end at multiples of their size.
func TestReadInParts(t *testing.T) {
	t.Parallel()
	s := &shelf{content: chacha(9, 3<<20+777), fail: -1}
	img, err := scriptClient(t, s.answer).Open(t.Context(), "p", "d")
	require.NoError(t, err)
	defer img.Close()
	for _, r := range []struct{ off, n, parts, got int64 }{
		{0, 1 << 20, 4, 1 << 20}, {0, 1, 1, 1}, {partFar - 1, 2, 2, 2}, {partFar, partFar, 1, partFar}, {100, 2 << 20, 9, 2 << 20},
		{3 << 20, 1 << 20, 1, 777}, {3<<20 + 777, 10, 0, 0}, {5, 0, 0, 0}, {0, 4 << 20, 13, 3<<20 + 777},
	} {
		s.reads, s.most = nil, 0
		p := make([]byte, r.n)
		n, err := img.ReadAt(t.Context(), p, r.off)
		if r.got < r.n {
			require.ErrorIs(t, err, io.EOF)
		} else {
			require.NoError(t, err)
		}
		require.EqualValues(t, r.got, n)
		require.Equal(t, s.content[r.off:r.off+r.got], p[:n])
		require.Len(t, s.reads, int(r.parts))
		require.LessOrEqual(t, s.most, partsAtOnce)
		if r.parts > 3 {
			require.Greater(t, s.most, 1, "side by side")
		}
		for _, e := range s.reads {
			require.True(t, e.End() == r.off+r.got || e.End()%partFar == 0, "%v", e)
		}
	}
	flight := img.(pipe.Far).Flight()
	require.Equal(t, pipe.Flight{Reads: 16, Bytes: 64 << 20}, flight)
}

// Of a read that fails in the middle, what came before it is told, with the error of the part that failed.
func TestReadFailsInPart(t *testing.T) {
	t.Parallel()
	s := &shelf{content: chacha(9, 2<<20), fail: 3 * partFar}
	img, err := scriptClient(t, s.answer).Open(t.Context(), "p", "d")
	require.NoError(t, err)
	defer img.Close()
	p := make([]byte, 2<<20)
	n, err := img.ReadAt(t.Context(), p, 0)
	require.ErrorContains(t, err, "a bad spot")
	require.NotErrorIs(t, err, context.Canceled)
	require.LessOrEqual(t, n, 3*partFar)
	require.Equal(t, s.content[:n], p[:n])
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = img.ReadAt(ctx, p, 0)
	require.ErrorIs(t, err, context.Canceled)
}

// near is a session over a short way.
type near struct{ *scripted }

func (near) Stats() session.Stats { return session.Stats{RTT: 100 * time.Microsecond} }

// Over a short way a read of a copy is one call.
func TestReadNear(t *testing.T) {
	t.Parallel()
	s := &shelf{content: chacha(9, 2<<20), fail: -1}
	c := testClient(t, func(int, func(wire.Message)) (line, error) { return near{newScripted(t, s.answer)}, nil }, nil)
	img, err := c.Open(t.Context(), "p", "d")
	require.NoError(t, err)
	defer img.Close()
	_, err = img.ReadAt(t.Context(), make([]byte, 1<<20), 1<<20)
	require.NoError(t, err)
	require.Equal(t, []pipe.Extent{{Off: 1 << 20, Len: 1 << 20}}, s.reads)
	target := pipe.NewMemory(img.Size())
	_, err = pipe.Copy(t.Context(), target, img, nil)
	require.NoError(t, err)
	require.NoError(t, pipetest.CheckImage(t.Context(), target, pipetest.Bytes(s.content)))
	require.NoError(t, img.Close())
	_, err = img.ReadAt(t.Context(), make([]byte, 1<<20), 0)
	require.True(t, errors.Is(err, fs.ErrClosed), "%v", err)
}
