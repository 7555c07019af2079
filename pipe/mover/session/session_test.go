package session

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/pipe/mover/wire"
)

func TestCalls(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t, nil)
		defer s.close()
		c := s.client(nil)
		defer c.Close()
		require.Equal(t, "peer", c.Peer())
		require.Zero(t, c.Last())
		putAll(t, c, 300, 3000, 20)
		s.book(0).once(t, 300)
		require.Equal(t, uint64(300), c.Last())

		number, answer, err := c.CallNumbered(t.Context(), &wire.Health{})
		require.NoError(t, err)
		require.Equal(t, uint64(301), number)
		require.Equal(t, uint64(301), answer.(*wire.HealthIs).Seconds)

		_, err = c.Call(t.Context(), &wire.Images{})
		var fail *wire.Fail
		require.ErrorAs(t, err, &fail)
		require.Equal(t, wire.CodeUnsupported, fail.Code)

		answer, err = c.Call(t.Context(), &wire.ReadImage{Len: 1 << 20})
		require.NoError(t, err)
		require.Len(t, answer.(*wire.Content).Data, 1<<20)
	})
}

func TestCloseEndsBothSides(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t, nil)
		defer s.close()
		c := s.client(nil)
		putAll(t, c, 1, 10, 1)
		require.NoError(t, c.Close())
		_, err := c.Call(t.Context(), &wire.Health{})
		require.ErrorIs(t, err, ErrClosed)
		synctest.Wait()
		require.Zero(t, s.server.Stats().Sessions)
		require.Equal(t, 1, s.book(0).ended())
	})
}

func TestCancelledCall(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t, nil)
		defer s.close()
		c := s.client(nil)
		defer c.Close()
		ended := make(chan error, 1)
		s.book(0).hold = func(ctx context.Context, req wire.Message) error {
			if _, ok := req.(*wire.Health); ok {
				<-ctx.Done()
				ended <- ctx.Err()
				return ctx.Err()
			}
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			synctest.Wait()
			cancel()
		}()
		_, err := c.Call(ctx, &wire.Health{})
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, <-ended, context.Canceled, "the other side ends what nobody waits for")
		putAll(t, c, 500, 100, 10)
		s.book(0).once(t, 500)
	})
}
