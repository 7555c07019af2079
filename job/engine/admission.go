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
	kept, looked, full := map[string]bool{}, map[string]bool{}, map[string]string{}
	for _, i := range r.items {
		if r.full("tasks") {
			return // nobody can begin, and what is kept is kept for this look only
		}
		if !i.waits(now) {
			continue
		}
		if need := r.resting(i); need != "" {
			r.waiting(i, need, nil)
			continue
		}
		if full[i.same] == "" {
			full[i.same] = r.lacks(i)
		}
		need := full[i.same]
		if at := slices.IndexFunc(i.needs, func(n string) bool { return kept[n] }); need == "" && at >= 0 {
			need = i.needs[at]
		}
		var by error
		if need == "" {
			need, by = r.share(ctx, i, now)
		}
		if need == "" {
			r.start(ctx, i, now)
			continue
		}
		r.waiting(i, need, by)
		if now.Sub(i.ready) >= r.opts.Patience && !looked[i.same] {
			looked[i.same] = true // for the first of them: the others come after it
			r.keep(i, kept)
		}
	}
}

// waiting tells what keeps a task from its turn, each resource once in an attempt. One that waits for its turn alone says nothing.
func (r *runner) waiting(i *item, need string, by error) {
	if slices.Contains(i.lacked, need) {
		return
	}
	i.lacked = append(i.lacked, need)
	r.tell(Event{What: Waiting, Task: i.task.ID, VM: i.task.VM, Attempt: i.result.Attempts + 1, Needs: need, Err: by})
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

// lacks is what a task needs and cannot have now; empty: nothing.
func (r *runner) lacks(i *item) string {
	if at := slices.IndexFunc(i.needs, r.full); at >= 0 {
		return i.needs[at]
	}
	return ""
}

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
