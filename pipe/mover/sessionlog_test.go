package mover

import (
	"log/slog"
	"net/netip"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/pipe/mover/trust"
)

// What the log says of a session that came and went has one name for it, and plain words for its end.
func TestLogOfASession(t *testing.T) {
	t.Parallel()
	y := newYard(t, nil)
	c := y.dial(y.enrol("web", trust.Append))
	_, err := c.Health(t.Context())
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.Eventually(t, func() bool { return len(y.log.with("a session has ended")) == 1 }, 5*time.Second, time.Millisecond)
	began, ended := y.log.with("a session began"), y.log.with("a session has ended")
	require.Len(t, began, 1)
	name := regexp.MustCompile(`session=[0-9a-f]{12} `)
	require.Regexp(t, name, began[0])
	require.Equal(t, name.FindString(began[0]), name.FindString(ended[0]))
	require.Contains(t, ended[0], `why="the caller ended it"`)
	require.Empty(t, y.log.with("level=WARN"))
}

// What was held back of an address is said with the next line about it.
func TestHeldBackRefusalsAreCounted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		said := &lines{}
		d := newDoors(said.logger(slog.LevelWarn), unobserved{})
		one, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
		for range 50 {
			d.refused(one, "unknown", trust.ErrUnknownPeer)
		}
		d.refused(other, "unknown", trust.ErrUnknownPeer)
		require.Len(t, said.with("a connection was refused"), 2)
		require.Empty(t, said.with("held_back"))
		time.Sleep(sayEvery)
		d.refused(one, "unknown", trust.ErrUnknownPeer)
		require.Len(t, said.with("address=192.0.2.1", "held_back=49"), 1)
		d.refused(other, "unknown", trust.ErrUnknownPeer)
		require.Len(t, said.with("held_back"), 1)
	})
}
