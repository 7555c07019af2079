package schedule

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	require.NoError(t, err)
	return z
}

// R204: runs are spread over time. Each list was worked out by hand from the zone's rules and the package's, before it was run.
var runs = []struct {
	name, text, zone, after string
	want                    []string
}{
	{"each day", "daily at 22:00", "UTC", "2026-11-23T21:59:59Z", []string{"2026-11-23T22:00:00Z", "2026-11-24T22:00:00Z"}},
	{"strictly after", "daily at 22:00", "UTC", "2026-11-23T22:00:00Z", []string{"2026-11-24T22:00:00Z"}},
	{"several times, any order", "Daily at 18:00, 6:00", "UTC", "2026-11-23T00:00:00Z", []string{"2026-11-23T06:00:00Z", "2026-11-23T18:00:00Z", "2026-11-24T06:00:00Z"}},
	{"days of the week", "weekly on mon,fri at 22:00", "UTC", "2026-11-23T22:00:00Z", []string{"2026-11-27T22:00:00Z", "2026-11-30T22:00:00Z"}},
	{"a range over the week's end", "weekly on sat-mon at 01:00", "UTC", "2026-11-24T00:00:00Z", []string{"2026-11-28T01:00:00Z", "2026-11-29T01:00:00Z", "2026-11-30T01:00:00Z", "2026-12-05T01:00:00Z"}},
	{"weekends", "weekly on weekends at 12:00", "UTC", "2026-11-23T00:00:00Z", []string{"2026-11-28T12:00:00Z", "2026-11-29T12:00:00Z"}},
	{"last Friday of the month", "monthly on last friday at 23:00", "UTC", "2026-11-23T00:00:00Z", []string{"2026-11-27T23:00:00Z", "2026-12-25T23:00:00Z", "2027-01-29T23:00:00Z"}},
	{"second Tuesday", "monthly on 2nd tue at 03:00", "UTC", "2026-11-23T00:00:00Z", []string{"2026-12-08T03:00:00Z", "2027-01-12T03:00:00Z"}},
	{"the 31st of shorter months", "monthly on day 31 at 12:00", "UTC", "2027-01-31T12:00:00Z", []string{"2027-02-28T12:00:00Z", "2027-03-31T12:00:00Z", "2027-04-30T12:00:00Z"}},
	{"last day of a leap year's February", "monthly on last day at 12:00", "UTC", "2028-02-01T00:00:00Z", []string{"2028-02-29T12:00:00Z"}},
	{"every half hour", "every 30 minutes", "UTC", "2026-11-23T10:31:00Z", []string{"2026-11-23T11:00:00Z", "2026-11-23T11:30:00Z"}},
	{"what does not divide a day begins anew at midnight", "every 7h", "UTC", "2026-11-23T14:00:00Z", []string{"2026-11-23T21:00:00Z", "2026-11-24T00:00:00Z", "2026-11-24T07:00:00Z"}},
	{"cron on weekdays", "15 2 * * 1-5", "UTC", "2026-11-27T03:00:00Z", []string{"2026-11-30T02:15:00Z", "2026-12-01T02:15:00Z"}},
	{"cron with names and steps", "*/20 8-9 * dec mon", "UTC", "2026-11-23T00:00:00Z", []string{"2026-12-07T08:00:00Z", "2026-12-07T08:20:00Z", "2026-12-07T08:40:00Z", "2026-12-07T09:00:00Z"}},
	{"cron's Sunday is 0 and 7", "0 0 * * 7", "UTC", "2026-11-23T00:00:00Z", []string{"2026-11-29T00:00:00Z"}},
	{"cron takes either kind of day where both are said", "0 0 13 * fri", "UTC", "2026-11-07T00:00:00Z", []string{"2026-11-13T00:00:00Z", "2026-11-20T00:00:00Z", "2026-11-27T00:00:00Z", "2026-12-04T00:00:00Z", "2026-12-11T00:00:00Z", "2026-12-13T00:00:00Z"}},
	{"cron's February 29th skips 2100", "0 0 29 2 *", "UTC", "2096-03-01T00:00:00Z", []string{"2104-02-29T00:00:00Z"}},

	{"Berlin ahead: 02:30 is skipped, the run is at the moment after", "daily at 02:30", "Europe/Berlin", "2026-03-28T12:00:00Z",
		[]string{"2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"}},
	{"Berlin ahead: 02:30 and 03:00 are one run", "daily at 02:30,03:00", "Europe/Berlin", "2026-03-28T12:00:00Z",
		[]string{"2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00", "2026-03-30T03:00:00+02:00"}},
	{"Berlin ahead: six skipped ones are one run", "*/10 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z",
		[]string{"2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00"}},
	{"Berlin ahead: every hour that passes", "0 * * * *", "Europe/Berlin", "2026-03-29T00:30:00+01:00",
		[]string{"2026-03-29T01:00:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-29T04:00:00+02:00"}},
	{"Berlin ahead: every 4 hours, on a day of 23", "every 4h", "Europe/Berlin", "2026-03-29T00:00:00+01:00",
		[]string{"2026-03-29T05:00:00+02:00", "2026-03-29T09:00:00+02:00", "2026-03-29T13:00:00+02:00", "2026-03-29T17:00:00+02:00", "2026-03-29T21:00:00+02:00", "2026-03-30T00:00:00+02:00"}},
	{"Berlin back: 02:30 comes twice, the run is at the first", "daily at 02:30", "Europe/Berlin", "2026-10-24T12:00:00Z",
		[]string{"2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"}},
	{"Berlin back: asked between the two", "daily at 02:30", "Europe/Berlin", "2026-10-25T02:10:00+01:00",
		[]string{"2026-10-26T02:30:00+01:00"}},
	{"Berlin back: every hour that passes", "30 * * * *", "Europe/Berlin", "2026-10-25T01:45:00+02:00",
		[]string{"2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00", "2026-10-25T03:30:00+01:00"}},
	{"Berlin back: every 12 hours, on a day of 25", "every 12 hours", "Europe/Berlin", "2026-10-25T00:00:00+02:00",
		[]string{"2026-10-25T11:00:00+01:00", "2026-10-25T23:00:00+01:00", "2026-10-26T00:00:00+01:00"}},
	{"New York back, hour 1", "30 1 * * *", "America/New_York", "2026-11-01T00:00:00-04:00",
		[]string{"2026-11-01T01:30:00-04:00", "2026-11-02T01:30:00-05:00"}},
	{"Lord Howe ahead by half an hour", "daily at 02:15", "Australia/Lord_Howe", "2026-10-03T12:00:00+10:30",
		[]string{"2026-10-04T02:30:00+11:00", "2026-10-05T02:15:00+11:00"}},
	{"Lord Howe back by half an hour", "daily at 01:45", "Australia/Lord_Howe", "2026-04-05T00:00:00+11:00",
		[]string{"2026-04-05T01:45:00+11:00", "2026-04-06T01:45:00+10:30"}},
	{"Santiago has no midnight on the day it goes ahead", "daily at 00:00", "America/Santiago", "2026-09-05T12:00:00-04:00",
		[]string{"2026-09-06T01:00:00-03:00", "2026-09-07T00:00:00-03:00"}},
	{"Apia had no December 30th in 2011", "daily at 22:00", "Pacific/Apia", "2011-12-29T12:00:00-10:00",
		[]string{"2011-12-29T22:00:00-10:00", "2011-12-31T00:00:00+14:00", "2011-12-31T22:00:00+14:00"}},
	{"St. John's was put back over midnight", "daily at 23:30", "America/St_Johns", "2010-11-06T12:00:00-02:30",
		[]string{"2010-11-06T23:30:00-02:30", "2010-11-07T23:30:00-03:30"}},
}

func TestNext(t *testing.T) {
	for _, c := range runs {
		t.Run(c.name, func(t *testing.T) {
			s, err := Parse(c.text, zone(t, c.zone))
			require.NoError(t, err)
			at, err := time.Parse(time.RFC3339, c.after)
			require.NoError(t, err)
			for _, want := range c.want {
				next, ok := s.Next(at)
				require.True(t, ok)
				require.Equal(t, want, next.Format(time.RFC3339))
				last, ok := s.Last(next)
				require.True(t, ok)
				require.True(t, last.Equal(next), "the last one by then is %s", last)
				before, ok := s.Last(next.Add(-1))
				require.True(t, ok)
				require.False(t, before.After(at), "%s lies between %s and %s", before, at, next)
				at = next
			}
		})
	}
}

// Nothing is doubled and nothing lost over years of changes: a schedule of one time has one run for each day of the calendar.
func TestOneRunForEachDay(t *testing.T) {
	for _, name := range []string{"Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Santiago", "Africa/Casablanca", "Asia/Kathmandu", "Africa/Cairo"} {
		for _, text := range []string{"daily at 00:00", "daily at 00:30", "daily at 01:45", "daily at 02:30", "daily at 23:59"} {
			z := zone(t, name)
			s, err := Parse(text, z)
			require.NoError(t, err)
			at := time.Date(2024, 1, 1, 0, 0, 0, 0, z).Add(-time.Second)
			end, days := time.Date(2027, 1, 1, 0, 0, 0, 0, z), map[time.Time]int{}
			for {
				next, ok := s.Next(at)
				require.True(t, ok)
				require.True(t, next.After(at))
				if at = next; !at.Before(end) {
					break
				}
				days[date(at, z)]++
			}
			require.Len(t, days, 366+365+365, "%s in %s", text, name)
			for day, n := range days {
				require.Equal(t, 1, n, "%s in %s on %s", text, name, day)
			}
		}
	}
}

// A cron line with * for hours is what a clock on the wall shows, minute by minute: the oracle walks through all of them.
func TestEveryMinuteOfAChange(t *testing.T) {
	z := zone(t, "Europe/Berlin")
	s, err := Parse("7,37 * * * *", z)
	require.NoError(t, err)
	for _, day := range []time.Time{time.Date(2026, 3, 28, 20, 0, 0, 0, z), time.Date(2026, 10, 24, 20, 0, 0, 0, z)} {
		at := day
		for m := day.Add(time.Minute); m.Before(day.Add(12 * time.Hour)); m = m.Add(time.Minute) {
			if m.Minute() != 7 && m.Minute() != 37 {
				continue
			}
			next, ok := s.Next(at)
			require.True(t, ok)
			require.True(t, next.Equal(m), "%s, and the clock showed it at %s", next, m)
			at = next
		}
	}
}

func TestNextAndLastAgree(t *testing.T) {
	texts := []string{"daily at 02:30", "weekly on sun at 02:15", "every 50 minutes", "*/15 * * * *", "5 0,12 * * 1", "monthly on last sunday at 02:30"}
	zones := []string{"Europe/Berlin", "America/St_Johns", "Pacific/Apia", "Australia/Lord_Howe", "UTC"}
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.SampledFrom(texts).Draw(t, "text")
		z, err := time.LoadLocation(rapid.SampledFrom(zones).Draw(t, "zone"))
		require.NoError(t, err)
		s, err := Parse(text, z)
		require.NoError(t, err)
		at := time.Unix(rapid.Int64Range(1_200_000_000, 2_000_000_000).Draw(t, "at"), 0)
		next, ok := s.Next(at)
		require.True(t, ok)
		require.True(t, next.After(at))
		back, ok := s.Last(next)
		require.True(t, ok)
		require.True(t, back.Equal(next))
		last, ok := s.Last(at)
		require.True(t, ok)
		require.False(t, last.After(at))
		again, ok := s.Next(last)
		require.True(t, ok)
		require.True(t, again.Equal(next), "%s follows %s, and %s follows %s", again, last, next, at)
	})
}

func TestBadSchedules(t *testing.T) {
	for text, want := range map[string]string{
		"":                               "says nothing",
		"nightly":                        "is no schedule",
		"daily":                          "at what time",
		"daily at 25:00":                 "no time from 00:00",
		"daily at 24:00":                 "no time from 00:00",
		"daily at 22.00":                 "no time from 00:00",
		"daily at 9pm":                   "no time from 00:00",
		"weekly at 22:00":                "on which day",
		"weekly on funday at 22:00":      "no day of the week",
		"monthly on day 32 at 22:00":     "none from 1 to 31",
		"monthly on fifth mon at 22:00":  "is not day, first",
		"monthly on last noday at 1:00":  "no day of the week",
		"every 0 minutes":                "not a time from 1 minute",
		"every 25 hours":                 "not a time from 1 minute",
		"every 5 seconds":                "not a time from 1 minute",
		"every":                          "how often",
		"0 22 * *":                       "is no schedule",
		"0 24 * * *":                     "hour",
		"60 1 * * *":                     "minute",
		"0 1 * * 8":                      "day of the week",
		"0 1 0 * *":                      "day of the month",
		"*/0 1 * * *":                    "the step",
		"5-1 1 * * *":                    "no number or range",
		"0 0 31 feb *":                   "never comes",
		"0 0 31 2,4,6,9,11 *":            "never comes",
		strings.Repeat("1,", 500) + "1 ": "longer than",
	} {
		_, err := Parse(text, nil)
		var e *Error
		require.ErrorAs(t, err, &e, text)
		assert.Contains(t, e.Error(), want, text)
	}
}

func TestDue(t *testing.T) {
	z := zone(t, "Europe/Berlin")
	daily, err := Parse("daily at 22:00", z)
	require.NoError(t, err)
	noon, err := Parse("weekly on tue at 12:00", z)
	require.NoError(t, err)
	set := Set{daily, noon}
	day := func(d, h int) time.Time { return time.Date(2026, 11, d, h, 0, 0, 0, z) }
	for _, c := range []struct {
		name      string
		last, now time.Time
		catchUp   time.Duration
		want      time.Time
	}{
		{"nothing ever ran", time.Time{}, day(23, 23), 24 * time.Hour, time.Time{}},
		{"on time", day(22, 22), day(23, 22), 0, day(23, 22)},
		{"late, and nobody makes up", day(22, 22), day(23, 23), 0, time.Time{}},
		{"late by less than is made up for", day(22, 22), day(23, 23), 6 * time.Hour, day(23, 22)},
		{"three missed are one", day(21, 22), day(24, 13), 6 * time.Hour, day(24, 12)},
		{"too late", day(21, 22), day(23, 21), 6 * time.Hour, time.Time{}},
		{"done already", day(23, 22), day(23, 23), 6 * time.Hour, time.Time{}},
		{"a clock that was put back", day(25, 22), day(23, 23), 6 * time.Hour, time.Time{}},
	} {
		at, due := set.Due(c.last, c.now, c.catchUp)
		assert.Equal(t, !c.want.IsZero(), due, c.name)
		assert.True(t, at.Equal(c.want), "%s: %s", c.name, at)
	}
	next, ok := set.Next(day(23, 22))
	require.True(t, ok)
	assert.True(t, next.Equal(day(24, 12)))
	_, ok = Set{}.Next(day(1, 1))
	assert.False(t, ok)
	_, ok = Schedule{}.Next(day(1, 1))
	assert.False(t, ok)
}

func FuzzParse(f *testing.F) {
	for _, c := range runs {
		f.Add(c.text)
	}
	f.Add("0 0 31 2 *")
	f.Add("every 1 minute")
	at := time.Date(2026, 3, 28, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text, nil)
		if err != nil {
			return
		}
		again, err := Parse(s.String(), nil)
		require.NoError(t, err, "%q became %q", text, s)
		a, okA := s.Next(at)
		b, okB := again.Next(at)
		require.True(t, okA && okB && a.Equal(b) && a.After(at), "%q", text)
	})
}
