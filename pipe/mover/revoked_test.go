package mover

import (
	"context"
	"io/fs"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/repo/store/memstore"
)

// slowToOpen is a blind store that takes its time with a new session.
type slowToOpen struct {
	BlindStore
	opening func()
}

func (s *slowToOpen) Open(ctx context.Context, peer trust.Peer) (BlindSession, error) {
	s.opening()
	return s.BlindStore.Open(ctx, peer)
}

// A peer that is taken out of the book while its session is being opened gets none.
func TestRevokedWhileItsSessionOpens(t *testing.T) {
	t.Parallel()
	b := &slowToOpen{BlindStore: &blindShelf{store: memstore.New(nil)}}
	y := newYard(t, &ServerOptions{Blind: b})
	id := y.enrol("web", trust.Append)
	b.opening = func() { require.NoError(t, y.book.Revoke("web")) }
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := Dial(ctx, y.address, &DialOptions{Identity: id, ServerPin: y.id.Pin(), CacheDir: t.TempDir(), GiveUp: 5 * time.Second})
	if err == nil {
		_, err = c.Health(ctx)
		_ = c.Close()
	}
	require.ErrorIs(t, err, fs.ErrPermission)
	require.Empty(t, y.server.host.peers(), "what was opened for it is closed")
}
