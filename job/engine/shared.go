package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/hikae/hikae"
)

// sharedPoll is about how long is waited before others are asked again for what they had: nobody tells when they give it back.
const sharedPoll = 2 * time.Second

// slot is a place of a resource that other runs see taken.
type slot struct {
	need  string
	claim hikae.Claim
}

// share takes for a task a place of each resource that has a limit, all or none, where runs share them. What it returns is a resource of which
// others have all places, and who has one of them. Resources are asked for in one order, so that of two runs one gets on.
func (r *runner) share(ctx context.Context, i *item, now time.Time) (need string, by error) {
	if r.opts.Shared == nil {
		return "", nil
	}
	for _, need := range i.needs {
		if e, ok := r.elsewhere[need]; ok && now.Before(e.until) {
			return need, e.by
		}
	}
	i.unshared = nil
	for _, need := range i.needs {
		limit, ok := r.limit(need)
		if need == "tasks" || !ok { // how many tasks there are at once is each run's own
			continue
		}
		claim, err := r.place(ctx, need, limit)
		var busy *hikae.BusyError
		switch {
		case errors.As(err, &busy):
			r.unshare(i)
			r.elsewhere[need] = elsewhere{now.Add(sharedPoll + rand.N(sharedPoll/2)), err}
			return need, err
		case err != nil: // a limit spares a host: it is no reason to have no point
			i.unshared = append(i.unshared, fmt.Sprintf("other runs do not see that it takes one of %s: %v", need, err))
		default:
			i.slots = append(i.slots, slot{need, claim})
		}
	}
	return "", nil
}

// place takes one of the places of a resource. A [*hikae.BusyError] is that of the last one.
func (r *runner) place(ctx context.Context, need string, limit int) (claim hikae.Claim, err error) {
	owner := fmt.Sprintf("job %s, run %s", r.res.Job, r.res.Run)
	for n := range limit {
		var busy *hikae.BusyError
		if claim, err = r.opts.Shared.Claim(context.WithoutCancel(ctx), fmt.Sprintf("limit/%s/%d", need, n), owner); !errors.As(err, &busy) {
			return claim, err
		}
	}
	return nil, err
}

// unshare gives a task's places back.
func (r *runner) unshare(i *item) {
	for _, s := range i.slots {
		if err := s.claim.Release(context.Background()); err != nil {
			i.unshared = append(i.unshared, fmt.Sprintf("its place of %s was not given back: %v", s.need, err))
		}
		delete(r.elsewhere, s.need) // one is free for certain
	}
	i.slots = nil
}

// elsewhere is a resource of which other runs have all places.
type elsewhere struct {
	until time.Time // that is taken for true
	by    error
}
