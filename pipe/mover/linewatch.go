package mover

import (
	"fmt"
	"sync"
	"time"

	"github.com/hikae/hikae/pipe/mover/session"
)

// lineWatch tells a person that the line is gone, and when it is back: a session that waits for half an hour says nothing
// by itself.
type lineWatch struct {
	address string
	giveUp  time.Duration
	warn    func(string)

	mu    sync.Mutex
	since time.Time // of the cut; zero: there is a line
	told  bool
}

const (
	lookEvery = time.Second
	tellAfter = 3 * time.Second // shorter cuts are nobody's concern
)

// watch looks at a session until it ends.
func (w *lineWatch) watch(s *session.Client) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.Done():
			return
		case <-tick.C:
			w.look(s.Stats().Lanes > 0, time.Now())
		}
	}
}

// look takes note of whether there is a line.
func (w *lineWatch) look(up bool, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case up && w.told:
		w.warn(fmt.Sprintf("the line to %s is back after %v", w.address, now.Sub(w.since).Round(time.Second)))
		w.since, w.told = time.Time{}, false
	case up:
		w.since = time.Time{}
	case w.since.IsZero():
		w.since = now
	case !w.told && now.Sub(w.since) >= tellAfter:
		w.told = true
		w.warn(fmt.Sprintf("the line to %s is cut since %s; waiting for it until %s", w.address,
			w.since.Format(time.TimeOnly), w.since.Add(w.giveUp).Format(time.TimeOnly)))
	}
}
