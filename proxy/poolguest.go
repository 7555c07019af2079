package proxy

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// TakeGuest chooses the guest interaction proxy for a guest by what the pool's machines are doing at the moment, and
// takes a place on it; of many that come at once each sees those before it, so that they are spread. Where all machines
// of the best priority are full it waits: a machine of a lower one is not taken in its place.
//
// failed are machines that could not do it for this guest: who takes over then is the decision's to say (R169, R170). Tasks
// and limits are the pool's; a machine that it does not have meets no requirement, and others take its place.
func (p *Pool) TakeGuest(ctx context.Context, c *GuestChoice, failed ...string) (*Lease, *GuestDecision, error) {
	var last *GuestDecision
	lease, err := p.Take(ctx, c.VM.Name, func(loads map[string]Load) ([]string, error) {
		d, err := Guest(c.under(loads))
		if err != nil {
			return nil, err
		}
		last = d
		name, err := d.next(c, failed)
		if err == nil && !has(loads, name) {
			err = setting(ErrUnknownMachine, "pool", name+" is not in the pool", "add it with its limit")
		}
		return []string{name}, err
	})
	if err != nil {
		return nil, nil, err
	}
	return lease, last, nil
}

func has(loads map[string]Load, name string) bool {
	_, ok := loads[name]
	return ok
}

// under is the choice with the pool's figures.
func (c *GuestChoice) under(loads map[string]Load) *GuestChoice {
	out := *c
	out.Workers = slices.Clone(c.Workers)
	for i := range out.Workers {
		l, ok := loads[out.Workers[i].Name]
		if !ok { // it has died, or was never there
			out.Workers[i].Away = "it is not in the pool"
			continue
		}
		out.Workers[i].Tasks, out.Workers[i].Limit = l.Tasks, l.Limit
	}
	return &out
}

// next is who is asked after those that have failed. The least busy machine may be another one by now; after a failure it
// is not asked, unless all are.
func (d *GuestDecision) next(c *GuestChoice, failed []string) (string, error) {
	order := d.Try
	if len(failed) > 0 && !c.Rules.TryAll && len(c.Rules.Manual) == 0 {
		order = order[len(order)-1:]
	}
	for _, name := range order {
		if !slices.Contains(failed, name) {
			return name, nil
		}
	}
	return "", setting(ErrNoProxy, "workers", fmt.Sprintf("%s have all failed for %s", strings.Join(failed, ", "), d.VM), "see why each did")
}
