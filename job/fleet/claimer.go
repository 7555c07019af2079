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
	held, err := take(ctx, c.c, what, owner)
	if err != nil {
		return nil, err
	}
	return held, nil
}

func take(ctx context.Context, c *queue.Claims, what, owner string) (*queue.Held, error) {
	held, err := c.Claim(ctx, what, owner)
	if busy, ok := errors.AsType[*queue.HeldError](err); ok {
		return nil, &hikae.BusyError{What: what, Owner: fmt.Sprintf("%s, since %s", busy.Owner, busy.Since.Format(time.RFC3339))}
	}
	return held, err
}

// Alone claims what a task works on for a session that no dispatcher has put into the queue: one that is run by hand or by its own
// schedule, beside a fleet. It has all that a handler has, [Work.Fence], [Work.Sweep] and [Work.Journal], and keeps to the same
// rules by them. The session ends when [Work.Lost] is closed, and calls [Work.Release] at its end. *hikae.BusyError: a worker or
// another session is at it.
func Alone(ctx context.Context, q queue.Queue, job, run, owner string, t Task) (*Work, error) {
	on := &work{version, job, run, t}
	if err := on.check(); err != nil {
		return nil, err
	}
	b, err := openBoard(ctx, q, q.Lease())
	if err != nil {
		return nil, err
	}
	held, err := take(ctx, b.claims, on.claim(), owner)
	if err != nil {
		return nil, err
	}
	return &Work{Task: t, Job: job, Run: run, Attempt: 1, Worker: owner, held: held, claim: on.claim(), b: b}, nil
}

// Lost is closed when the claim is not held any more, without having been released.
func (w *Work) Lost() <-chan struct{} { return w.held.Lost() }

// Release gives the claim of [Alone] back. What a worker holds is the worker's to release.
func (w *Work) Release(ctx context.Context) error { return w.held.Release(ctx) }

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
