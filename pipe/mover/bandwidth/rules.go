package bandwidth

import (
	"fmt"
	"time"
)

// Limits are bounds in bytes per second, each for one direction. Zero and less is no bound.
type Limits struct {
	Total         int64 // all sessions together
	PerSession    int64 // each session, all its connections together
	PerConnection int64
}

// none: nothing is limited.
func (l Limits) none() bool { return l.Total <= 0 && l.PerSession <= 0 && l.PerConnection <= 0 }

// Rules say which limits hold when. The zero value limits nothing.
type Rules struct {
	Limits            // where no window says otherwise
	Windows  []Window // the first that contains the moment replaces Limits as a whole
	Location *time.Location
}

// Window is a span of the day on some weekdays, with limits of its own.
type Window struct {
	Days     Days   // on which the window begins; zero: every day
	From, To Minute // To is the first minute after it. From after To: it ends on the next day. Both zero: the whole day
	Limits
}

// At is what holds at a moment, by the clock of r.Location, by default the machine's.
func (r Rules) At(t time.Time) Limits {
	loc := r.Location
	if loc == nil {
		loc = time.Local
	}
	t = t.In(loc)
	for _, w := range r.Windows {
		if w.contains(t) {
			return w.Limits
		}
	}
	return r.Limits
}

// contains reads the clock as it hangs on the wall: t is in the rules' location.
func (w Window) contains(t time.Time) bool {
	now, day := Minute(t.Hour()*60+t.Minute()), t.Weekday()
	if w.From == w.To {
		return w.Days.has(day)
	}
	if w.From < w.To {
		return w.Days.has(day) && w.From <= now && now < w.To
	}
	yesterday := (day + 6) % 7
	return w.Days.has(day) && now >= w.From || w.Days.has(yesterday) && now < w.To
}

// Minute is a time of day, in minutes after midnight as the clock shows them: 0 to 1,440.
type Minute int

const fullDay Minute = 24 * 60

// String is HH:MM.
func (m Minute) String() string { return fmt.Sprintf("%02d:%02d", int(m)/60, int(m)%60) }

// Days is a set of weekdays.
type Days uint8

// On is the set of the given weekdays.
func On(days ...time.Weekday) Days {
	var d Days
	for _, day := range days {
		d |= 1 << (uint(day) % 7)
	}
	return d
}

const everyDay Days = 1<<7 - 1

func (d Days) has(day time.Weekday) bool { return d == 0 || d&(1<<uint(day)) != 0 }
