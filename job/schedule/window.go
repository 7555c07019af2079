package schedule

import (
	"slices"
	"strings"
	"time"
)

// Window is when work may be started. The zero Window is always open.
type Window struct {
	zone  *time.Location
	spans []weekSpan
	texts []string
}

// weekSpan is a part of some days: minutes from their midnight, the end up to a day later.
type weekSpan struct {
	days     week
	from, to int
}

const (
	maxSpans = 64
	// ahead is how many days are looked at for the next border. A span of one day of the week that falls into a gap comes again a week later.
	ahead = 16
)

const windowHint = `Write "22:00-06:00", "mon-fri 20:00-06:00" or "sat,sun".`

// ParseWindow reads spans of the week; see the package. No spans are a window that is always open. A nil zone is UTC. Errors are
// [*Error].
func ParseWindow(spans []string, zone *time.Location) (Window, error) {
	if zone == nil {
		zone = time.UTC
	}
	w := Window{zone: zone}
	if len(spans) > maxSpans {
		return Window{}, bad(spans[maxSpans], "", "is one span too many: at most %d", maxSpans)
	}
	for _, text := range spans {
		s, err := parseSpan(text)
		if err != nil {
			return Window{}, err
		}
		w.spans = append(w.spans, s)
		w.texts = append(w.texts, strings.Join(strings.Fields(strings.ToLower(text)), " "))
	}
	return w, nil
}

func parseSpan(text string) (weekSpan, *Error) {
	s := weekSpan{days: week{true, true, true, true, true, true, true}, to: endOfDay}
	words := strings.Fields(strings.ReplaceAll(strings.ToLower(text), " - ", "-"))
	if len(text) > maxText || len(words) == 0 {
		return s, bad(text, windowHint, "is no span of the week")
	}
	last := words[len(words)-1]
	if strings.Contains(last, ":") {
		words = words[:len(words)-1]
		a, b, ok := strings.Cut(last, "-")
		from, okFrom := parseTime(a)
		to, okTo := parseTime(b)
		if !ok || !okFrom || !okTo || from == endOfDay {
			return s, bad(text, windowHint, "%q is not two times from 00:00 to 24:00 with a dash between", last)
		}
		if from == to {
			return s, bad(text, `A whole day is "00:00-24:00", or only the name of the day.`, "begins and ends at the same time")
		}
		if to < from {
			to += endOfDay
		}
		s.from, s.to = from, to
	}
	if len(words) == 0 {
		return s, nil
	}
	var err *Error
	s.days, err = parseDays(text, strings.Join(words, ""))
	return s, err
}

// String is the spans, with commas between.
func (w Window) String() string {
	if len(w.texts) == 0 {
		return "always"
	}
	return strings.Join(w.texts, "; ")
}

// Always reports whether the window never closes because nothing was said.
func (w Window) Always() bool { return len(w.spans) == 0 }

// At says whether the window is open, and when that changes next. The zero time is never: it is open all week.
//
// Its shape is what job/engine takes as Options.Window.
func (w Window) At(now time.Time) (open bool, changes time.Time) {
	if w.Always() {
		return true, time.Time{}
	}
	list := w.intervals(now)
	i := slices.IndexFunc(list, func(x interval) bool { return x.end.After(now) })
	if i < 0 {
		return false, time.Time{}
	}
	if list[i].start.After(now) {
		return false, list[i].start
	}
	if end := list[i].end; end.Before(moment(date(now, w.zone).AddDate(0, 0, ahead), w.zone)) {
		return true, end
	}
	return true, time.Time{}
}

type interval struct{ start, end time.Time }

// intervals are when the window is open from two days ago on, ascending, with those joined that touch.
func (w Window) intervals(now time.Time) []interval {
	var list []interval
	today := date(now, w.zone)
	for n := -2; n <= ahead; n++ {
		day := today.AddDate(0, 0, n)
		for _, s := range w.spans {
			if !s.days[day.Weekday()] {
				continue
			}
			x := interval{moment(minutesAfter(day, s.from), w.zone), moment(minutesAfter(day, s.to), w.zone)}
			if x.start.Before(x.end) {
				list = append(list, x)
			}
		}
	}
	slices.SortFunc(list, func(a, b interval) int { return a.start.Compare(b.start) })
	var out []interval
	for _, x := range list {
		if n := len(out); n > 0 && !x.start.After(out[n-1].end) {
			if x.end.After(out[n-1].end) {
				out[n-1].end = x.end
			}
			continue
		}
		out = append(out, x)
	}
	return out
}
