package retention

import (
	"fmt"
	"time"
)

const (
	hourSeconds = 3600
	daySeconds  = 24 * hourSeconds
)

// Period is one hour, day, week, month or year of a calendar. Periods are comparable.
type Period struct {
	rule Rule
	// ord orders the periods of a rule. hourly: second of Unix time at which the hour's clock showed minute zero (or would
	// have); daily: days since 1970-01-01; weekly: the same of its Monday; monthly: months since year 0; yearly: the year.
	ord int64
	// offset is hourly's alone: an hour that a clock shows twice is two hours.
	offset int
}

// periodOf names the period that t falls into where the clock shows loc.
func periodOf(rule Rule, t time.Time, loc *time.Location) Period {
	_, offset := t.In(loc).Zone()
	local := t.Unix() + int64(offset)
	day := floorDiv(local, daySeconds)
	switch rule {
	case Hourly:
		return Period{rule, floorDiv(local, hourSeconds)*hourSeconds - int64(offset), offset}
	case Daily:
		return Period{rule: rule, ord: day}
	case Weekly:
		// 1970-01-01 was a Thursday: three days after its Monday.
		return Period{rule: rule, ord: floorDiv(day+3, 7)*7 - 3}
	}
	year, month, _ := time.Unix(day*daySeconds, 0).UTC().Date()
	if rule == Monthly {
		return Period{rule: rule, ord: int64(year)*12 + int64(month) - 1}
	}
	return Period{rule: rule, ord: int64(year)}
}

// before is the order of periods of one rule.
func (p Period) before(q Period) bool {
	if p.ord != q.ord {
		return p.ord < q.ord
	}
	return p.offset > q.offset
}

// String is "2026-11-22 14h +01:00", "2026-11-22", "2026-W47", "2026-11" or "2026".
func (p Period) String() string {
	switch p.rule {
	case Hourly:
		return time.Unix(p.ord, 0).In(time.FixedZone("", p.offset)).Format("2006-01-02 15h -07:00")
	case Daily:
		return time.Unix(p.ord*daySeconds, 0).UTC().Format("2006-01-02")
	case Weekly:
		year, week := time.Unix(p.ord*daySeconds, 0).UTC().ISOWeek()
		return fmt.Sprintf("%04d-W%02d", year, week)
	case Monthly:
		return fmt.Sprintf("%04d-%02d", floorDiv(p.ord, 12), p.ord-floorDiv(p.ord, 12)*12+1)
	case Yearly:
		return fmt.Sprintf("%04d", p.ord)
	}
	return ""
}

// floorDiv rounds down, also below zero: 1969 has hours and weeks like any other year.
func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}
