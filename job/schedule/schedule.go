package schedule

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Schedule is when something happens again and again. The zero value never happens.
type Schedule struct {
	text string
	zone *time.Location

	every   time.Duration            // from each midnight; 0: by the clock, as follows
	minutes []int                    // of the day, ascending
	on      func(day time.Time) bool // whether that day, midnight of UTC, is one
	each    bool                     // every hour that passes counts
}

const (
	maxText  = 256 // bytes
	maxTimes = 96  // in one schedule
	// horizon is how far ahead a day is looked for. A February 29th is at most eight years away.
	horizon = 9 * 366
)

// Error says what is wrong with the text of a schedule or a window, and what to write.
type Error struct {
	Text   string // what was read
	Reason string
	Hint   string
}

func (e *Error) Error() string { return fmt.Sprintf("%q: %s", e.Text, e.Reason) }

func bad(text, hint, format string, args ...any) *Error {
	return &Error{Text: text[:min(len(text), maxText)], Reason: fmt.Sprintf(format, args...), Hint: hint}
}

const examples = `Write "daily at 22:00", "weekly on mon,fri at 22:00", "monthly on last friday at 22:00", "every 30 minutes", or a cron line "0 22 * * 1-5".`

// Parse reads a schedule; see the package for what there is. A nil zone is UTC. Errors are [*Error].
func Parse(text string, zone *time.Location) (Schedule, error) {
	if zone == nil {
		zone = time.UTC
	}
	if len(text) > maxText {
		return Schedule{}, bad(text, examples, "is longer than %d bytes", maxText)
	}
	words := strings.Fields(strings.ToLower(text))
	if len(words) == 0 {
		return Schedule{}, bad(text, examples, "says nothing")
	}
	var s Schedule
	var err *Error
	switch words[0] {
	case "daily":
		s, err = daily(text, words[1:])
	case "weekly":
		s, err = weekly(text, words[1:])
	case "monthly":
		s, err = monthly(text, words[1:])
	case "every":
		s, err = every(text, words[1:])
	default:
		s, err = cron(text, words)
	}
	if err != nil {
		return Schedule{}, err
	}
	s.text, s.zone = strings.Join(words, " "), zone
	if _, ok := s.Next(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)); !ok {
		return Schedule{}, bad(text, "", "never comes: there is no such day")
	}
	return s, nil
}

// String is what [Parse] reads.
func (s Schedule) String() string { return s.text }

// Next is the first time after t, in the schedule's zone. It is false where there is none.
func (s Schedule) Next(t time.Time) (time.Time, bool) {
	if s.every > 0 {
		return s.nextOfEvery(t), true
	}
	if s.on == nil {
		return time.Time{}, false
	}
	// Two days early, for zones that were put back over midnight; two days late, as an hour that is shown twice may end after the
	// next day has begun.
	day := date(t, s.zone).AddDate(0, 0, -2)
	for range horizon {
		var found time.Time
		for ahead := range 3 {
			for _, at := range s.timesOf(day.AddDate(0, 0, ahead)) {
				if at.After(t) && (found.IsZero() || at.Before(found)) {
					found = at
				}
			}
			if ahead == 0 && found.IsZero() {
				break
			}
		}
		if !found.IsZero() {
			return found, true
		}
		day = day.AddDate(0, 0, 1)
	}
	return time.Time{}, false
}

// Last is the last time that is not after t. It is false where there was none in the years before.
func (s Schedule) Last(t time.Time) (time.Time, bool) {
	if s.every > 0 {
		return s.lastOfEvery(t), true
	}
	if s.on == nil {
		return time.Time{}, false
	}
	day := date(t, s.zone).AddDate(0, 0, 2)
	for range horizon {
		var found time.Time
		for back := range 3 {
			for _, at := range s.timesOf(day.AddDate(0, 0, -back)) {
				if !at.After(t) && at.After(found) {
					found = at
				}
			}
			if back == 0 && found.IsZero() {
				break
			}
		}
		if !found.IsZero() {
			return found, true
		}
		day = day.AddDate(0, 0, -1)
	}
	return time.Time{}, false
}

// timesOf are the instants that belong to a day, ascending.
func (s Schedule) timesOf(day time.Time) (out []time.Time) {
	if !s.on(day) {
		return nil
	}
	for _, m := range s.minutes {
		wall := minutesAfter(day, m)
		if !s.each {
			out = append(out, moment(wall, s.zone))
			continue
		}
		shown, _ := moments(wall, s.zone)
		out = append(out, shown...)
	}
	slices.SortFunc(out, time.Time.Compare)
	return out
}

func (s Schedule) nextOfEvery(t time.Time) time.Time {
	begin, end := s.dayOf(t)
	next := begin.Add((t.Sub(begin)/s.every + 1) * s.every)
	if next.Before(end) {
		return next
	}
	return end
}

func (s Schedule) lastOfEvery(t time.Time) time.Time {
	begin, _ := s.dayOf(t)
	return begin.Add(t.Sub(begin) / s.every * s.every)
}

// dayOf are the midnights around t: the last that is not after it, and the one that follows.
func (s Schedule) dayOf(t time.Time) (begin, end time.Time) {
	day := date(t, s.zone).AddDate(0, 0, 2)
	end = moment(day, s.zone)
	for {
		day = day.AddDate(0, 0, -1)
		if begin = moment(day, s.zone); !begin.After(t) {
			return begin, end
		}
		end = begin
	}
}
