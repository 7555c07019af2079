package remote

import (
	"context"
	"fmt"
	"time"

	"github.com/hikae/hikae/guest"
)

// Link is a kind of link that may break. How often it is made anew belongs to the kind.
type Link string

// The kinds of links.
const (
	ToProxy Link = "backup server – proxy"
	ToGuest Link = "proxy – guest"
)

// Reconnects is how often a broken link is tried anew before the guest's task fails: 10 between the backup server and a
// proxy (R191), 1 to a guest (R190).
func (l Link) Reconnects() int {
	if l == ToProxy {
		return 10
	}
	return guest.Reconnects
}

// between names the two ends.
func (l Link) between(proxy string) string {
	if l == ToGuest {
		return fmt.Sprintf("proxy %s and the guest", proxy)
	}
	return "the backup server and proxy " + proxy
}

// Bounds of the time between two attempts.
const (
	firstWait = time.Second
	mostWait  = 30 * time.Second
)

// backOff is how long to wait before an attempt, the first being 1: 1 s, 2 s, 4 s … 30 s.
func backOff(attempt int) time.Duration {
	wait := firstWait
	for range attempt - 1 {
		wait = min(2*wait, mostWait)
	}
	return wait
}

// sleep waits, unless the context ends.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
