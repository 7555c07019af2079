package retention

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var zoneNames = []string{"UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia"}

// edges are moments near which calendars are at their worst.
var edges = []string{
	"2026-03-29T01:00:00Z", "2026-10-25T01:00:00Z", "2010-11-07T02:31:00Z", "2026-04-04T15:00:00Z", "2026-10-03T15:30:00Z",
	"2011-12-30T10:00:00Z", "2026-12-31T23:00:00Z", "2025-01-01T00:00:00Z", "2028-02-29T12:00:00Z", "1970-01-01T00:00:00Z",
}

func drawZone(t *rapid.T) *time.Location {
	loc, err := time.LoadLocation(rapid.SampledFrom(zoneNames).Draw(t, "zone"))
	require.NoError(t, err)
	return loc
}

// drawPoints makes a history of one VM around one edge: mostly ahead in time by steps of any size, sometimes with a jump
// for one point or for the rest.
func drawPoints(t *rapid.T, vm string, most int) []Point {
	at, err := time.Parse(time.RFC3339, rapid.SampledFrom(edges).Draw(t, "edge"))
	require.NoError(t, err)
	at = at.Add(-time.Duration(rapid.IntRange(0, 200).Draw(t, "hoursBefore")) * time.Hour)
	jumpy := rapid.IntRange(0, 3).Draw(t, "jumpy")
	step := rapid.SampledFrom([]time.Duration{10 * time.Minute, time.Hour, 9 * time.Hour, 30 * time.Hour, 20 * 24 * time.Hour})
	jump := rapid.SampledFrom([]time.Duration{-10 * 366 * 24 * time.Hour, -24 * time.Hour, -time.Hour, time.Hour, 24 * time.Hour, 73 * 366 * 24 * time.Hour})
	points := make([]Point, rapid.IntRange(0, most).Draw(t, "points"))
	for i := range points {
		at = at.Add(time.Duration(rapid.IntRange(0, 4).Draw(t, "steps")) * step.Draw(t, "step") / 2)
		p := Point{ID: fmt.Sprintf("%s%02d", vm, i), VM: vm, Log: uint64(3*i + 1), Time: at}
		switch chance := rapid.IntRange(0, 19).Draw(t, "clock"); {
		case chance < jumpy:
			p.Time = at.Add(jump.Draw(t, "wrong"))
		case chance == 10 && jumpy > 0:
			at = at.Add(jump.Draw(t, "jump"))
			p.Time = at
		case chance == 11 && jumpy > 1:
			p.Time = time.Time{}
		}
		p.Whole = rapid.IntRange(0, 7).Draw(t, "whole") > 0
		p.Consistency = rapid.SampledFrom([]Consistency{Crash, Application, Application, Filesystem, Offline, Unknown}).Draw(t, "consistency")
		if rapid.IntRange(0, 15).Draw(t, "held") == 0 {
			p.Holds = []string{"audit"}
		}
		if rapid.IntRange(0, 7).Draw(t, "tagged") == 0 {
			p.Tags = []string{"release"}
		}
		points[i] = p
	}
	return points
}

func drawPolicy(t *rapid.T) Policy {
	var p Policy
	n := rapid.SampledFrom([]int{0, 0, 0, 1, 2, 3, 5, All})
	for _, c := range counts {
		*c.of(&p) = n.Draw(t, string(c.rule))
	}
	p.Within = time.Duration(rapid.SampledFrom([]int{0, 0, 0, 1, 24, 1000}).Draw(t, "within")) * time.Hour
	if rapid.Bool().Draw(t, "tag") {
		p.Tags = []string{"release"}
	}
	if p.Validate() != nil {
		p.Last = 1
	}
	return p
}

// longer draws a policy that says at least as much as p in every rule.
func longer(t *rapid.T, p Policy) Policy {
	q := drawPolicy(t)
	for _, c := range counts {
		*c.of(&q) = max(*c.of(&p), *c.of(&q))
	}
	q.Within = max(p.Within, q.Within)
	if len(p.Tags) > 0 {
		q.Tags = p.Tags
	}
	return q
}

func drawOptions(t *rapid.T, points []Point) *Options {
	opts := &Options{Zone: drawZone(t)}
	if len(points) > 0 && rapid.Bool().Draw(t, "clocked") {
		if at := points[rapid.IntRange(0, len(points)-1).Draw(t, "now")].Time; !at.IsZero() {
			opts.Now = at
		}
	}
	return opts
}

func mustDecide(t *rapid.T, points []Point, p Policy, opts *Options) *Plan {
	plan, err := Decide(points, p, opts)
	require.NoError(t, err)
	return plan
}

func setOf(plan *Plan, keep bool) map[string]bool {
	set := make(map[string]bool)
	for _, id := range ids(plan, keep) {
		set[id] = true
	}
	return set
}

// H09: the same as the brute-force model, for any history, zone and policy.
func TestSameAsTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		points := drawPoints(t, "p", 9)
		policy, opts := drawPolicy(t), drawOptions(t, points)
		plan := mustDecide(t, points, policy, opts)
		require.Equal(t, modelKept(model(points, policy, opts.Zone, opts.Now)), modelKept(setOf(plan, true)), policy.String())
	})
}

func TestALongerPolicyNeverRemovesMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		points := drawPoints(t, "p", 30)
		policy, opts := drawPolicy(t), drawOptions(t, points)
		more := longer(t, policy)
		stays := setOf(mustDecide(t, points, more, opts), true)
		for _, id := range ids(mustDecide(t, points, policy, opts), true) {
			require.True(t, stays[id], "%s stays by %s and goes by %s", id, policy, more)
		}
	})
}

// H06: a clock, right or wrong, never makes a point go that stays without it.
func TestAClockOnlyKeepsMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		points := drawPoints(t, "p", 30)
		policy, opts := drawPolicy(t), drawOptions(t, points)
		stays := setOf(mustDecide(t, points, policy, opts), true)
		for _, id := range ids(mustDecide(t, points, policy, &Options{Zone: opts.Zone}), true) {
			require.True(t, stays[id], "%s by %s at %s", id, policy, opts.Now)
		}
	})
}

// Removing what goes, or any part of it in any order, changes nothing for what is left: so a second run removes nothing more, and a
// run that dies half way is finished by the next.
func TestRemovingWhatGoesChangesNothingElse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		points := drawPoints(t, "p", 30)
		policy, opts := drawPolicy(t), drawOptions(t, points)
		plan := mustDecide(t, points, policy, opts)
		all := rapid.Bool().Draw(t, "all")
		var left []Point
		for _, d := range plan.Decisions {
			if d.Keep || !all && rapid.Bool().Draw(t, "stillThere") {
				left = append(left, d.Point)
			}
		}
		before, after := setOf(plan, true), mustDecide(t, left, policy, opts)
		for _, d := range after.Decisions {
			require.Equal(t, before[d.Point.ID], d.Keep, "%s by %s: %s", d.Point.ID, policy, words(d))
			if policy.byTime() {
				i := slices.IndexFunc(plan.Decisions, func(o Decision) bool { return o.Point.ID == d.Point.ID })
				require.Equal(t, plan.Decisions[i].Doubt, d.Doubt)
			}
		}
	})
}

// H08: whatever the policy, each VM keeps its newest point, every held one, and its newest whole one.
func TestTheNewestAlwaysStays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		points := drawPoints(t, "p", 30)
		opts := drawOptions(t, points)
		stays := setOf(mustDecide(t, points, drawPolicy(t), opts), true)
		whole := ""
		for i, p := range points {
			if i == len(points)-1 || len(p.Holds) > 0 {
				require.True(t, stays[p.ID])
			}
			if p.Whole {
				whole = p.ID
			}
		}
		require.True(t, whole == "" || stays[whole])
	})
}

func TestVMsDoNotMeet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawPoints(t, "a", 15), drawPoints(t, "b", 15)
		policy, opts := drawPolicy(t), drawOptions(t, a)
		mixed := rapid.Permutation(slices.Concat(a, b)).Draw(t, "order")
		before := slices.Clone(mixed)
		plan := mustDecide(t, mixed, policy, opts)
		alone := append(mustDecide(t, a, policy, opts).Decisions, mustDecide(t, b, policy, opts).Decisions...)
		require.Equal(t, len(alone), len(plan.Decisions))
		for i := range alone {
			require.Equal(t, alone[i], plan.Decisions[i])
		}
		require.Equal(t, before, mixed, "the input is the caller's")
	})
}

// H09: ten years of points, the policy applied after each one as a nightly job does. What is left in the end is what one look at all
// of them together would leave, and on the way every rule has a point in each of its newest periods.
func TestTenYearsOfNights(t *testing.T) {
	for i, name := range zoneNames {
		t.Run(name, func(t *testing.T) {
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			opts := &Options{Zone: zone(t, name)}
			policy := mustParse(t, "last=2,hourly=5,daily=7,weekly=6,monthly=14,yearly=11,within=4d")
			var all, left []Point
			at := time.Date(2007, 1, 1, random.IntN(24), 0, 0, 0, opts.Zone)
			for n := 0; at.Year() < 2017; n++ {
				p := Point{ID: fmt.Sprint(n), VM: "vm", Log: uint64(n + 1), Time: at, Whole: true, Consistency: Crash}
				all, left = append(all, p), append(left, p)
				plan, err := Decide(left, policy, opts)
				require.NoError(t, err)
				left = left[:0]
				for d := range plan.Kept() {
					left = append(left, d.Point)
				}
				at = at.Add(time.Duration(1+random.IntN(60)) * time.Hour)
				if random.IntN(100) == 0 {
					at = at.AddDate(0, 0, random.IntN(90))
				}
			}
			once, err := Decide(all, policy, opts)
			require.NoError(t, err)
			require.Equal(t, strings.Join(ids(once, true), " "), strings.Join(idsOf(left), " "))
			require.Len(t, yearsOf(left, opts.Zone), 10)
		})
	}
}

func idsOf(points []Point) []string {
	var list []string
	for _, p := range points {
		list = append(list, p.ID)
	}
	return list
}

func yearsOf(points []Point, loc *time.Location) map[int]bool {
	years := make(map[int]bool)
	for _, p := range points {
		years[p.Time.In(loc).Year()] = true
	}
	return years
}
