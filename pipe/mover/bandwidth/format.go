package bandwidth

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// String writes rules so that [ParseRules] reads the same again, but for Location.
func (r Rules) String() string {
	parts := []string{r.Limits.String()}
	for _, w := range r.Windows {
		parts = append(parts, w.String())
	}
	return strings.Join(parts, "; ")
}

// String is the limits as a part of rules has them.
func (l Limits) String() string {
	var words []string
	for _, level := range []struct {
		name string
		rate int64
	}{{"", l.Total}, {"session ", l.PerSession}, {"connection ", l.PerConnection}} {
		if level.rate > 0 {
			words = append(words, level.name+rateText(max(level.rate, minRate)))
		}
	}
	if len(words) == 0 {
		return "off"
	}
	return strings.Join(words, " ")
}

// String is one part of rules.
func (w Window) String() string {
	span := fmt.Sprintf("%v-%v", w.From, w.To)
	if w.From == w.To {
		span = fmt.Sprintf("%v-%v", Minute(0), fullDay)
	}
	return fmt.Sprintf("%v %s %v", w.Days, span, w.Limits)
}

// String is the set as rules have it: ranges from Monday on.
func (d Days) String() string {
	d &= everyDay
	if d == 0 || d == everyDay {
		return "daily"
	}
	var items []string
	at := func(i int) bool { return i < 7 && d.has(time.Weekday((i+1)%7)) } // Monday first
	for i := 0; i < 7; i++ {
		if !at(i) {
			continue
		}
		first := i
		for at(i + 1) {
			i++
		}
		item := dayNames[(first+1)%7]
		if i > first {
			item += "-" + dayNames[(i+1)%7]
		}
		items = append(items, item)
	}
	return strings.Join(items, ",")
}

// rateText is a rate in the largest unit that writes it without decimals.
func rateText(rate int64) string {
	best := strconv.FormatInt(rate, 10) + "B/s"
	for _, u := range units[:7] {
		if bytes := u.bits / 8; rate%bytes == 0 {
			if text := strconv.FormatInt(rate/bytes, 10) + u.name; len(text) < len(best) {
				best = text
			}
		}
	}
	return best
}

// MarshalText is String.
func (r Rules) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText is ParseRules; Location stays as it is.
func (r *Rules) UnmarshalText(text []byte) error {
	parsed, err := ParseRules(string(text))
	if err != nil {
		return err
	}
	parsed.Location = r.Location
	*r = parsed
	return nil
}
