package session

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// A session whose first connection goes while it is being opened is not kept for ever.
func TestSessionThatNobodyEntered(t *testing.T) {
	t.Parallel()
	for range 16 { // which of two ready things is seen first is chance
		bubble.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			s := NewServer(&ServerOptions{Linger: time.Minute,
				Open: func(context.Context, trust.Peer, func(wire.Message)) (Handler, error) {
					cancel()
					return newLedger(), nil
				}})
			defer s.Close()
			h, _, err := s.join(ctx, trust.Peer{Name: "web"}, &wire.Hello{Version: wire.Version, Role: wire.Caller})
			if err == nil { // as serve does, which then sees ctx
				h.emptied(nil)
			}
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			require.Zero(t, s.Stats().Sessions)
		})
	}
}
