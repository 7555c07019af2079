package cim

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Datetimes come in two forms: CIM's own of 25 characters (DSP0004 5.2.4), and XML's (DSP0230 7.2.5.5).
//
//	yyyymmddHHMMSS.mmmmmmsUUU     a moment; s is + or -, UUU minutes east of Greenwich
//	ddddddddHHMMSS.mmmmmm:000     an interval
const datetimeLength = 25

func formatDateTime(t time.Time) string {
	_, seconds := t.Zone()
	sign, minutes := '+', seconds/60
	if minutes < 0 {
		sign, minutes = '-', -minutes
	}
	return fmt.Sprintf("%s.%06d%c%03d", t.Format("20060102150405"), t.Nanosecond()/1000, sign, minutes)
}

func formatInterval(d time.Duration) string {
	d = max(0, d)
	s := int64(d / time.Second)
	return fmt.Sprintf("%08d%02d%02d%02d.%06d:000", s/86400, s/3600%24, s/60%60, s%60, d%time.Second/time.Microsecond)
}

func formatXSDuration(d time.Duration) string {
	d = max(0, d)
	s := int64(d / time.Second)
	return fmt.Sprintf("P%dDT%dH%dM%d.%06dS", s/86400, s/3600%24, s/60%60, s%60, d%time.Second/time.Microsecond)
}

// digits reads a number of nothing but digits.
func digits(s string) (int, error) {
	if strings.Trim(s, "0123456789") != "" {
		return 0, fmt.Errorf("%w: %q is no number", ErrMalformed, s)
	}
	return strconv.Atoi(s)
}

func parseTime(s string) (time.Time, error) {
	bad := fmt.Errorf("%w: datetime %.40q", ErrMalformed, s)
	if len(s) == datetimeLength && s[14] == '.' && (s[21] == '+' || s[21] == '-') {
		t, err := time.Parse("20060102150405.000000", s[:21])
		minutes, err2 := digits(s[22:])
		if err != nil || err2 != nil {
			return time.Time{}, bad
		}
		if s[21] == '-' {
			minutes = -minutes
		}
		zone := time.UTC
		if minutes != 0 {
			zone = time.FixedZone("", minutes*60)
		}
		return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), zone), nil
	}
	if len(s) > 64 {
		return time.Time{}, bad
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, bad
}

// maxDays keeps an interval within what a Duration holds.
const (
	maxDays     = 100_000
	maxInterval = maxDays * 24 * time.Hour
)

func parseInterval(s string) (time.Duration, error) {
	bad := fmt.Errorf("%w: interval %.60q", ErrMalformed, s)
	if len(s) == datetimeLength && s[14] == '.' && s[21:] == ":000" {
		var parts [5]int
		for i, p := range []string{s[:8], s[8:10], s[10:12], s[12:14], s[15:21]} {
			n, err := digits(p)
			if err != nil {
				return 0, bad
			}
			parts[i] = n
		}
		if parts[0] > maxDays || parts[1] > 23 || parts[2] > 59 || parts[3] > 59 {
			return 0, bad
		}
		d := time.Duration(parts[0])*24*time.Hour + time.Duration(parts[1])*time.Hour + time.Duration(parts[2])*time.Minute +
			time.Duration(parts[3])*time.Second + time.Duration(parts[4])*time.Microsecond
		if d > maxInterval {
			return 0, bad
		}
		return d, nil
	}
	d, ok := parseXSDuration(s)
	if !ok || d > maxInterval {
		return 0, bad
	}
	return d, nil
}

// parseXSDuration reads PnDTnHnMn.nS; years and months, whose length nobody knows, only as zero.
func parseXSDuration(s string) (d time.Duration, ok bool) {
	rest, isP := strings.CutPrefix(s, "P")
	if !isP || len(s) > 64 || rest == "" {
		return 0, false
	}
	day, clock, hasClock := strings.Cut(rest, "T")
	if hasClock && clock == "" {
		return 0, false
	}
	for _, half := range []struct{ text, units string }{{day, "YMD"}, {clock, "HMS"}} {
		units := half.units
		for text := half.text; text != ""; {
			i := strings.IndexAny(text, units)
			if i < 1 {
				return 0, false
			}
			n, err := strconv.ParseFloat(text[:i], 64)
			if err != nil || n < 0 || n > maxDays*86400 || strings.Trim(text[:i], "0123456789.") != "" {
				return 0, false
			}
			each := map[string]time.Duration{"YMDD": 24 * time.Hour, "HMSH": time.Hour, "HMSM": time.Minute, "HMSS": time.Second}[half.units+text[i:i+1]]
			if each == 0 && n != 0 || n*each.Hours() > maxDays*24 {
				return 0, false
			}
			d += time.Duration(n * float64(each))
			_, units, _ = strings.Cut(units, text[i:i+1])
			text = text[i+1:]
			if units == "" && text != "" {
				return 0, false
			}
		}
	}
	return d.Round(time.Microsecond), true
}
