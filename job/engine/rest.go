package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// restAfter is how many tasks in a row fail before what they need rests.
const restAfter = 3

// rest is a resource whose tasks fail one after another.
type rest struct {
	row   int             // of failures, without a success in between
	tries int             // of them that were probes
	with  map[string]bool // what else the tasks needed that failed
	until time.Time
	probe *item // the one task that tries whether it is back
	last  error
}

// othersOf has for each need what else the task needs, in words that can be compared.
func othersOf(needs []string) map[string]string {
	out := make(map[string]string, len(needs))
	for _, need := range needs {
		out[need] = strings.Join(slices.DeleteFunc(slices.Clone(needs), func(n string) bool { return n == need || n == "tasks" }), "\n")
	}
	return out
}

// rests reports whether a resource's tasks wait, but for one that tries.
func (s *rest) rests() bool { return s != nil && s.row >= restAfter && !s.until.IsZero() }

// resting is what a task needs and that rests; empty: nothing.
func (r *runner) resting(i *item) string {
	if len(r.rests) == 0 {
		return ""
	}
	if at := slices.IndexFunc(i.needs, func(need string) bool { return r.rests[need].rests() }); at >= 0 {
		return i.needs[at]
	}
	return ""
}

// probe has one task try each resource whose rest is over. Those that were never tried go first, from the end of the line: what failed before
// may have failed by itself, and its neighbours with it, and then the resource is well.
func (r *runner) probe(ctx context.Context, now time.Time) {
	if !r.probeDue(now) {
		return
	}
	for k := len(r.items) - 1; k >= 0; k-- {
		if i := r.items[k]; i.result.Attempts == 0 && r.mayProbe(i, now) {
			r.try(ctx, i, now)
		}
	}
	for _, i := range r.items {
		if i.result.Attempts > 0 && r.mayProbe(i, now) {
			r.try(ctx, i, now)
		}
	}
}

// try starts a probe, unless other runs have what it takes.
func (r *runner) try(ctx context.Context, i *item, now time.Time) {
	if need, by := r.share(ctx, i, now); need != "" {
		r.waiting(i, need, by)
		return
	}
	r.start(ctx, i, now)
}

func (r *runner) probeDue(now time.Time) bool {
	for _, s := range r.rests {
		if s.rests() && s.probe == nil && !now.Before(s.until) {
			return true
		}
	}
	return false
}

// mayProbe: all that rests of its needs has rested long enough, and nobody else tries.
func (r *runner) mayProbe(i *item, now time.Time) bool {
	if !i.waits(now) || r.resting(i) == "" || r.lacks(i) != "" {
		return false
	}
	return !slices.ContainsFunc(i.needs, func(need string) bool {
		s := r.rests[need]
		return s.rests() && (s.probe != nil || now.Before(s.until))
	})
}

// probing reports whether a task was the one that tried whether something is back.
func (r *runner) probing(i *item) bool {
	return slices.ContainsFunc(i.needs, func(need string) bool { return r.rests[need] != nil && r.rests[need].probe == i })
}

// blame counts for each resource how its tasks fare.
func (r *runner) blame(i *item, failed bool) {
	var away []string // what cannot be told apart rests together
	for _, need := range i.needs {
		if need == "tasks" {
			continue
		}
		s := r.rests[need]
		if s != nil && s.probe == i {
			s.probe = nil
			if failed {
				s.tries++
			}
		}
		switch {
		case failed:
			if s == nil {
				s = &rest{with: map[string]bool{}}
				r.rests[need] = s
			}
			s.row++
			s.last = i.err
			s.with[i.others[need]] = true
			if s.row >= restAfter && r.atFault(need, s) {
				away = append(away, need)
			}
		case i.err == nil:
			delete(r.rests, need)
		}
	}
	r.rest(away)
}

// atFault tells a host that is away from the repository that its tasks need too: a resource is at fault where tasks fail that have nothing
// else in common, or where all of its tasks need the same. Those that are over count: who is left when the others are done says nothing
// of what they shared.
func (r *runner) atFault(need string, s *rest) bool {
	if len(s.with) > 1 {
		return true
	}
	for _, i := range r.items {
		if with, ok := i.others[need]; ok && !s.with[with] {
			return false
		}
	}
	return true
}

// rest has resources rest that the same tasks failed with, or gives them up.
func (r *runner) rest(away []string) {
	names := strings.Join(away, " and ")
	var wait time.Duration
	for _, need := range away {
		s := r.rests[need]
		if s.tries >= r.opts.GiveUp {
			r.giveUp(names, need, s)
			continue
		}
		if wait == 0 {
			wait = r.delay(s.row - restAfter + 1)
			r.tell(Event{What: Rested, Needs: names, Err: s.last, Wait: wait})
		}
		s.until = time.Now().Add(wait)
	}
}

// giveUp ends what waits for a resource. Who was tried has an error of its own.
func (r *runner) giveUp(names, need string, s *rest) {
	for _, i := range r.items {
		if _, ok := i.others[need]; !ok || i.over || i.runs {
			continue
		}
		if i.err != nil {
			r.end(i, Failed, fmt.Errorf("%w (%s is away: %d tasks in a row failed)", i.err, names, s.row))
		} else {
			r.end(i, Failed, fmt.Errorf("%s is away: %d tasks in a row failed, the last with: %w", names, s.row, s.last))
		}
	}
}
