package schedule

import "time"

// reach is how far a zone's offset from UTC can be from another: two dates apart, as where a zone changes sides of the date line.
const reach = 30 * time.Hour

// moments are the instants at which the zone's clock shows a wall time, which is given as if it were UTC. Where it is never shown,
// skipped is the moment after the gap.
func moments(wall time.Time, zone *time.Location) (shown []time.Time, skipped time.Time) {
	for t := wall.Add(-reach); ; {
		start, end := t.In(zone).ZoneBounds()
		before := offset(t, zone)
		if at := wall.Add(-before); !at.Before(start) && (end.IsZero() || at.Before(end)) {
			shown = append(shown, at.In(zone))
		}
		if end.IsZero() || end.After(wall.Add(reach)) {
			return shown, skipped
		}
		if !wall.Before(end.UTC().Add(before)) && wall.Before(end.UTC().Add(offset(end, zone))) {
			skipped = end.In(zone)
		}
		t = end
	}
}

func offset(t time.Time, zone *time.Location) time.Duration {
	_, seconds := t.In(zone).Zone()
	return time.Duration(seconds) * time.Second
}

// moment is the one instant of a wall time: the first at which it is shown, or the moment after the gap that skips it.
func moment(wall time.Time, zone *time.Location) time.Time {
	shown, skipped := moments(wall, zone)
	if len(shown) == 0 {
		return skipped
	}
	return shown[0]
}

// date is the calendar day of an instant, as midnight of UTC: days are counted there, where each has 24 hours.
func date(t time.Time, zone *time.Location) time.Time {
	y, m, d := t.In(zone).Date()
	return time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
}

func minutesAfter(day time.Time, minutes int) time.Time {
	return day.Add(time.Duration(minutes) * time.Minute)
}
