package engine

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"
)

// begin begins what may be begun: first whoever tries whether something is back, then the line in its order.
func (r *runner) begin(ctx context.Context) {
	now := time.Now()
	r.probe(ctx, now)
	kept, looked, full := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, i := range r.items {
		if r.full("tasks") {
			return // nobody can begin, and what is kept is kept for this look only
		}
		if !i.waits(now) || full[i.same] && looked[i.same] {
			continue
		}
		if r.resting(i) {
			continue
		}
		free := !full[i.same] && r.free(i)
		full[i.same] = !free
		switch {
		case free && !slices.ContainsFunc(i.needs, func(n string) bool { return kept[n] }):
			r.start(ctx, i, now)
		case now.Sub(i.ready) >= r.opts.Patience && !looked[i.same]:
			looked[i.same] = true // for the first of them: the others come after it
			r.keep(i, kept)
		}
	}
}

// waits reports whether a task is to be begun as soon as it may.
func (i *item) waits(now time.Time) bool { return !i.over && !i.runs && !i.after.After(now) }

// keep keeps for a task that has waited too long what it needs and others would take: the last place of a resource that is free at other
// moments than what it waits for. Where everybody who has the one gives back the other with it, as all do with "tasks", it is at
// hand when the turn comes, and keeping it would only have others wait for something that they do not need.
func (r *runner) keep(i *item, kept map[string]bool) {
	for _, need := range i.needs {
		limit, ok := r.limit(need)
		if ok && r.used[need] >= limit-1 && r.apart(i, need) {
			kept[need] = true
		}
	}
}

// apart reports whether somebody has what a task waits for, and not this.
func (r *runner) apart(i *item, need string) bool {
	for _, full := range i.needs {
		if full == need || !r.full(full) {
			continue
		}
		for _, other := range r.works {
			if slices.Contains(other.needs, full) && !slices.Contains(other.needs, need) {
				return true
			}
		}
	}
	return false
}

// refuse ends what would wait for ever: with a limit of nothing.
func (r *runner) refuse() {
	for _, i := range r.items {
		for _, need := range i.needs {
			if limit, ok := r.limit(need); ok && limit <= 0 && !i.over {
				r.end(i, Failed, fmt.Errorf("the limit of %s is %d: %w", need, limit, fs.ErrInvalid))
			}
		}
	}
}

// free reports whether all that a task needs can be had.
func (r *runner) free(i *item) bool { return !slices.ContainsFunc(i.needs, r.full) }

func (r *runner) full(need string) bool {
	limit, ok := r.limit(need)
	return ok && r.used[need] >= limit
}

// limit is looked up once for each need: a long line is gone through often.
func (r *runner) limit(need string) (int, bool) {
	l, known := r.limits[need]
	if !known {
		if l.n, l.any = r.opts.Limits[need]; !l.any {
			class, _, _ := strings.Cut(need, "/")
			l.n, l.any = r.opts.Limits[class+"/*"]
		}
		r.limits[need] = l
	}
	return l.n, l.any
}

// limit is one resource's; any: it has one.
type limit struct {
	n   int
	any bool
}
