package schedule

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Worked out by hand, as the runs are.
var windows = []struct {
	name  string
	spans string // with semicolons between
	zone  string
	now   string
	open  bool
	until string
}{
	{"before a night", "22:00-06:00", "UTC", "2026-11-23T21:59:59Z", false, "2026-11-23T22:00:00Z"},
	{"its first moment is in it", "22:00-06:00", "UTC", "2026-11-23T22:00:00Z", true, "2026-11-24T06:00:00Z"},
	{"after midnight", "22:00-06:00", "UTC", "2026-11-24T05:59:59Z", true, "2026-11-24T06:00:00Z"},
	{"its end is not in it", "22:00-06:00", "UTC", "2026-11-24T06:00:00Z", false, "2026-11-24T22:00:00Z"},
	{"a night belongs to the day it begins on", "fri 22:00-06:00", "UTC", "2026-11-28T03:00:00Z", true, "2026-11-28T06:00:00Z"},
	{"and not to the one it ends on", "fri 22:00-06:00", "UTC", "2026-11-27T03:00:00Z", false, "2026-11-27T22:00:00Z"},
	{"nights and a weekend are one", "mon-fri 20:00-06:00; sat,sun", "UTC", "2026-11-27T21:00:00Z", true, "2026-11-30T00:00:00Z"},
	{"a weekend, from the Monday after", "mon-fri 20:00-06:00; sat,sun", "UTC", "2026-11-30T00:00:00Z", false, "2026-11-30T20:00:00Z"},
	{"all week never closes", "00:00-24:00", "UTC", "2026-11-30T00:00:00Z", true, ""},
	{"nothing said never closes", "", "UTC", "2026-11-30T00:00:00Z", true, ""},
	{"once a week, just over", "wed 10:00-11:00", "UTC", "2026-11-25T11:00:00Z", false, "2026-12-02T10:00:00Z"},

	{"Berlin ahead: seven hours", "22:00-06:00", "Europe/Berlin", "2026-03-28T22:00:00+01:00", true, "2026-03-29T06:00:00+02:00"},
	{"Berlin back: nine hours", "22:00-06:00", "Europe/Berlin", "2026-10-24T22:00:00+02:00", true, "2026-10-25T06:00:00+01:00"},
	{"Berlin ahead: it opens after the gap", "02:30-04:00", "Europe/Berlin", "2026-03-29T01:30:00+01:00", false, "2026-03-29T03:00:00+02:00"},
	{"Berlin ahead: it closes at the gap", "00:00-02:30", "Europe/Berlin", "2026-03-29T01:30:00+01:00", true, "2026-03-29T03:00:00+02:00"},
	{"Berlin ahead: one within the gap is none", "02:10-02:50", "Europe/Berlin", "2026-03-29T01:30:00+01:00", false, "2026-03-30T02:10:00+02:00"},
	{"Berlin ahead: once a week within the gap waits a week", "sun 02:10-02:50", "Europe/Berlin", "2026-03-29T01:30:00+01:00", false, "2026-04-05T02:10:00+02:00"},
	{"Berlin back: it opens at the first 02:30", "02:30-04:00", "Europe/Berlin", "2026-10-25T02:10:00+02:00", false, "2026-10-25T02:30:00+02:00"},
	{"Berlin back: it stays open over the second", "02:30-04:00", "Europe/Berlin", "2026-10-25T02:10:00+01:00", true, "2026-10-25T04:00:00+01:00"},
	{"Berlin back: it closes at the first 02:30", "00:00-02:30", "Europe/Berlin", "2026-10-25T02:29:00+02:00", true, "2026-10-25T02:30:00+02:00"},
	{"Berlin back: and is closed at the second", "00:00-02:30", "Europe/Berlin", "2026-10-25T02:10:00+01:00", false, "2026-10-26T00:00:00+01:00"},
}

func split(spans string) []string {
	if spans == "" {
		return nil
	}
	return strings.Split(spans, ";")
}

func TestWindow(t *testing.T) {
	for _, c := range windows {
		t.Run(c.name, func(t *testing.T) {
			w, err := ParseWindow(split(c.spans), zone(t, c.zone))
			require.NoError(t, err)
			now, err := time.Parse(time.RFC3339, c.now)
			require.NoError(t, err)
			open, changes := w.At(now)
			until := ""
			if !changes.IsZero() {
				until = changes.Format(time.RFC3339)
			}
			require.Equal(t, c.open, open)
			require.Equal(t, c.until, until)
		})
	}
}

// What At says of a moment holds at every minute until then, and not at that one.
func TestWindowOverAYear(t *testing.T) {
	for _, c := range []struct{ spans, zone string }{{"mon-fri 20:00-02:30; sat", "Europe/Berlin"}, {"02:15-02:45;sun 23:00-01:30", "Australia/Lord_Howe"}} {
		w, err := ParseWindow(split(c.spans), zone(t, c.zone))
		require.NoError(t, err)
		at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		open, changes := w.At(at)
		for at.Year() < 2027 {
			require.True(t, changes.After(at))
			for _, between := range []time.Time{at.Add(changes.Sub(at) / 2), changes.Add(-time.Nanosecond)} {
				same, _ := w.At(between)
				require.Equal(t, open, same, between)
			}
			at = changes
			was := open
			open, changes = w.At(at)
			require.NotEqual(t, was, open, at)
		}
	}
}

func TestBadWindows(t *testing.T) {
	for text, want := range map[string]string{
		"":            "is no span",
		"night":       "no day of the week",
		"22:00":       "two times",
		"22:00-25:00": "two times",
		"24:00-06:00": "two times",
		"22:00-22:00": "same time",
		"mon-xyz":     "no day of the week",
	} {
		_, err := ParseWindow([]string{text}, nil)
		var e *Error
		require.ErrorAs(t, err, &e, text)
		assert.Contains(t, e.Error(), want, text)
	}
	_, err := ParseWindow(make([]string, maxSpans+1), nil)
	require.ErrorContains(t, err, "too many")
	w, err := ParseWindow([]string{"Mon-Fri  20:00 - 06:00", "sat"}, nil)
	require.NoError(t, err)
	assert.Equal(t, "mon-fri 20:00 - 06:00; sat", w.String())
	assert.True(t, Window{}.Always())
	assert.Equal(t, "always", Window{}.String())
}
