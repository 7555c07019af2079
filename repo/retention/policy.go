package retention

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Rule is why a point stays, or what would have kept it.
type Rule string

// Rules of a policy.
const (
	Last    Rule = "last"
	Hourly  Rule = "hourly"
	Daily   Rule = "daily"
	Weekly  Rule = "weekly"
	Monthly Rule = "monthly"
	Yearly  Rule = "yearly"
	Within  Rule = "within"
	Tag     Rule = "tag"
)

// Rules that hold under every policy.
const (
	Newest   Rule = "newest"   // the newest point of its VM
	Best     Rule = "best"     // all later points are worse
	Hold     Rule = "hold"     // somebody holds it
	Doubtful Rule = "doubtful" // its time is not to be relied on, and the policy goes by time
	Witness  Rule = "witness"  // without it, doubtful points could be taken for right
)

const (
	// All as a number keeps one point of every period, or every point.
	All = math.MaxInt32
	// MaxWithin is the longest duration of a policy, a hundred years.
	MaxWithin = 100 * 366 * 24 * time.Hour

	maxTags     = 64
	maxTagBytes = 256
)

// Policy says what stays. The zero value keeps nothing and is refused wherever it would be used.
type Policy struct {
	// How many points, or periods with points; 0 is no rule, [All] is without end.
	Last, Hourly, Daily, Weekly, Monthly, Yearly int
	// Within keeps what is not more than this older than the last point but one. Whole hours; 0 is no rule.
	Within time.Duration
	// Tags keep points that have one of them, besides what the other rules keep.
	Tags []string
}

// count is a rule that is a number.
type count struct {
	rule Rule
	of   func(*Policy) *int
	help string
}

var counts = []count{
	{Last, func(p *Policy) *int { return &p.Last }, "keep the N newest points"},
	{Hourly, func(p *Policy) *int { return &p.Hourly }, "keep one point in each of the N newest hours that have any"},
	{Daily, func(p *Policy) *int { return &p.Daily }, "keep one point in each of the N newest days that have any"},
	{Weekly, func(p *Policy) *int { return &p.Weekly }, "keep one point in each of the N newest weeks (ISO 8601) that have any"},
	{Monthly, func(p *Policy) *int { return &p.Monthly }, "keep one point in each of the N newest months that have any"},
	{Yearly, func(p *Policy) *int { return &p.Yearly }, "keep one point in each of the N newest years that have any"},
}

// IsZero tells whether nothing was said at all.
func (p Policy) IsZero() bool {
	return p.numbers() == (Policy{}).numbers() && p.Within == 0 && len(p.Tags) == 0
}

func (p Policy) numbers() [6]int {
	return [...]int{p.Last, p.Hourly, p.Daily, p.Weekly, p.Monthly, p.Yearly}
}

// Validate returns a [*PolicyError] for a policy by which nothing may be removed.
func (p Policy) Validate() error {
	keeps := p.Within > 0
	for _, c := range counts {
		n := *c.of(&p)
		if n < 0 || n > All {
			return badPolicy(string(c.rule), fmt.Sprint(n), "is not a number from 0 to 2147483647")
		}
		keeps = keeps || n > 0
	}
	if p.Within < 0 || p.Within > MaxWithin || p.Within%time.Hour != 0 {
		return badPolicy(string(Within), p.Within.String(), "is not a number of whole hours from 0 to a hundred years")
	}
	if err := checkTags(string(Tag), p.Tags); err != nil {
		return err
	}
	if !keeps {
		return &PolicyError{Reason: ErrKeepsNothing.Error(), Err: ErrKeepsNothing}
	}
	return nil
}

// byTime tells whether a rule looks at times, so that doubt about them matters.
func (p Policy) byTime() bool {
	p.Last, p.Tags = 0, nil
	return !p.IsZero()
}

func checkTags(field string, tags []string) error {
	if len(tags) > maxTags {
		return badPolicy(field, fmt.Sprint(len(tags)), "are more than 64 tags")
	}
	for i, tag := range tags {
		if err := checkTag(field, tag); err != nil {
			return err
		}
		if slices.Contains(tags[:i], tag) {
			return badPolicy(field, tag, "stands there twice")
		}
	}
	return nil
}

// checkTag takes what survives being written into a policy's text and read again.
func checkTag(field, tag string) error {
	switch {
	case tag == "" || len(tag) > maxTagBytes:
		return badPolicy(field, tag, "a tag has 1 to 256 bytes")
	case !utf8.ValidString(tag):
		return badPolicy(field, tag, "is not UTF-8")
	case strings.ContainsFunc(tag, func(r rune) bool { return r == ',' || unicode.IsControl(r) }):
		return badPolicy(field, tag, "has a comma or a control character")
	case strings.TrimSpace(tag) != tag:
		return badPolicy(field, tag, "begins or ends with a space")
	}
	return nil
}
