package retention

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// days makes n daily points from the given noon on, ids d1 … dn.
func days(from string, n int) string {
	at, err := time.Parse(time.DateOnly, from)
	if err != nil {
		panic(err)
	}
	var text string
	for i := range n {
		text += fmt.Sprintf("d%d %s\n", i+1, at.AddDate(0, 0, i).Add(12*time.Hour).Format(time.RFC3339))
	}
	return text
}

// H06: a clock that jumps ahead for one backup, with good ones before and after.
func TestAPointFromTheFutureUsesUpNothing(t *testing.T) {
	points := pts(t, days("2026-11-01", 5)+"x 2099-01-01T00:00:00Z\n"+`
		e1 2026-11-06T12:00:00Z
		e2 2026-11-07T12:00:00Z
		e3 2026-11-08T12:00:00Z`)
	plan := decide(t, points, "daily=4,within=2d", nil)
	assert.Equal(t, "d5 x e1 e2 e3", kept(plan), "four days, and x besides them")
	assert.Equal(t, "doubtful time: e3 was made after it and has an earlier time", words(of(t, plan, "x")))
	assert.Equal(t, Later, of(t, plan, "x").Doubt.Kind)
	assert.Contains(t, words(of(t, plan, "e2")), "shows that a doubtful point's time is wrong")

	// A clock that was set back, to before everything.
	points = pts(t, days("2026-11-01", 5)+"x 1970-01-01T00:00:07Z\n"+`
		e1 2026-11-06T12:00:00Z
		e2 2026-11-07T12:00:00Z`)
	plan = decide(t, points, "daily=2,yearly=9", nil)
	assert.Equal(t, "d4 d5 x e1 e2", kept(plan), "1970 is no year of this history; d4 and d5 bear witness")
	assert.Equal(t, &Doubt{Kind: Before, Point: "d5"}, of(t, plan, "x").Doubt)
}

// H06: the jump has just happened, and nothing comes after it yet.
func TestTheNewestPointIsFromTheFuture(t *testing.T) {
	points := pts(t, days("2026-11-01", 9)+"x 2099-01-01T00:00:00Z")
	t.Run("within needs two that say so", func(t *testing.T) {
		assert.Equal(t, "d6 d7 d8 d9 x", kept(decide(t, points, "within=3d", nil)))
		// x is doubtful here, and of those that are left d8 is the last but one.
		assert.Equal(t, "d5 d6 d7 d8 d9 x", kept(decide(t, points, "within=3d", &Options{Now: clock("2026-11-10")})))
	})
	t.Run("with a clock it uses up no period", func(t *testing.T) {
		plan := decide(t, points, "daily=3,yearly=1", &Options{Now: clock("2026-11-10")})
		assert.Equal(t, "d7 d8 d9 x", kept(plan))
		assert.Equal(t, &Doubt{Kind: Future}, of(t, plan, "x").Doubt)
	})
	t.Run("without one it uses up one of each rule, and the newest good points stay", func(t *testing.T) {
		assert.Equal(t, "d8 d9 x", kept(decide(t, points, "daily=3,yearly=1", nil)))
	})
	t.Run("a clock that jumped with it is as good as none", func(t *testing.T) {
		assert.Equal(t, "d8 d9 x", kept(decide(t, points, "daily=3", &Options{Now: clock("2099-01-01")})))
	})
	t.Run("a clock that is behind removes nothing", func(t *testing.T) {
		plan := decide(t, points, "daily=1", &Options{Now: clock("1970-01-01")})
		assert.Empty(t, ids(plan, false))
	})
	t.Run("hosts' clocks differ by less than a day", func(t *testing.T) {
		plan := decide(t, points[:9], "daily=1", &Options{Now: clock("2026-11-08").Add(12 * time.Hour)})
		assert.Equal(t, "d9", kept(plan))
		plan = decide(t, points[:9], "daily=1", &Options{Now: clock("2026-11-08").Add(12*time.Hour - 1)})
		assert.Equal(t, "d8 d9", kept(plan))
	})
}

func clock(day string) time.Time {
	at, err := time.Parse(time.DateOnly, day)
	if err != nil {
		panic(err)
	}
	return at
}

// A machine whose clock forgot everything makes backups, and asks with the same clock what may go.
func TestAClockThatForgotEverything(t *testing.T) {
	points := pts(t, days("2026-11-01", 9)+`
		x1 1970-01-01T00:00:00Z
		x2 1970-01-02T00:00:00Z
		x3 1970-01-03T00:00:00Z`)
	for _, now := range []time.Time{{}, clock("1970-01-03"), clock("2026-11-13")} {
		plan := decide(t, points, "daily=1", &Options{Now: now})
		assert.Subset(t, ids(plan, true), []string{"d9", "x1", "x2", "x3"}, "%s", now)
		assert.Subset(t, doubtfulIDs(plan), []string{"x1", "x2", "x3"})
	}
}

// Three points from 2099 must not become the majority when a policy has thinned out the others.
func TestRemovingDoesNotTurnTheVoteAround(t *testing.T) {
	points := pts(t, days("2026-11-01", 9)+`
		x1 2099-01-01T00:00:00Z
		x2 2099-01-02T00:00:00Z
		x3 2099-01-03T00:00:00Z
		e1 2026-11-10T12:00:00Z
		e2 2026-11-11T12:00:00Z
		e3 2026-11-12T12:00:00Z
		e4 2026-11-13T12:00:00Z
		e5 2026-11-14T12:00:00Z
		e6 2026-11-15T12:00:00Z`)
	plan := decide(t, points, "monthly=1", nil)
	assert.Equal(t, "x1 x2 x3 e3 e4 e5 e6", kept(plan))
	var left []Point
	for d := range plan.Kept() {
		left = append(left, d.Point)
	}
	again := decide(t, left, "monthly=1", nil)
	assert.Empty(t, ids(again, false))
	assert.Equal(t, of(t, plan, "x2").Doubt, of(t, again, "x2").Doubt)

	// Whoever forgets the doubtful ones by name gets rid of the witnesses too.
	assert.Equal(t, "e6", kept(decide(t, left[3:], "monthly=1", nil)))
}

func TestEqualTimesAndStepsBack(t *testing.T) {
	equal := pts(t, "a 2026-11-01T00:00:00Z\nb 2026-11-01T00:00:00Z\nc 2026-11-01T00:00:00Z")
	plan := decide(t, equal, "daily=5,within=1d", nil)
	assert.Equal(t, "a b c", kept(plan), "none is older than another")
	assert.Equal(t, "c", kept(decide(t, equal, "hourly=5", nil)), "of equal times the log's newest")
	assert.Empty(t, doubtfulIDs(plan))

	// One hour back between two backups: of two that contradict each other the newer is believed, and neither goes.
	back := pts(t, `
		a 2026-11-01T10:00:00Z
		b 2026-11-01T12:00:00Z
		c 2026-11-01T11:00:00Z
		d 2026-11-01T13:00:00Z`)
	plan = decide(t, back, "daily=1", nil)
	assert.Equal(t, "b c d", kept(plan))
	assert.Equal(t, []string{"b"}, doubtfulIDs(plan))
	assert.Equal(t, "d", kept(decide(t, back, "last=1", nil)), "a policy that does not look at times does not mind them")
}

func doubtfulIDs(plan *Plan) []string {
	var list []string
	for d := range plan.Doubtful() {
		list = append(list, d.Point.ID)
	}
	return list
}

// A monotonic reading must not decide: a machine that slept has two kinds of time.
func TestTimesWithoutMonotonicReading(t *testing.T) {
	now := time.Now()
	points := []Point{
		{ID: "a", VM: "vm", Log: 1, Time: now},
		{ID: "b", VM: "vm", Log: 2, Time: now.Add(time.Hour).Round(0)},
	}
	plan := decide(t, points, "last=1", nil)
	assert.True(t, plan.Decisions[0].Point.Time == now.Round(0))
}

func TestTimesThatAreNone(t *testing.T) {
	points := pts(t, "a -\nb 2026-11-01T00:00:00Z\nc -\nd 2026-11-02T00:00:00Z")
	points[0].Time = time.Date(12345, 1, 1, 0, 0, 0, 0, time.UTC)
	plan := decide(t, points, "daily=1,within=1h", nil)
	assert.Equal(t, "a b c d", kept(plan))
	assert.Equal(t, []string{"a", "c"}, doubtfulIDs(plan))
	assert.Equal(t, "a c d", kept(decide(t, points, "daily=1", nil)))
	_, err := json.Marshal(plan.Decisions)
	require.NoError(t, err)

	all := pts(t, "a -\nb -\nc -")
	assert.Equal(t, "a b c", kept(decide(t, all, "yearly=1,within=1h", nil)))
	assert.Equal(t, "c", kept(decide(t, all, "last=1", nil)))
}

// Who has a million points waits seconds, whatever their times are.
func TestManyPoints(t *testing.T) {
	const n = 30_000
	shapes := map[string]func(i int) int{
		"ascending":  func(i int) int { return i },
		"descending": func(i int) int { return n - i },
		"scattered":  func(i int) int { return i * 7919 % n },
		"two heads":  func(i int) int { return i%2*n + i },
	}
	base := clock("2020-01-01")
	for name, at := range shapes {
		t.Run(name, func(t *testing.T) {
			points := make([]Point, n)
			for i := range points {
				points[i] = Point{ID: fmt.Sprint(i), VM: "vm", Log: uint64(i + 1), Whole: true,
					Time: base.Add(time.Duration(at(i)) * time.Hour)}
			}
			start := time.Now()
			decide(t, points, "last=9,hourly=99,daily=99,weekly=99,monthly=99,yearly=9,within=90d", nil)
			require.Less(t, time.Since(start), 20*time.Second)
		})
	}
}
