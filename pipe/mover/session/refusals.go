package session

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// refusals are what the log says of connections that are not taken: once in ten seconds for each peer, and with the next
// line how many were held back. A peer shall not fill the log, nor go unnoticed.
type refusals struct {
	mu   sync.Mutex
	said map[string]time.Time
	held map[string]int
}

const (
	refusalEvery = 10 * time.Second
	maxRefused   = 4096 // peers that are remembered
)

func newRefusals() *refusals { return &refusals{said: map[string]time.Time{}, held: map[string]int{}} }

// note logs a refusal, or holds it back. That a session is not known after a start of the mover, or that there is no room
// now, is no alarm: peers come back by themselves.
func (r *refusals) note(log *slog.Logger, peer trust.Peer, address string, m *wire.Refuse, err error) {
	held, say := r.turn(peer.Name, time.Now())
	if !say {
		return
	}
	level := slog.LevelWarn
	if m != nil && (m.Code == wire.CodeLost || m.Code == wire.CodeBusy) {
		level = slog.LevelInfo
	}
	args := []any{"peer", peer.Name, "address", address, "err", err}
	if held > 0 {
		args = append(args, "held_back", held)
	}
	log.Log(context.Background(), level, "a connection was refused", args...)
}

// turn says whether a line about a peer is due, and how many were held back before it.
func (r *refusals) turn(peer string, now time.Time) (held int, say bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if last, known := r.said[peer]; known && now.Sub(last) < refusalEvery {
		r.held[peer]++
		return 0, false
	}
	if len(r.said) >= maxRefused {
		clear(r.said)
		clear(r.held)
	}
	held = r.held[peer]
	r.said[peer] = now
	delete(r.held, peer)
	return held, true
}
