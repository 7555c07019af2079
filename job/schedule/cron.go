package schedule

import (
	"strconv"
	"strings"
	"time"
)

// field is one of the five of a cron line.
type field struct {
	name        string
	least, most int
	names       []string // of the values from least on, by their first three letters
}

var cronFields = [5]field{
	{"minute", 0, 59, nil},
	{"hour", 0, 23, nil},
	{"day of the month", 1, 31, nil},
	{"month", 1, 12, []string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}},
	{"day of the week", 0, 7, []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun"}},
}

// cron reads five fields. Where both kinds of days are said, either is enough, as in every cron.
func cron(text string, words []string) (Schedule, *Error) {
	if len(words) != 5 || strings.Trim(words[0], "0123456789*/,-") != "" {
		return Schedule{}, bad(text, examples, "is no schedule")
	}
	var sets [5]map[int]bool
	for i, f := range cronFields {
		set, err := f.parse(text, words[i])
		if err != nil {
			return Schedule{}, err
		}
		sets[i] = set
	}
	days, months, week := sets[2], sets[3], sets[4]
	if week[7] {
		week[0] = true
	}
	either := !strings.HasPrefix(words[2], "*") && !strings.HasPrefix(words[4], "*")
	s := Schedule{each: words[1] == "*", on: func(day time.Time) bool {
		byDate, byWeek := days[day.Day()], week[int(day.Weekday())]
		return months[int(day.Month())] && (byDate && byWeek || either && (byDate || byWeek))
	}}
	for m := range endOfDay {
		if sets[1][m/60] && sets[0][m%60] {
			s.minutes = append(s.minutes, m)
		}
	}
	return s, nil
}

// parse reads a list of values, ranges and steps.
func (f field) parse(text, s string) (map[int]bool, *Error) {
	set := map[int]bool{}
	for part := range strings.SplitSeq(s, ",") {
		span, stepText, stepped := strings.Cut(part, "/")
		step := 1
		if stepped {
			var err error
			if step, err = strconv.Atoi(stepText); err != nil || step < 1 || step > f.most {
				return nil, bad(text, "", "%s %q: the step after / is no number from 1 to %d", f.name, part, f.most)
			}
		}
		from, to, err := f.span(text, span, stepped)
		if err != nil {
			return nil, err
		}
		for v := from; v <= to; v += step {
			set[v] = true
		}
	}
	return set, nil
}

// span reads *, a value, or a range. A value with a step goes on to the end.
func (f field) span(text, s string, stepped bool) (from, to int, err *Error) {
	if s == "*" {
		return f.least, f.most, nil
	}
	a, b, isRange := strings.Cut(s, "-")
	from, ok := f.value(a)
	to = from
	switch {
	case isRange:
		var okToo bool
		to, okToo = f.value(b)
		ok = ok && okToo && from <= to
	case stepped:
		to = f.most
	}
	if !ok {
		return 0, 0, bad(text, "", "%s %q is no number or range from %d to %d", f.name, s, f.least, f.most)
	}
	return from, to, nil
}

func (f field) value(s string) (int, bool) {
	for i, name := range f.names {
		if s == name {
			return f.least + i, true
		}
	}
	if s == "" || len(s) > 2 || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, _ := strconv.Atoi(s)
	return n, n >= f.least && n <= f.most
}
