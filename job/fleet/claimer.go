package fleet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job/queue"
)

// Claimer makes claims of a queue's table those of a session on this machine, so that it and a fleet's workers keep apart. A claim that
// is held is a *hikae.BusyError.
func Claimer(c *queue.Claims) hikae.Claimer { return claimer{c} }

type claimer struct{ c *queue.Claims }

func (c claimer) Claim(ctx context.Context, what, owner string) (hikae.Claim, error) {
	held, err := c.c.Claim(ctx, what, owner)
	if busy, ok := errors.AsType[*queue.HeldError](err); ok {
		return nil, &hikae.BusyError{What: what, Owner: fmt.Sprintf("%s, since %s", busy.Owner, busy.Since.Format(time.RFC3339))}
	}
	if err != nil {
		return nil, err
	}
	return held, nil
}

// Claims are the claims that the workers of a queue have, for a session beside them. lease must be theirs; zero: the queue's.
func Claims(ctx context.Context, q queue.Queue, lease time.Duration) (*queue.Claims, error) {
	if lease <= 0 {
		lease = q.Lease()
	}
	b, err := openBoard(ctx, q, lease)
	if err != nil {
		return nil, err
	}
	return b.claims, nil
}
