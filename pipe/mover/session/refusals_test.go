package session

import (
	"bytes"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// A peer that is refused again and again has a line every ten seconds, which says how many there were; another peer has
// its own, and what every restart of a mover brings is no alarm.
func TestRefusalsAreCounted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		log := slog.New(slog.NewTextHandler(&said, nil))
		r := newRefusals()
		web, db := trust.Peer{Name: "web"}, trust.Peer{Name: "db"}
		lines := func() (all []string) {
			all = strings.Split(strings.TrimSpace(said.String()), "\n")
			said.Reset()
			return all
		}
		for range 100 {
			r.note(log, web, "192.0.2.1:7", refuseWith(wire.CodeInvalid, "x"), errors.New("x"))
		}
		r.note(log, db, "192.0.2.2:7", refuseWith(wire.CodeLost, "x"), errors.New("x"))
		got := lines()
		require.Len(t, got, 2)
		require.Contains(t, got[0], "level=WARN")
		require.Contains(t, got[0], "peer=web address=192.0.2.1:7")
		require.NotContains(t, got[0], "held_back")
		require.Contains(t, got[1], "level=INFO")
		require.Contains(t, got[1], "peer=db")

		time.Sleep(refusalEvery)
		r.note(log, web, "192.0.2.1:8", nil, errors.New("x"))
		require.Contains(t, lines()[0], "held_back=99")
		for i := range 2 * maxRefused {
			r.turn(strconv.Itoa(i), time.Now())
		}
		require.LessOrEqual(t, len(r.said), maxRefused)
	})
}

// Why a session ended, for people.
func TestEndings(t *testing.T) {
	err, _ := refusal(&wire.Refuse{Code: wire.CodeClosed, Text: "the session is over"})
	require.Equal(t, "the caller ended it", endingOf(err))
	for _, other := range []error{ErrLost, ErrClosed, errors.New("x")} {
		require.Equal(t, other.Error(), endingOf(other))
	}
	err, _ = refusal(refuseWith(wire.CodeForbidden, "this peer was revoked"))
	require.Contains(t, endingOf(err), "revoked")
}
