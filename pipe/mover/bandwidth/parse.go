package bandwidth

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Bounds of what ParseRules takes.
const (
	maxRules   = 4096 // bytes of text
	maxWindows = 64
	minRate    = 1_000   // bytes per second: see the package comment
	maxRate    = 1 << 50 // more than any line
)

// RuleError says which part of the rules is wrong.
type RuleError struct {
	Part   int    // counted from 1
	Text   string // the part
	Word   string // the word in it that is wrong; may be empty
	Reason string
}

func (e *RuleError) Error() string {
	if e.Word == "" {
		return fmt.Sprintf("bandwidth rules, part %d (%q): %s", e.Part, e.Text, e.Reason)
	}
	return fmt.Sprintf("bandwidth rules, part %d (%q): %q: %s", e.Part, e.Text, e.Word, e.Reason)
}

// ParseRules reads rules as people write them: parts with semicolons between them.
//
//	20MB/s
//	20MB/s; mon-fri 08:00-18:00 2MB/s
//	off; mon-fri 8:00-18:00 50Mbit/s session 10Mbit/s connection 5Mbit/s; sat,sun 22:00-06:00 off
//
// A part is [DAYS] [HH:MM-HH:MM] and limits: RATE or "total RATE", "session RATE", "connection RATE", or "off" for none
// at all. A part without days and times is what holds otherwise; there is at most one. Of the others the first that
// contains the moment counts, and what it does not name is not limited in it. A span that ends before it begins goes
// over midnight and belongs to the day on which it begins.
//
// The end of a line is as a semicolon, # and what follows it in its line is a comment, and empty parts are no matter, so
// that rules can stand in a file, one in each line.
//
// Rates are in B/s, kB/s, MB/s, GB/s (thousands), KiB/s, MiB/s, GiB/s (1,024) and kbit/s, Mbit/s, Gbit/s. Empty rules
// limit nothing. Errors are a [*RuleError].
func ParseRules(text string) (Rules, error) {
	if len(text) > maxRules {
		return Rules{}, &RuleError{Part: 1, Reason: fmt.Sprintf("%d bytes of rules, at most %d", len(text), maxRules)}
	}
	var rules Rules
	based := false
	for i, part := range parts(text) {
		p := parser{err: RuleError{Part: i + 1, Text: part}, words: strings.Fields(part)}
		w, timed, err := p.part()
		switch {
		case err != nil:
			return Rules{}, err
		case timed && len(rules.Windows) == maxWindows:
			return Rules{}, p.wrong("", fmt.Sprintf("more than %d time windows", maxWindows))
		case timed:
			rules.Windows = append(rules.Windows, w)
		case based:
			return Rules{}, p.wrong("", "a second part without days and times")
		default:
			rules.Limits, based = w.Limits, true
		}
	}
	return rules, nil
}

// ParseFile reads the rules of a file. Other than for [ParseRules], one in which no rule stands is an error: whoever saves
// a file may empty it first, and that is not to lift all limits. A limit that is to go is written "off".
func ParseFile(text string) (Rules, error) {
	rules, err := ParseRules(text)
	if err == nil && len(parts(text)) == 0 {
		err = &RuleError{Part: 1, Reason: `no rule stands there; ` + noLimit}
	}
	return rules, err
}

// parts are the parts of rules that are not empty, without comments.
func parts(text string) (list []string) {
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		for part := range strings.SplitSeq(line, ";") {
			if part = strings.TrimSpace(part); part != "" {
				list = append(list, part)
			}
		}
	}
	return list
}

// noLimit goes with every error whose cause may be that somebody looked for this word.
const noLimit = `no limit is written "off"`

// parser reads the words of one part.
type parser struct {
	words []string
	err   RuleError
}

func (p *parser) wrong(word, reason string) error {
	e := p.err
	e.Word, e.Reason = word, reason
	return &e
}

func (p *parser) next() string {
	if len(p.words) == 0 {
		return ""
	}
	w := p.words[0]
	p.words = p.words[1:]
	return w
}

func (p *parser) peek() string {
	if len(p.words) == 0 {
		return ""
	}
	return p.words[0]
}

// part is one whole part; timed: it has days or a span.
func (p *parser) part() (w Window, timed bool, err error) {
	if looksLikeDays(p.peek()) {
		if w.Days, err = p.days(p.next()); err != nil {
			return Window{}, false, err
		}
		timed = true
	}
	if looksLikeSpan(p.peek()) {
		if w.From, w.To, err = p.span(p.next()); err != nil {
			return Window{}, false, err
		}
		timed = true
	}
	w.Limits, err = p.limits()
	return w, timed, err
}

var dayNames = [7]string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

func dayOf(name string) (time.Weekday, bool) {
	for i, n := range dayNames {
		if strings.EqualFold(n, name) {
			return time.Weekday(i), true
		}
	}
	return 0, false
}

// looksLikeDays: the word begins with the name of a day, or of what could have been meant as one.
func looksLikeDays(word string) bool {
	switch strings.ToLower(word) {
	case "", "off", "total", "session", "connection":
		return false
	}
	return word[0] < '0' || word[0] > '9'
}

// days is a list of days and ranges of days: mon,wed,fri-sun.
func (p *parser) days(word string) (d Days, err error) {
	if strings.EqualFold(word, "daily") {
		return everyDay, nil
	}
	for _, item := range strings.Split(word, ",") {
		first, last, ranged := strings.Cut(item, "-")
		if !ranged {
			last = first
		}
		from, ok := dayOf(first)
		to, ok2 := dayOf(last)
		if !ok || !ok2 {
			return 0, p.wrong(word, "days are written sun, mon, tue, wed, thu, fri, sat, as mon-fri or sat,sun, or daily; "+noLimit)
		}
		for day := from; ; day = (day + 1) % 7 {
			d |= On(day)
			if day == to {
				break
			}
		}
	}
	return d, nil
}

// looksLikeSpan: the word is a span, or could have been meant as one, as 8-18 is. Rates have neither sign.
func looksLikeSpan(word string) bool { return word != "" && strings.ContainsAny(word, ":-") }

// span is HH:MM-HH:MM.
func (p *parser) span(word string) (from, to Minute, err error) {
	a, b, ok := strings.Cut(word, "-")
	if !ok || !strings.Contains(word, ":") {
		return 0, 0, p.wrong(word, "a span of time is written with hours and minutes, 08:00-18:00")
	}
	if from, ok = minuteOf(a); !ok || from == fullDay {
		return 0, 0, p.wrong(word, fmt.Sprintf("%q is no time from 00:00 to 23:59", a))
	}
	if to, ok = minuteOf(b); !ok {
		return 0, 0, p.wrong(word, fmt.Sprintf("%q is no time from 00:00 to 24:00", b))
	}
	if from == to {
		return 0, 0, p.wrong(word, "it ends where it begins; the whole day is 00:00-24:00")
	}
	return from, to, nil
}

// minuteOf reads HH:MM; one digit of the hour is enough.
func minuteOf(s string) (Minute, bool) {
	h, m, ok := strings.Cut(s, ":")
	if !ok || len(h) < 1 || len(h) > 2 || len(m) != 2 {
		return 0, false
	}
	hours, err := strconv.ParseUint(h, 10, 8)
	minutes, err2 := strconv.ParseUint(m, 10, 8)
	at := Minute(hours*60 + minutes)
	return at, err == nil && err2 == nil && minutes < 60 && at <= fullDay
}

// limits are the words up to the part's end.
func (p *parser) limits() (l Limits, err error) {
	if strings.EqualFold(p.peek(), "off") {
		p.next()
		if rest := p.peek(); rest != "" {
			return Limits{}, p.wrong(rest, `nothing comes after "off"`)
		}
		return Limits{}, nil
	}
	if p.peek() == "" {
		return Limits{}, p.wrong("", "it names no limit")
	}
	for first := true; p.peek() != ""; first = false {
		level := "total"
		if w := p.peek(); w[0] < '0' || w[0] > '9' {
			level = strings.ToLower(p.next())
		} else if !first {
			return Limits{}, p.wrong(w, "only the first rate goes without saying what it limits: total, session or connection")
		}
		if err := p.limit(&l, level); err != nil {
			return Limits{}, err
		}
	}
	return l, nil
}

func (p *parser) limit(l *Limits, level string) error {
	to := map[string]*int64{"total": &l.Total, "session": &l.PerSession, "connection": &l.PerConnection}[level]
	if to == nil {
		return p.wrong(level, "a limit is for total, session or connection; "+noLimit)
	}
	if *to != 0 {
		return p.wrong(level, "it is limited twice")
	}
	rate, err := p.rate()
	*to = rate
	return err
}

// rate is a number and a unit, together or apart.
func (p *parser) rate() (int64, error) {
	word := p.next()
	if word == "" {
		return 0, p.wrong("", "a rate is missing at its end")
	}
	if strings.Trim(word, "0123456789.") == "" {
		word += p.next()
	}
	rate, reason := parseRate(word)
	if reason != "" {
		return 0, p.wrong(word, reason)
	}
	return rate, nil
}

// unit is a unit of rates: so many bits per second each.
type unit struct {
	name string
	bits int64
}

// units are in the order in which String tries them.
var units = []unit{
	{"GiB/s", 8 << 30}, {"GB/s", 8e9}, {"MiB/s", 8 << 20}, {"MB/s", 8e6}, {"KiB/s", 8 << 10}, {"kB/s", 8e3}, {"B/s", 8},
	{"Gbit/s", 1e9}, {"Mbit/s", 1e6}, {"kbit/s", 1e3},
}

// parseRate reads a rate in bytes per second. The reason is empty where it could.
func parseRate(word string) (rate int64, reason string) {
	number := word[:len(word)-len(strings.TrimLeft(word, "0123456789."))]
	name := word[len(number):]
	for _, u := range units {
		if u.name != name {
			continue
		}
		n, ok := thousandths(number)
		switch {
		case !ok:
			return 0, "the number is to be like 20 or 1.5, with at most three decimals"
		case n > math.MaxInt64/u.bits || n*u.bits/8_000 > maxRate:
			return 0, "that is faster than any line"
		case n*u.bits/8_000 < minRate:
			return 0, "that is less than 1 kB/s; " + noLimit
		}
		return n * u.bits / 8_000, ""
	}
	return 0, "the unit is to be one of B/s kB/s MB/s GB/s KiB/s MiB/s GiB/s kbit/s Mbit/s Gbit/s, in this spelling; " + noLimit
}

// thousandths reads a decimal number with up to three decimals, times 1,000.
func thousandths(s string) (int64, bool) {
	whole, decimals, point := strings.Cut(s, ".")
	if len(whole) == 0 || len(whole) > 16 || len(decimals) > 3 || point && decimals == "" {
		return 0, false
	}
	n, err := strconv.ParseUint(whole+(decimals + "000")[:3], 10, 62)
	return int64(n), err == nil
}
