package retention

import (
	"slices"
	"time"
)

// Options change how [Decide] looks at times. Nil and zero fields are good defaults.
type Options struct {
	// Zone names the periods. Nil: UTC. One zone for all points of a call; VMs in several zones are several calls.
	Zone *time.Location
	// Now is the present as the caller, or better the store, believes it to be. Points that lie more than [FutureSlack]
	// after it are doubtful; right or wrong, it only ever makes more points stay. Zero: not known.
	Now time.Time
}

// Decide says for each point whether it stays, and why. Points may come in any order and of any number of VMs; each VM is
// looked at alone. Without an error every VM keeps at least its newest point. With an error, a [*PolicyError] or a
// [*HistoryError], there is no plan, and nothing may be removed.
func Decide(points []Point, policy Policy, opts *Options) (*Plan, error) {
	if err := policy.Validate(); err != nil {
		return nil, err
	}
	vms, err := histories(points)
	if err != nil {
		return nil, err
	}
	if opts == nil {
		opts = &Options{}
	}
	zone := opts.Zone
	if zone == nil {
		zone = time.UTC
	}
	plan := &Plan{Decisions: make([]Decision, 0, len(points))}
	for _, history := range vms {
		j := judge{
			points: history,
			policy: policy,
			zone:   zone,
			times:  hear(history, opts.Now.Round(0)),
			keeps:  make([][]Reason, len(history)),
			misses: make([][]Reason, len(history)),
		}
		plan.Decisions = append(plan.Decisions, j.decide()...)
	}
	return plan, nil
}

// judge goes through the rules for one VM.
type judge struct {
	points []Point
	policy Policy
	zone   *time.Location
	times  *testimony
	keeps  [][]Reason // by point
	misses [][]Reason
}

func (j *judge) decide() []Decision {
	j.best()
	j.named()
	j.last()
	if j.policy.byTime() {
		j.doubtful()
		for _, c := range counts {
			if n := *c.of(&j.policy); n > 0 && c.rule != Last {
				j.periods(c.rule, n)
			}
		}
		j.within()
	}
	decisions := make([]Decision, len(j.points))
	for i, p := range j.points {
		d := Decision{Point: p, Keep: len(j.keeps[i]) > 0, Reasons: j.misses[i], Doubt: j.times.doubts[i]}
		if d.Keep {
			d.Reasons = j.keeps[i]
		}
		decisions[i] = d
	}
	return decisions
}

func (j *judge) say(i int, r Reason) {
	if r.Keep {
		j.keeps[i] = append(j.keeps[i], r)
	} else {
		j.misses[i] = append(j.misses[i], r)
	}
}

// best keeps the newest point, and each one that is better than all after it. Without it a source that has one bad
// sector, or a guest component that no longer starts, would push out the last good point within a policy's span.
func (j *judge) best() {
	newest := len(j.points) - 1
	j.say(newest, Reason{Rule: Newest, Keep: true})
	best := j.points[newest].grade()
	for i := newest - 1; i >= 0; i-- {
		if g := j.points[i].grade(); g > best {
			best = g
			j.say(i, Reason{Rule: Best, Keep: true, Count: g})
		}
	}
}

// named keeps what somebody marked.
func (j *judge) named() {
	for i, p := range j.points {
		for _, hold := range p.Holds {
			j.say(i, Reason{Rule: Hold, Keep: true, Name: hold})
		}
		for _, tag := range j.policy.Tags {
			if slices.Contains(p.Tags, tag) {
				j.say(i, Reason{Rule: Tag, Keep: true, Name: tag})
			}
		}
	}
}

// last counts by the log, so that times do not matter.
func (j *judge) last() {
	if j.policy.Last == 0 {
		return
	}
	for i := range j.points {
		j.say(i, Reason{Rule: Last, Keep: len(j.points)-i <= j.policy.Last, Count: j.policy.Last})
	}
}

func (j *judge) doubtful() {
	for i := range j.points {
		if d := j.times.doubts[i]; d != nil {
			j.say(i, Reason{Rule: Doubtful, Keep: true, Name: d.String()})
		}
		if j.times.witness[i] {
			j.say(i, Reason{Rule: Witness, Keep: true})
		}
	}
}

// choice is the point that stays for a period.
type choice struct {
	point  int
	passed bool // a newer one was passed over for its holes
}

// periods keeps one point in each of the n newest periods that have trusted points: the newest whole one, else the newest.
// Periods are ordered by the calendar and not by their points, so that the order does not change with what is removed.
func (j *judge) periods(rule Rule, n int) {
	of := make([]Period, len(j.times.trusted))
	chosen := make(map[Period]choice)
	for k, i := range slices.Backward(j.times.trusted) {
		of[k] = periodOf(rule, j.points[i].Time, j.zone)
		c, known := chosen[of[k]]
		if !known || j.points[i].Whole && !j.points[c.point].Whole {
			chosen[of[k]] = choice{point: i, passed: known}
		}
	}
	oldest := oldestCounted(chosen, n)
	for k, i := range j.times.trusted {
		period, c := of[k], chosen[of[k]]
		r := Reason{Rule: rule, Period: period, Count: n, whole: c.passed}
		switch {
		case period.before(oldest):
			r.whole = false
		case c.point == i:
			r.Keep = true
		default:
			r.Point = j.points[c.point].ID
			r.whole = i > c.point
		}
		j.say(i, r)
	}
}

// oldestCounted is the n-th newest of the periods, or the oldest if there are fewer.
func oldestCounted(chosen map[Period]choice, n int) Period {
	periods := make([]Period, 0, len(chosen))
	for p := range chosen {
		periods = append(periods, p)
	}
	if len(periods) == 0 {
		return Period{}
	}
	slices.SortFunc(periods, func(a, b Period) int {
		switch {
		case a.before(b):
			return 1
		case b.before(a):
			return -1
		}
		return 0
	})
	return periods[min(n, len(periods))-1]
}

// within keeps what is not more than the policy's span older than the last trusted point but one. Two points have to
// say that the time has passed: one alone may have been made by a clock that jumped, and would remove everything.
func (j *judge) within() {
	if j.policy.Within == 0 {
		return
	}
	r := Reason{Rule: Within, Keep: true, Name: durationText(j.policy.Within)}
	trusted := j.times.trusted
	if len(trusted) < 2 {
		for _, i := range trusted {
			j.say(i, r)
		}
		return
	}
	from := &j.points[trusted[len(trusted)-2]]
	r.Point = from.ID
	for _, i := range trusted {
		r.Keep = !j.points[i].Time.Add(j.policy.Within).Before(from.Time)
		j.say(i, r)
	}
}
