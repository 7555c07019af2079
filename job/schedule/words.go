package schedule

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// always is every day.
func always(time.Time) bool { return true }

// daily reads "at 06:00, 18:00".
func daily(text string, words []string) (Schedule, *Error) {
	minutes, err := timesAt(text, words)
	return Schedule{minutes: minutes, on: always}, err
}

// weekly reads "on mon-fri at 22:00".
func weekly(text string, words []string) (Schedule, *Error) {
	what, rest, err := onAt(text, words, "weekly on mon,fri at 22:00")
	if err != nil {
		return Schedule{}, err
	}
	days, err := parseDays(text, what)
	if err != nil {
		return Schedule{}, err
	}
	minutes, err := timesAt(text, rest)
	return Schedule{minutes: minutes, on: func(day time.Time) bool { return days[day.Weekday()] }}, err
}

// monthly reads "on last friday at 22:00".
func monthly(text string, words []string) (Schedule, *Error) {
	what, rest, err := onAt(text, words, "monthly on last friday at 22:00")
	if err != nil {
		return Schedule{}, err
	}
	on, err := dayOfMonth(text, strings.Fields(what))
	if err != nil {
		return Schedule{}, err
	}
	minutes, err := timesAt(text, rest)
	return Schedule{minutes: minutes, on: on}, err
}

var ordinals = map[string]int{"first": 1, "1st": 1, "second": 2, "2nd": 2, "third": 3, "3rd": 3, "fourth": 4, "4th": 4, "last": -1}

const monthlyHint = `Write "monthly on day 1 at 22:00", "monthly on last day at 22:00" or "monthly on first sunday at 22:00".`

func dayOfMonth(text string, words []string) (func(time.Time) bool, *Error) {
	if len(words) != 2 {
		return nil, bad(text, monthlyHint, "does not say which day of the month")
	}
	if words[0] == "day" {
		n, err := strconv.Atoi(words[1])
		if err != nil || n < 1 || n > 31 {
			return nil, bad(text, monthlyHint, "day %s is none from 1 to 31", words[1])
		}
		return func(day time.Time) bool { return day.Day() == min(n, lastDay(day)) }, nil
	}
	nth, ok := ordinals[words[0]]
	switch {
	case !ok:
		return nil, bad(text, monthlyHint, "%q is not day, first, second, third, fourth or last", words[0])
	case words[1] == "day" && nth < 0:
		return func(day time.Time) bool { return day.Day() == lastDay(day) }, nil
	case words[1] == "day":
		return func(day time.Time) bool { return day.Day() == nth }, nil
	}
	weekday, ok := weekdayNamed(words[1])
	if !ok {
		return nil, bad(text, monthlyHint, "%q is no day of the week", words[1])
	}
	return func(day time.Time) bool {
		if nth < 0 {
			return day.Weekday() == weekday && day.Day() > lastDay(day)-7
		}
		return day.Weekday() == weekday && (day.Day()-1)/7 == nth-1
	}, nil
}

func lastDay(day time.Time) int {
	return time.Date(day.Year(), day.Month()+1, 0, 0, 0, 0, 0, time.UTC).Day()
}

// onAt parts "on WHAT at …" into WHAT, and the rest from "at".
func onAt(text string, words []string, example string) (what string, rest []string, err *Error) {
	at := slices.Index(words, "at")
	if len(words) < 2 || words[0] != "on" || at < 2 {
		return "", nil, bad(text, `Write "`+example+`".`, "does not say on which day and at what time")
	}
	return strings.Join(words[1:at], " "), words[at:], nil
}

// timesAt reads "at 06:00, 18:00" into minutes of the day.
func timesAt(text string, words []string) ([]int, *Error) {
	if len(words) < 2 || words[0] != "at" {
		return nil, bad(text, `Add a time: "at 22:00".`, "does not say at what time")
	}
	var out []int
	for part := range strings.SplitSeq(strings.Join(words[1:], ""), ",") {
		m, ok := parseTime(part)
		if !ok || m == endOfDay {
			return nil, bad(text, `Write hours and minutes, such as 22:00.`, "%q is no time from 00:00 to 23:59", part)
		}
		out = append(out, m)
	}
	if len(out) > maxTimes {
		return nil, bad(text, "", "has more than %d times", maxTimes)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

const endOfDay = 24 * 60

var clock = regexp.MustCompile(`^([0-9]{1,2}):([0-9]{2})$`)

// parseTime reads 22:00 into minutes of the day; 24:00 is the end of it.
func parseTime(s string) (int, bool) {
	m := clock.FindStringSubmatch(s)
	if m == nil {
		return 0, false
	}
	hours, _ := strconv.Atoi(m[1])
	minutes, _ := strconv.Atoi(m[2])
	total := hours*60 + minutes
	return total, minutes < 60 && total <= endOfDay
}

var units = map[string]time.Duration{
	"m": time.Minute, "min": time.Minute, "minute": time.Minute, "minutes": time.Minute,
	"h": time.Hour, "hour": time.Hour, "hours": time.Hour,
}

var span = regexp.MustCompile(`^([0-9]{1,4})?([a-z]+)$`)

// every reads "30 minutes", "4h" or "hour".
func every(text string, words []string) (Schedule, *Error) {
	const hint = `Write "every 30 minutes" or "every 4 hours", up to 24 hours.`
	m := span.FindStringSubmatch(strings.Join(words, ""))
	if m == nil {
		return Schedule{}, bad(text, hint, "does not say how often")
	}
	unit, ok := units[m[2]]
	n := 1
	if m[1] != "" {
		n, _ = strconv.Atoi(m[1])
	}
	d := time.Duration(n) * unit
	if !ok || d < time.Minute || d > 24*time.Hour {
		return Schedule{}, bad(text, hint, "is not a time from 1 minute to 24 hours")
	}
	return Schedule{every: d}, nil
}

// week says which days are meant, from Sunday.
type week [7]bool

var weekdays = []string{"sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"}

func weekdayNamed(s string) (time.Weekday, bool) {
	for i, name := range weekdays {
		if s == name || s == name[:3] {
			return time.Weekday(i), true
		}
	}
	return 0, false
}

// parseDays reads "mon-fri,sun", "weekdays" or "weekends".
func parseDays(text, what string) (days week, err *Error) {
	const hint = "Days are mon, tue, wed, thu, fri, sat, sun; also mon-fri, weekdays and weekends."
	for part := range strings.SplitSeq(strings.ReplaceAll(what, " ", ""), ",") {
		switch part {
		case "weekdays":
			part = "mon-fri"
		case "weekends", "weekend":
			part = "sat-sun"
		}
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, ok := weekdayNamed(from)
		last, okToo := weekdayNamed(to)
		if !ok || !okToo {
			return days, bad(text, hint, "%q is no day of the week", part)
		}
		for d := first; ; d = (d + 1) % 7 {
			days[d] = true
			if d == last {
				break
			}
		}
	}
	return days, nil
}
