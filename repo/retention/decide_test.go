package retention

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// H08: whatever is wrong with a policy, there is no plan.
func TestPoliciesThatDeleteNothing(t *testing.T) {
	points := pts(t, days("2026-11-01", 5))
	for _, policy := range []Policy{
		{},
		{Tags: []string{"audit"}},
		{Last: -1},
		{Last: 3, Daily: -1},
		{Daily: 7, Within: -time.Hour},
		{Within: 90 * time.Minute},
		{Within: MaxWithin + time.Hour},
		{Last: 1, Tags: []string{""}},
		{Last: 1, Tags: []string{"a", "a"}},
		{Last: 1, Tags: []string{"a,daily=9"}},
		{Last: 1, Tags: make([]string, 65)},
	} {
		plan, err := Decide(points, policy, nil)
		var bad *PolicyError
		require.ErrorAs(t, err, &bad, "%+v", policy)
		require.Nil(t, plan)
	}
	_, err := Decide(points, Policy{}, nil)
	require.ErrorIs(t, err, ErrKeepsNothing)
	_, err = Decide(points, Policy{Tags: []string{"audit"}}, nil)
	require.ErrorIs(t, err, ErrKeepsNothing)
}

func TestHistoriesThatDeleteNothing(t *testing.T) {
	good := pts(t, days("2026-11-01", 3))
	for name, breakIt := range map[string]func(p []Point){
		"no id":           func(p []Point) { p[1].ID = "" },
		"one id twice":    func(p []Point) { p[2].ID = p[0].ID },
		"one in two VMs":  func(p []Point) { p[2].ID, p[2].VM = p[0].ID, "other" },
		"a record twice":  func(p []Point) { p[2].Log = p[0].Log },
		"no records said": func(p []Point) { p[0].Log, p[1].Log, p[2].Log = 0, 0, 0 },
	} {
		points := append([]Point(nil), good...)
		breakIt(points)
		plan, err := Decide(points, Policy{Last: 1}, nil)
		var bad *HistoryError
		require.ErrorAs(t, err, &bad, name)
		require.Nil(t, plan, name)
	}
	_, err := Decide(make([]Point, MaxPoints+1), Policy{Last: 1}, nil)
	require.Error(t, err)

	plan, err := Decide(nil, Policy{Last: 1}, nil)
	require.NoError(t, err)
	require.Empty(t, plan.Decisions)
}

// What no policy removes: the newest, and each point that all later ones are worse than.
func TestTheLastGoodPointStays(t *testing.T) {
	points := pts(t, `
		a 2026-11-01T12:00:00Z app
		b 2026-11-02T12:00:00Z off
		c 2026-11-03T12:00:00Z crash
		d 2026-11-04T12:00:00Z fs
		e 2026-11-05T12:00:00Z crash
		f 2026-11-06T12:00:00Z unknown
		g 2026-11-07T12:00:00Z app holed
		h 2026-11-08T12:00:00Z crash holed`)
	for _, policy := range []string{"last=1", "daily=1", "within=1h", "yearly=1"} {
		plan := decide(t, points, policy, nil)
		assert.Contains(t, words(of(t, plan, "b")), "newest that is whole and application-consistent", policy)
		assert.Contains(t, words(of(t, plan, "d")), "newest that is whole and at least filesystem-consistent")
		assert.Contains(t, words(of(t, plan, "e")), "newest that is whole and at least crash-consistent")
		assert.Contains(t, words(of(t, plan, "f")), "newest that is whole")
		assert.Contains(t, words(of(t, plan, "h")), "newest point")
		assert.False(t, of(t, plan, "a").Keep)
		assert.False(t, of(t, plan, "c").Keep)
	}
	assert.Equal(t, "b d e f h", kept(decide(t, points, "last=1", nil)))

	// Once a good one comes, nothing is left of it.
	points = append(points, Point{ID: "i", VM: "vm", Log: 1000, Time: clock("2026-11-09"), Whole: true, Consistency: Offline})
	assert.Equal(t, "i", kept(decide(t, points, "last=1", nil)))
}

func TestAWholePointStandsForItsPeriod(t *testing.T) {
	points := pts(t, `
		a 2026-11-02T06:00:00Z
		b 2026-11-02T12:00:00Z crash
		c 2026-11-02T18:00:00Z holed
		d 2026-11-03T06:00:00Z holed
		e 2026-11-03T12:00:00Z holed
		f 2026-11-04T12:00:00Z`)
	plan := decide(t, points, "daily=3", nil)
	assert.Equal(t, "b e f", kept(plan))
	assert.Equal(t, "newest whole of 2026-11-02", words(of(t, plan, "b")))
	assert.Equal(t, "2026-11-02 has b, which is whole", words(of(t, plan, "c")))
	assert.Equal(t, "2026-11-02 has b, which is newer", words(of(t, plan, "a")))
	assert.Equal(t, "newest of 2026-11-03", words(of(t, plan, "e")))
}

func TestHoldsAndTags(t *testing.T) {
	points := pts(t, `
		a 2026-11-01T12:00:00Z hold:audit hold:legal
		b 2026-11-02T12:00:00Z tag:release tag:x
		c 2026-11-03T12:00:00Z tag:Release
		d 2026-11-04T12:00:00Z`)
	plan := decide(t, points, "last=1,tag=release,tag=other", nil)
	assert.Equal(t, "a b d", kept(plan))
	assert.Equal(t, "held: audit; held: legal", words(of(t, plan, "a")))
	assert.Equal(t, "tagged: release", words(of(t, plan, "b")))
	assert.Equal(t, "a d", kept(decide(t, points, "daily=1", nil)), "a tag counts only where the policy names it")
}

func TestVMsAreLookedAtAlone(t *testing.T) {
	a, b := pts(t, days("2026-11-01", 3)), pts(t, days("2020-01-01", 3))
	for i := range b {
		b[i].ID, b[i].VM = "b"+b[i].ID, "another"
	}
	plan := decide(t, []Point{a[2], b[0], a[0], b[2], b[1], a[1]}, "daily=2", nil)
	assert.Equal(t, "bd2 bd3 d2 d3", kept(plan), "by name of the VM, then by the log, whatever the order was")
}

func TestDecisionAsJSON(t *testing.T) {
	plan := decide(t, pts(t, "a 2026-11-21T23:00:00+01:00\nb 2026-11-22T12:00:00+01:00 hold:audit"), "weekly=1", nil)
	text, err := json.Marshal(plan.Decisions)
	require.NoError(t, err)
	require.JSONEq(t, `[
		{"id": "a", "vm": "vm", "log": 10, "time": "2026-11-21T22:00:00Z", "keep": false,
		 "reasons": ["2026-W47 has b, which is newer"]},
		{"id": "b", "vm": "vm", "log": 20, "time": "2026-11-22T11:00:00Z", "keep": true,
		 "reasons": ["newest point", "held: audit", "newest of 2026-W47"]}]`, string(text))
}

func ExampleDecide() {
	policy, err := Parse("last=1,weekly=2")
	if err != nil {
		fmt.Println(err)
		return
	}
	var points []Point
	for i := range 5 {
		points = append(points, Point{ID: fmt.Sprintf("p%d", i), VM: "web1", Log: uint64(7 + i), Whole: true, Consistency: Crash,
			Time: time.Date(2026, 11, 13+2*i, 22, 0, 0, 0, time.UTC)})
	}
	points[0].Holds = []string{"audit"}
	plan, err := Decide(points, policy, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, d := range plan.Decisions {
		fmt.Println(d.Point.ID, d.Keep, d.Reasons)
	}
	// Output:
	// p0 true [held: audit]
	// p1 true [newest of 2026-W46]
	// p2 false [not among the last 1 2026-W47 has p4, which is newer]
	// p3 false [not among the last 1 2026-W47 has p4, which is newer]
	// p4 true [newest point last 1 newest of 2026-W47]
}

// An error of ours can be told from any other by its type.
func TestErrorsSayWhatIsWrong(t *testing.T) {
	_, err := Parse("daily=-7")
	var bad *PolicyError
	require.True(t, errors.As(err, &bad))
	require.Equal(t, "daily", bad.Field)
	require.Equal(t, "-7", bad.Value)
	require.Contains(t, err.Error(), `daily="-7"`)
}
