package retention

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Each calendar was worked out by hand from the zone's own rules before it was run.
var calendars = []struct {
	name   string
	zone   string
	points string
	// policy → ids that stay, oldest first
	want map[string]string
	// policy → id → a reason that is among its reasons
	words map[string]map[string]string
}{
	{
		name: "Berlin puts clocks ahead: 02:00 to 03:00 on 2026-03-29 does not exist, the day has 23 hours",
		zone: "Europe/Berlin",
		points: `
			a 2026-03-28T23:30:00+01:00
			b 2026-03-29T00:30:00+01:00
			c 2026-03-29T01:59:59+01:00
			d 2026-03-29T03:00:00+02:00
			e 2026-03-29T23:59:59+02:00
			f 2026-03-30T00:00:00+02:00`,
		want: map[string]string{
			"daily=2": "e f", "daily=3": "a e f", "daily=9": "a e f",
			"hourly=4": "c d e f", "hourly=5": "b c d e f", "weekly=2": "e f", "within=1h": "e f",
			// 22 hours by the clock on the wall, 21 that have passed
			"within=20h": "e f", "within=21h": "c d e f", "within=22h": "c d e f",
		},
		words: map[string]map[string]string{
			"hourly=4": {"c": "newest of 2026-03-29 01h +01:00", "d": "newest of 2026-03-29 03h +02:00"},
			"weekly=2": {"e": "newest of 2026-W13", "f": "newest of 2026-W14", "a": "2026-W13 has e, which is newer"},
		},
	},
	{
		name: "the same instants by UTC: other days",
		zone: "UTC",
		points: `
			a 2026-03-28T23:30:00+01:00
			b 2026-03-29T00:30:00+01:00
			c 2026-03-29T01:59:59+01:00
			d 2026-03-29T03:00:00+02:00
			e 2026-03-29T23:59:59+02:00
			f 2026-03-30T00:00:00+02:00`,
		want: map[string]string{"daily=1": "f", "daily=2": "b f", "daily=3": "b f"},
	},
	{
		name: "Berlin puts clocks back: the hour from 02:00 comes twice on 2026-10-25, the day has 25 hours",
		zone: "Europe/Berlin",
		points: `
			a 2026-10-25T00:00:00+02:00
			b 2026-10-25T02:30:00+02:00
			c 2026-10-25T02:10:00+01:00
			d 2026-10-25T03:30:00+01:00
			e 2026-10-25T23:59:59+01:00`,
		want: map[string]string{"daily=5": "e", "hourly=2": "d e", "hourly=3": "c d e", "hourly=4": "b c d e"},
		words: map[string]map[string]string{
			"hourly=4": {"b": "newest of 2026-10-25 02h +02:00", "c": "newest of 2026-10-25 02h +01:00"},
		},
	},
	{
		name: "year's end of 2026, whose week 53 reaches into 2027",
		zone: "Europe/Berlin",
		points: `
			a 2026-12-27T23:00:00+01:00
			b 2026-12-28T01:00:00+01:00
			c 2026-12-31T23:59:59+01:00
			d 2027-01-01T00:00:00+01:00
			e 2027-01-03T23:59:59+01:00
			f 2027-01-04T00:00:00+01:00`,
		want: map[string]string{
			"weekly=1": "f", "weekly=2": "e f", "weekly=3": "a e f",
			"monthly=2": "c f", "yearly=2": "c f", "yearly=1": "f", "daily=6": "a b c d e f",
		},
		words: map[string]map[string]string{
			"weekly=3": {"a": "newest of 2026-W52", "e": "newest of 2026-W53", "f": "newest of 2027-W01",
				"c": "2026-W53 has e, which is newer"},
			"monthly=2": {"c": "newest of 2026-12", "f": "newest of 2027-01"},
			"yearly=2":  {"c": "newest of 2026", "f": "newest of 2027"},
			"weekly=1":  {"e": "2026-W53 is older than the 1 newest weeks with points"},
		},
	},
	{
		name: "the last days of 2024 are in the first week of 2025",
		zone: "UTC",
		points: `
			a 2024-12-29T12:00:00Z
			b 2024-12-30T12:00:00Z
			c 2025-01-05T12:00:00Z
			d 2025-01-06T12:00:00Z`,
		want: map[string]string{"weekly=2": "c d", "weekly=3": "a c d", "yearly=2": "b d"},
		words: map[string]map[string]string{
			"weekly=3": {"a": "newest of 2024-W52", "c": "newest of 2025-W01", "d": "newest of 2025-W02"}},
	},
	{
		name: "St. John's put clocks back at 00:01 until 2011: on 2010-11-07 Sunday lasts a minute, then it is Saturday again",
		zone: "America/St_Johns",
		points: `
			a 2010-11-06T23:30:00-02:30
			b 2010-11-07T00:00:30-02:30
			c 2010-11-06T23:30:00-03:30
			d 2010-11-07T12:00:00-03:30`,
		want: map[string]string{
			"daily=1": "d", "daily=2": "c d", "weekly=2": "d",
			"hourly=1": "d", "hourly=2": "c d", "hourly=3": "b c d", "hourly=4": "a b c d",
		},
		words: map[string]map[string]string{
			"daily=2": {"c": "newest of 2010-11-06", "b": "2010-11-07 has d, which is newer"},
			"hourly=4": {"a": "newest of 2010-11-06 23h -02:30", "b": "newest of 2010-11-07 00h -02:30",
				"c": "newest of 2010-11-06 23h -03:30"},
			"weekly=2": {"d": "newest of 2010-W44"},
		},
	},
	{
		name: "St. John's, in the middle of that night: the newest day is by the calendar, the newest point by the log",
		zone: "America/St_Johns",
		points: `
			a 2010-11-06T23:30:00-02:30
			b 2010-11-07T00:00:30-02:30
			c 2010-11-06T23:30:00-03:30`,
		want: map[string]string{"daily=1": "b c", "daily=2": "b c"},
	},
	{
		name: "Kathmandu is 5:45 ahead: its day ends at 18:15 UTC",
		zone: "Asia/Kathmandu",
		points: `
			a 2026-04-01T18:14:59Z
			b 2026-04-01T18:15:00Z
			c 2026-04-02T18:14:59Z`,
		want: map[string]string{"daily=1": "c", "daily=2": "a c", "hourly=2": "b c", "hourly=3": "a b c", "monthly=1": "c"},
		words: map[string]map[string]string{
			"hourly=3": {"a": "newest of 2026-04-01 23h +05:45", "b": "newest of 2026-04-02 00h +05:45"}},
	},
	{
		name: "Kathmandu began 1986 with a jump of 15 minutes: 00:00 to 00:15 on January 1st does not exist",
		zone: "Asia/Kathmandu",
		points: `
			a 1985-12-31T23:59:59+05:30
			b 1986-01-01T00:15:00+05:45
			c 1986-01-01T00:59:59+05:45`,
		want: map[string]string{"yearly=2": "a c", "daily=2": "a c", "hourly=2": "a c"},
	},
	{
		name: "Lord Howe puts clocks back by half an hour: 01:30 to 02:00 comes twice on 2026-04-05",
		zone: "Australia/Lord_Howe",
		points: `
			a 2026-04-05T01:15:00+11:00
			b 2026-04-05T01:45:00+11:00
			c 2026-04-05T01:45:00+10:30
			d 2026-04-05T02:15:00+10:30
			e 2026-04-05T23:59:59+10:30
			f 2026-04-06T00:00:00+10:30`,
		want: map[string]string{
			"hourly=3": "d e f", "hourly=4": "c d e f", "hourly=5": "b c d e f", "hourly=9": "b c d e f", "daily=2": "e f",
		},
		words: map[string]map[string]string{
			"hourly=5": {"b": "newest of 2026-04-05 01h +11:00", "c": "newest of 2026-04-05 01h +10:30",
				"a": "2026-04-05 01h +11:00 has b, which is newer"}},
	},
	{
		name: "Lord Howe puts clocks ahead by half an hour: the hour from 02:00 has 30 minutes on 2026-10-04",
		zone: "Australia/Lord_Howe",
		points: `
			a 2026-10-04T01:59:59+10:30
			b 2026-10-04T02:30:00+11:00
			c 2026-10-04T02:59:59+11:00
			d 2026-10-04T03:00:00+11:00`,
		want: map[string]string{"hourly=2": "c d", "hourly=3": "a c d", "daily=3": "d"},
	},
	{
		name: "Apia skipped 2011-12-30: after Thursday the 29th came Saturday the 31st",
		zone: "Pacific/Apia",
		points: `
			a 2011-12-28T12:00:00-10:00
			b 2011-12-29T23:59:59-10:00
			c 2011-12-31T00:00:00+14:00
			d 2011-12-31T12:00:00+14:00
			e 2012-01-01T09:00:00+14:00
			f 2012-01-02T00:00:00+14:00`,
		want: map[string]string{
			"daily=3": "d e f", "daily=4": "b d e f", "daily=5": "a b d e f",
			"weekly=2": "e f", "monthly=2": "d f", "yearly=2": "d f",
		},
		words: map[string]map[string]string{
			"daily=4":  {"b": "newest of 2011-12-29", "d": "newest of 2011-12-31"},
			"weekly=2": {"e": "newest of 2011-W52", "f": "newest of 2012-W01"},
		},
	},
	{
		name: "leap years have a February 29th, and 2100 has none",
		zone: "UTC",
		points: `
			a 2028-02-28T12:00:00Z
			b 2028-02-29T12:00:00Z
			c 2028-03-01T12:00:00Z
			d 2100-02-28T12:00:00Z
			e 2100-03-01T12:00:00Z`,
		want: map[string]string{"daily=5": "a b c d e", "monthly=4": "b c d e", "yearly=2": "c e"},
		words: map[string]map[string]string{
			"daily=5": {"b": "newest of 2028-02-29", "d": "newest of 2100-02-28", "e": "newest of 2100-03-01"}},
	},
	{
		name: "around the leap second at the end of 2016",
		zone: "UTC",
		points: `
			a 2016-12-31T23:59:59Z
			b 2016-12-31T23:59:59.999999999Z
			c 2017-01-01T00:00:00Z`,
		want: map[string]string{"hourly=2": "b c", "daily=2": "b c", "yearly=2": "b c", "weekly=2": "c"},
	},
	{
		name: "before 1970, where seconds count below zero",
		zone: "UTC",
		points: `
			a 1969-12-28T23:59:59Z
			b 1969-12-29T00:00:00Z
			c 1969-12-31T23:59:59Z
			d 1970-01-01T00:00:00Z`,
		want: map[string]string{"weekly=2": "a d", "daily=3": "b c d", "yearly=2": "c d", "hourly=3": "b c d"},
		words: map[string]map[string]string{
			"weekly=2": {"a": "newest of 1969-W52", "d": "newest of 1970-W01"},
			"hourly=3": {"c": "newest of 1969-12-31 23h +00:00"},
		},
	},
	{
		name: "rules add up, and a gap of a year costs nothing",
		zone: "Europe/Berlin",
		points: `
			a 2024-06-30T22:00:00+02:00
			b 2025-11-29T22:00:00+01:00
			c 2025-11-30T22:00:00+01:00
			d 2026-11-19T22:00:00+01:00
			e 2026-11-20T22:00:00+01:00
			f 2026-11-22T22:00:00+01:00`,
		want: map[string]string{
			"daily=2,monthly=2": "c e f", "daily=2,monthly=3": "a c e f", "daily=4": "c d e f", "daily=2,yearly=3": "a c e f",
			"last=1": "f", "last=4": "c d e f", "daily=all": "a b c d e f", "yearly=all": "a c f",
		},
		words: map[string]map[string]string{
			"daily=2,monthly=2": {
				"a": "2024-06-30 is older than the 2 newest days with points; 2024-06 is older than the 2 newest months with points",
				"f": "newest point; newest of 2026-11-22; newest of 2026-11",
			}},
	},
}

// H09 of the field's hazards: the last week of the year, zones, clocks that change, week 53.
func TestCalendars(t *testing.T) {
	for _, c := range calendars {
		t.Run(c.name, func(t *testing.T) {
			points := pts(t, c.points)
			for policy, want := range c.want {
				plan := decide(t, points, policy, &Options{Zone: zone(t, c.zone)})
				assert.Equal(t, want, kept(plan), policy)
				for d := range plan.Doubtful() {
					t.Errorf("%s: %s is doubtful: %s", policy, d.Point.ID, d.Doubt)
				}
			}
			for policy, byID := range c.words {
				plan := decide(t, points, policy, &Options{Zone: zone(t, c.zone)})
				for id, want := range byID {
					assert.Contains(t, words(of(t, plan, id)), want, policy)
				}
			}
		})
	}
}

// A leap second cannot be a point's time: whoever reads it from text hears of it there.
func TestNoLeapSecond(t *testing.T) {
	_, err := time.Parse(time.RFC3339, "2016-12-31T23:59:60Z")
	require.Error(t, err)
}

// What doc.go shows is what comes out.
func TestTheExampleOfTheDocumentation(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	require.Contains(t, string(doc), "With daily=2,weekly=2 and these points of one VM, in the zone UTC:\n")
	plan := decide(t, pts(t, `
		a 2026-11-13T22:00:00Z
		b 2026-11-15T22:00:00Z
		c 2026-11-20T22:00:00Z
		d 2026-11-21T22:00:00Z
		e 2026-11-22T10:00:00Z
		f 2026-11-22T22:00:00Z`), "daily=2,weekly=2", nil)
	var text strings.Builder
	for _, d := range plan.Decisions {
		verb := map[bool]string{true: "stays", false: "goes "}[d.Keep]
		text.WriteString("//\t" + d.Point.Time.Format("Mon 2006-01-02 15:04") + "  " + d.Point.ID + "  " + verb + "  " + words(d) + "\n")
	}
	require.Contains(t, strings.ReplaceAll(string(doc), "\r\n", "\n"), text.String())
}
